"""`koemorph diff`: what differs between two checkpoints, of whatever program; what matters first, in one sentence."""

from __future__ import annotations

import copy
import inspect
import json
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from koemorph_tutorial.difference.arrays import compare_arrays
from koemorph_tutorial.difference.compare import diff_checkpoints
from koemorph_tutorial.difference.rows import SECTIONS, Difference, Row
from koemorph_tutorial.difference.views import difference_lines
from koemorph_tutorial.header import read_header
from koemorph_tutorial.records import CheckpointError, CheckpointNotFoundError, DamagedCheckpointError
from koemorph_tutorial.testing.example import train
from koemorph_tutorial.text import width
from tests import hostile
from tests.comparing import difference as first_difference
from tests.test_package import loaded_by

IN_ONE_FOLDER = [HealthCheck.function_scoped_fixture]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train four epochs of two batches; each has its file."""
    folder = tmp_path_factory.mktemp("run")
    before = torch.get_rng_state()
    train(folder)
    for epoch in range(2):  # the manager keeps the last two
        train(folder.with_name(f"short_{epoch}"), epochs=epoch + 1)
    torch.set_rng_state(before)
    return folder


def loaded(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def pickled(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def changed(tmp_path: Path, run: Path, change: Callable[[dict[str, Any]], object]) -> Difference:
    """Return what differs between the run's last epoch and the same after `change`."""
    a = run / "checkpoint_epoch_003.pth"
    checkpoint = loaded(a)
    change(checkpoint)
    difference = diff_checkpoints(a, pickled(tmp_path / "b.pth", checkpoint))
    assert_fits(difference)
    assert_symmetric(difference)
    return difference


def assert_fits(difference: Difference) -> None:
    """No line is wider than it may be, none holds what a terminal would obey, and all rows are in the JSON."""
    for columns in (60, 80, 120):
        for line in difference_lines(difference, columns):
            assert width(line) <= columns
            assert line.isprintable()
    plain = json.loads(difference.to_json(), parse_constant=lambda word: pytest.fail(word))
    assert len(difference.rows) == len(plain["rows"])
    assert [difference.identical, str(difference)] == [plain["identical"], plain["sentence"]]
    assert str(difference).isprintable()


def assert_symmetric(difference: Difference) -> None:
    """The other way round the same rows say the same of A and B."""
    back = diff_checkpoints(difference.b, difference.a)
    turned = {"only in A": "only in B", "only in B": "only in A"}
    expected = sorted(
        (row.section, turned.get(row.what, row.what), repr(row.b), repr(row.a)) for row in difference.rows
    )
    assert expected == sorted((row.section, row.what, repr(row.a), repr(row.b)) for row in back.rows)
    largest = [sorted(row.change.largest for row in d.rows if row.change) for d in (difference, back)]
    assert largest[0] == largest[1]


def sections(difference: Difference) -> list[str]:
    return list(dict.fromkeys(row.section for row in difference.rows))


def text(difference: Difference, columns: int = 80) -> str:
    return "\n".join(difference_lines(difference, columns))


# ---------------------------------------------------------------------------------------------------- runs of one's own


def test_two_neighbouring_epochs_read_as_a_sentence(run: Path) -> None:
    """How far, how much it moved, what became of loss and learning rate; then every part, what matters first."""
    difference = diff_checkpoints(run / "checkpoint_epoch_002.pth", run / "checkpoint_epoch_003.pth")
    assert re.fullmatch(
        r"B is 1 epoch \(2 batches\) further in the same run: all 4 weight tensors moved, by [\d.]+ % in the median "
        r"and [\d.]+ % at most \([02]\.(weight|bias)\); loss 0\.7 -> 0\.6",
        str(difference),
    )
    assert ["place", "metrics", "weights", "optimizer", "states", "random", "metadata"] == sections(difference)
    for words in (
        "place           epoch 2 -> 3, global_step 6 -> 8, position.epoch 3 -> 4,",
        "weights         4 of 4 tensors differ in numbers",
        "optimizer       step 6 -> 8 (4 of 4)",
        "exp_avg_sq: 4 of 4 differ, by ",
        "random states   torch",
    ):
        assert words in text(difference)
    assert {"numbers"} == {row.what for row in difference.rows if row.section == "weights"}
    moves = [row.change.relative for row in difference.rows if row.section == "weights" and row.change]
    assert sorted(moves, reverse=True) == moves
    assert_fits(difference)
    assert_symmetric(difference)


def test_changes_are_those_that_torch_computes(run: Path) -> None:
    """The largest change, the norm of the change over the norm of A, and how many numbers differ."""
    paths = run / "checkpoint_epoch_002.pth", run / "checkpoint_epoch_003.pth"
    states = [loaded(path)["model_state_dict"] for path in paths]
    rows = [row for row in diff_checkpoints(*paths).rows if row.section == "weights"]
    assert states[0].keys() == {row.name for row in rows}
    for row in rows:
        a, b = (state[row.name].double() for state in states)
        assert row.change is not None
        assert float((b - a).abs().max()) == row.change.largest
        assert float((b - a).norm() / a.norm()) == pytest.approx(row.change.relative, rel=1e-12)
        assert [a.numel(), int((a != b).sum())] == [row.change.numbers, row.change.differing]


def test_where_the_runs_are_is_said(run: Path, tmp_path: Path) -> None:
    """Behind, another run, a run that went on from the other's file, and inside of an epoch."""
    paths = run / "checkpoint_epoch_002.pth", run / "checkpoint_epoch_003.pth"
    assert str(diff_checkpoints(*reversed(paths))).startswith("B is 1 epoch (2 batches) behind in the same run: all 4")
    other = run.with_name("short_0") / "checkpoint_epoch_000.pth"
    assert str(diff_checkpoints(paths[0], other)).startswith("B is 2 epochs (4 batches) behind in another run: all 4 w")
    train(tmp_path / "branch", epochs=4, source=paths[0])
    branch = tmp_path / "branch/checkpoint_epoch_003.pth"
    assert "B is 1 epoch (2 batches) further in a run that went on from A: all 4 " in str(
        diff_checkpoints(paths[0], branch)
    )
    assert "B is 1 epoch (2 batches) behind, in the run that A went on from: all 4 " in str(
        diff_checkpoints(branch, paths[0])
    )
    again = diff_checkpoints(paths[1], branch)
    assert str(again).startswith(
        "B is at the same place in another run: all 4 weight tensors bitwise equal; metadata d"
    )
    inside = changed(tmp_path, run, lambda c: c["position"].update(epoch=4, batch=1, global_step=9))
    assert str(inside).startswith("B is 1 batch (epoch 4, batch 0 -> epoch 4, batch 1) further in the same run: all 4 ")


def test_a_file_with_itself_is_identical(run: Path, tmp_path: Path) -> None:
    """One file, a link to it, a copy, and the same content saved under another name, which has other bytes."""
    a = run / "checkpoint_epoch_003.pth"
    os.link(a, tmp_path / "link.pth")
    shutil.copy(a, tmp_path / "copy.pth")
    pickled(tmp_path / "again.pth", loaded(a))
    for b, sentence in (
        (a, "identical: the same file"),
        (tmp_path / "link.pth", "identical: the same file"),
        (tmp_path / "copy.pth", "identical: the same bytes"),
        (tmp_path / "again.pth", "identical: all 21 tensors bitwise equal and "),
    ):
        difference = diff_checkpoints(a, b)
        assert difference.identical
        assert () == difference.rows
        assert str(difference).startswith(sentence)
        assert all(both == equal for both, equal in difference.tensors.values())
        assert_fits(difference)


# --------------------------------------------------------------------------------------------------------------- a bit


def flip(checkpoint: dict[str, Any]) -> None:
    """Flip bit 30 of one weight."""
    checkpoint["model_state_dict"]["0.weight"].view(torch.int32)[2, 1] ^= 1 << 30


def test_one_flipped_bit_is_named(run: Path, tmp_path: Path) -> None:
    """The tensor, the place, from what to what, which bit, and that this is all."""
    difference = changed(tmp_path, run, flip)
    weight = loaded(run / "checkpoint_epoch_003.pth")["model_state_dict"]["0.weight"]
    assert re.fullmatch(
        r"1 number of 12 differs in model_state_dict\.0\.weight, at \[2, 1\]: (\S+) -> \S+e\+3\d \(bit 30\); nothing "
        "else differs",
        str(difference),
    )
    (row,) = difference.rows
    assert row.change is not None
    assert (1, 12, (2, 1), float(weight[2, 1])) == (
        row.change.differing,
        row.change.numbers,
        row.change.index,
        row.change.before,
    )


def damage(path: Path, target: Path, name: str, at: int = 3) -> Path:
    """Copy a checkpoint, and flip bit 6 of one byte of a tensor of its model; its checksum stays."""
    data = bytearray(path.read_bytes())
    begin = data.find(loaded(path)["model_state_dict"][name].numpy().tobytes())
    data[begin + at] ^= 64
    target.write_bytes(data)
    return target


def test_a_damaged_tensor_is_compared_and_the_damage_named(run: Path, tmp_path: Path) -> None:
    """Which file, which record, which checksum; and what the damage did."""
    a = run / "checkpoint_epoch_003.pth"
    b = damage(a, tmp_path / "b.pth", "2.weight")
    for pair, side in (((a, b), "B"), ((b, a), "A")):
        difference = diff_checkpoints(*pair)
        assert ["damage", "weights"] == sections(difference)
        assert re.fullmatch(
            rf"{side} is damaged \(record '\S+/data/\d+': expected CRC32 \w{{8}}, found \w{{8}}\): 1 number of 4 "
            r"differs in model_state_dict\.2\.weight, at \[0, 0\]: \S+ -> \S+ \(bit 30\); nothing else differs",
            str(difference),
        )
        assert f"damaged         model_state_dict.2.weight in {side}: record" in text(difference)
        assert_fits(difference)
    assert diff_checkpoints(b, shutil.copy(b, tmp_path / "c.pth")).identical


def test_damage_on_both_sides_is_named_for_both(run: Path, tmp_path: Path) -> None:
    """Each side has its own row."""
    a = damage(run / "checkpoint_epoch_003.pth", tmp_path / "a.pth", "0.weight")
    b = damage(run / "checkpoint_epoch_003.pth", tmp_path / "b.pth", "2.bias")
    difference = diff_checkpoints(a, b)
    assert str(difference).startswith("A is damaged (record ")
    assert " and B is damaged (record " in str(difference)
    assert 2 == sum(row.what == "damaged" for row in difference.rows)


def test_a_checksum_that_is_wrong_over_right_bytes_is_damage(run: Path, tmp_path: Path) -> None:
    """Equal numbers, and yet the file is not as it was written."""
    a = run / "checkpoint_epoch_003.pth"
    place = read_header(a).places[read_header(a).content["model_state_dict"]["0.weight"].storage.key]
    assert place.crc is not None
    data = a.read_bytes()
    assert data.count(struct.pack("<I", place.crc)) >= 1
    (tmp_path / "b.pth").write_bytes(data.replace(struct.pack("<I", place.crc), struct.pack("<I", place.crc ^ 1)))
    difference = diff_checkpoints(a, tmp_path / "b.pth")
    assert not difference.identical
    assert re.fullmatch(r"B is damaged \(.*\), and everything that can be compared is equal", str(difference))


@settings(max_examples=60, deadline=None, suppress_health_check=IN_ONE_FOLDER)
@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_any_flipped_bit_is_an_error_a_difference_or_of_no_state(
    run: Path, tmp_path: Path, at: float, bit: int
) -> None:
    """Whatever byte of the file it is in; what is called identical is what torch loads as such."""
    a, b = run / "checkpoint_epoch_003.pth", tmp_path / "b.pth"
    data = bytearray(a.read_bytes())
    data[int(at * len(data))] ^= 1 << bit
    b.write_bytes(data)
    try:
        difference = diff_checkpoints(a, b)
    except CheckpointError:
        return
    assert_fits(difference)
    if difference.identical:
        assert "" == first_difference(loaded(a), loaded(b))


# ------------------------------------------------------------------------------------------------------- what was set


def test_another_learning_rate_and_config_are_said_with_their_values(run: Path, tmp_path: Path) -> None:
    """From what to what."""
    rate = changed(tmp_path, run, lambda c: c["optimizer_state_dict"]["param_groups"][0].update(lr=0.5))
    assert "all 4 weight tensors bitwise equal; learning rate 0.01 -> 0.5; everything else is equal" == str(rate)
    assert ["optimizer_state_dict.param_groups[0].lr"] == [row.where for row in rate.rows]

    def configure(checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = {"training": {"lr": 0.02, "milestones": [1, 2]}, "seed": 1}

    a = pickled(tmp_path / "a.pth", {**loaded(run / "checkpoint_epoch_003.pth"), "config": {"training": {"lr": 0.01}}})
    checkpoint = loaded(a)
    configure(checkpoint)
    difference = diff_checkpoints(a, pickled(tmp_path / "b.pth", checkpoint))
    assert ["config"] == sections(difference)
    assert "config differs (seed, training.milestones, training.lr 0.01 -> 0.02); everything else is equal" in str(
        difference
    )
    assert "config          only in B: seed 1\n                only in B: training.milestones [1, 2]" in text(
        difference
    )


def test_random_states_and_metadata_come_last(run: Path, tmp_path: Path) -> None:
    """Which generator, and what of where it came from."""

    def reseed(checkpoint: dict[str, Any]) -> None:
        checkpoint["rng_state"]["torch"] = torch.Generator().manual_seed(5).get_state()
        checkpoint["rng_state"]["python"]["gauss_next"] = 0.25
        checkpoint["metadata"]["hostname"] = "elsewhere"

    difference = changed(tmp_path, run, reseed)
    assert ["random", "metadata"] == sections(difference)
    assert (
        "all 4 weight tensors bitwise equal; random states differ (python, torch); metadata differs (hostname); "
        "everything else is equal"
    ) == str(difference)


def permute(checkpoint: dict[str, Any]) -> None:
    """Give the optimizer its parameters in another order, with everything that belongs to them."""
    order = [3, 1, 0, 2]
    state = checkpoint["optimizer_state_dict"]
    state["state"] = {new: state["state"][old] for new, old in enumerate(order)}
    checkpoint["optimizer_parameters"]["optimizer"] = [
        [checkpoint["optimizer_parameters"]["optimizer"][0][old] for old in order]
    ]


def test_an_optimizer_is_compared_by_the_names_of_its_parameters(run: Path, tmp_path: Path) -> None:
    """In another order everything is there; without names only the numbers can be compared."""
    difference = changed(tmp_path, run, permute)
    assert [("optimizer", "order")] == [(row.section, row.what) for row in difference.rows]
    assert "the optimizer has its parameters in another order; everything else is equal" in str(difference)

    def change(checkpoint: dict[str, Any]) -> None:
        permute(checkpoint)
        checkpoint["optimizer_state_dict"]["state"][0]["exp_avg"] += 1  # that of the last parameter

    moved = [row.where for row in changed(tmp_path, run, change).rows if row.what == "numbers"]
    assert ["optimizer_state_dict.state.model.2.bias.exp_avg"] == moved

    def forget(checkpoint: dict[str, Any]) -> None:
        permute(checkpoint)
        del checkpoint["optimizer_parameters"]

    assert 3 < sum(row.section == "optimizer" for row in changed(tmp_path, run, forget).rows)


def test_weights_that_were_zero_moved_from_zero(tmp_path: Path) -> None:
    """No change is a part of nothing: they are counted apart."""
    a = {"epoch": 0, "state_dict": {"w": torch.ones(4), "v": torch.ones(2), "bias": torch.zeros(3)}}
    b = {"epoch": 1, "state_dict": {"w": torch.full((4,), 1.5), "v": torch.full((2,), 1.1), "bias": torch.ones(3)}}
    difference = diff_checkpoints(pickled(tmp_path / "a.pth", a), pickled(tmp_path / "b.pth", b))
    assert (
        "B is 1 epoch further: all 3 weight tensors moved, by 30 % in the median and 50 % at most (w), 1 of them from "
        "zero"
    ) == str(difference)
    assert re.search(r"bias +3 +all +1 +from zero", text(difference))
    assert_fits(difference)


def test_ignite_counts_its_batches_in_its_trainer(tmp_path: Path) -> None:
    """Its checkpoint has no epoch of its own."""
    files = [
        pickled(
            tmp_path / f"{at}.pt", {"model": {"w": torch.ones(2) * at}, "trainer": {"iteration": at, "epoch_length": 4}}
        )
        for at in (4, 8)
    ]
    assert "B is 4 batches further: the one weight tensor moved by 100 %" == str(diff_checkpoints(*files))


@pytest.mark.parametrize(
    ("steps", "said"), [((30, 31), "1 step further"), ((31, 30), "1 step behind"), ((30, 1034), "1,004 steps further")]
)
def test_lightning_may_save_in_the_middle_of_an_epoch(tmp_path: Path, steps: tuple[int, int], said: str) -> None:
    """It says how many steps it took and not where in the epoch that is: no place is made up."""
    files = [
        pickled(tmp_path / f"{n}.ckpt", {"epoch": 1, "global_step": n, "state_dict": {"w": torch.full((2,), n / 8)}})
        for n in steps
    ]
    assert str(diff_checkpoints(*files)).startswith(f"B is {said}: the one weight tensor moved by ")


def test_another_optimizer_is_said(run: Path, tmp_path: Path) -> None:
    """From the class that the file names."""

    def replace(checkpoint: dict[str, Any]) -> None:
        checkpoint["metadata"]["objects"]["optimizer"] = "torch.optim.sgd.SGD"
        checkpoint["optimizer_state_dict"]["param_groups"][0]["momentum"] = 0.9

    difference = changed(tmp_path, run, replace)
    assert "another optimizer (AdamW -> SGD)" in str(difference)
    assert {"optimizer"} == set(sections(difference))


# ------------------------------------------------------------------------------------------------------------ the model


def test_two_models_are_told_apart(tmp_path: Path) -> None:
    """What is in one only, what has another shape, and what became of the rest."""
    torch.manual_seed(0)
    a = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    b = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 5), nn.PReLU())
    b[0].load_state_dict(a[0].state_dict())
    difference = diff_checkpoints(
        pickled(tmp_path / "a.pth", {"state_dict": a.state_dict(), "epoch": 3}),
        pickled(tmp_path / "b.pth", {"state_dict": b.state_dict(), "epoch": 3}),
    )
    assert "different models: 1 tensor only in B, 2 of another shape; all others are bitwise equal" == str(difference)
    assert "model           only in B: 3.weight float32 [1]" in text(difference)
    assert "2.weight: shape [2, 4] -> [5, 4]" in text(difference)
    assert_fits(difference)
    assert_symmetric(difference)


def test_renamed_weights_are_recognised_by_their_bits(run: Path, tmp_path: Path) -> None:
    """A layer with another name and the same numbers is the same layer."""

    def rename(checkpoint: dict[str, Any]) -> None:
        state = checkpoint["model_state_dict"]
        checkpoint["model_state_dict"] = {name.replace("0.", "encoder."): value for name, value in state.items()}

    difference = changed(tmp_path, run, rename)
    assert {"renamed"} == {row.what for row in difference.rows}
    assert (
        "the same model under other names: 2 of 4 tensors have the same bits under another one (0.weight -> "
        "encoder.weight, 0.bias -> encoder.bias); all others are bitwise equal; everything else is equal"
    ) == str(difference)


def test_another_dtype_is_compared_by_its_values(run: Path, tmp_path: Path) -> None:
    """bfloat16 has eight bits of the fraction, so the values differ by less than half a percent."""

    def halve(checkpoint: dict[str, Any]) -> None:
        checkpoint["model_state_dict"] = {n: value.bfloat16() for n, value in checkpoint["model_state_dict"].items()}

    difference = changed(tmp_path, run, halve)
    assert str(difference).startswith(
        "the same model in another dtype (float32 -> bfloat16, 4 of 4 weight tensors): val"
    )
    assert {"dtype"} == {row.what for row in difference.rows}
    assert all(row.change and 0 < row.change.relative < 0.005 for row in difference.rows)


@pytest.mark.parametrize("prefix", ["", "module.", "model.net."])
@pytest.mark.parametrize("kind", ["safetensors", "bare", "lightning", "legacy", "timm"])
def test_the_same_weights_in_another_container_are_bitwise_equal(
    run: Path, tmp_path: Path, kind: str, prefix: str
) -> None:
    """Compared by their names, wherever a file keeps them and whatever it puts before the names."""
    a = run / "checkpoint_epoch_003.pth"
    weights = {prefix + name: value for name, value in loaded(a)["model_state_dict"].items()}
    if kind == "safetensors":
        b = tmp_path / "b.safetensors"
        safetensors.torch.save_file(weights, b, metadata={"format": "pt"})
    elif kind == "bare":
        b = pickled(tmp_path / "b.bin", weights)
    elif kind == "legacy":
        b = pickled(tmp_path / "b.pt", {"state_dict": weights}, _use_new_zipfile_serialization=False)
    elif kind == "timm":
        b = pickled(tmp_path / "b.pth.tar", {"epoch": 3, "arch": "net", "state_dict": weights, "metric": 0.5})
    else:
        theirs = {"optimizer_states": [loaded(a)["optimizer_state_dict"]], "pytorch-lightning_version": "2.5.0"}
        b = pickled(tmp_path / "b.ckpt", {"epoch": 3, "global_step": 8, "state_dict": weights, **theirs})
    difference = diff_checkpoints(a, b)
    assert re.match(
        r"the same weights, in another (container|place of the file).*: all 4 weight tensors bitwise equal; ",
        str(difference),
    )
    assert {"weights": (4, 4)}.items() <= difference.tensors.items()
    assert not difference.identical
    assert_fits(difference)
    assert_symmetric(difference)


def test_only_the_container_may_differ_in_what_is_identical(tmp_path: Path) -> None:
    """The weights alone, as .pth, as .safetensors and as torch wrote them before 1.6: the same tree."""
    torch.manual_seed(0)
    state = nn.Linear(3, 2).state_dict()
    files = [pickled(tmp_path / "a.pth", state), tmp_path / "b.safetensors"]
    safetensors.torch.save_file(dict(state), files[1])
    files.append(pickled(tmp_path / "c.pt", state, _use_new_zipfile_serialization=False))
    for b, kind in ((files[1], "safetensors"), (files[2], "legacy")):
        difference = diff_checkpoints(files[0], b)
        assert f"identical: all 2 tensors bitwise equal, in another container (torch, {kind})" == str(difference)
        assert difference.identical


def test_torchscript_holds_the_same_weights(tmp_path: Path) -> None:
    """By the names that the state dict has."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 2)))
    a = pickled(tmp_path / "a.pth", model.state_dict())
    with pytest.warns(DeprecationWarning, match="deprecated"):
        torch.jit.save(torch.jit.script(model), tmp_path / "b.pt")
    difference = diff_checkpoints(a, tmp_path / "b.pt")
    assert (
        "the same weights, in another container (torch, torchscript): all 4 weight tensors bitwise equal; only B "
        in (str(difference))
    )


class Timed(nn.Module):
    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((2,), weight))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


class Less(Timed):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.weight


def scripted(path: Path, model: nn.Module, *, frozen: bool = False) -> Path:
    script = torch.jit.script(model.eval())
    torch.jit.save(torch.jit.freeze(script) if frozen else script, path)
    return path


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_archives_of_other_code_or_constants_are_never_identical(tmp_path: Path) -> None:
    """Equal weights may be added or multiplied; a frozen model has its weights among its constants."""
    times, less = scripted(tmp_path / "times.pt", Timed(1.0)), scripted(tmp_path / "less.pt", Less(1.0))
    assert diff_checkpoints(times, scripted(tmp_path / "again.pt", Timed(1.0))).identical
    difference = diff_checkpoints(times, less)
    assert "the one weight tensor bitwise equal; the code differs (code/__torch__/" in str(difference)
    assert {("model", "code")} == {(row.section, row.what) for row in difference.rows}
    assert "CRC32" in text(difference)
    frozen = [scripted(tmp_path / f"frozen_{n}.pt", Timed(n), frozen=True) for n in (1.0, 2.0)]
    both = diff_checkpoints(*frozen)
    assert re.match(r"the (code and the )?constants differ \(", str(both))
    assert "constants/0" in {row.where for row in both.rows}
    for one in (difference, both, diff_checkpoints(times, frozen[0])):
        assert not one.identical
        assert_fits(one)
        assert_symmetric(one)


def test_whole_modules_of_a_stranger_are_compared_without_their_classes(tmp_path: Path) -> None:
    """torch.save(model): the tensors are found where the object has them; nothing is built."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    a = pickled(tmp_path / "a.pth", model)
    with torch.no_grad():
        model.bias[1] += 1
    difference = diff_checkpoints(a, pickled(tmp_path / "b.pth", model))
    assert str(difference).startswith("1 number of 2 differs in [1]._parameters.bias, at [1]: ")


def test_any_two_files_can_be_compared(run: Path, tmp_path: Path) -> None:
    """A list, a tensor, a number, an optimizer alone, a run: a sentence for each pair."""
    model = nn.Linear(3, 2)
    contents = [
        [torch.zeros(2), {"a": 1}],
        torch.zeros(3),
        5,
        torch.optim.SGD(model.parameters(), lr=0.1).state_dict(),
        {"model": model.state_dict(), "optimizer": torch.optim.SGD(model.parameters(), lr=0.1).state_dict()},
        {},
        None,
        {"a": {"b": {"weight": torch.ones(2)}}},
    ]
    files = [pickled(tmp_path / f"{number}.pth", content) for number, content in enumerate(contents)]
    for a in files:
        for b in [*files, run / "checkpoint_epoch_003.pth"]:
            difference = diff_checkpoints(a, b)
            assert (a == b) == difference.identical
            assert_fits(difference)
            assert_symmetric(difference)
    rate = diff_checkpoints(
        files[3], pickled(tmp_path / "other.pth", torch.optim.SGD(model.parameters(), lr=0.2).state_dict())
    )
    assert "learning rate 0.1 -> 0.2; everything else is equal" == str(rate)


# ---------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize(
    ("a", "b", "differing", "largest", "relative"),
    [
        ([1.0, 2.0, 2.0], [1.0, 2.0, 2.0], None, 0, 0),
        ([3.0, 4.0], [3.0, 9.0], 1, 5.0, 1.0),
        ([0.0, 0.0], [0.0, 1.0], 1, 1.0, math.inf),
        ([0.0], [-0.0], 1, 0.0, 0.0),
        ([math.nan, 1.0], [math.nan, 1.0], None, 0, 0),
        ([math.nan, 4.0], [1.0, 2.0], 2, 2.0, 0.5),
        ([math.inf, 4.0], [math.inf, 2.0], 1, 2.0, 0.5),
        ([1e300, 0.0], [-1e300, 0.0], 1, 2e300, 2.0),
        ([1.5e308], [-1.5e308], 1, math.inf, 2.0),
    ],
)
def test_numbers_of_every_size_have_a_change(
    a: list[float], b: list[float], differing: int | None, largest: float, relative: float
) -> None:
    """NaN and infinity are left out of the norms and counted, huge numbers are squared without overflow."""
    change = compare_arrays(np.array(a), np.array(b), ("float64", "float64"))
    if differing is None:
        assert change is None
    else:
        assert change is not None
        assert [differing, len(a)] == [change.differing, change.numbers]
        assert [largest, relative] == pytest.approx([change.largest, change.relative])
        assert (sum(map(math.isnan, a)), sum(map(math.isnan, b))) == change.nan
        assert (sum(map(math.isinf, a)), sum(map(math.isinf, b))) == change.infinite


def test_whole_numbers_are_exact_where_floats_are_not() -> None:
    """int64 beyond 2 ** 53, the ends of its range, uint64, uint8."""
    for dtype, a, b, largest in (
        ("int64", 2**60, 2**60 + 1, 1),
        ("int64", -(2**63), 2**63 - 1, 2**64 - 1),
        ("uint64", 2**64 - 1, 0, 2**64 - 1),
        ("uint8", 3, 250, 247),
        ("int8", -128, 127, 255),
    ):
        change = compare_arrays(np.array([7, a], dtype), np.array([7, b], dtype), (dtype, dtype))
        assert change is not None
        assert [largest, 1, a, b] == [change.largest, change.differing, change.before, change.after]


def test_other_payloads_of_nan_are_other_bits() -> None:
    """NaN with the same payload is the same; with another one the bits differ and no value does."""
    bits = np.array([0x7FC00000, 0x7FC00001], np.uint32)
    numbers = bits.view(np.float32)
    assert compare_arrays(numbers, numbers.copy(), ("float32", "float32")) is None
    change = compare_arrays(numbers[:1], numbers[1:], ("float32", "float32"))
    assert change is not None
    assert [1, 0.0, 0.0, (1, 1), 0] == [change.differing, change.largest, change.relative, change.nan, change.bit]


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.complex128),
        *(torch.int64, torch.uint8, torch.uint16, torch.bool),
    ],
)
def test_every_dtype_is_compared(tmp_path: Path, dtype: torch.dtype) -> None:
    """One number of six changes from 0 to 1."""
    numbers = torch.zeros(2, 3)
    a = pickled(tmp_path / "a.pth", {"weight": numbers.to(dtype)})
    numbers[1, 0] = 1
    difference = diff_checkpoints(a, pickled(tmp_path / "b.pth", {"weight": numbers.to(dtype)}))
    (row,) = difference.rows
    assert row.change is not None
    assert [1, 6, (1, 0), 1] == [row.change.differing, row.change.numbers, row.change.index, row.change.largest]
    assert "1 number of 6 differs in weight, at [1, 0]: " in str(difference)
    assert_fits(difference)


def test_views_are_compared_by_what_they_show(tmp_path: Path) -> None:
    """Another stride, a part of a storage, tied and expanded tensors; the numbers count, not how they lie."""
    whole = torch.arange(24.0).reshape(4, 6)
    content = {"t": whole.t(), "part": whole[1:3, ::2], "row": whole[0].expand(5, 6), "one": torch.ones(1).expand(7)}
    a = pickled(tmp_path / "a.pth", content)
    plain = {name: tensor.clone().contiguous() for name, tensor in content.items()}
    assert diff_checkpoints(a, pickled(tmp_path / "b.pth", plain)).identical
    whole[0, 2] = -1.0
    difference = diff_checkpoints(a, pickled(tmp_path / "c.pth", content))
    assert {"t": ((2, 0), 1, 24), "row": ((0, 2), 5, 30)} == {
        row.where: (row.change.index, row.change.differing, row.change.numbers) for row in difference.rows if row.change
    }


def test_nan_in_one_of_two_files_is_said(run: Path, tmp_path: Path) -> None:
    """How many, and that the rest has moved by what."""

    def break_it(checkpoint: dict[str, Any]) -> None:
        checkpoint["model_state_dict"]["0.weight"][:] = math.nan
        checkpoint["model_state_dict"]["2.bias"] += 1

    difference = changed(tmp_path, run, break_it)
    said = (
        "1 of 4 weight tensors differs by [0-9]+ % \\(2.bias\\), all numbers of 0.weight are NaN in B; everything else "
    )
    assert re.match(said, str(difference))
    assert "NaN 0 -> 12" in text(difference)


NUMBERS = {"w": torch.arange(1.0, 13.0), "v": torch.arange(1.0, 5.0), "bias": torch.zeros(3)}
NAN = math.nan


@pytest.mark.parametrize(
    ("b", "said"),
    [
        ({"w": [0, 0, 0]}, "3 of 12 numbers of w differ, all of them 0 in B"),
        ({"w": [0, -0.0, 3]}, "2 of 12 numbers of w differ, all of them 0 in B"),
        ({"w": [0, 7, 3]}, "2 of 12 numbers of w differ, which moves it by 20 %"),
        ({"w": [NAN, NAN, 3]}, "2 of 12 numbers of w differ, all of them NaN in B"),
        (
            {"w": [NAN, 0, 3]},
            "2 of 12 numbers of w differ, which moves it by 7.9 %, with other counts of NaN or infinity in w",
        ),
        ({"w": [math.inf, NAN, 3]}, "2 of 12 numbers of w differ, with other counts of NaN or infinity in w"),
        ({"bias": [1, 2, 0]}, "2 of 3 numbers of bias differ, which moves it from zero"),
        ({"w": [0, 0], "v": [0]}, "2 of 3 weight tensors differ, in 3 of 16 numbers, all of them 0 in B"),
        ({"w": [0, 0], "v": [NAN]}, "2 of 3 weight tensors differ, in 3 of 16 numbers, which moves them by "),
        ({"w": [1, 3], "v": [2]}, "2 of 3 weight tensors differ, in 2 of 16 numbers, which moves them, by "),
        ({"w": [0] * 12}, "1 of 3 weight tensors differs by 100 % (w)"),
        ({"w": [NAN] * 12, "v": [NAN] * 4, "bias": [NAN] * 3}, "all numbers of all 3 weight tensors are NaN in B"),
        ({"w": [NAN] * 12, "v": [NAN] * 4}, "all numbers of w, v are NaN in B"),
        ({"w": [2] * 12, "v": [NAN] * 4}, "1 of 3 weight tensors differs by 77 % (w), all numbers of v are NaN in B"),
    ],
)
def test_where_a_part_of_the_numbers_differs_they_are_counted(
    tmp_path: Path, b: dict[str, list[float]], said: str
) -> None:
    """Harm done to a file is told otherwise than a run that went on: how many, and whether they are lost."""
    harmed = {name: numbers.clone() for name, numbers in NUMBERS.items()}
    for name, numbers in b.items():
        harmed[name][: len(numbers)] = torch.tensor(numbers, dtype=torch.float32)
    files = pickled(tmp_path / "a.pth", {"state_dict": NUMBERS}), pickled(tmp_path / "b.pth", {"state_dict": harmed})
    difference = diff_checkpoints(*files)
    assert str(difference).startswith(said)
    assert str(difference).endswith("; everything else is equal")
    assert_fits(difference)
    back = str(diff_checkpoints(*reversed(files)))
    assert ("NaN in B" in said) == ("NaN in A" in back)


def test_of_a_step_of_a_run_no_numbers_are_counted(tmp_path: Path) -> None:
    """Numbers that stayed by chance are no harm."""
    for epoch in (0, 1):
        numbers = NUMBERS | {"w": NUMBERS["w"] * (1 + epoch * (NUMBERS["w"] > 1))}
        pickled(tmp_path / f"{epoch}.pth", {"epoch": epoch, "state_dict": numbers})
    difference = diff_checkpoints(tmp_path / "0.pth", tmp_path / "1.pth")
    assert "B is 1 epoch further: 1 of 3 weight tensors moved by 100 % (w)" == str(difference)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.complex64])
def test_lost_numbers_are_known_in_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    """Zeros are zeros, also where numpy has no such number."""
    numbers = torch.arange(1, 300_001).remainder(100).add(1).to(dtype)
    a = pickled(tmp_path / "a.pth", {"weight": numbers})
    numbers[100:299_000] = 0
    b = pickled(tmp_path / "b.pth", {"weight": numbers})
    end = " numbers of weight differ, all of them 0 in B; everything else is equal"
    assert "298,900 of 300,000" + end == str(diff_checkpoints(a, b))
    numbers[-1] += 1
    assert "all of them" not in str(diff_checkpoints(a, pickled(tmp_path / "b.pth", {"weight": numbers})))


# --------------------------------------------------------------------------------------------------- whatever is in it

atoms = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text("ab", max_size=2)
tensors = st.builds(
    lambda numbers, dtype: torch.tensor(numbers).to(dtype),
    st.lists(st.integers(0, 100), max_size=4),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]),
)
names = st.text("ab.", max_size=3) | st.integers(0, 3)
trees = st.recursive(
    tensors | atoms,
    lambda below: st.dictionaries(names, below, max_size=4) | st.lists(below, max_size=3) | st.tuples(below, below),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None, suppress_health_check=IN_ONE_FOLDER)
@given(trees)
def test_any_tree_is_identical_with_itself(tmp_path: Path, content: Any) -> None:
    """Saved under two names, so that the bytes of the files differ."""
    a, b = pickled(tmp_path / "a.pth", content), pickled(tmp_path / "b.pth", copy.deepcopy(content))
    difference = diff_checkpoints(a, b)
    assert () == difference.rows
    assert "" == difference.same


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield each leaf of dicts and lists: the path that its row has, its holder, its key, itself."""
    if isinstance(value, (dict, list)):
        flat = isinstance(value, list) and not any(
            isinstance(item, (dict, list, tuple, torch.Tensor)) for item in value
        )
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            name = f"[{key}]" if isinstance(value, list) else str(key) or "''"
            step = path if flat else f"{path}{name}" if not path or name[0] == "[" else f"{path}.{name}"
            if isinstance(item, (dict, list)) and item:
                yield from leaves(item, step)
            else:
                yield step, value, key, item


@settings(max_examples=120, deadline=None, suppress_health_check=IN_ONE_FOLDER)
@given(st.dictionaries(names, trees, min_size=1, max_size=4), st.data())
def test_one_leaf_that_changes_is_exactly_one_row(tmp_path: Path, content: dict[Any, Any], data: st.DataObject) -> None:
    """With its path, and the other way round as well."""
    a = pickled(tmp_path / "a.pth", content)
    other = copy.deepcopy(content)
    where, holder, key, leaf = data.draw(st.sampled_from(list(leaves(other))))
    if isinstance(leaf, torch.Tensor) and leaf.numel():
        holder[key] = leaf.clone()
        holder[key].view(-1)[0] = not leaf.view(-1)[0]
    else:
        holder[key] = "something else"
    difference = diff_checkpoints(a, pickled(tmp_path / "b.pth", other))
    assert [where] == [row.where for row in difference.rows]
    assert_fits(difference)
    assert_symmetric(difference)


def test_values_of_another_type_are_other_values(tmp_path: Path) -> None:
    """1 is not 1.0 and not True, 0.0 not -0.0; one NaN is the other, and the order of keys is no difference."""
    a = {"one": 1, "zero": 0.0, "nan": math.nan, "tuple": (1, 2), True: 1}
    b = {"nan": math.nan, 1: 1, "tuple": [1, 2], "one": True, "zero": -0.0}
    difference = diff_checkpoints(pickled(tmp_path / "a.pth", a), pickled(tmp_path / "b.pth", b))
    found = sorted((row.where, row.what) for row in difference.rows)
    assert [("1", "only in B"), ("True", "only in A"), ("one", "value"), ("tuple", "value"), ("zero", "value")] == found
    assert diff_checkpoints(
        pickled(tmp_path / "c.pth", {"a": 1, "b": 2}), pickled(tmp_path / "d.pth", {"b": 2, "a": 1})
    ).identical


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.float16, torch.float32),
        (2**62, 2**63),
        (2**62, str(2**62)),
        (0.1, 0.2),
        (1e300, 1e301),
        ((1, (2, 3)), (1, (2, 4))),
    ],
    ids=["dtypes", "large", "text", "small", "huge", "nested"],
)
def test_keys_of_every_kind_are_told_apart(tmp_path: Path, a: Any, b: Any) -> None:
    """Also those that a header does not hash; the same ones are no difference, in whichever order they stand."""
    one = pickled(tmp_path / "a.pth", {"state": {a: 1, "x": 2}})
    assert diff_checkpoints(one, pickled(tmp_path / "b.pth", {"state": {a: 1, "x": 2}})).identical
    difference = diff_checkpoints(one, pickled(tmp_path / "c.pth", {"state": {b: 1, "x": 2}}))
    assert not difference.identical
    assert all("runs code" not in row.where for row in difference.rows)
    assert_fits(difference)
    if not isinstance(a, tuple):
        assert 2 == len({row.where for row in difference.rows})
        turned = diff_checkpoints(one, pickled(tmp_path / "d.pth", {"state": {"x": 2, a: 1}}))
        assert turned.identical


def test_equal_sets_of_two_processes_are_identical(tmp_path: Path) -> None:
    """Each process has its own order for texts."""
    paths = [tmp_path / "a.pth", tmp_path / "b.pth"]
    content = "{'w': torch.ones(2), 'names': set('alpha beta gamma delta epsilon'.split())}"
    for seed, path in enumerate(paths):
        program = f"import torch; torch.save({content}, {str(path)!r})"
        subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": str(seed)}, check=True)
    difference = diff_checkpoints(*paths)
    assert "" == difference.same
    assert difference.identical


def test_rows_stand_in_the_order_of_what_matters(run: Path, tmp_path: Path) -> None:
    """Whatever order the file has."""
    a, b = loaded(run / "checkpoint_epoch_003.pth"), loaded(run / "checkpoint_epoch_002.pth")
    b["config"] = {"lr": 1}
    a["config"] = {"lr": 2}
    b["model_state_dict"]["new"] = torch.zeros(1)
    difference = diff_checkpoints(
        pickled(tmp_path / "a.pth", dict(reversed(a.items()))), pickled(tmp_path / "b.pth", dict(reversed(b.items())))
    )
    found = [SECTIONS.index(row.section) for row in difference.rows]
    assert sorted(found) == found
    assert {"model", "place", "metrics", "weights", "optimizer", "states", "config", "random", "metadata"} == set(
        sections(difference)
    )


def test_two_files_are_compared_without_torch(run: Path) -> None:
    """Numbers by numpy: a diff starts in a fraction of the time that torch takes."""
    arguments = ["diff", *(str(run / f"checkpoint_epoch_00{epoch}.pth") for epoch in (2, 3))]
    assert {"numpy"} == loaded_by(
        f"from koemorph_tutorial.__main__ import main\nassert 1 == main({arguments})\nprint()"
    )


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("make", "error"),
    [
        pytest.param(lambda path: None, CheckpointNotFoundError, id="missing"),
        pytest.param(lambda path: path.mkdir(), DamagedCheckpointError, id="a directory"),
        pytest.param(os.mkfifo, DamagedCheckpointError, id="a pipe"),
        pytest.param(lambda path: path.write_bytes(b""), DamagedCheckpointError, id="empty"),
        pytest.param(lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * 99), DamagedCheckpointError, id="cut short"),
        pytest.param(lambda path: path.write_text("hello"), DamagedCheckpointError, id="text"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    run: Path, tmp_path: Path, make: Callable[[Path], object], error: type[CheckpointError]
) -> None:
    """On either side, and it names the file."""
    path = tmp_path / "bad.pth"
    make(path)
    for pair in ((run / "checkpoint_epoch_003.pth", path), (path, run / "checkpoint_epoch_003.pth")):
        with pytest.raises(error, match=rf"^{path}: expected [^\n]*$"):
            diff_checkpoints(*pair)


HOSTILE = [
    make
    for make in vars(hostile).values()
    if inspect.isfunction(make) and list(inspect.signature(make).parameters) == ["folder", "proof"]
]


@pytest.mark.parametrize("make", HOSTILE, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("ignore")  # some are made by functions that torch will remove
def test_nothing_in_a_hostile_file_runs_or_takes_for_ever(
    run: Path, tmp_path: Path, make: Callable[[Path, Path], Path]
) -> None:
    """Against another of its kind, whose bytes differ by a name, and against a file of ours."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    a, b = (make(folder, tmp_path / "proof") for folder in folders)
    ours = run / "checkpoint_epoch_003.pth"
    begin = time.process_time()
    for pair in ((a, b), (a, ours), (ours, a)):
        try:
            difference = diff_checkpoints(*pair)
            assert_fits(difference)
        except CheckpointError:
            continue
    assert time.process_time() - begin < 20
    assert not (tmp_path / "proof").exists()


def test_trees_that_share_differently_end(tmp_path: Path) -> None:
    """Trees that unfold to 2 ** 40 branches; two rings of which each place of one meets each of the other."""
    one: Any = {"leaf": 0}
    for _ in range(40):
        one = {"l": one, "r": one}
    rings = [[{"next": None, "n": n} for n in range(length)] for length in (101, 103)]
    for ring in rings:
        for n, item in enumerate(ring):
            item["next"] = ring[(n + 1) % len(ring)]
    a = pickled(tmp_path / "a.pth", {"tree": one, "ring": rings[0]})
    b = pickled(tmp_path / "b.pth", {"tree": copy.deepcopy(one), "ring": rings[0]})
    assert diff_checkpoints(a, b).identical
    for item in (*rings[0], *rings[1]):
        item["n"] = 0  # they cannot be told apart but by walking both around
    a = pickled(tmp_path / "a.pth", {"ring": rings[0][0]})
    b = pickled(tmp_path / "b.pth", {"ring": rings[1][0]})
    difference = diff_checkpoints(a, b)
    assert ["not compared"] == [row.what for row in difference.rows]
    assert not difference.identical
    assert_fits(difference)


def test_tensors_that_lie_over_each_other_are_not_unfolded(tmp_path: Path) -> None:
    """A million by a million numbers in two million of storage, and one storage under ten thousand names."""
    numbers = torch.zeros(2_000_000, dtype=torch.uint8)
    folded = torch.as_strided(numbers, (1_000_000, 1_000_000), (1, 1))
    expanded = numbers[:1].expand(2**40)
    a = pickled(tmp_path / "a.pth", {"folded": folded, "expanded": expanded})
    numbers[5] = 1
    numbers[0] = 3
    difference = diff_checkpoints(a, pickled(tmp_path / "b.pth", {"folded": folded, "expanded": expanded}))
    assert {"expanded": "numbers", "folded": "not compared"} == {row.where: row.what for row in difference.rows}
    assert [2**40] == [row.change.differing for row in difference.rows if row.change]

    def many(numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        return {f"w{n}": numbers[n:] for n in range(10_000)}

    begin = time.process_time()
    c = pickled(tmp_path / "c.pth", many(torch.zeros(1_000_000)))
    difference = diff_checkpoints(c, pickled(tmp_path / "d.pth", many(torch.ones(1_000_000))))
    assert {"numbers", "not compared"} == {row.what for row in difference.rows}
    assert time.process_time() - begin < 60


def test_one_flat_buffer_under_many_names_is_compared_whole(tmp_path: Path) -> None:
    """As sharded training keeps its parameters: each name is a part of it."""
    flat = torch.arange(40_000.0)
    content = {f"w{n}": flat[40 * n : 40 * n + 40] for n in range(1000)}
    a = pickled(tmp_path / "a.pth", content)
    flat[123] += 1
    difference = diff_checkpoints(a, pickled(tmp_path / "b.pth", content))
    assert ["w3"] == [row.where for row in difference.rows]
    assert (1000, 999) == difference.tensors["weights"]


def test_long_lists_are_cut_and_counted(tmp_path: Path) -> None:
    """A screen for people, everything for programs."""
    a = {"model_state_dict": {f"l{n}.weight": torch.full((2,), float(n)) for n in range(300)}, "config": {}}
    b = copy.deepcopy(a)
    for n in range(100):
        b["model_state_dict"][f"l{n}.weight"] += 1
        b["model_state_dict"][f"new{n}.weight"] = torch.full((2,), 1000.0 + n)
        b["config"][f"key{n}"] = n
    difference = diff_checkpoints(pickled(tmp_path / "a.pth", a), pickled(tmp_path / "b.pth", b))
    said = text(difference)
    assert len(said.splitlines()) < 60
    for words in ("100 of 300 tensors differ in numbers, 200 bitwise equal", "… 88 more: --json lists them"):
        assert words in said
    assert "88 more only in B: --json lists them" in said
    assert 300 == len(json.loads(difference.to_json())["rows"])


def test_a_row_is_plain(run: Path) -> None:
    """What a program reads of it."""
    difference = diff_checkpoints(run / "checkpoint_epoch_002.pth", run / "checkpoint_epoch_003.pth")
    row: Row = next(row for row in difference.rows if row.where == "metrics.loss")
    assert {"section": "metrics", "where": "metrics.loss", "what": "value", "a": 0.7, "b": 0.6} == row.to_plain()
    change = next(row.to_plain()["change"] for row in difference.rows if row.section == "weights")
    assert {
        "numbers",
        "differing",
        "largest",
        "relative",
        "nan",
        "infinite",
        "index",
        "before",
        "after",
        "bit",
        "zeroed",
    } == set(change)
