"""What a float is made of, byte by byte, and how much each byte tells; how small and how fast ways of packing are.

A float32 is a sign, eight bits of exponent and 23 of mantissa. A byte plane is the same byte of many numbers.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import shutil
import struct
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from koemorph_tutorial.compressed_files import compress_checkpoint
from koemorph_tutorial.compression import Piece, pack, plane_entropies, unpack
from koemorph_tutorial.records import CheckpointError, Codec
from koemorph_tutorial.storage import load_checkpoint

from .figures import BLACK, BLUE, GREEN, PARTS_OF_A_FLOAT, PURPLE, VERMILLION, placed, style
from .flips import flip_at

T = TypeVar("T")
Bytes = npt.NDArray[np.uint8]

_FRACTIONS: Mapping[str, float] = {  # coarse, as in a recipe for a cake: they hold on every machine
    "all": 1,
    "9/10": 9 / 10,
    "4/5": 4 / 5,
    "2/3": 2 / 3,
    "1/2": 1 / 2,
    "1/3": 1 / 3,
    "1/4": 1 / 4,
    "1/6": 1 / 6,
    "1/9": 1 / 9,
    "1/12": 1 / 12,
}


def about(part: float, whole: float = 1) -> str:
    """Return the plain fraction that is nearest.

    >>> about(0.89), about(0.82), about(111, 1000)
    ('9/10', '4/5', '1/9')
    """
    return min(_FRACTIONS, key=lambda name: abs(_FRACTIONS[name] - part / whole))


def weights(path: str | os.PathLike[str]) -> bytes:
    """Return the float32s of the model in a checkpoint as they lie in memory, one tensor behind the other."""
    return _bytes_of(load_checkpoint(path)["model_state_dict"].values())


def _bytes_of(values: Any) -> bytes:
    return b"".join(value.numpy().tobytes() for value in values if value.dtype == torch.float32)


def packed(numbers: bytes) -> float:
    """Return what shuffle-zstd leaves, 0 to 1, of the bytes of float32s."""
    return len(_pack(numbers, "shuffle-zstd")) / len(numbers)


def _pack(numbers: bytes, codec: Codec) -> bytes:
    target = io.BytesIO()
    pack(io.BytesIO(numbers), target, codec, pieces=[Piece(offset=0, size=len(numbers), width=4)])
    return target.getvalue()


def flips_found(path: str | os.PathLike[str], times: int) -> int:
    """Flip a bit of a file on the disk, in a copy, so many times, from its first byte to its last; count refusals."""
    found = 0
    with tempfile.TemporaryDirectory(prefix="koemorph-floats-") as folder:
        copy = Path(shutil.copy(path, folder))
        for turn, byte in enumerate(np.linspace(0, copy.stat().st_size - 1, times).astype(int)):
            flip_at(copy, int(byte), turn % 8)
            try:
                load_checkpoint(copy)
            except CheckpointError:
                found += 1
            flip_at(copy, int(byte), turn % 8)  # back
    return found


# ---------------------------------------------------------------------------------------------------- the byte planes

_COLOURS = (BLUE, GREEN, GREEN, GREEN)  # of the bytes as they are written, the highest first: what most of each is
_ROWS, _COLUMNS = 48, 72  # of numbers in the picture of a plane
_TINTS = 20  # of a byte in it: a PNG of ours has 128 colours, and words need some of them
_LEFT, _WIDTH, _STEP = 0.01, 0.23, 0.25  # of a column, as parts of the figure


def planes(data: bytes) -> tuple[Figure, str]:
    """Draw the four byte planes of many float32s, and above them the first number bit by bit: figure and caption."""
    drawn = np.frombuffer(data, np.uint8).reshape(-1, 4).T[::-1]  # the lowest byte lies first in memory
    told = plane_entropies(data, 4)[::-1]
    with style():
        figure = placed(9, 5.7)
        _draw_number(figure, struct.unpack_from("<f", data)[0])
        for column, (plane, bits) in enumerate(zip(drawn, told, strict=True)):
            _draw_plane(figure, column, plane, bits)
        for height, text in (
            (0.795, f"The same byte of {min(_ROWS * _COLUMNS, len(data) // 4):,} weights, one dot each:"),
            (0.31, "How often each value occurs, from 0 to 255:"),
            (0.123, "How much it tells:"),
        ):
            figure.text(_LEFT, height, text, va="bottom")
    return figure, _told(len(data) // 4, told)


def _draw_number(figure: Figure, number: float) -> None:
    """Draw the 32 bits of a number, each byte above its plane, and what they say above them."""
    (bits,) = struct.unpack("<I", struct.pack("<f", number))
    ax = figure.add_axes((0, 0.86, 1, 0.14))
    width = _WIDTH / 8
    for _, colour, high, low in PARTS_OF_A_FLOAT:
        for bit in range(high, low - 1, -1):
            left = _LEFT + (31 - bit) * width + (31 - bit) // 8 * (_STEP - _WIDTH)
            ax.add_artist(Rectangle((left + 0.05 * width, 0), 0.9 * width, 0.42, facecolor=colour, alpha=0.25))
            ax.text(left + width / 2, 0.19, str(bits >> bit & 1), ha="center", va="center")
    power, digits = (bits >> 23 & 255) - 127, 1 + (bits & 0x7FFFFF) / 2**23
    for left, colour, text in (
        (_LEFT, PURPLE, f"sign {'−' if bits >> 31 else '+'}"),
        (_LEFT + 3 * width, BLUE, rf"exponent $2^{{{power}}}$"),
        (_LEFT + _STEP + width, GREEN, f"mantissa × {digits:.6f}"),
    ):
        ax.text(left, 0.68, text, va="center", color=colour, fontweight="bold")
    ax.text(_LEFT + 3 * _STEP + _WIDTH, 0.68, f"= {number:.6f}, a weight".replace("-", "−"), va="center", ha="right")
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.set_axis_off()


def _draw_plane(figure: Figure, column: int, plane: Bytes, told: float) -> None:
    colour, left = _COLOURS[column], _LEFT + column * _STEP
    picture, values, cells = (
        figure.add_axes((left, bottom, _WIDTH, height)) for bottom, height in ((0.38, 0.4), (0.19, 0.11), (0, 0.12))
    )
    tints = LinearSegmentedColormap.from_list("tints", ["white", colour, "black"], N=_TINTS)
    shown = np.resize(plane, (_ROWS, _COLUMNS))
    picture.imshow(shown, cmap=tints, vmin=0, vmax=255, aspect="auto", interpolation="nearest")
    picture.set_axis_off()
    values.stairs(np.bincount(plane, minlength=256), np.arange(257), fill=True, color=colour)
    values.set(xlim=(0, 256), yticks=[], xticks=[])
    values.spines["left"].set_visible(False)
    for cell in range(8):
        box: dict[str, Any] = {"height": 0.36, "linewidth": 0.8}
        part = min(max(told - cell, 0), 1)
        cells.add_artist(Rectangle((cell + 0.05, 0.55), 0.9 * part, facecolor=colour, edgecolor="none", **box))
        cells.add_artist(Rectangle((cell + 0.05, 0.55), 0.9, facecolor="none", edgecolor=BLACK, **box))
    cells.text(0.05, 0.3, f"{told:.2f} bits of 8", va="center", fontweight="bold" if told < 7 else "normal")
    cells.set(xlim=(0, 8), ylim=(0, 1))
    cells.set_axis_off()


def _told(numbers: int, told: Sequence[float]) -> str:
    bits = ", ".join(f"{each:.0f}" for each in told)
    limit = sum(told) / 8 / len(told)
    return (
        f"The bytes of {numbers:,} weights, sorted into four planes. Bits that a byte tells, of 8, from the sign on: "
        f"{bits}.\nWhoever packs them byte by byte, by one table for each plane, can leave no less than {about(limit)}."
    )


# --------------------------------------------------------------------------------------------- how small, and how fast


_ALL, _WEIGHTS, _ROUNDED = "all of it", "the weights, every bit", "the weights, rounded"
_LOOKS = {_ALL: (BLUE, ""), _WEIGHTS: (GREEN, "//"), _ROUNDED: (PURPLE, "xx")}


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to keep a checkpoint: what is left of the file, 0 to 1, and how many MB a second it writes and reads.

    `keeps` is what comes back. Speeds are None where they were not measured.
    """

    name: str
    left: float
    writes: float | None = None
    reads: float | None = None
    keeps: str = _ALL


def ways(path: str | os.PathLike[str]) -> tuple[Figure, str]:
    """Draw what is left of a checkpoint by each way to keep it, and how fast each is: figure and caption.

    Sizes are those of files. Speeds are measured in memory, without a disk, on the floats of the checkpoint.
    """
    return draw_ways(_measured(Path(path)))


def draw_ways(found: Sequence[Way]) -> tuple[Figure, str]:
    """Draw ways to keep a checkpoint: figure and caption."""
    with style():
        figure = Figure(figsize=(9, 3.5))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[1, 1])
        for row, way in enumerate(found):
            colour, hatch = _LOOKS[way.keeps]
            bar: dict[str, Any] = {"facecolor": f"{colour}40", "edgecolor": colour, "hatch": hatch, "linewidth": 1.5}
            left.barh(row, 100 * way.left, height=0.62, **bar)
            keeps = "" if way.keeps == _ALL else f"  {way.keeps}"
            left.text(100 * way.left + 2, row, f"{100 * way.left:.0f} %{keeps}", va="center")
        left.set_yticks(range(len(found)), [way.name for way in found])
        left.set(xlim=(0, 120), xticks=(0, 25, 50, 75, 100), xlabel="what is left of the file, in %")
        _draw_speeds(right, found)
        for ax in (left, right):
            ax.set_ylim(len(found) - 0.5, -0.5)
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="y", visible=False)
    sizes = ", ".join(f"{way.name} {about(way.left)}" for way in found)
    slowest = min((way for way in found if way.writes), key=lambda way: way.writes or 0)
    said = textwrap.fill(f"What is left of the file: {sizes}.", 100, break_on_hyphens=False)
    measured = (
        f"The slowest to write is {slowest.name}. Speeds are of the floats, in memory; their axis is logarithmic."
    )
    if any(way.writes is None for way in found):
        measured += "\nWhere no dot is, none was measured: the same packing, of fewer bytes."
    return figure, f"{said}\n{measured}"


def _draw_speeds(ax: Axes, found: Sequence[Way]) -> None:
    rows = [row for row, way in enumerate(found) if way.writes]
    for label, speeds, look in (
        ("to write", [found[row].writes for row in rows], {"marker": "o", "color": VERMILLION}),
        ("to read", [found[row].reads for row in rows], {"marker": "D", "color": BLACK, "markerfacecolor": "white"}),
    ):
        ax.plot(speeds, rows, linestyle="", markersize=8, label=label, **look)  # type: ignore[arg-type]
    ax.set(xscale="log", xlabel="MB in a second, in memory", xlim=(10, 20_000))
    ax.set_xticks([10, 100, 1000, 10_000], ["10", "100", "1,000", "10,000"])
    ax.minorticks_off()
    ax.legend(loc="lower right", title="further to the right: faster", alignment="left")


def _measured(path: Path) -> list[Way]:
    """Try the ways on a checkpoint."""
    checkpoint = torch.load(path)
    numbers = _bytes_of([*checkpoint["model_state_dict"].values(), *_moments(checkpoint)])
    tensor = torch.frombuffer(bytearray(numbers), dtype=torch.float32)
    size = path.stat().st_size

    def way(name: str, left: int, write: Callable[[], bytes], read: Callable[[bytes], object]) -> Way:
        written, writing = _quickest(write)
        reading = _quickest(lambda: read(written))[1]
        megabytes = len(numbers) / 1e6
        return Way(name=name, left=left / size, writes=megabytes / writing, reads=megabytes / reading)

    def by(codec: Codec) -> Way:
        name = codec if codec == "shuffle-zstd" else f"{codec} of the .pth"
        return way(
            name,
            file_size(codec),
            lambda: _pack(numbers, codec),
            lambda written: unpack(io.BytesIO(written), codec, path),
        )

    with tempfile.TemporaryDirectory(prefix="koemorph-floats-") as folder:

        def file_size(codec: Codec, **drop: bool) -> int:
            output = Path(folder, f"{codec} {len(drop)}")
            return compress_checkpoint(path, codec=codec, output=output, **drop).stat().st_size

        slim = file_size("shuffle-zstd", for_inference=True)
        slimmest = file_size("shuffle-zstd", for_inference=True, bf16=True)
        return [
            way("torch.save", size, lambda: _saved(tensor), lambda written: torch.load(io.BytesIO(written))),
            way(
                "the recipe",
                len(gzip.compress(pickle.dumps(checkpoint))),
                lambda: gzip.compress(pickle.dumps(tensor)),
                lambda written: pickle.loads(gzip.decompress(written)),
            ),
            by("gzip"),
            by("zstd"),
            by("shuffle-zstd"),
            Way(name="and no optimizer", left=slim / size, keeps=_WEIGHTS),
            Way(name="and bfloat16", left=slimmest / size, keeps=_ROUNDED),
        ]


def _moments(checkpoint: Mapping[str, Any]) -> list[torch.Tensor]:
    states = checkpoint["optimizer_state_dict"]["state"].values()
    return [value for state in states for value in state.values() if value.ndim]


def _saved(tensor: torch.Tensor) -> bytes:
    target = io.BytesIO()
    torch.save(tensor, target)
    return target.getvalue()


def _quickest(call: Callable[[], T], times: int = 5) -> tuple[T, float]:
    """Return what a call returns, and the seconds that it takes where nothing disturbs it."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        found = call()
        seconds.append(time.perf_counter() - begun)
    return found, min(seconds)
