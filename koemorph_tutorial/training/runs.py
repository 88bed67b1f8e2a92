"""Where runs live: ``outputs/<date>/<time>/`` with ``config.yaml`` and ``checkpoints/``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from koemorph_tutorial.directory import is_used
from koemorph_tutorial.records import CheckpointNotFoundError, UsedDirectoryError
from koemorph_tutorial.resume import find

OUTPUTS = Path("outputs")
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True)
class RunToResume:
    """A run's folder, what to resume in it ("auto" or a file), and the file that its config was stored in."""

    run_dir: Path
    source: Path | str
    file: Path
    config: Mapping[str, Any]


def new_run_dir(outputs: Path = OUTPUTS) -> Path:
    """Return a folder for a run that begins now, in local time; another one if that is there already."""
    now = datetime.now().astimezone()
    first = outputs / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}"
    candidate, number = first, 1
    while candidate.exists():
        number += 1
        candidate = first.with_name(f"{first.name}-{number}")
    return candidate


def refuse_used(run_dir: Path) -> None:
    """Refuse to begin a run where the checkpoints of another one lie; call it before anything is written.

    Raises:
        UsedDirectoryError: names both ways out.
    """
    if is_used(run_dir / CHECKPOINTS):
        raise UsedDirectoryError(
            f"{run_dir}: expected an unused folder for a new run, found the checkpoints of another one; go on with it "
            f"by --resume auto --run-dir {run_dir}, or name a new folder"
        )


def find_run(resume: str, run_dir: Path | None, outputs: Path = OUTPUTS) -> RunToResume:
    """Find what ``--resume`` and ``--run-dir`` mean together.

    "auto" is the run in `run_dir`, else the youngest under `outputs`, by the date and time in its name. A path is a
    checkpoint file, a run's folder or its folder of checkpoints; with another `run_dir` the run branches there.

    Raises:
        CheckpointError: no run there, no sound checkpoint, or nowhere to write.
    """
    if resume == "auto":
        folder = run_dir or _youngest(outputs)
        if not is_used(folder / CHECKPOINTS):
            raise CheckpointNotFoundError(
                f"{folder}: expected a run with checkpoints, found none; begin it without --resume"
            )
        found = find(folder / CHECKPOINTS)
        stored = found.checkpoint.get("config", {})
        return RunToResume(run_dir=folder, source="auto", file=found.file.path, config=stored)

    path = Path(resume)
    if (path / CHECKPOINTS).is_dir():
        path = path / CHECKPOINTS
    found = find(path)
    folder = found.file.path.parent
    in_place = run_dir is None or (run_dir / CHECKPOINTS).resolve() == folder.resolve()
    if run_dir is None and folder.name != CHECKPOINTS:
        raise CheckpointNotFoundError(
            f"{resume}: expected a file in the {CHECKPOINTS}/ of a run, found it in {folder}; name a folder for the "
            "run that goes on from it by --run-dir"
        )
    return RunToResume(
        run_dir=run_dir or folder.parent,
        source="auto" if in_place and path.is_dir() else found.file.path,
        file=found.file.path,
        config=found.checkpoint.get("config", {}),
    )


def _youngest(outputs: Path) -> Path:
    runs = [path.parent for path in outputs.glob(f"*/*/{CHECKPOINTS}") if is_used(path)] if outputs.is_dir() else []
    if not runs:
        raise CheckpointNotFoundError(
            f"{outputs}: expected a run with checkpoints to go on with, found none; begin one without --resume"
        )
    return max(runs, key=lambda run: (run.parent.name, _order(run.name)))


def _order(name: str) -> tuple[str, int]:
    """Order ``19-20-14`` before ``19-20-14-2``, the second run of that second, and that before ``19-20-14-10``."""
    time, _, number = name[:8], name[8:9], name[9:]
    return time, int(number) if number.isdecimal() else 1
