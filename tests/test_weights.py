"""Where the weights are in what the world saves, and what is not to be taken for weights."""

from __future__ import annotations

import re
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from koemorph_tutorial.header import read_header
from koemorph_tutorial.loading import ResumableLoader
from koemorph_tutorial.records import Best, MismatchError, Position
from koemorph_tutorial.state import build
from koemorph_tutorial.stubs import TensorStub
from koemorph_tutorial.unpickling import Attributes
from koemorph_tutorial.weights import find_states, find_weights, prefix_of


def state(names: str = "weight bias", value: float = 0.0) -> OrderedDict[str, torch.Tensor]:
    return OrderedDict((name, torch.full((2,), value)) for name in names.split())


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return a network and an optimizer with a memory, as tensors by whole numbers."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return network, optimizer


def ours() -> dict[str, Any]:
    network, optimizer = trained()
    loader = ResumableLoader(DataLoader(torch.zeros(4, 3), shuffle=True, generator=torch.Generator()))
    next(iter(loader))
    return build(
        {"model": network, "optimizer": optimizer, "loader": loader},
        epoch=3,
        position=Position(epoch=4, global_step=40),
        metrics={"loss": 0.5},
        best=Best(),
        run={"line": "test", "parent": None, "saves": 4},
        config={"seed": 1},
    )


def recipe() -> dict[str, Any]:
    return {"epoch": 3, "model_state_dict": state(), "config": {}, "metrics": {"loss": 0.5}}


def lightning() -> dict[str, Any]:
    network, optimizer = trained()
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"net.{name}": value for name, value in network.state_dict().items()},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.5), "kth_value": 1}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"last_epoch": 4}],
        "hyper_parameters": {"hidden": 2},
    }


def timm() -> dict[str, Any]:
    network, optimizer = trained()
    return {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "version": 2,
        "amp_scaler": {"scale": 65536.0, "growth_factor": 2.0},
        "state_dict_ema": state(value=1.0),
        "metric": 0.5,
    }


def fairseq() -> dict[str, Any]:
    network, optimizer = trained()
    return {
        "args": None,
        "cfg": {"model": {"arch": "wav2vec", "dropout": 0.1}},
        "model": network.state_dict(),
        "criterion": {},
        "optimizer_history": [{"num_updates": 40}],
        "task_state": {},
        "extra_state": {"metrics": [], "epoch": 3},
        "last_optimizer_state": optimizer.state_dict(),
    }


def ignite() -> dict[str, Any]:
    network, optimizer = trained()
    trainer = OrderedDict(epoch_length=10, max_epochs=5, iteration=40)
    return {"model": network.state_dict(), "optimizer": optimizer.state_dict(), "trainer": trainer}


def averaged() -> dict[str, Any]:
    network, _ = trained()
    return {"model": network.state_dict(), "model_ema": AveragedModel(network).state_dict(), "epoch": 3}


def quantizer() -> dict[str, Any]:
    """A state dict with whole numbers and an extra state among the weights."""
    return {"weight": torch.zeros(2), "steps": torch.tensor(3), "_extra_state": {"scale": 2.0}, "note": "x"}


LAYOUTS: list[tuple[Callable[[], Any], str, str]] = [  # what is in the file, which weights, where they are
    (ours, "model", "model_state_dict"),
    (recipe, "model", "model_state_dict"),
    (lambda: {"netG_state_dict": state(), "netD_state_dict": state()}, "netG", "netG_state_dict"),
    (lightning, "model", "state_dict"),
    (timm, "model", "state_dict"),
    (timm, "ema", "state_dict_ema"),
    (ignite, "model", "model"),
    (fairseq, "model", "model"),
    (lambda: trained()[0].state_dict(), "model", ""),
    (lambda: state("encoder.weight encoder.bias lm_head.weight"), "model", ""),
    (quantizer, "model", ""),
    (lambda: {"model": quantizer(), "epoch": 3}, "model", "model"),
    (lambda: {"state_dict": {"model": state(), "epoch": 3}}, "model", "state_dict.model"),
    (lambda: {"checkpoint": 1, "module": {"module": {"model": state()}}}, "model", "module.module.model"),
    (lambda: {"model": {"generator": state()}, "epoch": 3}, "model", "model.generator"),
    (lambda: {"generator": state(), "discriminator": state()}, "generator", "generator"),
    (lambda: {"generator": {"state_dict": state()}, "critic": state()}, "generator", "generator.state_dict"),
    (lambda: {"netG": state(), "epoch": 3}, "model", "netG"),  # the only one there is
    (lambda: {"model": state(), "ema": state()}, "model", "model"),
    (lambda: {"model": state(), "ema": state()}, "ema", "ema"),
    (averaged, "ema", "model_ema"),
    (lambda: {"ema_state_dict": state(), "model_state_dict": state()}, "ema", "ema_state_dict"),
    (lambda: {"model": state(), "ema": {"module": state(), "decay": 0.99}}, "ema", "ema.module"),
    (lambda: {"model": state(), "ema_model": {"averaged": state(), "decay": 0.99}}, "ema", "ema_model.averaged"),
    (lambda: {"params": state(), "params_ema": state()}, "model", "params"),
    (lambda: {"params": state(), "params_ema": state()}, "params_ema", "params_ema"),
    (lambda: {"model_state_dict": {}, "state_dict": state()}, "model", "state_dict"),
    (lambda: {"model": "resnet18", "weights": state()}, "model", "weights"),
    (lambda: {"model": {"arch": "resnet18", "hidden": 2}, "state_dict": state()}, "model", "state_dict"),
    (lambda: {"z": torch.zeros(2, dtype=torch.complex64)}, "model", ""),
]


@pytest.mark.parametrize(("make", "which", "where"), LAYOUTS)
def test_weights_are_found_where_they_are(tmp_path: Path, make: Callable[[], Any], which: str, where: str) -> None:
    """In what torch.load gives, and in the header of the file alike: all tensors that stand there, in their order."""
    content = make()
    inside = content
    for key in where.split(".") if where else ():
        inside = inside[key]
    path = tmp_path / "model.pth"
    torch.save(content, path)
    header = read_header(path)
    for found in (find_weights(content, which), find_weights(header.content, which, path=path)):
        assert where == found.where
        assert [name for name, value in inside.items() if isinstance(value, torch.Tensor)] == list(found.tensors)
        assert {name for name, value in inside.items() if not isinstance(value, torch.Tensor)} == set(found.others)
    assert all(isinstance(stub, TensorStub) for stub in found.tensors.values())


@pytest.mark.parametrize(
    ("make", "which", "there"),
    [
        (lambda: {"generator": state(), "discriminator": state()}, "model", "generator, discriminator"),
        (lambda: {"netG_state_dict": state(), "netD_state_dict": state(), "epoch": 3}, "model", "netG, netD"),
        (lambda: {"generator": state(), "discriminator": state()}, "critic", "generator, discriminator"),
        (ours, "ema", "model"),
        (ignite, "ema", "model"),
        (lambda: trained()[1].state_dict(), "model", "no state dict with numbers in it"),
        (lambda: {"optimizer": trained()[1].state_dict(), "epoch": 3}, "model", "no state dict with numbers in it"),
        (lambda: {"optimizer_state_dict": trained()[1].state_dict()}, "optimizer", "no state dict with numbers in it"),
        (dict, "model", "no state dict with numbers in it"),
        (lambda: {"epoch": 3, "steps": torch.arange(3)}, "model", "no state dict with numbers in it"),
        (lambda: {0: torch.zeros(1)}, "model", "no state dict with numbers in it"),
        (lambda: [state()], "model", "no state dict with numbers in it"),
        (lambda: torch.zeros(3), "model", "no state dict with numbers in it"),
        (lambda: None, "model", "no state dict with numbers in it"),
        (lambda: {"model": state(), "a\nb\x1b[31m": state()}, "ema", r"model, a\nb\x1b[31m"),
        (lambda: {f"net{n:02}": state() for n in range(20)}, "model", ", ".join(f"net{n:02}" for n in range(12))),
    ],
)
def test_where_there_are_none_or_two_what_is_there_is_named(
    tmp_path: Path, make: Callable[[], Any], which: str, there: str
) -> None:
    """One line: the file, what was asked for, what could be, what to do."""
    path = tmp_path / "model.pth"
    content = make()
    torch.save(content, path)
    message = f"{path}: expected the weights of {which!r}, found {there}; name the ones to take by weights="
    for value in (content, read_header(path).content):
        with pytest.raises(MismatchError, match=rf"^{re.escape(message)}$"):
            find_weights(value, which, path=path)


def test_random_states_and_loaders_are_no_weights(tmp_path: Path) -> None:
    """Generators are tensors by name as well, of bytes; so are the optimizer's memory and the place of a loader."""
    checkpoint = ours()
    assert any(isinstance(value, torch.Tensor) for value in checkpoint["rng_state"].values())
    assert any(isinstance(value, torch.Tensor) for value in checkpoint["loader_state_dict"].values())
    path = tmp_path / "run.pth"
    torch.save(checkpoint, path)
    for content in (checkpoint, read_header(path).content):
        assert ["model_state_dict"] == [weights.where for weights in find_states(content)]
    del checkpoint["model_state_dict"]
    with pytest.raises(MismatchError, match="found no state dict with numbers in it"):
        find_weights(checkpoint)


def test_a_state_dict_of_two_names_has_the_first() -> None:
    """It is one, so there is nothing to choose."""
    shared = state()
    assert ["net"] == [weights.where for weights in find_states({"net": shared, "alias": shared})]
    assert "generator" == find_weights({"generator": shared, "alias": shared}).where
    assert "alias" == find_weights({"net": shared, "alias": shared}, "alias").where


def test_the_versions_of_the_layers_are_found_beside_their_weights(tmp_path: Path) -> None:
    """Where torch keeps them, on what it loads and in a header alike; a plain dict has none."""
    network, _ = trained()
    path = tmp_path / "model.pth"
    for content, metadata in (
        (network.state_dict(), {"": {"version": 1}, "0": {"version": 1}, "1": {"version": 2}}),
        ({"a": {"model": network.state_dict()}}, None),
        (dict(network.state_dict()), None),
    ):
        torch.save(content, path)
        which = "a" if "a" in content else "model"
        for found in (find_weights(content, which), find_weights(read_header(path).content, which)):
            expected = network.state_dict()._metadata if which == "a" else metadata  # type: ignore[attr-defined]
            assert expected == found.metadata


@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.zeros(2, 3))])
def test_an_archive_of_torchscript_has_the_names_of_its_state_dict(tmp_path: Path, make: Callable[[Any], Any]) -> None:
    """Its objects are dicts of attributes, other constants of the model among them."""
    network = nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1, bias=False))).eval()
    path = tmp_path / "model.pt"
    with warnings.catch_warnings(action="ignore"):
        torch.jit.save(make(network), str(path))
    found = find_weights(read_header(path).content)
    expected = {name: TensorStub(tuple(t.shape), str(t.dtype)[6:]) for name, t in network.state_dict().items()}
    assert ("", expected) == (found.where, dict(found.tensors))
    with pytest.raises(MismatchError, match="no state dict with numbers"):
        find_weights(read_header(path).content, "ema")


# ------------------------------------------------------------------------------------------------- what costs too much


def in_itself() -> dict[str, Any]:
    content: dict[str, Any] = {"epoch": 3}
    content["model"] = content["state_dict"] = content
    return content


def deep() -> dict[str, Any]:
    content: dict[str, Any] = {"note": 1}
    for _ in range(5000):
        content = {"model": content}
    return content


def laughing() -> dict[str, Any]:
    content: dict[str, Any] = {"note": 1}
    for _ in range(60):
        content = dict.fromkeys(("model", "state_dict", "module", "net"), content)
    return content


def many_of_one() -> dict[str, Any]:
    plain = {str(n): n for n in range(20_000)}
    return {f"a{n}": plain for n in range(20_000)}


def many_others() -> dict[str, Any]:
    plain = {str(n): n for n in range(20_000)}
    tensors: dict[str, Any] = dict.fromkeys((f"t{n}" for n in range(20_000)), TensorStub((1,), "int64"))
    return {"model": tensors | dict.fromkeys((f"o{n}" for n in range(20_000)), plain)}


def many_with_one_beside() -> dict[str, Any]:
    tensor, beside = TensorStub((1,), "float32"), dict.fromkeys(range(50_000))
    return {f"s{n}": {"t": tensor, "b": beside} for n in range(5_000)}


def many_scripts() -> dict[str, Any]:
    return {f"a{n}": Attributes(a=laughing_script()) for n in range(20)}


def laughing_script() -> Attributes:
    content = Attributes(steps=TensorStub((1,), "int64"))
    for _ in range(200):
        content = Attributes(a=content, b=content)
    return content


@pytest.mark.parametrize(
    "make",
    [
        in_itself,
        deep,
        laughing,
        many_of_one,
        many_others,
        many_with_one_beside,
        laughing_script,
        many_scripts,
    ],
)
@pytest.mark.parametrize("which", ["model", "ema", "state_dict"])
def test_no_content_takes_long(make: Callable[[], Any], which: str) -> None:
    """A dict that holds itself, too deep, or a few bytes that are billions of dicts when they are walked."""
    content = make()
    begin = time.process_time()
    with pytest.raises(MismatchError):
        find_weights(content, which)
    assert time.process_time() - begin < 5


def test_versions_that_many_modules_share_are_taken_once() -> None:
    """A few bytes for each of them, which would be gigabytes if each had its own; a ring of them ends."""
    shared: dict[str, Any] = {str(n): n for n in range(20_000)}
    shared["ring"] = shared
    weights = state()
    weights._metadata = dict.fromkeys(map(str, range(20_000)), shared)  # type: ignore[attr-defined]
    begin = time.process_time()
    found = find_weights(weights).metadata
    assert time.process_time() - begin < 5
    assert found is not None
    assert [20_000, 1] == [len(found), len({id(entry) for entry in found.values()})]


# ------------------------------------------------------------------------------------------------------------ prefixes


PARTS = st.lists(st.sampled_from(["module", "net", "weight", "0", ""]), min_size=1, max_size=4).map(".".join)


def hits(prefix: str, names: list[str], wanted: set[str]) -> int:
    return sum(name.startswith(prefix) and name[len(prefix) :] in wanted for name in names)


@settings(max_examples=60, deadline=None)
@given(st.lists(PARTS, unique=True, max_size=8), st.sets(PARTS, max_size=6))
def test_the_prefix_is_the_best_there_is(names: list[str], wanted: set[str]) -> None:
    """No other whole parts bring more of the wanted names about, and no shorter ones as many."""
    found = prefix_of(names, wanted)
    assert "" == found or found.endswith(".")
    possible = {name[:at] for name in names for at in range(len(name) + 1) if name[:at].endswith(".")} | {""}
    best = max(hits(prefix, names, wanted) for prefix in possible)
    assert best == hits(found, names, wanted)
    assert not [p for p in possible if len(p) < len(found) and hits(p, names, wanted) == best]


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "net.encoder."])
def test_a_prefix_is_found_among_others(prefix: str) -> None:
    """Whatever a wrapper or a larger model puts before the names."""
    names = ["0.weight", "0.bias", "1.weight"]
    assert prefix == prefix_of([prefix + name for name in names] + ["other.0.weight"], set(names))


def test_names_that_fit_nowhere_have_no_prefix() -> None:
    """None, or one that is deeper than any wrapper goes."""
    assert "" == prefix_of(["a.b", "c"], {"d"}) == prefix_of([], {"d"}) == prefix_of(["a"], set())
    assert "" == prefix_of([f"{'x.' * 100_000}weight"], {"weight"})
