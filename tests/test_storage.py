"""One dict <-> names on a disk: at once or not at all, verified, with the disk's own words."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from koemorph_tutorial import list_checkpoints, load_checkpoint, save_checkpoint
from koemorph_tutorial.records import (
    CheckpointNotFoundError,
    CheckpointWriteError,
    DamagedCheckpointError,
    Position,
    UnsavableStateError,
    UnsupportedCheckpointError,
    numbered_name,
)
from koemorph_tutorial.storage import describe


def content(epoch: int = 3, saves: int = 4, line: str = "line", **more: Any) -> dict[str, Any]:
    """Return a small checkpoint of format version 1."""
    return {
        "format_version": 1,
        "run": {"line": line, "parent": None, "saves": saves},
        "epoch": epoch,
        "global_step": 10 * (epoch + 1),
        "position": {"epoch": epoch + 1, "batch": 0, "global_step": 10 * (epoch + 1)},
        "model_state_dict": {"weight": torch.arange(1000.0)},
        "metrics": {"loss": 0.5},
        **more,
    }


def names(directory: Path) -> list[str]:
    """Return the names in a directory, hidden ones included."""
    return sorted(os.listdir(directory))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    """Save and load are mirror images, also for torch alone."""
    file = save_checkpoint(content(), tmp_path / "last_model.pth")
    assert (3, Position(epoch=4, batch=0, global_step=40), "last", "line", 4) == (
        file.epoch,
        file.position,
        file.kind,
        file.line,
        file.saves,
    )
    for loaded in (load_checkpoint(file.path), torch.load(file.path, weights_only=True)):
        assert content()["model_state_dict"]["weight"].tolist() == loaded["model_state_dict"]["weight"].tolist()
        assert content()["position"] == loaded["position"]
    assert ["last_model.pth"] == names(tmp_path)


def test_also_names_are_links_to_the_same_bytes(tmp_path: Path) -> None:
    """One write, three names; saved twice it leaves no temporary behind."""
    for _ in range(2):
        save_checkpoint(content(), tmp_path / "best_model.pth", also=["checkpoint_epoch_003.pth", "last_model.pth"])
    assert ["best_model.pth", "checkpoint_epoch_003.pth", "last_model.pth"] == names(tmp_path)
    assert 1 == len({path.stat().st_ino for path in tmp_path.iterdir()})


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_without_hard_links_a_name_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int) -> None:
    """Some file systems know no links."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "link", refuse)
    save_checkpoint(content(), tmp_path / "best_model.pth", also=["last_model.pth"])
    assert ["best_model.pth", "last_model.pth"] == names(tmp_path)
    assert 2 == len({path.stat().st_ino for path in tmp_path.iterdir()})
    assert 3 == load_checkpoint(tmp_path / "last_model.pth")["epoch"]


def test_the_mode_follows_the_umask(tmp_path: Path) -> None:
    """A temporary file born 0600 would hide the checkpoint from the group."""
    before = os.umask(0o027)
    try:
        save_checkpoint(content(), tmp_path / "a.pth")
    finally:
        os.umask(before)
    assert "0o640" == oct((tmp_path / "a.pth").stat().st_mode & 0o777)


def test_checksums_are_written_whatever_torch_is_told(tmp_path: Path) -> None:
    """compute_crc32 = False would leave nothing to verify."""
    from torch.utils.serialization import config

    with config.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
        save_checkpoint(content(), tmp_path / "a.pth")
    assert 3 == load_checkpoint(tmp_path / "a.pth")["epoch"]


@pytest.mark.parametrize("call", ["fsync", "replace", "link"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_refusal_of_the_disk_carries_its_words_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    """Errno, path, what was there before: still there and sound, and no temporary left."""
    save_checkpoint(content(epoch=1, saves=1), tmp_path / "best_model.pth", also=["last_model.pth"])

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(CheckpointWriteError) as caught:
        save_checkpoint(content(epoch=2, saves=2), tmp_path / "best_model.pth", also=["last_model.pth"])
    monkeypatch.undo()
    assert code == caught.value.errno
    assert f"{tmp_path}/best_model.pth: could not be written: {os.strerror(code)}; nothing that was there" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)
    assert ["best_model.pth", "last_model.pth"] == names(tmp_path)
    assert 1 == load_checkpoint(tmp_path / "last_model.pth")["epoch"]


def test_a_disk_that_fills_while_torch_writes_says_so(tmp_path: Path) -> None:
    """torch.save hides the errno behind a RuntimeError; RLIMIT_FSIZE stands for the full disk (EFBIG)."""
    script = (
        "import resource, signal, sys, torch\n"
        "from koemorph_tutorial import save_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "save_checkpoint({'w': torch.zeros(10)}, sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "save_checkpoint({'w': torch.zeros(1_000_000)}, sys.argv[1])\n"
    )
    path = tmp_path / "last_model.pth"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert 1 == done.returncode
    assert f"{path}: could not be written: File too large; nothing that was there before is lost" in done.stderr
    assert 10 == load_checkpoint(path)["w"].numel()
    assert ["last_model.pth"] == names(tmp_path)


def test_ctrl_c_while_writing_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clean-up is for BaseException."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(content(), tmp_path / "a.pth")
    assert [] == names(tmp_path)


def test_an_unsavable_value_writes_nothing(tmp_path: Path) -> None:
    """The path inside the checkpoint is named, the disk untouched."""
    with pytest.raises(UnsavableStateError, match=r"extra\.where: .* found pathlib\.\w*PosixPath; nothing was saved"):
        save_checkpoint(content(extra={"where": Path("x")}), tmp_path / "a.pth")
    assert [] == names(tmp_path)


# -- loading: one line for whatever is not a checkpoint ----------------------------------------------------------------


class Hostile:
    """A pickle that would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def bad_files(tmp_path: Path) -> dict[str, tuple[Path, type[Exception], str]]:
    """Return files that are no sound checkpoint, with the error and the words that each must get."""
    sound = tmp_path / "sound.pth"
    save_checkpoint(content(), sound)
    data = sound.read_bytes()
    middle = len(data) // 2

    def write(name: str, content_: bytes) -> Path:
        (tmp_path / name).write_bytes(content_)
        return tmp_path / name

    def pickled(name: str, value: Any) -> Path:
        torch.save(value, tmp_path / name)
        return tmp_path / name

    return {
        "missing": (tmp_path / "no.pth", CheckpointNotFoundError, "found nothing of that name; check the path"),
        "directory": (tmp_path, DamagedCheckpointError, "found a directory; name a file in it"),
        "empty": (write("empty.pth", b""), DamagedCheckpointError, "found an empty file"),
        "text": (
            write("text.pth", b"hello world\n"),
            DamagedCheckpointError,
            "found a file that begins with b'hello wo'",
        ),
        "truncated": (write("cut.pth", data[:-100]), DamagedCheckpointError, "the file is cut short"),
        "flipped bit": (
            write("bit.pth", data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]),
            DamagedCheckpointError,
            "is damaged: expected CRC32 ",
        ),
        "newer format": (
            pickled("new.pth", {**content(), "format_version": 99}),
            UnsupportedCheckpointError,
            "expected format_version 1 or older, found 99; it was written by a newer koemorph-tutorial: update",
        ),
        "a tensor": (pickled("tensor.pth", torch.zeros(2)), UnsupportedCheckpointError, "found a tensor"),
        "a class": (
            pickled("class.pth", {"epoch": 1, "model": torch.nn.Linear(1, 1)}),
            UnsupportedCheckpointError,
            "torch.nn.modules.linear.Linear",
        ),
        "hostile": (
            pickled("hostile.pth", {"epoch": 1, "metrics": Hostile(tmp_path / "ran")}),
            UnsupportedCheckpointError,
            "found posix.system; refused, because to open it would be to run code that the file names",
        ),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "directory",
        "empty",
        "text",
        "truncated",
        "flipped bit",
        "newer format",
        "a tensor",
        "a class",
        "hostile",
    ],
)
def test_what_is_no_sound_checkpoint_gets_one_line(tmp_path: Path, kind: str) -> None:
    """Which file, what was expected, what was found; and nothing in it runs."""
    path, error, words = bad_files(tmp_path)[kind]
    with pytest.raises(error) as caught:
        load_checkpoint(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_flipped_bit_loads_only_where_it_is_asked_for(tmp_path: Path) -> None:
    """verify=False is torch.load: it says nothing."""
    path, *_ = bad_files(tmp_path)["flipped bit"]
    assert (
        content()["model_state_dict"]["weight"].tolist()
        != load_checkpoint(path, verify=False)["model_state_dict"]["weight"].tolist()
    )


def test_numpy_numbers_load_in_the_old_format_only(tmp_path: Path) -> None:
    """The recipe's metrics hold them; version 1 never does."""
    torch.save({"epoch": 3, "metrics": {"loss": np.float64(0.5), "n": np.int64(3)}}, tmp_path / "old.pth")
    assert {"loss": 0.5, "n": 3} == load_checkpoint(tmp_path / "old.pth")["metrics"]
    assert {"loss": 0.5, "n": 3.0} == describe(tmp_path / "old.pth").metrics
    torch.save({**content(), "metrics": {"loss": np.float64(0.5)}}, tmp_path / "new.pth")
    with pytest.raises(
        UnsupportedCheckpointError, match=r"found numpy\._core\.multiarray\.scalar, numpy\.dtype; refused"
    ):
        load_checkpoint(tmp_path / "new.pth")


# -- listing -----------------------------------------------------------------------------------------------------------


def test_newest_is_the_one_with_the_most_saves(tmp_path: Path) -> None:
    """Whatever the clock, the copy and the names say."""
    for epoch, saves in ((9, 1), (2, 3), (1200, 2)):
        save_checkpoint(content(epoch=epoch, saves=saves), tmp_path / numbered_name(epoch))
        os.utime(tmp_path / numbered_name(epoch), (10**9 - saves, 10**9 - saves))
    assert [2, 1200, 9] == [file.epoch for file in list_checkpoints(tmp_path)]


def test_what_is_ignored_is_said(tmp_path: Path) -> None:
    """Damaged headers, another line's files, names that only look like ours; other files are nobody's business."""
    save_checkpoint(content(saves=5), tmp_path / "last_model.pth")
    save_checkpoint(content(saves=9, line="other"), tmp_path / "best_model.pth")
    (tmp_path / "checkpoint_epoch_001.pth").write_bytes(b"torn")
    for odd in ("checkpoint_epoch_abc.pth", "checkpoint_epoch_-01.pth", "checkpoint_epoch_1e3.pth", "notes.txt"):
        (tmp_path / odd).write_text("x")
    (tmp_path / "checkpoint_epoch_002.pth").symlink_to(tmp_path / "nowhere")
    listing = list_checkpoints(tmp_path)
    assert ["last_model.pth"] == [file.path.name for file in listing]
    ignored = {name: str(error) for name, error in listing.ignored}
    assert "belongs to another line of runs (other)" == ignored["best_model.pth"]
    assert "found a file that begins with b'torn'" in ignored["checkpoint_epoch_001.pth"]
    assert "checkpoint_epoch_002.pth: expected a checkpoint file" in ignored["checkpoint_epoch_002.pth"]
    assert {"not a name that this library writes"} == {
        ignored[f"checkpoint_epoch_{odd}.pth"] for odd in ("abc", "-01", "1e3")
    }
    assert "notes.txt" not in ignored


def test_the_recipes_files_are_ordered_by_epoch(tmp_path: Path) -> None:
    """Version 0 has no count of saves; its next batch is that of the next epoch."""
    for epoch in (1, 10, 2):
        torch.save({"epoch": epoch, "global_step": epoch * 5}, tmp_path / numbered_name(epoch))
    listing = list_checkpoints(tmp_path)
    assert [10, 2, 1] == [file.epoch for file in listing]
    assert Position(epoch=11, batch=0, global_step=50) == listing[0].position


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_directory_that_cannot_be_listed_is_an_error(tmp_path: Path, kind: str) -> None:
    """Path.glob would return nothing, and the run would silently start from zero."""
    if kind == "file":
        (tmp_path / "runs").write_text("x")
    with pytest.raises(CheckpointNotFoundError, match="expected a directory of checkpoints, found: "):
        list_checkpoints(tmp_path / "runs")


def test_listing_loads_no_torch(tmp_path: Path) -> None:
    """A directory can be asked in a fraction of the time that importing torch takes."""
    save_checkpoint(content(), tmp_path / "last_model.pth")
    script = (
        "import sys\nfrom koemorph_tutorial.storage import list_checkpoints\n"
        "(file,) = list_checkpoints(sys.argv[1])\nassert file.epoch == 3 and file.metrics == {'loss': 0.5}\n"
        "assert not {'torch', 'numpy'} & set(sys.modules), 'loaded'\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)


def test_a_hostile_pickle_is_described_and_not_run(tmp_path: Path) -> None:
    """A listing reads headers of files that nobody vouched for."""
    with (tmp_path / "x").open("wb") as file:
        pickle.dump(Hostile(tmp_path / "ran"), file)
    torch.save({"epoch": 1, "metrics": Hostile(tmp_path / "ran")}, tmp_path / "last_model.pth")
    (file_,) = list_checkpoints(tmp_path)
    assert 1 == file_.epoch
    assert not (tmp_path / "ran").exists()


def test_a_listing_reads_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of one save share their header, and what has not changed is not read again; what has changed is."""
    from koemorph_tutorial import storage

    save_checkpoint(content(epoch=1, saves=1), tmp_path / "best_model.pth", also=[numbered_name(1)])
    save_checkpoint(content(epoch=2, saves=2), tmp_path / "last_model.pth")
    read: list[str] = []
    original = storage.read_header

    def noted(path: Path) -> Any:
        read.append(path.name)
        return original(path)

    monkeypatch.setattr(storage, "read_header", noted)
    before = list_checkpoints(tmp_path)
    assert ["last_model.pth", numbered_name(1), "best_model.pth"] == [file.path.name for file in before]
    assert [] == read
    save_checkpoint(content(epoch=3, saves=3), tmp_path / "last_model.pth")
    (tmp_path / "best_model.pth").write_bytes(b"torn")
    listing = list_checkpoints(tmp_path)
    assert (3, {"best_model.pth", numbered_name(1)}) == (listing[0].epoch, {name for name, _ in listing.ignored})


def test_a_number_that_no_float_can_hold_is_no_metric(tmp_path: Path) -> None:
    """A listing survives whatever stands in a header."""
    torch.save({**content(), "metrics": {"loss": 10**400, "mae": 2}}, tmp_path / "last_model.pth")
    assert {"mae": 2.0} == describe(tmp_path / "last_model.pth").metrics
