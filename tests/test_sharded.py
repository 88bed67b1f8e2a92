"""sharded: what many ranks hold together is saved whole, comes back on any number of them, or says why not."""

from __future__ import annotations

import json
import logging
import os
import pickle
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor

from koemorph_tutorial import (
    inspect_checkpoint,
    load_checkpoint,
    load_for_inference,
    load_weights,
    resume_training,
    validate_checkpoint,
)
from koemorph_tutorial import sharded as room
from koemorph_tutorial.__main__ import main
from koemorph_tutorial.digests import digest
from koemorph_tutorial.folders import find_complete
from koemorph_tutorial.records import (
    CheckpointError,
    CheckpointNotFoundError,
    DamagedCheckpointError,
    MismatchError,
    NewerFormatError,
    UnsavableStateError,
    UnsupportedCheckpointError,
    UsedDirectoryError,
)
from koemorph_tutorial.sharded import consolidate, load_sharded, newest_sharded, save_sharded
from koemorph_tutorial.testing import crash_test, saved
from tests.comparing import difference
from tests.test_ranks import fork_two, together

Objects = dict[str, Any]


def make(how: str = "plain", *, width: int = 7, seed: int = 0, order: int = 1) -> Objects:
    """Return what a run is made of; 7 rows lie unevenly on 2, 3 and 4 ranks, and 2 leave some of them none."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model: nn.Module = nn.Sequential(
            nn.Linear(6, width), nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Linear(width, 2)
        )
    if how == "fsdp":
        mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
        for part in (model[0], model[3]):  # type: ignore[index]
            fully_shard(part, mesh=mesh)
        fully_shard(model, mesh=mesh)
    elif how == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    decayed, rest = ([p for p in model.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False))
    optimizer = torch.optim.AdamW([{"params": decayed[::order]}, {"params": rest, "weight_decay": 0.0}], 1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    generator = torch.Generator().manual_seed(seed)
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler, "generator": generator}


def train(objects: Objects, steps: int = 2) -> None:
    """Take some steps on numbers of this rank's own."""
    model, optimizer = objects["model"], objects["optimizer"]
    for _ in range(steps):
        x = torch.randn(4, 6) + torch.randn(4, 6, generator=objects["generator"])
        nn.functional.mse_loss(model(x), torch.zeros(4, 2)).backward()
        optimizer.step()
        optimizer.zero_grad()
    objects["scheduler"].step()


def whole(value: Any) -> Any:
    """Return a value with every tensor that lies in parts put together."""
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    return value.full_tensor() if isinstance(value, DTensor) else value


def held(objects: Objects) -> dict[str, str]:
    """Return a digest of each thing that all ranks hold together, of weights and moments alike by their names."""
    model = objects["model"]
    model = getattr(model, "module", model)
    state = {name: value for name, value in model.state_dict().items() if "running" not in name}
    moments = {name: dict(objects["optimizer"].state.get(p, {})) for name, p in model.named_parameters()}
    groups = [{k: v for k, v in g.items() if k != "params"} for g in objects["optimizer"].param_groups]
    return {
        "weights": digest(whole(state)),
        "moments": digest(whole(moments)),
        "groups": digest(groups),
        "scheduler": digest(objects["scheduler"].state_dict()),
    }


def drawn(objects: Objects) -> list[float]:
    """Return what belongs to this rank alone: statistics of its batches, and what it draws next."""
    model = getattr(objects["model"], "module", objects["model"])
    return [
        float(torch.randn(())),
        float(torch.randn((), generator=objects["generator"])),
        float(model[1].running_mean[0]),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two ranks: ``step_1`` and ``step_2``, and in ``held.json`` what was in them."""
    folder = tmp_path_factory.mktemp("sharded")

    def work(rank: int) -> Any:
        objects, found = make("fsdp"), {}
        for step in (1, 2):
            train(objects)
            extra = {
                "epoch": step,
                "global_step": 2 * step,
                "metrics": {"loss": 0.5},
                "rates": (1, 2),
                "at": torch.ones(2),
            }
            saved = save_sharded(objects, folder / "run" / f"step_{step}", extra=extra)
            found[saved.name] = [held(objects), drawn(objects)]
        train(objects)
        return found, held(objects)

    first, other = together(work, folder)
    assert first[1] == other[1]
    (folder / "held.json").write_text(json.dumps([first[0], other[0], first[1]]))
    return folder


def expected(run: Path, name: str = "step_2") -> tuple[dict[str, str], list[list[float]], dict[str, str]]:
    first, other, after = json.loads((run / "held.json").read_text())
    return first[name][0], [first[name][1], other[name][1]], after


@pytest.mark.parametrize(("size", "how"), [(1, "plain"), (2, "fsdp"), (3, "fsdp"), (4, "fsdp"), (2, "ddp")])
def test_it_comes_back_bit_for_bit_on_any_number_of_ranks(run: Path, tmp_path: Path, size: int, how: str) -> None:
    """Weights, moments, settings and schedule; what is each rank's own as long as it was there."""

    def work(rank: int) -> Any:
        objects = make(how, seed=1 + rank)
        extra = load_sharded(run / "run" / "step_2", objects)
        assert {"epoch": 2, "rates": (1, 2)} == {key: extra[key] for key in ("epoch", "rates")}
        found, own = held(objects), drawn(objects)
        train(objects)
        return found, own, held(objects)

    answers = [work(0)] if size == 1 else together(work, tmp_path, size)
    there, own, after = expected(run)
    assert [there] * size == [answer[0] for answer in answers]
    assert own[: min(size, 2)] == [answer[1] for answer in answers][:2]
    if (size, how) == (2, "fsdp"):
        assert [after] * 2 == [answer[2] for answer in answers], "and the run goes on as it did"


def test_a_parent_gives_its_newest_and_every_rank_the_same(run: Path, tmp_path: Path) -> None:
    """By the count of saves, whatever the clock says; a consolidated file and what a kill has left lie beside it."""
    parent = tmp_path / "run"
    shutil.copytree(run / "run", parent)
    os.utime(parent / "step_1")
    (parent / "step_1.pth").write_bytes(b"x")
    (parent / ".step_3.99-0123abcd.tmp").mkdir()
    shutil.copytree(parent / "step_2", parent / "step_9", ignore=shutil.ignore_patterns("manifest.json"))
    assert parent / "step_2" == newest_sharded(parent)
    found = together(lambda rank: load_sharded(parent, make("fsdp", seed=rank))["epoch"], tmp_path)
    assert [2, 2] == found


def test_a_damaged_newest_is_passed_over(run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Only where a parent was named; a line says what was passed over, and why."""
    parent = tmp_path / "run"
    shutil.copytree(run / "run", parent)
    damage(parent / "step_2" / "__1_0.distcp", "flipped")
    objects = make()
    with caplog.at_level(logging.WARNING, "koemorph_tutorial.sharded"):
        assert 1 == load_sharded(parent, objects)["epoch"]
    assert expected(run, "step_1")[0] == held(objects)
    assert f"passed over: {parent / 'step_2' / '__1_0.distcp'}: expected the CRC32" in caplog.text
    damage(parent / "step_1" / ".metadata", "flipped")
    with pytest.raises(DamagedCheckpointError, match=r"step_1/\.metadata: expected the CRC32"):
        load_sharded(parent, objects)
    shutil.rmtree(parent / "step_1")
    shutil.rmtree(parent / "step_2")
    (parent / "notes.txt").touch()
    with pytest.raises(CheckpointNotFoundError, match="found none that is complete"):
        load_sharded(parent, objects)


# ------------------------------------------------------------------------------------------------------------- one file


def test_one_file_is_used_by_one_process(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of torch.distributed is asked: weights alone, everything, by the library and by the commands."""
    path = tmp_path / "step_2.pth"
    assert 0 == main(["consolidate", str(run / "run" / "step_2"), "-o", str(path)])
    said = capsys.readouterr().out
    assert f"{path}: " in said
    assert "generator, model, optimizer, scheduler of 2 ranks, from " in said
    there, own, _ = expected(run)
    assert not distributed.is_initialized()

    trained = make(seed=5)
    resumed = resume_training(path, trained)
    assert there == held(trained)
    assert own[0] == drawn(trained)
    assert (3, 0, 4) == (resumed.position.epoch, resumed.position.batch, resumed.position.global_step)
    model, metrics = load_for_inference(path, make(seed=6)["model"])
    assert {"loss": 0.5} == metrics
    state = trained["model"].state_dict()
    assert "" == difference(dict(state), dict(model.state_dict()))
    other = make(seed=7)["model"]
    load_weights(path, other)
    assert "" == difference(dict(state), dict(other.state_dict()))
    assert validate_checkpoint(path), validate_checkpoint(path)
    assert "2" == str(inspect_checkpoint(path).epoch)
    assert 0 == main(["validate", str(path)])
    assert 0 == main(["inspect", str(path)])
    saved = load_checkpoint(path)
    assert (2, torch.ones(2).tolist()) == (len(saved["ranks"]), saved["extra"]["at"].tolist())
    assert set(range(6)) == set(saved["optimizer_state_dict"]["state"]), "in the form of torch's own optimizers"
    assert list(state) == list(saved["model_state_dict"]), "in the order of the model's own"


REFUSALS: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "a file is there": (lambda run: [str(run / "step_2"), "-o", str(run / "there.pth")], "expected a new name"),
    "no such folder": (lambda run: [str(run / "step_7"), "-o", str(run / "new.pth")], "found nothing of that name"),
    "a file for a folder": (lambda run: [str(run / "there.pth"), "-o", str(run / "new.pth")], "found a file"),
    "a parent": (lambda run: [str(run), "-o", str(run / "new.pth")], "manifest.json, found one without"),
    "an empty folder": (lambda run: [str(run / "empty"), "-o", str(run / "new.pth")], "found an empty one"),
    "another suffix": (lambda run: [str(run / "step_2"), "-o", str(run / "new.pth.gz")], "a name that ends in .pth"),
    "a damaged folder": (
        lambda run: [str(run / "step_1"), "-o", str(run / "new.pth")],
        "__0_0.distcp: expected the CRC",
    ),
    "no such place": (lambda run: [str(run / "step_2"), "-o", str(run / "a" / "new.pth")], "could not be written"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_file_that_cannot_be_made_is_one_line(
    run: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2; nothing was written, and nothing was changed."""
    parent = tmp_path / "run"
    shutil.copytree(run / "run", parent)
    damage(parent / "step_1" / "__0_0.distcp", "flipped")
    (parent / "there.pth").write_text("mine")
    (parent / "empty").mkdir()
    before = sorted(parent.rglob("*"))
    arguments, words = REFUSALS[name]
    assert 2 == main(["consolidate", *arguments(parent)])
    said = capsys.readouterr()
    assert "" == said.out
    assert 1 == said.err.count("\n")
    assert words in said.err, said.err
    assert before == sorted(parent.rglob("*"))
    assert "mine" == (parent / "there.pth").read_text()


def test_help_and_a_refusal_come_without_torch(tmp_path: Path) -> None:
    """Which would take two seconds to load."""
    program = (
        "import contextlib, sys\nfrom koemorph_tutorial.__main__ import main\n"
        "with contextlib.suppress(SystemExit):\n    main(['consolidate', '--help'])\n"
        "assert 2 == main(['consolidate', 'nowhere', '-o', 'new.pth'])\n"
        "assert not {'torch', 'numpy', 'rich', 'omegaconf'} & set(sys.modules), sorted(sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    said = (
        "koemorph: nowhere: expected the folder of a sharded checkpoint, found nothing of that name; check the path\n"
    )
    assert (0, said) == (ran.returncode, ran.stderr)


def test_tools_of_torch_read_the_folder_too(run: Path, tmp_path: Path) -> None:
    """It is a checkpoint of torch.distributed.checkpoint, with more beside it."""
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    dcp_to_torch_save(run / "run" / "step_2", tmp_path / "torch.pth")
    objects = make(seed=3)
    load_sharded(run / "run" / "step_2", objects)
    state = torch.load(tmp_path / "torch.pth", weights_only=True)["model_state_dict"]
    assert {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"} == set(state)
    assert all(torch.equal(value, objects["model"].state_dict()[name]) for name, value in state.items())


# --------------------------------------------------------------------------------------------------------------- damage


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
        return
    if how == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes(data[:-1] if how == "cut short" else data)


FILES = [".metadata", "__0_0.distcp", "__1_0.distcp", "manifest.json", "rank_00000.pth", "rank_00001.pth"]


@pytest.mark.parametrize("how", ["missing", "cut short", "flipped"])
def test_a_damaged_file_is_named_and_nothing_is_filled(run: Path, tmp_path: Path, how: str) -> None:
    """Whichever it is, whoever reads it."""
    assert set(FILES) == {path.name for path in (run / "run" / "step_2").iterdir()}
    objects = make(seed=4)
    before = held(objects)
    for name in FILES:
        folder = tmp_path / name / "step_2"
        shutil.copytree(run / "run" / "step_2", folder)
        damage(folder / name, how)
        for use in (lambda f=folder: load_sharded(f, objects), lambda f=folder: consolidate(f, tmp_path / "x.pth")):
            with pytest.raises(DamagedCheckpointError) as error:
                use()
            assert name in str(error.value)
            assert "\n" not in str(error.value)
    assert before == held(objects)
    assert not (tmp_path / "x.pth").exists()


def test_damage_is_said_by_all_ranks_in_the_same_words(run: Path, tmp_path: Path) -> None:
    """Whichever of them has read that file."""
    shutil.copytree(run / "run" / "step_2", tmp_path / "step_2")
    damage(tmp_path / "step_2" / "rank_00001.pth", "flipped")

    def work(rank: int) -> Any:
        objects = make("fsdp", seed=4)
        before = held(objects)
        try:
            load_sharded(tmp_path / "step_2", objects)
        except DamagedCheckpointError as error:
            return str(error), before == held(objects)

    first, other = together(work, tmp_path)
    assert first == other
    assert f"{tmp_path / 'step_2' / 'rank_00001.pth'}: expected the CRC32" in first[0]
    assert first[1]


def test_every_flipped_bit_of_a_manifest_is_seen(run: Path, tmp_path: Path) -> None:
    """One in each byte: it is text, and who sums up the others must be summed up as well."""
    folder = tmp_path / "step_2"
    shutil.copytree(run / "run" / "step_2", folder)
    path, data = folder / "manifest.json", (run / "run" / "step_2" / "manifest.json").read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        with pytest.raises((DamagedCheckpointError, NewerFormatError)):
            consolidate(folder, tmp_path / "x.pth")


def test_a_folder_that_was_never_finished_is_none(run: Path, tmp_path: Path) -> None:
    """Neither that of a killed save nor one that torch alone has written."""
    import torch.distributed.checkpoint as dcp

    with pytest.warns(UserWarning, match="uninitialized"):
        dcp.save({"weight": torch.ones(2)}, checkpoint_id=tmp_path / "run" / "torch")
    shutil.copytree(
        run / "run" / "step_2", tmp_path / "run" / "half", ignore=shutil.ignore_patterns("manifest*", ".m*")
    )
    for name in ("torch", "half"):
        with pytest.raises(
            DamagedCheckpointError, match=f"{name}: expected a folder with manifest.json, found one witho"
        ):
            load_sharded(tmp_path / "run" / name, make())
    assert newest_sharded(tmp_path / "run") is None


# --------------------------------------------------------------------------------------------------------------- a save


def test_what_is_there_is_refused_and_not_touched(tmp_path: Path) -> None:
    """A complete folder, an empty one, a file; and names that no folder can have."""
    save_sharded(make(), tmp_path / "complete", extra={"epoch": 1})
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.exists()}
    for name, found in (
        ("complete", "a complete checkpoint"),
        *((n, "something else") for n in ("empty", "file", "dangling")),
    ):
        with pytest.raises(UsedDirectoryError, match=f"{name}: expected a new name, found {found}") as error:
            save_sharded(make(seed=1), tmp_path / name)
        assert "\n" not in str(error.value)
    for odd in ("..", ".a.1-01234567.tmp"):
        with pytest.raises(UsedDirectoryError, match="expected the name of a new folder"):
            save_sharded(make(seed=1), tmp_path / odd)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.exists()}
    assert {"complete", "empty", "file", "dangling"} == set(os.listdir(tmp_path))


@pytest.mark.parametrize("lost", ["__0_0.distcp", ".metadata", "rank_00000.pth", "manifest.json"])
@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_a_run_that_comes_to_a_damaged_name_again_goes_on(
    tmp_path: Path, lost: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was passed over is moved aside by the save that needs its name, and nothing of it is lost."""
    save_sharded(make(), tmp_path / "step_1", extra={"epoch": 1})
    save_sharded(make(), tmp_path / "step_2", extra={"epoch": 2})
    damage(tmp_path / "step_2" / lost, how)
    left = {path.name: path.read_bytes() for path in (tmp_path / "step_2").iterdir()}
    objects = make(seed=1)
    assert 1 == load_sharded(tmp_path, objects)["epoch"]
    again = save_sharded(objects, tmp_path / "step_2", extra={"epoch": 2})
    assert again == newest_sharded(tmp_path)
    assert f"moved to abandoned-001/: {again}" in caplog.text
    assert left == {path.name: path.read_bytes() for path in (tmp_path / "abandoned-001" / "step_2").iterdir()}
    assert 2 == load_sharded(tmp_path, make(seed=2))["epoch"]


def test_what_a_kill_has_left_goes_with_the_next_save(tmp_path: Path) -> None:
    """What another process is filling stays, and so do folders of others."""
    import fcntl

    names = {
        kind: tmp_path / name
        for kind, name in (("left", ".a.1-01234567.tmp"), ("busy", ".b.1-01234567.tmp"), ("own", ".c.tmp"))
    }
    for folder in names.values():
        folder.mkdir()
        (folder / "__0_0.distcp").write_text("x")
    descriptor = os.open(names["busy"], os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    save_sharded(make(), tmp_path / "step_1")
    os.close(descriptor)
    assert {"step_1", names["busy"].name, names["own"].name} == set(os.listdir(tmp_path))


def test_files_and_folder_are_as_the_umask_says(tmp_path: Path) -> None:
    """Not closed to the group, as temporary ones are."""
    before = os.umask(0o027)
    try:
        folder = save_sharded(make(), tmp_path / "new" / "step_1")
    finally:
        os.umask(before)
    assert 0o750 == stat.S_IMODE(folder.stat().st_mode)
    assert {0o640} == {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_every_byte_is_synced_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file at its full length, then the folder, then the name, then the parent."""
    events: list[tuple[str, str, int]] = []
    fsync, rename = os.fsync, os.rename

    def note(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        events.append(("sync", os.path.basename(path), os.fstat(descriptor).st_size))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append(("name", os.path.basename(b), 0)), rename(a, b)))
    folder = save_sharded(make(), tmp_path / "step_1")
    place = events.index(("name", "step_1", 0))
    synced = {name: size for kind, name, size in events[:place] if kind == "sync"}
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    manifest = next(name for name in synced if name.startswith(".manifest.json."))
    sizes[manifest] = sizes.pop("manifest.json")  # it has its name by a rename of its own
    assert sizes == {name: synced[name] for name in sizes}
    assert events[place - 1][1].startswith(".step_1."), "the folder, with all names in it"
    assert (tmp_path.name, 1) == (events[place + 1][1], len(events) - place - 1)


def test_a_save_changes_nothing(tmp_path: Path) -> None:
    """An optimizer that has taken no step has taken none afterwards either; torch's own way takes one."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    objects = make()
    torch.manual_seed(3)
    before, drawing = digest(objects["optimizer"].state_dict()), torch.get_rng_state()
    save_sharded(objects, tmp_path / "step_0")
    assert before == digest(objects["optimizer"].state_dict())
    assert torch.equal(drawing, torch.get_rng_state())
    stepped = make(seed=1)
    train(stepped)
    load_sharded(tmp_path / "step_0", stepped)
    assert before == digest(stepped["optimizer"].state_dict()), "and it comes back as one that has taken none"
    get_optimizer_state_dict(objects["model"], objects["optimizer"])
    assert {1.0} == {float(state["step"]) for state in objects["optimizer"].state.values()}


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, 0.1),
    "momentum": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "amsgrad": lambda p: torch.optim.Adam(p, torch.tensor(0.1), amsgrad=True),
    "NAdam": lambda p: torch.optim.NAdam(p, 0.1),
    "Adafactor": lambda p: torch.optim.Adafactor(p, 0.1),
    "LBFGS": lambda p: torch.optim.LBFGS(p, 0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_comes_back(tmp_path: Path, name: str) -> None:
    """Whatever it keeps: nothing, one number per parameter, sums of rows, lists."""

    def start(seed: int) -> Objects:
        torch.manual_seed(seed)
        model = nn.Linear(3, 2)
        return {"model": model, "optimizer": OPTIMIZERS[name](model.parameters())}

    def step(objects: Objects) -> str:
        def closure() -> torch.Tensor:
            objects["optimizer"].zero_grad()
            loss: torch.Tensor = objects["model"](torch.ones(1, 3)).square().sum()
            loss.backward()
            return loss

        objects["optimizer"].step(closure)
        return digest([objects["model"].state_dict(), objects["optimizer"].state_dict()])

    objects = start(0)
    step(objects)
    save_sharded(objects, tmp_path / "step_1")
    again = start(1)
    load_sharded(tmp_path / "step_1", again)
    assert step(objects) == step(again)


# ------------------------------------------------------------------------------------------------- what does not fit


class Scaler:
    """An object of somebody's own, with or without tensors that lie in parts."""

    def __init__(self, **state: Any) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return dict(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = dict(state)


MISMATCHES: dict[str, tuple[Callable[[], Objects], str]] = {
    "a wider model": (lambda: make(width=8), "0.weight (expected (8, 6), found (7, 6))"),
    "a layer more": (
        lambda: {"model": nn.Sequential(*make()["model"], nn.Linear(2, 2))},
        "2 not in the file: 4.weight (2, 2), 4.bias (2,)",
    ),
    "a layer less": (lambda: {"model": make()["model"][:2]}, "2 only in the file: 3.weight (2, 7), 3.bias (2,)"),
    "another optimizer": (
        lambda: (o := make()) | {"optimizer": torch.optim.SGD(o["model"].parameters(), 0.1)},
        "expected the state of SGD, found that of AdamW; build the optimizer that the run",
    ),
    "fewer parameters": (
        lambda: (
            (o := make())
            | {"optimizer": torch.optim.AdamW([{"params": [o["model"][0].weight]}, {"params": o["model"][0].bias}])}
        ),
        "1 only in this group of the file: model.3.weight (2, 7)",
    ),
    "an object more": (lambda: make() | {"ema": Scaler()}, "expected the state of ema, found generator, model, o"),
    "an object that refuses": (lambda: make() | {"generator": make()["scheduler"]}, "generator: "),
    "a moment of another shape": (
        lambda: (
            (o := make())
            | {
                "optimizer": torch.optim.AdamW(
                    [{"params": [p.T for p in ()] or list(o["model"].parameters())[:1]}, {"params": []}]
                )
            }
        ),
        "group 0: 1 only in this group of the file",
    ),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_what_does_not_fit_is_named_and_nothing_is_filled(run: Path, name: str) -> None:
    """torch's own load takes what has the same name, and leaves the rest as it is without a word."""
    build, words = MISMATCHES[name]
    torch.manual_seed(1)
    objects = build()
    before = digest([item.state_dict() for item in objects.values() if hasattr(item, "state_dict")])
    with pytest.raises(MismatchError) as error:
        load_sharded(run / "run" / "step_2", objects)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert before == digest([item.state_dict() for item in objects.values() if hasattr(item, "state_dict")])


def test_parameters_in_another_order_find_their_own(run: Path) -> None:
    """An optimizer counts its parameters; the folder knows their names."""
    objects = make(seed=2, order=-1)
    load_sharded(run / "run" / "step_2", objects)
    assert expected(run)[0]["moments"] == held(objects)["moments"]


def test_a_part_can_be_asked_for_and_the_rest_is_named(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The model alone, to look at it: one line says what stayed in the folder, and why it is not the same run."""
    model = make(seed=3)["model"]
    with caplog.at_level(logging.WARNING, "koemorph_tutorial.sharded"):
        load_sharded(run / "run" / "step_2", {"model": model})
    assert expected(run)[0]["weights"] == digest({k: v for k, v in model.state_dict().items() if "running" not in k})
    assert "3 in the folder that nobody asked for: optimizer, scheduler, generator" in caplog.text
    assert "saved with ranks 2, here 1" in caplog.text


def test_what_cannot_be_saved_is_named_before_anything_is_written(tmp_path: Path) -> None:
    """With its path, as by every save."""
    for objects, extra, kind, words in (
        ({"own": Scaler(f=[print])}, {}, UnsavableStateError, "own_state_dict.f[0]: expected numbers"),
        ({"own": Scaler(f=1)}, {"at": {"f": print}}, UnsavableStateError, "extra.at.f: expected numbers"),
        ({"own": 3}, {}, TypeError, "objects['own']: expected something with state_dict"),
        ({"own": Scaler(f=1)}, [1], TypeError, "extra: expected a dict of plain values, found list"),
        ({"own": Scaler(f=1)}, {"epoch": "two"}, (TypeError, ValueError), ""),
    ):
        with pytest.raises(kind) as error:  # type: ignore[call-overload]
            save_sharded(objects, tmp_path / "run" / "step_1", extra=extra)  # type: ignore[arg-type]
        assert words in str(error.value)
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------------------- many ranks at odds


def test_ranks_that_do_not_agree_write_nothing(tmp_path: Path) -> None:
    """Another folder, other tensors, another call, one that cannot be saved: both know at once, and why."""

    def work(rank: int) -> Any:
        objects, said = make("fsdp"), []
        linear = nn.Linear(2, 1)
        flat = FullyShardedDataParallel.__new__(FullyShardedDataParallel)  # to make one takes a GPU
        nn.Module.__init__(flat)
        parts: Any = torch.optim.SGD(linear.parameters())
        parts.consolidate_state_dict = print  # as ZeroRedundancyOptimizer, which takes seconds to import
        for attempt in (
            lambda: save_sharded(objects, tmp_path / "run" / f"at_{time.monotonic_ns()}"),
            lambda: save_sharded({"model": linear if rank else objects["model"]}, tmp_path / "run" / "x"),
            lambda: load_sharded(tmp_path, objects) if rank else save_sharded(objects, tmp_path / "run" / "x"),
            lambda: save_sharded({"model": flat}, tmp_path / "run" / "x"),
            lambda: save_sharded({"model": linear, "optimizer": parts}, tmp_path / "run" / "x"),
            lambda: save_sharded({"own": Scaler(f=print if rank else 1)}, tmp_path / "run" / "x"),
        ):
            try:
                attempt()
            except CheckpointError as error:
                said.append(f"{type(error).__name__}: {error}")
        return said, (tmp_path / "run").exists()

    first, other = together(work, tmp_path)
    assert not first[1]
    assert 6 == len(first[0]) == len(other[0])
    assert first[0][:5] == other[0][:5]
    for said, words in zip(
        first[0],
        (
            "RankError: the ranks do not save the same: rank 0 into ",
            "RankError: the ranks do not save the same: rank 0 tensors of other names",
            "RankError: the ranks are not at the same place: rank 0 is in save_sharded",
            "UnsavableStateError: model: FullyShardedDataParallel keeps its parameters in flat pieces",
            "UnsavableStateError: optimizer: SGD keeps its state in parts that only rank 0 can put together",
            "RankError: rank 1: own_state_dict.f: expected numbers",
        ),
        strict=True,
    ):
        assert said.startswith(words), said


def test_a_full_disk_of_one_rank_reaches_all(run: Path, tmp_path: Path) -> None:
    """Rank 1's, then rank 0's: no folder, nothing left of it, what was there is; and the next save goes through."""

    def work(rank: int) -> Any:
        objects = make("fsdp", seed=5)
        train(objects)
        save_sharded(objects, tmp_path / "run" / "step_1")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        said = []
        for full in (1, 0):
            limit = 700 if rank == full else resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            try:
                save_sharded(objects, tmp_path / "run" / "step_2")
            except CheckpointError as error:
                said.append([type(error).__name__, str(error)])
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            distributed.barrier()  # rank 0 tidies up
            said.append(sorted(os.listdir(tmp_path / "run")))
            distributed.barrier()
        return said, save_sharded(objects, tmp_path / "run" / "step_3").name

    first, other = together(work, tmp_path)
    words = (
        f"{tmp_path / 'run' / 'step_2'}: could not be written: File too large; nothing that was there before is lost"
    )
    for said, failed, where in ((first[0], other[0], 0), (other[0], first[0], 2)):
        assert ["CheckpointWriteError", "RankError"] == [failed[where][0], said[where][0]]
        assert failed[where][1].startswith(words)
        assert f"rank {1 if where == 0 else 0}: {failed[where][1]}" == said[where][1]
        assert ["step_1"] == said[where + 1]
    assert ("step_3", "step_3") == (first[1], other[1])
    assert ["step_3", "step_1"] == [path.name for path, _ in find_complete(tmp_path / "run")]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not write")
def test_every_rank_must_be_able_to_write(tmp_path: Path) -> None:
    """Rank 1 may look and not write: both say so, and nothing is left; what is there it can load."""
    place = tempfile.TemporaryDirectory()  # tmp_path cannot be entered by another user
    run = Path(place.name, "run")
    run.parent.chmod(0o755)

    def work(rank: int) -> Any:
        objects = make("fsdp")
        save_sharded(objects, run / "step_1", extra={"epoch": 1})
        if rank:
            os.setgid(65534)
            os.setuid(65534)
        try:
            save_sharded(objects, run / "step_2")
        except CheckpointError as error:
            said = f"{type(error).__name__}: {error}"
        distributed.barrier()  # rank 0 tidies up
        return said, load_sharded(run, objects), sorted(os.listdir(run))

    with place:
        first, other = together(work, tmp_path)
    words = f"{run / 'step_2'}: could not be written: Permission denied; nothing that was there before is"
    assert other[0].startswith(f"CheckpointWriteError: {words}")
    assert first[0].startswith(f"RankError: rank 1: {words}")
    assert [{"epoch": 1}, ["step_1"]] == first[1:] == other[1:]


def test_a_folder_that_nobody_may_write_into_is_one_line(tmp_path: Path) -> None:
    """A file where the parent should be: rank 0 alone has asked, both raise it."""
    (tmp_path / "file").touch()
    first, other = together(lambda rank: str(save_sharded(make("fsdp"), tmp_path / "file" / "step_1")), tmp_path)
    assert first == other
    assert "CheckpointWriteError" == first[0]
    assert "Not a directory" in first[1]


@pytest.mark.parametrize("victim", [0, 1])
def test_one_rank_is_killed_and_the_other_leaves(tmp_path: Path, victim: int) -> None:
    """While it writes its part; the other has one line and exit code 1 within seconds, and the old folder is newest."""

    def work(rank: int) -> Any:
        objects = make("fsdp")
        save_sharded(objects, tmp_path / "run" / "step_1")
        if rank == victim:
            room.serialise = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        begin = time.monotonic()
        try:
            save_sharded(objects, tmp_path / "run" / "step_2")
        except SystemExit as left:
            return str(left), left.code == str(left), time.monotonic() - begin

    left = together(work, tmp_path)[1 - victim]
    words = (
        f"rank {1 - victim} leaves: another one of the 2 has ended; {tmp_path / 'run' / 'step_2'} was not written; "
        "start all of them again, to go on from the newest complete folder"
    )
    assert [words, True] == left[:2], "with a text for its code Python exits with 1"
    assert left[2] < 20
    assert tmp_path / "run" / "step_1" == newest_sharded(tmp_path / "run")


def train_on(directory: Path) -> None:
    """Train three steps, each saved into a folder of its own, from where the newest complete folder ends."""
    objects = make("fsdp" if distributed.is_initialized() else "plain")
    step = load_sharded(directory, objects)["step"] if newest_sharded(directory) else 0
    for number in range(step + 1, 4):
        train(objects, 1)
        save_sharded(objects, directory / f"step_{number}", extra={"step": number})
        saved(digest(held(objects)))


def train_on_by_two(directory: Path) -> None:
    """Train as `train_on` by two processes."""
    fork_two(lambda rank: train_on(directory))


def what_is_there(directory: Path) -> str | None:
    """Return a digest of what one process loads, None for a fresh start."""
    if newest_sharded(directory) is None:
        return None
    objects = make(seed=9)
    load_sharded(directory, objects)
    return digest(held(objects))


def test_stopped_at_any_operation_it_loses_nothing() -> None:
    """The crash kit on a sample of the points of one process; tests/proof/test_sharded.py tries all, by two as well."""
    campaign = crash_test(train_on, what_is_there, max_points=3)
    assert () == campaign.not_ok, campaign.lines()
    assert len(campaign.trials) >= 12


def test_a_thing_of_your_own_may_lie_in_parts_too(tmp_path: Path) -> None:
    """An average of the weights, kept beside them: saved on two ranks, back on one, on three, and as one file.

    What else it holds is each rank's own. Saved right after a forward pass, when all of a layer is everywhere.
    """

    def start(how: str, seed: int) -> Objects:
        objects = make(how, seed=seed)
        named = {name: p.detach().clone() for name, p in objects["model"].named_parameters()}
        return {"model": objects["model"], "average": Scaler(decay=0.9, shadow=named)}

    def save(rank: int) -> str:
        objects = start("fsdp", 0)
        objects["average"].state["decay"] += rank
        with torch.no_grad():
            objects["model"](torch.ones(4, 6))
        save_sharded(objects, tmp_path / "step_1")
        objects["average"].state["decay"] = 0.9
        return digest(whole(objects["average"].state))

    def load(rank: int) -> str:
        objects = start("fsdp" if distributed.is_initialized() else "plain", 1)
        load_sharded(tmp_path / "step_1", objects)
        assert objects["average"].state["decay"] == 0.9 + (rank if rank < 2 else 0)
        objects["average"].state["decay"] = 0.9
        return digest(whole(objects["average"].state))

    (there,) = set(together(save, tmp_path))
    assert [there] * 4 == [load(0), *together(load, tmp_path, 3)]
    with pytest.raises(
        MismatchError, match=r"average: expected shadow.0.weight \(7, 6\), as in the folder, found none"
    ):
        load_sharded(tmp_path / "step_1", {"average": Scaler(decay=0.1)})


class RowSums(torch.optim.Optimizer):
    """Keeps one number for each row of a parameter: of one that lies in parts, in parts of its own."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                rows = p.grad.square().sum(-1)
                self.state[p]["rows"] = self.state[p].get("rows", 0 * rows) + rows


def test_a_state_in_parts_of_its_own_is_asked_for(tmp_path: Path) -> None:
    """Nobody can know how such a one lies before the optimizer has made its own: said, and then it comes back."""

    def work(rank: int) -> Any:
        def start(steps: int) -> Objects:
            model = make("fsdp", seed=steps)["model"]
            objects: Objects = {"model": model, "optimizer": RowSums([model[0].weight, model[3].weight])}
            for step in range(steps):
                model(torch.full((4, 6), float(step + steps))).square().mean().backward()
                objects["optimizer"].step()
            return objects

        saved_one, fresh, stepped = start(2), start(0), start(1)
        save_sharded(saved_one, tmp_path / "step_2")
        try:
            load_sharded(tmp_path / "step_2", fresh)
        except CheckpointError as error:
            said = f"{type(error).__name__}: {error}"
        load_sharded(tmp_path / "step_2", stepped)
        return said, *(digest(whole(dict(enumerate(o["optimizer"].state.values())))) for o in (saved_one, stepped))

    for said, there, here in together(work, tmp_path):
        words = (
            "MismatchError: optimizer: state.0.rows is in parts, and in others than its parameter: let the optimizer "
        )
        assert said.startswith(words), said
        assert there == here


# ---------------------------------------------------------------------------------------------------- made to do harm


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def seal(folder: Path) -> None:
    """Write a manifest that is true of what lies in a folder now, as anybody can."""
    from koemorph_tutorial import folders

    manifest = json.loads((folder / "manifest.json").read_bytes())["content"]
    names = sorted(path.name for path in folder.iterdir() if path.name != "manifest.json")
    manifest["files"] = {name: folders.sync_and_sum(folder / name) for name in names}
    (folder / "manifest.json").write_bytes(folders._text(manifest))


def with_bomb(folder: Path, bomb: Bomb) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(bomb))


def with_pickled_part(folder: Path, bomb: Bomb) -> None:
    """Say that a weight is no tensor but a pickle, which torch's own loader would run."""
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

    torch.save(bomb, folder / "__0_0.distcp")
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    for name, entry in metadata.state_dict_metadata.items():
        metadata.state_dict_metadata[name] = BytesStorageMetadata()
        vars(metadata.state_dict_metadata[name]).update(size=entry.size, properties=entry.properties)
        size = (folder / "__0_0.distcp").stat().st_size
        metadata.storage_data[MetadataIndex(name)] = _StorageInfo("__0_0.distcp", 0, size)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def with_other_folder(folder: Path, bomb: Bomb) -> None:
    import dataclasses

    metadata = pickle.loads((folder / ".metadata").read_bytes())
    metadata.storage_data = {
        index: dataclasses.replace(info, relative_path=f"../{info.relative_path}")
        for index, info in metadata.storage_data.items()
    }
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def with_a_huge_tensor(folder: Path, bomb: Bomb) -> None:
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    next(iter(metadata.state_dict_metadata.values())).size = torch.Size([1 << 50])
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def with_no_size(folder: Path, bomb: Bomb) -> None:
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    next(iter(metadata.state_dict_metadata.values())).size = "7\n6"
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))


def with_no_tensors(folder: Path, bomb: Bomb) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps({"state_dict_metadata": 1}))


def with_places_that_are_none(folder: Path, bomb: Bomb) -> None:
    rest = torch.load(folder / "rank_00000.pth", weights_only=True)
    torch.save(rest | {"shared_tensors": [("metadata", "python", 3)]}, folder / "rank_00000.pth")


def with_ranks_that_are_none(folder: Path, bomb: Bomb) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"ranks": 2', '"ranks": 1000000000000'))


FORGERIES = [with_bomb, with_pickled_part, with_other_folder, with_a_huge_tensor, with_no_size, with_no_tensors]
FORGERIES += [with_places_that_are_none, with_ranks_that_are_none]


@pytest.mark.parametrize("forge", FORGERIES)
def test_a_folder_that_names_code_is_refused(run: Path, tmp_path: Path, forge: Callable[[Path, Bomb], None]) -> None:
    """Its sums are right: whoever makes it makes them too. Nothing of it runs, no file elsewhere is read."""
    folder = tmp_path / "step_2"
    shutil.copytree(run / "run" / "step_2", folder)
    forge(folder, Bomb(tmp_path / "ran"))
    seal(folder)
    for use in (lambda: load_sharded(folder, make()), lambda: consolidate(folder, tmp_path / "x.pth")):
        with pytest.raises((UnsupportedCheckpointError, DamagedCheckpointError)) as error:
            use()
        assert "\n" not in str(error.value)
        assert f"{folder}/" in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_newer_version_is_said_to_be_one(run: Path, tmp_path: Path) -> None:
    """And an older folder beside it is not taken in its place."""
    from koemorph_tutorial import folders

    parent = tmp_path / "run"
    shutil.copytree(run / "run", parent)
    path = parent / "step_2" / "manifest.json"
    path.write_bytes(folders._text(json.loads(path.read_bytes())["content"] | {"version": 2, "more": [1]}))
    for use in (
        lambda: load_sharded(parent / "step_2", make()),
        lambda: load_sharded(parent, make()),
        lambda: newest_sharded(parent),
    ):
        with pytest.raises(NewerFormatError, match="update this one"):
            use()


def test_what_torch_raises_becomes_an_error_of_ours(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own is no Exception, so that whoever falls back on an older folder would not see it."""
    shutil.copytree(run / "run" / "step_2", tmp_path / "step_2")
    monkeypatch.setattr(room, "verify", lambda *_: damage(tmp_path / "step_2" / "__0_0.distcp", "missing"))
    with pytest.raises(DamagedCheckpointError, match=r"step_2: torch could not read it: .*__0_0\.distcp"):
        load_sharded(tmp_path / "step_2", make())
