"""The pictures of the last lesson: the courses of an examined loop, the diploma, and the stamps of all lessons."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from koemorph_tutorial.records import Position
from koemorph_tutorial.teaching import diploma, logbook, passport
from koemorph_tutorial.teaching.comebacks import comebacks
from koemorph_tutorial.teaching.examination import ORDEALS, Examination, Outcome
from koemorph_tutorial.teaching.figures import GREEN, VERMILLION
from koemorph_tutorial.testing.certificate import Certificate
from koemorph_tutorial.testing.stops import Resumption
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel
from koemorph_tutorial.training.settings import ModelConfig

CERTIFICATE = Certificate(
    trials=tuple(
        Resumption(stop=Position(epoch=epoch), killed=True, resumed_at=Position(epoch=epoch), moments=2, batches=10)
        for epoch in range(3)
    ),
    components=("position", "model", "optimizer", "rng.torch", "data of loader"),
)


def outcome(place: int, again: int = 5, *, wrong: int | None = 0, error: str = "") -> Outcome:
    return Outcome(
        ordeal=ORDEALS[place],
        batches=(45, 0 if error else 15 + again),
        wrong_bits=wrong,
        bits=1_527_424,
        ended="killed by SIGKILL",
        error=error,
        same_metrics=True,
    )


PASSED = Examination(
    name="train",
    outcomes=(outcome(0), outcome(1, 0), outcome(2, 10), outcome(3, 15)),
    certificate=CERTIFICATE,
    state={"weight": torch.ones(3)},
)
FAILED = Examination(
    name="train", outcomes=(outcome(0), outcome(1), outcome(2, wrong=None, error="it is torn"), outcome(3, wrong=9))
)


def pixels(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def share_of(png: bytes, colour: str) -> float:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return float((np.abs(pixels(png).astype(int) - wanted).max(-1) < 12).mean())


def test_the_diploma_says_what_was_survived_and_what_it_cost() -> None:
    assert (
        "Diploma for train(folder): 4 of 4 ordeals survived (kill -9 5 batches again, SIGTERM 0 batches again, full "
        "disk 10 batches again, flipped bit 15 batches again); not one bit differs; certified."
    ) == diploma.draw(PASSED)[1]
    assert diploma.draw(PASSED, "Ada")[1].startswith("Diploma for Ada: 4 of 4")


def test_who_has_not_passed_gets_none() -> None:
    assert (
        "No diploma for train(folder): 1 of 4 ordeals survived (kill -9 5 batches again, SIGTERM 5 batches again, full "
        "disk it could not go on, flipped bit 5 batches again); bits differ; without a certificate."
    ) == diploma.draw(FAILED)[1]
    broken = Examination(name="train", problem="it fails")
    assert "No diploma for train: it fails." == diploma.draw(broken)[1]
    assert "No diploma for train: nothing was examined." == diploma.draw(Examination(name="train"))[1]


def test_what_is_survived_is_green_and_what_is_not_is_red() -> None:
    passed, failed = diploma.draw(PASSED)[0], diploma.draw(FAILED)[0]
    assert share_of(passed, GREEN) > 0.005
    assert 0 == share_of(passed, VERMILLION)
    assert share_of(failed, VERMILLION) > 0.002


def test_the_paper_is_white_and_equal_ones_are_drawn_alike() -> None:
    png = diploma.draw(PASSED)[0]
    assert png == diploma.draw(PASSED)[0]
    assert [255, 255, 255] == pixels(png)[0, 0].tolist()
    assert png != diploma.draw(replace(PASSED, state={"weight": torch.zeros(3)}))[0]  # another network, another number


@pytest.mark.parametrize("name", ["Ada", "A" * 300, "two\nlines \x1b[31m", r"cost $\frac{1$ and $5"])
def test_any_name_fits_on_one_line(name: str) -> None:
    caption = diploma.draw(PASSED, name)[1]
    assert 1 == len(caption.splitlines())
    assert len(caption.partition(":")[0]) <= len("Diploma for ") + 34


def test_no_text_of_the_diploma_leaves_its_frame_or_lies_on_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured where matplotlib has put it: between the inner lines, and no two of them on the same place."""
    from matplotlib.figure import Figure

    drawn: list[Figure] = []

    def kept(figure: Figure, **options: int) -> bytes:
        drawn.append(figure)
        return b""

    monkeypatch.setattr(diploma, "to_small_png", kept)
    widest = replace(PASSED, outcomes=tuple(replace(each, bits=30_054_912, wrong_bits=0) for each in PASSED.outcomes))
    for examined in (PASSED, FAILED, widest):
        diploma.draw(examined, "Ada Lovelace")
        figure = drawn[-1]
        figure.set_dpi(100)
        figure.draw_without_rendering()
        (axes, *_) = figure.axes
        boxes = [
            (text.get_text(), text.get_window_extent()) for text in axes.texts if text.get_text() not in ("", "✓", "✗")
        ]
        for words, box in boxes:
            assert 42 < box.x0, words
            assert box.x1 < 858, words
            assert 42 < box.y0, words
            assert box.y1 < 618, words
        for index, (words, box) in enumerate(boxes):
            overlapping = [other for other, its in boxes[index + 1 :] if box.overlaps(its)]
            assert [] == overlapping, words


def test_the_survivor_speaks() -> None:
    model = SimplifiedKoeMorphModel(ModelConfig())
    state = {**model.state_dict(), "average.module.queries": torch.zeros(1)}
    faces = diploma.speak(replace(PASSED, state=state), seconds=0.5)
    assert (50, 52) == faces.shape
    with pytest.raises(ValueError, match="expected a network that has survived, found none"):
        diploma.speak(FAILED, seconds=0.5)


# ------------------------------------------------------------------------------------------------ the courses


def test_the_courses_say_what_each_ordeal_cost() -> None:
    assert (
        "train survived 1 of 4. kill -9: 5 batches again, the same network; SIGTERM: 5 batches again, the same "
        "network; full disk: it could not go on, no network; flipped bit: 5 batches again, another network."
    ) == comebacks(FAILED)[1]


def test_what_was_trained_twice_is_hatched_in_red() -> None:
    least = replace(PASSED, outcomes=tuple(outcome(place, 0) for place in range(4)))
    most = replace(PASSED, outcomes=tuple(outcome(place, 45) for place in range(4)))
    assert share_of(comebacks(most)[0], VERMILLION) > 2 * share_of(comebacks(least)[0], VERMILLION)


# ------------------------------------------------------------------------------------------------ the stamps


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Path]:
    logbook.keep_in(tmp_path)
    yield logbook.progress_file(tmp_path)
    logbook.keep_in(None)


def test_a_stamp_shows_what_was_done_and_the_caption_does_not(kept: Path) -> None:
    """A lesson's output is compared: it must not depend on who has done what."""
    empty, caption = passport.stamps()
    logbook.record("01.3", passed=True)
    passed, again = passport.stamps()
    assert caption == again
    assert share_of(passed, GREEN) > share_of(empty, GREEN)
    logbook.record("02.3", passed=False)
    assert passed != passport.stamps()[0]


@pytest.mark.parametrize(
    ("number", "attempts", "state"),
    [
        ("01.1", {"answer": "a", "passed": True}, "passed"),
        ("01.2", {"answer": "a"}, "answered"),
        ("01.2", {"answer": "a", "passed": False}, "tried"),
        ("01.3", {"passed": False}, "tried"),
        ("01.3", {"passed": True}, "passed"),
    ],
)
def test_what_a_stamp_says_of_an_attempt(number: str, attempts: dict[str, object], state: str, kept: Path) -> None:
    from koemorph_tutorial.teaching.lessons import question

    logbook.record(number, **attempts)  # type: ignore[arg-type]
    assert state == passport._state(question(number), logbook.so_far()[number])


def test_progress_that_cannot_be_read_is_none(kept: Path) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_text("{")
    assert {} == logbook.so_far()
    logbook.keep_in(None)
    assert {} == logbook.so_far()
