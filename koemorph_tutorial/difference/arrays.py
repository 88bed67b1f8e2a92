"""Two arrays of numbers: are they the same bits, and if not, by how much do they differ?

Everything is done in small blocks, so that no copy of a large array is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from koemorph_tutorial.tensors import Array, as_numbers

_BLOCK = 1 << 13  # numbers; as float64 they stay in the cache
_SMALL = 2.0**-540  # brings the largest float64 to where it can be squared


@dataclass(frozen=True, kw_only=True)
class Change:
    """How the numbers of one tensor differ.

    `numbers` are all that it has, `differing` those of other bits. `largest` is the largest |b - a|, and `relative`
    is ‖b - a‖ / ‖a‖, the Euclidean norm of the change over that of A: infinite where A is all zeros. Both are taken
    over the pairs in which both numbers are finite; `nan` and `infinite` count the others, in A and in B.
    `index` is the place of the first number that differs, `before` and `after` are its values; `bit` is the bit in
    which they differ, counted from the lowest, if it is a single one. `zeroed` says that all that differ are 0 in B:
    what a lost block of a disk looks like.
    """

    numbers: int
    differing: int = 0
    largest: float = 0.0
    relative: float = 0.0
    nan: tuple[int, int] = (0, 0)
    infinite: tuple[int, int] = (0, 0)
    index: tuple[int, ...] = ()
    before: Any = None
    after: Any = None
    bit: int | None = None
    zeroed: bool = False

    def to_plain(self) -> dict[str, Any]:
        """Return the change as containers for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def compare_arrays(a: Array, b: Array, dtypes: tuple[str, str], repeated: int = 1) -> Change | None:
    """Say how `b` differs from `a`, an array of the same shape; None where dtype and bits are the same.

    `dtypes` are those of the tensors: numpy knows no bfloat16. Where they differ, numbers are compared by their values.
    `repeated` is how many times the tensor repeats each number, where it is an expanded one.
    """
    x, y = a.reshape(-1), b.reshape(-1)
    same_dtype = dtypes[0] == dtypes[1]
    differs = _differing_bits if same_dtype else _differing_values(dtypes)
    differing, first, zeroed = 0, None, True
    for at in range(0, x.size, 16 * _BLOCK):
        other = differs(x[at : at + 16 * _BLOCK], y[at : at + 16 * _BLOCK])
        number = int(np.count_nonzero(other))
        differing += number
        if number and first is None:
            first = at + int(other.argmax())
        zeroed = zeroed and not y[at : at + 16 * _BLOCK][other].any()
    if first is None:
        if same_dtype:
            return None
        return Change(numbers=x.size * repeated)
    before, after = x[first : first + 1], y[first : first + 1]
    largest, relative, nan, infinite = _measure(x, y, dtypes)
    return Change(
        numbers=x.size * repeated,
        differing=differing * repeated,
        largest=largest,
        relative=relative,
        nan=(nan[0] * repeated, nan[1] * repeated),
        infinite=(infinite[0] * repeated, infinite[1] * repeated),
        index=tuple(int(i) for i in np.unravel_index(first, a.shape)),
        before=_value(before, dtypes[0]),
        after=_value(after, dtypes[1]),
        bit=_bit(before, after) if same_dtype else None,
        zeroed=zeroed,
    )


def _differing_bits(x: Array, y: Array) -> Any:
    if x.itemsize == 16:  # complex128: two words
        return (_words(x) != _words(y)).reshape(-1, 2).any(axis=1)
    return _words(x) != _words(y)


def _words(x: Array) -> Array:
    return np.ascontiguousarray(x).view(f"u{min(x.itemsize, 8)}")


def _differing_values(dtypes: tuple[str, str]) -> Callable[[Array, Array], Any]:
    def differs(x: Array, y: Array) -> Any:
        x, y = as_numbers(x, dtypes[0]), as_numbers(y, dtypes[1])
        return (x != y) & ~((x != x) & (y != y))  # only NaN is not itself

    return differs


def _bit(x: Array, y: Array) -> int | None:
    """Return the one bit in which two numbers differ, None if it is more than one."""
    before, after = (int.from_bytes(number.tobytes(), "little") for number in (x, y))
    changed = before ^ after
    return changed.bit_length() - 1 if changed.bit_count() == 1 else None


def _value(x: Array, dtype: str) -> Any:
    """Return one number as a plain one; a complex one as text."""
    value = as_numbers(x, dtype)[0].item()
    return str(value) if isinstance(value, complex) else value


Measures = tuple[float, float, tuple[int, int], tuple[int, int]]


def _measure(x: Array, y: Array, dtypes: tuple[str, str]) -> Measures:
    with np.errstate(all="ignore"):
        measured = _sums(x, y, dtypes, 1.0)
        if not (math.isfinite(measured[0]) and math.isfinite(measured[1])):  # the squares of very large numbers
            measured = _sums(x, y, dtypes, _SMALL)
    change, norm, largest, nan, infinite = measured
    relative = math.sqrt(change / norm) if norm else math.inf if change else 0.0
    return largest, relative, nan, infinite


def _sums(
    x: Array, y: Array, dtypes: tuple[str, str], scale: float
) -> tuple[float, float, float, tuple[int, int], tuple[int, int]]:
    """Return the sums of squares of the change and of `x`, the largest change, and the counts of NaN and infinity."""
    change, norm, largest = 0.0, 0.0, 0.0
    nan, infinite = [0, 0], [0, 0]
    for u, v in _blocks(x, y, dtypes):
        exact = _largest_of_integers(u, v)
        wide = np.complex128 if u.dtype.kind == "c" or v.dtype.kind == "c" else np.float64
        p, q = u.astype(wide), v.astype(wide)
        if scale != 1.0:
            p, q = p * scale, q * scale
        step = q - p
        here = float(np.vdot(step, step).real)
        own = float(np.vdot(p, p).real)
        if not math.isfinite(here + own):
            for at, numbers in enumerate((p, q)):
                nan[at] += int(np.count_nonzero(np.isnan(numbers)))
                infinite[at] += int(np.count_nonzero(np.isinf(numbers)))
            finite = np.isfinite(p) & np.isfinite(q)
            p, step = p[finite], step[finite]
            here, own = float(np.vdot(step, step).real), float(np.vdot(p, p).real)
        change, norm = change + here, norm + own
        if exact is not None:
            largest = max(largest, exact)
        elif step.size:
            largest = max(largest, float(np.abs(step).max()) / scale)
    return change, norm, largest, (nan[0], nan[1]), (infinite[0], infinite[1])


def _blocks(x: Array, y: Array, dtypes: tuple[str, str]) -> Iterator[tuple[Array, Array]]:
    for at in range(0, x.size, _BLOCK):
        yield as_numbers(x[at : at + _BLOCK], dtypes[0]), as_numbers(y[at : at + _BLOCK], dtypes[1])


def _largest_of_integers(u: Array, v: Array) -> int | None:
    """Return the largest change of whole numbers of one dtype, exactly, which a float64 cannot hold; else None."""
    if u.dtype != v.dtype or u.dtype.kind not in "iu":
        return None
    # The difference of the larger and the smaller is right in 64 bits without a sign, whatever wraps around.
    return int((np.maximum(u, v).astype(np.uint64) - np.minimum(u, v).astype(np.uint64)).max())
