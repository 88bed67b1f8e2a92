"""Whatever a file was made to do, no door of the library runs it, hangs, takes the memory, or tells a secret.

The files: tests/hostile.py. All of them are tried at every door in one process, which is watched: tests/siege.py.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from koemorph_tutorial import load_checkpoint
from koemorph_tutorial.header import Header, read_header
from koemorph_tutorial.inference import load_weights
from koemorph_tutorial.records import CheckpointError
from koemorph_tutorial.streams import zstd
from koemorph_tutorial.stubs import StorageStub, TensorStub
from koemorph_tutorial.tensors import TensorReader
from koemorph_tutorial.unpickling import Name, Opaque
from koemorph_tutorial.validation import validate_checkpoint

from . import hostile
from .comparing import difference
from .forging import twin_of
from .siege import MOST

TOLD = "the-answer-is-42"
ROOT = Path(__file__).resolve().parent.parent


class Siege:
    """The folder of all kinds of files, and what happened at each door with each of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.proof = folder / "a/b", folder / "proof"
        self.folder.mkdir(parents=True)
        self.paths: dict[str, Path] = {}
        for name, make in hostile.KINDS.items():
            made = make(self.folder, self.proof)
            path = self.paths[name] = made.rename(made.with_name(name + made.suffix))
            run = self.folder / f"run of {path.name}"
            run.mkdir()
            os.link(path, run / "last_model.pth", follow_symlinks=False)
            twin_of(path)
        hostile.torch_file(self.folder / "sound.pth", hostile.bait())
        (self.folder / "run of sound.pth").mkdir()
        before = sorted(folder.rglob("*"))
        done = subprocess.run(
            [sys.executable, "-m", "tests.siege"],
            input="\n".join(map(str, self.paths.values())),
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=240,
            env={**os.environ, hostile.SECRET: TOLD},
        )
        self.tries = [json.loads(line) for line in done.stdout.splitlines()]
        self.ended = f"{done.returncode} at {done.stderr.splitlines()[-1:]}"
        self.left = sorted(set(folder.rglob("*")) - set(before))

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return what happened with one kind."""
        return [attempt for attempt in self.tries if attempt["file"] == self.paths[kind].name]

    def said(self, kind: str, door: str) -> str:
        """Return what was said of it at one door."""
        (said,) = [attempt["said"] for attempt in self.of(kind) if attempt["door"] == door]
        return str(said)


@pytest.fixture(scope="module")
def siege() -> Iterator[Siege]:
    """Return all of it: made once, for all tests."""
    with tempfile.TemporaryDirectory(prefix="koemorph-siege-") as folder:
        yield Siege(Path(folder))


def verdict(path: Path) -> str:
    """Return the verdict on a file, or the refusal."""
    try:
        return validate_checkpoint(path).verdict
    except CheckpointError as error:
        return str(error)


# -------------------------------------------------------------------------------------------------- the files are armed


@pytest.mark.parametrize("make", hostile.RUNS, ids=lambda make: make.__name__)
def test_an_ordinary_unpickler_would_have_run_it(
    make: hostile.Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the files are what they are said to be: torch.load(weights_only=False) tells the secret."""
    proof = tmp_path / "proof"
    path = make(tmp_path, proof)
    monkeypatch.setenv(hostile.SECRET, TOLD)
    try:
        torch.load(path, weights_only=False)
    except Exception as error:  # some fail, after they have run
        failed = f"{type(error).__name__}: {error}"
        assert "No module" not in failed
    assert TOLD == proof.read_text()


@pytest.mark.parametrize("make", hostile.PACKED_RUNS, ids=lambda make: make.__name__)
def test_the_recipes_reader_would_have_run_it(
    make: hostile.Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unpacked and handed to pickle, as its function for compressed checkpoints does."""
    proof = tmp_path / "proof"
    path = make(tmp_path, proof)
    monkeypatch.setenv(hostile.SECRET, TOLD)
    data = path.read_bytes()
    pickle.loads(gzip.decompress(data) if make is hostile.recipes_gzip else zstd().decompress(data))
    assert TOLD == proof.read_text()


# ---------------------------------------------------------------------------------------------------- nothing gives way


def test_the_process_that_tried_it_all_lived_to_the_end(siege: Siege) -> None:
    """It was neither killed nor did it hang; every file met every door."""
    assert siege.ended.startswith("0 "), siege.ended
    assert set(siege.paths) == {kind for kind in siege.paths if len(siege.of(kind)) >= 20}


def test_nothing_ran_and_nothing_was_written(siege: Siege) -> None:
    """No file is there that was not there before, within the folder or above it."""
    assert not siege.proof.exists()
    assert [] == siege.left


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_no_door_gives_way(siege: Siege, kind: str) -> None:
    """Each returns, or refuses in one line; nothing is started, written or asked; bounded in time and memory."""
    assert siege.of(kind)
    for attempt in siege.of(kind):
        assert attempt["outcome"] in ("returned", "refused"), attempt
        assert [] == attempt["seen"], attempt
        assert attempt["seconds"] < 5, attempt
        assert attempt["peak"] < MOST, attempt
        assert TOLD not in attempt["said"], attempt
        if attempt["outcome"] == "refused":
            assert 1 == len(attempt["said"].splitlines()), attempt
        if attempt["outcome"] == "refused" or attempt["door"].startswith("koemorph"):  # what a terminal shows
            assert [] == [c for c in attempt["said"] if not c.isprintable() and c != "\n"], attempt


def test_the_command_line_gives_each_file_a_verdict_in_one_line(siege: Siege) -> None:
    """One process for all of them, as somebody would look through a download."""
    files = [path for kind, path in siege.paths.items() if path.is_file()]
    command = [sys.executable, "-m", "koemorph_tutorial", "validate", *map(str, files)]
    limited = {**os.environ, hostile.SECRET: TOLD}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120, env=limited)
    assert (1, "") == (done.returncode, done.stderr)
    lines = [line for line in done.stdout.splitlines() if line.startswith(f"{siege.folder}{os.sep}")]
    said = {Path(line.partition(": ")[0]): line.partition(": ")[2] for line in lines}
    assert files == list(said)
    assert {"sound", "damaged", "incomplete", "cannot tell"} >= {line.partition(":")[0] for line in said.values()}
    assert TOLD not in done.stdout


# ---------------------------------------------------------------------------------------------------------- it is named

NAMES = {  # what the verdict says of each
    "os_system": r"posix\.system",
    "evaluated_text": r"builtins\.eval",
    "executed_text": r"builtins\.exec",
    "functools_partial": r"functools\.partial, posix\.system",
    "getattr_chain": r"builtins\.__import__, builtins\.getattr",
    "nested_torch_load": r"torch\.serialization\.load",
    "function_of_torch": r"torch\.utils\.collect_env\.run",
    "function_of_numpy": r"numpy\.testing\._private\.utils\.runstring",
    "legacy_pickle": r"posix\.system",
    "plain_pickle": "a plain pickle",
    "pickle_among_metrics": r"posix\.system",
    "pickle_as_epoch": r"posix\.system",
    "whole_module": r"tests\.hostile\.HostileModel",
    "module_in_state": r"tests\.hostile\.HostileModel",
    "torchscript_data": r"posix\.system",
    "entry_twice": "twice",
    "storage_twice": "twice",
    "names_that_climb": r"record '.*proof': .* leads out of it",
    "folder_that_climbs": "leads out of it",
    "zip_bomb": "compressed",
    "header_bomb": "compressed",
    "torchscript_bomb": "zip bomb",
    "safetensors_endless_header": "9,223,372,036,854,775,808 bytes",
    "safetensors_overlap": "begins at byte 20 of the data, not at 24",
    "safetensors_claim": "10,000,000,093, and the file at 97",
    "safetensors_twice": "twice",
    "claimed_shape": r"model_state_dict\.weight: .* 10,000,000,000 of 24",
    "claimed_storage": "24 bytes in record '0' where it says 10,000,000,000",
    "recipes_gzip": "a plain pickle, as gzip and pickle.dump write it",
    "recipes_zstd": "a plain pickle, as gzip and pickle.dump write it",
    "hostile_in_gzip": r"posix\.system",
    "hostile_in_planes": r"posix\.system",
    "gzip_bomb": "in the gzip file, found a file that begins with b'.x00",
    "zstd_bomb": r"unpack to 30,000,000,000 or more \(a bomb\?\); do not unpack",
    "planes_beyond_all": r"unpack to 1(,000){10} or more \(a bomb\?\); do not unpack",
    "gzip_of_noise": "in the gzip file, found a file that begins with b'",
    "gzip_in_gzip": "in the gzip file, found a gzip file",
    "two_members": "nothing behind the end of the gzip stream",
    "compressed_named_plain": "compressed by gzip: .*; its name says nothing of it",
    "config_interpolation": r"config\.[a-z_.]+ is \$\{oc\.env:KOEMORPH_TEST_SECRET\}",
}


@pytest.mark.parametrize("kind", NAMES)
def test_the_danger_is_named(siege: Siege, kind: str) -> None:
    """By validate: in a finding or, for what is only dangerous elsewhere, in a note."""
    assert re.search(NAMES[kind], siege.said(kind, "validate_checkpoint"))


@pytest.mark.parametrize(
    "make",
    [*hostile.RUNS, *hostile.HIDES, *hostile.DECEIVES, *hostile.CLAIMS, *hostile.PACKED_RUNS, *hostile.PACKED],
    ids=lambda make: make.__name__,
)
def test_no_such_file_is_called_sound(siege: Siege, make: hostile.Maker) -> None:
    """Nor is it loaded, verified or not."""
    assert "sound" != verdict(siege.paths[make.__name__])
    for verify in (True, False):
        with pytest.raises(CheckpointError):
            load_checkpoint(siege.paths[make.__name__], verify=verify)


@pytest.mark.parametrize("make", hostile.NO_FILES, ids=lambda make: make.__name__)
def test_what_is_no_file_is_refused_at_each_door(siege: Siege, make: hostile.Maker) -> None:
    """Without a look at what it would give."""
    doors = {attempt["door"]: attempt["outcome"] for attempt in siege.of(make.__name__)}
    refused = {door for door, outcome in doors.items() if outcome == "refused"}
    expected = set(doors) - {"list_checkpoints"}  # that says it among what it ignored
    if make is hostile.file_of_proc:  # it says to be empty, so it is a damaged file
        expected -= {"validate_checkpoint", "koemorph validate FILE", "koemorph validate --json FILE"}
    assert expected == refused


# ------------------------------------------------------------------------------ what is called sound is what torch sees


def resolved(value: Any, header: Header, reader: TensorReader, seen: dict[int, Any]) -> Any:
    """Return the content of a header with real tensors, to be compared with what torch.load gives."""
    if isinstance(value, (TensorStub, StorageStub)):
        stub = value if isinstance(value, TensorStub) else TensorStub((value.elements,), value.dtype, value, 0, (1,))
        array = torch.from_numpy(reader.read(stub).copy())
        return array.view(getattr(torch, stub.dtype)).reshape(stub.shape)
    if isinstance(value, dict):
        return {key: resolved(item, header, reader, seen) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(resolved(item, header, reader, seen) for item in value)
    return f"a stand-in for {value.name}" if isinstance(value, (Name, Opaque)) else value


def plain(value: Any) -> Any:
    """Return what torch.load gave with plain dicts in it."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return type(value)(plain(item) for item in value) if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize("make", hostile.TWO_FACED, ids=lambda make: make.__name__)
def test_a_file_with_two_faces_shows_us_the_one_that_torch_sees(siege: Siege, make: hostile.Maker) -> None:
    """Or it is not called sound, and its weights are not taken."""
    path = siege.paths[make.__name__]
    fresh = hostile.model()
    try:
        load_weights(path, fresh)
        taken = dict(fresh.state_dict())
    except CheckpointError:
        taken = {}
    try:
        seen = torch.load(path, weights_only=True)
    except Exception:  # whatever torch raises: it does not load
        assert "sound" != verdict(path)
        return
    if taken:
        assert "" == difference(dict(seen["model_state_dict"]), taken)
    if verdict(path) == "sound":
        header = read_header(path)
        with TensorReader(path, header) as reader:
            assert "" == difference(plain(seen), resolved(header.content, header, reader, {}))


@pytest.mark.parametrize("make", hostile.PACKED_LEGAL, ids=lambda make: make.__name__)
def test_what_a_name_says_outside_or_inside_of_a_compressed_file_does_not_matter(
    siege: Siege, make: hostile.Maker
) -> None:
    """Nothing else is wrong with it: it is sound, and loaded."""
    path = siege.paths[make.__name__]
    assert ("sound", 3) == (verdict(path), load_checkpoint(path)["epoch"])


@pytest.mark.parametrize("make", hostile.LEGAL, ids=lambda make: make.__name__)
def test_what_is_odd_and_legal_is_loaded_if_it_is_called_sound(siege: Siege, make: hostile.Maker) -> None:
    """Care is no reason to refuse what torch loads; nor to call sound what it does not."""
    path = siege.paths[make.__name__]
    if verdict(path) == "sound":
        assert 3 == load_checkpoint(path)["epoch"]


def test_an_interpolation_stays_the_text_that_it_is(siege: Siege, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody who loads a config of a stranger tells the stranger anything."""
    monkeypatch.setenv(hostile.SECRET, TOLD)
    loaded = load_checkpoint(siege.paths["config_interpolation"])
    assert f"${{oc.env:{hostile.SECRET}}}" == loaded["config"]["data"]
    assert TOLD not in repr(loaded)


# ----------------------------------------------------------------------------------------------------- names and rights


@pytest.mark.parametrize(
    "name", ["two\nlines.pth", "\x1b[31mred.pth", "-v.pth", "声.pth", "a: sound: b.pth", "\udcff.pth"]
)
@pytest.mark.parametrize("broken", [False, True])
def test_the_name_of_a_file_forges_no_line(tmp_path: Path, name: str, broken: bool) -> None:
    """A name with a line break in it, an escape sequence, no text at all: still one line."""
    path = hostile.torch_file(tmp_path / name, hostile.bait())
    if broken:
        path.write_bytes(path.read_bytes()[:-100])
    for command in ("validate", "inspect"):
        arguments = [sys.executable, "-m", "koemorph_tutorial", command, str(path)]
        done = subprocess.run(arguments, capture_output=True, cwd=ROOT, timeout=60)
        out, err = done.stdout.decode(), done.stderr.decode()
        assert (1 if command == "validate" else 2) * broken == done.returncode, out + err
        assert all(c.isprintable() or c == "\n" for c in out + err)
        if command == "validate":
            assert ("", 1) == (err, len(out.splitlines()))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can be somebody else")
def test_a_file_that_may_not_be_read_is_one_line() -> None:
    """Tried as nobody, since nothing is locked to root."""
    program = (
        "import os, sys\n"
        "from koemorph_tutorial.__main__ import main\n"
        "def codes(path):\n"
        "    return [main(a) for a in (['validate', path], ['inspect', path], ['diff', path, path])]\n"
        "sys.stdout, out = open(os.devnull, 'w'), sys.stdout\n"
        "assert codes(sys.argv[1]) == [0, 0, 0]\n"  # all is imported: nobody may not even read Python
        "os.setgid(65534), os.setuid(65534)\n"
        "out.write(repr(codes(sys.argv[2])))\n"
    )
    with tempfile.TemporaryDirectory(prefix="koemorph-locked-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        sound, locked = (hostile.torch_file(folder / f"{name}.pth", hostile.bait()) for name in ("sound", "locked"))
        locked.chmod(0)
        command = [sys.executable, "-c", program, str(sound), str(locked)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert "[2, 2, 2]" == done.stdout, done.stderr
    assert 3 == done.stderr.count("cannot be read: Permission denied") == len(done.stderr.splitlines())
