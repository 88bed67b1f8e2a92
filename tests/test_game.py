"""The game of preemptions: its picture, its words, and the widget that turns them."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from koemorph_tutorial.teaching import game as module
from koemorph_tutorial.teaching.figures import BLACK, GREEN, PURPLE, VERMILLION
from koemorph_tutorial.teaching.game import Game, play
from koemorph_tutorial.teaching.preemptions import DAYS, work

from .test_preemptions import WAYS, overlapping

# ---------------------------------------------------------------------------------------------------------- the picture


def test_nothing_in_the_picture_overlaps_or_leaves_it() -> None:
    for day, (interval, background) in enumerate(WAYS):
        figure = play(interval, day, background=background, titled=day % 3 > 0)[0]
        assert [] == overlapping(figure), (interval, background, day)


def test_a_day_is_told_in_words_and_the_picture_shows_as_much() -> None:
    figure, caption = play(120, 0)
    assert caption == (
        "Day 0, a save every 120 minutes: done after 31 h 3 min; 6 h 39 min of work done twice.\n"
        "The formula, every 30 minutes: 27 h 18 min. "
        "Mean of 100 days: 31.7 h against 27.4 h; you were faster on 4."
    )
    day, score, face = figure.axes
    marks = [line.get_marker() for line in day.lines]
    assert marks == ["X"] * (len(work(120, 0).machines) - 1) + ["*", "o"]
    assert len(face.patches) > 20
    assert ["you", "formula"] == [label.get_text() for label in score.get_yticklabels()]
    assert DAYS == len(score.lines[0].get_xdata())  # type: ignore[arg-type]
    behind = play(10, 0, background=True)[1]
    assert "in the background: done" in behind
    assert "The formula, every 30 min in front: 27 h 18 min." in behind


def test_a_run_that_takes_longer_than_the_picture_has_room_for_points_out_of_it() -> None:
    assert work(240, 0).total > 40 * 60
    (end,) = (line for line in play(240, 0)[0].axes[0].lines if line.get_color() == GREEN)
    assert (">", 8 * 60, 4) == (end.get_marker(), *end.get_data()[0], *end.get_data()[1])


@pytest.mark.parametrize(
    ("yours", "formula", "mood"), [(90, 100, "won"), (100, 100, "level"), (101, 100, "late"), (120, 100, "very late")]
)
def test_the_face_is_that_of_somebody_who_waits(yours: float, formula: float, mood: str) -> None:
    assert mood == module._mood(yours, formula)


# ----------------------------------------------------------------------------------------------------------- the widget


def test_the_slider_changes_the_day_and_the_picture_follows() -> None:
    game = Game()
    assert (120, 0, False, play(120, 0)[1]) == (game.value, game.day, game.background, game.caption)
    before = bytes(game._image.value)
    game._slider.value = 60
    assert (60, play(60, 0)[1]) == (game.value, game.caption)
    assert [label.value for label in game._labels] == game.caption.splitlines()
    assert before != bytes(game._image.value)
    game.value = 120
    assert (120, before) == (game._slider.value, bytes(game._image.value))


def test_the_button_brings_another_day_and_after_the_last_the_first() -> None:
    game = Game(30, day=DAYS - 2)
    game._next.click()
    assert (DAYS - 1, play(30, DAYS - 1)[1]) == (game.day, game.caption)
    game._next.click()
    assert 0 == game.day


def test_the_box_saves_in_the_background() -> None:
    game = Game(10)
    game._box.value = True
    assert (True, play(10, 0, background=True)[1]) == (game.background, game.caption)
    game.background = False
    assert (False, play(10, 0)[1]) == (game._box.value, game.caption)
    assert Game(10, background=True).background


@pytest.mark.parametrize("interval", [7, 0, "30"])
def test_an_interval_that_the_slider_has_not_is_refused_and_it_stays(interval: int) -> None:
    game = Game(60)
    with pytest.raises(ValueError, match=r"minutes: expected one of 5, 10, .*, 240, found"):
        game.value = interval
    assert 60 == game.value


@pytest.mark.parametrize("day", [DAYS, -1, "0"])
def test_a_day_that_does_not_exist_is_refused(day: int) -> None:
    game = Game()
    with pytest.raises(ValueError, match="day: expected 0 to 99, found"):
        game.day = day
    assert 0 == game.day


def test_where_nothing_runs_the_picture_and_its_caption_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    game = Game(90, 5)
    data = game._repr_mimebundle_()
    assert game.caption == data["text/plain"] == repr(game)
    picture = Image.open(io.BytesIO(data["image/png"]))
    assert "P" == picture.mode
    colours = {f"#{r:02X}{g:02X}{b:02X}" for _, (r, g, b) in picture.convert("RGB").getcolors() or []}
    assert {"#FFFFFF", BLACK, VERMILLION, GREEN, PURPLE} <= colours
    corners = {picture.convert("RGB").getpixel((x, y)) for x in (0, picture.width - 1) for y in (0, picture.height - 1)}
    assert {(255, 255, 255)} == corners
    assert "application/vnd.jupyter.widget-view+json" in data
    game.show()
    assert capsys.readouterr().out == game.caption + "\n"
