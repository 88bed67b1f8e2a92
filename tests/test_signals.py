"""Signals that ask for a stop: the first is noted, the second leaves, what was there before is called and put back."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch

from koemorph_tutorial import CheckpointManager, list_checkpoints, signals
from koemorph_tutorial.digests import file_content
from koemorph_tutorial.signals import StopRequest
from koemorph_tutorial.testing import children

from . import stopping
from .stopping import Moment

USR1, USR2 = signal.SIGUSR1, signal.SIGUSR2


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> object:
    before = {number: signal.getsignal(number) for number in (USR1, USR2, signal.SIGINT, signal.SIGTERM)}
    signal.signal(USR1, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(body: str) -> subprocess.CompletedProcess[str]:
    """Run a script that listens for SIGTERM and SIGUSR1 by `request`."""
    script = (
        "import os, signal, sys, time\nfrom koemorph_tutorial.signals import StopRequest\n"
        "request = StopRequest([signal.SIGTERM, signal.SIGUSR1])\n"
    ) + textwrap.dedent(body)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)


def test_the_first_signal_is_noted_and_interrupts_nothing() -> None:
    """Nothing is raised where it arrives."""
    request = StopRequest([USR1])
    request.listen()
    signal.raise_signal(USR1)
    assert USR1 == request.received
    request.stop_listening()


def test_without_a_signal_nothing_is_noted() -> None:
    """To listen is not to be stopped."""
    request = StopRequest([USR1])
    request.listen()
    request.stop_listening()
    assert request.received is None


@pytest.mark.parametrize("second", ["SIGTERM", "SIGUSR1"])
def test_a_second_signal_leaves_at_once(second: str) -> None:
    """It ends the process as if nobody had listened, whichever of them it is."""
    done = run(f"""
        request.listen()
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.3)
        signal.raise_signal(signal.{second})
        print("still here")
    """)
    assert -signal.Signals[second] == done.returncode
    assert "" == done.stdout


def test_one_request_that_arrives_twice_in_a_moment_is_one() -> None:
    """`timeout` signals the process and then its group."""
    request = StopRequest([USR1])
    request.listen()
    signal.raise_signal(USR1)
    signal.raise_signal(USR1)
    assert USR1 == request.received
    request.stop_listening()


def test_an_earlier_handler_is_called_and_put_back() -> None:
    """Somebody else's wish to know is respected."""
    calls: list[int] = []

    def earlier(number: int, frame: object) -> None:
        calls.append(number)

    signal.signal(USR1, earlier)
    request = StopRequest([USR1])
    request.listen()
    signal.raise_signal(USR1)
    request.stop_listening()
    assert [USR1] == calls
    assert earlier == signal.getsignal(USR1)


def test_ctrl_c_does_not_raise_where_it_is_listened_for() -> None:
    """Python's own handler of SIGINT is the one that is not called: it would tear what is under way."""
    request = StopRequest([signal.SIGINT])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    request.listen()
    signal.raise_signal(signal.SIGINT)
    assert signal.SIGINT == request.received
    request.stop_listening()
    assert signal.default_int_handler == signal.getsignal(signal.SIGINT)


def test_two_that_listen_both_note_it_and_may_leave_in_any_order() -> None:
    """The first who stops leaves the handler of the second in place, and is not asked any more."""
    one, two, calls = StopRequest([USR1]), StopRequest([USR1]), []
    signal.signal(USR1, lambda number, frame: calls.append(number))
    one.listen()
    two.listen()
    one.stop_listening()
    signal.raise_signal(USR1)
    assert (None, USR1, [USR1]) == (one.received, two.received, calls)
    two.stop_listening()
    signal.raise_signal(USR1)
    assert [USR1, USR1] == calls


def test_one_that_was_dropped_below_another_does_not_end_the_process() -> None:
    """A notebook's manager that nobody closed is collected while the next one listens: it has nothing to pass on."""
    done = run(
        """
        request.listen()
        newer = StopRequest([signal.SIGTERM])
        newer.listen()
        request.stop_listening()
        os.kill(os.getpid(), signal.SIGTERM)
        print(newer.received.name)
        newer.stop_listening()
        print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
        """
    )
    assert (0, "SIGTERM\nTrue\n") == (done.returncode, done.stdout)


@pytest.mark.parametrize(
    ("between", "calls"), [("", 2), ("signal.signal(signal.SIGTERM, lambda *args, old=old: old(*args))", 1)]
)
def test_the_second_for_one_that_nobody_closed_is_the_first_for_the_next(between: str, calls: int) -> None:
    """The run before was stopped in this notebook and left open; this one has yet to save.

    Also where somebody's handler stands between the two: then we do not see what lies below them. A second signal for
    this one leaves, as ever.
    """
    done = run(f"""
        calls = []
        signal.signal(signal.SIGTERM, lambda number, frame: calls.append(number))
        request.listen()
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.3)
        old = signal.getsignal(signal.SIGTERM)
        {between}
        newer = StopRequest([signal.SIGTERM])
        newer.listen()
        signal.raise_signal(signal.SIGTERM)
        print(newer.received.name, len(calls), flush=True)
        time.sleep(0.3)
        signal.raise_signal(signal.SIGTERM)
        print("still here")
    """)
    assert (-signal.SIGTERM, f"SIGTERM {calls}\n") == (done.returncode, done.stdout), done.stderr


def test_a_signal_after_the_end_does_what_it_did_before() -> None:
    """Also where a handler that somebody put over ours still calls it."""
    done = run("""
        request.listen()
        ours = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, lambda number, frame: ours(number, frame))
        request.stop_listening()
        signal.raise_signal(signal.SIGTERM)
        print("still here")
    """)
    assert -signal.SIGTERM == done.returncode


def test_a_forked_child_is_not_stopped_from_dying() -> None:
    """`Process.terminate` of a child that somebody starts while we listen."""
    done = run("""
        import multiprocessing
        request.listen()
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        time.sleep(0.2)
        child.terminate()
        child.join(5)
        print(child.exitcode, request.received)
    """)
    assert f"{-signal.SIGTERM} None" == done.stdout.strip(), done.stderr


def test_a_forked_child_may_listen_itself(tmp_path: Path) -> None:
    """The request of the process that it was forked from is no earlier handler: that would end it."""

    def work() -> str | None:
        mine = StopRequest([USR1])
        mine.listen()
        signal.raise_signal(USR1)
        return mine.received and mine.received.name

    request = StopRequest([USR1])
    request.listen()
    assert "SIGUSR1" == children.run(work, tmp_path, timeout=20).result
    request.stop_listening()


def test_outside_the_main_thread_nobody_listens() -> None:
    """Python would refuse; a training in a thread goes on without."""
    request = StopRequest([USR1])
    before = signal.getsignal(USR1)
    thread = threading.Thread(target=request.listen)
    thread.start()
    thread.join()
    assert before == signal.getsignal(USR1)
    request.stop_listening()


def test_a_manager_that_is_dropped_without_a_close_listens_no_more(tmp_path: Path) -> None:
    """A cell that failed leaves no process behind that cannot be asked to end."""
    manager = CheckpointManager(tmp_path, {"model": torch.nn.Linear(1, 1)}, signals=[USR1])
    epochs = manager.epochs(2)
    next(epochs)
    assert signal.SIG_DFL != signal.getsignal(USR1)
    del manager, epochs
    gc.collect()
    assert signal.SIG_DFL == signal.getsignal(USR1)


def test_listening_twice_is_listening_once() -> None:
    """The second time must not take ours for the earlier handler."""
    before = signal.getsignal(USR1)
    request = StopRequest([USR1])
    request.listen()
    request.listen()
    request.stop_listening()
    assert before == signal.getsignal(USR1)


def test_the_moment_in_which_two_are_one_is_short() -> None:
    """Nobody who asks twice waits for long."""
    assert 0.2 >= signals.TOGETHER


def test_a_signal_from_another_process_is_noted_during_a_write(tmp_path: Path) -> None:
    """A commit is not interrupted: the write comes to its end, and then the stop is known."""
    request = StopRequest([USR1])
    request.listen()
    child = subprocess.Popen([sys.executable, "-c", f"import os; os.kill({os.getpid()}, {int(USR1)})"])
    with open(tmp_path / "file", "wb") as file:
        until = time.monotonic() + 20
        while request.received is None and time.monotonic() < until:
            file.write(b"x" * 100_000)
            os.fsync(file.fileno())
            file.seek(0)
    child.wait()
    assert USR1 == request.received
    request.stop_listening()


def moments_of_a_training(folder: Path, shape: str = "") -> tuple[list[Moment], dict[str, dict[str, str]]]:
    """Return the moments of the training of `stopping` that nobody stops, and what it leaves."""

    def work() -> list[Moment]:
        stopping.train(folder / "straight", moments := stopping.Moments(), shape=shape)
        return moments.seen

    folder.mkdir(exist_ok=True)
    ended = children.run(work, folder, timeout=60)
    assert ended.error is None
    return [tuple(moment) for moment in ended.result], contents(folder / "straight")


def contents(folder: Path) -> dict[str, dict[str, str]]:
    """Return what lies in a folder of checkpoints, leaf by leaf."""
    return {path.name: file_content(path) for path in sorted(folder.iterdir()) if path.name != ".lock"}


def spread(moments: list[Moment], count: int) -> list[Moment]:
    """Choose moments from all three phases, evenly, the same each time."""
    chosen = []
    for number, phase in enumerate(("training", "validation", "saving")):
        those = [moment for moment in moments if moment[0] == phase]
        share = count // 3 + (number < count % 3)
        chosen += [those[(2 * index + 1) * len(those) // (2 * share)] for index in range(share)]
    return chosen


def stopped_and_resumed(
    folder: Path, moment: Moment, shape: str = ""
) -> tuple[str | None, bool, dict[str, dict[str, str]]]:
    """Send SIGTERM at a moment, then resume; return how it ended, whether code after the loop ran, what is left."""
    folder.mkdir()
    run = folder / "run"
    stopped = children.run(lambda: stopping.train(run, stopping.Moments(moment), shape=shape), folder, timeout=60)
    ran_on = (run / "after.txt").exists()
    resumed = children.run(lambda: stopping.train(run, stopping.Moments(), shape=shape), folder, timeout=60)
    assert resumed.error is None
    return stopped.error, ran_on, contents(run)


def test_a_stop_at_any_moment_leaves_a_run_that_resumes_bitwise(tmp_path: Path) -> None:
    """In training, validation and saving: exit code 3, and what comes next is not run; then as if nothing had been."""
    moments, expected = moments_of_a_training(tmp_path / "straight")
    for number, moment in enumerate(spread(moments, 8)):
        how, ran_on, found = stopped_and_resumed(tmp_path / str(number), moment)
        assert ("exit code 3", False) == (how, ran_on), moment
        assert expected == found, moment


@pytest.mark.parametrize("shape", ["accumulated", "validated"])
def test_so_does_a_loop_of_another_shape(shape: str, tmp_path: Path) -> None:
    """What only validation moves begins it anew; what a step has not counted stays uncounted."""
    moments, expected = moments_of_a_training(tmp_path / "straight", shape)
    polls = [moment for moment in moments if moment[1] == "poll"]
    steps = [moment for moment in moments if moment[1] == "forward" and moment[0] == "training"]
    for number, moment in enumerate((polls[2], polls[-1], steps[len(steps) // 2])):
        how, ran_on, found = stopped_and_resumed(tmp_path / str(number), moment, shape)
        assert ("exit code 3", False) == (how, ran_on), moment
        assert expected == found, moment


def trained(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run a loop of four epochs with six batches; `body` stands in its inner loop, `stop()` sends SIGTERM."""
    script = f"""
import os, signal, sys, time, torch
from torch.utils.data import DataLoader, TensorDataset
from koemorph_tutorial import CheckpointManager, ResumableLoader, StopTraining
def stop(): os.kill(os.getpid(), signal.SIGTERM)
model = torch.nn.Linear(1, 1)
loader = ResumableLoader(DataLoader(TensorDataset(torch.zeros(6, 1))))
checkpoints = CheckpointManager("run", {{"model": model, "loader": loader}}, save_freq=1)
{textwrap.dedent(body)}
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=folder)


def newest(folder: Path) -> tuple[int, int]:
    """Return epoch and batch of the newest checkpoint."""
    position = list_checkpoints(folder / "run")[0].position
    return position.epoch, position.batch


def test_a_signal_between_the_decision_and_its_end_waits_for_the_next_step(tmp_path: Path) -> None:
    """Nobody says that something is saved that is not."""
    done = trained(
        tmp_path,
        """
        decide, steps = checkpoints._decide, []
        def and_then_stop(*arguments, **more):
            decision = decide(*arguments, **more)
            steps.append(decision)
            if len(steps) == 3:
                stop()
            return decision
        checkpoints._decide = and_then_stop
        for epoch in checkpoints.epochs(4):
            for batch in loader:
                checkpoints.step()
            checkpoints.save({"loss": 1.0})
        """,
    )
    assert 3 == done.returncode, done.stderr
    assert (0, 4) == newest(tmp_path)


def test_what_is_saved_at_a_stop_is_not_written_over(tmp_path: Path) -> None:
    """By a loop that catches everything and saves in a finally clause: half an epoch would pass for a whole one."""
    done = trained(
        tmp_path,
        """
        for epoch in checkpoints.epochs(4):
            try:
                for batch in loader:
                    if checkpoints.position.batch == 2:
                        stop()
                    checkpoints.step()
            finally:
                checkpoints.save({"loss": 1.0})
        """,
    )
    assert 3 == done.returncode, done.stderr
    assert (0, 3) == newest(tmp_path)


def test_a_loop_that_counts_its_own_epochs_is_stopped_at_their_ends(tmp_path: Path) -> None:
    """Also after a resume."""
    body = """
        first = checkpoints.resume().position.epoch
        for epoch in range(first, 9):
            for batch in loader:
                checkpoints.step()
            if epoch in (1, 3):
                stop()
            checkpoints.save({"loss": 1.0}, epoch=epoch)
        """
    for expected in ((2, 0), (4, 0)):
        done = trained(tmp_path, body)
        assert 3 == done.returncode, done.stderr
        assert expected == newest(tmp_path)


def test_the_loader_that_counts_is_the_longer_of_two_that_stopped_at_one_batch(tmp_path: Path) -> None:
    """A shorter one that is begun again and again beside it stands first among the objects."""
    body = """
        side = ResumableLoader(DataLoader(TensorDataset(torch.zeros(3, 1))))
        checkpoints = CheckpointManager("run", {"side": side, "model": model, "loader": loader}, save_freq=1)
        for epoch in checkpoints.epochs(2):
            others = iter(side)
            for batch in loader:
                try:
                    next(others)
                except StopIteration:
                    others = iter(side)
                    next(others)
                if len(sys.argv) > 1 and checkpoints.position.batch == 1:
                    stop()
                checkpoints.step()
            checkpoints.save({"loss": 1.0})
        """
    assert 3 == trained(tmp_path, "sys.argv.append('stop')" + textwrap.dedent(body).replace("\n", "\n", 1)).returncode
    assert (0, 2) == newest(tmp_path)
    done = trained(tmp_path, body)
    assert 0 == done.returncode, done.stderr
    assert (2, 0) == newest(tmp_path)


def test_validation_is_one_of_the_moments_that_are_tried(tmp_path: Path) -> None:
    """A stop there is obeyed there, not an epoch later: nothing after it is trained or saved."""
    moments, _ = moments_of_a_training(tmp_path / "straight")
    moment = next(moment for moment in moments if moment[1] == "poll")
    run = tmp_path / "run"
    ended = children.run(lambda: stopping.train(run, stopping.Moments(moment)), tmp_path, timeout=60)
    assert "exit code 3" == ended.error
    newest = list_checkpoints(run)[0]
    assert (0, 0, 6) == (newest.epoch, newest.position.epoch, newest.position.batch)
