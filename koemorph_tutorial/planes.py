"""What a number is made of: byte planes, the first bytes of many numbers together, then the second, and so on.

The bytes of trained weights look like noise; planes show which ones are. In a float32 the last three bytes are digits,
as random as those of a long division, and nothing makes them smaller. The first one holds sign and exponent, and
weights are of a few sizes only: it carries some 3 bits, and a codec finds that once it stands beside its like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]

_BLOCK = 1 << 18


def shuffle(data: Any, width: int) -> bytes:
    """Return the bytes of numbers of `width` bytes as planes, one after another.

    What is left over at the end, less than a number, stays there.

    >>> shuffle(b"a1b2c3.", 2)
    b'abc123.'

    Raises:
        ValueError: `width` is below 1.
    """
    import numpy as np

    numbers, rest = _split(data, width)
    planes = np.empty(numbers.shape[::-1], np.uint8)
    to_planes(numbers, planes)
    return planes.tobytes() + rest


def unshuffle(data: Any, width: int) -> bytes:
    """Return the numbers of which `shuffle` made planes.

    >>> unshuffle(b"abc123.", 2)
    b'a1b2c3.'

    Raises:
        ValueError: `width` is below 1.
    """
    import numpy as np

    planes, rest = _split(data, width)
    numbers = np.empty(planes.shape, np.uint8)
    from_planes(planes.reshape(planes.shape[::-1]), numbers)
    return numbers.tobytes() + rest


def plane_entropies(data: Any, width: int) -> list[float]:
    """Return for each byte plane how many bits a byte of it carries, from 0 to 8 (Shannon 1948, order 0).

    It is the least that a code can reach which looks at one byte at a time, as Huffman's does. Bytes that follow one
    another by a rule can take less.

    >>> plane_entropies(bytes([7, 0, 7, 1, 7, 2, 7, 3]), 2)
    [0.0, 2.0]

    Raises:
        ValueError: `width` is below 1.
    """
    import numpy as np

    numbers, _ = _split(data, width)
    entropies = []
    for plane in numbers.T:
        counts = np.zeros(256, np.int64)
        for at in range(0, len(plane), _BLOCK):  # numpy makes whole numbers of 8 bytes of them first
            counts += np.bincount(plane[at : at + _BLOCK], minlength=256)
        shares = counts[counts > 0] / max(len(plane), 1)
        entropies.append(float(-(shares * np.log2(shares)).sum()) + 0.0)  # never -0.0
    return entropies


def _split(data: Any, width: int) -> tuple[Bytes, bytes]:
    import numpy as np

    if width < 1:
        raise ValueError(f"width: expected the bytes of a number, 1 or more, found {width}")
    flat = np.frombuffer(data, np.uint8)
    whole = len(flat) // width * width
    return flat[:whole].reshape(-1, width), flat[whole:].tobytes()


def to_planes(numbers: Bytes, planes: Bytes) -> None:
    """Fill `planes`, a row for each, from `numbers`, a row for each."""
    for at in range(len(planes)):  # numpy copies a plane at a time faster than it turns the whole over
        planes[at] = numbers[:, at]


def from_planes(planes: Bytes, numbers: Bytes) -> None:
    """Fill `numbers` from `planes`."""
    for at in range(len(planes)):
        numbers[:, at] = planes[at]
