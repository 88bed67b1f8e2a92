"""What differs between two checkpoints, in one sentence: what matters first, and only that."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from koemorph_tutorial.text import count

from .pairs import step_text
from .phrases import arrow, listed, percent
from .place import find_place, tell_place
from .rows import Row, is_alone

_CALLED = {"states": "other states differ", "random": "random states differ", "metadata": "metadata differs"}


def tell(
    paths: tuple[Path, Path],
    contents: tuple[Any, Any],
    kinds: tuple[str, str],
    same: str,
    rows: Sequence[Row],
    tensors: Mapping[str, tuple[int, int]],
    values: int,
) -> str:
    """Return the sentence."""
    container = f", in another container ({kinds[0]}, {kinds[1]})" if kinds[0] != kinds[1] else ""
    if not rows:
        total = sum(both for both, _ in tensors.values())
        parts = [f"all {total:,} tensors bitwise equal" if total != 1 else "the one tensor bitwise equal"] * (total > 0)
        if values or not total:
            parts += [f"{count(values, 'other value')} equal" if total else f"{count(values, 'value')} equal"]
        return "identical: " + (same or " and ".join(parts)) + container
    damaged = _damage(rows)
    rows = [row for row in rows if row.section != "damage"]
    if not rows:
        return f"{damaged}, and everything that can be compared is equal{container}"
    told = _one_number(rows) if len(rows) == 1 and not container else ""
    if not told:
        told = _all(paths, contents, rows, tensors, container)
    return f"{damaged}: {told}" if damaged else told


def _damage(rows: Sequence[Row]) -> str:
    parts = []
    for side, name in (("a", "A"), ("b", "B")):
        why = [getattr(row, side) for row in rows if row.section == "damage" and getattr(row, side)]
        if why:
            more = f", and {count(len(why) - 1, 'other place')}" if len(why) > 1 else ""
            parts.append(f"{name} is damaged ({why[0]}{more})")
    return " and ".join(parts)


def _one_number(rows: Sequence[Row]) -> str:
    """Say it where one number of one tensor is all that differs: a bit that was flipped."""
    change = rows[0].change
    if change is None or change.differing != 1 or rows[0].what != "numbers" or change.numbers == 1:
        return ""
    bit = f" (bit {change.bit})" if change.bit is not None else ""
    return (
        f"1 number of {change.numbers:,} differs in {rows[0].where}, at {list(change.index)}: "
        f"{arrow(change.before, change.after)}{bit}; nothing else differs"
    )


def _all(
    paths: tuple[Path, Path],
    contents: tuple[Any, Any],
    rows: Sequence[Row],
    tensors: Mapping[str, tuple[int, int]],
    container: str,
) -> str:
    clauses = []
    place = tell_place(paths, find_place(contents[0]), find_place(contents[1]))
    moved_on = "further" in place or "behind" in place  # then optimizer and random states move as well
    model = [row for row in rows if row.section == "model"]
    counts = tensors.get("weights", (0, 0))
    lead = _model(model, counts)
    weights = _weights(rows, counts, moved=moved_on)
    elsewhere = container or ", in another place of the file" * any(row.what in ("where", "prefix") for row in model)
    if elsewhere and weights:
        weights = f"{'the same' if counts[0] == counts[1] else 'other'} weights{elsewhere}: {weights}"
    if lead:
        clauses += [lead, place]
    else:
        clauses.append(f"{place}: {weights}" if place and weights else place or weights)
    if not place:
        clauses.append(_differ("place differs", rows, "place"))
    clauses += [
        _metric(contents, rows, moved_on=moved_on),
        *_optimizer(rows, moved_on=moved_on),
        _code(model),
        _config(rows),
        _beside(rows),
    ]
    if not moved_on:
        clauses += [_differ(what, rows, section) for section, what in _CALLED.items()]
    clauses.append(_alone(rows))
    if not moved_on and not any(row.what in ("only in A", "only in B", "shape", "where", "prefix") for row in model):
        clauses.append("everything else is equal")
    elif all(isinstance(each, dict) and each.get("config") for each in contents):
        clauses.append("config equal" if not any(row.section == "config" for row in rows) else "")
    return "; ".join(clause for clause in clauses if clause)


def _differ(what: str, rows: Sequence[Row], section: str) -> str:
    mine = [row for row in rows if row.section == section and not is_alone(row)]
    return f"{what} ({listed([_short(row) for row in mine])})" if mine else ""


# ------------------------------------------------------------------------------------------------------------ the model


def _model(rows: Sequence[Row], counts: tuple[int, int]) -> str:
    """Say in what the models differ, "" where they do not."""
    only = {side: sum(row.what == f"only in {side}" and row.tensor for row in rows) for side in "AB"}
    number = {what: sum(row.what == what for row in rows) for what in ("shape", "dtype", "renamed")}
    both, equal = counts
    others = both - number["shape"] - number["dtype"]
    rest = f"; {_how_many_equal(others, equal)}" if others else ""
    if any(only.values()) or number["shape"]:
        parts = [f"{count(only[side], 'tensor')} only in {side}" for side in "AB" if only[side]]
        parts += [f"{number['renamed']:,} of another name"] * (number["renamed"] > 0)
        parts += [f"{number[what]:,} of another {what}" for what in ("shape", "dtype") if number[what]]
        return f"different models: {', '.join(parts)}{rest}"
    if number["renamed"]:
        names = listed([f"{row.a} -> {row.b}" for row in rows if row.what == "renamed"])
        of = f"{number['renamed']:,} of {number['renamed'] + both:,} tensors"
        return f"the same model under other names: {of} have the same bits under another one ({names}){rest}"
    if number["dtype"]:
        first = next(row for row in rows if row.what == "dtype")
        most = max((row.change.relative for row in rows if row.what == "dtype" and row.change), default=0.0)
        values = "the same values" if not most else f"values differ by {percent(most)} at most"
        of = f"{number['dtype']:,} of {both:,} weight tensors"
        return f"the same model in another dtype ({first.a} -> {first.b}, {of}): {values}{rest}"
    return ""


def _how_many_equal(others: int, equal: int) -> str:
    if others == equal:
        return "all others are bitwise equal" if others > 1 else "the other one is bitwise equal"
    if not equal:
        return "none of the others is bitwise equal" if others > 1 else "the other one is not equal"
    return f"{equal:,} of the {others:,} others are bitwise equal"


def _code(model: Sequence[Row]) -> str:
    """Say whether two archives of TorchScript do the same: by their code, and by the numbers frozen into it."""
    mine = [row.where for row in model if row.what == "code"]
    codes = [name for name in mine if name.startswith("code/")]
    what = ["the code"] * bool(codes) + ["the constants"] * (len(codes) < len(mine))
    return f"{' and '.join(what)} differ{'s' * (what == ['the code'])} ({listed(mine)})" if what else ""


def _beside(rows: Sequence[Row]) -> str:
    """Say what differs beside the tensors of the weights: an extra state, the version of the format."""
    mine = [row for row in rows if row.section == "model" and row.what in ("value", "order", "not compared")]
    mine += [row for row in rows if row.section == "model" and row.what.startswith("only") and not row.tensor]
    mine = [row for row in mine if not is_alone(row)]
    return f"beside the tensors differs {listed([row.name for row in mine])}" if mine else ""


def _alone(rows: Sequence[Row]) -> str:
    parts = []
    for name in "AB":
        there = [row.where for row in rows if is_alone(row) and row.what == f"only in {name}"]
        if there:
            parts.append(f"only {name} holds {listed(there)}")
    return ", ".join(parts)


# ------------------------------------------------------------------------------------------------------------- the rest


def _weights(rows: Sequence[Row], counts: tuple[int, int], *, moved: bool) -> str:
    both, equal = counts
    if not both:
        return ""
    if both == equal:
        return f"{_all_of(both)} bitwise equal"
    changed = [row for row in rows if row.section == "weights" and row.change]
    left = sum(row.section == "weights" and row.change is None for row in rows)
    unknown = f"{left:,} of {both:,} weight tensors could not be compared"
    if not changed:
        return f"{unknown}, the others are bitwise equal" if left < both else unknown
    partly = not moved and all(row.change and row.change.differing < row.change.numbers for row in changed)
    said = _counted(changed, both) if partly else _measured(changed, both, moved=moved)
    return said + f", {unknown}" * (left > 0)


def _counted(rows: Sequence[Row], both: int) -> str:
    """Say how many numbers differ, where it is only a part of each tensor: harm done to a file, not a step of a run."""
    changes = [row.change for row in rows if row.change]
    differing = sum(change.differing for change in changes)
    of = f"{differing:,} of {count(sum(change.numbers for change in changes), 'number')}"
    if len(rows) == 1:
        said = f"{of} of {rows[0].name} differ{'s' * (differing == 1)}"
    else:
        said = f"{len(rows):,} of {both:,} weight tensors differ, in {of}"
    which = "all of them " * (differing > 1)
    if all(change.zeroed for change in changes):
        return f"{said}, {which}0 in B"
    for at, side in enumerate("AB"):
        if all((change.nan[at], change.nan[1 - at]) == (change.differing, 0) for change in changes):
            return f"{said}, {which}NaN in {side}"
    by = _by(rows, named=len(rows) > 1)
    return said + f", which moves {'it' if len(rows) == 1 else 'them'}{by}" * bool(by) + _other_counts(rows)


def _measured(rows: Sequence[Row], both: int, *, moved: bool) -> str:
    """Say how far tensors moved; of one that is NaN from end to end that it is."""
    lost = {side: [row for row in rows if _is_lost(row, at)] for at, side in enumerate("AB")}
    rest = [row for row in rows if row not in lost["A"] and row not in lost["B"]]
    parts = []
    if rest:
        which = f"{len(rest):,} of {both:,} weight tensors" if both > len(rest) else _all_of(both)
        said = f"{which} moved" if moved else f"{which} differ{'s' * (len(rest) == 1)}"
        parts = [said + _by(rest, named=both > 1) + _other_counts(rest)]
    for side, mine in lost.items():
        if mine:
            of = _all_of(both) if len(mine) == both else listed([row.name for row in mine])
            parts.append(f"all numbers of {of} are NaN in {side}")
    return ", ".join(parts)


def _is_lost(row: Row, side: int) -> bool:
    change = row.change
    return change is not None and change.nan[side] == change.numbers and change.nan[1 - side] < change.numbers


def _by(rows: Sequence[Row], *, named: bool) -> str:
    """Say by how much tensors moved, as far as their numbers are finite: "" where only the others differ."""
    steps = {row.name: row.change.relative for row in rows if row.change and (row.change.relative or not _broken(row))}
    moves = {name: step for name, step in steps.items() if math.isfinite(step)}
    zeros = len(steps) - len(moves)
    if not moves:
        return " from zero" if zeros else ""
    if len(moves) == 1:
        ((name, step),) = moves.items()
        said = f" by {percent(step)}" + f" ({name})" * named
    else:
        most = max(moves, key=lambda name: moves[name])
        median = statistics.median(moves.values())
        said = f", by {percent(median)} in the median and {percent(moves[most])} at most ({most})"
    return said + f", {zeros:,} of them from zero" * (zeros > 0)


def _other_counts(rows: Sequence[Row]) -> str:
    broken = [row.name for row in rows if _broken(row)]
    return f", with other counts of NaN or infinity in {listed(broken)}" if broken else ""


def _broken(row: Row) -> bool:
    change = row.change
    return change is not None and (change.nan[0] != change.nan[1] or change.infinite[0] != change.infinite[1])


def _all_of(number: int) -> str:
    return f"all {number:,} weight tensors" if number > 1 else "the one weight tensor"


def _metric(contents: tuple[Any, Any], rows: Sequence[Row], *, moved_on: bool) -> str:
    """Say how the monitored metric differs; of another program's, the first that does."""
    changed = [row for row in rows if row.section == "metrics" and not is_alone(row)]
    numbers = [row for row in changed if isinstance(row.a, (int, float)) and isinstance(row.b, (int, float))]
    if not numbers:
        return _differ("metrics differ", rows, "metrics")
    best = contents[1].get("best") if isinstance(contents[1], dict) else None
    monitor = best.get("monitor") if isinstance(best, dict) else "loss"
    order = {f"metrics.{monitor}": 0, "metrics.loss": 1, "loss": 2}
    row = min(numbers, key=lambda row: order.get(row.where, 3))
    others = f" (and {count(len(changed) - 1, 'more value')})" if len(changed) > 1 and not moved_on else ""
    return f"{_short(row)} {arrow(row.a, row.b)}{others}"


def _optimizer(rows: Sequence[Row], *, moved_on: bool) -> Iterator[str]:
    mine = [row for row in rows if row.section == "optimizer" and not is_alone(row)]
    classes = [row for row in mine if row.steps[:2] == ("metadata", "objects") and row.what == "value"]
    for row in classes[:1]:
        a, b = (str(name).rpartition(".")[2] for name in (row.a, row.b))
        yield f"another optimizer ({a} -> {b})"
    rates = [row for row in mine if row.steps[-1:] == ("lr",) and "param_groups" in row.steps]
    if rates:
        more = f" (and in {count(len(rates) - 1, 'other group')})" if len(rates) > 1 else ""
        yield f"learning rate {arrow(rates[0].a, rates[0].b)}{more}"
    if any(row.what == "order" for row in mine):
        yield "the optimizer has its parameters in another order"
    if not moved_on and not classes:
        known = {row.where for row in rates}
        others = [_short(row) for row in mine if row.what != "order" and row.where not in known]
        if others:
            yield f"the optimizer differs ({listed(others)})"


def _config(rows: Sequence[Row]) -> str:
    changed = [row for row in rows if row.section == "config" and not is_alone(row)]
    names = [f"{_short(row)} {arrow(row.a, row.b)}" if row.what == "value" else _short(row) for row in changed]
    return f"config differs ({listed(names)})" if names else ""


def _short(row: Row) -> str:
    """Return a row's name within its section."""
    if row.section == "optimizer":
        if row.steps[:1] == ("metadata",):
            return "its settings when it was made"
        return step_text(row.steps[-1]) if row.steps and isinstance(row.steps[-1], str) else row.where
    if row.where.startswith(("metrics.", "config.", "metadata.", "hyper_parameters.")):
        return row.where.partition(".")[2]
    if row.section == "random" and len(row.steps) > 1:
        return step_text(row.steps[1])
    return row.where.partition(".")[0].removesuffix("_state_dict")
