"""What to keep: records -> a plan with a reason per file; then carry it out.

Only numbered files are ever planned away, compressed ones like plain ones. `best_model.pth`, `last_model.pth`, files of
other runs and files that this library does not know are never touched.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from .lock import hold
from .plans import Later, Plan, PlannedFile
from .records import (
    BEST_NAME,
    LAST_NAME,
    Best,
    CheckpointError,
    CheckpointFile,
    CheckpointNotFoundError,
    CheckpointSettings,
    PathLike,
    kind_of,
)
from .removal import carry_out, spare_newest_sound
from .storage import KIND_ORDER, describe, is_sound, list_checkpoints
from .survey import Survey, survey
from .text import every, printable

__all__ = ["Plan", "PlannedFile", "carry_out", "cleanup_old_checkpoints", "plan_retention", "prune_checkpoints"]


def plan_retention(
    files: Sequence[CheckpointFile],
    *,
    keep_last_n: int | None,
    keep_best_n: int = 1,
    keep_every_n: int | None = None,
    milestones: Sequence[int] = (),
    best: Best | None = None,
) -> Plan:
    """Plan which of a run's `files` stay: the union of the newest, the best, the milestones and every n-th epoch.

    Newest is what was saved last in the run, not what the clock or the highest number says. A file whose monitored
    value is not finite does not count as one of the newest `keep_last_n`, and stays while it is among the newest
    `keep_last_n` of all. `best` gives monitor and mode (None: loss, min); `keep_last_n=None` keeps all. Pure: no byte
    is touched, and the order of `files` does not matter.

    Raises:
        ValueError: `keep_last_n` below 2, which could leave one physical copy and no older one; `keep_best_n` below 0
            or `keep_every_n` below 1; anything that is no whole number.

    >>> print(plan_retention([], keep_last_n=3))
    keep 0 files, remove 0, free 0 bytes
    """
    best = best or Best()
    # One place knows what may be asked for.
    CheckpointSettings(
        keep_last_n=keep_last_n,
        keep_best_n=keep_best_n,
        milestones=tuple(milestones),
        monitor=best.monitor,
        mode=best.mode,
    )
    if keep_every_n is not None and (type(keep_every_n) is not int or keep_every_n < 1):
        raise ValueError(f"keep_every_n: expected a whole number of epochs from 1, or null, found {keep_every_n!r}")
    files = sorted(files, key=lambda f: (f.saves, KIND_ORDER[f.kind], f.epoch, f.codec is None, f.path), reverse=True)
    numbered = [file for file in files if file.kind == "numbered"]
    finite = [file for file in numbered if _is_finite(file, best)]
    # Among equals the earlier epoch is the best one, as in Best.
    sign = 1 if best.mode == "min" else -1
    ranked = sorted(
        (file for file in finite if best.monitor in file.metrics),
        key=lambda f: (sign * f.metrics[best.monitor], f.epoch, f.path),
    )
    always = set(milestones)

    reasons: dict[Path, list[str]] = {file.path: [] for file in files}
    for file in finite[:keep_last_n]:
        reasons[file.path].append("all are kept" if keep_last_n is None else f"one of the newest {keep_last_n}")
    for file in numbered[:keep_last_n]:
        if not _is_finite(file, best):
            among = "all are kept" if keep_last_n is None else f"among the newest {keep_last_n}"
            reasons[file.path].append(f"{among}, though its {best.monitor} is not finite")
    for file in numbered[:1]:
        reasons[file.path].append("the newest")
    for file in ranked[:keep_best_n]:
        reasons[file.path].append("the best" if keep_best_n == 1 else f"one of the best {keep_best_n}")
    for file in numbered:
        if file.epoch in always:
            reasons[file.path].append("a milestone")
        if keep_every_n is not None and file.epoch % keep_every_n == 0:
            reasons[file.path].append(every(keep_every_n))
    for file in files:
        if file.kind != "numbered":
            reasons[file.path].append(f"{file.kind} is never removed")

    held = {file.inode for file in files if reasons[file.path]}
    items = []
    for file in reversed(files):  # of the names that go the newest is removed first, so the oldest frees the bytes
        why = reasons[file.path]
        gone = _older(keep_last_n) if _is_finite(file, best) else f"its {best.monitor} is not finite"
        frees = 0 if file.inode in held else file.size
        held.add(file.inode)
        items.append(PlannedFile(file=file, keep=bool(why), reasons=tuple(why) or (gone,), frees=frees))
    return Plan(files=tuple(reversed(items)))


def _is_finite(file: CheckpointFile, best: Best) -> bool:
    return math.isfinite(file.metrics.get(best.monitor, 0.0))  # one that has none is not to blame


def _older(keep_last_n: int | None) -> str:
    return f"older than the newest {keep_last_n}"


def prune_checkpoints(
    directory: PathLike,
    *,
    keep_last_n: int | None = 10,
    keep_best_n: int = 1,
    keep_every_n: int | None = None,
    milestones: Sequence[int] = (),
    best: Best | None = None,
    dry_run: bool = False,
) -> Plan:
    """Remove the numbered checkpoints of a run that `plan_retention` would not keep; return what was done.

    `directory` is the run's folder, or its folder of checkpoints. The newest sound file stays whatever the rules say.
    `dry_run` only plans, and touches nothing. With `keep_best_n=0` names say which files go (see `survey`): then a plan
    is there at once, however many they are, and asks for their sizes when its files are first looked at.

    Raises:
        CheckpointNotFoundError: no such directory, or no checkpoint of a run in it.
        DirectoryLockedError: another process writes there.
        ValueError: as `plan_retention`.
    """
    rules = _Rules(
        keep_last_n=keep_last_n,
        keep_best_n=keep_best_n,
        keep_every_n=keep_every_n,
        milestones=tuple(milestones),
        best=best or Best(),
    )
    rules.plan([])  # refused before anything is looked at
    folder = _folder_of_run(directory)
    with nullcontext() if dry_run else hold(folder):  # planned only now: until now another process may have written
        named = _by_names(folder, rules)
        if named is None:
            return carry_out(_by_headers(folder, rules), dry_run=dry_run)
        plan, seen = named
        return plan if dry_run else carry_out(plan, look=seen.objection)


def cleanup_old_checkpoints(
    directory: PathLike, keep_n: int = 10, *, keep_best_n: int = 1, dry_run: bool = False
) -> Plan:
    """Keep the newest `keep_n` numbered checkpoints of a run and the `keep_best_n` best; remove the others.

    The newest sound file stays in any case. `dry_run` only plans.

    Raises:
        CheckpointNotFoundError, DirectoryLockedError: as `prune_checkpoints`.
        ValueError: `keep_n` below 2.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from koemorph_tutorial import save_checkpoint
    >>> folder = Path(tempfile.mkdtemp())
    >>> for epoch in range(4):
    ...     _ = save_checkpoint({"epoch": epoch}, folder / f"checkpoint_epoch_{epoch:03d}.pth")
    >>> _ = cleanup_old_checkpoints(folder, 2)
    >>> sorted(file.name for file in folder.glob("*.pth"))
    ['checkpoint_epoch_002.pth', 'checkpoint_epoch_003.pth']
    """
    if type(keep_n) is not int or keep_n < 2:
        raise ValueError(f"keep_n: expected 2 or more, found {keep_n!r}")
    return prune_checkpoints(directory, keep_last_n=keep_n, keep_best_n=keep_best_n, dry_run=dry_run)


@dataclass(frozen=True, kw_only=True)
class _Rules:
    keep_last_n: int | None
    keep_best_n: int
    keep_every_n: int | None
    milestones: tuple[int, ...]
    best: Best

    def plan(self, files: Sequence[CheckpointFile]) -> Plan:
        return plan_retention(files, **vars(self))

    def stay(self, epochs: Sequence[int]) -> set[int]:
        """Say which of the epochs of a run, newest first, stay whatever their files hold."""
        every = self.keep_every_n
        return {*epochs[: self.keep_last_n], *self.milestones, *(e for e in epochs if every and e % every == 0)}


def _folder_of_run(directory: PathLike) -> Path:
    folder = Path(directory)
    found = "none by the names of this library"
    try:
        if os.path.isdir(folder / "checkpoints"):
            folder = folder / "checkpoints"
        names = [LAST_NAME, BEST_NAME, *os.listdir(folder)]
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise CheckpointNotFoundError(
            f"{printable(str(folder), 1000)}: expected a directory of checkpoints, found: "
            f"{getattr(error, 'strerror', None) or error}; check the path"
        ) from None
    for at, name in enumerate(names):
        if kind_of(name) != "other":
            try:
                describe(folder / name)
            except CheckpointError as error:
                if at > 1:
                    found = f"none that can be read ({name}: {str(error).removeprefix(f'{folder / name}: ')})"
            else:
                return folder
    raise CheckpointNotFoundError(f"{folder}: expected the checkpoints of a run, found {found}; nothing was removed")


def _by_names(folder: Path, rules: _Rules) -> tuple[Plan, Survey] | None:
    """Plan without the headers of what goes; None where names do not tell enough."""
    if rules.keep_last_n is None or rules.keep_best_n > 0:
        return None
    seen = survey(folder, rules.stay)
    if seen is None or not is_sound(seen.kept[0]):
        return None
    kept = rules.plan(seen.kept)
    if kept.removed or not all(_is_finite(file, rules.best) for file in seen.kept if file.kind == "numbered"):
        return None

    def files() -> list[PlannedFile]:
        why = (_older(rules.keep_last_n),)
        going = [PlannedFile(file=file, keep=False, reasons=why, frees=frees) for file, frees in seen.records()]
        return sorted([*kept.files, *going], key=lambda i: (i.file.epoch, KIND_ORDER[i.file.kind]), reverse=True)

    notes = ["planned from names; each file is looked into right before it goes, and stays if it is another than named"]
    notes += [f"{name} stays: not a name that this library writes" for name in seen.unknown]
    return Plan(files=Later(files), notes=tuple(notes)), seen


def _by_headers(folder: Path, rules: _Rules) -> Plan:
    """Plan with the headers of all files, and keep the newest sound one as well if the rules would not."""
    listing = list_checkpoints(folder)
    notes = [f"{name} stays: {str(error).removeprefix(f'{folder / name}: ')}" for name, error in listing.ignored]
    if not listing:
        found = f"none that can be used ({notes[0]})" if notes else "none"
        raise CheckpointNotFoundError(
            f"{folder}: expected the checkpoints of a run, found {printable(found, 500)}; nothing was removed"
        )
    plan = spare_newest_sound(rules.plan(listing))
    return replace(plan, notes=(*notes, *plan.notes))
