"""Four verdicts: each is reached by files that deserve it, and says where, what was expected, what was found."""

from __future__ import annotations

import errno
import gzip
import io
import itertools
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.serialization import config

from koemorph_tutorial import CheckpointManager, load_checkpoint, resume_training, validate_checkpoint, validation
from koemorph_tutorial.__main__ import main
from koemorph_tutorial.findings import finding_of
from koemorph_tutorial.header import read_header
from koemorph_tutorial.records import CheckpointError, CheckpointNotFoundError, DamagedCheckpointError
from koemorph_tutorial.validation import checkpoints_in


def train(folder: Path, epochs: int = 3) -> dict[str, Any]:
    """Train a small network in `folder`, and return its objects."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    objects = {"model": model, "optimizer": optimizer}
    with CheckpointManager(folder, objects, config={"width": 5}, save_freq=1) as checkpoints:
        for _ in checkpoints.epochs(epochs):
            loss = model(torch.randn(8, 6)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            checkpoints.step()
            checkpoints.save({"loss": loss.item()})
    return objects


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    train(folder)
    return folder


@pytest.fixture
def ours(run: Path, tmp_path: Path) -> Path:
    """Return a copy of a checkpoint: names of one save share their bytes."""
    return Path(shutil.copy(run / "last_model.pth", tmp_path / "copy.pth"))


def saved(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def to_bits(value: Any) -> Any:
    """Return something that is equal only for bitwise equal content of the same types."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return type(value).__name__, [(key, to_bits(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [to_bits(item) for item in value]
    return type(value).__name__, repr(value)


def command(*arguments: str | Path) -> int:
    return main(["validate", *map(str, arguments)])


# --------------------------------------------------------------------------------------------------------------- sound


def test_a_checkpoint_of_ours_is_sound(ours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """True, no findings, and one line that says what was looked at."""
    report = validate_checkpoint(ours)
    assert report
    assert ("sound", ()) == (report.verdict, report.findings)
    assert 0 == command(ours)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{ours}: sound: a file of torch.save, ")
    assert line.endswith(" without NaN or infinity")


def foreign_files() -> Iterator[tuple[str, Callable[[Path], Any]]]:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    yield "a state dict", lambda path: torch.save(model.state_dict(), path)
    yield "a list", lambda path: torch.save([1, torch.zeros(2)], path)
    yield "a tensor", lambda path: torch.save(torch.ones(3), path)
    yield "nothing but numbers", lambda path: torch.save({"step": 3}, path)
    yield "of Lightning", lambda path: torch.save({"state_dict": model.state_dict(), "epoch": 1}, path)
    yield "of the recipe", lambda path: torch.save(recipe(model), path)
    yield "a numpy number among the metrics", lambda path: torch.save(recipe(model, loss=np.float64(0.5)), path)
    yield "a script", lambda path: torch.jit.script(model).save(str(path))
    yield "a frozen script", lambda path: torch.jit.freeze(torch.jit.script(model.eval())).save(str(path))
    yield "a trace", lambda path: torch.jit.trace(model.eval(), torch.zeros(2, 3)).save(str(path))
    yield "tensors that share their bytes", lambda path: torch.save({"a": (t := torch.rand(9)), "b": t[2:5]}, path)
    yield "a mask of infinities", lambda path: torch.save({"mask": torch.full((3, 3), -torch.inf).triu(1)}, path)
    yield "a range nobody has seen yet", lambda path: torch.save({"a.min_val": torch.tensor([torch.inf])}, path)
    yield "no numbers at all", lambda path: torch.save({"empty": torch.zeros(0, 3)}, path)
    yield "expanded", lambda path: torch.save({"a": torch.ones(1).expand(1 << 40)}, path)


def recipe(model: nn.Module, **metrics: Any) -> dict[str, Any]:
    return {"model_state_dict": model.state_dict(), "epoch": 3, "config": {}, "metrics": metrics}


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("write", [pytest.param(write, id=name) for name, write in foreign_files()])
def test_a_whole_file_of_somebody_else_is_sound(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    """No key of ours is asked of a file that is not ours, and what is meant to be infinite may be."""
    path = tmp_path / "model.pt"
    write(path)
    assert ("sound", ()) == ((report := validate_checkpoint(path)).verdict, report.findings)


def test_validation_needs_no_torch(ours: Path) -> None:
    """It is asked of many files, and starts in a fraction of the time."""
    code = "import sys, koemorph_tutorial as k; k.validate_checkpoint(sys.argv[1]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, ours], capture_output=True, text=True, check=True)
    assert "False\n" == done.stdout


# ------------------------------------------------------------------------------------------------------------- damaged


@pytest.mark.parametrize("kind", ["ours", "a plain torch.save"])
def test_a_flipped_bit_is_found_or_touches_no_state(run: Path, tmp_path: Path, kind: str) -> None:
    """Of 300 bits none passes as sound and changes, or keeps torch from loading, anything."""
    path = Path(shutil.copy(run / "last_model.pth", tmp_path / "copy.pth"))
    if kind != "ours":
        saved(path, load_checkpoint(path)["model_state_dict"])
    data, state = path.read_bytes(), to_bits(torch.load(path, weights_only=True))
    verdicts: dict[str, int] = {}
    for bit in random.Random(0).sample(range(len(data) * 8), 300):
        path.write_bytes(data)
        flip(path, bit)
        report = validate_checkpoint(path)
        verdicts[report.verdict] = verdicts.get(report.verdict, 0) + 1
        if report:
            assert state == to_bits(torch.load(path, weights_only=True)), bit
    assert {"sound", "damaged"} == set(verdicts)


def test_the_damaged_record_is_named_with_the_tensor_in_it(ours: Path) -> None:
    """A checksum says which record; whose numbers these are, the header says."""
    header = read_header(ours)
    stub = header.content["model_state_dict"]["0.weight"]
    at = ours.read_bytes().index(torch.load(ours)["model_state_dict"]["0.weight"].numpy().tobytes())
    flip(ours, 8 * at + 30)
    report = validate_checkpoint(ours)
    assert "damaged" == report.verdict
    (finding,) = report.findings
    assert finding.where.endswith(f"/data/{stub.storage.key}' (model_state_dict.0.weight)")
    assert finding.expected.startswith("CRC32 ")
    assert "use an older checkpoint of the run" == finding.todo


def test_every_damaged_record_is_named(ours: Path) -> None:
    """Not only the first one: whoever repairs a file wants to know what is left of it."""
    data = bytearray(ours.read_bytes())
    values = load_checkpoint(ours)["model_state_dict"]
    for name in ("0.weight", "0.bias", "2.weight"):
        data[data.index(values[name].numpy().tobytes())] ^= 1
    ours.write_bytes(data)
    found = [finding.where.partition(" (")[2] for finding in validate_checkpoint(ours).findings]
    assert ["model_state_dict.0.weight)", "model_state_dict.0.bias)", "model_state_dict.2.weight)"] == found


def test_a_file_cut_short_anywhere_is_damaged(ours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From no byte at all to all but one: one line each."""
    data = ours.read_bytes()
    for length in (0, 1, 3, *random.Random(1).sample(range(len(data)), 30), len(data) - 1):
        ours.write_bytes(data[:length])
        assert "damaged" == validate_checkpoint(ours).verdict
        assert 1 == command(ours)
        assert 1 == len(capsys.readouterr().out.splitlines())


def test_what_a_disk_says_that_cannot_read_a_file_is_the_finding(ours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words, and what to do; the file may be as it was written."""

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(validation, "find_damaged", fail)
    report = validate_checkpoint(ours)
    assert report.verdict == "damaged"
    assert str(report) == (
        f"{ours}: damaged: expected bytes that can be read, found Input/output error; copy what can be read, look "
        "after the disk, and use an older checkpoint of the run"
    )


def test_a_file_that_was_cut_short_just_now_may_still_be_being_written(ours: Path) -> None:
    """An old one will not become whole by waiting."""
    ours.write_bytes(ours.read_bytes()[:-100])
    assert "ask again when its writer is done" in str(validate_checkpoint(ours))
    os.utime(ours, (0, time.time() - 3600))
    assert "ask again" not in str(validate_checkpoint(ours))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_overwritten_stretch_is_found_or_touches_no_state(run: Path, data: st.DataObject) -> None:
    """Zeros of a lost block, or any bytes, over any stretch."""
    whole = (run / "last_model.pth").read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    stretch = data.draw(st.one_of(st.binary(min_size=1, max_size=80), st.integers(1, 4096).map(bytes)))
    path = run.parent / "stretch.pth"
    path.write_bytes(whole[:start] + stretch + whole[start + len(stretch) :])
    if validate_checkpoint(path):
        state = to_bits(torch.load(run / "last_model.pth", weights_only=True))
        assert state == to_bits(torch.load(path, weights_only=True))


@pytest.mark.parametrize("change", ["shape", "storage", "record"])
def test_a_tensor_that_says_to_be_larger_than_the_file_is_damaged(tmp_path: Path, change: str) -> None:
    """torch would read memory that is not the file's; here nothing of that size is asked for."""
    path = saved(tmp_path / "claim.pth", {"weight": torch.zeros(300)})
    data, number = path.read_bytes(), struct.pack("<BH", ord("M"), 300)
    large = b"J" + struct.pack("<i", 1 << 30)
    pickled = data[data.index(b"\x80\x02") :][:4096].partition(b"PK")[0]
    places = [at for at in range(len(pickled)) if pickled[at : at + 3] == number]
    with_claim = {
        "storage": pickled[: places[0]] + large + pickled[places[0] + 3 :],
        "shape": pickled[: places[1]] + large + pickled[places[1] + 3 :],
        "record": pickled.replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"),
    }[change]
    rewrite(path, with_claim)
    report = validate_checkpoint(path)
    assert "damaged" == report.verdict
    assert ("weight", "the bytes of a tensor") == (report.findings[0].where, report.findings[0].expected)
    with pytest.raises(DamagedCheckpointError, match="expected the bytes of a tensor"):
        load_checkpoint(path)


def rewrite(path: Path, pickled: bytes) -> None:
    """Put another header into a file, with checksums that hold."""
    old, new = zipfile.ZipFile(io.BytesIO(path.read_bytes())), zipfile.ZipFile(path, "w")
    with old, new:
        for info in old.infolist():
            is_header = info.filename.endswith("/data.pkl")
            new.writestr(info.filename, pickled if is_header else old.read(info.filename))


# ---------------------------------------------------------------------------------------------------------- incomplete


@pytest.mark.parametrize(
    ("change", "where", "expected"),
    [
        (lambda c: c.pop("config"), "config", "it in the file"),
        (lambda c: c.pop("epoch"), "epoch", "it in the file"),
        (lambda c: c.update(model_state_dict={}), "model_state_dict", "weights"),
        (lambda c: c["model_state_dict"]["0.bias"].fill_(torch.nan), "model_state_dict.0.bias", "finite numbers"),
        (
            lambda c: c["model_state_dict"]["0.weight"][1].fill_(torch.inf),
            "model_state_dict.0.weight",
            "finite numbers",
        ),
    ],
)
@pytest.mark.parametrize("version", [1, 0])
def test_what_a_whole_file_lacks_is_named(
    ours: Path, version: int, change: Callable[[Any], Any], where: str, expected: str
) -> None:
    """The recipe's own check, section 8.1, and what it does not look at: whether the weights are numbers."""
    checkpoint = torch.load(ours, weights_only=True)
    if version == 0:
        checkpoint = {key: checkpoint[key] for key in ("model_state_dict", "epoch", "config", "metrics")}
    change(checkpoint)
    report = validate_checkpoint(saved(ours, checkpoint))
    assert not report
    assert ("incomplete", where) == (report.verdict, report.findings[0].where)
    assert expected == report.findings[0].expected
    assert report.findings[0].todo


def test_a_file_of_the_recipe_without_its_weights_is_incomplete(tmp_path: Path) -> None:
    """What is left of its keys still says what it was meant to be; of somebody else's with weights it does not."""
    report = validate_checkpoint(saved(tmp_path / "a.pth", {"epoch": 3, "config": {}}))
    assert ("incomplete", "model_state_dict") == (report.verdict, report.findings[0].where)
    assert validate_checkpoint(saved(tmp_path / "b.pth", {"epoch": 3, "config": {}, "net": {"w": torch.ones(2)}}))


def test_numbers_that_are_none_are_counted(tmp_path: Path) -> None:
    """How many of how many, in each tensor, whatever its dtype; in the memory of an optimizer as well."""
    weight = torch.ones(4, 5)
    weight[0, :3] = torch.nan
    weight[1, 1] = -torch.inf
    state = {"w": weight, "h": weight.half(), "b": weight.bfloat16(), "f": torch.ones(9)}
    optimizer = {"state": {0: {"exp_avg": weight.clone()}}, "param_groups": [{"params": [0]}]}
    report = validate_checkpoint(saved(tmp_path / "a.pth", {"state_dict": state, "optimizer": optimizer}))
    found = {finding.where: finding.found for finding in report.findings}
    names = ["state_dict.w", "state_dict.h", "state_dict.b", "optimizer.state.0.exp_avg"]
    assert dict.fromkeys(names, "3 NaN and 1 infinite of 20") == found


def test_a_view_is_looked_at_and_not_what_lies_around_it(tmp_path: Path) -> None:
    """A NaN in a part of the storage that no tensor shows is no number of the model."""
    storage = torch.full((100,), torch.nan)
    storage[10:20] = 1.0
    assert validate_checkpoint(saved(tmp_path / "a.pth", {"w": storage[10:20]}))
    assert not validate_checkpoint(saved(tmp_path / "b.pth", {"w": storage[10:20], "v": storage[20:22]}))


def test_a_nan_is_found_in_the_last_of_many_views(tmp_path: Path) -> None:
    """Twenty-five tensors of one storage, as a flat buffer of parameters holds them."""
    storage = torch.ones(250)
    storage[245] = torch.nan
    report = validate_checkpoint(saved(tmp_path / "a.pth", {f"w{n}": storage[10 * n : 10 * n + 10] for n in range(25)}))
    assert ["w24"] == [finding.where for finding in report.findings]


def test_views_that_lie_over_each_other_are_not_looked_at_without_end(tmp_path: Path) -> None:
    """A thousand names for nearly all of a storage with a NaN at its end, where none of them reaches."""
    storage = torch.ones(100_000)
    storage[-1] = torch.nan
    tensors = {f"w{n}": storage[n:99_999] for n in range(1000)}
    report = validate_checkpoint(saved(tmp_path / "a.pth", tensors))
    assert ("incomplete", "w0") == (report.verdict, report.findings[0].where)
    assert "others in the storage that it shares with so many" == report.findings[0].found


@pytest.mark.parametrize(("key", "value"), [("metadata", None), ("best", [1]), ("rng_state", 3), ("epoch", "three")])
def test_a_part_that_is_no_such_thing_is_incomplete_and_passed_over(
    run: Path, tmp_path: Path, key: str, value: Any
) -> None:
    """A resume would stumble over it; it takes the file before, and says why."""
    folder = Path(shutil.copytree(run, tmp_path / "checkpoints"))
    newest = folder / "checkpoint_epoch_002.pth"
    checkpoint = torch.load(newest, weights_only=True)
    for name in ("last_model.pth", "best_model.pth"):
        (folder / name).unlink()
    saved(newest, checkpoint | {key: value})
    report = validate_checkpoint(newest)
    assert ("incomplete", key) == (report.verdict, report.findings[0].where)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    resumed = resume_training(folder, {"model": model, "optimizer": torch.optim.AdamW(model.parameters())})
    assert resumed.file is not None
    assert "checkpoint_epoch_001.pth" == resumed.file.path.name
    assert f"{key}: expected a " in resumed.passed_over[0][1]


def test_a_resume_from_weights_that_are_no_numbers_says_so(run: Path, tmp_path: Path) -> None:
    """The bytes are sound, so it goes on from there; nobody has to find out an hour later."""
    checkpoint = torch.load(run / "last_model.pth", weights_only=True)
    checkpoint["model_state_dict"]["0.bias"][0] = torch.nan
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    resumed = resume_training(saved(tmp_path / "nan.pth", checkpoint), {"model": model})
    assert "1 with NaN in it: model_state_dict.0.bias: the run had diverged" in resumed.notes[-1]


def test_what_zip_packs_again_is_sound(ours: Path, tmp_path: Path) -> None:
    """Unpacked and packed by another program, with an entry for each folder."""
    with zipfile.ZipFile(ours) as old, zipfile.ZipFile(tmp_path / "again.pth", "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for folder in (f"{root}/", f"{root}/data/"):
            new.writestr(zipfile.ZipInfo(folder), b"")
        for info in old.infolist():
            new.writestr(info.filename, old.read(info.filename))
    assert to_bits(torch.load(ours, weights_only=True)) == to_bits(load_checkpoint(tmp_path / "again.pth"))
    assert validate_checkpoint(tmp_path / "again.pth")


def test_a_loss_that_is_none_is_noted(tmp_path: Path) -> None:
    """The file is sound: bytes, keys and weights; that the run had diverged is said beside it."""
    report = validate_checkpoint(saved(tmp_path / "a.pth", recipe(nn.Linear(2, 1), loss=float("nan"))))
    assert report
    assert ("loss was nan when it was saved: the run had diverged",) == report.notes


# --------------------------------------------------------------------------------------------------------- cannot tell


class Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def unknown_files(tmp_path: Path) -> dict[str, tuple[Callable[[Path], Any], str]]:
    model = nn.Linear(2, 1)

    def without_checksums(path: Path) -> None:
        with config.patch("save.compute_crc32", False):
            torch.save(recipe(model), path)

    return {
        "no checksums": (without_checksums, "expected checksums, found a file of torch.save without any"),
        "legacy": (
            lambda p: torch.save(recipe(model), p, _use_new_zipfile_serialization=False),
            "expected checksums, found a file as torch.save wrote it before 1.6 without any",
        ),
        "code": (
            lambda p: torch.save({**recipe(model), "hook": Runs(tmp_path / "ran")}, p),
            "found the names of code, which an ordinary unpickler runs: io.open",
        ),
        "a whole module": (lambda p: torch.save(model, p), "torch.nn.modules.linear.Linear"),
        "newer": (
            lambda p: torch.save(recipe(model) | {"format_version": 9} | dict.fromkeys(OURS, 0), p),
            "format_version: expected 1 or older, found 9; update koemorph-tutorial",
        ),
        "gzip": (lambda p: p.write_bytes(gzip.compress(gzip.compress(b"x"))), "found a gzip file; unpack it"),
        "pickle": (lambda p: p.write_bytes(b"\x80\x04N."), "found a plain pickle; name a file of torch.save"),
    }


OURS = ("run", "epoch", "global_step", "position", "best", "rng_state", "metadata")


@pytest.mark.parametrize("kind", list(unknown_files(Path())))
def test_what_cannot_be_told_says_why(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither sound nor damaged: false, exit 1, and the reason in one line; nothing in the file runs."""
    write, why = unknown_files(tmp_path)[kind]
    path = tmp_path / "model.pth"
    write(path)
    report = validate_checkpoint(path)
    assert not report
    assert "cannot tell" == report.verdict
    assert why in str(report)
    assert 1 == command(path)
    assert f"{report}\n" == capsys.readouterr().out
    assert not (tmp_path / "ran").exists()


def test_a_nan_in_a_file_without_checksums_is_what_counts(tmp_path: Path) -> None:
    """What speaks against a file goes before what cannot be told of it."""
    state = {"w": torch.tensor([torch.nan])}
    path = saved(tmp_path / "old.pth", state, _use_new_zipfile_serialization=False)
    assert "incomplete" == validate_checkpoint(path).verdict


def test_a_file_that_changes_while_it_is_read_cannot_be_told(tmp_path: Path) -> None:
    """Somebody writes to it all the time: a verdict would be about a file that nobody has."""
    path = saved(tmp_path / "busy.pth", {"w": torch.zeros(1 << 22)})
    begun, stop = threading.Event(), threading.Event()

    def write() -> None:
        for count in itertools.count():
            os.utime(path, (0, count))
            begun.set()
            if stop.is_set():
                break

    writer = threading.Thread(target=write)
    writer.start()
    begun.wait()
    try:
        report = validate_checkpoint(path)
    finally:
        stop.set()
        writer.join()
    assert "cannot tell" == report.verdict
    assert "found one that changed while it was read; ask again when its writer is done" in str(report)
    assert validate_checkpoint(path)


def test_an_interpolation_of_the_environment_is_named_and_not_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's config may ask for the secrets of whoever loads it."""
    monkeypatch.setenv("SECRET", "hunter2")
    checkpoint = recipe(nn.Linear(2, 1)) | {"config": {"data": {"path": "${oc.env:SECRET}"}}}
    report = validate_checkpoint(saved(tmp_path / "a.pth", checkpoint))
    assert report.notes[0].startswith("config.data.path is ${oc.env:SECRET}: OmegaConf would put there")
    assert "hunter2" not in report.to_json()


# --------------------------------------------------------------------------------------------------------- no file


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda p: None, "found nothing of that name; check the path"),
        (os.mkfifo, "found no regular file"),
        (lambda p: p.mkdir(), "expected checkpoints in it, found none; name a file"),
        (lambda p: p.symlink_to(p.name), "Too many levels of symbolic links"),
    ],
)
def test_what_is_no_file_gets_one_line(
    tmp_path: Path, make: Callable[[Path], Any], found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A directory, a pipe that nobody writes to, nothing: exit 2, and no waiting."""
    path = tmp_path / "model.pth"
    make(path)
    assert 2 == command(path)
    said = capsys.readouterr()
    assert ("", 1) == (said.out, len(said.err.splitlines()))
    assert found in said.err
    with pytest.raises(CheckpointError):
        validate_checkpoint(path)


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root reads everything")
def test_a_file_that_may_not_be_read_gets_one_line(tmp_path: Path) -> None:
    """Another user's file without read permission for us."""
    path = saved(tmp_path / "secret.pth", {"w": torch.zeros(2)})
    path.chmod(0)
    shutil.copytree(Path(__file__).parent.parent / "koemorph_tutorial", tmp_path / "library/koemorph_tutorial")
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder.stat().st_uid == os.geteuid() and str(folder).count("pytest"):
            folder.chmod(0o755)
    code = f"import sys; sys.path.insert(0, '{tmp_path}/library')\nfrom koemorph_tutorial.validation import *\n"
    code += f"try:\n    validate_checkpoint('{path}')\nexcept Exception as error:\n    print(error)"
    other = ["setpriv", "--reuid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    done = subprocess.run([*other, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"{path}: expected a checkpoint file (.pth), but it cannot be read: Permission denied\n" == done.stdout


# --------------------------------------------------------------------------------------------------------- the command


def test_a_runs_folder_is_validated_file_by_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of one save once; its own folder and that above it mean the same; one bad file makes the answer no."""
    folder = tmp_path / "run" / "checkpoints"
    shutil.copytree(run, folder)
    assert 0 == command(folder)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len({path.stat().st_ino for path in folder.glob("*.pth")})
    flip(folder / "checkpoint_epoch_001.pth", 8 * 3000)
    assert 1 == command(folder.parent)
    verdicts = [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()]
    assert 1 == sum(verdict != "sound" for verdict in verdicts)


def test_json_is_one_list_of_every_finding(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For programs: the files that could be asked, and exit 2 with a line for the one that could not."""
    assert 2 == command(ours, tmp_path / "gone.pth", "--json")
    said = capsys.readouterr()
    (report,) = json.loads(said.out)
    assert ("sound", []) == (report["verdict"], report["findings"])
    assert "gone.pth" in said.err


def test_a_folder_without_checkpoints_is_an_error(tmp_path: Path) -> None:
    """An empty list of verdicts would look like good news."""
    with pytest.raises(CheckpointNotFoundError, match="expected checkpoints in it, found none"):
        checkpoints_in(tmp_path)


# -------------------------------------------------------------------------------------------------- resume falls back


def test_a_resume_falls_back_to_the_last_sound_file_and_says_why(run: Path, tmp_path: Path) -> None:
    """What validation calls damaged a resume passes over, with the same reason."""
    folder = Path(shutil.copytree(run, tmp_path / "checkpoints"))
    newest = folder / "checkpoint_epoch_002.pth"
    whole = newest.read_bytes()
    for path in folder.glob("*.pth"):
        if path.read_bytes() == whole:
            flip(path, 8 * 3000)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    resumed = resume_training(folder, {"model": model, "optimizer": torch.optim.AdamW(model.parameters())})
    assert resumed.file is not None
    assert "checkpoint_epoch_001.pth" == resumed.file.path.name
    reasons = dict(resumed.passed_over)
    assert str(validate_checkpoint(newest).findings[0].found) in reasons["last_model.pth"] + reasons[newest.name]


# ------------------------------------------------------------------------------------------------------------ findings


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        ("expected a zip, found none; check it", ("", "a zip", "none", "check it")),
        ("record 'a/data/0' is damaged: expected CRC32 1, found 2; do", ("record 'a/data/0'", "CRC32 1", "2", "do")),
        ("expected a file, but it cannot be read: No", ("", "a file", "it cannot be read: No", "")),
        ("torch cannot load it", ("", "a checkpoint that can be read", "torch cannot load it", "")),
    ],
)
def test_an_error_is_taken_apart(said: str, parts: tuple[str, str, str, str]) -> None:
    """Where, expected, found, what to do: as every one of our errors is written."""
    finding = finding_of(DamagedCheckpointError(f"run/a: b.pth: {said}"), Path("run/a: b.pth"))
    assert parts == (finding.where, finding.expected, finding.found, finding.todo)
