"""Live objects <-> one dict: every key of the format, and all or nothing on the way back."""

from __future__ import annotations

import copy
import io
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from koemorph_tutorial.loading import ResumableLoader
from koemorph_tutorial.naming import match_optimizer
from koemorph_tutorial.records import Best, MismatchError, Position
from koemorph_tutorial.rng import capture_rng
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


class Interrupted(Stubborn):
    """An object of somebody's, while whose state is loaded Ctrl-C is pressed."""

    def __init__(self, times: int) -> None:
        self.times = times

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for _ in range(self.times):
            signal.raise_signal(signal.SIGINT)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Listen for Ctrl-C as Python does by itself, but in a job that a shell runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_ctrl_c_waits_until_everything_is_restored() -> None:
    """Half of a state looks like a whole one, and a notebook goes on with what is there."""
    items = objects()
    checkpoint = checkpoint_of({**items, "interrupted": Interrupted(1)})
    other = objects()
    nn.init.ones_(other["model"][0].weight)
    other["scheduler"].last_epoch = 7
    random.random()
    listening = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        restore(checkpoint, {**other, "interrupted": Interrupted(1)})
    for name, item in items.items():
        assert "" == difference(item.state_dict(), other[name].state_dict())
    assert "" == difference(checkpoint["rng_state"], capture_rng())
    assert listening is signal.getsignal(signal.SIGINT)


def test_where_ctrl_c_is_ignored_it_stays_so_and_a_thread_may_restore_too() -> None:
    """As in a job in the background of a shell; and only the main thread may listen for a signal."""
    items = objects()
    checkpoint = checkpoint_of({**items, "interrupted": Interrupted(2)})
    listening = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for start in (lambda work: work(), lambda work: ThreadPoolExecutor(1).submit(work).result()):
            other = objects()
            nn.init.ones_(other["model"][0].weight)
            start(partial(restore, checkpoint, {**other, "interrupted": Interrupted(2)}))
            assert "" == difference(items["model"].state_dict(), other["model"].state_dict())
            assert signal.SIG_IGN == signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, listening)


@pytest.mark.usefixtures("interruptible")
def test_a_second_ctrl_c_does_not_wait_and_what_was_filled_is_put_back() -> None:
    """An object may take for ever."""
    checkpoint = checkpoint_of({**objects(), "interrupted": Interrupted(2)})
    other = objects()
    nn.init.ones_(other["model"][0].weight)
    other["scheduler"].last_epoch = 7
    before = copy.deepcopy({name: item.state_dict() for name, item in other.items()})
    with pytest.raises(KeyboardInterrupt):
        restore(checkpoint, {**other, "interrupted": Interrupted(2)})
    assert "" == difference(before, {name: item.state_dict() for name, item in other.items()})


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


class Newer(nn.Linear):
    """A layer whose weights have turned round since its first version."""

    _version = 2

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        if metadata.get("version", 1) < 2:
            state[f"{prefix}weight"] = -state[f"{prefix}weight"]
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def compiled_within(model: nn.Sequential) -> nn.Sequential:
    model[0] = torch.compile(model[0], backend="eager")
    return model


WRAPS: list[Callable[[nn.Sequential], Any]] = [
    lambda model: model,
    nn.DataParallel,
    partial(torch.compile, backend="eager"),
    compiled_within,
]


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "torch.save"])
@pytest.mark.parametrize("there", range(4))
@pytest.mark.parametrize("here", range(4))
def test_a_layer_learns_of_which_version_its_state_is_whatever_wraps_it(there: int, here: int, ours: bool) -> None:
    """Else it would take today's layout for the one of its first version, and turn it into another."""
    saved = WRAPS[there](nn.Sequential(Newer(2, 1)))
    checkpoint = build({"model": saved}, epoch=0, position=Position(epoch=1), metrics={}, best=Best(), run={})
    if not ours:
        checkpoint["model_state_dict"] = saved.state_dict()
    model = WRAPS[here](nn.Sequential(Newer(2, 1)))
    restore(checkpoint, {"model": model})
    assert "" == difference(list(saved.parameters()), list(model.parameters()))


def test_what_is_no_tensor_where_one_is_expected_is_named() -> None:
    """As any other shape is."""
    checkpoint = checkpoint_of(objects())
    checkpoint["model_state_dict"]["0.bias"] = 0.5
    with pytest.raises(
        MismatchError, match=r"^model: 1 of another shape: 0\.bias \(expected \(4,\), found no tensor\); "
    ):
        restore(checkpoint, objects())


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
    with pytest.raises(TypeError, match=r"found DataLoader; hand over ResumableLoader\(loader\), and iterate that"):
        check_objects({"loader": DataLoader(range(4))})  # type: ignore[arg-type]
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
    assert said.startswith("temperature trains 1 parameter that no object holds, so it is in no file")


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


def test_the_file_says_of_which_class_each_object_was(tmp_path: Path) -> None:
    """By its full name, as text, without what wraps it."""
    items = {**objects(), "order": torch.Generator()}
    items["model"] = torch.compile(items["model"], backend="eager")
    assert {
        "model": "torch.nn.modules.container.Sequential",
        "optimizer": "torch.optim.adamw.AdamW",
        "scheduler": "torch.optim.lr_scheduler.MultiStepLR",
        "order": "torch._C.Generator",
    } == through_a_file(checkpoint_of(items))["metadata"]["objects"]


@pytest.mark.parametrize("says", [True, False])
@pytest.mark.parametrize("name", ["optimizer", "scheduler"])
def test_another_class_is_refused_and_nothing_is_changed(name: str, says: bool) -> None:
    """Also of a file that holds no classes, where the settings tell; under another name it starts afresh."""
    checkpoint = through_a_file(checkpoint_of(objects()))
    if not says:
        del checkpoint["metadata"]["objects"]
    other = objects()
    other["optimizer"] = torch.optim.SGD(other["model"].parameters(), lr=0.3, momentum=0.9)
    if name == "scheduler":
        other["optimizer"] = torch.optim.AdamW(other["model"].parameters(), lr=0.3)
    other["scheduler"] = torch.optim.lr_scheduler.CosineAnnealingLR(other["optimizer"], 9)
    nn.init.zeros_(other["model"][0].weight)
    was = copy.deepcopy({name: item.state_dict() for name, item in other.items()})
    expected, found = {"optimizer": ("SGD", "AdamW"), "scheduler": ("CosineAnnealingLR", "MultiStepLR")}[name]
    found = found if says or name == "optimizer" else "another class"
    with pytest.raises(MismatchError, match=f"{name}: expected the state of {expected}, found that of {found}; build"):
        restore(checkpoint, other)
    assert "" == difference(was, {name: item.state_dict() for name, item in other.items()})

    renamed = {"model": other["model"], "sgd": other["optimizer"], "cosine": other["scheduler"]}
    assert ("sgd", "cosine") == restore(checkpoint, renamed).missing
    assert "" == difference(was["optimizer"], other["optimizer"].state_dict())


def test_an_optimizer_that_is_made_from_the_one_in_the_file_is_filled_and_said() -> None:
    """It may step in another way: drift, an error under strict."""

    class Clipped(torch.optim.AdamW):
        """Somebody's own."""

    checkpoint, other = checkpoint_of(objects()), objects()
    other["optimizer"] = Clipped(other["model"].parameters())
    with pytest.raises(MismatchError, match="not bitwise from here: optimizer: saved by AdamW, here it is Clipped"):
        restore(checkpoint, other, strict=True)
    assert ("optimizer: saved by AdamW, here it is Clipped",) == restore(checkpoint, other).drift
    assert 6 == len(other["optimizer"].state)


def loader(batch_size: int) -> ResumableLoader[Any]:
    return ResumableLoader(DataLoader(torch.arange(12), batch_size=batch_size, shuffle=True))


def test_a_loader_of_another_batch_size_is_drift_between_epochs_and_refused_inside_one() -> None:
    """What differs, and what to do; refused, everything is as it was."""
    items: dict[str, Any] = {**objects(), "loader": loader(2)}
    (line,) = restore(checkpoint_of(items), {**objects(), "loader": loader(4)}).drift
    assert "loader: an epoch had 6 batches of 2, here 3 batches of 4; use the same data and batch size to go" in line

    next(iter(items["loader"]))
    other: dict[str, Any] = {**objects(), "loader": loader(4)}
    nn.init.zeros_(other["model"][0].weight)
    was = copy.deepcopy({name: item.state_dict() for name, item in other.items()})
    message = "loader: refused its state: ValueError: stopped inside an epoch of 6 batches of 2, here an epoch has 3"
    with pytest.raises(MismatchError, match=message):
        restore(checkpoint_of(items), other)
    assert "" == difference(was, {name: item.state_dict() for name, item in other.items()})


def test_a_loader_with_a_state_and_without_a_generator_is_drift() -> None:
    """As torchdata's may be: the consequence in one line."""

    class Stateful(DataLoader[Any]):
        def state_dict(self) -> dict[str, Any]:
            return {"batches": 0}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            pass

    items: dict[str, Any] = {**objects(), "loader": Stateful(range(4), shuffle=True)}  # type: ignore[arg-type]
    (line,) = restore(checkpoint_of(items), items).drift
    assert line.startswith("loader shuffles by torch's global random numbers: whatever else draws from them changes ")


def test_a_file_of_a_gpu_on_a_cpu_is_drift() -> None:
    """One line, and the random states of the GPU are left."""
    checkpoint = checkpoint_of(objects())
    checkpoint["metadata"] |= {"device": "cuda:0 (NVIDIA H100)", "cuda_devices": 1}
    (line,) = restore(checkpoint, objects()).drift
    assert "saved on cuda:0 (NVIDIA H100), here on cpu, which rounds otherwise; go on there to be exact" == line


# ----------------------------------------------------------------------------------------------- optimizers, as a table


class Pair(nn.Module):
    """Two layers of one shape, in two groups: a mistake is silent unless names are looked at."""

    def __init__(self, *, width: int = 3, second: str = "second") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 3)
        self.add_module(second, nn.Linear(3, 3))
        if width != 3:
            self.first = nn.Linear(3, 3, bias=False)
            self.first.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x = torch.tanh(nn.functional.linear(x, layer.weight, layer.bias))
        return x


Groups = list[list[nn.Parameter]]
Make = Callable[..., torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "SGD with momentum": partial(torch.optim.SGD, momentum=0.9),
    "AdamW": torch.optim.AdamW,
    "Adam(amsgrad)": partial(torch.optim.Adam, amsgrad=True),
}


def two_groups(model: nn.Module) -> Groups:
    first, second = ([layer.weight, layer.bias] for layer in model.children())
    return [first, second]


def in_another_order(model: nn.Module) -> Groups:
    return [group[::-1] for group in two_groups(model)]


def moved(model: nn.Module) -> Groups:
    (w1, b1), (w2, b2) = two_groups(model)
    return [[w1, w2], [b1, b2]]


def swapped(model: nn.Module) -> Groups:
    return two_groups(model)[::-1]


def one_less(model: nn.Module) -> Groups:
    (w1, b1), (w2, _) = two_groups(model)
    return [[w1, b1], [w2]]


def pair(make: Make, groups: Callable[[nn.Module], Groups], model: nn.Module | None = None) -> dict[str, Any]:
    model = Pair() if model is None else model
    first, second = groups(model)
    return {"model": model, "optimizer": make([{"params": first, "lr": 0.02}, {"params": second}], lr=0.05)}


def learn(items: dict[str, Any], steps: range) -> None:
    """Take steps that depend on their number alone."""
    for step in steps:
        items["optimizer"].zero_grad()
        items["model"](torch.linspace(-1, 1, 12).reshape(4, 3) * (step + 1)).square().sum().backward()
        items["optimizer"].step()


def through_a_file(checkpoint: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def go_on(straight: dict[str, Any], resumed: dict[str, Any]) -> str:
    """Train one step more on both; return the first bit in which weights or moments differ, found by name."""
    for items in (straight, resumed):
        learn(items, range(3, 4))

    def everything(items: dict[str, Any]) -> dict[str, Any]:
        state, names = items["optimizer"].state, build(items, **NOTHING)["optimizer_parameters"]["optimizer"]
        live = [parameter for group in items["optimizer"].param_groups for parameter in group["params"]]
        described = [entry["name"] for group in names for entry in group]
        moments = {name: dict(state[parameter]) for name, parameter in zip(described, live, strict=True)}
        return {"model": checkpoint_of(items)["model_state_dict"], "moments": dict(sorted(moments.items()))}

    return difference(everything(straight), everything(resumed))


NOTHING: dict[str, Any] = {"epoch": 0, "position": Position(), "metrics": {}, "best": Best(), "run": {}}


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in OPTIMIZERS.items()])
@pytest.mark.parametrize(
    ("before", "after", "permuted"),
    [
        pytest.param(two_groups, two_groups, (), id="same order"),
        pytest.param(two_groups, in_another_order, ("optimizer",), id="permuted"),
        pytest.param(in_another_order, two_groups, ("optimizer",), id="permuted, the other way"),
        pytest.param(moved, moved, (), id="other groups, the same ones"),
    ],
)
def test_every_parameter_goes_on_with_its_own_moments(
    make: Make, before: Callable[[nn.Module], Groups], after: Callable[[nn.Module], Groups], permuted: tuple[str, ...]
) -> None:
    """Bitwise, one more step included; that they stood in another order is said."""
    straight = pair(make, before)
    learn(straight, range(3))
    checkpoint = through_a_file(checkpoint_of(straight))
    resumed = pair(make, after)
    assert permuted == restore(checkpoint, resumed).permuted
    assert "" == go_on(straight, resumed)


REFUSED = [
    pytest.param(
        two_groups,
        partial(Pair, second="head"),
        two_groups,
        "group 1: 2 not in the file: model.head.weight (3, 3), model.head.bias (3,); 2 only in this group of the file: "
        "model.second.weight (3, 3), model.second.bias (3,); give it the parameters it was saved with, grouped as then",
        id="missing name",
    ),
    pytest.param(
        two_groups,
        Pair,
        one_less,
        "group 1: 1 only in this group of the file: model.second.bias (3,); give it the parameters it was saved with",
        id="missing here",
    ),
    pytest.param(
        one_less, Pair, two_groups, "group 1: 1 not in the file: model.second.bias (3,); give it", id="missing there"
    ),
    pytest.param(
        two_groups,
        partial(Pair, width=1),
        two_groups,
        "group 0: 1 of another shape: model.first.bias (expected (1,), found (3,))",
        id="other shape",
    ),
    # Its settings (lr, weight decay) stayed with the group that it left: which ones are meant nobody knows.
    pytest.param(
        two_groups,
        Pair,
        moved,
        "group 0: 1 in another group of the file: model.second.weight of its group 1; 1 only in this group of the "
        "file: model.first.bias (3,); give it",
        id="moved between groups",
    ),
    # A scheduler counts the groups: its state would go on with the other one's.
    pytest.param(
        two_groups,
        Pair,
        swapped,
        "group 0: 2 in another group of the file: model.second.bias of its group 1, model.second.weight of its group 1",
        id="groups swapped",
    ),
]


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in OPTIMIZERS.items()])
@pytest.mark.parametrize(("before", "model", "after", "said"), REFUSED)
def test_moments_without_their_parameter_are_refused_by_name(
    make: Make,
    before: Callable[[nn.Module], Groups],
    model: Callable[[], nn.Module],
    after: Callable[[nn.Module], Groups],
    said: str,
) -> None:
    """A list of what is where, and nothing was changed; where the model is another one, that is what is said."""
    stopped = pair(make, before)
    learn(stopped, range(3))
    checkpoint = through_a_file(checkpoint_of(stopped))
    other = pair(make, after, model())
    learn(other, range(1))
    described = checkpoint["optimizer_parameters"]["optimizer"]
    match = match_optimizer("optimizer", other["optimizer"], checkpoint["optimizer_state_dict"], described, other)
    assert match.problems[0].startswith(said)

    was = copy.deepcopy({name: item.state_dict() for name, item in other.items()})
    random_before = torch.get_rng_state()
    parameter = "first.bias" if "shape" in said else "head.weight" if "head" in said else "model.second."
    with pytest.raises(MismatchError, match=parameter):
        restore(checkpoint, other)
    assert "" == difference(was, {name: item.state_dict() for name, item in other.items()})
    assert random_before.equal(torch.get_rng_state())


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    """Be a group of one process, as `torchrun --nproc-per-node 1` is."""
    store = f"file://{tmp_path}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPERS: dict[str, Callable[[nn.Module], Any]] = {
    "plain": lambda model: model,
    "compiled": partial(torch.compile, backend="eager"),  # wraps in the same way and brings no compiler
    "DDP": nn.parallel.DistributedDataParallel,
    "DDP of compiled": lambda model: nn.parallel.DistributedDataParallel(torch.compile(model, backend="eager")),
}


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in OPTIMIZERS.items()])
@pytest.mark.parametrize(
    ("there", "here"),
    [(a, b) for wrapper in list(WRAPPERS)[1:] for a, b in ((wrapper, "plain"), ("plain", wrapper))],
)
def test_a_wrapper_on_one_side_only_does_not_matter(make: Make, there: str, here: str) -> None:
    """Saved with it and resumed without, or the other way: bitwise, and nothing to say."""

    def wrapped(how: str) -> dict[str, Any]:
        items = pair(make, two_groups)
        return {**items, "model": WRAPPERS[how](items["model"])}

    straight, resumed = wrapped(there), wrapped(here)
    learn(straight, range(3))
    restored = restore(through_a_file(checkpoint_of(straight)), resumed)
    assert ((), (), ()) == (restored.permuted, restored.drift, restored.missing)
    assert "" == go_on(straight, resumed)


@pytest.mark.parametrize("bad", [5, [1], None, "ab"])
def test_an_optimizer_whose_state_is_no_dict_is_refused_with_a_line(bad: object) -> None:
    """As a file of somebody else may hold it."""
    model = nn.Linear(2, 1)
    objects = {"model": model, "optimizer": torch.optim.AdamW(model.parameters())}
    checkpoint = build(objects, epoch=0, position=Position(epoch=1), metrics={}, best=Best(), run={})
    checkpoint["optimizer_state_dict"]["state"] = bad
    with pytest.raises(MismatchError, match="optimizer: its state: expected a dict, found "):
        restore(checkpoint, objects)
