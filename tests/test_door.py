"""The images that README and lesson 01 show: drawn by `make notebooks`, and said in words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from koemorph_tutorial.teaching import door
from koemorph_tutorial.teaching.door import describe_map, draw_images, lesson_map
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


@pytest.mark.parametrize("name", ["map.png", "talking.png"])
def test_a_committed_image_is_what_the_code_draws_today(name: str, drawn: Path) -> None:
    """Not byte for byte: another processor may round a colour differently."""
    with Image.open(IMAGES / name) as committed, Image.open(drawn / name) as today:
        for image in (committed, today):
            image.load()
        assert committed.info["Description"] == today.info["Description"]
        assert (committed.size, getattr(committed, "n_frames", 1)) == (today.size, getattr(today, "n_frames", 1))
        difference = np.asarray(ImageChops.difference(committed.convert("RGB"), today.convert("RGB")))
    assert (difference.max(2) > 40).mean() < 0.002


def test_an_image_that_differs_would_be_noticed(drawn: Path) -> None:
    """A test that cannot fail is none: the same map with one station moved."""
    with Image.open(drawn / "map.png") as image:
        today = image.convert("RGB")
    moved = ImageChops.offset(today, 20, 0)
    assert (np.asarray(ImageChops.difference(today, moved)).max(2) > 40).mean() > 0.002


@pytest.mark.parametrize("text", ["README.md", "notebooks/01_state.py"])
def test_the_map_is_described_in_words_where_it_is_shown(text: str) -> None:
    content = (ROOT / text).read_text("utf-8")
    shown = re.findall(r"!\[([^]]*)\]\(\S*images/map\.png\)", content)
    assert [describe_map()] == shown


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
