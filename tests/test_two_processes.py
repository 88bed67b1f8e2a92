"""The training in two processes, started by torchrun as a shell would."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from koemorph_tutorial import list_checkpoints
from koemorph_tutorial.teaching import two_processes


def test_a_killed_rank_takes_the_run_down_and_it_goes_on_to_the_twin_s_weights(tmp_path: Path) -> None:
    killed = two_processes.launch(tmp_path, kill=True)
    assert "a twin: epochs 0 to 5; the run: rank 1 was killed, and rank 0 left" == killed
    assert two_processes.KILLED - 1 == list_checkpoints(tmp_path / "run")[0].epoch
    assert "the run: epochs 3 to 5, and the weights of the twin: True" == two_processes.launch(tmp_path)
    assert two_processes.EPOCHS - 1 == list_checkpoints(tmp_path / "run")[0].epoch


def test_where_no_process_can_be_started_it_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise PermissionError

    monkeypatch.setattr(subprocess, "run", refused)
    assert "two processes cannot be started here: PermissionError" == two_processes.launch("folder")


def test_why_nothing_came_of_it_is_quoted_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = subprocess.CompletedProcess([], 1, "", "Traceback:\n  a port\nOSError: no address is free\n")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: silent)
    assert "two processes cannot be started here: OSError: no address is free" == two_processes.launch("folder")
