"""Weights alone: out of anybody's file, into a model as a whole or not at all, and nothing in the file can run."""

from __future__ import annotations

import argparse
import copy
import json
import logging
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.overrides import TorchFunctionMode
from torch.utils.serialization import config as serialization

from koemorph_tutorial import save_checkpoint
from koemorph_tutorial.inference import LoadedWeights, load_for_inference, load_weights
from koemorph_tutorial.records import (
    CheckpointError,
    CheckpointNotFoundError,
    DamagedCheckpointError,
    MismatchError,
    NewerFormatError,
    UnsupportedCheckpointError,
)
from koemorph_tutorial.training.config import load_config, to_plain
from koemorph_tutorial.training.evaluation import evaluate_checkpoint
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel

compiled = partial(torch.compile, backend="eager")  # wraps in the same way and brings no compiler


class Net(nn.Module):
    """A convolution, a norm with buffers, two layers within a layer."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, width, 3)
        self.norm = nn.BatchNorm1d(width)
        self.layers = nn.Sequential(nn.Dropout(0.5), nn.Linear(width, 2))
        self.register_buffer("window", torch.hann_window(4), persistent=False)
        self.scale = torch.ones(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.conv(x)).mean(-1)
        return self.scale * self.layers(features)  # type: ignore[no-any-return]


class Tied(nn.Module):
    """Two names for one tensor, as language models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def make(kind: Callable[[], nn.Module] = Net, seed: int = 0) -> nn.Module:
    """Return a module whose every tensor, buffers included, depends on the seed."""
    torch.manual_seed(seed)
    module = kind()
    with torch.no_grad():
        for value in module.state_dict().values():
            value.copy_(torch.rand_like(value) if value.is_floating_point() else torch.randint(99, value.shape))
    return module


def bits(module: nn.Module | Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    """Return the bytes of every tensor of a module."""
    state = module.state_dict() if isinstance(module, nn.Module) else module
    return {
        name: value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, value in state.items()
    }


def saved(path: Path, content: Any, **options: Any) -> Path:
    """Save as anybody does."""
    torch.save(content, path, **options)
    return path


def prefixed(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


def safetensors_file(path: Path, state: Mapping[str, torch.Tensor]) -> Path:
    """Write a safetensors file by hand: eight bytes of length, a header in JSON, the numbers."""
    kinds = {torch.float32: "F32", torch.int64: "I64", torch.bfloat16: "BF16"}
    header, data = {}, b""
    for name, raw in bits(state).items():
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": kinds[state[name].dtype], "shape": list(state[name].shape), "data_offsets": offsets}
        data += raw
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def break_record(path: Path, tensor: torch.Tensor) -> None:
    """Flip a bit among the numbers of one tensor of a file."""
    data = bytearray(path.read_bytes())
    (raw,) = bits({"": tensor}).values()
    assert 1 == data.count(raw)
    data[data.index(raw) + len(raw) // 2] ^= 4
    path.write_bytes(data)


# -- what is filled ----------------------------------------------------------------------------------------------------


def test_a_model_that_shall_answer_is_filled_and_in_eval_mode(tmp_path: Path) -> None:
    """Bitwise what was saved, dropout off, and the metrics beside it."""
    there, here = make(), make(seed=1)
    path = save_checkpoint({"model_state_dict": there.state_dict(), "metrics": {"loss": 0.5}}, tmp_path / "a.pth").path
    model, metrics = load_for_inference(path, here)
    assert here is model
    assert not any(part.training for part in model.modules())
    assert {"loss": 0.5} == metrics
    assert bits(there) == bits(model)
    x = torch.rand(2, 3, 9)
    assert torch.equal(there.eval()(x), model(x))


def test_a_warm_start_leaves_mode_gradients_and_optimizer_alone(tmp_path: Path) -> None:
    """Only numbers change: the optimizer goes on with the same parameters."""
    path = saved(tmp_path / "a.pth", {"model_state_dict": make().state_dict()})
    model = make(seed=1)
    model.conv.weight.requires_grad_(False)  # type: ignore[union-attr]
    model.norm.eval()  # type: ignore[union-attr]
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(2, 3, 9)).sum().backward()
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    parameters = [(id(p), p.requires_grad) for p in model.parameters()]
    modes = [part.training for part in model.modules()]
    loaded = load_weights(path, model)
    assert bits(make()) == bits(model)
    assert parameters == [(id(p), p.requires_grad) for p in model.parameters()]
    assert modes == [part.training for part in model.modules()]
    assert str(before) == str(optimizer.state_dict())
    assert "9 tensors filled from model_state_dict" == str(loaded)
    assert tuple(make().state_dict()) == loaded.filled


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "net.backbone.", "0."])
def test_a_prefix_of_the_names_is_taken_off_and_said(tmp_path: Path, prefix: str) -> None:
    """Whatever wrapped the model when it was saved."""
    path = saved(tmp_path / "a.pth", {"state_dict": prefixed(prefix, make().state_dict())})
    model = make(seed=1)
    loaded = load_weights(path, model)
    plain = prefix.replace("_orig_mod.", "")
    assert (plain, "state_dict", ()) == (loaded.prefix, loaded.where, loaded.notes)
    assert (f"{plain!r} taken off their names" in str(loaded)) is bool(plain)
    assert bits(make()) == bits(model)


def test_torch_compile_within_a_model_changes_no_name(tmp_path: Path) -> None:
    """It puts `_orig_mod.` into the middle of names, on either side."""
    there = make()
    there.layers = compiled(there.layers)  # type: ignore[assignment]
    assert "layers._orig_mod.1.weight" in there.state_dict()
    here = make(seed=1)
    load_weights(saved(tmp_path / "a.pth", there.state_dict()), here)
    assert bits(make()) == bits(here)
    again = make(seed=1)
    again.layers = compiled(again.layers)  # type: ignore[assignment]
    load_weights(saved(tmp_path / "b.pth", here.state_dict()), again)
    assert bits(there) == bits(again)


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled, lambda model: compiled(nn.DataParallel(model))])
@pytest.mark.parametrize("wrapped_there", [False, True])
def test_the_model_handed_over_may_be_wrapped(tmp_path: Path, wrap: Any, wrapped_there: bool) -> None:
    """What is handed over comes back, wrapper and all."""
    there = wrap(make()) if wrapped_there else make()
    model = wrap(make(seed=1))
    again, _ = load_for_inference(saved(tmp_path / "a.pth", there.state_dict()), model)
    assert model is again
    assert list(bits(make()).values()) == list(bits(model).values())
    assert not any(part.training for part in model.modules())


def test_of_a_larger_model_the_part_that_was_asked_for_is_taken(tmp_path: Path) -> None:
    """A backbone out of a whole: all that it needs is there, and what is not used is said."""
    state = {**prefixed("backbone.", make().state_dict()), "head.weight": torch.zeros(2, 2)}
    model = make(seed=1)
    loaded = load_weights(saved(tmp_path / "a.pth", state), model)
    assert ("backbone.", (), ("1 outside of 'backbone.', not used: head.weight",)) == (
        loaded.prefix,
        loaded.unexpected,
        loaded.notes,
    )
    assert bits(make()) == bits(model)


def test_of_two_parts_that_fit_none_is_chosen_in_silence(tmp_path: Path) -> None:
    """A student and a teacher have the same names; shapes tell a generator from its critic."""
    student, teacher = (prefixed(name, make(seed=s).state_dict()) for s, name in enumerate(("student.", "teacher.")))
    path = saved(tmp_path / "a.pth", {**student, **teacher})
    model = make(seed=2)
    with pytest.raises(MismatchError, match=r"its names fit under 'student\.' and 'teacher\.' alike"):
        load_weights(path, model)
    assert bits(make(seed=2)) == bits(model)
    loaded = load_weights(path, model, strict=False)
    assert ("1 more under which the names fit as under 'student.': teacher.",) == loaded.notes[1:]
    assert bits(make()) == bits(model)

    critic = prefixed("critic.", make(lambda: Net(7)).state_dict())
    loaded = load_weights(saved(tmp_path / "b.pth", {**critic, **teacher}), model)
    assert "teacher." == loaded.prefix
    assert bits(make(seed=1)) == bits(model)


# -- averaged weights --------------------------------------------------------------------------------------------------


def averaged() -> tuple[nn.Module, AveragedModel]:
    """Return a model and its exponential moving average, which differ."""
    model = make()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    average.update_parameters(model)
    with torch.no_grad():
        model.conv.weight.add_(1)  # type: ignore[union-attr, operator]
    average.update_parameters(model)
    return model, average


def test_averaged_weights_are_taken_on_request(tmp_path: Path) -> None:
    """The count of an AveragedModel is no weight of the model, and no surprise."""
    model, average = averaged()
    content = {"model_state_dict": model.state_dict(), "ema_state_dict": average.state_dict()}
    path = save_checkpoint(content, tmp_path / "a.pth").path
    plain, ema = make(seed=1), make(seed=1)
    load_weights(path, plain)
    loaded = load_weights(path, ema, weights="ema")
    assert ("ema_state_dict", "module.", (), ()) == (loaded.where, loaded.prefix, loaded.unexpected, loaded.notes)
    assert bits(model) == bits(plain)
    assert bits(average.module) == bits(ema)
    whole = AveragedModel(make(seed=1))
    load_weights(path, whole, weights="ema")
    assert bits(average) == bits(whole)


def test_averaged_weights_as_timm_keeps_them(tmp_path: Path) -> None:
    """Beside an argparse.Namespace, which stays what it is: a name in a file."""
    args = argparse.Namespace(model="resnet", lr=0.1)
    content = {
        "epoch": 3,
        "arch": "net",
        "state_dict": make().state_dict(),
        "optimizer": torch.optim.SGD(make().parameters()).state_dict(),
        "version": 2,
        "args": args,
        "state_dict_ema": prefixed("module.", make(seed=1).state_dict()),
        "metric": 78.5,
    }
    path = saved(tmp_path / "model_best.pth.tar", content)
    model, ema = make(seed=2), make(seed=2)
    note = "1 named in the file and not run: argparse.Namespace"
    assert (note,) == load_weights(path, model).notes
    assert (note,) == load_weights(path, ema, weights="ema").notes
    assert bits(make()) == bits(model)
    assert bits(make(seed=1)) == bits(ema)
    assert {"metric": 78.5} == load_for_inference(path, model)[1]


def test_what_is_there_is_named_where_no_average_is(tmp_path: Path) -> None:
    """And any other state can be asked for by its name."""
    path = saved(
        tmp_path / "a.pth", {"model_state_dict": make().state_dict(), "critic_state_dict": make().state_dict()}
    )
    with pytest.raises(MismatchError, match=r"a\.pth: expected the weights of 'ema', found model, critic"):
        load_weights(path, make(), weights="ema")
    assert "critic_state_dict" == load_weights(path, make(), weights="critic").where


# -- what does not fit -------------------------------------------------------------------------------------------------


def of_another_model(path: Path) -> Path:
    """Save weights of which one is missing, one is too many and one has another shape."""
    state = {**make().state_dict(), "extra": torch.zeros(1), "conv.weight": torch.zeros(4, 3, 5)}
    del state["layers.1.bias"]
    return saved(path, {"model_state_dict": state, "config": {"width": 4}})


def test_all_that_does_not_fit_is_one_line_and_nothing_is_filled(tmp_path: Path) -> None:
    """Missing, unexpected and reshaped together, and what to do."""
    path, model = of_another_model(tmp_path / "a.pth"), make(seed=1)
    for load in (load_weights, load_for_inference):
        with pytest.raises(MismatchError) as refused:
            load(path, model)
        assert (
            f"{path}: model_state_dict: 1 not in the file: layers.1.bias; 1 only in the file: extra; 1 of another "
            "shape or kind: conv.weight: expected (4, 3, 3), found (4, 3, 5); this is the checkpoint of another model: "
            "build the model that it was saved from (the config in the file may say how), or fill what fits by "
            "strict=False"
        ) == str(refused.value)
    assert bits(make(seed=1)) == bits(model)
    assert model.training


def test_what_fits_is_filled_if_that_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The rest stays as it was, and is said."""
    path, model = of_another_model(tmp_path / "a.pth"), make(seed=1)
    loaded = load_weights(path, model, strict=False)
    assert (("layers.1.bias",), ("extra",), ("conv.weight: expected (4, 3, 3), found (4, 3, 5)",)) == (
        loaded.missing,
        loaded.unexpected,
        loaded.reshaped,
    )
    left = {"layers.1.bias", "conv.weight"}
    assert set(bits(model)) - left == set(loaded.filled)
    for name, value in bits(model).items():
        assert bits(make(seed=1 if name in left else 0))[name] == value
    assert (
        "7 tensors filled from model_state_dict; 1 not in the file, left as they were: layers.1.bias; 1 only in the "
        "file, not used: extra; 1 of another shape or kind, left as they were: conv.weight: expected (4, 3, 3), found "
        "(4, 3, 5)"
    ) == str(loaded)
    with caplog.at_level(logging.WARNING):
        load_for_inference(path, model, strict=False)
    assert f"{path}: {loaded}" == caplog.messages[-1]


@pytest.mark.parametrize("strict", [True, False])
def test_where_nothing_fits_it_is_an_error_even_so(tmp_path: Path, strict: bool) -> None:
    """torch's strict=False would fill nothing, and say nothing to whoever does not read what it returns."""
    state = {f"{name}s": value for name, value in make().state_dict().items()}
    model = make(seed=1)
    with pytest.raises(MismatchError, match="nothing in it fits the model; 9 not in the file: ") as refused:
        load_weights(saved(tmp_path / "a.pth", state), model, strict=strict)
    assert "strict=False" not in str(refused.value)
    assert bits(make(seed=1)) == bits(model)


def test_long_lists_are_cut_and_strange_names_cannot_move_the_cursor(tmp_path: Path) -> None:
    """One line, whatever a stranger calls his tensors."""
    state = {**make().state_dict(), **{f"extra\n\x1b[2J{i}": torch.zeros(1) for i in range(8)}}
    with pytest.raises(MismatchError, match="8 only in the file: ") as refused:
        load_weights(saved(tmp_path / "a.pth", state), make())
    assert str(refused.value).isprintable()
    assert "; this" == str(refused.value).partition(" and 3 more")[2][:6]


def test_tensors_of_a_dtype_that_loses_numbers_do_not_fit(tmp_path: Path) -> None:
    """torch makes 0 of the weight 0.3 where the model holds whole numbers; here it is said."""
    state = {"weight": torch.full((2, 2), 0.3)}
    model = nn.Module()
    model.register_buffer("weight", torch.ones(2, 2, dtype=torch.int8))
    with pytest.raises(MismatchError, match="weight: expected int8, found float32"):
        load_weights(saved(tmp_path / "a.pth", state), model)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str
)
def test_another_dtype_is_cast_and_said(tmp_path: Path, dtype: torch.dtype) -> None:
    """As torch would cast it."""
    there = nn.Linear(3, 2).to(dtype)
    here, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    loaded = load_weights(saved(tmp_path / "a.pth", there.state_dict()), here)
    theirs.load_state_dict(there.state_dict())
    assert bits(theirs) == bits(here)
    name = str(dtype).removeprefix("torch.")
    cast = f"({name} in the file, float32 here)"
    assert (f"2 stored as another dtype: weight {cast}, bias {cast}",) == loaded.notes


# -- tensors that are no plain ones ------------------------------------------------------------------------------------


def test_tied_weights_may_be_in_the_file_once_or_twice(tmp_path: Path) -> None:
    """safetensors files hold one of the names only."""
    there = make(Tied)
    twice = there.state_dict()
    for number, left_out in enumerate((None, "head.weight", "embed.weight")):
        state = {name: value for name, value in twice.items() if name != left_out}
        for path in (saved(tmp_path / f"{number}.pth", state), safetensors_file(tmp_path / f"{number}.st", state)):
            here = make(Tied, seed=1)
            loaded = load_weights(path, here)
            assert () == loaded.missing
            assert bits(there) == bits(here)
            assert here.head.weight is here.embed.weight  # type: ignore[union-attr]


def test_tied_weights_that_are_two_in_the_file_are_refused(tmp_path: Path) -> None:
    """The model has room for one of them."""
    state = {"embed.weight": torch.zeros(5, 3), "head.weight": torch.ones(5, 3)}
    path, model = saved(tmp_path / "a.pth", state), make(Tied)
    with pytest.raises(MismatchError, match=r"1 tied in the model, but not in the file: embed\.weight and head"):
        load_weights(path, model)
    assert bits(make(Tied)) == bits(model)
    assert "not in the file" in load_weights(path, model, strict=False).notes[0]
    same = {name: torch.full((5, 3), torch.nan) for name in state}
    nan = "2 with NaN in it: embed.weight, head.weight"  # equal bit by bit, though no NaN equals itself
    assert (nan,) == load_weights(saved(tmp_path / "b.pth", same), model).notes


def test_views_and_shared_storages_are_read_as_tensors(tmp_path: Path) -> None:
    """A transposed, a sliced and an expanded tensor of one storage."""
    numbers = torch.arange(12.0)
    state = {"weight": numbers[2:8].view(2, 3).t(), "bias": numbers[3:4].expand(3)}
    model = nn.Linear(2, 3)
    load_weights(saved(tmp_path / "a.pth", state), model)
    assert torch.equal(state["weight"], model.weight)
    assert torch.equal(state["bias"], model.bias)


def test_lazy_modules_get_their_shape_from_the_file(tmp_path: Path) -> None:
    """And compute with it."""
    there = nn.Linear(3, 2)
    model, _ = load_for_inference(saved(tmp_path / "a.pth", there.state_dict()), nn.LazyLinear(2))
    assert bits(there) == bits(model)
    x = torch.rand(4, 3)
    assert torch.equal(there(x), model(x))


def test_a_norm_from_before_batches_were_counted_is_whole(tmp_path: Path) -> None:
    """As for torch: files of 2018 have no `num_batches_tracked`."""
    state = make().state_dict()
    del state["norm.num_batches_tracked"]
    loaded = load_weights(saved(tmp_path / "a.pth", state), make(seed=1))
    assert ((), 8) == (loaded.missing, len(loaded.filled))


def test_a_weight_norm_of_before_fills_one_of_today(tmp_path: Path) -> None:
    """Speech models of the last ten years call its halves `weight_g` and `weight_v`; torch knows them as well."""
    there = nn.Sequential(nn.Conv1d(3, 2, 3), parametrizations.weight_norm(nn.Linear(3, 2)))
    state = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in there.state_dict().items()
    }
    assert {"1.weight_g", "1.weight_v"} < set(state)
    here, theirs = (nn.Sequential(nn.Conv1d(3, 2, 3), parametrizations.weight_norm(nn.Linear(3, 2))) for _ in range(2))
    theirs.load_state_dict(dict(state))
    loaded = load_weights(saved(tmp_path / "a.pth", prefixed("module.", state)), here)
    assert "module." == loaded.prefix
    assert bits(there) == bits(theirs) == bits(here)


def sharing_one_number() -> nn.Module:
    model = nn.Module()
    model.register_buffer("weight", torch.zeros(1).expand(3))
    return model


def with_meta() -> nn.Module:
    return nn.Linear(3, 2, device="meta")


def made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return nn.Linear(3, 2)


def with_sparse() -> nn.Module:
    model = nn.Module()
    model.register_buffer("weight", torch.eye(2).to_sparse())
    return model


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (with_meta, "weight (on the meta device, without memory), bias (on the meta device, without memory)"),
        (with_sparse, "weight (sparse)"),
        (made_in_inference_mode, "weight (made in inference mode), bias (made in inference mode)"),
        (sharing_one_number, "weight (one number in many places)"),
    ],
)
def test_a_model_that_cannot_be_filled_is_named_before_a_byte_is_read(
    tmp_path: Path, build: Callable[[], nn.Module], words: str
) -> None:
    """torch fills what it can of it, or says nothing at all."""
    path = saved(tmp_path / "a.pth", nn.Linear(3, 2).state_dict())
    with pytest.raises(MismatchError) as refused:
        load_weights(path, build())
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("model", "words"),
    [(nn.Linear, "found the class Linear"), ({}, "found dict"), (None, "found NoneType")],
)
def test_what_is_no_module_is_named(tmp_path: Path, model: Any, words: str) -> None:
    """A class in place of its object is the usual slip."""
    with pytest.raises(TypeError, match=f"model: expected an nn.Module, {words}"):
        load_weights(tmp_path / "a.pth", model)


def quantized() -> torch.Tensor:
    return torch.quantize_per_tensor(torch.eye(2), 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("make_value", "found"),
    [
        (lambda: torch.eye(2).to_sparse(), "a torch._utils._rebuild_sparse_tensor"),
        pytest.param(quantized, "a torch._utils._rebuild_qtensor", marks=pytest.mark.filterwarnings("ignore")),
        (lambda: {"scale": 2}, "a dict"),
    ],
)
def test_what_is_no_plain_tensor_in_the_file_is_named(
    tmp_path: Path, make_value: Callable[[], Any], found: str
) -> None:
    """And without it the rest can be filled."""
    path = saved(tmp_path / "a.pth", {"weight": make_value(), "bias": torch.ones(2)})
    with pytest.raises(MismatchError) as refused:
        load_weights(path, nn.Linear(2, 2))
    assert f"weight: expected a tensor, found {found}" in str(refused.value)
    assert ("bias",) == load_weights(path, nn.Linear(2, 2), strict=False).filled


class Counting(nn.Linear):
    """Keeps a state that only it can read."""

    calls = 0

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: Any) -> None:
        self.calls = state["calls"]


def test_weights_that_are_no_numbers_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They fit as any others do; what a diverged run left behind is said before anybody wonders about the answers."""
    model = nn.Linear(2, 1)
    path = tmp_path / "diverged.pth"
    torch.save({**model.state_dict(), "bias": torch.tensor([torch.nan])}, path)
    assert ("1 with NaN in it: bias",) == load_weights(path, model).notes
    load_for_inference(path, model)
    assert ["WARNING"] == [record.levelname for record in caplog.records]


def test_a_state_that_only_its_module_can_read_is_named(tmp_path: Path) -> None:
    """It is no weight; load_state_dict fills it."""
    path, model = saved(tmp_path / "a.pth", Counting(2, 1).state_dict()), Counting(2, 1)
    with pytest.raises(MismatchError, match="_extra_state: expected what only its module can read, found a dict"):
        load_weights(path, model)
    assert ("weight", "bias") == load_weights(path, model, strict=False).filled


BITS = [torch.bits8, torch.bits16, torch.float4_e2m1fn_x2]


@pytest.mark.parametrize("dtype", BITS, ids=str)
def test_numbers_that_torch_cannot_copy_are_refused_before_any_is_filled(tmp_path: Path, dtype: torch.dtype) -> None:
    """torch says that it can cast them, fills the bias, and then has no code for the weight."""
    assert torch.can_cast(dtype, torch.float32)
    raw = torch.ones(6 * dtype.itemsize, dtype=torch.uint8).view(dtype).view(2, 3)
    path = saved(tmp_path / "a.pth", {"weight": raw, "bias": torch.full((2,), 7.0)})
    model = make(lambda: nn.Linear(3, 2), seed=1)
    with pytest.raises(MismatchError, match=f"weight: expected float32, found {str(dtype)[6:]}"):
        load_weights(path, model)
    assert bits(make(lambda: nn.Linear(3, 2), seed=1)) == bits(model)
    assert ("bias",) == load_weights(path, model, strict=False).filled

    same = nn.Module()
    same.register_buffer("weight", torch.zeros_like(raw.view(torch.uint8)).view(dtype))
    load_weights(path, same, strict=False)
    assert bits({"weight": raw}) == bits(same)


class Stopping(TorchFunctionMode):
    """Stops one copy of numbers, the n-th."""

    def __init__(self, n: int, error: type[BaseException]) -> None:
        super().__init__()
        self.left, self.error = n, error

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.copy_:
            self.left -= 1
            if self.left == 0:
                raise self.error
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [Net, Tied, lambda: nn.utils.spectral_norm(nn.Linear(3, 2))])
@pytest.mark.parametrize(("error", "raised"), [(KeyboardInterrupt, KeyboardInterrupt), (MemoryError, MismatchError)])
def test_whichever_copy_is_stopped_the_model_is_as_it_was(
    tmp_path: Path, kind: Any, error: type[BaseException], raised: type[BaseException]
) -> None:
    """By Ctrl-C, which goes on its way, or for lack of memory; a tensor of two names has what it had at first."""
    path = saved(tmp_path / "a.pth", make(kind).state_dict())
    for n in range(1, 12):
        model = make(kind, seed=1)
        stop = Stopping(n, error)
        try:
            with stop:
                load_weights(path, model)
        except raised:
            assert bits(make(kind, seed=1)) == bits(model)
        else:
            assert bits(make(kind)) == bits(model)
            assert stop.left > 0
            break
    assert 2 < n < 11


class Refusing(Net):
    """Fills its first layers and then changes its mind."""

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        super().load_state_dict(*args, **options)
        raise RuntimeError("not today")


def test_a_module_that_refuses_in_the_middle_is_put_back(tmp_path: Path) -> None:
    """A hook of somebody's own may raise: then all is as it was."""
    path, model = saved(tmp_path / "a.pth", make().state_dict()), make(Refusing, seed=1)
    with pytest.raises(MismatchError, match=r"a\.pth: the model refused its weights, and is as it was: .*not today"):
        load_weights(path, model)
    assert bits(make(seed=1)) == bits(model)

    hooked = make(seed=1)
    hooked.register_load_state_dict_post_hook(lambda *_: 1 / 0)
    with pytest.raises(MismatchError, match="ZeroDivisionError"):
        load_weights(path, hooked)
    assert bits(make(seed=1)) == bits(hooked)


class Reshaping(nn.Module):
    """Makes of its tensors what it pleases while it is filled, and then refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LazyLinear(2)
        self.norm = nn.LazyBatchNorm1d()
        self.last = nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(3), persistent=False)

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        result = super().load_state_dict(*args, **options)
        self.last.weight = nn.Parameter(torch.zeros(2, 2))
        self.last.bias.data = torch.zeros(7)
        self.seen.add_(1)  # type: ignore[operator]
        self.register_buffer("other", torch.zeros(1))
        if self.first.weight.shape == (2, 3):
            raise RuntimeError("not today")
        return result


def test_a_refusal_leaves_no_trace_in_lazy_replaced_or_reshaped_tensors(tmp_path: Path) -> None:
    """Lazy ones wait for their shape again, and what an optimizer holds is still the model's."""
    there = Reshaping()
    there.norm(there.first(torch.rand(4, 3)))
    path, model = saved(tmp_path / "a.pth", there.state_dict()), Reshaping()
    held = {name: (id(value), type(value)) for name, value in (*model.named_parameters(), *model.named_buffers())}
    before = bits(model.last)
    with pytest.raises(MismatchError, match="not today"):
        load_weights(path, model)
    assert held == {
        name: (id(value), type(value)) for name, value in (*model.named_parameters(), *model.named_buffers())
    }
    assert before == bits(model.last)
    assert [0.0] * 3 == model.seen.tolist()  # type: ignore[operator]
    assert (4, 2) == model.norm(model.first(torch.rand(4, 9))).shape


# -- layers with a version ---------------------------------------------------------------------------------------------


class Scale(nn.Module):
    """Version 1 held the logarithm; version 2 reads it, and keeps what it is handed beside the weights."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([3.0, 4.0]))
        self.handed: dict[str, Any] = {}

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        self.handed = dict(metadata)
        if (metadata.get("version") or 1) < 2:
            state[f"{prefix}scale"] = state[f"{prefix}scale"].exp()
        super()._load_from_state_dict(state, prefix, metadata, *rest)


WRAPPERS: list[Any] = [
    lambda module: module,
    nn.DataParallel,
    compiled,
    lambda module: compiled(nn.DataParallel(module)),
]


@pytest.mark.parametrize("wrap_here", WRAPPERS)
@pytest.mark.parametrize("wrap_there", WRAPPERS)
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("zipped", [True, False])
def test_layers_get_the_version_that_they_were_saved_by(
    tmp_path: Path, wrap_here: Any, wrap_there: Any, version: int, zipped: bool
) -> None:
    """It stands beside the state dict, by the names of the modules; without it one of today is migrated again."""
    there, here = nn.Sequential(nn.Linear(1, 1), compiled(Scale())), nn.Sequential(nn.Linear(1, 1), Scale())
    state = wrap_there(there).state_dict()
    for entry in state._metadata.values():
        entry["version"] = min(version, entry["version"])
    content = {"model_state_dict": state}
    path = saved(tmp_path / "a.pth", content, _use_new_zipfile_serialization=zipped)
    loaded = load_weights(path, wrap_here(here))
    numbers = torch.tensor([3.0, 4.0])
    assert torch.equal(numbers.exp() if version == 1 else numbers, here.state_dict()["1.scale"])
    assert 3 == len(loaded.filled)


def test_a_file_that_names_no_versions_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    """A plain dict is one of the first version."""
    here, theirs = Scale(), Scale()
    plain = dict(Scale().state_dict())
    theirs.load_state_dict(plain)
    load_weights(saved(tmp_path / "a.pth", plain), here)
    assert bits(theirs) == bits(here)


def test_the_versions_within_a_spectral_norm_are_handed_on(tmp_path: Path) -> None:
    """They lie one level deeper; without them it takes its state for one of torch 1.0 and computes it anew."""
    there, here = (nn.utils.spectral_norm(nn.Linear(3, 2)) for _ in range(2))
    state = there.state_dict()
    assert {"weight.version": 1} == state._metadata[""]["spectral_norm"]
    load_weights(saved(tmp_path / "a.pth", state), here)
    assert bits(there) == bits(here)


@pytest.mark.parametrize("flag", [True, 1])
def test_beside_the_weights_a_stranger_can_name_versions_and_nothing_else(tmp_path: Path, flag: Any) -> None:
    """What torch notes there while it loads would put the file's tensors in the place of the model's."""
    state: Any = Scale().state_dict()
    entry = {
        "version": 2,
        "none": None,
        "assign_to_params_buffers": flag,
        "text": "x",
        "list": [1],
        "deeper": {"still": {"deeper": 1}, "number": 3, "half": 0.5},
        5: 6,
    }
    state._metadata = {"": entry, "other": [1], 7: {}, "more": {"version": argparse.Namespace()}}
    model = Scale()
    held = model.scale
    load_weights(saved(tmp_path / "a.pth", state), model)
    assert {"version": 2, "none": None, "deeper": {"number": 3}} == model.handed
    assert held is model.scale
    for nothing in ([1], None, 3, "x"):
        state._metadata = nothing
        load_weights(saved(tmp_path / "b.pth", state), model)
        assert {} == model.handed


def test_a_module_whose_names_do_not_come_back_is_named(tmp_path: Path) -> None:
    """It gives out other names than it takes, so torch's strict=False would pass all over."""
    model = make(seed=1)
    model.register_state_dict_post_hook(lambda *given: given[1].update({"other": given[1].pop("conv.bias")}))
    path = saved(tmp_path / "a.pth", model.state_dict())
    before = bits(model)
    with pytest.raises(MismatchError, match="it does not take other, which it gives"):
        load_weights(path, model)
    assert before == bits(model)


def test_within_inference_mode_the_model_is_filled_and_can_still_be_trained(tmp_path: Path) -> None:
    """Whoever serves a model may well load it there."""
    path = saved(tmp_path / "a.pth", make().state_dict())
    model, lazy = make(seed=1), nn.LazyLinear(2)
    with torch.inference_mode():
        load_for_inference(path, model)
        load_weights(saved(tmp_path / "b.pth", nn.Linear(3, 2).state_dict()), lazy)
    assert bits(make()) == bits(model)
    for module, x in ((model, torch.rand(2, 3, 9)), (lazy, torch.rand(2, 3))):
        module(x).sum().backward()


# -- whose file ------------------------------------------------------------------------------------------------------


def lightning_file(path: Path) -> Path:
    content = {
        "epoch": 2,
        "global_step": 30,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": OrderedDict(prefixed("model.", make().state_dict())),
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [torch.optim.Adam(make().parameters()).state_dict()],
        "lr_schedulers": [],
        "hyper_parameters": {"width": 4},
    }
    return saved(path, content)


def legacy_file(path: Path) -> Path:
    return saved(path, {"model_state_dict": make().state_dict()}, _use_new_zipfile_serialization=False)


def unchecked_file(path: Path) -> Path:
    with serialization.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
        return saved(path, {"model_state_dict": make().state_dict()})


def scripted_file(path: Path) -> Path:
    torch.jit.save(torch.jit.script(make()), path)
    return path


def scripted_within(path: Path) -> Path:
    torch.jit.save(torch.jit.script(nn.Sequential(make())), path)
    return path


def by_their_own_library(path: Path) -> Path:
    safetensors.torch.save_file(make().state_dict(), path)
    return path


UNCHECKED = ("the file has no checksums, so whether it is sound cannot be told",)


@pytest.mark.parametrize(
    ("write", "where", "prefix", "notes"),
    [
        (lambda path: saved(path, make().state_dict()), "", "", ()),
        (lambda path: saved(path, {"model": make().state_dict(), "epoch": 3}), "model", "", ()),
        (lambda path: saved(path, {"net": prefixed("module.", make().state_dict())}), "net", "module.", ()),
        (lightning_file, "state_dict", "model.", ()),
        (legacy_file, "model_state_dict", "", UNCHECKED),
        (unchecked_file, "model_state_dict", "", UNCHECKED),
        (lambda path: safetensors_file(path, make().state_dict()), "", "", UNCHECKED),
        (by_their_own_library, "", "", UNCHECKED),
        pytest.param(scripted_file, "", "", (), marks=pytest.mark.filterwarnings("ignore:.*torch.jit")),
        pytest.param(scripted_within, "", "0.", (), marks=pytest.mark.filterwarnings("ignore:.*torch.jit")),
    ],
    ids=[
        "bare",
        "model",
        "net",
        "lightning",
        "legacy",
        "no checksums",
        "safetensors",
        "safetensors.torch",
        "script",
        "within",
    ],
)
def test_files_of_others_fill_a_model(
    tmp_path: Path, write: Callable[[Path], Path], where: str, prefix: str, notes: tuple[str, ...]
) -> None:
    """Bitwise, without torch's loader, and what cannot be promised is said."""
    model = make(seed=1)
    loaded = load_weights(write(tmp_path / "a.file"), model)
    assert (where, prefix, notes) == (loaded.where, loaded.prefix, loaded.notes)
    assert bits(make()) == bits(model)


def test_numpy_numbers_of_the_recipe_are_metrics(tmp_path: Path) -> None:
    """The recipe stores what np.mean gives, which weights_only=True refuses."""
    metrics = {"loss": np.float64(0.25), "mae": np.float32(0.5), "n": 3, "name": "x", "curve": torch.zeros(3)}
    path = saved(tmp_path / "a.pth", {"epoch": 1, "model_state_dict": make().state_dict(), "metrics": metrics})
    assert {"loss": 0.25, "mae": 0.5, "n": 3.0} == load_for_inference(path, make())[1]


@pytest.mark.parametrize(
    ("more", "metrics"), [({}, {}), ({"loss": 0.5, "lr": 0.1}, {"loss": 0.5}), ({"loss": torch.zeros(())}, {})]
)
def test_files_of_others_may_hold_metrics(tmp_path: Path, more: dict[str, Any], metrics: dict[str, float]) -> None:
    """The tutorials of torch write one number beside the weights; {} where there is none."""
    path = saved(tmp_path / "a.pth", {"model_state_dict": make().state_dict(), **more})
    assert metrics == load_for_inference(path, make())[1]


# -- nothing runs ------------------------------------------------------------------------------------------------------


class Hostile:
    """Would make a directory if it were unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.proof,)


def test_torchs_loader_is_not_called_and_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are fine; what lies beside them stays a name."""
    proof = tmp_path / "proof"
    path = saved(tmp_path / "a.pth", {"model_state_dict": make().state_dict(), "metrics": {"loss": Hostile(proof)}})
    monkeypatch.delattr(torch, "load")
    monkeypatch.delattr("pickle.Unpickler")
    monkeypatch.delattr("pickle.load")
    model = make(seed=1)
    loaded = load_weights(path, model)
    assert loaded.notes[0].startswith("3 named in the file and not run: ")
    assert {} == load_for_inference(path, model)[1]
    assert bits(make()) == bits(model)
    assert not proof.exists()


@pytest.mark.parametrize(
    "content", [lambda model: model, lambda model: {"epoch": 1, "model": model}], ids=["bare", "dict"]
)
def test_a_whole_pickled_module_is_refused_by_name(tmp_path: Path, content: Callable[[nn.Module], Any]) -> None:
    """To read it is to run its class; its state dict would be data."""
    with pytest.raises(UnsupportedCheckpointError) as refused:
        load_weights(saved(tmp_path / "a.pth", content(make())), make())
    assert (
        f"{tmp_path / 'a.pth'}: expected a dict of weights, found the pickled tests.test_inference.Net, which runs "
        "code of its own when it is loaded; where you trust that code, load it with torch.load(weights_only=False) and "
        "save its state_dict()"
    ) == str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"), [([1, 2], "no state dict"), ({"epoch": 3}, "no state dict"), (3, "no state")]
)
def test_a_file_without_weights_is_named(tmp_path: Path, content: Any, words: str) -> None:
    """One line, not a KeyError."""
    with pytest.raises(MismatchError, match=f"a.pth: expected the weights of 'model', found {words}"):
        load_weights(saved(tmp_path / "a.pth", content), make())


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", ["conv.weight", "layers.1.weight", "norm.running_var"])
def test_damaged_weights_are_refused_and_the_model_is_as_it_was(tmp_path: Path, name: str, strict: bool) -> None:
    """Also where the damage is in the last of them."""
    path = save_checkpoint({"model_state_dict": make().state_dict()}, tmp_path / "a.pth").path
    break_record(path, make().state_dict()[name])
    model = make(seed=1)
    for load in (load_weights, load_for_inference):
        with pytest.raises(DamagedCheckpointError, match=r"a\.pth: record .* is damaged: expected CRC32"):
            load(path, model, strict=strict)
    assert bits(make(seed=1)) == bits(model)
    assert model.training


def test_whatever_bit_is_flipped_the_model_is_right_or_untouched(tmp_path: Path) -> None:
    """Each in turn of 300 places of a real file, of its numbers, its header and its end."""
    content = {"model_state_dict": make().state_dict(), "optimizer_state_dict": {"state": torch.rand(50)}}
    path = save_checkpoint(content, tmp_path / "a.pth").path
    data = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    right, untouched = bits(make()), bits(make(seed=1))
    refused = []
    for place in torch.randint(8 * len(data), (300,), generator=generator).tolist():
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        model = make(seed=1)
        try:
            load_weights(path, model)
        except CheckpointError as error:
            assert untouched == bits(model), place
            refused.append(str(error))
        else:
            assert right == bits(model), place
    assert 50 < len(refused) < 300
    assert all(str(path) in line and 1 == len(line.splitlines()) for line in refused)


def test_damage_in_the_optimizer_does_not_matter(tmp_path: Path) -> None:
    """Only the weights' share of the file is read: here they are whole, and the run could not go on all the same."""
    moment = torch.rand(400)
    content = {"model_state_dict": make().state_dict(), "optimizer_state_dict": {"state": {0: {"exp_avg": moment}}}}
    path = save_checkpoint(content, tmp_path / "a.pth").path
    break_record(path, moment)
    model = make(seed=1)
    load_weights(path, model)
    assert bits(make()) == bits(model)


def test_a_file_that_is_cut_short_or_not_there_is_named(tmp_path: Path) -> None:
    """With its path, by the room that opened it."""
    path = save_checkpoint({"model_state_dict": make().state_dict()}, tmp_path / "a.pth").path
    path.write_bytes(path.read_bytes()[:-100])
    for broken, error in ((path, DamagedCheckpointError), (tmp_path / "b.pth", CheckpointNotFoundError)):
        with pytest.raises(error, match=broken.name):
            load_weights(broken, make())
    with pytest.raises(DamagedCheckpointError, match="found a directory"):
        load_weights(tmp_path, make())


def test_weights_that_claim_more_than_the_file_holds_are_refused(tmp_path: Path) -> None:
    """A record that is gone: the numbers of the next one must not take its place."""
    path = saved(tmp_path / "a.pth", {"model_state_dict": make().state_dict()})
    with zipfile.ZipFile(path) as file:
        records = {info.filename: file.read(info) for info in file.infolist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in records.items():
            if not name.endswith("data/0"):
                file.writestr(name, data)
    model = make(seed=1)
    with pytest.raises(DamagedCheckpointError, match=r"a\.pth: .*found no record '0'"):
        load_weights(path, model)
    assert bits(make(seed=1)) == bits(model)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """What it calls weights may not be what we call so."""
    path, model = (
        saved(tmp_path / "a.pth", {"format_version": 99, "model_state_dict": make().state_dict()}),
        make(seed=1),
    )
    with pytest.raises(NewerFormatError, match="format_version"):
        load_weights(path, model)
    assert bits(make(seed=1)) == bits(model)


@pytest.mark.parametrize("device", ["cuda:63", "nowhere", "cpu:x"])
def test_a_device_that_is_not_here_is_named_before_anything_is_done(tmp_path: Path, device: str) -> None:
    """The model is neither filled nor in eval mode."""
    path, model = saved(tmp_path / "a.pth", make().state_dict()), make(seed=1)
    with pytest.raises(
        ValueError, match=f"map_location: expected a device of this machine, found '{device}'"
    ) as refused:
        load_for_inference(path, model, map_location=device)
    assert 1 == len(str(refused.value).splitlines())
    assert bits(make(seed=1)) == bits(model)
    assert model.training


# -- as torch does it --------------------------------------------------------------------------------------------------

SIZES = st.integers(0, 4)
LAYERS = st.one_of(
    st.builds(nn.Linear, SIZES.map(lambda n: n + 1), SIZES.map(lambda n: n + 1), st.booleans()),
    st.builds(nn.BatchNorm1d, SIZES),
    st.builds(nn.Embedding, SIZES.map(lambda n: n + 1), SIZES),
    st.builds(nn.Conv1d, st.just(2), st.integers(1, 4), st.integers(1, 3)),
    st.builds(nn.LSTM, st.integers(1, 3), st.integers(1, 3)),
    st.builds(nn.PReLU),
    st.builds(nn.MultiheadAttention, st.just(4), st.just(2)),
)
MODULES = st.recursive(
    LAYERS, lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda m: nn.Sequential(*m)), max_leaves=6
)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])


@settings(max_examples=60, deadline=None)
@given(MODULES, DTYPES, DTYPES, st.sampled_from(["", "module.", "model."]), st.integers(0, 2**31), st.booleans())
def test_it_is_bitwise_what_load_state_dict_does(
    tmp_path_factory: pytest.TempPathFactory,
    module: nn.Module,
    stored: torch.dtype,
    live: torch.dtype,
    prefix: str,
    seed: int,
    legacy: bool,
) -> None:
    """Any bits, NaN included, any layers, any of the dtypes, through a real file."""
    there = copy.deepcopy(module).to(stored)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in there.state_dict().values():
            raw = torch.randint(256, (value.numel() * value.element_size(),), dtype=torch.uint8, generator=generator)
            value.copy_(raw.view(value.dtype).view(value.shape))
    path = tmp_path_factory.mktemp("files") / "a.pth"
    torch.save({"state_dict": prefixed(prefix, there.state_dict())}, path, _use_new_zipfile_serialization=not legacy)
    ours, theirs = (copy.deepcopy(module).to(live) for _ in range(2))
    theirs.load_state_dict(there.state_dict())
    loaded = load_weights(path, ours)
    assert bits(theirs) == bits(ours)
    assert (prefix, tuple(there.state_dict())) == (loaded.prefix, loaded.filled)


def test_the_report_is_frozen_and_a_sentence() -> None:
    """A whole file has no key to name."""
    assert "0 tensors filled" == str(LoadedWeights(where=""))
    assert "1 tensor filled from model" == str(replace(LoadedWeights(where="model"), filled=("a",)))


# -- the example -------------------------------------------------------------------------------------------------------


def test_a_config_that_does_not_fit_its_weights_is_named_beside_them(tmp_path: Path) -> None:
    """Somebody edited one of the two."""
    config = load_config(["model.width=16", "model.heads=2"])
    weights = SimplifiedKoeMorphModel(config.model).state_dict()
    edited = to_plain(load_config(["model.width=32", "model.heads=2"]))
    path = save_checkpoint({"epoch": 1, "model_state_dict": weights, "config": edited}, tmp_path / "a.pth").path
    with pytest.raises(MismatchError) as refused:
        evaluate_checkpoint(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: model_state_dict: ")
    assert "queries: expected (52, 32), found (52, 16)" in message
    assert "the model was built from the file's own config (n_fft 512, hop 320, n_mels 40, width 32, heads 2" in message
