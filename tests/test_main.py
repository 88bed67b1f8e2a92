"""The command line, as a stranger meets it: real processes for what is killed, one clear line for what is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from koemorph_tutorial import CheckpointManager, list_checkpoints, load_checkpoint
from koemorph_tutorial.__main__ import main
from koemorph_tutorial.training.config import load_config, to_plain
from koemorph_tutorial.training.trainer import KoeMorphTrainer
from tests.comparing import difference

SMALL = ["data.train_windows=32", "data.validation_windows=8", "data.test_windows=8", "data.seconds=2.0"]
EPOCHS = 9
SETTINGS = [*SMALL, f"training.epochs={EPOCHS}", "training.patience=null", "training.checkpoint.save_freq=3"]


def koemorph(folder: Path, *arguments: str, kill_after: int | None = None) -> list[str]:
    """Run the command in a process of its own; with `kill_after`, kill -9 it once it has said so many epochs."""
    command = [sys.executable, "-m", "koemorph_tutorial", *arguments]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if (
                kill_after is not None
                and sum("epoch" in said and " train_loss " in said for said in lines) == kill_after
            ):
                process.send_signal(signal.SIGKILL)
                kill_after = None
    assert process.returncode in (0, -signal.SIGKILL), "\n".join(lines)
    return lines


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run that is never stopped; return its folder."""
    folder = tmp_path_factory.mktemp("straight")
    koemorph(folder, "train", "--run-dir", "run", *SETTINGS)
    return folder / "run"


@pytest.fixture(autouse=True)
def _in_a_folder_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the command is run is part of a checkpoint: the commit that is checked out there."""
    monkeypatch.chdir(tmp_path)


def times(folder: Path) -> dict[Path, int]:
    """Return when each file and folder below `folder` was changed; the lock says who was there last."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}


def assert_same_files(run: Path, other: Path) -> None:
    """Compare every checkpoint of two runs bitwise."""
    names = [sorted(file.path.name for file in list_checkpoints(folder / "checkpoints")) for folder in (run, other)]
    assert names[0] == names[1]
    for file in list_checkpoints(run / "checkpoints"):
        found = difference(load_checkpoint(file.path), load_checkpoint(other / "checkpoints" / file.path.name))
        assert "" == found, f"{file.path.name}: {found}"


def assert_survives(straight: Path, folder: Path, first: int, *others: int) -> None:
    """kill -9 after so many epochs, --resume auto each time; then to the end: the files are those of `straight`."""
    koemorph(folder, "train", "--run-dir", "run", *SETTINGS, kill_after=first)
    for kill_after in others:
        lines = koemorph(folder, "train", "--resume", "auto", "--run-dir", "run", kill_after=kill_after)
        assert any(line.startswith("resumed from last_model.pth: goes on at epoch ") for line in lines)
    koemorph(folder, "train", "--resume", "auto", "--run-dir", "run")
    assert_same_files(straight, folder / "run")


def test_killed_the_run_ends_with_the_same_bits(straight: Path, tmp_path: Path) -> None:
    """`make proof` kills it five times."""
    assert_survives(straight, tmp_path, 3)


def test_a_branch_from_a_numbered_file_ends_with_the_same_bits(straight: Path, tmp_path: Path) -> None:
    """--resume PATH --run-dir NEW: the parent is untouched, the branch has the parent's best from its first moment."""
    parent = {path.name: path.stat().st_mtime_ns for path in (straight / "checkpoints").iterdir()}
    source = straight / "checkpoints/checkpoint_epoch_003.pth"
    assert 0 == main(["train", "--resume", str(source), "--run-dir", "new"])
    assert parent == {path.name: path.stat().st_mtime_ns for path in (straight / "checkpoints").iterdir()}
    for name in ("last_model.pth", "checkpoint_epoch_006.pth", f"checkpoint_epoch_{EPOCHS - 1:03d}.pth"):
        there, here = (load_checkpoint(run / "checkpoints" / name) for run in (straight, tmp_path / "new"))
        assert "" == difference(there, here), name
    assert there["best"]["epoch"] == load_checkpoint(tmp_path / "new/checkpoints/best_model.pth")["epoch"]


def test_a_branch_has_its_best_even_if_nothing_better_comes(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Branching from the last file leaves nothing to train: the best is there all the same."""
    source = straight / "checkpoints/last_model.pth"
    assert 0 == main(["train", "--resume", str(source), "--run-dir", "new"])
    assert "had finished already" in capsys.readouterr().out
    best = load_checkpoint(straight / "checkpoints/best_model.pth")
    assert "" == difference(best, load_checkpoint(tmp_path / "new/checkpoints/best_model.pth"))


def test_a_run_has_its_folder_its_config_and_three_names_of_one_file(straight: Path) -> None:
    """The layout, and the inodes of one save."""
    assert {"config.yaml", "checkpoints"} == {path.name for path in straight.iterdir()}
    names = {path.name for path in (straight / "checkpoints").iterdir()} - {".lock"}
    numbered = {f"checkpoint_epoch_{epoch:03d}.pth" for epoch in (0, 3, 6, 8)}
    assert {"best_model.pth", "last_model.pth", *numbered} == names
    last, final = (straight / "checkpoints" / name for name in ("last_model.pth", "checkpoint_epoch_008.pth"))
    assert last.samefile(final)
    assert load_config([], base=to_plain(load_config(SETTINGS))) == load_config(
        [], base=load_checkpoint(last)["config"]
    )


def test_every_file_opens_with_torch_alone_and_is_complete(straight: Path) -> None:
    """No import of ours, weights_only, every key of format version 1."""
    keys = {"format_version", "run", "epoch", "global_step", "position", "optimizer_parameters", "metrics", "best"}
    keys |= {"rng_state", "config", "metadata", "model_state_dict", "optimizer_state_dict", "scheduler_state_dict"}
    keys |= {"loader_state_dict", "early_stopping_state_dict", "train_loss_state_dict"}
    script = (
        "import sys, torch\n"
        "for path in sys.argv[1:]:\n"
        f"    missing = {keys!r} - set(torch.load(path, weights_only=True))\n"
        "    assert not missing, missing\n"
        "assert 'koemorph_tutorial' not in sys.modules and 'omegaconf' not in sys.modules\n"
    )
    paths = [str(file.path) for file in list_checkpoints(straight / "checkpoints")]
    subprocess.run([sys.executable, "-c", script, *paths], check=True)


@pytest.mark.parametrize("way", [["--resume", "auto", "--run-dir", "run"], ["--resume", "run"]])
def test_a_finished_run_says_so_and_changes_nothing(
    straight: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], way: list[str]
) -> None:
    """Exit 0, one sentence, not a byte written."""
    monkeypatch.chdir(straight.parent)
    before = times(straight)
    assert 0 == main(["train", *way])
    assert "this run had finished already (all epochs are done); nothing was changed" in capsys.readouterr().out
    assert before == times(straight)


def test_a_finished_run_goes_on_when_more_epochs_are_asked_for(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What differs from the file is said, with who wins."""
    shutil.copytree(straight, tmp_path / "run")
    assert 0 == main(["train", "--resume", str(tmp_path / "run"), "training.epochs=10", "training.lr=0.1"])
    out = capsys.readouterr().out
    rows = [line.split(maxsplit=3) for line in out.splitlines()]
    assert ["training.epochs", "9", "10", "what was asked for"] in rows
    for name in ("training.lr", "optimizer.lr"):
        assert [name, "0.005", "0.1", "the file's, with the state"] in rows
    assert ["scheduler.T_max", "18", "20", "the file's, with the state"] in rows
    last = load_checkpoint(tmp_path / "run/checkpoints/last_model.pth")
    assert (9, 0.005, 10) == (last["epoch"], *(last["config"]["training"][name] for name in ("lr", "epochs")))
    assert "  lr: 0.005\n" in (tmp_path / "run/config.yaml").read_text()


def test_going_back_to_an_older_file_of_the_same_run(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--resume PATH: newer files are moved aside and said; the end is the same, bit for bit."""
    shutil.copytree(straight, tmp_path / "run")
    assert 0 == main(["train", "--resume", str(tmp_path / "run/checkpoints/checkpoint_epoch_006.pth")])
    assert re.search(r"\d newer checkpoints were moved to abandoned-001/, none was removed", capsys.readouterr().out)
    name = f"checkpoint_epoch_{EPOCHS - 1:03d}.pth"
    there, here = (load_checkpoint(run / "checkpoints" / name) for run in (straight, tmp_path / "run"))
    assert "" == difference(there, here)


def test_evaluate_prints_a_table_and_json(straight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same numbers for people and for programs, from the voice that no training heard."""
    best = straight / "checkpoints/best_model.pth"
    assert 0 == main(["evaluate", "--checkpoint", str(best)])
    table = capsys.readouterr().out
    assert 0 == main(["evaluate", "--checkpoint", str(best), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert {"checkpoint", "epoch", "global_step", "speakers", "windows", "metrics", "saved_metrics"} == set(found)
    assert {"loss", "mae"} == set(found["metrics"])
    assert f"{found['metrics']['loss']:.5f}" in table
    assert f"{found['metrics']['mae']:.5f}" in table
    assert load_checkpoint(best)["metrics"] == found["saved_metrics"]
    assert max(len(line) for line in table.splitlines()) <= 80


def recipe_file(path: Path, epoch: int = 4) -> Path:
    """Save as the original recipe does: torch.save of six keys (and the scheduler), no format_version."""
    config = load_config(SETTINGS)
    trainer = KoeMorphTrainer(config, path.parent)
    checkpoint: dict[str, Any] = {
        "epoch": epoch,
        "global_step": 4 * (epoch + 1),
        "model_state_dict": trainer.model.state_dict(),
        "optimizer_state_dict": trainer.optimizer.state_dict(),
        "metrics": {"loss": 0.5},
        "config": to_plain(config),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)
    return path


def test_diff_says_what_differs_and_answers_by_its_exit_code(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 identical, 1 differs, 2 cannot be used and one line says why; --json for programs."""
    a, b = (str(straight / f"checkpoints/checkpoint_epoch_{epoch:03d}.pth") for epoch in (3, 6))
    torch.save(torch.load(a, weights_only=True), tmp_path / "again.pth")
    assert 0 == main(["diff", a, str(tmp_path / "again.pth")])
    assert capsys.readouterr().out.startswith("identical: all ")
    assert 1 == main(["diff", a, b])
    out = capsys.readouterr().out
    assert out.startswith("B is 3 epochs (12 batches) further in the same run: all 17 weight tensors moved,")
    assert "optimizer       param_groups[0].lr 0.00" in out
    assert 1 == main(["diff", a, b, "--json"])
    plain = json.loads(capsys.readouterr().out)
    assert [False, 17] == [plain["identical"], plain["tensors"]["weights"]["compared"]]
    assert " ".join(out.split("\n\n")[0].split()) == plain["sentence"]
    for pair in ([a, "missing.pth"], [str(tmp_path), a]):
        assert 2 == main(["diff", *pair])
        said = capsys.readouterr()
        assert ["", 1] == [said.out, said.err.count("\n")]
        assert said.err.startswith("koemorph: ")


def test_the_recipes_own_file_resumes_and_evaluates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It goes on after the saved epoch, and says what it could not restore."""
    path = recipe_file(tmp_path / "run/checkpoints/last_model.pth")
    assert 0 == main(["evaluate", "--checkpoint", str(path), "--json"])
    assert 4 == json.loads(capsys.readouterr().out)["epoch"]
    assert 0 == main(["train", "--resume", str(path)])
    out = capsys.readouterr().out
    assert "resumed from last_model.pth: goes on at epoch 5, batch 0 (global step 20); " in out
    for name in ("scheduler", "early_stopping", "loader"):
        assert f"{name}: not in the file, left as it is" in out
    assert "not bitwise from here: the file holds no random states" in out
    assert "written in the recipe's format (version 0)" in out
    assert EPOCHS - 1 == load_checkpoint(path)["epoch"]


# -- bad input: exit 2, one line, nothing written ---------------------------------------------------------------------


def bad_file(folder: Path, kind: str, sound: Path) -> Path:
    """Make a file that is no sound checkpoint of this model."""
    path = folder / "checkpoints/last_model.pth"
    path.parent.mkdir(parents=True)
    data = sound.read_bytes()
    if kind == "missing":
        return path
    if kind == "directory":
        path.mkdir()
    elif kind == "another model":
        content = load_checkpoint(sound)
        weights = content["model_state_dict"]
        content["model_state_dict"] = {name.replace("conv1", "encoder"): value for name, value in weights.items()}
        torch.save(content, path)
    elif kind == "format_version: 99":
        torch.save({**load_checkpoint(sound), "format_version": 99}, path)
    else:
        flipped = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 8]) + data[len(data) // 2 + 1 :]
        contents = {"empty": b"", "text": b"epoch: 3\n", "truncated": data[:-1000], "flipped bit": flipped}
        path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "expected a checkpoint file (.pth), found nothing of that name; check the path"),
        ("directory", "expected checkpoints, found none; check the path"),
        ("empty", "expected a checkpoint file (.pth), found an empty file; use an older checkpoint of the run"),
        ("text", "expected a zip archive as torch.save writes it, found a file that begins with b'epoch: 3'"),
        ("truncated", "the file is cut short; use an older checkpoint of the run"),
        ("flipped bit", "is damaged: expected CRC32 "),
        ("another model", "this is the checkpoint of another model: build the model that it was saved from"),
        ("format_version: 99", "expected format_version 1 or older, found 99; it was written by a newer"),
    ],
)
@pytest.mark.parametrize("command", ["train", "evaluate", "inspect"])
def test_a_file_that_cannot_be_used_gets_one_line(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, kind: str, words: str
) -> None:
    """Which file, what was expected, what was found, what to do; and nothing is written beside it."""
    path = bad_file(tmp_path / "run", kind, straight / "checkpoints/last_model.pth")
    before = sorted(times(tmp_path))
    if command == "inspect" and kind in ("flipped bit", "another model"):
        pytest.skip("it reads the header alone, and of any model")
    arguments = {"train": ["train", "--resume"], "evaluate": ["evaluate", "--checkpoint"], "inspect": ["inspect"]}[
        command
    ]
    assert 2 == main([*arguments, str(path)])
    error = capsys.readouterr().err
    assert 1 == error.count("\n"), error
    assert error.startswith("koemorph: ")
    assert str(path) in error
    assert words in error
    assert before == sorted(times(tmp_path))


def test_resume_by_directory_passes_a_flipped_bit_over_and_says_so(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The newest save has three names and one copy of its bytes: the older generation goes on."""
    shutil.copytree(straight, tmp_path / "run", copy_function=os.link)
    newest = tmp_path / "run/checkpoints/last_model.pth"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 8
    copies = [path for path in newest.parent.iterdir() if path.samefile(newest)]
    for path in copies:
        path.unlink()
        path.write_bytes(data)
    assert 0 == main(["train", "--resume", "auto", "--run-dir", str(tmp_path / "run")])
    out = capsys.readouterr().out
    assert "resumed from checkpoint_epoch_006.pth: goes on at epoch 7" in out or "resumed from best_model.pth" in out
    assert "passed over last_model.pth: " in out
    assert_same_files(straight, tmp_path / "run")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.lr=nan", "training.lr: expected "),
        ("training.lr=-1", "training.lr: expected a number above 0"),
        ("lr=nan", "did you mean training.lr"),
        ("training.epoch=3", "did you mean training.epochs"),
        ("training.epochs=many", "training.epochs: expected a whole number"),
        ("training.checkpoint.save_freq=0", "training.checkpoint.save_freq: expected a whole number of epochs from 1"),
        ("training.checkpoint.keep_last_n=1", "training.checkpoint.keep_last_n: expected 2 or more"),
        ("training.checkpoint.save_best_only=2", "training.checkpoint.save_best_only: expected true or false, found 2"),
        ("training.checkpoint.monitor=no", "training.checkpoint.monitor: expected text, found no"),
        ("training.lr", "expected key=value"),
        ("training.lr=${oc.env:HOME}", "training.lr: expected a "),
    ],
)
def test_a_setting_that_cannot_be_used_gets_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], setting: str, words: str
) -> None:
    """The full name, what was expected, what was found; no folder is made."""
    monkeypatch.chdir(tmp_path)
    assert 2 == main(["train", setting])
    error = capsys.readouterr().err
    assert 1 == error.count("\n"), error
    assert words in error
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([], "last_model.pth: its config cannot be used: training.lr: expected a number above 0"),
        (["training.epochs=3"], "last_model.pth: its config cannot be used: training.lr: "),
        (["training.lr=0.1", "training.epoch=3"], "koemorph: training.epoch: there is no such setting"),
    ],
)
def test_a_setting_in_the_file_that_cannot_be_used_is_blamed_on_the_file(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: list[str], words: str
) -> None:
    """And one that is typed, on who typed it."""
    content = load_checkpoint(straight / "checkpoints/last_model.pth")
    content["config"]["training"]["lr"] = -1.0
    path = tmp_path / "run/checkpoints/last_model.pth"
    path.parent.mkdir(parents=True)
    torch.save(content, path)
    for resume in (["--resume", str(path)], ["--resume", "auto", "--run-dir", str(tmp_path / "run")]):
        assert 2 == main(["train", *resume, *settings])
        error = capsys.readouterr().err
        assert 1 == error.count("\n"), error
        assert words in error


def test_a_used_folder_without_resume_is_refused_before_anything_is_written(
    straight: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """config.yaml included."""
    before = times(straight)
    assert 2 == main(["train", "--run-dir", str(straight), "training.epochs=20"])
    error = capsys.readouterr().err
    assert f"go on with it by --resume auto --run-dir {straight}, or name a new folder" in error
    assert before == times(straight)


def test_a_branch_into_a_used_folder_is_refused(
    straight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs do not share a folder; its config.yaml stays."""
    shutil.copytree(straight, tmp_path / "other")
    before = times(tmp_path)
    assert 2 == main(["train", "--resume", str(straight), "--run-dir", str(tmp_path / "other")])
    assert "expected an unused directory to branch from" in capsys.readouterr().err
    assert before == times(tmp_path)


def test_a_folder_that_cannot_be_written_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path below a regular file: also root cannot write there."""
    (tmp_path / "file").write_text("x")
    assert 2 == main(["train", "--run-dir", str(tmp_path / "file/run"), *SMALL])
    error = capsys.readouterr().err
    assert 1 == error.count("\n"), error
    assert "Not a directory" in error


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["evaluate"],
        ["inspect"],
        ["train", "--resume"],
        ["lab", "--reset"],
        ["prune"],
        ["compress"],
        ["advise"],
        ["consolidate", "step_1000"],
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """And where help is to be had."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert 2 == left.value.code
    error = capsys.readouterr().err
    assert 1 == error.count("\n"), error
    assert "--help" in error


def test_help_names_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """A stranger learns what there is, in 100 columns."""
    for arguments, words in [
        (
            ["--help"],
            [
                "train",
                "evaluate",
                "inspect",
                "prune",
                "compress",
                "decompress",
                "advise",
                "certify",
                "crash-test",
                "consolidate",
                "exit codes: 0 done; 1 a test found something; 2 ",
            ],
        ),
        (["train", "--help"], ["--resume", "--run-dir", "key=value", "koemorph train --resume auto"]),
        (["evaluate", "--help"], ["--checkpoint", "--json"]),
        (["inspect", "--help"], ["PATH|DIR", "--json", "nothing in a file can run"]),
        (["validate", "--help"], ["PATH [PATH ...]", "--json", "or that it cannot be told, and why"]),
        (["diff", "--help"], ["A B", "--json", "nothing in a file can run", "0: identical; 1: something differs"]),
        (["prune", "--help"], ["DIR", "--keep-last-n N", "--dry-run", "are never removed", "its config.yaml"]),
        (["compress", "--help"], ["PATH|DIR", "gzip|zstd|shuffle-zstd", "--bf16", "-o OUT", "DIR --older-than 5"]),
        (["decompress", "--help"], ["-o OUT", "--replace", "the same bytes"]),
        (["advise", "--help"], ["--save-seconds S", "--mtbf-hours H", "Young (1974) and Daly (2006)"]),
        (["certify", "--help"], ["--script", "--stop", "--json", "training.threads=2", "an empty folder", "seed it"]),
        (["crash-test", "--help"], ["--script", "--max-points", "--json", "def recover(directory)"]),
        (["consolidate", "--help"], ["DIR", "-o OUT", "without torchrun", "Every byte of the folder is checked first"]),
        (["lab", "--help"], ["outputs/my-notebooks", "--reset", "moved aside"]),
        (["progress", "--help"], ["the questions of the lessons"]),
    ]:
        with contextlib.suppress(SystemExit):
            main(arguments)
        out = capsys.readouterr().out
        assert all(word in out for word in words), out
        assert max(map(len, out.splitlines())) <= 120


def test_the_example_is_certified(capsys: pytest.CaptureFixture[str]) -> None:
    """Killed inside an epoch, in processes of their own, with two threads.

    `make proof` kills it at the ends of epochs as well, and with one thread and with two, without workers and with two.
    """
    settings = [*SMALL, "training.epochs=2", "training.threads=2"]
    assert 0 == main(["certify", "--json", "--stop", "1,2", *settings])
    receipt = json.loads(capsys.readouterr().out)
    assert receipt["certified"]
    assert [(1, 2)] == [(stop["resumed_at"]["epoch"], stop["resumed_at"]["batch"]) for stop in receipt["stops"]]
    assert 2 == receipt["environment"]["threads"]


@pytest.mark.parametrize(
    ("script", "code", "says"),
    [
        ("import random; random.random()", 2, "nothing was recorded: expected a CheckpointManager that saves"),
        (
            "raise SystemExit('no data')",
            2,
            "the training fails without any stop, in an empty folder: exit code 1: no data",
        ),
        (
            "def (",
            2,
            "the training fails without any stop, in an empty folder: exit code 1: SyntaxError: invalid syntax",
        ),
        (None, 2, "expected a Python script, found none"),
    ],
)
def test_a_script_that_cannot_be_certified_is_one_line(
    script: str | None, code: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says what was expected."""
    path = tmp_path / "script.py"
    if script is not None:
        path.write_text(script)
    assert code == main(["certify", "--script", str(path)])
    error = capsys.readouterr().err
    assert says in error
    assert 1 == error.count("\n")


def test_a_script_that_forgets_is_answered_with_no(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, and what differs first."""
    path = tmp_path / "script.py"
    path.write_text(
        "import random, torch\n"
        "from koemorph_tutorial import CheckpointManager\n"
        "random.seed(0)\n"
        "torch.manual_seed(0)\n"
        "model, forgotten = torch.nn.Linear(1, 1), 0\n"
        "with CheckpointManager('run', {'model': model}, save_freq=1) as checkpoints:\n"
        "    for epoch in checkpoints.epochs(3):\n"
        "        forgotten += 1\n"
        "        torch.nn.init.constant_(model.weight, forgotten)\n"
        "        checkpoints.save({'loss': 1.0})\n"
    )
    assert 1 == main(["certify", "--script", str(path), "--stop", "2"])
    assert "at the end of epoch 2: model.weight: expected" in capsys.readouterr().out


def test_a_certificate_that_is_asked_to_end_takes_its_processes_along(tmp_path: Path) -> None:
    """SIGTERM as Ctrl-C: none of them trains on, and nothing stays in the folder for temporary files."""
    script, temporary = tmp_path / "endless.py", tmp_path / "temporary"
    temporary.mkdir()
    script.write_text("import pathlib, time\npathlib.Path('began').touch()\ntime.sleep(600)\n")
    command = [sys.executable, "-m", "koemorph_tutorial", "certify", "--script", str(script)]
    with subprocess.Popen(command, env={**os.environ, "TMPDIR": str(temporary)}, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 60
        while not list(temporary.rglob("began")) and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert 130 == process.wait(60)
    assert [] == list(temporary.iterdir())
    alive = subprocess.run(["pgrep", "-f", str(script)], capture_output=True, text=True, check=False).stdout
    assert "" == alive


def test_a_stopped_training_says_how_it_goes_on(tmp_path: Path) -> None:
    """Ctrl-C and SIGTERM: saved, exit code 3, and the last line is a command that works."""
    folder = tmp_path / "a run"
    settings = [*SMALL, "training.epochs=500", "training.patience=null", "training.checkpoint.keep_last_n=2"]
    command = [sys.executable, "-m", "koemorph_tutorial", "train", "--run-dir", str(folder)]
    for number in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen(
            [*command, *settings], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as run:
            assert run.stdout is not None
            lines = [next(run.stdout)]
            while "] epoch" not in lines[-1]:
                lines.append(next(run.stdout))
            run.send_signal(number)
            lines += run.stdout.readlines()
        assert 3 == run.returncode, lines
        assert lines[-2].startswith(f"stopped by {number.name}: saved")
        program, *rest = shlex.split(lines[-1].removeprefix("go on by: "))
        assert "koemorph" == program
        command, settings = [sys.executable, "-m", "koemorph_tutorial", *rest], []


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    """`koemorph train | head -1` ends without a traceback."""
    command = f"{sys.executable} -m koemorph_tutorial train --run-dir run {' '.join(SMALL)} training.epochs=2 | head -1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


# ------------------------------------------------------------------------------------------------ the lessons


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with the lessons in it, as the current folder."""
    root = Path(__file__).resolve().parents[1]
    project = tmp_path / "a project"
    project.mkdir()
    shutil.copy(root / "pyproject.toml", project)
    shutil.copytree(root / "notebooks", project / "notebooks")
    monkeypatch.chdir(project)
    return project


def test_a_lesson_is_brought_back_and_the_old_copy_kept(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = project / "outputs/my-notebooks/01_state.ipynb"
    assert 0 == main(["lab", "--reset", "1"])
    pristine = copy.read_text("utf-8")
    copy.write_text("mine", "utf-8")
    capsys.readouterr()
    assert 0 == main(["lab", "--reset", "01"])
    assert [
        "outputs/my-notebooks/01_state-earlier-1.ipynb: your copy as it was",
        "outputs/my-notebooks/01_state.ipynb: the lesson as it comes",
    ] == capsys.readouterr().out.splitlines()
    assert (pristine, "mine") == (
        copy.read_text("utf-8"),
        copy.with_name("01_state-earlier-1.ipynb").read_text("utf-8"),
    )


@pytest.mark.parametrize("number", ["11", "\uff11"])
def test_a_lesson_that_does_not_exist_is_one_line(
    number: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 2 == main(["lab", f"--reset={number}"])
    error = capsys.readouterr().err
    assert error.startswith(f"koemorph: there is no lesson {number}; there")
    lessons = sorted(notebook.stem.replace("_", " ") for notebook in (project / "notebooks").glob("[0-9]*.ipynb"))
    assert error.rstrip().endswith(f"there are {', '.join(lessons)}")
    assert "01 state, 02 storage, 03 resume" in error
    assert not (project / "outputs").exists()


def test_progress_lists_every_question_and_what_was_done(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main(["progress"])
    assert not (project / "outputs").exists()
    (project / "outputs").mkdir()
    entry = '{"version": 1, "questions": {"01.3": {"attempts": 2, "passed": true}}}'
    (project / "outputs/progress.json").write_text(entry, "utf-8")
    capsys.readouterr()
    assert 0 == main(["progress"])
    out = capsys.readouterr().out
    assert all(number in out for number in ("01.1", "01.2", "01.3", "01.4", "01.5"))
    assert 1 == out.count("passed, 2 tries")


def test_progress_that_cannot_be_read_is_one_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "outputs").mkdir()
    (project / "outputs/progress.json").write_text("{", "utf-8")
    assert 2 == main(["progress"])
    error = capsys.readouterr().err
    assert (1, True) == (error.count("\n"), error.rstrip().endswith("move it away to begin anew"))
    (project / "outputs/progress.json").unlink()
    (project / "outputs/progress.json").mkdir()
    assert 2 == main(["progress"])
    assert 1 == capsys.readouterr().err.count("\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
@pytest.mark.parametrize("arguments", [["progress"], ["inspect", "run"]])
def test_an_output_that_cannot_be_written_is_one_line(arguments: list[str], project: Path) -> None:
    CheckpointManager(project / "run", {"model": torch.nn.Linear(1, 1)}).save({"loss": 1.0}, epoch=0)
    for redirect in (">/dev/full", ">&-"):
        command = shlex.join([sys.executable, "-m", "koemorph_tutorial", *arguments])
        ran = subprocess.run(["sh", "-c", f"{command} {redirect}"], capture_output=True, text=True, check=False)
        assert "Traceback" not in ran.stderr
        assert ran.stderr.count("\n") <= 1
    assert (2, "koemorph: No space left on device\n") == _run_full(arguments)


def _run_full(arguments: list[str]) -> tuple[int, str]:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "koemorph_tutorial", *arguments]
        ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    return ran.returncode, ran.stderr


# --------------------------------------------------------------------------------------------------------------- export


def _exports(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run `koemorph export` and return its exit code and what it says."""
    capsys.readouterr()
    code = main(["export", *arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.fixture(scope="module")
def best(straight: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of a run's best, in a folder in which exports may lie."""
    return Path(shutil.copy(straight / "checkpoints" / "best_model.pth", tmp_path_factory.mktemp("shipped")))


@pytest.mark.parametrize(("form", "suffix"), [("onnx", "onnx"), ("torchscript", "pt"), ("safetensors", "safetensors")])
def test_an_export_lies_beside_its_checkpoint_with_a_receipt(
    best: Path, form: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = _exports([str(best), "--format", form], capsys)
    assert (0, "same weights: yes" if suffix == "safetensors" else "same model: yes") == (
        code,
        out.splitlines()[-1].partition(",")[0],
    )
    assert "from            best_model.pth, line " in out
    receipt = json.loads(best.with_name(f"best_model.{suffix}.receipt.json").read_text())
    assert receipt["ok"] is True
    code, out, _ = _exports([str(best), "--verify", str(best.with_name(f"best_model.{suffix}")), "--json"], capsys)
    assert (0, True) == (code, json.loads(out)["ok"])


def test_an_export_of_another_epoch_is_not_this_model(
    straight: Path, best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(straight / "checkpoints" / "checkpoint_epoch_000.pth")
    assert 0 == _exports([other, "--format", "safetensors", "-o", str(tmp_path / "w.safetensors")], capsys)[0]
    code, out, _ = _exports([str(best), "--verify", str(tmp_path / "w.safetensors")], capsys)
    assert 1 == code
    assert "same model: NO, 17 with other bits" in out


def test_compressed_averaged_and_old_checkpoints_are_exported(
    best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By shuffle-zstd and gzip; with averaged weights beside the model's; as the recipe wrote them."""
    import torch

    from koemorph_tutorial import compress_checkpoint, load_checkpoint, save_checkpoint

    files = [compress_checkpoint(best, codec=codec, output=tmp_path / name) for codec, name in (
        ("shuffle-zstd", "a.shuffle.pth"), ("gzip", "b.pth.gz")
    )]  # fmt: skip
    content = load_checkpoint(best)
    averaged = {name: value + 1 for name, value in content["model_state_dict"].items()}
    files.append(tmp_path / "averaged.pth")
    save_checkpoint({**content, "ema_state_dict": averaged}, files[-1])
    recipe = {"epoch", "global_step", "model_state_dict", "optimizer_state_dict", "metrics", "config"}
    files.append(tmp_path / "recipe.pth")
    torch.save({name: content[name] for name in recipe}, files[-1])
    for index, file in enumerate(files):
        out = tmp_path / f"{index}.safetensors"
        assert 0 == _exports([str(file), "--format", "safetensors", "-o", str(out)], capsys)[0], file
        assert 0 == _exports([str(best), "--verify", str(out)], capsys)[0], file
    out = tmp_path / "ema.safetensors"
    code, said, _ = _exports([str(files[2]), "--format", "safetensors", "--weights", "ema", "-o", str(out)], capsys)
    assert 0 == code
    assert "ema_state_dict" in said
    assert 1 == _exports([str(best), "--verify", str(out)], capsys)[0]


def test_what_cannot_be_exported_is_one_line(best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    damaged = bytearray(best.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.pth").write_bytes(damaged)
    torch.save({"model_state_dict": {"weight": torch.ones(2)}}, tmp_path / "bare.pth")
    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    to = ["--format", "safetensors"]
    for arguments, words in (
        ([str(tmp_path / "damaged.pth"), *to], "is damaged"),
        ([str(tmp_path / "bare.pth"), *to], "expected a config to build the model from, found none"),
        ([str(tmp_path / "none.pth"), *to], "found nothing of that name"),
        ([str(best), *to, "-o", str(tmp_path / "no/w.safetensors")], "expected the folder"),
        ([str(best), *to, "-o", str(tmp_path / "mine.safetensors")], "expected no file of that name, found one"),
        ([str(best), *to, "-o", str(best), "--force"], "expected a name of its own"),
        ([str(best), *to, "--weights", "ema", "-o", str(tmp_path / "e")], "expected the weights of 'ema', found model"),
        ([str(best), "--verify", str(tmp_path / "x"), "--force"], "--verify writes nothing"),
        ([str(best), "--verify", str(tmp_path / "x")], "expected an exported file"),
    ):
        code, out, error = _exports(arguments, capsys)
        assert (2, "") == (code, out)
        assert words in error
        assert 1 == error.count("\n")
    with pytest.raises(SystemExit, match="2"):
        main(["export", str(best), "--format", "tflite"])
    assert "expected onnx, torchscript or safetensors, found 'tflite'" in capsys.readouterr().err
