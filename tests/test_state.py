"""Live objects <-> one dict: every key of the format, and all or nothing on the way back."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from koemorph_tutorial.records import Best, MismatchError, Position
from koemorph_tutorial.state import Stateful, build, check_objects, restore
from tests.comparing import difference

KEYS = {
    "format_version",
    "run",
    "epoch",
    "global_step",
    "position",
    "model_state_dict",
    "optimizer_state_dict",
    "scheduler_state_dict",
    "optimizer_parameters",
    "metrics",
    "best",
    "rng_state",
    "config",
    "metadata",
}


def objects(width: int = 4) -> dict[str, Any]:
    """Return a model with a buffer, an optimizer that has taken a step, a scheduler."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    return {
        "model": model,
        "optimizer": optimizer,
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4]),
    }


def checkpoint_of(items: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a checkpoint that shares nothing with the live objects."""
    given: dict[str, Any] = {
        "epoch": 3,
        "position": Position(epoch=4, batch=0, global_step=40),
        "metrics": {"loss": 0.5},
        "best": Best(value=0.5, epoch=3),
        "run": {"line": "a", "parent": None, "saves": 1},
        "config": {"lr": 0.1},
    }
    return build(items, copy=True, **{**given, **changes})


def test_the_checkpoint_has_every_key_of_the_format() -> None:
    """Version 1 is complete from the first file on."""
    checkpoint = checkpoint_of(objects())
    assert set(checkpoint) == KEYS
    assert {"epoch": 4, "batch": 0, "global_step": 40} == checkpoint["position"]
    assert {"monitor": "loss", "mode": "min", "value": 0.5, "epoch": 3} == checkpoint["best"]
    assert {"python", "numpy", "torch", "cuda"} == set(checkpoint["rng_state"])
    told = {"timestamp", "hostname", "git_commit", "pytorch_version", "model_params", "training_time"}
    assert told | {"python", "platform", "device", "package_version"} <= set(checkpoint["metadata"])
    assert 4 * 3 + 4 + 8 + 4 + 1 == checkpoint["metadata"]["model_params"]


def test_build_and_restore_are_mirror_images() -> None:
    """Random draws after restore are those after build, and the state built again is the same."""
    items = objects()
    checkpoint = checkpoint_of(items)
    drawn = (random.random(), np.random.normal(), torch.rand(3).tolist())
    for parameter in items["model"].parameters():
        nn.init.zeros_(parameter)
    other = objects()
    assert () == restore(checkpoint, other).drift
    assert drawn == (random.random(), np.random.normal(), torch.rand(3).tolist())
    restore(checkpoint, other)
    assert "" == difference(checkpoint, checkpoint_of(other))


def test_an_object_that_draws_while_it_is_saved_changes_nothing() -> None:
    """The random states are taken first and put back: saving a run does not move it."""

    class Restless:
        def state_dict(self) -> dict[str, Any]:
            return {"drawn": random.random() + torch.rand(()).item() + float(np.random.rand())}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.state_dict()

    before = (random.getstate(), torch.get_rng_state().tolist())
    checkpoint = checkpoint_of({"restless": Restless()})
    assert before == (random.getstate(), torch.get_rng_state().tolist())
    restore(checkpoint, {"restless": Restless()})
    assert before == (random.getstate(), torch.get_rng_state().tolist())


def test_a_generator_is_an_object_like_any_other() -> None:
    """A torch.Generator has no state_dict and counts all the same."""
    generator = torch.Generator().manual_seed(3)
    checkpoint = checkpoint_of({"order": generator})
    drawn = torch.rand(2, generator=generator)
    other = torch.Generator()
    restore(checkpoint, {"order": other})
    assert drawn.tolist() == torch.rand(2, generator=other).tolist()


def test_names_on_one_side_only_are_listed() -> None:
    """Handed over and not in the file, or in the file and not handed over: said, not fatal."""
    items = objects()
    checkpoint = checkpoint_of(items)
    later = {"model": items["model"], "ema": torch.optim.swa_utils.AveragedModel(items["model"])}
    restored = restore(checkpoint, later)
    assert ("ema",) == restored.missing
    assert ("optimizer", "scheduler") == restored.unexpected


def test_a_checkpoint_of_another_model_names_keys_and_shapes() -> None:
    """At most five of each, with what was expected and what was found."""
    checkpoint = checkpoint_of(objects(width=6))
    with pytest.raises(MismatchError) as caught:
        restore(checkpoint, objects())
    text = str(caught.value)
    assert text.startswith("model: 7 of another shape: 0.weight (expected (4, 3), found (6, 3)), ")
    assert "and 2 more; this is the checkpoint of another model: build the model that it was saved from" in text
    assert "optimizer" not in text

    with pytest.raises(
        MismatchError, match=r"1 not in the file: weight \(2, 9\); 9 only in the file: 0\.weight \(6, 3\), "
    ):
        restore(checkpoint, {"model": nn.Linear(9, 2, bias=False)})


def test_a_file_without_any_of_the_objects_is_refused() -> None:
    """Going on from the weights that chance gave would look like a resume."""
    checkpoint = checkpoint_of(objects())
    with pytest.raises(MismatchError, match="expected the state of generator, found model, optimizer, scheduler"):
        restore(checkpoint, {"generator": nn.Linear(1, 1)})


class Stubborn:
    """An object of somebody's that refuses every state."""

    def state_dict(self) -> dict[str, Any]:
        return {"a": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise KeyError("no")


def test_restoring_is_all_or_nothing() -> None:
    """The last object refuses: the first ones and the random states are as they were."""
    items = objects()
    checkpoint = checkpoint_of({**items, "stubborn": Stubborn()})
    other = objects()
    nn.init.ones_(other["model"][0].weight)
    other["scheduler"].last_epoch = 7
    before = copy.deepcopy({name: item.state_dict() for name, item in other.items()})
    random_before = random.getstate()
    with pytest.raises(MismatchError, match="stubborn: refused its state: KeyError: 'no'"):
        restore(checkpoint, {**other, "stubborn": Stubborn()})
    assert "" == difference(before, {name: item.state_dict() for name, item in other.items()})
    assert random_before == random.getstate()


def test_a_random_state_that_cannot_be_applied_changes_nothing() -> None:
    """A state that is there and broken raises, before anything is filled."""
    items = objects()
    checkpoint = checkpoint_of(items)
    checkpoint["rng_state"]["python"]["state"] = torch.zeros(3, dtype=torch.int64)
    other = objects()
    nn.init.ones_(other["model"][0].weight)
    before = copy.deepcopy(other["model"].state_dict())
    with pytest.raises(MismatchError, match=r"rng_state\.python: the state in the file cannot be applied"):
        restore(checkpoint, other)
    assert "" == difference(before, other["model"].state_dict())


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("threads", 7, "saved with threads 7, here 1"),
        ("pytorch_version", "1.0", "saved with torch 1.0, here "),
        ("ranks", 4, "saved with ranks 4, here 1"),
        ("cuda_devices", 8, "saved with CUDA devices 8, here 0"),
    ],
)
def test_what_is_not_as_it_was_is_drift(key: str, value: object, said: str) -> None:
    """One line each; an error under strict."""
    items = objects()
    checkpoint = checkpoint_of(items)
    checkpoint["metadata"][key] = value
    (line,) = restore(checkpoint, items).drift
    assert line.startswith(said)
    with pytest.raises(MismatchError, match="not bitwise from here: saved with"):
        restore(checkpoint, items, strict=True)


def test_wrappers_are_taken_off_and_do_not_matter() -> None:
    """DataParallel and torch.compile, at the top and inside: the same keys as the plain model, both ways."""
    checkpoint = checkpoint_of(objects())
    inside = objects()["model"]
    inside[0] = torch.compile(inside[0], backend="eager")
    compiled: Any = torch.compile(objects()["model"], backend="eager")
    for module in (compiled, nn.DataParallel(objects()["model"]), inside):
        wrapped = checkpoint_of({"model": module})["model_state_dict"]
        assert "" == difference(checkpoint["model_state_dict"], wrapped)
        nn.init.zeros_(next(module.parameters()))
        restore(checkpoint, {"model": module})
        assert "" == difference(checkpoint["model_state_dict"], checkpoint_of({"model": module})["model_state_dict"])


def test_a_prefix_of_another_saver_does_not_matter() -> None:
    """A plain torch.save of a wrapped model has `module.` before every key."""
    items = objects()
    checkpoint = checkpoint_of(items)
    checkpoint["model_state_dict"] = {f"module.{k}": v for k, v in checkpoint["model_state_dict"].items()}
    other = objects()
    nn.init.zeros_(other["model"][0].weight)
    restore(checkpoint, other)
    assert items["model"][0].weight.tolist() == other["model"][0].weight.tolist()


def test_objects_are_checked_by_what_they_can_do() -> None:
    """A protocol, not a class; the message says what was found."""
    assert isinstance(nn.Linear(1, 1), Stateful)
    with pytest.raises(TypeError, match=r"objects: expected at least one"):
        check_objects({})
    with pytest.raises(TypeError, match=r"objects\['scheduler'\]: .*, found NoneType"):
        check_objects({"scheduler": None})
    with pytest.raises(TypeError, match=r"objects\['model'\]: .*, found the class Linear"):
        check_objects({"model": nn.Linear})


def test_a_config_of_omegaconf_becomes_plain_containers() -> None:
    """A DictConfig would be refused by weights_only; interpolations of the run's own config are resolved."""
    from omegaconf import OmegaConf

    config = OmegaConf.create({"lr": 0.1, "twice": "${lr}", "list": [1, 2]})
    stored = checkpoint_of(objects(), config=config)["config"]
    assert {"lr": 0.1, "twice": 0.1, "list": [1, 2]} == stored
    assert type(stored["list"]) is list


def test_a_copy_shares_no_memory(tmp_path: Path) -> None:
    """state_dict aliases live memory; a snapshot must not."""
    items = objects()
    kept = checkpoint_of(items)
    before = copy.deepcopy(kept)
    for parameter in items["model"].parameters():
        nn.init.zeros_(parameter)
    assert "" == difference(before, kept)


def test_another_dtype_is_drift() -> None:
    """Rounding float64 to float32 is no bitwise resume: one line, an error under strict."""
    checkpoint = checkpoint_of({"model": nn.Linear(2, 1).double()})
    line = "model: 2 cast to another dtype: weight (torch.float64 in the file, torch.float32 here), bias (torch."
    (said,) = restore(checkpoint, {"model": nn.Linear(2, 1)}).drift
    assert said.startswith(line)
    with pytest.raises(MismatchError, match="not bitwise from here: model: 2 cast"):
        restore(checkpoint, {"model": nn.Linear(2, 1)}, strict=True)


def test_a_parameter_that_nobody_holds_is_drift() -> None:
    """The optimizer's moments come back, the parameter does not."""
    loose = nn.Parameter(torch.zeros(1))
    items = {"model": nn.Linear(1, 1), "temperature": torch.optim.Adam([loose])}
    (said,) = restore(checkpoint_of(items), items).drift
    assert said.startswith("temperature trains 1 parameters that no object holds, so they are in no file")


def test_extra_state_that_is_refused_leaves_everything_as_it_was() -> None:
    """set_extra_state is somebody's code: the weights before it are put back."""

    class Vocabulary(nn.Linear):
        refuses = False

        def get_extra_state(self) -> dict[str, int]:
            return {"size": 3}

        def set_extra_state(self, state: dict[str, int]) -> None:
            if self.refuses:
                raise KeyError("vocab")

    checkpoint = checkpoint_of({"model": Vocabulary(1, 1), "scheduler": objects()["scheduler"]})
    other = {"model": Vocabulary(1, 1), "scheduler": objects()["scheduler"]}
    other["model"].refuses = True
    other["scheduler"].last_epoch = 5
    weight = other["model"].weight.item()
    with pytest.raises(MismatchError, match="model: refused its state: KeyError: 'vocab'"):
        restore(checkpoint, other)
    assert (weight, 5) == (other["model"].weight.item(), other["scheduler"].last_epoch)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_a_lazy_model_is_filled_without_a_dry_run() -> None:
    """Its shapes come out of the file, as torch itself does it."""

    def lazy() -> dict[str, Any]:
        model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1))
        return {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}

    items = lazy()
    items["model"](torch.zeros(1, 5))
    other = lazy()
    restore(checkpoint_of(items), other)
    assert items["model"][0].weight.tolist() == other["model"][0].weight.tolist()
    checkpoint_of(lazy())


@pytest.mark.parametrize("optimizer", [torch.optim.NAdam, torch.optim.ASGD])
def test_single_numbers_of_an_optimizer_keep_their_dtype(optimizer: Any) -> None:
    """torch casts them to the dtype of the parameter, and the run goes on with other bits."""

    def make() -> dict[str, Any]:
        torch.manual_seed(0)
        model = nn.Linear(3, 1).double()
        return {"model": model, "optimizer": optimizer(model.parameters())}

    def train(items: dict[str, Any], steps: int) -> None:
        for step in range(steps):
            items["optimizer"].zero_grad()
            items["model"](torch.full((2, 3), step + 0.3, dtype=torch.float64)).square().sum().backward()
            items["optimizer"].step()

    straight, stopped, resumed = make(), make(), make()
    train(straight, 3)
    train(stopped, 3)
    restore(checkpoint_of(stopped), resumed)
    train(straight, 3)
    train(resumed, 3)
    assert "" == difference(checkpoint_of(straight)["model_state_dict"], checkpoint_of(resumed)["model_state_dict"])
    assert "" == difference(straight["optimizer"].state_dict(), resumed["optimizer"].state_dict())


@pytest.mark.parametrize("kind", ["namespace", "dataclass", "mapping"])
def test_a_config_may_be_what_people_have(kind: str) -> None:
    """argparse's Namespace, a dataclass, any mapping: stored as plain containers."""
    from argparse import Namespace
    from dataclasses import dataclass
    from types import MappingProxyType

    @dataclass
    class Settings:
        lr: float = 0.1

    config: Any = {"namespace": Namespace(lr=0.1), "dataclass": Settings(), "mapping": MappingProxyType({"lr": 0.1})}[
        kind
    ]
    assert {"lr": 0.1} == checkpoint_of(objects(), config=config)["config"]


def test_an_optimizer_of_somebodys_that_refuses_leaves_the_model_as_it_was() -> None:
    """Only torch's own are known not to fail once they were checked."""

    class Picky(torch.optim.SGD):
        def load_state_dict(self, state_dict: Any) -> None:
            raise RuntimeError("not mine")

    def make() -> dict[str, Any]:
        model = nn.Linear(2, 1)
        return {"model": model, "optimizer": Picky(model.parameters(), lr=0.1)}

    checkpoint, other = checkpoint_of(make()), make()
    before = copy.deepcopy(other["model"].state_dict())
    with pytest.raises(MismatchError, match="optimizer: refused its state: RuntimeError: not mine"):
        restore(checkpoint, other)
    assert "" == difference(before, other["model"].state_dict())
