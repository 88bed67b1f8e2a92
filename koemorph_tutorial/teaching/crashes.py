"""What is left of files when a process is killed: kills at a byte, and the figures of the lesson on storage."""

from __future__ import annotations

import io
import signal
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from koemorph_tutorial.testing.children import run
from koemorph_tutorial.testing.crash import Campaign, Trial

from .figures import BLACK, BLUE, GREEN, PURPLE, VERMILLION, placed, style

# What a verdict of the kit looks like, and what it says.
_LEFT: Mapping[str, tuple[str, str, str]] = {
    "OK": (GREEN, "o", "the run goes on"),
    "MISLED": (VERMILLION, "X", "the resume fails, though a good file is there"),
    "LOST": (BLACK, "D", "the save before is lost as well"),
    "STALE": (BLUE, "s", "an older save comes back"),
    "LITTER": (PURPLE, "v", "the run goes on, and leaves a temporary file"),
}
_OTHERWISE = (BLACK, "P", "something else is wrong")


def killed(function: Callable[..., object], *arguments: Any) -> bool:
    """Call `function` in a copy of this process, and return whether that was killed before it came to its end."""
    with tempfile.TemporaryDirectory(prefix="koemorph-killed-") as folder:
        return run(lambda: function(*arguments) and None, Path(folder), timeout=60).killed


def killed_at_byte(byte: int, function: Callable[..., object], *arguments: Any) -> bool:
    """Call `function` in a copy of this process that the system kills when a file of it grows beyond `byte` bytes.

    Returns whether it was killed; if not, the function came to its end.

    >>> from functools import partial
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "ten.txt")
    ...     killed_at_byte(4, path.write_text, "0123456789"), path.read_text()
    (True, '0123')
    """
    return killed(_limited, byte, function, *arguments)


def _limited(byte: int, function: Callable[..., object], *arguments: Any) -> None:
    import resource

    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no image of its memory is wanted
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python asks for an error instead of the kill
    resource.setrlimit(resource.RLIMIT_FSIZE, (byte, unlimited[1]))
    try:
        function(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)


def torn_file(whole: bytes, torn: bytes) -> tuple[Figure, str]:
    """Draw a `.pth` file as it should be, at the moment it is opened for writing, and as a kill left it."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        table = archive.start_dir  # where the last part of a zip archive begins
    left = min(len(torn) / len(whole), 1)
    missing = "no table" if len(torn) <= table else "not the whole table"
    killed = "epoch 7, killed" if left < 1 else "epoch 7, not killed"
    rows = {
        "epoch 6, saved": (whole, 0.012, "all there"),
        "epoch 7, file opened": (b"", 0.012, "empty: epoch 6 is gone"),
        killed: (
            torn,
            (left if left < 0.6 else 0) + 0.012,
            f"{missing}: nothing can be found" if left < 1 else "all there",
        ),
    }
    with style():
        figure = Figure(figsize=(9, 2.9))
        ax = figure.subplots()
        for row, (content, x, says) in enumerate(rows.values()):
            end = min(len(content), table) / len(whole)
            ax.barh(row, 1, 0.5, facecolor="none", edgecolor=BLACK, linestyle=":", linewidth=1.2)
            if content:
                ax.barh(row, end, 0.5, facecolor=f"{BLUE}50", edgecolor=BLUE, linewidth=1.5)
            if len(content) > table:
                ax.barh(row, len(content) / len(whole) - end, 0.5, end, color=VERMILLION)
            ax.text(x, row, says, va="center")
        ax.annotate(
            "table of contents,\nwritten last",
            (1, 0),
            (1.035, 0),
            color=VERMILLION,
            fontweight="bold",
            va="center",
            arrowprops={"arrowstyle": "-", "color": VERMILLION, "linewidth": 1.5},
        )
        ax.set(xlim=(0, 1.3), ylim=(2.45, -0.45), yticks=range(3), yticklabels=list(rows))
        ax.set_xticks([0, 0.5, 1], ["0", "half", "all of its bytes"])
        ax.tick_params(axis="y", length=0)
        ax.spines[["left", "bottom"]].set_visible(False)
        ax.grid(visible=False)
    return figure, (
        f"last_model.pth, from its first byte to its last, at three moments. The table of contents is the last "
        f"{100 * (1 - table / len(whole)):.0f} % of the file. "
        + (f"The kill left {min(round(100 * left), 99)} %, and {missing}." if left < 1 else "No kill came.")
    )


def kill_test(campaigns: Mapping[str, Campaign]) -> tuple[Figure, str]:
    """Draw what was left after a kill at each moment of the second save of some trainings, one row each."""
    rows = {name: [trial for trial in campaign.trials if trial.point.save == 1] for name, campaign in campaigns.items()}
    seen = [trial.verdict for trials in rows.values() for trial in trials]
    looks = list(dict.fromkeys(_look(verdict) for verdict in sorted(seen, key=[*_LEFT, *seen].index)))
    height = 1.6 * len(rows) + 0.25 * ((len(looks) + 1) // 2) + 0.25  # inches: a row each, and the legend
    with style():
        figure = placed(9, height)
        for row, (name, trials) in enumerate(rows.items()):
            ax = figure.add_axes((0.01, 1 - (1.6 * row + 1.1) / height, 0.98, 0.8 / height))
            _row(ax, trials)
            ax.set(xlim=(-1.2, max(map(len, rows.values())) - 0.4), title=name)
        handles = [_mark(ax, [], look) for look in looks]
        figure.legend(handles, [look[2] for look in looks], loc="lower left", ncols=2, handletextpad=0.2)
    harm = "; ".join(f"{name}, {_harm(trials)}" for name, trials in rows.items())
    return figure, f"One save, killed before each of its file operations. Harmful kills: {harm}."


def _harm(trials: Sequence[Trial]) -> str:
    # How many kills there are is said of a harmful save alone: ours writes what this machine is called as well.
    bad = sum(trial.verdict != "OK" for trial in trials)
    return f"{bad} of {len(trials)}" if bad else "none"


def _look(verdict: str) -> tuple[str, str, str]:
    return _LEFT.get(verdict, _OTHERWISE)


def _row(ax: Axes, trials: Sequence[Trial]) -> None:
    """Draw one save from left to right: a mark for each kill, below it what came next, above it of which file."""
    for place, trial in enumerate(trials):
        _mark(ax, [place], _look(trial.verdict))
    moments = ["half a write" if trial.mode == "torn" else trial.point.name for trial in trials]
    ax.set_xticks(range(len(trials)), moments, rotation=40, ha="right", rotation_mode="anchor")
    ax.set(ylim=(-0.4, 1), yticks=[])
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.tick_params(axis="x", length=0)
    ax.grid(visible=False)
    for what, first, last in _spans([_file(trial.point.path) for trial in trials]):
        ax.plot([first - 0.35, last + 0.35], [0.42, 0.42], color="#8c8c8c", linewidth=1.5)
        ax.text((first + last) / 2, 0.52, what, ha="center", va="bottom")


def _mark(ax: Axes, x: Sequence[float], look: tuple[str, str, str]) -> Line2D:
    colour, marker, _ = look
    (line,) = ax.plot(x, [0] * len(x), linestyle="", marker=marker, markersize=11, color=colour, clip_on=False)
    return line


def _spans(names: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Yield each run of equal names with the places of its first and last."""
    place = 0
    for name, group in groupby(names):
        count = len(list(group))
        yield name, place, place + count - 1
        place += count


def _file(path: str) -> str:
    """Say in a word which file of a run a path is, or will be when its temporary name is replaced."""
    for part, word in {"epoch": "numbered", "best_model": "best", "last_model": "last", ".lock": "lock"}.items():
        if part in Path(path).name:
            return word
    return "folder"
