"""A checkpoint <-> its compressed file: bit by bit the same, found by every door, and nothing lost at any moment."""

from __future__ import annotations

import errno
import fcntl
import gzip
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from koemorph_tutorial import (
    compress_checkpoint,
    compression,
    decompress_checkpoint,
    diff_checkpoints,
    inspect_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_for_inference,
    load_weights,
    lock,
    resume_training,
    save_checkpoint,
    save_compressed_checkpoint,
    streams,
    validate_checkpoint,
)
from koemorph_tutorial.compressed_files import compress_older
from koemorph_tutorial.digests import digest, run_digest
from koemorph_tutorial.durable import sweep
from koemorph_tutorial.inspection.folder import inspect_directory
from koemorph_tutorial.inspection.views import directory_lines, file_lines
from koemorph_tutorial.records import (
    SUFFIXES,
    Best,
    CheckpointError,
    CheckpointWriteError,
    Codec,
    DamagedCheckpointError,
    DirectoryLockedError,
    MismatchError,
    Position,
    UnsavableStateError,
    UnsupportedCheckpointError,
    numbered_name,
)
from koemorph_tutorial.state import build
from koemorph_tutorial.testing import crash_test, example, saved
from koemorph_tutorial.validation import checkpoints_in

from .comparing import difference
from .damage import flips

CODECS: tuple[Codec, ...] = ("gzip", "zstd", "shuffle-zstd")
ROOT = Path(__file__).resolve().parent.parent


def objects(seed: int = 0) -> dict[str, Any]:
    """Return a network and its optimizer after one step."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 16)).sum().backward()
    optimizer.step()
    return {"model": model, "optimizer": optimizer}


def content(epoch: int = 3, *, loss: float = 0.5, line: str = "line") -> dict[str, Any]:
    """Return a whole checkpoint of this library, the end of an epoch."""
    return build(
        objects(epoch),
        epoch=epoch,
        position=Position(epoch=epoch + 1, global_step=epoch + 1),
        metrics={"loss": loss},
        best=Best(),
        run={"line": line, "parent": None, "saves": epoch + 1},
        config={"seed": 1},
    )


def written(path: Path, epoch: int = 3) -> Path:
    """Write such a checkpoint."""
    return save_checkpoint(content(epoch), path).path


def run_of(directory: Path, epochs: int = 5) -> Path:
    """Write a run: numbered files, of which the newest is last_model.pth as well, and epoch 1 the best."""
    directory.mkdir(exist_ok=True)
    for epoch in range(epochs):
        also = ["best_model.pth"] if epoch == 1 else ["last_model.pth"] if epoch == epochs - 1 else []
        save_checkpoint(content(epoch, loss=abs(epoch - 1) + 0.1), directory / numbered_name(epoch), also=also)
    return directory


def names(directory: Path) -> list[str]:
    """Return the names in a directory, the lock's apart."""
    return sorted(set(os.listdir(directory)) - {lock.LOCK_NAME})


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def held_by_another(directory: Path) -> Iterator[None]:
    """Hold the lock through a descriptor of its own, which for flock is another process: one that is alive."""
    with open(directory / lock.LOCK_NAME, "wb", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"pid {os.getppid()} on {os.uname().nodename} since 2026-11-26T10:00:00+00:00\n".encode())
        yield


# --------------------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize("codec", CODECS)
def test_what_is_compressed_comes_back_bit_by_bit(tmp_path: Path, codec: Codec) -> None:
    """Under the name that says how, beside the file, which stays; and back under the name that it had."""
    path = written(tmp_path / "run.pth")
    before = sha256(path)
    small = compress_checkpoint(path, codec=codec)
    assert "run" + SUFFIXES[codec] == small.name
    assert small.stat().st_size < path.stat().st_size
    assert ["run.pth", small.name] == sorted(names(tmp_path))
    path.unlink()
    assert path == decompress_checkpoint(small)
    assert before == sha256(path)


@pytest.mark.parametrize("codec", CODECS)
def test_odd_tensors_come_back_bit_by_bit(tmp_path: Path, codec: Codec) -> None:
    """Empty, of no axis, halves, truth values, whole numbers, views, shared storage, complex, NaN with a payload."""
    base = torch.arange(100.0)
    odd = {
        "empty": torch.empty(0, 3),
        "single": torch.tensor(1.5),
        "bfloat16": torch.randn(300).bfloat16(),
        "bool": torch.rand(700) > 0.5,
        "int64": torch.arange(-50, 500),
        "turned": torch.randn(40, 30).t(),
        "stepped": torch.randn(500)[::3],
        "shared": base,
        "part": base[10:20],
        "complex": torch.randn(300, dtype=torch.complex64),
        "nan": torch.tensor([0x7FC00001, 0x7F800001] * 100, dtype=torch.int32).view(torch.float32),
        "expanded": torch.ones(1).expand(9),
    }
    path = save_checkpoint({"epoch": 1, "model_state_dict": odd}, tmp_path / "odd.pth").path
    small = compress_checkpoint(path, codec=codec)
    loaded = load_checkpoint(small)["model_state_dict"]
    assert "" == difference(odd, loaded)
    assert loaded["shared"].data_ptr() == loaded["part"].data_ptr() - 40
    assert sha256(path) == sha256(decompress_checkpoint(small, output=tmp_path / "back.pth"))


def test_the_same_file_gives_the_same_bytes_each_time(tmp_path: Path) -> None:
    """So that a copy made twice is one, and a kill is made good by doing it again."""
    path = written(tmp_path / "run.pth")
    for codec in CODECS:
        one = compress_checkpoint(path, codec=codec, output=tmp_path / ("one" + SUFFIXES[codec]))
        two = compress_checkpoint(path, codec=codec, output=tmp_path / ("two" + SUFFIXES[codec]))
        assert sha256(one) == sha256(two)


@pytest.mark.parametrize("codec", CODECS)
def test_replaced_is_removed_once_the_other_form_is_there(tmp_path: Path, codec: Codec) -> None:
    """One name instead of another, both ways; the mode follows the umask."""
    path = written(tmp_path / "run.pth")
    before, mode = sha256(path), path.stat().st_mode
    small = compress_checkpoint(path, codec=codec, replace=True)
    assert ([small.name], mode) == (names(tmp_path), small.stat().st_mode)
    decompress_checkpoint(small, replace=True)
    assert (["run.pth"], before) == (names(tmp_path), sha256(path))


def test_files_of_others_are_compressed_as_well(tmp_path: Path) -> None:
    """Weights alone, an archive of TorchScript, the recipe's; and names with other endings."""
    torch.save(objects()["model"].state_dict(), tmp_path / "weights.bin")
    torch.save({"epoch": 3, "model_state_dict": objects()["model"].state_dict()}, tmp_path / "recipe.ckpt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and there all the same
        torch.jit.save(torch.jit.script(objects()["model"]), tmp_path / "script.pt")
    ways: dict[str, tuple[Codec, str]] = {
        "weights.bin": ("gzip", "weights.bin.gz"),
        "recipe.ckpt": ("zstd", "recipe.ckpt.zst"),
        "script.pt": ("shuffle-zstd", "script.shuffle.pt"),
    }
    for name, (codec, expected) in ways.items():
        before = sha256(tmp_path / name)
        small = compress_checkpoint(tmp_path / name, codec=codec, replace=True)
        assert expected == small.name
        assert 4 == len(load_weights(small, objects(9)["model"]).filled)
        assert (tmp_path / name, before) == (decompress_checkpoint(small, replace=True), sha256(tmp_path / name))


def test_a_file_that_gzip_itself_has_made_is_read_and_unpacked(tmp_path: Path) -> None:
    """Without our seal, with a name and a time in it."""
    path = written(tmp_path / "run.pth")
    with gzip.open(tmp_path / "other.pth.gz", "wb") as file:
        file.write(path.read_bytes())
    assert 3 == load_checkpoint(tmp_path / "other.pth.gz")["epoch"]
    assert sha256(path) == sha256(decompress_checkpoint(tmp_path / "other.pth.gz"))


def test_what_gunzip_gives_back_is_what_torch_loads(tmp_path: Path) -> None:
    """save_compressed_checkpoint: the recipe's name for it, and no pickle to run."""
    path = save_compressed_checkpoint(content(), tmp_path / "checkpoint.pth")
    assert "checkpoint.pth.gz" == path.name
    with gzip.open(path) as file:
        loaded = torch.load(file, weights_only=True)  # type: ignore[arg-type]  # torch takes any file
    assert "" == difference(content(), loaded)
    assert "" == difference(content(), load_checkpoint(path))
    for codec in CODECS:
        again = save_compressed_checkpoint(content(5), tmp_path / "checkpoint.pth", codec=codec)
        assert ("checkpoint" + SUFFIXES[codec], 5) == (again.name, load_checkpoint(again)["epoch"])
    assert ["checkpoint.pth.gz", "checkpoint.pth.zst", "checkpoint.shuffle.pth"] == names(tmp_path)
    assert path == save_compressed_checkpoint(content(6), path)
    with pytest.raises(UnsavableStateError, match="nothing was saved"):
        save_compressed_checkpoint({"f": print}, tmp_path / "other.pth")
    assert "other.pth.gz" not in names(tmp_path)


@pytest.mark.parametrize("bf16", [False, True])
def test_for_inference_keeps_the_weights_and_what_describes_them(tmp_path: Path, bf16: bool) -> None:
    """A file of another name, so that no run takes it for one of its own; a third of the size, or a sixth."""
    path = written(tmp_path / numbered_name(3))
    small = compress_checkpoint(path, for_inference=True, bf16=bf16)
    assert "checkpoint_epoch_003.inference.shuffle.pth" == small.name
    loaded = load_checkpoint(small)
    assert "optimizer_state_dict" not in loaded
    assert (3, {"loss": 0.5}, {"seed": 1}) == (loaded["epoch"], loaded["metrics"], loaded["config"])
    model, metrics = load_for_inference(small, objects(9)["model"])
    expected = {
        name: value.bfloat16().float() if bf16 else value for name, value in objects(3)["model"].state_dict().items()
    }
    assert ({"loss": 0.5}, "") == (metrics, difference(expected, dict(model.state_dict())))
    assert [numbered_name(3)] == [file.path.name for file in list_checkpoints(tmp_path)]
    assert small == compress_checkpoint(path, for_inference=True, bf16=bf16)  # it is there already


def test_a_file_made_for_inference_is_sound_and_nothing_to_go_on_from(tmp_path: Path) -> None:
    """It says so itself, and a resume, which would begin with a fresh optimizer, is refused."""
    small = compress_checkpoint(written(tmp_path / numbered_name(3)), for_inference=True)
    report = validate_checkpoint(small)
    assert ("sound", ()) == (report.verdict, report.findings)
    assert any("made for inference" in note for note in report.notes)
    with pytest.raises(MismatchError, match="expected a checkpoint to go on from, found one made for inference"):
        resume_training(small, objects(9))


# ---------------------------------------------------------------------------------------------------- what is refused


def refused_kinds(folder: Path) -> dict[str, tuple[Callable[[], object], type[Exception], str]]:
    """Return what must be refused: the call, the error, what it says."""
    path = written(folder / "run.pth")
    small = compress_checkpoint(path, codec="gzip")
    other = written(folder / "other.pth.zst", epoch=9)
    link = folder / "link.pth"
    link.symlink_to(path)
    best = written(folder / "best_model.pth")
    cut, noise = folder / "cut.pth.gz", folder / "noise.pth.gz"
    cut.write_bytes(small.read_bytes()[:-200])
    noise.write_bytes(gzip.compress(random.Random(0).randbytes(999)))
    damaged = folder / "damaged.pth"
    data = path.read_bytes()
    damaged.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
    old = folder / "old.pth"
    torch.save({"epoch": 1}, old, _use_new_zipfile_serialization=False)
    nameless = folder / "nameless"
    nameless.write_bytes(small.read_bytes())
    no_weights = save_checkpoint({"epoch": 1}, folder / "no_weights.pth").path
    wide = save_checkpoint(
        {"model_state_dict": {"w": torch.full((9,), 1e300, dtype=torch.float64)}}, folder / "wide.pth"
    ).path
    compress, decompress = compress_checkpoint, decompress_checkpoint
    unknown: Any = "lz4"
    return {
        "an unknown codec": (
            lambda: compress(path, codec=unknown),
            ValueError,
            "codec: expected one of gzip, zstd, shuffle-zstd, found 'lz4'",
        ),
        "an unknown codec to save": (
            lambda: save_compressed_checkpoint({}, path, codec=unknown),
            ValueError,
            "codec: expected one of",
        ),
        "compressed already": (
            lambda: compress(small),
            UnsupportedCheckpointError,
            f"{small}: expected a plain checkpoint, found one compressed by gzip already; decompress it first",
        ),
        "a plain one decompressed": (
            lambda: decompress(path),
            UnsupportedCheckpointError,
            f"{path}: expected a compressed checkpoint, found one that is not compressed; it can be used as it is",
        ),
        "a plain one under a compressed name": (lambda: decompress(other), UnsupportedCheckpointError, "is not compr"),
        "cut short": (lambda: decompress(cut), DamagedCheckpointError, f"{cut}: "),
        "noise": (lambda: decompress(noise), DamagedCheckpointError, f"{noise}: "),
        "damaged": (lambda: compress(damaged), DamagedCheckpointError, f"{damaged}: record 'archive/data/"),
        "without checksums": (lambda: compress(old), UnsupportedCheckpointError, "which holds no checksums"),
        "nothing": (lambda: compress(folder / "no.pth"), CheckpointError, "found nothing of that name; check the path"),
        "a folder": (lambda: compress(folder), DamagedCheckpointError, "found a directory; name a file in it"),
        "an output that is there": (
            lambda: decompress(small, output=best),
            CheckpointWriteError,
            f"{best}: expected no file of that name, found another one; move it away, or name another output",
        ),
        "an output of another codec": (
            lambda: compress(path, codec="zstd", output=folder / "x.pth.gz"),
            CheckpointError,
            "expected a name for a file of zstd, found one that says gzip; name another output",
        ),
        "an output that a run takes for plain": (
            lambda: compress(path, output=folder / numbered_name(1)),
            CheckpointError,
            "found the plain name of a run's checkpoint; name another output",
        ),
        "a plain file under a compressed name to be made": (
            lambda: decompress(small, output=folder / "x.pth.gz"),
            CheckpointError,
            "expected a name for a plain file, found one that says gzip; name another output",
        ),
        "itself": (
            lambda: compress(path, output=path),
            CheckpointError,
            "expected an output beside the file, found the file itself",
        ),
        "a name that says nothing": (
            lambda: decompress(nameless),
            CheckpointError,
            "expected a name that ends in .pth.gz, found one that does not say what the plain file is called",
        ),
        "the best replaced": (
            lambda: compress(best, replace=True),
            CheckpointError,
            f"{best}: expected a file that can be replaced, found a name that a run needs as it is; leave replace out",
        ),
        "a link replaced": (lambda: compress(link, replace=True), CheckpointError, "found a symbolic link; name the f"),
        "the optimizer lost": (
            lambda: compress(path, for_inference=True, replace=True),
            ValueError,
            "replace: expected no for_inference with it: the optimizer would be lost with the file",
        ),
        "a run's state in halves": (lambda: compress(path, bf16=True), ValueError, "bf16: expected it with for_infer"),
        "weights alone as a run's": (
            lambda: compress(path, for_inference=True, output=folder / "checkpoint_epoch_009.shuffle.pth"),
            CheckpointError,
            "found one of a run's checkpoints, from which a training would go on; name another output",
        ),
        "no weights": (lambda: compress(no_weights, for_inference=True), MismatchError, f"{no_weights}: expected wei"),
        "weights too large for halves": (
            lambda: compress(wide, for_inference=True, bf16=True),
            MismatchError,
            f"{wide}: w: expected weights that bfloat16 can hold",
        ),
        "a folder that is not there": (
            lambda: compress(path, output=folder / "no" / "x.shuffle.pth"),
            CheckpointWriteError,
            "x.shuffle.pth: could not be written: No such file or directory",
        ),
        "a number below 0": (lambda: compress_older(folder, -1), ValueError, "keep: expected how many of the newest"),
        "no number": (lambda: compress_older(folder, True), ValueError, "a whole number from 0, found True"),
        "no run": (lambda: compress_older(ROOT / "tests", 3), CheckpointError, "expected the checkpoints of a run"),
        "no folder": (lambda: compress_older(folder / "no", 3), CheckpointError, "expected a directory of checkpoints"),
    }


def test_what_cannot_be_done_is_refused_in_one_line(tmp_path: Path) -> None:
    """Which file, what was expected, what was found, what to do; and everything is as it was."""
    kinds = refused_kinds(tmp_path)
    before = {path.name: sha256(path) for path in tmp_path.iterdir()}
    for kind, (call, error, words) in kinds.items():
        with pytest.raises(error) as caught:
            call()
        assert words in str(caught.value), kind
        assert 1 == len(str(caught.value).splitlines()), kind
    assert before == {name: sha256(tmp_path / name) for name in names(tmp_path)}


def test_an_output_that_is_there_and_the_same_is_no_error(tmp_path: Path) -> None:
    """A kill came before the source was removed: the next call removes it, and writes nothing."""
    path = written(tmp_path / "run.pth")
    for codec in CODECS:
        small = compress_checkpoint(path, codec=codec)
        inode = small.stat().st_ino
        assert small == compress_checkpoint(path, codec=codec)
        assert path == decompress_checkpoint(small)
        assert inode == small.stat().st_ino
    compress_checkpoint(path, replace=True)
    assert not path.exists()


# ------------------------------------------------------------------------------------------------- each door reads it


@pytest.mark.parametrize("codec", CODECS)
def test_every_door_reads_a_compressed_file_as_it_is(tmp_path: Path, codec: Codec) -> None:
    """load, resume, weights, inspect, validate, diff, list say of it what they say of the plain one."""
    path = written(tmp_path / numbered_name(3))
    small = compress_checkpoint(path, codec=codec)
    assert run_digest(load_checkpoint(path)) == run_digest(load_checkpoint(small))
    live = objects(9)
    assert small == resume_training(small, live).file.path  # type: ignore[union-attr]
    assert digest(objects(3)["model"].state_dict()) == digest(live["model"].state_dict())
    plain, packed = inspect_checkpoint(path), inspect_checkpoint(small)
    assert (None, codec) == (plain.codec, packed.codec)
    assert (plain.size, small.stat().st_size) == (packed.size, packed.packed)
    assert (plain.tensors, plain.metrics, plain.rest) == (packed.tensors, packed.metrics, packed.rest)
    assert any(line.split()[:2] == ["compressed", f"{codec},"] for line in file_lines(packed, 100))
    report = validate_checkpoint(small)
    assert ("sound", (), validate_checkpoint(path).checked) == (report.verdict, report.findings, report.checked)
    sizes = f"{small.stat().st_size:,} bytes on the disk, {path.stat().st_size:,} unpacked"
    assert (f"compressed by {codec}: {sizes}",) == report.notes
    compared = diff_checkpoints(path, small)
    assert (True, ()) == (compared.identical, compared.rows)
    assert f"identical: the same bytes once unpacked (B is compressed by {codec})" == str(compared)
    assert "identical: the same file" == str(diff_checkpoints(small, small))
    other = compress_checkpoint(written(tmp_path / "other.pth", epoch=5), codec=codec)
    assert str(diff_checkpoints(path, other.with_name("other.pth"))) == str(diff_checkpoints(small, other))


@pytest.mark.parametrize("codec", CODECS)
def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, codec: Codec) -> None:
    """By validate and by load; of forty bits of each, and of every one near both ends."""
    small = compress_checkpoint(written(tmp_path / "run.pth"), codec=codec)
    data, path = small.read_bytes(), tmp_path / "flipped.pth"
    ends = [flipped for at in (*range(12), *range(-30, 0)) for flipped in (_flip(data, at % len(data), at % 8),)]
    for what, changed in [*flips(data, 40), *(("an end", each) for each in ends)]:
        path.write_bytes(changed)
        assert not validate_checkpoint(path), what
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def _flip(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def test_a_file_says_what_it_is_by_its_bytes_and_not_by_its_name(tmp_path: Path) -> None:
    """It is used as it is, since nothing in it is wrong; validate says that the name says something else."""
    small = compress_checkpoint(written(tmp_path / "run.pth"), codec="gzip")
    as_plain = small.rename(tmp_path / "packed.pth")
    as_other = written(tmp_path / "plain.pth.zst")
    for path in (as_plain, as_other):
        assert 3 == load_checkpoint(path)["epoch"]
    assert validate_checkpoint(as_plain).notes[0].endswith("unpacked; its name says nothing of it")
    assert ("its name says that it is compressed by zstd, and it is not compressed",) == validate_checkpoint(
        as_other
    ).notes


def test_a_folder_is_shown_with_what_is_compressed_in_it(tmp_path: Path) -> None:
    """inspect DIR: the codec, and what a file takes on the disk; validate DIR looks at every file."""
    run = run_of(tmp_path / "run")
    before = inspect_directory(run)
    assert not any("codec" in line for line in directory_lines(before, 120))
    compress_older(run, 2, codec="zstd")
    after = inspect_directory(run)
    codecs = {content.names[0]: content.codec for content in after.contents}
    assert "zstd" == codecs["checkpoint_epoch_000.pth.zst"]
    assert sum(path.stat().st_size for path in run.glob("*.zst")) < before.size - after.size + after.size
    assert after.size < before.size
    table = directory_lines(after, 120)
    assert 2 == sum(" zstd " in line for line in table)
    assert {"checkpoint_epoch_000.pth.zst", "checkpoint_epoch_002.pth.zst"} < {p.name for p in checkpoints_in(run)}
    assert all(validate_checkpoint(path) for path in checkpoints_in(run))


@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_a_bomb_behind_a_good_beginning_is_refused_at_the_limit(
    tmp_path: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much it would unpack to; a limit of a few megabytes stands for the real one."""
    monkeypatch.setattr(compression, "_LEAST_LIMIT", 1 << 22)
    plain = written(tmp_path / "run.pth").read_bytes()
    path = tmp_path / "bomb.pth"
    if codec == "gzip":
        path.write_bytes(gzip.compress(plain + bytes(1 << 25), 9))
    else:
        path.write_bytes(streams.zstd().compress(plain + bytes(1 << 25)))
    for ask in (load_checkpoint, inspect_checkpoint, lambda path: load_weights(path, objects()["model"])):
        with pytest.raises(DamagedCheckpointError, match=r"a\s+bomb\?\); do not unpack this file"):
            ask(path)
    assert "damaged" == validate_checkpoint(path).verdict


# ------------------------------------------------------------------------------------------------------ a run's files


def test_all_but_the_newest_are_compressed_and_nothing_that_the_run_needs(tmp_path: Path) -> None:
    """Never what best or last are names of; and the run says of itself what it said before."""
    run = run_of(tmp_path / "run", epochs=6)
    (run / "notes.txt").write_text("mine")
    written(run / "other.pth")
    before = {file.epoch: run_digest(load_checkpoint(file.path)) for file in list_checkpoints(run)}
    told: list[str] = []
    done = compress_older(run, 2, on_file=lambda each: told.append(str(each)))
    assert [each.epoch for each in list_checkpoints(run) if each.codec] == [3, 2, 0]
    assert {
        *("best_model.pth", "last_model.pth", "notes.txt", "other.pth"),
        *("checkpoint_epoch_000.shuffle.pth", "checkpoint_epoch_001.pth", "checkpoint_epoch_002.shuffle.pth"),
        *("checkpoint_epoch_003.shuffle.pth", "checkpoint_epoch_004.pth", "checkpoint_epoch_005.pth"),
    } == set(names(run))
    assert (run / "best_model.pth").samefile(run / numbered_name(1))
    assert list(map(str, done)) == told
    assert "checkpoint_epoch_001.pth stays: best_model.pth is a further name of its bytes" == told[1]
    assert told[0].startswith("checkpoint_epoch_000.shuffle.pth for checkpoint_epoch_000.pth: ")
    assert before == {file.epoch: run_digest(load_checkpoint(file.path)) for file in list_checkpoints(run)}
    assert [numbered_name(1)] == [each.source.name for each in compress_older(run, 2)]  # nothing is left to do
    live = objects(9)
    assert 6 == resume_training(run, live).position.epoch


def test_with_none_to_keep_all_are_compressed_that_have_no_other_name(tmp_path: Path) -> None:
    """Also by the name of the run's own folder."""
    (tmp_path / "run").mkdir()
    run = run_of(tmp_path / "run" / "checkpoints")
    compress_older(tmp_path / "run", 0, codec="gzip")
    plain = [name for name in names(run) if name.endswith(".pth")]
    assert ["best_model.pth", numbered_name(1), numbered_name(4), "last_model.pth"] == plain
    assert [4, 4, 3, 2, 1, 1, 0] == [file.epoch for file in list_checkpoints(run)]


def test_what_is_damaged_stays_as_it_is_and_is_said(tmp_path: Path) -> None:
    """Somebody may still take something out of it; the others are compressed all the same."""
    run = run_of(tmp_path / "run")
    path = run / numbered_name(0)
    path.write_bytes(_flip(path.read_bytes(), path.stat().st_size // 2, 3))
    before = sha256(path)
    damaged, *others = compress_older(run, 1)
    assert (None, path, before) == (damaged.output, damaged.source, sha256(path))
    assert damaged.why.startswith("record 'archive/data/")
    assert [None, False, False] == [each.output and each.source.exists() for each in others]


def test_what_goes_meanwhile_is_said_and_the_others_are_compressed(tmp_path: Path) -> None:
    """Another program removes a file between the look at the folder and its turn."""
    run = run_of(tmp_path / "run")
    done = compress_older(run, 1, on_file=lambda _: (run / numbered_name(2)).unlink(missing_ok=True))
    said = {each.source.name: each.why for each in done if each.output is None}
    assert "found nothing of that name" in said[numbered_name(2)]
    assert not (run / numbered_name(3)).exists()


@pytest.mark.parametrize("codec", CODECS)
def test_both_forms_after_a_kill_are_made_one(tmp_path: Path, codec: Codec) -> None:
    """The plain file wins as long as it is there; then the next call removes it."""
    run = run_of(tmp_path / "run")
    small = compress_checkpoint(run / numbered_name(0), codec=codec)
    assert [0] == [file.epoch for file in list_checkpoints(run) if file.path.name == numbered_name(0)]
    assert {"a plain file wins"} == {str(why).rpartition("and ")[2] for _, why in list_checkpoints(run).ignored}
    inode = small.stat().st_ino
    first = compress_older(run, 2, codec=codec)[0]
    assert (small, inode, False) == (first.output, small.stat().st_ino, (run / numbered_name(0)).exists())


def test_another_file_in_the_place_of_the_compressed_one_is_left_alone(tmp_path: Path) -> None:
    """And the plain one stays."""
    run = run_of(tmp_path / "run")
    taken = run / "checkpoint_epoch_000.shuffle.pth"
    taken.write_bytes(b"mine")
    first = compress_older(run, 2)[0]
    assert (None, b"mine") == (first.output, taken.read_bytes())
    assert "expected no file of that name, found another one" in first.why
    assert (run / numbered_name(0)).exists()


def test_another_process_that_writes_there_is_not_disturbed(tmp_path: Path) -> None:
    """One line, and nothing changes; what is none of a run's files can be compressed beside it."""
    run = run_of(tmp_path / "run")
    other = written(run / "other.pth")
    small = compress_checkpoint(run / numbered_name(0), codec="gzip")
    before = names(run)
    with held_by_another(run):
        for call in (
            lambda: compress_older(run, 1),
            lambda: compress_checkpoint(run / numbered_name(1)),
            lambda: compress_checkpoint(other, replace=True),
            lambda: decompress_checkpoint(small, replace=True),
        ):
            with pytest.raises(DirectoryLockedError, match="expected to be the only one who writes here, found proc"):
                call()
        assert before == names(run)
        assert "other.pth.gz" == compress_checkpoint(other, codec="gzip").name


# ------------------------------------------------------------------------------------------- disks, kills, accidents


@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("back", [False, True])
def test_a_disk_that_refuses_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, back: bool
) -> None:
    """Its own words, the file of before, and no temporary."""
    path = written(tmp_path / "run.pth")
    if back:
        path = compress_checkpoint(path, replace=True)
    before = sha256(path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    if call == "write":
        monkeypatch.setattr(*((shutil, "copyfileobj") if back else (compression, "pack")), refuse)
    else:
        monkeypatch.setattr(os, call, refuse)
    with pytest.raises(
        CheckpointWriteError, match=f"could not be written: {os.strerror(code)}; nothing that"
    ) as caught:
        (decompress_checkpoint if back else compress_checkpoint)(path, replace=True)
    monkeypatch.undo()
    assert code == caught.value.errno
    assert 1 == len(str(caught.value).splitlines())
    assert ([path.name], before) == (names(tmp_path), sha256(path))


def test_a_full_disk_says_so_in_its_own_words(tmp_path: Path) -> None:
    """A limit on the size of files stands for it, in a process of its own."""
    path = written(tmp_path / "run.pth")
    script = (
        "import resource, signal, sys\n"
        "from koemorph_tutorial import compress_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "compress_checkpoint(sys.argv[1], replace=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert "run.shuffle.pth: could not be written: File too large; nothing that was there before is lost" in done.stderr
    assert (["run.pth"], 3) == (names(tmp_path), load_checkpoint(path)["epoch"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_somebody_who_may_only_read_gets_one_line() -> None:
    """A folder of another user's."""
    with tempfile.TemporaryDirectory() as folder:  # tmp_path cannot be entered by another user
        run = run_of(Path(folder) / "run")
        small = compress_checkpoint(written(run / "other.pth"), codec="gzip")
        before = names(run)
        for each in (Path(folder), run):
            each.chmod(0o755)
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads; ours only wait
            child = os.fork()
        if child == 0:  # all is imported: nobody may not even read Python
            os.setgid(65534)
            os.setuid(65534)
            said = []
            for call in (
                lambda: compress_older(run, 1),
                lambda: compress_checkpoint(run / "other.pth"),
                lambda: decompress_checkpoint(small, output=run / "back.pth"),
            ):
                try:
                    said.append(str(call()))
                except CheckpointError as error:
                    said.append(f"{type(error).__name__} {error}")
                except BaseException as error:
                    said.append(repr(error))
            os.write(writing, json.dumps(said).encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        with open(reading) as file:
            said = json.load(file)
        assert before == names(run)
    assert 3 == len(said)
    for line in said:
        assert line.startswith("CheckpointWriteError ")
        assert "could not be written: Permission denied; nothing that was there before is lost" in line


def test_ctrl_c_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clean-up is for BaseException."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    path = written(tmp_path / "run.pth")
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compress_checkpoint(path, replace=True)
    assert ["run.pth"] == names(tmp_path)


def meddling(monkeypatch: pytest.MonkeyPatch, meddle: Callable[[], object]) -> None:
    """Have somebody do something while a file is being packed."""
    pack = compression.pack

    def packed(*arguments: Any, **options: Any) -> None:
        pack(*arguments, **options)
        meddle()

    monkeypatch.setattr(compression, "pack", packed)


def test_a_source_that_vanishes_meanwhile_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is open; what is in it is in the new file."""
    path = written(tmp_path / "run.pth")
    meddling(monkeypatch, path.unlink)
    small = compress_checkpoint(path, replace=True)
    assert ([small.name], 3) == (names(tmp_path), load_checkpoint(small)["epoch"])


def test_a_source_that_is_another_file_by_now_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that takes no lock saves anew under the same name."""
    path = written(tmp_path / "run.pth")
    meddling(monkeypatch, lambda: written(path, epoch=7))
    with pytest.raises(
        CheckpointWriteError, match=r"expected the file that was read, found another one in its place; b"
    ):
        compress_checkpoint(path, replace=True)
    assert (7, 3) == (load_checkpoint(path)["epoch"], load_checkpoint(tmp_path / "run.shuffle.pth")["epoch"])


@pytest.mark.parametrize("codec", CODECS)
def test_a_source_that_is_written_to_meanwhile_gives_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: Codec
) -> None:
    """What would be read back is not what is there."""
    path = written(tmp_path / "run.pth")
    changed = _flip(path.read_bytes(), 3000, 1)
    meddling(monkeypatch, lambda: path.write_bytes(changed))
    with pytest.raises(CheckpointWriteError, match="what was read back is not what was compressed; nothing that was"):
        compress_checkpoint(path, codec=codec, replace=True)
    assert ["run.pth"] == names(tmp_path)


def test_a_packer_that_packs_wrongly_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was packed is unpacked and compared before it has its name: also where every checksum is right."""
    path, other = written(tmp_path / "run.pth"), written(tmp_path / "other.pth", epoch=5)
    pack = compression.pack
    with open(other, "rb") as file:
        monkeypatch.setattr(compression, "pack", lambda _, packed, codec, **options: pack(file, packed, codec))
        with pytest.raises(CheckpointWriteError, match="what was read back is not what was compressed"):
            compress_checkpoint(path, replace=True)
    assert ["other.pth", "run.pth"] == names(tmp_path)


def test_a_temporary_of_a_kill_is_swept_by_the_next_call(tmp_path: Path) -> None:
    """Under the lock; what somebody is writing stays."""
    run = run_of(tmp_path / "run")
    stale = run / ".checkpoint_epoch_000.shuffle.pth.123-0123abcd.tmp"
    stale.write_bytes(b"torn")
    compress_older(run, 4)
    assert not stale.exists()
    stale.write_bytes(b"torn")
    compress_checkpoint(run / numbered_name(3))
    assert not stale.exists()


# A run whose old files are compressed and unpacked again: every epoch must be there at every moment.


def train_and_tidy_up(directory: Path) -> None:
    """Save three epochs, compress all but the newest, unpack the oldest; started again go on from what is there."""
    sweep(directory)
    for epoch in range(3):
        if epoch not in _epochs(directory):
            save_checkpoint(_small(epoch), directory / numbered_name(epoch))
            saved(str(sorted(_epochs(directory).items())))
    compress_older(directory, 1)
    saved(str(sorted(_epochs(directory).items())))
    oldest = directory / numbered_name(0)
    decompress_checkpoint(oldest.with_name("checkpoint_epoch_000.shuffle.pth"), replace=True)
    saved(str(sorted(_epochs(directory).items())))


def what_is_there(directory: Path) -> str | None:
    """Return every epoch that can be loaded, with a digest of what it holds."""
    return str(sorted(_epochs(directory).items())) if _epochs(directory) else None


def _small(epoch: int) -> dict[str, Any]:
    place = {"epoch": epoch + 1, "batch": 0, "global_step": epoch}
    weights = {"weight": torch.arange(3000.0) + epoch}
    run = {"line": "line", "parent": None, "saves": epoch + 1}
    return {"format_version": 1, "run": run, "epoch": epoch, "position": place, "model_state_dict": weights}


def _epochs(directory: Path) -> dict[int, str]:
    return {file.epoch: digest(load_checkpoint(file.path)) for file in list_checkpoints(directory)}


def test_at_a_sample_of_all_moments_no_epoch_is_lost() -> None:
    """Killed, torn, a full disk, an error, the power cut; `make proof` tries every file operation of it all."""
    campaign = crash_test(train_and_tidy_up, what_is_there, max_points=4)
    assert campaign.not_ok == (), "\n".join(campaign.lines())
    assert {"open", "write", "fsync", "rename", "unlink"} <= {point.name for point in campaign.points}
    assert campaign.blind_spots == ()


def train_and_go_back_to_a_compressed_file(directory: Path) -> None:
    """Train four epochs, compress what no other name needs, go back to the third; started again go on where it is."""
    if any(directory.glob("*.pth")):
        example.train(directory, epochs=6)
    else:
        example.train(directory)
        compress_older(directory, 0, codec="gzip")
        example.train(directory, epochs=6, source=directory / "checkpoint_epoch_002.pth.gz")


def test_at_a_sample_of_all_moments_a_run_goes_back_to_a_compressed_file() -> None:
    """It is unpacked into names that a resume needs, one after the other; `make proof` tries every moment of that."""
    campaign = crash_test(train_and_go_back_to_a_compressed_file, example.recover, max_points=3)
    assert campaign.not_ok == (), "\n".join(campaign.lines())
