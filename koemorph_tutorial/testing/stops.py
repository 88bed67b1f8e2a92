"""Where a training is stopped, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from koemorph_tutorial.records import Position

from .trails import Comparison, Difference, Trail, where


class CertificateError(ValueError):
    """A training that cannot be certified or refused: it fails without any stop, or nothing of it was recorded."""


@dataclass(frozen=True, kw_only=True)
class Resumption:
    """What came of one stop: where the fresh process went on, how many moments were compared, what differed first.

    Of several processes `only` is the rank that was killed alone; None: all of them.
    """

    stop: Position
    only: int | None = None
    killed: bool = False
    resumed_at: Position | None = None
    moments: int = 0
    batches: int = 0
    difference: Difference | None = None
    error: str = ""

    @property
    def certified(self) -> bool:
        """Whether the run was killed and resumed, and nothing differs."""
        return self.killed and self.resumed_at is not None and self.difference is None and not self.error

    def __str__(self) -> str:
        start = f"killed at {where(self.stop)}" + ("" if self.only is None else f", rank {self.only} alone")
        if self.resumed_at is not None:
            start += f", resumed at {where(self.resumed_at)}"
        if self.certified:
            return f"{start}: {self.moments} moments and {self.batches} batches compared, bitwise equal"
        return f"{start}: " + (f"differs {self.difference}" if self.difference else self.error or "not compared")


def choose(reference: Trail) -> list[Position]:
    """Choose where to stop: at the end of an epoch, inside a later one where that can be, and towards the end."""
    run = reference.moments[0].run
    ends = [event.position for event in reference.moments if event.name == "end" and event.run == run]
    if not ends:
        raise CertificateError("no epoch of the training ended, so there is no place to stop")
    later = ends[max(2 * len(ends) // 3 - 1, 0)].epoch if len(ends) > 1 else ends[0].epoch - 1
    places = {
        event.place: event.position
        for event in reference.events
        if event.number and not event.name.startswith("DataLoader ") and event.run == run
    }
    inside = [places[place] for place in sorted(places) if place[0] == later and place[1] > 0]
    stops = [*ends[max(len(ends) // 3 - 1, 0) :][:1], *inside[(len(inside) - 1) // 2 :][:1], *ends[-2:-1]]
    stops = [stop for stop in stops if stop != ends[-1]]
    if not stops:
        raise CertificateError("one epoch without a ResumableLoader has no place to stop: train at least two")
    return list(dict.fromkeys(stops))


def judge(
    stop: Position, reference: Trail, before: Trail, after: Trail, comparison: Comparison, error: str
) -> Resumption:
    """Return what came of a stop that was reached, given the comparison of what came after it."""
    if not after.moments:
        return Resumption(stop=stop, killed=True, error=error or "the resumed run recorded nothing")
    difference = before.went_on(after) or comparison.difference
    if difference is None and not error and after.last != reference.last:
        difference = Difference(
            component="the run",
            position=after.last,
            when="at its end",
            expected=where(reference.last),
            found=where(after.last),
        )
    least = 2 if after.moments[0].name == "begin" else 1  # the first is what was resumed, and no training yet
    if difference is None and comparison.moments + comparison.batches < least:
        error = error or "no training was left after this stop, so nothing could be compared"
    return Resumption(
        stop=stop,
        killed=True,
        resumed_at=after.moments[0].position,
        moments=comparison.moments,
        batches=comparison.batches,
        difference=difference,
        error="" if difference else error,
    )


def of_rank(verdict: Resumption, by: str) -> Resumption:
    """Say of which rank a verdict is."""
    difference = verdict.difference and replace(verdict.difference, when=verdict.difference.when + by)
    return replace(verdict, difference=difference, error=verdict.error and verdict.error + by)
