"""What processes wrote down of themselves, read back and compared: the first moment at which two runs differ.

The lines are those of `recording.Recorder`. Two moments are the same one if the run was at the same place, whichever
process was there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from koemorph_tutorial.records import Position


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The first thing that was not the same: `leaf` of `component` (an object, say), and `when`.

    `also` names what else was not the same at that moment; `hint` says where to look.
    """

    component: str
    leaf: str = ""
    position: Position
    when: str
    expected: str
    found: str
    also: tuple[str, ...] = ()
    hint: str = ""

    def __str__(self) -> str:
        what = f"{self.component}.{self.leaf}" if self.leaf else self.component
        also = f" (and {', '.join(self.also[:5])}{', …' if len(self.also) > 5 else ''})" if self.also else ""
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.when}: {what}: expected {self.expected}, found {self.found}{also}{hint}"


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What a run was made of at a position: per component, per leaf, a text. Or the batch that a loader handed out."""

    name: str  # begin, inside, end; or of a batch its loader
    run: int  # one for each manager
    position: Position
    components: Mapping[str, Mapping[str, str]]
    number: int = 0  # of a batch since the position
    saved: bool = False

    @property
    def place(self) -> tuple[int, int]:
        """Where the run was."""
        return self.position.epoch, self.position.batch

    @property
    def key(self) -> tuple[Any, ...]:
        """What the same moment of another run has as well."""
        kind = self.name if self.number else ""  # the same state at the end of an epoch and after a resume from there
        return self.run, kind, *self.place, self.number

    def when(self, *, resumed: bool) -> str:
        """Say which moment this is; `resumed`: it is the first that a resumed run wrote down."""
        place = where(self.position)
        if self.number:
            return f"in batch {self.number} after {place}"
        if self.name == "begin":
            return f"right after the resume at {place}" if resumed else "at the beginning"
        before = "in the first record after the resume, " if resumed else ""
        return f"{before}at " + (place if self.position.batch else f"the end of epoch {self.position.epoch - 1}")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What differs first, if anything; how many moments and batches were equal until then, and of what."""

    difference: Difference | None = None
    moments: int = 0
    batches: int = 0
    components: tuple[str, ...] = ()


class Trail:
    """What one process wrote down, in its order; from the file `path`, if it wrote any."""

    def __init__(self, path: Path | None = None) -> None:
        self.events: list[Moment] = []
        self.environment: dict[str, Any] = {}
        self.was_stopped = False  # killed by itself where it was told to
        text = path.read_text() if path is not None and path.exists() else ""
        for line in text.splitlines():
            with suppress(json.JSONDecodeError):  # the last line of a process that was killed
                self._add(json.loads(line))

    def _add(self, entry: dict[str, Any]) -> None:
        self.environment = entry.get("environment", self.environment)
        self.was_stopped = self.was_stopped or "stop" in entry
        if "run" not in entry:
            return
        epoch, batch, global_step = entry["position"]
        position = Position(epoch=epoch, batch=batch, global_step=global_step)
        place: dict[str, Any] = {"run": entry["run"], "position": position}
        if "loader" in entry:
            components = {f"data of {entry['loader']}": {"": f"batch {entry['batch']}"}}
            self.events.append(Moment(name=entry["loader"], components=components, number=entry["count"], **place))
        else:
            moment = {"name": entry["moment"], "components": entry["components"], "saved": entry["saved"]}
            self.events.append(Moment(**moment, **place))

    @property
    def moments(self) -> list[Moment]:
        """All but the batches."""
        return [event for event in self.events if not event.number]

    @property
    def last(self) -> Position:
        """Where it was when it was last recorded."""
        return self.moments[-1].position

    def idle(self) -> set[str]:
        """Return the random generators that nobody has drawn from: how they stand does not matter."""
        names = {name for moment in self.moments for name in moment.components if name.startswith("rng.")}
        first = self.moments[0].components if self.moments else {}
        return {name for name in names if all(each.components.get(name) == first.get(name) for each in self.moments)}

    def leave_out(self, components: set[str]) -> Trail:
        """Return this trail without what was recorded of `components`."""
        rest = Trail()
        rest.environment, rest.was_stopped = self.environment, self.was_stopped
        rest.events = [
            replace(event, components={name: item for name, item in event.components.items() if name not in components})
            for event in self.events
        ]
        return rest

    def compare(self, found: Trail, *, resumed: bool) -> Comparison:
        """Compare what `found`, the trail of a `resumed` run or not, has in common with this, up to what differs.

        Random states that differ right after a resume may be seeded anew before anybody draws from them: they count
        only if anything differs later, and then they come first.
        """
        expected = {event.key: event for event in self.events}  # the last of a position: as it was saved
        equal = [0, 0]
        components: dict[str, None] = {}
        suspect: Difference | None = None
        difference: Difference | None = None
        for index, event in enumerate(found.events):
            reference = expected.get(event.key)
            if reference is not None:
                different = _different(reference.components, event.components)
            elif event.number and any(other.number and other.name == event.name for other in self.events):
                different = [(f"data of {event.name}", "", "no further batch", "one")]
            elif event.name == "end":
                different = [("the run", "", "never to be here", where(event.position))]
            else:  # one saved there and the other did not, as every_minutes may have it
                continue
            first = resumed and index == 0
            if different:
                difference = _say(event, different, event.when(resumed=first))
                if not first or not difference.component.startswith("rng."):
                    hint = "" if first or suspect or not resumed or not equal[0] else _OUTSIDE
                    difference = suspect or replace(difference, hint=hint)
                    break
                suspect = difference
            equal[bool(event.number)] += 1
            components |= dict.fromkeys(event.components)
        else:
            difference = self._missing(found) if resumed else None
        return Comparison(difference=difference, moments=equal[0], batches=equal[1], components=(*components,))

    def _missing(self, found: Trail) -> Difference | None:
        """Return the first batch that was handed out here and not there, though the run was at its place."""
        if not found.moments:
            return None
        there = {event.key for event in found.events}
        start, end = found.moments[0], found.moments[-1]
        for event in self.events:
            met = start.place <= event.place < end.place
            if event.number and event.run == start.run and met and event.key not in there:
                return _say(event, [(f"data of {event.name}", "", "a batch", "none")], event.when(resumed=False))
        return None

    def went_on(self, found: Trail) -> Difference | None:
        """Return a difference unless each run in `found` goes on where it was saved last in this trail."""
        for run in dict.fromkeys(event.run for event in found.moments):
            saved = [moment for moment in self.moments if moment.run == run and moment.saved]
            first = next(moment for moment in found.moments if moment.run == run)
            # A loop that records by hand may do so again only at the end of the next epoch.
            far_enough = (
                first.place == saved[-1].place or (not run and first.place > saved[-1].place) if saved else True
            )
            if not far_enough:
                to = f"to go on at {where(saved[-1].position)}, where it was saved last"
                return _say(first, [("the run", "", to, where(first.position))], "right after the resume")
        return None


_OUTSIDE = "all was equal right after the resume, so look for something that is not among the objects"


def against(reference: Trail, before: Trail) -> Trail:
    """Return what a resumed run should do: what the straight one did, and from its start what was saved."""
    both = Trail()
    both.events = [*reference.events, *before.moments]
    return both


def _say(event: Moment, different: list[tuple[str, str, str, str]], when: str) -> Difference:
    (component, leaf, expected, found), *others = different
    return Difference(
        component=component,
        leaf=leaf,
        position=event.position,
        when=when,
        expected=expected,
        found=found,
        also=tuple(other[0] for other in others),
    )


def _different(
    expected: Mapping[str, Mapping[str, str]], found: Mapping[str, Mapping[str, str]]
) -> list[tuple[str, str, str, str]]:
    """Return component, leaf and both texts of what differs; of a component the first leaf, of its settings if any."""
    different = []
    for component in dict.fromkeys((*expected, *found)):
        one, other = expected.get(component), found.get(component)
        if one is None or other is None:
            different.append((component, "", *(("nothing", "it") if one is None else ("it", "nothing"))))
        elif one != other:
            leaves = [leaf for leaf in dict.fromkeys((*one, *other)) if one.get(leaf) != other.get(leaf)]
            # The length of a container is no reason but a result.
            leaf = min(leaves, key=lambda leaf: " of " in one.get(leaf, "") and not one[leaf].startswith("torch."))
            different.append((component, leaf, one.get(leaf, "nothing"), other.get(leaf, "nothing")))
    # Random states last: where other things differ at the same moment, more or fewer numbers were drawn for them.
    return sorted(different, key=lambda item: item[0].startswith("rng."))


def where(place: Position) -> str:
    """Say where a run is, without the count of all batches."""
    return f"epoch {place.epoch}, batch {place.batch}"
