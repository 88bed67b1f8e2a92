"""The talking face: an APNG that every viewer understands, small, steady and as long as it was asked to be."""

from __future__ import annotations

import re
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from koemorph_tutorial.teaching.pen import COLOURS
from koemorph_tutorial.teaching.talking import talking_face, talking_faces
from koemorph_tutorial.training.voices import make_voice, pose

FACES = make_voice("aki", seconds=3).blendshapes


@pytest.fixture(scope="module")
def talk() -> bytes:
    return talking_face(FACES)


def watch(png: bytes) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], list[float]]:
    """Return what a viewer shows, (images, height, width, 3), and for how many milliseconds each."""
    film = Image.open(BytesIO(png))
    images, milliseconds = [], []
    for k in range(getattr(film, "n_frames", 1)):
        film.seek(k)
        images.append(np.asarray(film.convert("RGB")))
        milliseconds.append(film.info.get("duration", 0.0))
    return np.stack(images), milliseconds


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Return the name and the content of each chunk, having checked its CRC."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    found, at = [], 8
    while at < len(png):
        (size,) = struct.unpack_from(">I", png, at)
        name, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + size]
        assert zlib.crc32(name + content) == struct.unpack_from(">I", png, at + 8 + size)[0]
        found.append((name, content))
        at += 12 + size
    return found


def test_three_seconds_of_talk_last_three_seconds_and_are_small(talk: bytes) -> None:
    images, milliseconds = watch(talk)
    assert 3000 == sum(milliseconds)
    assert 40 < len(images) <= 60
    assert (200, 200, 3) == images[0].shape
    assert len(talk) < 100_000


def test_its_chunks_are_sound_and_its_first_image_belongs_to_the_animation(talk: bytes) -> None:
    parts = chunks(talk)
    names = [name for name, _ in parts]
    images, _ = watch(talk)
    assert struct.pack(">II", len(images), 0) == dict(parts)[b"acTL"]  # 0 plays: again and again
    assert names.index(b"acTL") < names.index(b"fcTL") < names.index(b"IDAT") < names.index(b"fdAT")
    assert len(images) == names.count(b"fcTL")


def test_a_viewer_without_animation_shows_the_first_face_whole(talk: bytes) -> None:
    still = np.asarray(Image.open(BytesIO(talk)).convert("RGB"))
    assert np.array_equal(watch(talking_face(FACES[:1]))[0][0], still)


def test_every_moment_shows_the_face_of_that_moment(talk: bytes) -> None:
    images, milliseconds = watch(talk)
    ends = np.cumsum(milliseconds)
    for moment in (0, 500, 1350, 2950):  # in milliseconds
        expected = watch(talking_face(FACES[moment // 10][None]))[0][0]
        assert np.array_equal(expected, images[np.searchsorted(ends, moment, side="right")])


def test_what_a_face_does_not_move_stands_still(talk: bytes) -> None:
    """The hair, to the pixel and to the shade."""
    images, _ = watch(talk)
    assert (images[:, :50] == images[0, :50]).all()
    assert not (images[:, 120:] == images[0, 120:]).all()


def test_its_ground_is_opaque(talk: bytes) -> None:
    images, _ = watch(talk)
    assert COLOURS["background"] == "#" + bytes(images[-1, 0, 0]).hex()
    first = np.asarray(Image.open(BytesIO(talk)).convert("RGBA"))
    assert np.all(255 == first[..., 3])


def test_equal_faces_give_equal_bytes_from_an_array_or_a_tensor() -> None:
    expected = talking_face(FACES[:40])
    assert expected == talking_face(FACES[:40])
    assert expected == talking_face(torch.tensor(FACES[:40], requires_grad=True))
    assert expected != talking_face(FACES[40:80])


@settings(max_examples=15, deadline=None)
@given(count=st.integers(1, 20), speed=st.sampled_from([1, 24, 29.97, 30, 60, 100, 1000]) | st.floats(20, 200))
def test_it_lasts_as_long_as_its_faces_whatever_their_number_and_speed(count: int, speed: float) -> None:
    rocking = np.stack([pose("a") if k % 2 else pose("u") for k in range(count)])
    images, milliseconds = watch(talking_face(rocking, faces_per_second=speed, pixels=16))
    if len(images) > 1:  # a single image is a plain PNG
        assert max(1, round(1000 * count / speed)) == pytest.approx(sum(milliseconds), abs=0.01)


def test_a_still_face_and_a_face_without_numbers_can_be_shown_too() -> None:
    images, _ = watch(talking_face(np.repeat(pose("m")[None], 50, 0)))
    assert 1 == len(images)
    images, milliseconds = watch(talking_face(np.concatenate([FACES[:20], np.full((20, 52), np.nan)])))
    assert 400 == sum(milliseconds)
    assert not np.array_equal(images[0], images[-1])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"faces": FACES[0]}, "faces: expected shape (time, 52), found (52,)"),
        ({"faces": FACES[:0]}, "faces: expected shape (time, 52), found (0, 52)"),
        ({"faces": FACES[:, :51]}, "faces: expected shape (time, 52), found (300, 51)"),
        ({"faces": FACES, "faces_per_second": 0}, "faces_per_second: expected 1 or above, found 0"),
        ({"faces": FACES, "faces_per_second": np.nan}, "faces_per_second: expected 1 or above, found nan"),
        ({"faces": FACES, "pixels": 3}, "pixels: expected 16 or above, found 3"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        talking_face(**arguments)


def test_several_talk_at_once_side_by_side_under_their_names() -> None:
    """Each column moves as its face does alone, and what stands above it does not."""
    images, milliseconds = watch(talking_faces({"still": FACES[:1].repeat(60, 0), "speaks": FACES[:60]}, pixels=40))
    alone, _ = watch(talking_face(FACES[:60], pixels=40))
    assert (48, 80) == images[0].shape[:2]
    assert 600 == sum(milliseconds)
    assert all(np.array_equal(images[0][:8], image[:8]) for image in images)
    assert all(np.array_equal(images[0][:, :40], image[:, :40]) for image in images)
    assert np.array_equal(alone[0], images[0][8:, 40:])
    assert not np.array_equal(images[0][:8, :40], images[0][:8, 40:])  # two names


@pytest.mark.parametrize(
    ("faces", "line"),
    [
        ({}, "faces: expected some of the same times, found []"),
        ({"a": FACES[:2], "b": FACES[:3]}, "faces: expected some of the same times, found [2, 3]"),
        ({"a": FACES[0]}, "faces: expected shape (time, 52), found (52,)"),
    ],
)
def test_faces_that_cannot_talk_together_are_refused_in_one_line(faces: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        talking_faces(faces)
