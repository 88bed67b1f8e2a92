"""What the lesson on storage shows: a real kill at a byte, and the figures of what it leaves."""

from __future__ import annotations

import re
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from koemorph_tutorial.teaching.crashes import kill_test, killed_at_byte, torn_file
from koemorph_tutorial.testing import Campaign, Trial
from koemorph_tutorial.testing.operations import Operation


@pytest.mark.parametrize("byte", [0, 1, 999, 1000, 1001])
def test_a_file_is_torn_at_the_very_byte(tmp_path: Path, byte: int) -> None:
    file = tmp_path / "file"
    assert killed_at_byte(byte, file.write_bytes, bytes(1000)) == (byte < 1000)
    assert min(byte, 1000) == file.stat().st_size


def test_a_kill_leaves_this_process_and_its_limits_alone(tmp_path: Path) -> None:
    assert killed_at_byte(10, torch.save, {"epoch": 7}, tmp_path / "torn.pth")
    torch.save({"epoch": 7}, tmp_path / "whole.pth")
    assert (tmp_path / "whole.pth").stat().st_size > 10
    assert {"torn.pth", "whole.pth"} == {path.name for path in tmp_path.iterdir()}


def test_a_function_that_fails_or_ends_its_process_was_not_killed(tmp_path: Path) -> None:
    assert not killed_at_byte(10, partial(int, "x"))
    assert not killed_at_byte(10, exit)
    assert not killed_at_byte(10, time.sleep, 0)


def campaign(**verdicts: list[str]) -> Campaign:
    """Return a campaign of one save before the one that is drawn, and of these operations with their verdicts in it."""
    done = [("open", "OK"), *((name, verdict) for name, each in verdicts.items() for verdict in each), ("end", "OK")]
    saves = [0, *[1] * (len(done) - 2), 2]
    path = ".best_model.pth.1-f00.tmp"
    points = [
        Operation(number=number, name=name, path=path, save=save)
        for number, ((name, _), save) in enumerate(zip(done, saves, strict=True), 1)
    ]
    trials = [Trial(point=p, mode="kill", verdict=verdict) for p, (_, verdict) in zip(points, done, strict=True)]
    return Campaign(points=tuple(points), trials=tuple(trials), blind_spots=())


def test_what_was_left_is_counted_in_the_caption_and_explained_in_the_legend() -> None:
    figure, caption = kill_test(
        {"theirs": campaign(open=["OK"], write=["MISLED", "LOST", "RESTART"]), "ours": campaign(open=["OK", "OK"])}
    )
    assert caption.endswith("Harmful kills: theirs, 3 of 4; ours, none.")
    assert ["theirs", "ours"] == [ax.get_title(loc="left") for ax in figure.axes]
    (legend,) = figure.legends
    looks = [(line.get_color(), line.get_marker()) for line in legend.get_lines()]
    assert 4 == len(set(looks)) == len({text.get_text() for text in legend.get_texts()})
    assert 4 == len({marker for _, marker in looks})  # told apart without colour
    marks = [(line.get_color(), line.get_marker()) for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    assert set(looks) == set(marks)


def test_nothing_in_the_figure_of_kills_overlaps() -> None:
    many = campaign(open=["OK"], write=["OK"] * 9, fsync=["OK"], rename=["MISLED"], truncate=["LITTER"])
    figure, _ = kill_test({"one": many, "two": many})
    figure.canvas.draw()
    labels = [[label.get_window_extent() for label in ax.get_xticklabels()] for ax in figure.axes]
    below = [figure.axes[1].title.get_window_extent(), figure.legends[0].get_window_extent()]
    for boxes, under in zip(labels, below, strict=True):
        assert [] == [box for box in boxes if box.x0 < under.x1 and box.y0 < under.y1 - 5]
        assert figure.bbox.x0 <= min(box.x0 for box in boxes)
    sizes = [label.get_fontsize() for ax in figure.axes for label in (*ax.get_xticklabels(), *ax.texts)]
    assert min(sizes) >= 10.5


def test_the_figure_of_a_torn_file_says_how_much_of_it_is_left(tmp_path: Path) -> None:
    file = tmp_path / "last_model.pth"
    torch.save({"weights": torch.zeros(30_000)}, file)
    whole = file.read_bytes()
    figure, caption = torn_file(whole, whole[: len(whole) // 4])
    assert re.search(r"is the last \d % of the file\. The kill left 25 %, and no table\.$", caption)
    assert 3 == len(figure.axes[0].get_yticklabels())
    assert torn_file(whole, whole[:-1])[1].endswith("The kill left 99 %, and not the whole table.")
    assert torn_file(whole, b"")[1].endswith("The kill left 0 %, and no table.")
    assert torn_file(whole, whole)[1].endswith("% of the file. No kill came.")
