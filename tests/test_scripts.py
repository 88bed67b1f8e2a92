"""A script is crash-tested as it is, or by its two functions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from koemorph_tutorial.__main__ import main
from koemorph_tutorial.testing import CrashTestError, crash_test
from koemorph_tutorial.testing.scripts import load_script

PLAIN = """
import random, sys
import numpy as np, torch
from helper import LOSSES
from koemorph_tutorial import CheckpointManager
assert len(sys.argv) == 1
random.seed(0), np.random.seed(0), torch.manual_seed(0)
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
with CheckpointManager("checkpoints", {"model": model, "optimizer": optimizer}, save_freq=1) as checkpoints:
    for epoch in checkpoints.epochs(2):
        optimizer.zero_grad()
        model(torch.ones(4, 2)).sum().backward()
        optimizer.step()
        checkpoints.save({"loss": LOSSES[epoch]})
if __name__ == "__main__":
    print("done")
"""

FUNCTIONS = """
from koemorph_tutorial.testing import saved
def train(directory):
    (directory / "a.txt").write_text("a")
    saved("a")
def recover(directory):
    path = directory / "a.txt"
    return path.read_text() if path.exists() else None
"""


def test_a_script_that_knows_nothing_of_the_kit_is_tested_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("LOSSES = [0.9, 0.5]")
    script = tmp_path / "train.py"
    script.write_text(PLAIN)
    campaign = crash_test(*load_script(script), max_points=4)
    assert len(campaign.points) > 25
    assert campaign.not_ok == ()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["helper.py", "train.py"]


def test_the_two_functions_of_a_script_are_taken_and_the_exit_code_says_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text(FUNCTIONS)
    assert main(["crash-test", "--script", str(script)]) == 1
    said = capsys.readouterr().out
    assert "WRONG: it loaded, with other bits than were saved" in said
    assert "not seen: writes by C" in said
    assert main(["crash-test", "--script", str(script), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)[str(script)]
    assert [point["name"] for point in told["points"]] == ["open", "write", "end"]


def test_the_two_functions_may_import_what_lies_beside_them_when_they_run(tmp_path: Path) -> None:
    (tmp_path / "beside_them.py").write_text("TEXT = 'a'")
    script = tmp_path / "train.py"
    script.write_text(FUNCTIONS.replace("def train(directory):", "def train(directory):\n    import beside_them"))
    assert len(crash_test(*load_script(script), modes=["kill"]).points) == 3


def test_a_worker_that_somebody_kills_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And no answer to what was asked, which exit code 1 would be."""
    script = tmp_path / "train.py"
    kills = "def recover(directory):\n    import os\n    os.kill(os.getppid(), 9)"
    script.write_text(FUNCTIONS.replace("def recover(directory):", kills))
    assert main(["crash-test", "--script", str(script)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "koemorph: a process of the test was killed from outside: is the memory full?\n"


def test_ctrl_c_while_a_script_is_read_is_no_fault_of_the_script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text(f"{FUNCTIONS}raise KeyboardInterrupt")
    assert main(["crash-test", "--script", str(script)]) == 130
    assert capsys.readouterr().err == "\nkoemorph: interrupted\n"


def test_a_name_that_the_output_cannot_show_is_escaped(tmp_path: Path) -> None:
    script = tmp_path / "\u58f0.py"
    script.write_text(FUNCTIONS)
    command = [sys.executable, "-m", "koemorph_tutorial", "crash-test", "--script", str(script)]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True)
    assert (1, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith(f"{tmp_path}/\\u58f0.py:\n")


def test_without_a_script_our_own_saves_are_tried(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "koemorph_tutorial", "crash-test", "--max-points", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": 0 not OK") == 2
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (None, "expected a Python script, found: No such file or directory"),
        ("def train(:", "expected a Python script, found: it is not Python"),
        ("def recover(directory): ...", r"expected train\(directory\) beside recover\(directory\), found none"),
        (FUNCTIONS + "raise RuntimeError('no data')", "it cannot be run: RuntimeError: no data"),
    ],
)
def test_a_script_that_cannot_be_used_gets_one_line(
    text: str | None, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    if text is not None:
        script.write_text(text)
    with pytest.raises(CrashTestError, match=line):
        load_script(script)
    assert main(["crash-test", "--script", str(script)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"koemorph: {script}: ")
    assert said.err.count("\n") == 1
