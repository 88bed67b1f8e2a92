"""Lesson 05: answers that people give to its exercises, and that what is said of them is true."""

from __future__ import annotations

import pytest
import torch

from .test_answers import cell_of, refused, said_to

# ------------------------------------------------------------------------------------------------ 05.3


def counted(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f"import math\nimport numpy as np\ndef trained_again(epoch, save_freq):\n    {body}\n"


@pytest.mark.parametrize(
    "lines",
    [
        ("return epoch - (epoch - 1) // save_freq * save_freq",),
        ("return len(range((epoch - 1) // save_freq * save_freq, epoch))",),
        ("saved = max(e for e in range(epoch) if e % save_freq == 0)", "return epoch - saved"),
        ("return epoch % save_freq or save_freq",),
        ("return np.int64((epoch - 1) % save_freq + 1)",),
        ("return float(epoch - math.floor((epoch - 1) / save_freq) * save_freq)",),
    ],
)
def test_every_right_way_to_count_passes(lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "05.3: passed" in said_to("05.3", counted(*lines), capsys)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("(epoch - 1) % save_freq + 1",), "`trained_again` returned None: is `return` missing?"),
        (("return epoch - epoch // save_freq * save_freq",), "epoch 10 is due, but it has not ended"),
        (("return epoch",), "Killed in epoch 13 with `save_freq=5` it says 13. The newest file ends epoch 10, so the"),
        (
            ("return 3",),
            "Killed in epoch 1 with `save_freq=5` it says 3. The newest file ends epoch 0, so the run goes",
        ),
        (("return 1 if epoch == 1 else (epoch - 1) % 5 + 1",), "with `save_freq=3` it says 3"),
        (("return 1 if epoch == 1 else (epoch - 1) % 5 + 1",), "comes to the end of 13 after 1 epoch."),
        (("return list(range(11, 14))",), "expected a number of epochs, found [11, 12, 13]"),
        (("return True",), "expected a number of epochs, found True"),
        (("return (epoch - 1) % save",), "`trained_again` raised NameError"),
    ],
)
def test_what_is_said_of_other_counts_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("05.3", counted(*lines), words, capsys)


# ------------------------------------------------------------------------------------------------ 05.4


def setting(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f"import math\ndef setting_for(interval_seconds, epoch_seconds):\n    {body}\n"


@pytest.mark.parametrize(
    "lines",
    [
        (
            "n = interval_seconds // epoch_seconds",
            "return {'save_freq': n} if n else {'every_minutes': interval_seconds / 60}",
        ),
        (
            "n = math.ceil(interval_seconds / epoch_seconds)",
            "return {'save_freq': n} if n > 1 else {'every_minutes': interval_seconds // 60}",
        ),
        (
            "n = max(1, round(interval_seconds / epoch_seconds))",
            "return {'save_freq': n, 'every_minutes': interval_seconds / 60}",
        ),
        (
            "if interval_seconds < epoch_seconds: return dict(every_minutes=interval_seconds / 60, save_freq=1)",
            "return dict(save_freq=int(interval_seconds / epoch_seconds), milestones=())",
        ),
    ],
)
def test_every_right_setting_passes(lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "05.4: passed" in said_to("05.4", setting(*lines), capsys)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (
            ("return {'save_freq': 5}",),
            "With an interval of 30 minutes and epochs of 1 minute it returns {'save_freq': ",
        ),
        (("return {'save_freq': 5}",), "5}: that is a save after every 5 minutes of work."),
        (("return {'save_freq': 20}",), "epochs of 10 minutes it returns {'save_freq': 20}: that is a save after"),
        (("return {'save_freq': 20}",), "a save after every 3.33 hours of work"),
        (
            ("return int(interval_seconds / epoch_seconds)",),
            'expected {"save_freq": …} or {"every_minutes": …}, found 30',
        ),
        (("return {'minutes': 30}",), "found {'minutes': 30}"),
        (("if interval_seconds > epoch_seconds: return {'save_freq': 2}",), "returns {'save_freq': 2}: that is a save"),
        (
            (
                "if interval_seconds > epoch_seconds:",
                "    return {'save_freq': interval_seconds // epoch_seconds}",
            ),
            "`setting_for` returned None: is `return` missing on one way?",
        ),
        (
            ("return {'every_minutes': 0, 'save_freq': 30}",),
            "which the manager refuses: ValueError: every_minutes: expected a time above 0",
        ),
        (("return {'save_freq': round(interval_seconds / 60)}",), "You put the minutes of the interval into"),
        (
            (
                "if epoch_seconds < interval_seconds: return {'save_freq': interval_seconds // epoch_seconds}",
                "return {'every_minutes': 300}",
            ),
            "epochs of 2 hours it returns {'every_minutes': 300}: that is a save after every 5 hours of work.",
        ),
        (("return {'save_freq': 1 / 0}",), "`setting_for` raised ZeroDivisionError"),
        (
            (
                "if epoch_seconds <= 3600: return {'save_freq': max(1, round(interval_seconds / epoch_seconds))}",
                "return {'every_minutes': interval_seconds / 60}",
            ),
            "Epochs of 2 hours are saved inside, as they should be. But epochs of 40 minutes",
        ),
        (
            (
                "if epoch_seconds <= interval_seconds: return {'save_freq': interval_seconds // epoch_seconds}",
                "return {'every_minutes': 30}",
            ),
            "epochs of 24 hours it returns {'every_minutes': 30}: that is a save after every 30 minutes of work.",
        ),
        (("return {'every_minutes': interval_seconds / 60}",), "where you say nothing it is 5"),
        (("return {'every_minutes': 30}",), "{'every_minutes': 30} (`save_freq` is 5): that is a save after every 5 m"),
        (("return {'every_minutes': interval_seconds}",), "(`save_freq` is 5): that is a save after every 5 minutes"),
        (("return {'save_freq': 30}",), "epochs of 10 minutes it returns {'save_freq': 30}: that is a save after eve"),
        (
            (
                "if epoch_seconds < 900: return {'save_freq': interval_seconds // epoch_seconds}",
                "return {'every_minutes': interval_seconds / 60}",
            ),
            "an interval of 12 hours and epochs of 61.7 minutes it returns {'every_minutes': 720.0} (`save_freq` is 5)",
        ),
        (
            (
                "if epoch_seconds < 2 * interval_seconds:",
                "    return {'save_freq': max(1, round(interval_seconds / epoch_seconds))}",
                "return {'every_minutes': interval_seconds / 60}",
            ),
            "these are saved at their end only",
        ),
        (
            (
                "if epoch_seconds > interval_seconds: return {'save_freq': interval_seconds // epoch_seconds}",
                "return {'every_minutes': interval_seconds / 60}",
            ),
            "The two are swapped",
        ),
        (("return {'save_freq': int(epoch_seconds / interval_seconds)}",), "Upside down: the longer an epoch"),
    ],
)
def test_what_is_said_of_other_settings_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("05.4", setting(*lines), words, capsys)


# ------------------------------------------------------------------------------------------------ 05.5

HEAD = """\
import copy, io, os, queue, threading, time
from pathlib import Path
from concurrent.futures import ThreadPoolExecutor
import torch
"""

POOL = """
class Saver:
    def __init__(self):
        self.pool, self.last = ThreadPoolExecutor(1), None
    def save(self, state, path):
        self.wait()
        self.last = self.pool.submit(torch.save, copy.deepcopy(state), path)
    def wait(self):
        last, self.last = self.last, None
        if last is not None:
            last.result()
"""

THROUGH_MEMORY = """
class Saver:
    thread = error = None
    def save(self, state, path):
        self.wait()
        file = io.BytesIO()
        torch.save(state, file)
        state = torch.load(io.BytesIO(file.getvalue()))
        def write():
            try:
                torch.save(state, path)
            except BaseException as e:
                self.error = e
        self.thread = threading.Thread(target=write)
        self.thread.start()
    def wait(self):
        if self.thread is None: return
        self.thread.join()
        self.thread = None
        if self.error:
            error, self.error = self.error, None
            raise RuntimeError("it was not saved") from error
"""

QUEUE = """
class Saver:
    def __init__(self):
        self.jobs, self.errors = queue.Queue(), []
        threading.Thread(target=self.work, daemon=True).start()
    def work(self):
        while True:
            state, path = self.jobs.get()
            try:
                torch.save(state, path)
            except Exception as error:
                self.errors.append(error)
            self.jobs.task_done()
    def save(self, state, path):
        if self.errors:
            raise self.errors.pop()
        self.jobs.put((copy.deepcopy(state), path))
    def wait(self):
        self.jobs.join()
        if self.errors:
            raise self.errors.pop()
"""


WRITES = """
class Saver:
    thread = error = None
    def save(self, state, path):
        self.wait()
        memory = io.BytesIO()
        torch.save(state, memory)
        self.thread = threading.Thread(target=self.write, args=(memory.getvalue(), path))
        self.thread.start()
    def write(self, data, path):
        try:
            Path(path).write_bytes(data)
        except Exception as e:
            self.error = e
    def wait(self):
        if self.thread is not None:
            self.thread.join()
        error, self.error = self.error, None
        if error:
            raise error
"""
FILES = {
    "as it is": "Path(path).write_bytes(data)",
    "opened": "with open(path, 'wb') as f: f.write(data)",
    "without a buffer": "with open(path, 'wb', 0) as f: f.write(data)",
    "into an open file": "with open(path, 'wb') as f: torch.save(torch.load(io.BytesIO(data)), f)",
    "atomic": "torch.save(torch.load(io.BytesIO(data)), path + '.tmp'); os.replace(path + '.tmp', path)",
    "atomic and opened": "f = open('x', 'w+b'); f.write(data); f.flush(); os.fsync(f); f.close(); os.rename('x', path)",
}

COPIES_ELSEWHERE = """
class Saver:
    thread = error = None
    def save(self, state, path):
        self.wait()
        self.copied = threading.Event()
        self.thread = threading.Thread(target=self.write, args=(state, path))
        self.thread.start()
        self.copied.wait()
    def write(self, state, path):
        try:
            state = copy.deepcopy(state)
            self.copied.set()
            torch.save(state, path)
        except Exception as e:
            self.error = e
    def wait(self):
        if self.thread is not None:
            self.thread.join()
        error, self.error = self.error, None
        if error:
            raise error
"""


def test_whoever_writes_bytes_needs_to_catch_no_more_than_a_disk_raises(capsys: pytest.CaptureFixture[str]) -> None:
    assert "05.5: passed" in said_to("05.5", HEAD + WRITES.replace("except Exception", "except OSError"), capsys)


@pytest.mark.parametrize("how", FILES)
def test_every_way_to_the_disk_passes_and_none_around_it(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    answer = HEAD + WRITES.replace(FILES["as it is"], FILES[how])
    assert "05.5: passed" in said_to("05.5", answer, capsys)
    assert "nobody was told" in said_to("05.5", answer.replace("self.error = e", "pass"), capsys)


@pytest.mark.parametrize(
    "source", [POOL, THROUGH_MEMORY, QUEUE, COPIES_ELSEWHERE], ids=["a pool", "memory", "a queue", "copied elsewhere"]
)
def test_every_right_saver_passes(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "05.5: passed" in said_to("05.5", HEAD + source, capsys)


@pytest.mark.parametrize(
    ("source", "old", "new", "words"),
    [
        (POOL, "copy.deepcopy(state)", "state", "the file holds a weight of afterwards"),
        (POOL, "copy.deepcopy(state)", "copy.copy(state)", "the file holds a weight of afterwards"),
        (
            POOL,
            "copy.deepcopy(state)",
            "{**state, 'model': {k: v.clone() for k, v in state['model'].items()}}",
            "The weights are those of the call, the optimizer's memory is not",
        ),
        (
            POOL,
            "        self.wait()\n",
            "",
            "the next one comes before anybody called `wait`, and the error is forgotten",
        ),
        (
            POOL,
            "        self.wait()\n        self",
            "        self.pool = ThreadPoolExecutor(2); self",
            "two threads wrote",
        ),
        (POOL, "last.result()", "last.exception()", "The disk was full, nothing was saved, and nobody was told"),
        (POOL, "last, self.last = self.last, None", "last = self.last", "the old error is raised again"),
        (POOL, "path)\n    def wait", "path).result()\n    def wait", "`save` returned only when the disk was done"),
        (QUEUE, "        self.jobs.join()\n", "", "after `wait` there is no whole file: does it wait for the thread"),
        (QUEUE, "self.errors.append(error)", "pass", "The disk was full, nothing was saved, and nobody was told"),
        (QUEUE, "copy.deepcopy(state), path", "{'epoch': 1}, path", "what is stored is not the state"),
        (QUEUE, "copy.deepcopy(state), path", "[state], path", "what is stored is not the state that was handed over"),
        (QUEUE, "raise self.errors.pop()", "self.errors.pop()", "nobody was told"),
        (THROUGH_MEMORY, "self.thread.start()", "self.thread.run()", "`save` returned only when the disk was done"),
        (
            THROUGH_MEMORY,
            "def save(self, state, path):",
            "def save(self, state):",
            "could not be tried: TypeError: Saver.save() takes",
        ),
        (THROUGH_MEMORY, "if self.thread is None: return", "", "`Saver` raised AttributeError: 'NoneType' object has"),
        (COPIES_ELSEWHERE, "        self.copied.wait()\n", "", "Copied, but too late"),
        (QUEUE, "(copy.deepcopy(state), path)", "(state, path)", "the file holds a weight of afterwards"),
        (COPIES_ELSEWHERE, "except Exception", "except OSError", "`torch.save` raises a RuntimeError then, no OSError"),
        (
            QUEUE,
            "        if self.errors:\n            raise self.errors.pop()\n        self.jobs.put",
            "        self.jobs.put",
            "only `wait` raises what was kept",
        ),
    ],
)
def test_what_is_said_of_other_savers_is_true(
    source: str, old: str, new: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert old in source
    said = said_to("05.5", HEAD + source.replace(old, new), capsys)
    assert words in said


@pytest.mark.parametrize(
    ("source", "old", "new", "words"),
    [
        (QUEUE, "except Exception", "except OSError", "`torch.save` raises a RuntimeError then, no OSError"),
        (WRITES, "self.thread.start()", "", "nobody writes: does it start a thread that does?"),
    ],
)
def test_a_saver_whose_thread_does_not_write_or_is_gone_is_waited_for_a_while(
    source: str, old: str, new: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For five times as long as a disk is held; here that is shorter than in a lesson."""
    monkeypatch.setattr("koemorph_tutorial.teaching.exercises.save_policy.HELD", 0.3)
    assert old in source
    assert words in said_to("05.5", HEAD + source.replace(old, new), capsys)


@pytest.mark.parametrize("source", [POOL, QUEUE, THROUGH_MEMORY])
def test_a_copy_that_the_thread_makes_is_always_too_late(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = source.replace("copy.deepcopy(state)", "state").replace("torch.save, state", "late, state")
    source = source.replace("state = torch.load(io.BytesIO(file.getvalue()))", "")
    source = source.replace("torch.save(state, path)", "late(state, path)")
    late = "def late(state, path):\n    torch.save(copy.deepcopy(state), path)\n"
    for _ in range(3):
        assert "Copied, but too late" in said_to("05.5", HEAD + late + source, capsys)


def test_a_saver_that_hangs_is_given_up(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("koemorph_tutorial.teaching.trial.PATIENCE", 2.0)
    said = said_to("05.5", HEAD + POOL.replace("last.result()", "threading.Event().wait()"), capsys)
    assert "`Saver` did not come to an end within 2 seconds" in said


def test_torch_save_is_as_it_was_and_threads_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.save
    said = said_to("05.5", HEAD + POOL.replace("last.result()", "pass"), capsys)
    assert "Traceback" not in said
    assert before is torch.save


@pytest.mark.parametrize("number", ["05.3", "05.4", "05.5"])
def test_a_stub_is_one_until_it_does_more(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    stub = cell_of(number).partition("\n\n\ncheck(")[0]
    assert "not attempted yet" in said_to(number, stub, capsys)
    assert "not attempted yet" in said_to(number, stub.replace(":\n", ":  # hm\n", 1), capsys)
    more = (
        stub + "\n    def more(self):\n        return 1\n"
        if number == "05.5"
        else stub.replace("return ", "return (0, ") + ")"
    )
    assert "not yet\n" in said_to(number, more.replace("  # your line)", ")"), capsys)
