"""The example leaves PyTorch: a checkpoint's model, compared on a voice that no training has heard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from koemorph_tutorial.export import export_onnx, export_safetensors, export_torchscript, verify_export
from koemorph_tutorial.exporting.receipt import SUFFIXES, Format, Receipt
from koemorph_tutorial.records import PathLike, split_codec
from koemorph_tutorial.training.dataset import cut_windows, make_split
from koemorph_tutorial.training.evaluation import Built, build_from
from koemorph_tutorial.training.settings import DataConfig
from koemorph_tutorial.training.voices import SAMPLE_RATE, make_voice

FREE = {"audio": {0: "batch", 1: "samples"}}
_SHAPES = ((5, 16_000), (1, 32_000))  # of voice, beside its windows: (batch, samples)


def export_checkpoint(
    path: PathLike,
    format: Format,  # noqa: A002  the word of the command line
    output: PathLike | None = None,
    *,
    weights: str = "model",
    force: bool = False,
) -> Receipt:
    """Export the example's model from a checkpoint, beside it if no `output` is given, and return the receipt.

    Raises:
        CheckpointError: no sound checkpoint of this model, or an output that cannot be. ConfigError: as
            `evaluate_checkpoint`.
    """
    built = build_from(path, weights)
    source = built.file.path
    name = Path(split_codec(source.name)[0]).stem + SUFFIXES[format]
    target = Path(output) if output is not None else source.with_name(name)
    common: dict[str, Any] = {"source": source, "force": force}
    if format == "safetensors":
        return export_safetensors(built.model, target, **common)
    example, cases = voices(built.config.data)
    common |= {"cases": cases, "free": FREE}
    if format == "torchscript":
        return export_torchscript(built.model, target, example_inputs=example, tolerance=0.0, **common)
    return export_onnx(built.model, example, target, output_names=["blendshapes"], **common)


def verify_checkpoint(path: PathLike, exported: PathLike, *, weights: str = "model") -> Receipt:
    """Compare an exported file with the example's model in a checkpoint, and return the receipt.

    Raises:
        CheckpointError: as `export_checkpoint`, or an exported file that cannot be read.
    """
    built: Built = build_from(path, weights)
    example, cases = voices(built.config.data)
    return verify_export(built.model, exported, example, cases=cases, free=FREE, source=built.file.path)


def voices(config: DataConfig) -> tuple[Tensor, list[tuple[Tensor]]]:
    """Return two windows of the test voice as an example, (2, samples), and more of it to compare on.

    Those are one window, all windows of the split, five stretches of a second and one of two; for them a speaker who
    talks less than that talks longer.
    """
    windows = make_split(config, "test").tensors[0]
    cases = [(windows[:1],), (windows,)]
    for batch, samples in _SHAPES:
        seconds = max(config.seconds, (batch + 1) * samples / SAMPLE_RATE)
        voice = make_voice(config.test_speakers[0], seconds=seconds, seed=config.seed)
        cases.append((cut_windows(voice, batch, samples)[0],))
    return windows[:2], cases
