"""`koemorph prune`, `compress` and `decompress`: fewer files, and fewer bytes for the same numbers."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from koemorph_tutorial.commands.arguments import Commands, add_command, add_json, one_of, whole
from koemorph_tutorial.commands.outcome import DONE, UNUSABLE, show, unusable
from koemorph_tutorial.records import SUFFIXES
from koemorph_tutorial.text import count, cut, json_text, printable, size

if TYPE_CHECKING:
    from koemorph_tutorial.commands.keeping import Keeping
    from koemorph_tutorial.plans import Plan

_PRUNE = """\
Remove numbered checkpoints of a run that need not stay, and say of each why. The newest, the best, the milestones and,
if asked for, every n-th epoch stay; best_model.pth, last_model.pth, the newest sound file, another run's files and
whatever this library does not know are never removed.

How many stay, the milestones, and what is best are taken from the run's own settings (its config.yaml, or what its
newest checkpoint says), else the defaults; what is given here counts more.
"""
_COMPRESS = """\
Make a checkpoint smaller. Not a bit of it is lost: load, resume, inspect, validate and diff read the result as it is,
and decompress gives the very same file back. Only --for-inference drops something: all that training alone needs.

codecs: shuffle-zstd (the default) sorts the bytes of the numbers first, so it is the smallest and the fastest; gzip and
zstd make what gunzip and unzstd read.
"""
_COMPRESS_EXAMPLES = """\
examples:
  koemorph compress FILE.pth                          write FILE.shuffle.pth beside it
  koemorph compress FILE.pth --codec gzip --replace   write FILE.pth.gz, compare it with FILE.pth, remove that
  koemorph compress FILE.pth --for-inference --bf16   the weights alone, in halves: to use, not to train on
  koemorph compress DIR --older-than 5                replace all but the newest 5 numbered checkpoints of a run; never
                                                      what best_model.pth and last_model.pth are
"""
_DECOMPRESS = """\
Write the .pth that a compressed checkpoint was made of: the same bytes, every one of them checked.
"""


def add(commands: Commands) -> None:
    """Add the three commands."""
    prune = add_command(commands, "prune", _prune, "remove checkpoints that need not stay", _PRUNE)
    prune.add_argument("directory", metavar="DIR", type=Path, help="a run's folder, or its folder of checkpoints")
    prune.add_argument("--keep-last-n", metavar="N", type=whole(2), help="the newest N numbered files stay")
    prune.add_argument("--keep-best-n", metavar="N", type=whole(0), help="and the N best of them")
    prune.add_argument("--keep-every-n", metavar="N", type=whole(1), help="and those of every N-th epoch")
    prune.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    add_json(prune, "every file, with the reasons")

    compress = add_command(commands, "compress", _compress, "make checkpoints smaller", _COMPRESS, _COMPRESS_EXAMPLES)
    compress.add_argument("path", metavar="PATH|DIR", type=Path, help="a checkpoint file; with --older-than a run")
    compress.add_argument(
        "--codec", metavar="|".join(SUFFIXES), type=one_of(*SUFFIXES), default="shuffle-zstd", help="how to pack it"
    )
    compress.add_argument("--for-inference", action="store_true", help="the weights and what describes them alone")
    compress.add_argument("--bf16", action="store_true", help="and the weights as bfloat16: half the bytes, rounded")
    compress.add_argument("--older-than", metavar="N", type=whole(0), help="of a run, all but the newest N numbers")
    _add_output(compress)

    decompress = add_command(commands, "decompress", _decompress, "get the .pth back", _DECOMPRESS)
    decompress.add_argument("path", metavar="PATH", type=Path, help="a compressed checkpoint file")
    _add_output(decompress)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, help="what to write (default: a name beside PATH)")
    parser.add_argument("--replace", action="store_true", help="remove PATH once the new file was compared with it")


def _prune(options: argparse.Namespace) -> int:
    from koemorph_tutorial.commands.keeping import keeping_of
    from koemorph_tutorial.retention import prune_checkpoints

    folder = options.directory
    folder = folder / "checkpoints" if os.path.isdir(folder / "checkpoints") else folder
    keeping = keeping_of(folder).asked(options.keep_last_n, options.keep_best_n, options.keep_every_n)
    if not options.json:
        show([f"{folder}: {keeping}"])
    plan = prune_checkpoints(
        folder,
        keep_last_n=keeping.settings.keep_last_n,
        keep_best_n=keeping.settings.keep_best_n,
        keep_every_n=keeping.every_n,
        milestones=keeping.settings.milestones,
        best=keeping.best,
        dry_run=options.dry_run,
    )
    show([_as_json(folder, keeping, plan, options.dry_run)] if options.json else _as_lines(plan, options.dry_run))
    refused = [
        f"{item.file.path}: {why}"
        for item in plan.files
        for why in item.reasons
        if why.startswith("could not be removed")
    ]
    for message in refused:
        unusable(message)
    return UNUSABLE if refused else DONE


_SPARED = ("stays: ", "could not be removed", "the newest sound file", "the newest that may be sound")


def _as_lines(plan: Plan, dry_run: bool) -> list[str]:
    """Return a line for each file that goes or was spared, what stays in short, and the sum."""
    lines = [
        item.line() for item in plan.files if not item.keep or any(why.startswith(_SPARED) for why in item.reasons)
    ]
    lines += [f"note: {printable(note, 500)}" for note in plan.notes]
    kept = [item.file for item in plan.files if item.keep]
    stays = [file.path.name for file in kept if file.kind != "numbered"]
    epochs = {file.epoch for file in kept if file.kind == "numbered"}
    stays += [f"epoch{'s' * (len(epochs) > 1)} {', '.join(_ranges(epochs))}"] if epochs else []
    lines.append(f"what stays, {size(plan.bytes_kept)}: {cut(', '.join(stays), 1000)}")
    removed, freed = len(plan.removed), f"{size(plan.bytes_freed)} ({plan.bytes_freed:,} bytes)"
    if not removed:
        lines.append("nothing is to be removed")
    elif dry_run:
        lines.append(f"would remove {count(removed, 'file')} and free {freed}; nothing was removed")
    else:
        lines.append(f"removed {count(removed, 'file')}, freed {freed}")
    return lines


def _ranges(numbers: set[int]) -> Iterator[str]:
    """Yield numbers in their order, three and more that follow each other as a range."""
    for _, group in groupby(enumerate(sorted(numbers)), key=lambda pair: pair[1] - pair[0]):
        first, *others = (number for _, number in group)
        if len(others) > 1:
            yield f"{first} to {others[-1]}"
        else:
            yield from map(str, (first, *others))


def _as_json(folder: Path, keeping: Keeping, plan: Plan, dry_run: bool) -> str:
    import json

    asked = {"directory": printable(str(folder), 1000), "dry_run": dry_run, "rules": keeping.as_plain()}
    return json_text({**asked, **json.loads(plan.to_json())})


def _compress(options: argparse.Namespace) -> int:
    why = _why_not(options)
    if why:
        return unusable(f"compress: {why}")
    if options.older_than is not None:
        return _compress_older(options)
    from koemorph_tutorial.compressed_files import compress_checkpoint

    before = _size(options.path)
    written = compress_checkpoint(
        options.path,
        codec=options.codec,
        for_inference=options.for_inference,
        bf16=options.bf16,
        output=options.output,
        replace=options.replace,
    )
    show([_made(written, options.path, before)])
    return DONE


def _why_not(options: argparse.Namespace) -> str:
    """Say why what `compress` was given does not go together; "" if it does."""
    path = printable(str(options.path), 1000)
    if options.bf16 and not options.for_inference:
        return "--bf16: it rounds the weights, so it goes only with --for-inference"
    if options.for_inference and options.replace:
        return "--replace: --for-inference leaves out what training needs, so the whole file stays; leave one out"
    if options.older_than is None:
        if os.path.isdir(options.path):
            return (
                f"{path}: a folder: name a file, or say by --older-than N how many of its newest numbered checkpoints "
                "stay as they are"
            )
        return ""
    if not os.path.isdir(options.path):
        return f"--older-than: expected a run's folder, found {path}, which is none; leave it out for one file"
    for name in ("for_inference", "bf16", "output", "replace"):
        if getattr(options, name):
            given = "--" + name.replace("_", "-")
            return f"{given}: --older-than replaces each file by the whole of it, compressed; leave one out"
    return ""


def _compress_older(options: argparse.Namespace) -> int:
    from koemorph_tutorial.compressed_files import compress_older

    done = compress_older(
        options.path, options.older_than, codec=options.codec, on_file=lambda file: show([printable(str(file), 1000)])
    )
    made = [file for file in done if file.output is not None]
    if made:
        before, after = sum(file.before for file in made), sum(file.after for file in made)
        share = f"{100 * after / before:.3g} %" if before else "all"
        show([f"compressed {count(len(made), 'file')}: {size(after)}, {share} of {size(before)}"])
    else:
        show(["nothing is to be compressed"])
    return DONE


def _decompress(options: argparse.Namespace) -> int:
    from koemorph_tutorial.compressed_files import decompress_checkpoint

    if os.path.isdir(options.path):
        path = printable(str(options.path), 1000)
        return unusable(f"decompress: {path}: expected a compressed checkpoint file, found a folder; name a file")
    before = _size(options.path)
    written = decompress_checkpoint(options.path, output=options.output, replace=options.replace)
    show([_made(written, options.path, before)])
    return DONE


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):  # the one who opens it says what is wrong
        return 0


def _made(written: Path, path: Path, before: int) -> str:
    """Say what was made of a file, how large it is, and whether that is gone."""
    after = _size(written)
    share = f", {100 * after / before:.3g} % of {printable(path.name)}" if before else ""
    gone = "" if os.path.lexists(path) else ", which was removed"
    return f"wrote {printable(str(written), 1000)}: {size(after)}{share}{gone}"
