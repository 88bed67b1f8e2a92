"""What the lesson on validation shows: flips on a disk, what becomes of the face, and the widget that chooses which."""

from __future__ import annotations

import io
import re
from itertools import combinations
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from koemorph_tutorial.teaching import bits
from koemorph_tutorial.teaching.bits import Flipped, WhichBit, faces, flip_many, one_flip, survey
from koemorph_tutorial.teaching.figures import BLACK, BLUE, GREEN, PURPLE, VERMILLION
from koemorph_tutorial.teaching.flips import BITS, draw, flip
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("bits") / "run.pth"
    torch.save({"epoch": 3, "model_state_dict": SimplifiedKoeMorphModel().state_dict()}, path)
    return path


def test_a_flip_ends_in_the_copy(file: Path) -> None:
    before, weight = file.read_bytes(), draw(file, 8)
    one_flip(file, weight, 30)
    flip_many(file, each=1, seed=8)
    assert before == file.read_bytes()
    assert [file] == list(file.parent.iterdir())


def test_every_flip_loads_and_every_flip_is_found_by_the_checksums(file: Path) -> None:
    flips = flip_many(file, each=2, seed=1)
    assert [*BITS, *BITS] == [one.bit for one in flips]
    assert (True, True) == (all(one.is_loaded for one in flips), all(one.is_found for one in flips))
    caption = survey(flips)[1]
    assert caption.startswith(
        "64 flips: each of the 32 bits of 2 weights. Loaded without an error: 64. Found by checksums: 64.\nNaN "
    )


def test_what_a_flip_does_to_the_face_is_said_in_words(file: Path, tmp_path: Path) -> None:
    weight = draw(file, 8)
    flipped = tmp_path / "flipped.pth"
    flipped.write_bytes(file.read_bytes())
    assert faces({"one": file, "two": flipped})[1] == (
        "What the networks in one and two say to one sound. Second face: equal to the last bit."
    )
    flip(flipped, weight, 30)
    assert bits.says(flipped).isnan().any()
    assert faces({"one": file, "two": flipped})[1].endswith("Second face: NaN, not a number.")


def flips(**changes: float) -> list[Flipped]:
    face = torch.zeros(52)
    return [
        Flipped(bit=bit, change=changes.get(f"bit{bit}", 1e-4), face=face, is_loaded=True, is_found=True)
        for bit in BITS
    ]


@pytest.mark.parametrize(
    ("changes", "names", "wrecked"),
    [
        ({}, "NaN came from no bit, another face from no bit.", []),
        ({"bit30": float("nan")}, "NaN came from bit 30 only, another face from no bit.", ["NaN"]),
        (
            {"bit30": float("nan"), "bit23": float("nan"), "bit2": 0.5},
            "NaN came from bits 30, 23 only, another face from bit 2 only.",
            ["NaN", "another face"],
        ),
    ],
)
def test_the_figure_of_many_flips_names_the_bits_that_wreck(
    changes: dict[str, float], names: str, wrecked: list[str]
) -> None:
    figure, caption = survey(flips(**changes))
    assert names == caption.splitlines()[1]
    faces = {ax.get_title(loc="center"): len(ax.patches) for ax in figure.axes[1:]}
    assert [*wrecked, "looks the same"] == [title for title, patches in faces.items() if patches]
    assert {"NaN", "another face", "looks the same"} == set(faces)
    marks = {line.get_marker() for line in figure.axes[0].lines if line.get_linestyle() == "None"}
    assert {"X", "D", "o"} == marks  # told apart without colour


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "bits 29 to 23:\nthe weight is\nnow nearly 0"),
        ({"bit25": 0.5, "bit24": 0.2}, "bits 29 to 26:\nthe weight is\nnow nearly 0"),
        ({"bit29": 0.0}, None),
        ({"bit29": float("nan")}, None),
    ],
)
def test_bits_that_do_the_same_are_named_in_the_figure(changes: dict[str, float], said: str | None) -> None:
    ax = survey(flips(**changes))[0].axes[0]
    assert [*filter(None, [said]), "visible above this line"] == sorted(text.get_text() for text in ax.texts)
    assert ax.get_xlabel().endswith("a dot for each of 1 weights")


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    figure.draw_without_rendering()
    texts = [*figure.texts]
    for ax in figure.axes:
        texts += [*ax.texts, ax.title, ax._left_title, ax._right_title]  # type: ignore[attr-defined]
        texts += ax.get_xticklabels() if ax.axison else []
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text() and text.get_visible()]
    assert figure.bbox.x0 <= min(box.x0 for _, box in boxes)
    assert max(box.x1 for _, box in boxes) <= figure.bbox.x1
    assert max(box.y1 for _, box in boxes) <= figure.bbox.y1
    return [(one, other) for (one, a), (other, b) in combinations(boxes, 2) if a.overlaps(b)]


def test_nothing_in_the_figures_overlaps_or_leaves_them(file: Path) -> None:
    weight = draw(file, 8)
    assert [] == overlapping(survey(flips(bit30=float("nan"), bit29=0.5))[0])
    for bit, titled in ((31, True), (30, False), (23, True), (0, False)):
        assert [] == overlapping(one_flip(file, weight, bit, titled=titled)[0])
    assert [] == overlapping(faces({"original.pth": file, "flipped.pth": file})[0])


@pytest.mark.parametrize(
    ("bit", "words"),
    [
        (31, r"\(sign\): the number changes its sign\."),
        (30, r"\(exponent\): the number becomes 2\^128 times as (large|small)\."),
        (23, r"\(exponent\): the number becomes 2\^1 times as (large|small)\."),
        (22, r"\(mantissa\): the number changes by at most 1/2 of itself\."),
        (0, r"\(mantissa\): the number changes by at most 1/8,388,608 of itself\."),
    ],
)
def test_what_a_bit_is_worth_is_said_and_true(file: Path, tmp_path: Path, bit: int, words: str) -> None:
    weight = draw(file, 8)
    caption = one_flip(file, weight, bit)[1]
    assert re.search(words, caption), caption
    assert caption.endswith("Checksum: does not fit.")
    copy = tmp_path / "copy.pth"
    copy.write_bytes(file.read_bytes())
    flip(copy, weight, bit)
    models = (torch.load(path)["model_state_dict"] for path in (file, copy))
    before, after = (model[weight.name].flatten()[weight.index].item() for model in models)
    ratio = after / before
    power = re.search(r"2\^(\d+) times as (large|small)", caption)
    if power:
        assert 2.0 ** (int(power[1]) * (1 if power[2] == "large" else -1)) == pytest.approx(ratio)
    elif bit == 31:
        assert ratio == -1
    else:
        assert 0 < abs(ratio - 1) <= 2.0 ** (bit - 23)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0414, "0.04140"),
        (-0.0414, "−0.04140"),  # the minus that matplotlib writes before a power of ten
        (-1.41e37, r"$-1.41 \times 10^{37}$"),
        (2e-20, r"$2.00 \times 10^{-20}$"),
        (0.0, "0.0"),
        (-0.0, "−0.0"),
        (float("-inf"), "−inf"),
        (float("nan"), "nan"),
    ],
)
def test_a_number_is_shown_so_that_it_is_read(value: float, shown: str) -> None:
    assert shown == bits._scientific(value)


def test_a_sentence_is_cut_between_words_and_keeps_what_every_machine_says() -> None:
    said = "run.pth: " + 12 * "loss 0.0113 -> 0.00609; " + "623 kB, CRC32 43c81e05 of state.conv2.weight.exp_avg-sq"
    lines = bits.in_lines(said).splitlines()
    assert max(map(len, lines)) <= 96
    assert said.replace("623", "…").replace("43c81e05", "…") == " ".join(lines)


# --------------------------------------------------------------------------------------------------------- the widget


def test_the_slider_flips_a_bit_and_the_picture_follows(file: Path) -> None:
    weight = draw(file, 8)
    which = WhichBit(file, weight)
    assert (30, one_flip(file, weight, 30)[1]) == (which.value, which.caption)
    before = bytes(which._image.value)
    which._slider.value = 0
    assert (0, one_flip(file, weight, 0)[1]) == (which.value, which.caption)
    assert [label.value for label in which._labels] == which.caption.splitlines()
    assert before != bytes(which._image.value)
    which.value = 30
    assert before == bytes(which._image.value)
    assert 30 == which._slider.value


@pytest.mark.parametrize("bit", [32, -1, "30"])
def test_a_bit_that_does_not_exist_is_refused_and_the_slider_stays(file: Path, bit: int) -> None:
    which = WhichBit(file, draw(file, 8), 5)
    with pytest.raises(ValueError, match="bit: expected 0 to 31, found"):
        which.value = bit
    assert 5 == which.value


def test_where_nothing_runs_the_picture_and_its_caption_are_there(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    which = WhichBit(file, draw(file, 8), 22)
    data = which._repr_mimebundle_()
    assert which.caption == data["text/plain"]
    picture = Image.open(io.BytesIO(data["image/png"]))
    assert "P" == picture.mode
    colours = {f"#{r:02X}{g:02X}{b:02X}" for _, (r, g, b) in picture.convert("RGB").getcolors() or []}
    assert {"#FFFFFF", BLACK, BLUE, VERMILLION, GREEN, PURPLE} <= colours
    assert "application/vnd.jupyter.widget-view+json" in data
    which.show()
    assert capsys.readouterr().out == which.caption + "\n"
