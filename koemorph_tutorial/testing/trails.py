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
    """The first thing that was not the same: `leaf` of `component`, and `when`; a component is an object, say."""

    component: str
    leaf: str
    position: Position
    when: str
    expected: str
    found: str

    def __str__(self) -> str:
        what = f"{self.component}.{self.leaf}" if self.leaf else self.component
        return f"{self.when}: {what}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What a run was made of at a position: per component, per leaf, a text. Or the batch that a loader handed out."""

    name: str  # begin, inside, end; or of a batch its loader and number since the position
    position: Position
    components: Mapping[str, Mapping[str, str]]
    number: int = 0

    @property
    def key(self) -> tuple[str, int, int, int]:
        """What the same moment of another run has as well."""
        kind = self.name if self.number else ""  # the same state at the end of an epoch and after a resume from there
        return kind, self.position.epoch, self.position.batch, self.number

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
    """What differs first, if anything, and how many moments and batches were equal until then."""

    difference: Difference | None = None
    moments: int = 0
    batches: int = 0


class Trail:
    """What one process wrote down, in its order; from the file `path`, if it wrote any."""

    def __init__(self, path: Path | None = None) -> None:
        self.events: list[Moment] = []
        self.environment: dict[str, Any] = {}
        text = path.read_text() if path is not None and path.exists() else ""
        for line in text.splitlines():
            with suppress(json.JSONDecodeError):  # the last line of a process that was killed
                self._add(json.loads(line))

    def _add(self, entry: dict[str, Any]) -> None:
        if "environment" in entry:
            self.environment = entry["environment"]
            return
        epoch, batch, global_step = entry["position"]
        position = Position(epoch=epoch, batch=batch, global_step=global_step)
        if "loader" in entry:
            components = {f"data of {entry['loader']}": {"": f"batch {entry['batch']}"}}
            name, number = entry["loader"], entry["count"]
            self.events.append(Moment(name=name, position=position, components=components, number=number))
        else:
            self.events.append(Moment(name=entry["moment"], position=position, components=entry["components"]))

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
        return {
            name
            for name in names
            if all(moment.components.get(name) == self.moments[0].components.get(name) for moment in self.moments)
        }

    def leave_out(self, components: set[str]) -> None:
        """Forget what was recorded of `components`."""
        self.events = [
            replace(event, components={name: item for name, item in event.components.items() if name not in components})
            for event in self.events
        ]

    @property
    def components(self) -> tuple[str, ...]:
        """The names of what was compared."""
        return tuple(dict.fromkeys(name for event in self.events for name in event.components))

    def compare(self, found: Trail, *, resumed: bool) -> Comparison:
        """Compare what `found`, the trail of a `resumed` run or not, has in common with this, up to what differs."""
        expected = {event.key: event for event in self.events}  # the last of a position: as it was saved
        moments = batches = 0
        for index, event in enumerate(found.events):
            reference = expected.get(event.key)
            if reference is not None:
                different = _first(reference.components, event.components)
            elif event.number and self._watches(event.name):
                different = f"data of {event.name}", "", "no further batch", "one"
            elif event.name == "end":
                different = "the run", "", "never to be here", where(event.position)
            else:  # one saved there and the other did not, as every_minutes may have it
                continue
            if different is not None:
                component, leaf, wanted, got = different
                when = event.when(resumed=resumed and index == 0)
                difference = Difference(
                    component=component, leaf=leaf, position=event.position, when=when, expected=wanted, found=got
                )
                return Comparison(difference=difference, moments=moments, batches=batches)
            moments, batches = moments + (not event.number), batches + bool(event.number)
        return Comparison(moments=moments, batches=batches)

    def _watches(self, loader: str) -> bool:
        return any(event.number and event.name == loader for event in self.events)


def against(reference: Trail, before: Trail) -> Trail:
    """Return what a resumed run should do: what the straight one did, and from its start what was saved."""
    both = Trail()
    both.events = [*reference.events, *before.moments]
    return both


def _first(
    expected: Mapping[str, Mapping[str, str]], found: Mapping[str, Mapping[str, str]]
) -> tuple[str, str, str, str] | None:
    """Return component, leaf and both texts of the first difference; a container's length is no reason but a result."""
    for component in dict.fromkeys((*expected, *found)):
        one, other = expected.get(component), found.get(component)
        if one is None or other is None:
            return component, "", "it" if one is not None else "nothing", "nothing" if one is not None else "it"
        if one == other:
            continue
        leaves = [leaf for leaf in dict.fromkeys((*one, *other)) if one.get(leaf) != other.get(leaf)]
        leaf = min(leaves, key=lambda leaf: one.get(leaf, "").startswith(("dict of", "list of", "tuple of")))
        return component, leaf, one.get(leaf, "nothing"), other.get(leaf, "nothing")
    return None


def where(place: Position) -> str:
    """Say where a run is, without the count of all batches."""
    return f"epoch {place.epoch}, batch {place.batch}"
