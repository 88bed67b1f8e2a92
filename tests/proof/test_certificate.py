"""The certificate in every combination that `make test` samples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from koemorph_tutorial import Position
from koemorph_tutorial.testing import certify_script
from tests import forgetting
from tests.test_certificate import AT_AN_END, INSIDE, assert_named, certify_without

SMALL = ["training.epochs=4", "data.train_windows=64", "data.validation_windows=16", "data.seconds=3.0"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_example_is_certified(threads: int, workers: int, tmp_path: Path) -> None:
    """At the end of an epoch and inside one, by the command line, in processes of their own."""
    command = [sys.executable, "-m", "koemorph_tutorial", "certify", "--json", *SMALL]
    command += [f"training.threads={threads}", f"training.workers={workers}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert 0 == done.returncode, done.stdout + done.stderr
    receipt = json.loads(done.stdout)
    assert [0, 4, 0] == [stop["resumed_at"]["batch"] for stop in receipt["stops"]]
    assert threads == receipt["environment"]["threads"]
    print(f"\n{threads} threads, {workers} workers: certified at {len(receipt['stops'])} stops")


@pytest.mark.parametrize("stop", [AT_AN_END, INSIDE], ids=str)
@pytest.mark.parametrize("what", forgetting.LOSSES, ids=".".join)
def test_whatever_is_lost_is_named_first(what: tuple[str, str], stop: Position) -> None:
    """Each part of a run, lost at the save and at the restore, resumed at the end of an epoch and inside one."""
    if what == ("loader", "batches") and not stop.batch:
        return  # none are done there: nothing is lost
    if what != ("best", "value"):  # that one is found again in the folder
        assert_named(what, certify_without(lambda: forgetting.lose_at_save(what), stop), stop)
        assert_named(what, certify_without(lambda: forgetting.lose_at_restore(what), stop), stop)
    else:
        assert_named(what, certify_without(forgetting.forget_the_best, stop), stop)


def test_a_program_is_certified_in_processes_of_its_own(tmp_path: Path) -> None:
    """Nothing is shared with the process that asks, and the loops of others need no change."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from pathlib import Path\n"
        "from tests.forgetting import train\n"
        "train(Path('here'))\n"
    )
    certificate = certify_script([sys.executable, str(script)], stops=[AT_AN_END, INSIDE])
    assert certificate.certified, "\n".join(certificate.lines())
