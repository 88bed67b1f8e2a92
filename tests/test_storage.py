"""One dict <-> names on a disk: at once or not at all, verified, with the disk's own words."""

from __future__ import annotations

import errno
import io
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from koemorph_tutorial import (
    CheckpointManager,
    archive,
    compress_checkpoint,
    compression,
    diff_checkpoints,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
    validate_checkpoint,
)
from koemorph_tutorial.durable import write_file
from koemorph_tutorial.header import read_header
from koemorph_tutorial.listing import _MOST_DESCRIBED
from koemorph_tutorial.records import (
    CheckpointNotFoundError,
    CheckpointWriteError,
    Codec,
    DamagedCheckpointError,
    NewerFormatError,
    Position,
    UnsavableStateError,
    UnsupportedCheckpointError,
    numbered_name,
)
from koemorph_tutorial.resume import find
from koemorph_tutorial.storage import describe
from koemorph_tutorial.unpacked import CONTENTS
from tests import disks


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


def test_a_name_given_twice_leaves_no_temporary(tmp_path: Path) -> None:
    """A rename between two names of one file does nothing, and would leave the first."""
    for _ in range(2):
        save_checkpoint(content(), tmp_path / "last_model.pth", also=["last_model.pth", "a.pth", "a.pth"])
    assert ["a.pth", "last_model.pth"] == names(tmp_path)
    assert 1 == len({path.stat().st_ino for path in tmp_path.iterdir()})


@pytest.fixture(params=[0o022, 0o077, 0o002, 0o027], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set the umask of this process for one test."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_file_modes_follow_the_umask(tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary file born 0600 would hide the checkpoint from the group: what is written, linked, copied."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    save_checkpoint(content(), tmp_path / "written.pth", also=["linked.pth"])
    write_file(tmp_path / "config.yaml", lambda file: file.write(b"seed: 1"))
    monkeypatch.setattr(os, "link", refuse)
    save_checkpoint(content(), tmp_path / "written again.pth", also=["copied.pth"])
    modes = {path.name: oct(path.stat().st_mode & 0o7777) for path in tmp_path.iterdir()}
    assert dict.fromkeys(modes, oct(0o666 & ~umask)) == modes
    assert 5 == len(modes)


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
    name = "last_model.pth" if call == "link" else "best_model.pth"
    words = f"{tmp_path}/{name}: could not be written: {os.strerror(code)}; nothing that was there"
    assert str(caught.value).startswith(words)
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


# -- disks that are full, read-only, without hard links; every point by `make proof` ------------------------


def test_a_training_fills_a_disk_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """One line with the disk's own words; every epoch saved before is sound, no temporary is left."""
    sizes = (48, 200, 1024)  # too small for one save, for three, for thirteen
    assert 3 == disks.assert_full_disks_lost_nothing(disks.seen_by_a_child("trained_until_full", tmp_path, *sizes))


@pytest.mark.parametrize(("unit", "amounts", "refused"), [("KiB", (0, 4, 44, 128), 3), ("names", (0, 1, 8), 2)])
def test_a_disk_that_somebody_else_has_filled(
    tmp_path: Path, unit: str, amounts: tuple[int, ...], refused: int
) -> None:
    """There may be no room for the bytes, or for one more name."""
    outcomes = disks.seen_by_a_child("full", tmp_path, unit, *amounts)
    assert refused == disks.assert_full_disks_lost_nothing(outcomes)


def test_a_disk_that_is_mounted_read_only(tmp_path: Path) -> None:
    """Going on, a new run and a single save: one line each; writable again, the run goes on."""
    *refused, again = disks.seen_by_a_child("read_only", tmp_path)
    assert_refused(refused, errno.EROFS)
    assert (None, 5) == (again["error"], again["left"]["epochs"]["last_model.pth"])


def test_a_directory_of_another_user() -> None:
    """Who may only read gets one line, whatever they try; who may not even look, one that does not say "none"."""
    with tempfile.TemporaryDirectory() as folder:  # tmp_path cannot be entered by another user
        directory = Path(folder)
        directory.chmod(0o755)
        outcomes = disks.seen_by_a_child("another_user", directory, mounts=False)
        (directory / "run").chmod(0o755)
        (directory / "locked").chmod(0o755)
    assert_refused(outcomes[:3], errno.EACCES)
    assert 4 == len(outcomes[3:])
    for outcome in outcomes[3:]:
        assert outcome["error"]["line"].startswith(f"{outcome['path']}: ")
        assert ": Permission denied; " in outcome["error"]["line"]
        assert "\n" not in outcome["error"]["line"]


def assert_refused(outcomes: list[disks.Outcome], code: int) -> None:
    """Check that a run of three epochs refused to be written, in the disk's words, and is what it was."""
    assert 3 == len(outcomes)
    for outcome in outcomes:
        assert ("CheckpointWriteError", code) == (outcome["error"]["kind"], outcome["error"]["errno"])
        assert f": could not be written: {os.strerror(code)}; " in outcome["error"]["line"]
        assert "\n" not in outcome["error"]["line"]
        assert {
            "epochs": {
                "last_model.pth": 2,
                "checkpoint_epoch_002.pth": 2,
                "best_model.pth": 2,
                "checkpoint_epoch_001.pth": 1,
            },
            "unsound": [],
            "litter": [],
        } == outcome["left"]


@pytest.mark.skipif(not disks.can_refuse_links(), reason="no filter of system calls is known for this machine")
def test_a_kernel_that_refuses_every_hard_link(tmp_path: Path) -> None:
    """No file system without links can be mounted here, so a filter of system calls stands for it: names are copies."""
    link, first, second = disks.seen_by_a_child("without_links", tmp_path, mounts=False)
    assert {"errno": errno.EPERM} == link
    assert (None, [], [], 2) == (
        first["error"],
        first["left"]["unsound"],
        first["left"]["litter"],
        first["left"]["epochs"]["last_model.pth"],
    )
    assert (None, [], []) == (second["error"], second["left"]["unsound"], second["left"]["litter"])
    newest = ["last_model.pth", "checkpoint_epoch_005.pth", "best_model.pth"]
    assert dict.fromkeys(newest, 5) | {"checkpoint_epoch_004.pth": 4} == second["left"]["epochs"]
    assert 3 == len({(tmp_path / "run" / name).stat().st_ino for name in newest})


@pytest.mark.parametrize("place", ["run", "run/below"])
def test_a_checkpoint_directory_that_is_a_file(tmp_path: Path, place: str) -> None:
    """One line, and the file is what it was."""
    (tmp_path / "run").write_text("mine")
    error = disks.train(tmp_path / place, 1)
    assert error is not None
    assert str(tmp_path / place) in error["line"]
    assert "Not a directory" in error["line"]
    assert "\n" not in error["line"]
    assert "mine" == (tmp_path / "run").read_text()


def test_a_save_of_the_recipe_over_ours_is_noticed(tmp_path: Path) -> None:
    """torch.save writes in place, so all three names of the newest save hold it: an older one is taken."""
    run = tmp_path / "run"
    assert disks.train(run, 3) is None
    foreign = {"epoch": 2, "model_state_dict": {"weight": torch.full((256, 64), 77.0)}, "loss": 0.1}
    torch.save(foreign, run / "last_model.pth")
    assert 77 == torch.load(run / "best_model.pth")["model_state_dict"]["weight"][0, 0]
    model = torch.nn.Linear(64, 256, bias=False)
    with CheckpointManager(run, {"model": model}) as checkpoints:
        resumed = checkpoints.resume()
    assert resumed.file is not None
    assert ("checkpoint_epoch_001.pth", 2) == (resumed.file.path.name, resumed.position.epoch)
    assert bool((model.weight == 1).all())
    assert {"last_model.pth", "best_model.pth", "checkpoint_epoch_002.pth"} == {n for n, _ in resumed.passed_over}
    assert all("something else has written over it" in why for _, why in resumed.passed_over)


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


def test_look_alikes_are_neither_used_nor_removed(tmp_path: Path) -> None:
    """What is not ours stays as it is, whatever retention does."""
    run = tmp_path / "run"
    run.mkdir()
    odd = ["checkpoint_epoch_-01.pth", "checkpoint_epoch_1e3.pth", "checkpoint_epoch_abc.pth"]
    for name in odd:
        shutil.copy(save_checkpoint(content(epoch=9000, saves=9000), tmp_path / "other.pth").path, run / name)
    assert disks.train(run, 4) is None
    listing = list_checkpoints(run)
    assert {2, 3} == {file.epoch for file in listing}
    assert odd == sorted(name for name, _ in listing.ignored)
    assert set(odd) <= set(names(run))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoints of a run: five numbered ones, of which the newest is last and best as well."""
    run = tmp_path_factory.mktemp("a run") / "run"
    assert disks.train(run, 5, keep_last_n=None) is None
    return run


FILES = ("best_model.pth", "last_model.pth", *map(numbered_name, range(5)))


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["touch", "cp", "cp -p", "mv"]), st.sampled_from(FILES), st.integers(0, 2**31)),
        max_size=20,
    ),
    order=st.permutations(FILES),
)
def test_cp_and_touch_in_any_order_change_nothing_about_what_is_newest(
    trained: Path, steps: list[tuple[str, str, int]], order: list[str]
) -> None:
    """Newest is what the files themselves say: copied one by one, in any order, with any times and inodes."""
    before = [(file.path.name, file.epoch, file.saves) for file in list_checkpoints(trained)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in order:
            shutil.copy(trained / name, copy / name)  # cp -r: no name is a link any more, times are those of the copy
        for step, name, seconds in steps:
            path, aside = copy / name, copy / "aside"
            if step == "touch":
                os.utime(path, (seconds, seconds))
            else:
                {"cp": shutil.copy, "cp -p": shutil.copy2, "mv": os.rename}[step](path, aside)
                aside.replace(path)
        listing = list_checkpoints(copy)
        assert before == [(file.path.name, file.epoch, file.saves) for file in listing]
        assert 4 == load_checkpoint(listing[0].path)["epoch"]


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
    save_checkpoint(content(epoch=1, saves=1), tmp_path / "best_model.pth", also=[numbered_name(1)])
    save_checkpoint(content(epoch=2, saves=2), tmp_path / "last_model.pth")
    read: list[str] = []

    def noted(path: Path, *, whole: bool) -> Any:
        read.append(path.name)
        return read_header(path, whole=whole)

    monkeypatch.setattr("koemorph_tutorial.listing.read_header", noted)
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


# -- compressed files --------------------------------------------------------------------------------------------------

CODECS: tuple[Codec, ...] = ("gzip", "zstd", "shuffle-zstd")


def put(directory: Path, epoch: int, codec: Codec | None = None, **more: Any) -> Path:
    """Save a numbered checkpoint, compressed if a codec is named."""
    path = save_checkpoint(content(epoch=epoch, saves=epoch + 1, **more), directory / numbered_name(epoch)).path
    return path if codec is None else compress_checkpoint(path, codec=codec, replace=True)


def test_compressed_files_are_listed_like_plain_ones(tmp_path: Path) -> None:
    """By what is in them: their epoch, their saves, their codec, and the room that they take."""
    paths = [put(tmp_path, epoch, codec) for epoch, codec in enumerate([None, *CODECS])]
    listing = list_checkpoints(tmp_path)
    expected = [(3, "shuffle-zstd"), (2, "zstd"), (1, "gzip"), (0, None)]
    assert expected == [(file.epoch, file.codec) for file in listing]
    assert [path.stat().st_size for path in reversed(paths)] == [file.size for file in listing]
    assert [path.stat().st_ino for path in reversed(paths)] == [file.inode for file in listing]
    assert {("numbered", "line", 0.5)} == {(file.kind, file.line, file.metrics["loss"]) for file in listing}
    assert () == listing.ignored


@pytest.mark.parametrize("codec", CODECS)
def test_a_listing_reads_the_beginning_of_a_compressed_file(tmp_path: Path, codec: Codec) -> None:
    """So it costs no more than of a plain one; and a damaged end is found by whoever loads it."""
    path = put(tmp_path, 3, codec, extra={"noise": torch.randn(300_000)})
    path.write_bytes(path.read_bytes()[:1_000_000])
    assert [3] == [file.epoch for file in list_checkpoints(tmp_path)]
    with pytest.raises(DamagedCheckpointError):
        load_checkpoint(path)


def test_a_plain_file_wins_over_compressed_ones_beside_it(tmp_path: Path) -> None:
    """One of an epoch counts; the others are said, and are there where that one turns out to be damaged."""
    for codec in CODECS:
        compress_checkpoint(put(tmp_path, 3), codec=codec)
    listing = list_checkpoints(tmp_path)
    assert [numbered_name(3)] == [file.path.name for file in listing]
    others = ["checkpoint_epoch_003.pth.gz", "checkpoint_epoch_003.pth.zst", "checkpoint_epoch_003.shuffle.pth"]
    said = {name: str(why) for name, why in listing.ignored}
    assert dict.fromkeys(others, "checkpoint_epoch_003.pth lies beside it, and a plain file wins") == said
    assert set(others) == {file.path.name for file in listing.spare}
    (tmp_path / numbered_name(3)).unlink()
    listing = list_checkpoints(tmp_path)
    assert [others[0]] == [file.path.name for file in listing]
    assert f"{others[0]} lies beside it, and one of an epoch is enough" == str(listing.ignored[0][1])


@pytest.mark.parametrize("damage", ["header", "weights"])
def test_a_compressed_file_stands_in_for_a_damaged_plain_one(tmp_path: Path, damage: str) -> None:
    """The same epoch is still there; nobody goes back to an older one."""
    put(tmp_path, 2)
    path = put(tmp_path, 3)
    small = compress_checkpoint(path)
    data = path.read_bytes()
    at = len(data) // 2 if damage == "weights" else 0
    path.write_bytes(data[:at] + b"torn" + data[at + 4 :])
    found = find(tmp_path)
    assert (small, 3) == (found.file.path, found.checkpoint["epoch"])
    assert [numbered_name(3)] == [name for name, _ in found.passed_over]


def test_what_a_file_is_its_bytes_say(tmp_path: Path) -> None:
    """A name that says another codec, or none: it can be used as it is, so it is."""
    put(tmp_path, 2, "gzip").rename(tmp_path / numbered_name(2))
    put(tmp_path, 3).rename(tmp_path / "checkpoint_epoch_003.pth.zst")
    put(tmp_path, 4, "zstd").rename(tmp_path / "checkpoint_epoch_004.shuffle.pth")
    listing = list_checkpoints(tmp_path)
    assert [(4, "zstd"), (3, None), (2, "gzip")] == [(file.epoch, file.codec) for file in listing]
    assert [4, 3, 2] == [load_checkpoint(file.path)["epoch"] for file in listing]


def test_damage_of_a_compressed_file_is_said_where_a_listing_sees_it(tmp_path: Path) -> None:
    """Its beginning; and a name that this library would not write."""
    put(tmp_path, 1)
    torn = tmp_path / "checkpoint_epoch_002.pth.gz"
    torn.write_bytes(put(tmp_path, 2, "gzip").read_bytes()[:40])
    (tmp_path / "checkpoint_epoch_2.pth.gz").write_bytes(b"x")
    listing = list_checkpoints(tmp_path)
    assert [1] == [file.epoch for file in listing]
    ignored = dict(listing.ignored)
    assert isinstance(ignored[torn.name], DamagedCheckpointError)
    assert str(ignored[torn.name]).startswith(f"{torn}: ")
    assert "not a name that this library writes" == str(ignored["checkpoint_epoch_2.pth.gz"])


def test_the_recipes_files_are_not_taken_for_foreign_once_they_are_compressed(tmp_path: Path) -> None:
    """A run that goes on from them lies beside them: an epoch's name is that of its plain file."""
    for epoch in (0, 1):
        torch.save({"epoch": epoch, "model_state_dict": {"w": torch.zeros(9)}}, tmp_path / numbered_name(epoch))
        compress_checkpoint(tmp_path / numbered_name(epoch), codec="gzip", replace=True)
    put(tmp_path, 2)
    listing = list_checkpoints(tmp_path)
    assert ([2, 1, 0], ()) == ([file.epoch for file in listing], listing.ignored)


def test_a_load_unpacks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Header, checksums and torch read the same bytes; what is done with is gone from memory."""
    path = put(tmp_path, 3, "zstd")
    unpacked: list[str] = []
    original = compression.unpack

    def noted(file: Any, codec: Codec, path: Path) -> Any:
        unpacked.append(codec)
        return original(file, codec, path)

    monkeypatch.setattr("koemorph_tutorial.archive.unpack", noted)
    for ask in (load_checkpoint, validate_checkpoint, lambda path: diff_checkpoints(path, path)):
        ask(path)
        assert (["zstd"], 0) == (unpacked, len(CONTENTS))
        unpacked.clear()


def test_what_is_loaded_is_what_was_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save puts a good file in the place of one that must not be loaded, right after it was opened."""
    path, other = tmp_path / "run.pth", tmp_path / "other.pth"
    torch.save({"format_version": 99}, path)
    save_checkpoint({"epoch": 3}, other)
    opened = archive.open_file

    def replaced(asked: Path) -> Any:
        file = opened(asked)
        if other.exists():
            other.replace(path)
        return file

    monkeypatch.setattr(archive, "open_file", replaced)
    with pytest.raises(NewerFormatError, match="found 99"):
        load_checkpoint(path)
    assert {"epoch": 3} == load_checkpoint(path)


def test_a_file_that_came_and_went_says_nothing_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was read, and not there before and after that: nobody knows which file it was."""
    path = save_checkpoint({"epoch": 3}, tmp_path / "run.pth").path
    with monkeypatch.context() as late:
        late.setattr("koemorph_tutorial.listing.read_header", lambda _, **how: read_header(path, **how))
        assert 3 == describe(tmp_path / "gone.pth").epoch
    with pytest.raises(CheckpointNotFoundError, match="found nothing of that name"):
        describe(tmp_path / "nowhere.pth")


def test_a_directory_of_ten_thousand_files_is_remembered_whole() -> None:
    """A list that forgets the first before it has come to the last reads all of them at every save."""
    assert _MOST_DESCRIBED > 10_000


def test_a_file_with_the_number_the_size_and_the_time_of_another_is_read_anew(tmp_path: Path) -> None:
    """As a copy that keeps times may have, where the disk gives a number out again: what was known is not believed."""
    path = tmp_path / "run.pth"
    for epoch in (3, 4):
        data = io.BytesIO()
        torch.save({"epoch": epoch}, data)
        with open(path, "r+b" if path.exists() else "wb") as file:  # in place: the same number
            file.write(data.getvalue())
        os.utime(path, (1, 1))
        assert epoch == describe(path).epoch
