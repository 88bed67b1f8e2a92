"""What differs between two checkpoints as lines for a terminal: the sentence, then each part, of at most `columns`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

from koemorph_tutorial.text import count, cut, pad, pieces, printable, width, wrapped

from .pairs import step_text
from .phrases import arrow, duration, percent
from .rows import SECTIONS, Difference, Row, is_alone

_MOST_ROWS = 12  # of one part
_MOST_TENSORS = 12  # in a table
_MOST_VALUES = 6  # of one object
_LABELS = {"damage": "damaged", "random": "random states", "states": "other states"}
_IN_A_LINE = ("place", "metrics", "states", "metadata")
_ELSEWHERE = {"only in A": "only in A", "only in B": "only in B", "order": "in another order"}


def difference_lines(difference: Difference, columns: int) -> list[str]:
    """Return what a person wants to know of two checkpoints."""
    lines = list(_sentence(difference.sentence, columns))
    if difference.same == "the same file":
        return lines
    lines.append("")
    for side, path, kind in zip("AB", (difference.a, difference.b), difference.kinds, strict=True):
        kinds = [kind] if len(set(difference.kinds)) > 1 else []
        lines += wrapped(side, [printable(path, 1000), *kinds], columns)
    alone = [row for row in difference.rows if is_alone(row)]
    for section in SECTIONS:
        rows = [row for row in difference.rows if row.section == section and not is_alone(row)]
        if rows:
            lines += _section(section, rows, difference, columns)
        if section == "model":
            for side in ("only in A", "only in B"):
                lines += wrapped(side, _few([row.where for row in alone if row.what == side]), columns)
    return lines


def _sentence(sentence: str, columns: int) -> Iterator[str]:
    line = ""
    for word in printable(sentence, 4000).split(" "):
        for piece in pieces(word, columns):
            if line and width(line) + 1 + width(piece) > columns:
                yield line
                line = ""
            line = f"{line} {piece}" if line else piece
    yield line


def _section(section: str, rows: Sequence[Row], difference: Difference, columns: int) -> Iterator[str]:
    label = _LABELS.get(section, section)
    if section == "optimizer":
        yield from _optimizer(label, rows, difference, columns)
        return
    if section == "random":
        names = [step_text(row.steps[1]) if len(row.steps) > 1 else row.where for row in rows]
        yield from wrapped(label, _few(list(dict.fromkeys(names))), columns)
        return
    if section == "weights":
        both, equal = difference.tensors.get(section, (0, 0))
        moved = [row for row in rows if row.what == "numbers"]
        rows = [row for row in rows if row.what != "numbers"]
        phrases = [f"{len(moved):,} of {count(both, 'tensor')} differ in numbers", f"{equal:,} bitwise equal"]
        yield from wrapped(label, phrases[: 1 + (equal > 0)], columns)
        yield from _table(moved, columns)
        label = ""
    if section in _IN_A_LINE:
        values = [row for row in rows if row.what in ("value", "numbers")]
        rows = [row for row in rows if row.what not in ("value", "numbers")]
        parts: dict[str, list[Row]] = {}
        for row in values:
            parts.setdefault(_state_name(row) if section == "states" else "", []).append(row)
        for name, same in list(parts.items())[:_MOST_ROWS]:
            phrases = _few([_phrase(row) for row in same], _MOST_VALUES)
            yield from wrapped(label, [f"{name}: {phrases[0]}" if name else phrases[0], *phrases[1:]], columns)
            label = ""
        if len(parts) > _MOST_ROWS:
            yield from wrapped("", [f"{len(parts) - _MOST_ROWS:,} more: --json lists them"], columns)
    yield from _listed(label, rows, columns)


def _state_name(row: Row) -> str:
    """Return the name of the object that a row is of."""
    return step_text(row.steps[0]).removesuffix("_state_dict") if row.steps else ""


def _few(names: Sequence[str], most: int = _MOST_ROWS) -> list[str]:
    if len(names) <= most + 1:
        return list(names)
    return [*names[:most], f"{len(names) - most:,} more: --json lists them"]


def _listed(label: str, rows: Sequence[Row], columns: int) -> Iterator[str]:
    """One line or more for each row, the first few; the rest is counted by what it is."""
    shown = rows if len(rows) <= _MOST_ROWS + 1 else rows[:_MOST_ROWS]
    for row in shown:
        yield from wrapped(label, [_phrase(row)], columns)
        label = ""
    rest: dict[str, int] = {}
    for row in rows[len(shown) :]:
        rest[row.what] = rest.get(row.what, 0) + 1
    if rest:
        kinds = [f"{number:,} more {_ELSEWHERE.get(what, f'of another {what}')}" for what, number in rest.items()]
        yield from wrapped(label, [*kinds[:-1], f"{kinds[-1]}: --json lists them"], columns)


def _phrase(row: Row) -> str:
    """Return one row in words."""
    name = row.where
    if row.section in ("config", "metadata", "states") or name.startswith("metrics."):
        name = name.partition(".")[2] or name
    elif row.section in ("model", "weights"):
        name = row.name
    elif row.section == "optimizer":
        name = name.removeprefix("optimizer_state_dict.")
    change = row.change
    if row.what == "damaged":
        return f"{row.where} in {'A' if row.a else 'B'}: {row.a or row.b}"
    if row.what in ("only in A", "only in B"):
        return f"{row.what}: {name} {_value(row.a if row.what[-1] == 'A' else row.b)}".rstrip()
    if row.what == "not compared":
        return f"{name}: not compared ({row.a if isinstance(row.a, str) else 'too entangled'})"
    if row.what == "order":
        return f"{name}: the same names in another order"
    if row.what == "renamed":
        return f"{row.a} -> {row.b}: bitwise equal under another name"
    if row.what in ("where", "prefix"):
        what = "keys of the weights" if row.what == "where" else "prefix of the names"
        return f"{what}: {row.a or 'none'} -> {row.b or 'none'}"
    if row.what == "numbers" and change is not None and change.numbers > 1:
        return f"{name}: {change.differing:,} of {change.numbers:,} numbers"
    if row.what in ("shape", "dtype"):
        by = f", by {percent(change.relative)}" if change and change.relative else ""
        return f"{name}: {row.what} {arrow(row.a, row.b)}{by}"
    if name == "timestamp" and isinstance(row.a, float) and isinstance(row.b, float):
        return f"saved {duration(abs(row.b - row.a))} {'later' if row.b > row.a else 'before'}"
    return f"{name} {arrow(row.a, row.b)}"


def _value(value: object) -> str:
    return printable(str(value), 72) if value is not None else ""


def _optimizer(label: str, rows: Sequence[Row], difference: Difference, columns: int) -> Iterator[str]:
    """Settings first, then a line for each kind of state, over all parameters."""
    states = [row for row in rows if row.what == "numbers"]
    settings = [row for row in rows if row.what != "numbers"]
    yield from _listed(label, settings, columns)
    label = "" if settings else label
    kinds: dict[str, list[Row]] = {}
    for row in states:
        kinds.setdefault(str(row.steps[-1]), []).append(row)
    for kind, same in list(kinds.items())[:_MOST_ROWS]:
        both, _ = difference.tensors.get(f"optimizer {kind}", (len(same), 0))
        of = f"{printable(kind, 40)}: {len(same):,} of {both:,} differ"
        values = {(row.a, row.b) for row in same}
        if all(row.change and row.change.numbers == 1 for row in same) and len(values) == 1:
            a, b = values.pop()
            phrases = [f"{printable(kind, 40)} {arrow(a, b)} ({len(same):,} of {both:,})"]
        else:
            most = max(same, key=_moved)
            by = f"{percent(statistics.median(map(_moved, same)))} in the median"
            phrases = [
                f"{of}, by {by} and {percent(_moved(most))} at most ({_parameter(most)})".replace("by from", "from")
            ]
        yield from wrapped(label, phrases, columns)
        label = ""


def _moved(row: Row) -> float:
    return row.change.relative if row.change else 0.0


def _parameter(row: Row) -> str:
    if len(row.steps) < 2:
        return row.where
    return f"parameter {row.steps[-2]}" if type(row.steps[-2]) is int else step_text(row.steps[-2])


def _table(rows: Sequence[Row], columns: int) -> Iterator[str]:
    """The tensors that moved, those that moved most first."""
    if not rows:
        return
    shown = rows if len(rows) <= _MOST_TENSORS + 1 else rows[:_MOST_TENSORS]
    table = [["", "numbers", "differ", "largest", "relative", ""]]
    for row in shown:
        change = row.change
        assert change is not None
        table.append(
            [
                row.name,
                f"{change.numbers:,}",
                "all" if change.differing == change.numbers else f"{change.differing:,}",
                f"{change.largest:.3g}",
                percent(change.relative),
                ", ".join(_counts(change.nan, "NaN") + _counts(change.infinite, "infinite")),
            ]
        )
    widths = [max(width(line[at]) for line in table) for at in range(1, 5)]
    room = columns - 16 - sum(widths) - 2 * len(widths)
    notes = max(width(line[5]) for line in table)
    left = max(min(max(width(line[0]) for line in table), room - (notes + 2 if notes else 0)), 8)
    for line in table:
        numbers = [pad(cell, room, left=False) for cell, room in zip(line[1:5], widths, strict=True)]
        cells = "  ".join([pad(cut(line[0], left), left), *numbers, line[5]])
        yield cut(f"{'':16}{cells}".rstrip(), columns)
    if len(shown) < len(rows):
        yield f"{'':16}… {len(rows) - len(shown):,} more: --json lists them"


def _counts(pair: Iterable[int], what: str) -> list[str]:
    a, b = pair
    return [f"{what} {a:,} -> {b:,}"] if a != b else []
