"""A receipt on paper: what stands on it, and that it says what the receipt says."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from koemorph_tutorial.exporting.receipt import Case, Port, Receipt, Source
from koemorph_tutorial.teaching import paper
from koemorph_tutorial.teaching.figures import GREEN, VERMILLION

EXAMPLE = Case(label="the example", shapes=((1, 6400),), absolute=9e-8, relative=1e-7)
GOOD = Receipt(
    path=Path("somewhere/face.onnx"),
    format="onnx",
    size=238_000,
    sha256="8ef847c127b109574b591f5ca8617daa" * 2,
    opset=20,
    source=Source(name="best_model.pth", weights="model_state_dict", line="07633012", epoch=10, sha256="cc" * 32),
    inputs=(Port(name="audio", dtype="float32", shape=("batch", "samples")),),
    outputs=(Port(name="blendshapes", dtype="float32", shape=("batch", 52)),),
    smallest={"batch": 1, "samples": 512},
    cases=(EXAMPLE, replace(EXAMPLE, label="the example, samples 512", shapes=((1, 512),), absolute=2.4e-7)),
    tolerance=1e-5,
    runtime="onnxruntime 1.32.0, CPU, 1 thread",
    seconds=0.00025,
    seconds_torch=0.0005,
)
FAR = replace(EXAMPLE, absolute=0.21, problem="differs by 0.21")
NO_ANSWER = replace(
    EXAMPLE, label="the example, batch 2", absolute=None, relative=None, problem="the runtime refuses it"
)


def lines(receipt: Receipt) -> list[str]:
    return [line for line, _ in paper._lines(receipt)]


def complaints(receipt: Receipt) -> list[str]:
    return [line for line, complains in paper._lines(receipt) if complains]


def test_what_was_sold_tried_and_allowed_stands_on_the_paper() -> None:
    text = "\n".join(lines(GOOD))
    for words in (
        "onnxruntime 1.32.0, opset 20",
        "1 × face.onnx",
        "238 kB",
        "of best_model.pth, epoch 10",
        "in   audio (batch, samples) float32",
        "out  blendshapes (batch, 52) float32",
        "free batch from 1, samples from 512",
        "(1, 6400) the example",
        "(1, 512) samples 512",
        "0.00000024",
        "0.00001000",
        "0.25 ms",
        "0.50 ms",
    ):
        assert words in text, words
    assert [] == complaints(GOOD)


def test_a_comparison_that_failed_is_in_red_with_what_it_was_off_by() -> None:
    assert [["(1, 6400) the example", "0.21000000"], ["(1, 6400) batch 2", "NO ANSWER"]] == [
        [each.strip() for each in line.split("  ") if each.strip()]
        for line in complaints(replace(GOOD, cases=(FAR, NO_ANSWER)))
    ]


def test_what_no_comparison_says_stands_below_them_and_is_broken_into_lines() -> None:
    problem = "with its optimizations off: the same input is answered in two ways: it was exported in train mode"
    found = complaints(replace(GOOD, problems=(problem,)))
    assert problem == " ".join(line.strip() for line in found)
    assert len(complaints(replace(GOOD, problems=("word " * 200,)))) == 4


def test_no_line_is_wider_than_the_paper() -> None:
    wide = replace(
        GOOD,
        path=Path("a" * 80 + ".onnx"),
        inputs=tuple(Port(name=f"{'input' * 9}_{i}", dtype="float32", shape=("batch", 3, 224, 224)) for i in range(3)),
        cases=(replace(FAR, label="the example, " + "all at their smallest " * 4, shapes=((1, 3, 224, 224),) * 3),),
        problems=("x" * 300,),
    )
    assert max(map(len, lines(wide))) <= paper._COLUMNS


def test_a_receipt_of_little_is_printed_as_well() -> None:
    bare = Receipt(path=Path("face.safetensors"), format="safetensors", size=7, sha256="0" * 64)
    text = "\n".join(lines(bare))
    assert ("free none" in text, "epoch" in text, "THE MOST" in text, "SERVED" in text) == (True, False, False, False)
    assert paper.receipts(bare)[0].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("receipt", "said"),
    [
        (GOOD, "face.onnx: the same model, all comparisons held; free: batch from 1, samples from 512"),
        (
            replace(GOOD, cases=(EXAMPLE, FAR)),
            "face.onnx: NOT the same model, 1 of 2 comparisons failed; free: batch from 1, samples from 512",
        ),
        (
            replace(GOOD, problems=("answered in two ways",)),
            "face.onnx: NOT the same model, answered in two ways; free: batch from 1, samples from 512",
        ),
        (
            replace(GOOD, cases=()),
            "face.onnx: NOT the same model, nothing was compared; free: batch from 1, samples from 512",
        ),
    ],
)
def test_the_caption_says_what_the_stamp_says(receipt: Receipt, said: str) -> None:
    assert said == paper.receipts(receipt)[1]


def pixels(png: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def has(png: bytes, colour: str) -> bool:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(pixels(png).astype(int) - wanted).max(-1) < 12).sum() > 200)


def test_the_stamp_is_green_or_red() -> None:
    good, bad = paper.receipts(GOOD)[0], paper.receipts(replace(GOOD, cases=(FAR,)))[0]
    assert (True, False) == (has(good, GREEN), has(good, VERMILLION))
    assert (False, True) == (has(bad, GREEN), has(bad, VERMILLION))


def test_two_receipts_stand_side_by_side_and_equal_ones_are_drawn_alike() -> None:
    one, two = paper.receipts(GOOD)[0], paper.receipts(GOOD, GOOD)[0]
    assert one == paper.receipts(GOOD)[0]
    (height, width, _), (height_of_two, width_of_two, _) = pixels(one).shape, pixels(two).shape
    assert height == height_of_two
    assert abs(2 * width - width_of_two) <= 2
    assert one != paper.receipts(replace(GOOD, sha256="f0" * 32))[0]  # other bars, and torn elsewhere
