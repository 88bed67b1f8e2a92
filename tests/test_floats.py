"""What the lesson on compression shows: what a float is made of, and what ways to keep a checkpoint leave of it."""

from __future__ import annotations

import gzip
import pickle
import struct
import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from koemorph_tutorial import compress_checkpoint
from koemorph_tutorial.compression import plane_entropies
from koemorph_tutorial.teaching import floats, timemachine
from koemorph_tutorial.teaching.figures import BLUE, GREEN, PURPLE, to_png
from koemorph_tutorial.teaching.floats import Way, about, draw_ways, flips_found, packed, planes, ways, weights


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of the lesson."""
    return timemachine.train(tmp_path_factory.mktemp("floats")) / "last_model.pth"


def some(numbers: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).normal(0, 0.05, numbers).astype("<f4").tobytes()


@pytest.mark.parametrize(
    ("part", "name"),
    [(1.02, "all"), (0.9, "9/10"), (0.84, "4/5"), (0.51, "1/2"), (0.26, "1/4"), (0.11, "1/9"), (0, "1/12")],
)
def test_a_size_is_said_as_the_nearest_plain_fraction(part: float, name: str) -> None:
    assert name == about(part) == about(1000 * part, 1000)


def test_the_fractions_of_the_lesson_hold_on_other_machines_too(file: Path) -> None:
    """Weights that were trained elsewhere differ a little, and so does what zlib makes of them."""
    left = {way.name: way.left for way in floats._measured(file)}
    data = weights(file)
    left["the limit"] = sum(plane_entropies(data, 4)) / 32
    for name, part in left.items():
        assert about(part - 0.013) == about(part) == about(part + 0.013), (name, part)
    expected = {
        "the recipe": "9/10",
        "shuffle-zstd": "4/5",
        "the limit": "4/5",
        "and no optimizer": "1/4",
        "and bfloat16": "1/9",
    }
    assert expected == {name: about(left[name]) for name in expected}


def test_the_weights_are_all_float32s_of_the_model_in_order(tmp_path: Path) -> None:
    state = {"a": torch.tensor([1.0, 2.0]), "count": torch.tensor(7), "b": torch.tensor([[3.0]])}
    torch.save({"epoch": 0, "model_state_dict": state}, tmp_path / "small.pth")
    assert struct.pack("<3f", 1, 2, 3) == weights(tmp_path / "small.pth")


def test_what_shuffle_zstd_reaches_is_close_to_the_limit_and_not_below(file: Path) -> None:
    data = weights(file)
    limit = sum(plane_entropies(data, 4)) / 32
    assert limit < packed(data) < limit + 0.015


def test_the_whole_file_gets_below_that_because_a_twelfth_of_it_is_no_number(file: Path, tmp_path: Path) -> None:
    """As the praise for exercise 07.5 says."""
    checkpoint, size = torch.load(file), file.stat().st_size
    numbers = floats._bytes_of([*checkpoint["model_state_dict"].values(), *floats._moments(checkpoint)])
    rest = size - len(numbers)
    assert 0.9 / 12 < rest / size < 1.1 / 12
    small = compress_checkpoint(file, output=tmp_path / "small.shuffle.pth").stat().st_size
    assert 0.79 < small / size < 0.81
    assert small - packed(numbers) * len(numbers) < 0.5 * rest


def test_about_half_of_what_gzip_saves_is_saved_on_names_and_headers(file: Path) -> None:
    """As the lesson says below the prediction."""
    checkpoint = torch.load(file)
    numbers = floats._bytes_of([*checkpoint["model_state_dict"].values(), *floats._moments(checkpoint)])
    saved = file.stat().st_size - len(gzip.compress(pickle.dumps(checkpoint)))
    assert 0.4 < 1 - (len(numbers) - len(gzip.compress(numbers))) / saved < 0.6


def test_the_recipe_s_file_is_opened_by_pickle_alone(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.pth.gz"
    with gzip.open(path, "wb") as target:
        pickle.dump(torch.load(file), target)
    for weights_only in (True, False):
        with (
            gzip.open(path) as unpacked,
            warnings.catch_warnings(action="ignore"),
            pytest.raises((pickle.UnpicklingError, RuntimeError)),
        ):
            torch.load(unpacked, weights_only=weights_only)  # type: ignore[arg-type]
    with gzip.open(path) as unpacked:
        assert 11 == pickle.load(unpacked)["epoch"]


def test_every_flip_in_a_compressed_file_is_found_and_none_is_left_in_it(file: Path, tmp_path: Path) -> None:
    small = compress_checkpoint(file, output=tmp_path / "small.shuffle.pth")
    before = small.read_bytes()
    assert 40 == flips_found(small, 40)
    assert before == small.read_bytes()
    assert [small] == list(tmp_path.iterdir())


def test_a_flip_that_nobody_refuses_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "small.pth"
    path.write_bytes(bytes(1000))
    assert 3 == flips_found(path, 3)  # no checkpoint at all
    monkeypatch.setattr(floats, "load_checkpoint", lambda path: {})
    assert 0 == flips_found(path, 3)


# ------------------------------------------------------------------------------------------------ the figures


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in (*figure.texts, *(text for ax in figure.axes for text in ax.texts))]


@pytest.mark.parametrize(
    ("number", "parts"),
    [
        (0.15625, ["sign +", "exponent $2^{-3}$", "mantissa × 1.250000", "= 0.156250, a weight"]),
        (-3.0, ["sign −", "exponent $2^{1}$", "mantissa × 1.500000", "= −3.000000, a weight"]),
    ],
)
def test_a_number_is_taken_apart_rightly(number: float, parts: list[str]) -> None:
    data = struct.pack("<f", number) + some(99)
    shown = texts(planes(data)[0])
    assert parts == [text for text in shown if text.startswith(("sign", "exponent", "mantissa", "="))]
    bits = "".join(text for text in shown if text in ("0", "1"))
    assert f"{struct.unpack('>I', struct.pack('>f', number))[0]:032b}" == bits


def test_each_bit_has_the_colour_of_its_region_and_each_plane_stands_below_its_byte() -> None:
    figure = planes(some(4000))[0]
    top, *others = figure.axes
    boxes = [artist for artist in top.get_children() if isinstance(artist, Rectangle) and artist.get_width() < 0.1]
    assert [PURPLE, *[BLUE] * 8, *[GREEN] * 23] == [to_hex(box.get_facecolor()).upper() for box in boxes]
    for column in range(4):
        byte = boxes[8 * column : 8 * column + 8]
        plane = others[3 * column].get_position()
        assert plane.x0 <= byte[0].get_x()
        assert byte[-1].get_x() + byte[-1].get_width() <= plane.x1


def test_the_first_plane_is_sign_and_exponent() -> None:
    """All of one sign and size: the first byte is always the same, and tells nothing."""
    data = np.linspace(1, 1.99, 5000).astype("<f4").tobytes()
    figure, caption = planes(data)
    assert ["0.00 bits of 8"] == [text for text in texts(figure) if "bits of 8" in text][:1]
    assert "from the sign on: 0, " in caption
    assert caption.startswith("The bytes of 5,000 weights, sorted into four planes.")


def test_the_caption_is_that_of_the_lesson_s_weights(file: Path) -> None:
    assert planes(weights(file))[1] == (
        "The bytes of 47,732 weights, sorted into four planes. Bits that a byte tells, of 8, from the sign on: "
        "3, 8, 8, 8.\nWhoever packs them byte by byte, by one table for each plane, can leave no less than 4/5."
    )


WAYS = [
    Way(name="torch.save", left=1.0, writes=5000, reads=9000),
    Way(name="the recipe", left=0.89, writes=15, reads=300),
    Way(name="and no optimizer", left=0.26, keeps="the weights, every bit"),
    Way(name="and bfloat16", left=0.11, keeps="the weights, rounded"),
]


def test_the_caption_of_the_ways_is_computed_from_them() -> None:
    figure, caption = draw_ways(WAYS)
    assert caption == (
        "What is left of the file: torch.save all, the recipe 9/10, and no optimizer 1/4, and bfloat16 1/9.\n"
        "The slowest to write is the recipe. Speeds are of the floats, in memory; their axis is logarithmic.\n"
        "Where no dot is, none was measured: the same packing, of fewer bytes."
    )
    assert ["100 %", "89 %", "26 %  the weights, every bit", "11 %  the weights, rounded"] == texts(figure)
    faster = [Way(name="torch.save", left=1.0, writes=5, reads=9), *WAYS[1:]]
    assert "The slowest to write is torch.save." in draw_ways(faster)[1]
    assert "no dot" not in draw_ways(WAYS[:2])[1]


def test_the_recipe_is_the_slowest_to_write_and_by_far(file: Path) -> None:
    found = {way.name: way.writes for way in floats._measured(file) if way.writes}
    recipe = found.pop("the recipe")
    assert recipe is not None
    assert [] == [name for name, speed in found.items() if speed is None or speed < 1.5 * recipe]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    figure.draw_without_rendering()
    shown = [*figure.texts]
    for ax in figure.axes:
        shown += [*ax.texts, *(ax.get_xticklabels() if ax.axison else []), ax.xaxis.label]
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown if text.get_text() and text.get_visible()]
    assert 0 <= min(box.x0 for _, box in boxes)
    assert max(box.x1 for _, box in boxes) <= figure.bbox.x1
    assert max(box.y1 for _, box in boxes) <= figure.bbox.y1
    return [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]


@pytest.mark.parametrize("number", [0.19, -0.000012, 1234567.0, 0.0])
def test_nothing_in_the_planes_overlaps_or_leaves_them(number: float) -> None:
    assert [] == overlapping(planes(struct.pack("<f", number) + some(9999))[0])


def test_nothing_in_the_ways_overlaps_or_leaves_them(file: Path) -> None:
    figure, _ = ways(file)
    assert [] == overlapping(figure)
    legend = figure.axes[1].get_legend()
    assert legend is not None
    box = legend.get_window_extent()
    for line in figure.axes[1].lines:
        for point in figure.axes[1].transData.transform(np.column_stack(line.get_data())):
            assert not box.contains(*point)


def test_pictures_are_small_and_white(file: Path) -> None:
    for figure in (planes(weights(file))[0], draw_ways(WAYS)[0]):
        assert len(to_png(figure)) < 60_000
