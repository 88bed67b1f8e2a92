"""The images that README and lesson 01 show: drawn by `make notebooks`, and said in words."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from koemorph_tutorial.teaching import door
from koemorph_tutorial.teaching.door import describe_hero, describe_map, describe_talk, draw_images, lesson_map
from koemorph_tutorial.teaching.figures import to_png
from koemorph_tutorial.teaching.lessons import LESSONS

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "notebooks/images"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    draw_images(folder)
    return folder


def test_the_committed_images_are_all_that_is_drawn(drawn: Path) -> None:
    assert sorted(file.name for file in drawn.iterdir()) == sorted(file.name for file in IMAGES.iterdir())


def difference(one: Path | Figure, other: Path) -> float:
    """Return how much of an image differs, in the worst of its frames; 1 where they cannot be compared."""
    frames = []
    for source in (one, other):
        file = source if isinstance(source, Path) else io.BytesIO(to_png(source))
        with Image.open(file) as image:
            frames.append([np.asarray(frame.convert("RGB"), int) for frame in ImageSequence.Iterator(image)])
    if [frame.shape for frame in frames[0]] != [frame.shape for frame in frames[1]]:
        return 1.0
    return max(float((abs(a - b).max(2) > 40).mean()) for a, b in zip(*frames, strict=True))


# A processor may round a colour differently; one wrong letter on the map is 0.0003.
LITTLE = 0.0001
# And another one trains to other last bits, so a mouth may be drawn a pixel wider; other faces are above 0.05.
TRAINED = 0.02


@pytest.mark.parametrize(("name", "least"), [("map.png", LITTLE), ("talking.png", LITTLE), ("hero.png", TRAINED)])
def test_a_committed_image_is_what_the_code_draws_today(name: str, least: float, drawn: Path) -> None:
    assert difference(IMAGES / name, drawn / name) < least
    with Image.open(IMAGES / name) as committed, Image.open(drawn / name) as today:
        assert committed.info["Description"] == today.info["Description"]


def test_one_wrong_letter_would_be_noticed(drawn: Path) -> None:
    figure = lesson_map()
    (word,) = [text for text in figure.axes[0].texts if text.get_text() == "crash"]
    word.set_text("crsah")
    assert difference(figure, drawn / "map.png") > LITTLE


@pytest.mark.parametrize("text", ["README.md", "notebooks/01_state.py"])
def test_the_map_is_described_in_words_where_it_is_shown(text: str) -> None:
    content = (ROOT / text).read_text("utf-8")
    shown = re.findall(r"!\[([^]]*)\]\(\S*images/map\.png\)", content)
    assert [describe_map()] == shown


@pytest.mark.parametrize(
    ("text", "image", "words"),
    [
        ("README.md", "hero", describe_hero()),
        ("README.ja.md", "hero", None),
        ("notebooks/01_state.py", "talking", describe_talk(3.0)),
    ],
)
def test_the_talking_faces_are_described_in_words_where_they_are_shown(
    text: str, image: str, words: str | None
) -> None:
    (said,) = re.findall(rf"!\[([^]]*)\]\(\S*images/{image}\.png\)", (ROOT / text).read_text("utf-8"))
    assert said == words if words else len(said) > 20


def test_the_face_of_the_flipped_bit_cries_out_where_nothing_moves(drawn: Path) -> None:
    """What a viewer without animation shows: the last two faces differ, and much more than any other neighbours."""
    with Image.open(drawn / "hero.png") as image:
        still = np.asarray(image.convert("RGB"), int)
    faces = np.split(still, 5, axis=1)
    apart = [float((abs(one - other).max(2) > 40).mean()) for one, other in pairwise(faces)]
    assert apart[-1] > 0.05
    assert apart[-1] == max(apart)


def test_the_map_has_ten_stations_and_knows_the_lessons_by_name() -> None:
    stations = {number: about for _, lessons in door._ROUTES.values() for number, (about, _) in lessons.items()}
    stations[door._END[0]] = door._END[1]
    assert [f"{n:02d}" for n in range(1, 11)] == sorted(stations)
    assert {number: name.replace("_", " ") for number, name in LESSONS.items()}.items() <= stations.items()


def test_no_words_of_the_map_overlap_or_leave_it() -> None:
    figure = lesson_map()
    (axes,) = figure.axes[:1]
    figure.canvas.draw()
    boxes = [(text.get_text(), text.get_window_extent()) for text in axes.texts if text.get_text()]
    assert len(boxes) >= 5 + 3 + 10 + 10
    overlapping = [(a, b) for k, (a, one) in enumerate(boxes) for b, other in boxes[:k] if one.overlaps(other)]
    assert [] == overlapping
    whole = figure.bbox
    assert [] == [text for text, box in boxes if box.x0 < 0 or box.y0 < 0 or box.x1 > whole.x1 or box.y1 > whole.y1]
