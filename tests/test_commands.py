"""What saving costs, asked from the command line: which files go, how small they get, how often to save."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from koemorph_tutorial import CheckpointManager, list_checkpoints, load_checkpoint, save_checkpoint
from koemorph_tutorial.__main__ import main
from koemorph_tutorial.commands.arguments import one_of, whole
from koemorph_tutorial.commands.keeping import keeping_of
from koemorph_tutorial.lock import hold
from koemorph_tutorial.records import CheckpointError, CheckpointSettings, numbered_name

Capture = pytest.CaptureFixture[str]
DEFAULTS = CheckpointSettings()


def train(folder: Path, epochs: int = 8, *, width: int = 1, config: Any = None, **settings: Any) -> Path:
    """Save every epoch of a training of nothing, all of it kept; the losses go down and up again, the best is 3."""
    model = torch.nn.Linear(width, width)
    made = {"save_freq": 1, "keep_last_n": None, **settings}
    with CheckpointManager(folder, {"model": model}, config=config, **made) as checkpoints:
        for epoch in checkpoints.epochs(epochs):
            torch.nn.init.constant_(model.weight, epoch)
            checkpoints.save({"loss": 1 + abs(epoch - 3), "f1": epoch / 10})
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def numbers(folder: Path) -> list[int]:
    return sorted(file.epoch for file in list_checkpoints(folder) if file.kind == "numbered")


def one_line(capsys: Capture) -> str:
    """Return what was said on stderr, which must be one line, and nothing else."""
    said = capsys.readouterr()
    assert ("", 1) == (said.out, said.err.count("\n")), said
    return said.err


# ------------------------------------------------------------------------------------- by what a run keeps its files


def write_config(run: Path, **settings: Any) -> None:
    lines = [f"    {name}: {json.dumps(value)}\n" for name, value in settings.items()]
    (run / "config.yaml").write_text("training:\n  lr: 0.1\n  checkpoint:\n" + "".join(lines))


def stored(**settings: Any) -> dict[str, Any]:
    return {"training": {"lr": 0.1, "checkpoint": settings}}


@pytest.mark.parametrize(
    ("in_yaml", "in_config", "of_manager", "expected", "source"),
    [
        pytest.param(None, None, {}, {"keep_last_n": None}, "last_model.pth", id="what the manager has noted"),
        pytest.param(
            None,
            None,
            {"keep_last_n": 4, "keep_best_n": 0, "milestones": (2, 7), "monitor": "f1", "mode": "max"},
            {"keep_last_n": 4, "keep_best_n": 0, "milestones": (2, 7), "monitor": "f1", "mode": "max"},
            "last_model.pth",
            id="all of it",
        ),
        pytest.param(
            None, None, {"milestones": ()}, {"keep_last_n": None, "milestones": ()}, "last_model.pth", id="()"
        ),
        pytest.param(
            None,
            stored(keep_last_n=3, milestones=[5]),
            {"keep_best_n": 2},
            {"keep_last_n": 3, "milestones": (5,), "keep_best_n": 2},
            "last_model.pth",
            id="the config in the newest checkpoint first",
        ),
        pytest.param(
            {"keep_last_n": 2, "monitor": "f1"},
            stored(keep_last_n=3, milestones=[5], mode="max"),
            {"keep_best_n": 2},
            {"keep_last_n": 2, "monitor": "f1", "milestones": (5,), "mode": "max", "keep_best_n": 2},
            "config.yaml and last_model.pth",
            id="config.yaml before both",
        ),
        pytest.param(
            {"keep_last_n": None, "keep_best_n": 0, "milestones": [], "monitor": "a b", "mode": "max"},
            stored(keep_last_n=3),
            {},
            {"keep_last_n": None, "keep_best_n": 0, "milestones": (), "monitor": "a b", "mode": "max"},
            "config.yaml",
            id="config.yaml alone",
        ),
        pytest.param(
            {"save_freq": 2, "color": 1}, None, {}, {"keep_last_n": None}, "last_model.pth", id="others alone"
        ),
    ],
)
def test_a_run_keeps_its_files_by_its_own_settings(
    tmp_path: Path, in_yaml: Any, in_config: Any, of_manager: dict[str, Any], expected: dict[str, Any], source: str
) -> None:
    """config.yaml, the config in the newest checkpoint, what the manager has noted there; each as far as it says."""
    run = tmp_path / "run"
    run.mkdir()
    if in_yaml is not None:
        write_config(run, **in_yaml)
    folder = train(run / "checkpoints", 2, config=in_config, **of_manager)
    keeping = keeping_of(folder)
    assert CheckpointSettings(**expected) == keeping.settings
    assert source == keeping.source
    assert (keeping.settings.monitor, keeping.settings.mode) == (keeping.best.monitor, keeping.best.mode)


def test_without_any_settings_the_defaults_say_what_stays(tmp_path: Path) -> None:
    """The recipe's own files, which note nothing; a config.yaml that is of no run, or not beside ``checkpoints/``."""
    folder = tmp_path / "models"
    folder.mkdir()
    torch.save({"epoch": 3, "model_state_dict": {}, "config": [1]}, folder / numbered_name(3))
    write_config(tmp_path, keep_last_n=2)
    assert (DEFAULTS, "the defaults") == (keeping_of(folder).settings, keeping_of(folder).source)
    checkpoints = folder.rename(tmp_path / "checkpoints")
    assert "config.yaml" == keeping_of(checkpoints).source
    for text in ("", "[1, 2]", "training: 3", "training:\n  checkpoint: [4]\n", "# nothing\n"):
        (tmp_path / "config.yaml").write_text(text)
        assert DEFAULTS == keeping_of(checkpoints).settings


def test_what_a_stranger_has_noted_is_no_rule_unless_it_is_one(tmp_path: Path) -> None:
    """Other words than the manager's are passed over; values that cannot be are refused, not taken for the defaults."""
    base = load_checkpoint(train(tmp_path / "run", 1) / "last_model.pth")
    for keep in (7, None, "last 1000000000, best 1, milestones []", "last 2", "last 2, best 1, milestones [1,2]"):
        save_checkpoint({**base, "run": {**base["run"], "keep": keep}}, tmp_path / "last_model.pth")
        assert DEFAULTS == keeping_of(tmp_path).settings
    for run, best, found in [
        (
            {"keep": "last 1, best 1, milestones []"},
            {},
            "keep_last_n: expected 2 or more, or null to keep all, found 1",
        ),
        ({}, {"mode": "least"}, "mode: expected 'min' or 'max', found 'least'"),
        ({}, {"monitor": 5}, "monitor: expected the name of a metric, found 5"),
    ]:
        content = {**base, "run": {**base["run"], **run}, "best": {**base["best"], **best}}
        save_checkpoint(content, tmp_path / "last_model.pth")
        with pytest.raises(CheckpointError, match=rf"last_model.pth: training.checkpoint.{re.escape(found)}"):
            keeping_of(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"training: {checkpoint: {keep_last_n: 1}}", "training.checkpoint.keep_last_n: expected 2 or more"),
        (b"training: {checkpoint: {milestones: 5}}", "training.checkpoint.milestones: expected whole epoch numbers"),
        (b"training: {checkpoint: {milestones: '${x}'}}", "training.checkpoint.milestones: expected whole epoch"),
        (b"training: {checkpoint: {keep_best_n: -1}}", "training.checkpoint.keep_best_n: expected a whole number from"),
        (b"training: {checkpoint: {monitor: no}}", "training.checkpoint.monitor: expected the name of a metric"),
        (b"training: [", "expected the config of a run, in YAML, found while parsing"),
        (b"\xff\xfe\xff", "expected the config of a run, in YAML, found 'utf-8' codec"),
        (b"a: !!python/object/apply:os.system [touch hit]", "expected the config of a run, in YAML, found could not"),
        (b'a: !!int ""', "expected the config of a run, in YAML, found "),
        (b"[" * 5000, "expected the config of a run, in YAML, found "),
        (b"a: " + b"b" * 1_100_000, "found more than 1,048,576 characters"),
    ],
    ids=lambda value: str(value[:24]),
)
def test_settings_that_cannot_be_used_remove_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, text: bytes, words: str
) -> None:
    """The defaults in their place might remove what they keep."""
    monkeypatch.chdir(tmp_path)
    folder = train(tmp_path / "checkpoints", 4)
    (tmp_path / "config.yaml").write_bytes(text)
    before = names(folder)
    assert 2 == main(["prune", str(folder), "--keep-last-n", "2"])
    error = one_line(capsys)
    assert f"{tmp_path / 'config.yaml'}: " in error
    assert words in error
    assert before == names(folder)
    assert not (tmp_path / "hit").exists()


def test_of_thousands_two_headers_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest save and the highest number tell, unless they are of two lines of runs."""
    from koemorph_tutorial import storage

    folder = train(tmp_path / "run", 6)
    asked: list[str] = []
    real: Callable[[Path], Any] = storage.describe
    monkeypatch.setattr(storage, "describe", lambda path: asked.append(path.name) or real(path))
    keeping_of(folder)
    assert ["last_model.pth", "checkpoint_epoch_005.pth"] == asked
    (folder / "last_model.pth").unlink()
    shutil.copy(train(tmp_path / "other", 1, monitor="f1") / "last_model.pth", folder)
    assert "loss" == keeping_of(folder).settings.monitor
    (folder / "last_model.pth").write_bytes(b"torn")
    assert "loss" == keeping_of(folder).settings.monitor


# ---------------------------------------------------------------------------------------------------------------- prune


def test_prune_says_what_goes_and_why_and_what_stays(tmp_path: Path, capsys: Capture) -> None:
    """A line for each file that goes; a dry run is the same plan, not carried out."""
    run = tmp_path / "run"
    run.mkdir()
    write_config(run, keep_last_n=2, milestones=[0])
    folder = train(run / "checkpoints", 10)
    size = (folder / "last_model.pth").stat().st_size
    before = names(folder)
    assert 0 == main(["prune", str(run), "--keep-every-n", "4", "--dry-run"])
    said = capsys.readouterr().out.splitlines()
    rules = "the newest 2, the best by loss (min), every 4 epochs, the milestone 0"
    assert f"{folder}: to stay: {rules} (from the command line and config.yaml and last_model.pth)" == said[0]
    removed = [7, 6, 5, 2, 1]
    shown = f"{size / 1000:.3g} kB"
    assert [f"remove {numbered_name(epoch)}, {shown}: older than the newest 2" for epoch in removed] == said[1:6]
    assert re.fullmatch(r"what stays, [\d.]+ kB: last_model.pth, best_model.pth, epochs 0, 3, 4, 8, 9", said[6]), said[
        6
    ]
    assert re.fullmatch(
        rf"would remove 5 files and free [\d.]+ kB \({5 * size:,} bytes\); nothing was removed", said[7]
    ), said[7]
    assert before == names(folder)

    assert 0 == main(["prune", str(folder), "--keep-every-n", "4"])  # the folder of checkpoints will do as well
    again = capsys.readouterr().out.splitlines()
    assert said[:7] == again[:7]
    assert f"({5 * size:,} bytes)" in again[7]
    assert again[7].startswith("removed 5 files, freed ")
    assert before - {numbered_name(epoch) for epoch in removed} == names(folder)

    assert 0 == main(["prune", str(run), "--keep-every-n", "4"])
    assert "nothing is to be removed" == capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "stays"),
    [
        ([], [3, 5, 6, 7]),
        (["--keep-last-n", "5"], [3, 4, 5, 6, 7]),
        (["--keep-best-n", "0"], [5, 6, 7]),
        (["--keep-best-n", "3", "--keep-last-n=2"], [2, 3, 4, 6, 7]),
        (["--keep-every-n", "1"], list(range(8))),
        (["--keep-every-n", "5", "--keep-best-n=0", "--keep-last-n=2"], [0, 5, 6, 7]),
        (["--keep-last-n", "100"], list(range(8))),
    ],
)
def test_what_is_asked_for_counts_more_than_the_settings(
    tmp_path: Path, capsys: Capture, given: list[str], stays: list[int]
) -> None:
    """And each option for itself; the JSON says the same of every file."""
    folder = train(tmp_path / "run")
    note = {**load_checkpoint(folder / "last_model.pth")["run"], "keep": "last 3, best 1, milestones []"}
    for name in sorted(names(folder)):
        save_checkpoint({**load_checkpoint(folder / name), "run": note}, folder / name)
    torch.manual_seed(0)
    for epoch in range(8):
        content = load_checkpoint(folder / numbered_name(epoch))
        save_checkpoint({**content, "run": {**note, "saves": epoch + 1}}, folder / numbered_name(epoch))
    assert 0 == main(["prune", str(folder), "--json", "--dry-run", *given])
    plain = json.loads(capsys.readouterr().out)
    kept = {file["name"] for file in plain["files"] if file["keep"]}
    assert {*map(numbered_name, stays), "best_model.pth", "last_model.pth"} == kept
    assert all(file["reasons"] for file in plain["files"])
    assert (True, str(folder), [], "loss") == (
        plain["dry_run"],
        plain["directory"],
        plain["rules"]["milestones"],
        plain["rules"]["monitor"],
    )
    assert 0 == main(["prune", str(folder), "--json", *given])
    assert plain["bytes_freed"] == json.loads(capsys.readouterr().out)["bytes_freed"]
    assert stays == numbers(folder)


def test_what_is_best_is_what_the_run_watches(tmp_path: Path) -> None:
    """Where more is better, the lowest goes."""
    folder = train(tmp_path / "run", monitor="loss", mode="max", milestones=())
    assert 0 == main(["prune", str(folder), "--keep-last-n", "2", "--keep-best-n", "2"])
    assert [0, 6, 7] == numbers(folder)  # losses 4, 4, 5: epoch 7 is the best, among equals the earlier one


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "expected a directory of checkpoints, found: No such file or directory; check the path"),
        (lambda path: path.write_text("x"), "expected a directory of checkpoints, found: Not a directory; check the"),
        (lambda path: path.mkdir(), "expected the checkpoints of a run, found none; check the path"),
        (
            lambda path: (path.mkdir(), (path / "last_model.pth").write_text("x")),
            "found none that can be used (",
        ),
        (lambda path: (path.mkdir(), (path / "model.pt").write_text("x")), "found none; check the path"),
    ],
)
def test_prune_of_what_is_no_run_is_one_line(
    tmp_path: Path, capsys: Capture, make: Callable[[Path], Any], words: str
) -> None:
    """And nothing is made or removed there, not even a lock."""
    path = tmp_path / "run"
    make(path)
    before = sorted(tmp_path.rglob("*"))
    assert 2 == main(["prune", str(path)])
    error = one_line(capsys)
    assert str(path) in error
    assert words in error
    assert before == sorted(tmp_path.rglob("*"))


BAD_USE = [
    (["prune", "run", "--keep-last-n", "0"], "--keep-last-n: expected a whole number from 2, found '0'"),
    (["prune", "run", "--keep-last-n", "1"], "--keep-last-n: expected a whole number from 2, found '1'"),
    (["prune", "run", "--keep-last-n", "-3"], "--keep-last-n: expected a whole number from 2, found '-3'"),
    (["prune", "run", "--keep-last-n", "all"], "--keep-last-n: expected a whole number from 2, found 'all'"),
    (["prune", "run", "--keep-best-n=-1"], "--keep-best-n: expected a whole number from 0, found '-1'"),
    (["prune", "run", "--keep-best-n", "1.5"], "--keep-best-n: expected a whole number from 0, found '1.5'"),
    (["prune", "run", "--keep-every-n", "0"], "--keep-every-n: expected a whole number from 1, found '0'"),
    (["prune", "run", "more"], "unrecognized arguments: more"),
    (["compress", "file", "--codec", "lzma"], "--codec: expected gzip, zstd or shuffle-zstd, found 'lzma'"),
    (["compress", "file", "--codec", "GZIP"], "--codec: expected gzip, zstd or shuffle-zstd, found 'GZIP'"),
    (["compress", "run", "--older-than", "-1"], "--older-than: expected a whole number from 0, found '-1'"),
    (["compress", "run", "--older-than", "\u0663"], "--older-than: expected a whole number from 0, found '\u0663'"),
    (["compress", "a", "b"], "unrecognized arguments: b"),
    (["advise"], "the following arguments are required: --save-seconds, --mtbf-hours"),
    (["advise", "--save-seconds", "0", "--mtbf-hours", "1"], "--save-seconds: expected a time above 0, in seconds, f"),
    (["advise", "--save-seconds", "-1", "--mtbf-hours", "1"], "--save-seconds: expected a time above 0, in seconds, f"),
    (
        ["advise", "--save-seconds", "1", "--mtbf-hours", "nan"],
        "--mtbf-hours: expected a time above 0, in hours, found",
    ),
    (
        ["advise", "--save-seconds", "inf", "--mtbf-hours", "1"],
        "--save-seconds: expected a time above 0, in seconds, f",
    ),
    (
        ["advise", "--save-seconds", "one", "--mtbf-hours", "1"],
        "--save-seconds: expected a time above 0, in seconds, f",
    ),
]


@pytest.mark.parametrize(("arguments", "words"), BAD_USE, ids=lambda value: " ".join(value)[:40])
def test_what_cannot_be_meant_is_one_line_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, arguments: list[str], words: str
) -> None:
    """Before anything is looked at."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(arguments)
    error = one_line(capsys)
    assert 2 == left.value.code
    assert words in error
    assert error.endswith(f"see koemorph {arguments[0]} --help\n") or "unrecognized" in error


def test_nobody_prunes_where_somebody_trains(tmp_path: Path, capsys: Capture) -> None:
    """A dry run looks only."""
    folder = train(tmp_path / "run")
    before = names(folder)
    command = [sys.executable, "-m", "koemorph_tutorial", "prune", str(folder), "--keep-last-n", "2"]
    with hold(folder):
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        looked = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=False)
    assert (2, 1) == (ran.returncode, ran.stderr.count("\n"))
    assert f"expected to be the only one who writes here, found process {os.getpid()} on " in ran.stderr
    assert (0, "") == (looked.returncode, looked.stderr)
    assert before == names(folder)


def test_a_file_that_cannot_be_removed_is_said_and_the_others_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Exit code 2; one that is gone already is no failure."""
    folder = train(tmp_path / "run", milestones=())
    real = os.unlink

    def unlink(path: Any, **keywords: Any) -> None:
        if Path(path).name == numbered_name(1):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        if Path(path).name == numbered_name(2):
            real(path)
        real(path, **keywords)

    monkeypatch.setattr(os, "unlink", unlink)
    assert 2 == main(["prune", str(folder), "--keep-last-n", "2"])
    said = capsys.readouterr()
    assert f"koemorph: {folder / numbered_name(1)}: could not be removed: Operation not permitted\n" == said.err
    assert f"keep   {numbered_name(1)}: older than the newest 2, could not be removed: Operation not p" in said.out
    assert f"remove {numbered_name(2)}: older than the newest 2, was gone already" in said.out
    assert "what stays, " in said.out
    assert [1, 3, 6, 7] == numbers(folder)


def test_the_newest_sound_file_stays_and_it_is_said(tmp_path: Path, capsys: Capture) -> None:
    """Whatever the rules say."""
    folder = train(tmp_path / "run", milestones=())
    for path in {folder / name for name in names(folder)} - {folder / numbered_name(n) for n in (0, 1)}:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.unlink()
        path.write_bytes(data)
    assert 0 == main(["prune", str(folder), "--keep-last-n", "2"])
    out = capsys.readouterr().out
    assert f"keep   {numbered_name(1)}: older than the newest 2, the newest sound file\n" in out
    assert "note: last_model.pth is damaged\n" in out
    assert numbered_name(1) in names(folder)


# ---------------------------------------------------------------------------------------------- compress and decompress


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """Return a checkpoint file of a name that is of no run."""
    folder = train(tmp_path / "made", 1, width=100)
    shutil.copy(folder / "last_model.pth", tmp_path / "plain.pth")
    shutil.rmtree(folder)
    return tmp_path / "plain.pth"


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        (None, "plain.shuffle.pth"),
        ("gzip", "plain.pth.gz"),
        ("zstd", "plain.pth.zst"),
        ("shuffle-zstd", "my.shuffle.pth"),
    ],
)
def test_what_is_compressed_comes_back_byte_for_byte(
    plain: Path, capsys: Capture, codec: str | None, name: str
) -> None:
    """What was written, how large it is, and whether the other file is gone."""
    data, packed = plain.read_bytes(), plain.with_name(name)
    asked = ["--codec", codec] if codec else []
    asked += ["-o", str(packed)] if name.startswith("my") else []
    assert 0 == main(["compress", str(plain), *asked])
    said = capsys.readouterr().out
    share = 100 * packed.stat().st_size / len(data)
    assert re.fullmatch(rf"wrote {packed}: [\d.]+ kB, {share:.3g} % of plain\.pth\n", said), said
    assert data == plain.read_bytes()
    assert str(load_checkpoint(plain)["model_state_dict"]) == str(load_checkpoint(packed)["model_state_dict"])

    assert 0 == main(["decompress", str(packed), "-o", str(plain.with_name("back.pth"))])
    assert capsys.readouterr().out.endswith(f" % of {name}\n")
    assert data == plain.with_name("back.pth").read_bytes()
    assert 0 == main(["compress", str(plain), *asked, "--replace"])  # what is there already is only compared
    assert capsys.readouterr().out.endswith(" % of plain.pth, which was removed\n")
    assert not plain.exists()
    assert 0 == main(["decompress", str(packed), "--replace", "--output", str(plain)])
    assert capsys.readouterr().out.endswith(f" % of {name}, which was removed\n")
    assert (data, False) == (plain.read_bytes(), packed.exists())


def test_weights_alone_are_written_beside_the_whole_file(plain: Path, capsys: Capture) -> None:
    """Without the optimizer; and rounded, where asked for."""
    weights = load_checkpoint(plain)["model_state_dict"]["weight"]
    for more, dtype in (([], torch.float32), (["--bf16", "--codec", "zstd"], torch.bfloat16)):
        output = plain.with_name("small.pth.zst" if more else "small.shuffle.pth")
        assert 0 == main(["compress", str(plain), "--for-inference", "-o", str(output), *more])
        found = load_checkpoint(output)
        assert torch.equal(weights.to(dtype), found["model_state_dict"]["weight"])
        assert "rng_state" not in found
    assert capsys.readouterr().out.count("wrote ") == 2
    assert plain.exists()


def test_a_run_is_compressed_but_for_its_newest(tmp_path: Path, capsys: Capture) -> None:
    """A line for each file when it is done; never what best and last are; done twice it is done once."""
    run = tmp_path / "run"
    folder = train(run / "checkpoints", 6, width=40)
    before = {file.epoch: load_checkpoint(file.path) for file in list_checkpoints(folder) if file.kind == "numbered"}
    assert 0 == main(["compress", str(run), "--older-than", "2", "--codec", "zstd"])
    said = capsys.readouterr().out.splitlines()
    for epoch, line in zip((0, 1, 2), said, strict=False):
        name = numbered_name(epoch)
        assert re.fullmatch(rf"{name}\.zst for {name}: [\d.]+ kB of [\d.]+ kB \(\d\d%\)", line), line
    assert f"{numbered_name(3)} stays: best_model.pth is a further name of its bytes" == said[3]
    assert re.fullmatch(r"compressed 3 files: [\d.]+ kB, [\d.]+ % of [\d.]+ kB", said[4]), said[4]
    assert 5 == len(said)
    packed = {f"{numbered_name(epoch)}.zst" for epoch in (0, 1, 2)}
    assert {*packed, *map(numbered_name, (3, 4, 5)), "best_model.pth", "last_model.pth"} == names(folder)
    for file in list_checkpoints(folder):
        if file.kind == "numbered":
            assert str(before[file.epoch]) == str(load_checkpoint(file.path))

    assert 0 == main(["compress", str(folder), "--older-than", "2"])
    assert "nothing is to be compressed" == capsys.readouterr().out.splitlines()[-1]
    assert 0 == main(["prune", str(folder), "--keep-last-n", "2", "--json"])  # compressed ones are numbered like others
    assert [3, 4, 5] == numbers(folder)
    assert packed == {file["name"] for file in json.loads(capsys.readouterr().out)["files"] if not file["keep"]}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compress", "run"], "compress: run: a folder: name a file, or say by --older-than N how many of its newest"),
        (
            ["compress", "a.pth", "--older-than", "3"],
            "--older-than: expected a run's folder, found a.pth, which is none",
        ),
        (["compress", "gone", "--older-than", "3"], "--older-than: expected a run's folder, found gone, which is none"),
        (["compress", "empty", "--older-than", "3"], "empty: expected the checkpoints of a run, found none; check the"),
        (
            ["compress", "a.pth", "--bf16"],
            "compress: --bf16: it rounds the weights, so it goes only with --for-inference",
        ),
        (["compress", "a.pth", "--for-inference", "--replace"], "compress: --replace: --for-inference leaves out what"),
        (["compress", "run", "--older-than", "3", "--replace"], "compress: --replace: --older-than replaces each file"),
        (["compress", "run", "--older-than", "3", "-o", "b"], "compress: --output: --older-than replaces each file"),
        (
            ["compress", "run", "--older-than", "3", "--for-inference"],
            "compress: --for-inference: --older-than replace",
        ),
        (["compress", "run", "--older-than", "3", "--bf16"], "compress: --bf16: it rounds the weights"),
        (["compress", "gone.pth"], "gone.pth: expected a checkpoint file (.pth), found nothing of that name"),
        (["compress", "a.pth.gz"], "a.pth.gz: expected a plain checkpoint, found one compressed by gzip already"),
        (["compress", "text"], "text: expected a "),
        (["compress", "a.pth", "-o", "a.pth"], "a.pth: expected an output beside the file, found the file itself"),
        (["compress", "a.pth", "-o", "text"], "text: "),
        (["compress", "run/last_model.pth", "--replace"], "run/last_model.pth: expected a file that can be replaced"),
        (["decompress", "a.pth"], "a.pth: expected a compressed checkpoint, found one that is not compressed"),
        (["decompress", "run"], "decompress: run: expected a compressed checkpoint file, found a folder; name a file"),
        (["decompress", "gone.pth.gz"], "gone.pth.gz: expected a checkpoint file (.pth), found nothing of that name"),
        (["decompress", "cut.pth.gz"], "cut.pth.gz: "),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_what_cannot_be_compressed_is_one_line_and_changes_nothing(
    tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, arguments: list[str], words: str
) -> None:
    """Exit code 2; every file is there as it was."""
    monkeypatch.chdir(tmp_path)
    train(Path("run"), 4)
    Path("empty").mkdir()
    plain.rename("a.pth")
    Path("text").write_text("no checkpoint")
    assert 0 == main(["compress", "a.pth", "--codec", "gzip"])
    Path("cut.pth.gz").write_bytes(Path("a.pth.gz").read_bytes()[:-40])
    capsys.readouterr()

    def there() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"}

    before = there()
    assert 2 == main(arguments)
    assert words in one_line(capsys)
    assert before == there()


# --------------------------------------------------------------------------------------------------------------- advise


def test_advise_says_how_often_to_save(capsys: Capture) -> None:
    """A sentence, the line for a config, the older formula; the same for programs."""
    assert 0 == main(["advise", "--save-seconds", "6", "--mtbf-hours", "24"])
    assert [
        "save every 16 min 54 s: with saves of 6 s and a failure every 24 h on average, saves and lost work add 1.19 % "
        "to the training time",
        "the setting: every_minutes: 16.9",
        "Young's simpler formula of 1974 would say every 16 min 58 s",
    ] == capsys.readouterr().out.splitlines()
    assert 0 == main(["advise", "--save-seconds", "6", "--mtbf-hours", "24", "--json"])
    plain = json.loads(capsys.readouterr().out)
    assert [6, 86400, "every_minutes: 16.9"] == [plain[n] for n in ("save_seconds", "mtbf_seconds", "setting")]


# ------------------------------------------------------------------------------------------------------- what is loaded


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["prune", "run", "--dry-run"], set()),
        (["prune", "run", "--keep-last-n", "2", "--json"], set()),
        (["advise", "--save-seconds", "1", "--mtbf-hours", "1"], set()),
        (["compress", "plain.pth", "--codec", "gzip"], {"numpy"}),
        (["compress", "plain.pth"], {"numpy"}),
        (["compress", "run", "--older-than", "2"], {"numpy"}),
        (["decompress", "packed.pth.zst", "-o", "back.pth"], {"numpy"}),
        (["compress", "plain.pth", "--for-inference"], {"numpy", "torch"}),
        (["prune", "--help"], set()),
        (["compress", "--help"], set()),
        (["decompress", "--help"], set()),
        (["advise", "--help"], set()),
    ],
    ids=lambda value: " ".join(sorted(value) if isinstance(value, set) else value)[:40],
)
def test_a_command_loads_only_what_it_uses(
    tmp_path: Path, plain: Path, arguments: list[str], allowed: set[str]
) -> None:
    """A fresh interpreter, which would need two seconds for torch."""
    train(tmp_path / "run", 4)
    assert 0 == main(["compress", str(plain), "--codec", "zstd", "-o", str(tmp_path / "packed.pth.zst")])
    heavy = {"torch", "numpy", "rich", "omegaconf", "matplotlib", "ipywidgets"}
    program = (
        "import contextlib, sys\nfrom koemorph_tutorial.__main__ import main\n"
        f"with contextlib.suppress(SystemExit):\n    assert 0 == main({arguments!r})\n"
        f"assert not {heavy - allowed!r} & set(sys.modules), sorted(sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (0, "") == (ran.returncode, ran.stderr)


# -------------------------------------------------------------------------------------------------------- the arguments


@pytest.mark.parametrize("text", ["", " 3", "3 ", "+3", "0x3", "3.0", "1_0", "\u0663", "1" * 10, "-0", "nan", "\n"])
def test_a_whole_number_is_plain_decimal(text: str) -> None:
    """And of a size that somebody can mean."""
    import argparse

    with pytest.raises(argparse.ArgumentTypeError, match=r"^expected a whole number from 0, found '"):
        whole(0)(text)


def test_a_word_is_one_of_those_that_there_are() -> None:
    """As it stands."""
    import argparse

    assert "a" == one_of("a", "b")("a")
    with pytest.raises(argparse.ArgumentTypeError, match=r"^expected a, b or c, found 'A'$"):
        one_of("a", "b", "c")("A")
