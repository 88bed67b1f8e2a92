"""What the lesson on retention shows: a run lived through without a disk, its bars, and the knobs that are turned."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from koemorph_tutorial import CheckpointManager
from koemorph_tutorial.records import numbered_name
from koemorph_tutorial.retention import plan_retention
from koemorph_tutorial.storage import list_checkpoints
from koemorph_tutorial.teaching import lifetimes, recipe
from koemorph_tutorial.teaching.figures import BLACK, BLUE, GREEN, PURPLE, VERMILLION
from koemorph_tutorial.teaching.history import LOSSES, MILESTONES, History, live
from koemorph_tutorial.teaching.lifetimes import WhatStays, timeline, two_clocks

# ---------------------------------------------------------------------------------------------- real files, and copies


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six epochs, resumed after epoch 3; its best is epoch 1."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    lifetimes.recipe_run(folder, [0.9, 0.2, 0.5, 0.6, 0.3, 0.4], resumed=3)
    return folder


def test_a_run_of_the_recipe_is_real_and_has_forgotten_its_best(run: Path) -> None:
    assert 8 == len(list(run.iterdir()))
    for epoch in range(6):
        assert epoch == torch.load(run / numbered_name(epoch))["epoch"]
    assert [5, 4] == [torch.load(run / name)["epoch"] for name in ("last_model.pth", "best_model.pth")]
    assert 8 == len({file.stat().st_ino for file in run.iterdir()})  # every name is written anew
    assert [0, 1, 2, 3, 4, 5] == lifetimes.epochs(run)


def test_a_copy_has_the_names_and_the_bytes_and_other_times(run: Path, tmp_path: Path) -> None:
    lifetimes.copy(run, tmp_path / "copy", seed=6)
    contents = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in (run, tmp_path / "copy")]
    assert contents[0] == contents[1]
    times = {file.stat().st_mtime for file in (tmp_path / "copy").iterdir()}
    assert 8 == len(times)  # no two are alike, so that no sorting is left to chance
    names = recipe.order(os.listdir(run), seed=6)
    assert [name for name in names if "epoch" in name] == [
        numbered_name(e) for e in lifetimes.epochs(tmp_path / "copy")
    ]
    lifetimes.copy(run, tmp_path / "other", seed=7)
    assert not times & {file.stat().st_mtime for file in (tmp_path / "other").iterdir()}


def test_the_order_is_drawn_whatever_the_disk_says() -> None:
    names = [numbered_name(epoch) for epoch in range(12)]
    assert recipe.order(names, seed=6) == recipe.order(names[::-1], seed=6)
    assert names == sorted(recipe.order(names, seed=6))
    assert 20 == len({tuple(recipe.order(names, seed=seed)) for seed in range(20)})


# ------------------------------------------------------------------------------------------------- lived through, twice


@pytest.mark.parametrize(
    "rules",
    [
        {"keep_last_n": 3},
        {"keep_last_n": 2, "keep_best_n": 0},
        {"keep_last_n": 4, "keep_best_n": 3},
        {"keep_last_n": None, "keep_best_n": 1},
        {"keep_last_n": 2, "milestones": (3, 10, 11)},
        {"keep_last_n": 5, "keep_best_n": 2, "milestones": (4,), "save_freq": 1},
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_it_lives_as_a_real_manager_does(rules: dict[str, Any], seed: int, tmp_path: Path) -> None:
    """After each epoch the same names lie in the folder, and as many files; so it is to the end."""
    chance = random.Random(seed)
    losses = [1 / (epoch + 2) + chance.random() / 2 for epoch in range(17)]
    rules = {"save_freq": 4, "milestones": (), **rules}
    with CheckpointManager(tmp_path, {"model": torch.nn.Linear(1, 1)}, **rules) as checkpoints:
        for epoch in checkpoints.epochs(len(losses)):
            checkpoints.save({"loss": losses[epoch]})
            if epoch < len(losses) - 1:
                compare(tmp_path, live(losses, until=epoch, **rules))
    compare(tmp_path, live(losses, **rules))


def compare(folder: Path, history: History) -> None:
    files = list_checkpoints(folder)
    assert {(file.path.name, file.epoch) for file in files} == {(f.path.name, f.epoch) for f in history.files}
    assert len({file.inode for file in files}) == history.copies[-1]
    there = [life.born for life in history.lives if life.died is None]
    assert sorted(file.epoch for file in files if file.kind == "numbered") == there
    (best,) = (file.epoch for file in files if file.kind == "best")
    assert best == history.bests[-1]


def test_what_is_removed_dies_after_the_save_that_pushed_it_out() -> None:
    history = live([5, 4, 3, 2, 1], save_freq=1, keep_last_n=2, keep_best_n=1)
    assert {0: 2, 1: 3, 2: 4, 3: None, 4: None} == {life.born: life.died for life in history.lives}
    assert ("older than the newest 2",) == history.lives[0].reasons
    assert ("one of the newest 2", "the newest", "the best") == history.lives[4].reasons
    assert (1, 2, 2, 2, 2) == history.copies  # best, last and number are names of the same
    assert (1, 2, 3, 4, 5) == history.written


def test_what_it_says_is_true() -> None:
    assert str(live(keep_last_n=3)) == (
        "After epoch 59: 4 of 13 numbered files are there. On the disk 5 files instead of 14: 36 % of the bytes.\n"
        "The best, epoch 37, is there as best_model.pth.\n"
        "Should the newest file be damaged, the run goes back to epoch 55."
    )
    assert str(live(keep_last_n=3, until=0)) == (
        "After epoch 0: 1 of 1 numbered file is there. On the disk 1 file instead of 1: 100 % of the bytes.\n"
        "The best, epoch 0, is there as best_model.pth, checkpoint_epoch_000.pth and last_model.pth.\n"
        "Should the newest file be damaged, nothing is left."
    )


@pytest.mark.parametrize("losses", [[], [float("nan"), 0.5]])
def test_a_run_without_a_best_is_refused(losses: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^losses: expected some, and the first one finite, found "):
        live(losses)


def test_the_run_of_the_widget_has_its_best_between_two_numbers_and_before_its_end() -> None:
    ranked = sorted(range(60), key=lambda epoch: LOSSES[epoch])
    assert (37, 60) == (ranked[0], len(LOSSES))
    assert LOSSES[ranked[1]] - LOSSES[37] > 0.005
    assert min(LOSSES[18:21]) > 0.05 + LOSSES[17]  # the bad spell


def test_the_task_in_the_lesson_can_be_done_with_seven_files_and_in_one_way() -> None:
    done = []
    for last in range(2, 14):
        for best in range(6):
            for every in (None, 10, 15, 20, 25, 30):
                for milestones in ((), MILESTONES):
                    history = live(keep_last_n=last, keep_best_n=best, keep_every_n=every, milestones=milestones)
                    if any(13 <= file.epoch < 18 for file in history.files):
                        done.append((history.copies[-1], last, best, every, milestones))
    assert [(7, 2, 0, 15, ())] == [way for way in done if way[0] <= 7]


# --------------------------------------------------------------------------------------------------------- the figures


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    figure.draw_without_rendering()
    texts = [*figure.texts]
    for ax in figure.axes:
        texts += [*ax.texts, ax._left_title]  # type: ignore[attr-defined]
        texts += ax.get_xticklabels() if ax.xaxis.get_tick_params()["labelbottom"] else []
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text() and text.get_visible()]
    assert figure.bbox.x0 <= min(box.x0 for _, box in boxes)
    assert max(box.x1 for _, box in boxes) <= figure.bbox.x1
    assert max(box.y1 for _, box in boxes) <= figure.bbox.y1
    assert min(text.get_fontsize() for text in texts) >= 11
    return [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]


ALL: Mapping[str, Any] = {"keep_last_n": 13, "keep_best_n": 5, "keep_every_n": 10, "milestones": MILESTONES}


@pytest.mark.parametrize("until", [0, 7, 33, 58, None])
@pytest.mark.parametrize("rules", [{"keep_last_n": 2, "keep_best_n": 0}, ALL])
def test_nothing_in_the_bars_overlaps_or_leaves_them(rules: dict[str, Any], until: int | None) -> None:
    history = live(until=until, **rules)
    figure, caption = timeline(history, epochs=60, titled=f"keep_last_n = 13\n{history}")
    assert [] == overlapping(figure)
    assert caption == str(history)


def test_each_reason_has_its_colour_and_its_marker() -> None:
    history = live(keep_last_n=2, keep_best_n=1, keep_every_n=20, milestones=MILESTONES)
    middle = timeline(history)[0].axes[1]
    marks = {
        round(float(line.get_ydata()[0])): (line.get_markerfacecolor(), line.get_marker()) for line in middle.lines
    }  # type: ignore[index, arg-type]
    seen = {life.born: marks[row] for row, life in enumerate(history.lives)}
    assert {0, 20, 40} == {born for born, look in seen.items() if look == (BLUE, "s")}
    assert {10, 25, 50} == {born for born, look in seen.items() if look == (PURPLE, "D")}
    assert {35} == {born for born, look in seen.items() if look == (GREEN, "*")}
    assert {55, 59} == {born for born, look in seen.items() if look == (BLACK, "o")}
    assert {5, 15, 30, 45} == {born for born, look in seen.items() if look == (VERMILLION, "X")}
    says = [text.get_text() for text in middle.texts]
    assert {"every 20", "milestone", "best", "newest", "best_model.pth: epoch 37"} <= set(says)
    assert [f"{life.born:03d}" for life in history.lives] == [text for text in says if text.isdigit()]


def test_every_reason_of_a_plan_is_known() -> None:
    losses = [float("nan") if epoch == 58 else loss for epoch, loss in enumerate(LOSSES)]
    for life in live(losses, save_freq=1, **ALL).lives:
        if life.died is None:
            assert any(word in reason for reason in life.reasons for word in lifetimes._LOOKS), life


def test_a_bar_ends_where_its_file_was_removed() -> None:
    history = live(keep_last_n=3)
    bars = [patch for patch in timeline(history)[0].axes[1].patches if patch.get_hatch() != "...."]
    ends = [(round(bar.get_x()), round(bar.get_x() + bar.get_width())) for bar in bars]  # type: ignore[attr-defined]
    assert ends == [(life.born, 60 if life.died is None else life.died) for life in history.lives]
    hatched = [bar.get_hatch() == "////" for bar in bars]  # told apart without colour
    assert hatched == [life.died is not None for life in history.lives]


def test_a_plan_is_drawn_as_it_is(run: Path) -> None:
    plan = plan_retention(list_checkpoints(run), keep_last_n=2)
    figure, caption = timeline(plan, titled="what goes now")
    assert caption == "Of 6 numbered files 3 stay: 1, 4 and 5."
    assert [] == overlapping(figure)
    (ax,) = figure.axes
    assert ["000", "001", "002", "003", "004", "005", "best", "newest", "newest"] == sorted(
        text.get_text() for text in ax.texts
    )
    assert "Of 0 numbered files 0 stay: none." == timeline(plan_retention([], keep_last_n=2))[1]


@pytest.mark.parametrize(
    ("by_clock", "left", "says"),
    [
        (
            [3, 0, 2, 1, 5, 4],
            [1, 5, 4],
            "1, 5 and 4 were copied last and stay. Removed of the newest: 3. The best is there.",
        ),
        (
            [5, 1, 4, 3, 2, 0],
            [3, 2, 0],
            "3, 2 and 0 were copied last and stay. Removed of the newest: 4 and 5. The best is removed.",
        ),
        (
            [0, 1, 2, 3, 4, 5],
            [3, 4, 5],
            "3, 4 and 5 were copied last and stay. Removed of the newest: none. The best is removed.",
        ),
    ],
)
def test_two_clocks_say_what_the_wrong_one_cost(by_clock: list[int], left: list[int], says: str) -> None:
    figure, caption = two_clocks(by_clock, left, losses=[0.9, 0.2, 0.5, 0.6, 0.3, 0.4])
    assert [] == overlapping(figure)
    assert "Left by the epochs in them: 3, 4 and 5 are the newest (●), 1 is the best (★)." in caption
    assert caption.endswith(says)
    for ax, kept in zip(figure.axes, ({1, 3, 4, 5}, set(left)), strict=True):
        bars = [patch for patch in ax.patches if patch.get_alpha() is None]
        assert kept == {row for row, bar in enumerate(bars) if not bar.get_hatch()}


# --------------------------------------------------------------------------------------------------------- the widget


@pytest.fixture(scope="module")
def stays() -> WhatStays:
    """The knobs as the lesson turns them first; every test leaves them there."""
    return WhatStays(keep_last_n=3)


KNOBS: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("keep_last_n", 6, {"keep_last_n": 6}),
    ("keep_best_n", 0, {"keep_best_n": 0}),
    ("keep_every_n", 20, {"keep_every_n": 20}),
    ("milestones", True, {"milestones": MILESTONES}),
    ("epoch", 33, {"until": 33}),
)


@pytest.mark.parametrize(("knob", "value", "rules"), KNOBS)
def test_a_knob_that_is_turned_turns_its_rule(stays: WhatStays, knob: str, value: Any, rules: dict[str, Any]) -> None:
    slider = getattr(stays, knob)
    before, picture = slider.value, bytes(stays._image.value)
    assert live(keep_last_n=3) == stays.history
    slider.value = value
    assert live(**{"keep_last_n": 3, **rules}) == stays.history
    assert stays.caption.startswith(f"{stays.history}\nThe task: the best is there. ")
    assert [label.value for label in stays._labels] == stays.caption.splitlines()
    assert picture != bytes(stays._image.value)
    slider.value = before
    assert picture == bytes(stays._image.value)


def test_a_knob_cannot_ask_for_one_file(stays: WhatStays) -> None:
    stays.keep_last_n.value = 1
    assert 2 == stays.keep_last_n.value
    stays.keep_last_n.value = 3


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"keep_last_n": 3}, "One of the epochs 13 to 17: missing. At most 7 files: yes."),
        ({"keep_last_n": 3, "keep_every_n": 15}, "One of the epochs 13 to 17: epoch 15 is there. At most 7 files: no."),
        (
            {"keep_last_n": 2, "keep_best_n": 0, "keep_every_n": 15},
            "One of the epochs 13 to 17: epoch 15 is there. At most 7 files: yes.",
        ),
        ({"keep_last_n": 7}, "One of the epochs 13 to 17: missing. At most 7 files: no."),
    ],
)
def test_the_caption_says_what_of_the_task_holds(rules: dict[str, Any], says: str) -> None:
    assert f"The task: the best is there. {says}" == WhatStays(**rules).caption.splitlines()[-1]


def test_it_begins_as_it_is_told() -> None:
    stays = WhatStays(keep_last_n=2, keep_best_n=2, keep_every_n=30, milestones=True, epoch=40)
    rules = {"keep_last_n": 2, "keep_best_n": 2, "keep_every_n": 30, "milestones": MILESTONES, "until": 40}
    assert live(**rules) == stays.history  # type: ignore[arg-type]
    assert "keep_last_n = 2, keep_best_n = 2, keep_every_n = 30, milestones 10, 25, 50" == stays.rules
    stays.keep_best_n.value = stays.keep_every_n.value = 0
    stays.milestones.value = False
    assert "keep_last_n = 2, keep_best_n = 0, keep_every_n = off" == stays.rules


def test_where_nothing_runs_the_picture_and_its_caption_are_there(
    stays: WhatStays, capsys: pytest.CaptureFixture[str]
) -> None:
    data = stays._repr_mimebundle_()
    assert stays.caption == data["text/plain"]
    picture = Image.open(io.BytesIO(data["image/png"]))
    assert "P" == picture.mode
    colours = {f"#{r:02X}{g:02X}{b:02X}" for _, (r, g, b) in picture.convert("RGB").getcolors() or []}
    assert {"#FFFFFF", BLACK, GREEN, VERMILLION} <= colours
    assert "application/vnd.jupyter.widget-view+json" in data
    stays.show()
    assert capsys.readouterr().out == stays.caption + "\n"
