"""What to keep: records -> a plan with a reason per file; then carry it out.

Only numbered files are ever planned away. `best_model.pth`, `last_model.pth`, files of other runs and files that this
library does not know are never touched.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .lock import hold
from .records import Best, CheckpointFile
from .storage import PathLike, list_checkpoints

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """One file of a plan: does it stay, and why."""

    file: CheckpointFile
    keep: bool
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{'keep' if self.keep else 'remove'} {self.file.path.name}: {', '.join(self.reasons)}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What stays and what goes, newest first; `bytes_freed` counts bytes once however many names they have."""

    files: tuple[PlannedFile, ...] = ()

    @property
    def removed(self) -> tuple[Path, ...]:
        """The paths that go."""
        return tuple(item.file.path for item in self.files if not item.keep)

    @property
    def bytes_freed(self) -> int:
        """The bytes that no name holds any more once the plan is carried out."""
        kept = {item.file.inode for item in self.files if item.keep}
        freed = {item.file.inode: item.file.size for item in self.files if not item.keep}
        return sum(size for inode, size in freed.items() if inode not in kept)

    def __str__(self) -> str:
        kept = len(self.files) - len(self.removed)
        return f"keep {kept} files, remove {len(self.removed)}, free {self.bytes_freed:,} bytes"


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

    A file whose monitored value is not finite is sound but does not count as one of the newest `keep_last_n`. `best`
    gives monitor and mode (None: loss, min); `keep_last_n=None` keeps all. Pure: no byte is touched.

    Raises:
        ValueError: `keep_last_n` below 2, which could leave one physical copy and no older one; `keep_best_n` below 0
            or `keep_every_n` below 1.
    """
    if keep_last_n is not None and keep_last_n < 2:
        raise ValueError(f"keep_last_n: expected 2 or more, or None to keep all, found {keep_last_n}")
    if keep_best_n < 0:
        raise ValueError(f"keep_best_n: expected 0 or more, found {keep_best_n}")
    if keep_every_n is not None and keep_every_n < 1:
        raise ValueError(f"keep_every_n: expected 1 or more, or None, found {keep_every_n}")
    best = best or Best()
    reasons: dict[Path, list[str]] = {file.path: [] for file in files}
    numbered = sorted((f for f in files if f.kind == "numbered"), key=lambda f: (f.saves, f.epoch), reverse=True)
    finite = [f for f in numbered if math.isfinite(f.metrics.get(best.monitor, 0.0))]
    sign = 1 if best.mode == "min" else -1
    # Among equals the earlier epoch is the best one, as in Best.
    ranked = sorted(
        (f for f in finite if best.monitor in f.metrics), key=lambda f: (sign * f.metrics[best.monitor], f.epoch)
    )

    for file in finite[:keep_last_n]:
        reasons[file.path].append("all are kept" if keep_last_n is None else f"one of the newest {keep_last_n}")
    for file in numbered[:1]:
        reasons[file.path].append("the newest")
    for file in ranked[:keep_best_n]:
        reasons[file.path].append("the best" if keep_best_n == 1 else f"one of the best {keep_best_n}")
    for file in numbered:
        if file.epoch in milestones:
            reasons[file.path].append("a milestone")
        if keep_every_n is not None and file.epoch % keep_every_n == 0:
            reasons[file.path].append(f"every {keep_every_n} epochs")
        if keep_last_n is None and file not in finite:
            reasons[file.path].append("all are kept")
    for file in files:
        if file.kind != "numbered":
            reasons[file.path].append(f"{file.kind} is never removed")
    return Plan(
        files=tuple(
            PlannedFile(
                file=file,
                keep=bool(reasons[file.path]),
                reasons=tuple(reasons[file.path])
                or (f"older than the newest {keep_last_n}" if file in finite else f"its {best.monitor} is not finite",),
            )
            for file in files
        )
    )


def carry_out(plan: Plan) -> Plan:
    """Remove what `plan` says and return what was done; what is gone already, or cannot go, is said and not fatal."""
    done = []
    for item in plan.files:
        keep, reasons = item.keep, item.reasons
        if not keep:
            try:
                os.unlink(item.file.path)
            except FileNotFoundError:
                reasons = (*reasons, "was gone already")
            except OSError as error:  # what is new is durable; a file too many is no reason to stop a training
                keep, reasons = True, (*reasons, f"could not be removed: {error.strerror}")
                logger.warning("%s: could not be removed: %s", item.file.path, error.strerror)
        done.append(PlannedFile(file=item.file, keep=keep, reasons=reasons))
    return Plan(files=tuple(done))


def cleanup_old_checkpoints(
    directory: PathLike, keep_n: int = 10, *, keep_best_n: int = 1, dry_run: bool = False
) -> Plan:
    """Keep the newest `keep_n` numbered checkpoints of a run and the `keep_best_n` best; remove the others.

    `dry_run` only plans.

    Raises:
        CheckpointNotFoundError: no directory of that name.
        DirectoryLockedError: another process writes there.
        ValueError: `keep_n` below 2.
    """
    if keep_n < 2:
        raise ValueError(f"keep_n: expected 2 or more, found {keep_n}")
    plan = plan_retention(list_checkpoints(directory), keep_last_n=keep_n, keep_best_n=keep_best_n)
    if dry_run:
        return plan
    with hold(Path(directory)):  # and planned again: until now another process may have written
        return carry_out(plan_retention(list_checkpoints(directory), keep_last_n=keep_n, keep_best_n=keep_best_n))
