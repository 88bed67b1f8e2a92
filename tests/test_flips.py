"""Harm done to a file one bit at a time: the right bit of the right number, and nothing else."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch

from koemorph_tutorial.teaching import flips


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A checkpoint with two tensors, one of them seen through a window."""
    numbers = torch.arange(10, dtype=torch.float32)
    path = tmp_path / "run.pth"
    torch.save({"epoch": 1, "model_state_dict": {"a": torch.tensor([0.5, -2.0, 3.0]), "b": numbers[4:]}}, path)
    return path


def values(path: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(path)["model_state_dict"]
    return loaded


@pytest.mark.parametrize("seed", range(8))
def test_a_flip_changes_the_number_that_it_names_and_no_other(file: Path, seed: int) -> None:
    before = values(file)
    weight = flips.draw(file, seed)
    flips.flip(file, weight, 31)
    after = values(file)
    changed = [(name, i) for name in before for i, value in enumerate(before[name]) if value != after[name][i]]
    assert [(weight.name, weight.index)] == changed
    assert before[weight.name][weight.index] == -after[weight.name][weight.index]


@pytest.mark.parametrize("bit", flips.BITS)
def test_each_bit_is_the_one_that_it_is_called(file: Path, bit: int) -> None:
    weight = flips.draw(file, 0)
    before = flips.bits_of(file, weight)
    flips.flip(file, weight, bit)
    after = flips.bits_of(file, weight)
    assert [31 - bit] == [place for place in range(32) if before[place] != after[place]]
    flips.flip(file, weight, bit)
    assert before == flips.bits_of(file, weight)


def test_the_bits_are_those_of_the_number(file: Path) -> None:
    start = flips.first_byte(file, "run/data/0")
    shown = flips.bits_of(file, flips.Weight(name="a", index=0, byte=start))
    assert f"{0x3F000000:032b}" == shown  # 0.5


def test_every_weight_is_drawn_as_often_as_any_other(file: Path) -> None:
    drawn = flips.draws(file, 1)
    seen = Counter(str(next(drawn)) for _ in range(900))
    assert {f"number {i} of a" for i in range(3)} | {f"number {i} of b" for i in range(6)} == set(seen)
    assert 60 < min(seen.values()) <= max(seen.values()) < 140


def test_the_same_seed_draws_the_same_weight(file: Path) -> None:
    assert flips.draw(file, 8) == flips.draw(str(file), 8)


def test_a_flip_touches_one_byte_and_all_names_of_the_file(file: Path, tmp_path: Path) -> None:
    os.link(file, tmp_path / "best.pth")
    before = file.read_bytes()
    flips.flip_at(file, 100, 7)
    after = (tmp_path / "best.pth").read_bytes()
    assert [100] == [place for place in range(len(before)) if before[place] != after[place]]
    assert before[100] ^ 0x80 == after[100]


@pytest.mark.parametrize("bit", [-1, 32])
def test_a_bit_that_does_not_exist_is_refused_and_nothing_is_touched(file: Path, bit: int) -> None:
    before, weight = file.read_bytes(), flips.draw(file, 0)
    with pytest.raises(ValueError, match=f"bit: expected 0 to 31, found {bit}"):
        flips.flip(file, weight, bit)
    assert before == file.read_bytes()


def test_the_first_byte_of_a_record_is_where_its_bytes_are(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            start = flips.first_byte(file, info.filename)
            assert archive.read(info) == file.read_bytes()[start : start + info.file_size]
