"""A run of sixty epochs, lived through without a disk, by the `decide` and `plan_retention` that a real one asks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from koemorph_tutorial.records import (
    LAST_NAME,
    Best,
    CheckpointFile,
    CheckpointSettings,
    Position,
    kind_of,
    numbered_name,
)
from koemorph_tutorial.retention import Plan, plan_retention
from koemorph_tutorial.save_policy import decide
from koemorph_tutorial.text import count

SAVE_FREQ, MILESTONES = 5, (10, 25, 50)  # those of the recipe
# Made up, like many a run: steep, then slower, one bad spell, and from epoch 37 on it learns its voices by heart.
LOSSES = tuple(
    round(
        0.22
        + 0.68 * math.exp(-epoch / 9)
        + 0.004 * max(0, epoch - 37)
        + (0.13 if 18 <= epoch < 21 else 0)
        + 0.012 * math.cos(2.4 * (epoch - 37) + math.pi),
        3,
    )
    for epoch in range(60)
)


@dataclass(frozen=True, kw_only=True)
class Life:
    """One numbered file: saved after epoch `born`, removed after epoch `died` (None: it is there), and why."""

    born: int
    died: int | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class History:
    """What lies in the folder of a run after its newest epoch, and what has lain there.

    `copies` counts after each epoch the files on the disk, however many names they have, and `written` those that would
    be there had nothing been removed; `bests` are the epochs that `best_model.pth` has held, `files` what is there.
    """

    losses: tuple[float, ...]
    lives: tuple[Life, ...]
    copies: tuple[int, ...]
    written: tuple[int, ...]
    bests: tuple[int, ...]
    files: tuple[CheckpointFile, ...]

    @property
    def epoch(self) -> int:
        """The epoch that has ended last."""
        return len(self.losses) - 1

    @property
    def next_newest(self) -> int | None:
        """The furthest epoch in bytes that are not those of the newest file; None if there are no others."""
        newest = max(self.files, key=lambda file: file.saves)
        return max((file.epoch for file in self.files if file.inode != newest.inode), default=None)

    def __str__(self) -> str:
        (best,) = (file for file in self.files if file.kind == "best")
        names = [file.path.name for file in self.files if file.inode == best.inode]
        there = sum(life.died is None for life in self.lives)
        share = round(100 * self.copies[-1] / self.written[-1])
        back = "nothing is left" if self.next_newest is None else f"the run goes back to epoch {self.next_newest}"
        return (
            f"After epoch {self.epoch}: {there} of {count(len(self.lives), 'numbered file')} "
            f"{'are' if there > 1 else 'is'} there. On the disk {count(self.copies[-1], 'file')} instead of "
            f"{self.written[-1]}: {share} % of the bytes.\n"
            f"The best, epoch {best.epoch}, is there as {enumerated(sorted(names))}.\n"
            f"Should the newest file be damaged, {back}."
        )


def live(
    losses: Sequence[float] = LOSSES,
    *,
    until: int | None = None,
    save_freq: int = SAVE_FREQ,
    keep_last_n: int | None = 3,
    keep_best_n: int = 1,
    keep_every_n: int | None = None,
    milestones: Sequence[int] = (),
) -> History:
    """Live through a run: after each epoch what is due is saved, then what need not stay is removed.

    As a `CheckpointManager` does it, which also gives the last epoch its number; `until` is an epoch to look at before.

    Raises:
        ValueError: no losses, or a first one that is not finite: such a run has no best.

    >>> [life.born for life in live().lives if life.died is None]
    [35, 50, 55, 59]
    """
    if not losses or not math.isfinite(losses[0]):
        raise ValueError(f"losses: expected some, and the first one finite, found {list(losses[:1])}")
    settings = CheckpointSettings(save_freq=save_freq, milestones=tuple(milestones))
    folder: dict[str, CheckpointFile] = {}
    ever: dict[str, CheckpointFile] = {}
    lives: dict[int, Life] = {}
    best, bests, copies, written = Best(), [], [], []
    for epoch, loss in enumerate(losses[: None if until is None else until + 1]):
        metrics = {"loss": loss}
        decision = decide(settings, epoch=epoch, global_step=epoch, metrics=metrics, best=best)
        names = list(decision.names)
        if epoch == len(losses) - 1 and numbered_name(epoch) not in names:
            names += [numbered_name(epoch), LAST_NAME]
        if decision.best != best:
            best = decision.best
            bests.append(epoch)
        folder |= {name: _record(name, epoch, metrics) for name in names}
        ever |= folder
        if names:
            plan = plan_retention(
                list(folder.values()),
                keep_last_n=keep_last_n,
                keep_best_n=keep_best_n,
                keep_every_n=keep_every_n,
                milestones=milestones,
                best=best,
            )
            for life in lives_of(plan, died=epoch):
                lives[life.born] = life
            folder = {name: file for name, file in folder.items() if file.path not in plan.removed}
        copies.append(len({file.inode for file in folder.values()}))
        written.append(len({file.inode for file in ever.values()}))
    return History(
        losses=tuple(losses[: len(copies)]),
        lives=tuple(lives.values()),
        copies=tuple(copies),
        written=tuple(written),
        bests=tuple(bests),
        files=tuple(folder.values()),
    )


def lives_of(plan: Plan, *, died: int) -> Iterator[Life]:
    """Yield the numbered files of a plan, those that it removes as dead after epoch `died`."""
    for item in plan.files:
        if item.file.kind == "numbered":
            yield Life(born=item.file.epoch, died=None if item.keep else died, reasons=item.reasons)


def _record(name: str, epoch: int, metrics: Mapping[str, float]) -> CheckpointFile:
    """Describe a file as a listing would; all names of one save share its bytes."""
    return CheckpointFile(
        path=Path(name),
        epoch=epoch,
        position=Position(epoch=epoch + 1),
        kind=kind_of(name),
        codec=None,
        line="made up",
        saves=epoch + 1,
        metrics=metrics,
        size=1,
        inode=epoch,
    )


def enumerated(items: Sequence[object]) -> str:
    """Return the items as a sentence has them.

    >>> enumerated([9, 10, 11]), enumerated([9]), enumerated([])
    ('9, 10 and 11', '9', '')
    """
    words = [str(item) for item in items]
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
