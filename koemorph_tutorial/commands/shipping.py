"""`koemorph export`: the example's model out of a checkpoint, with a receipt; or whether a file is that model."""

from __future__ import annotations

import argparse
from pathlib import Path

from koemorph_tutorial.commands.arguments import Commands, add_command, add_json, one_of
from koemorph_tutorial.commands.outcome import DONE, NO, show, unusable

_EXPORT = """\
Export the example's model from a checkpoint, ask the file in its own runtime, compare the answers with PyTorch's on a
voice that no training has heard, and print the receipt; it lies beside the file as JSON.

A file whose answers differ is kept as NAME.parity-failed.SUFFIX, and the exit code is 1. With --verify nothing is
written: a file that is there already is compared with the checkpoint.
"""
_EXAMPLES = """\
examples:
  koemorph export best_model.pth --format onnx                  writes best_model.onnx and its receipt
  koemorph export best_model.pth --format safetensors -o w.safetensors
  koemorph export best_model.pth --verify shipped.onnx          is that file this model?
"""


def add(commands: Commands) -> None:
    """Add the command."""
    export = add_command(
        commands, "export", _export, "write a model for other runtimes, and prove it", _EXPORT, _EXAMPLES
    )
    export.add_argument("path", metavar="PATH", type=Path, help="a checkpoint file, or a folder: its newest sound one")
    what = export.add_mutually_exclusive_group(required=True)
    formats = one_of("onnx", "torchscript", "safetensors")
    what.add_argument("--format", metavar="FORMAT", type=formats, help="onnx, torchscript or safetensors")
    what.add_argument("--verify", metavar="FILE", type=Path, help="compare this exported file, and write nothing")
    export.add_argument("-o", "--output", metavar="OUT", type=Path, help="the file to write (default: beside PATH)")
    export.add_argument(
        "--weights", metavar="NAME", default="model", help="which weights of the file: model (default), or ema"
    )
    export.add_argument("--force", action="store_true", help="write over a file that is there")
    add_json(export, "the receipt")


def _export(options: argparse.Namespace) -> int:
    from koemorph_tutorial.training.settings import ConfigError
    from koemorph_tutorial.training.shipping import export_checkpoint, verify_checkpoint

    if options.verify is not None and (options.output is not None or options.force):
        return unusable("--verify writes nothing; leave out -o and --force")
    try:
        if options.verify is not None:
            receipt = verify_checkpoint(options.path, options.verify, weights=options.weights)
        else:
            receipt = export_checkpoint(
                options.path, options.format, options.output, weights=options.weights, force=options.force
            )
    except ConfigError as error:
        return unusable(f"{options.path}: its config cannot be used: {error}")
    show([receipt.to_json()] if options.json else receipt.lines())
    return DONE if receipt.ok else NO
