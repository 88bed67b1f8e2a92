"""What a reader has done is written down, by several kernels at once, and never gets in the way."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import logging
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from koemorph_tutorial.records import UnsupportedCheckpointError
from koemorph_tutorial.teaching import check, logbook, predict, reveal
from koemorph_tutorial.teaching.logbook import keep_in, progress_file, read, record, rows, to_table


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Path]:
    """Keep the progress in a folder of the test's own; return the file."""
    keep_in(tmp_path)
    yield progress_file(tmp_path)
    keep_in(None)


def state_of(number: str, kept: Path) -> str:
    (state,) = [state for found, _, state in rows(read(kept)) if found == number]
    return state


def test_nothing_is_kept_outside_of_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keep_in(None)
    record("01.3", passed=True)
    assert [] == list(tmp_path.iterdir())


def test_only_real_attempts_are_kept(kept: Path) -> None:
    check("01.3", None)
    predict("01.2", None)
    reveal("01.2", happened="c")
    assert not kept.exists()
    predict("01.2", "b")
    assert ["01.2"] == list(read(kept))


def test_attempts_are_counted_and_what_passed_stays_passed(kept: Path) -> None:
    for passed in (False, False, True, False):
        record("01.3", passed=passed)
    assert (4, True) == (read(kept)["01.3"]["attempts"], read(kept)["01.3"]["passed"])
    assert "passed, 4 tries" == state_of("01.3", kept)


def test_every_question_has_a_row_whatever_was_done(kept: Path) -> None:
    assert {"-"} == {state for _, _, state in rows({})}
    predict("01.2", "a")
    check("01.1", "d")
    record("01.4", passed=False)
    states = {number: state for number, _, state in rows(read(kept))}
    assert ("d", "a", "not yet, 1 try") == (states["01.1"], states["01.2"], states["01.4"])
    for letter, state in (("a", "a, it was c"), ("c", "c, right"), ("b", "b, it was c")):
        predict("01.2", letter)  # type: ignore[arg-type]
        reveal("01.2", happened="c")
        assert state == state_of("01.2", kept)


def _many(folder: Path, number: str) -> None:
    keep_in(folder)
    for _ in range(20):
        record(number, passed=False)


def test_two_kernels_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_many, args=(tmp_path, number)) for number in ("01.3", "01.3", "01.4")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found = {number: entry["attempts"] for number, entry in read(progress_file(tmp_path)).items()}
    assert {"01.3": 40, "01.4": 20} == found
    assert ["progress.json"] == [file.name for file in (tmp_path / "outputs").iterdir()]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 2, "questions": {}}', '{"version": 1, "questions": 3}']
)
def test_a_file_that_cannot_be_read_is_kept_and_said_once(
    content: str, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept.parent.mkdir()
    kept.write_text(content, "utf-8")
    with pytest.raises(UnsupportedCheckpointError, match="move it away to begin anew"):
        read(kept)
    with caplog.at_level(logging.WARNING):
        record("01.3", passed=True)
        record("01.3", passed=True)
    assert 1 == len(caplog.records)
    assert "your progress is not kept: " in caplog.text
    assert content == kept.read_text("utf-8")


def test_a_folder_that_cannot_be_written_stops_no_lesson(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "outputs").write_text("a file where the folder should be", "utf-8")
    keep_in(tmp_path)
    with caplog.at_level(logging.WARNING):
        check("01.1", "a")
    keep_in(None)
    assert 1 == len(caplog.records)


def test_the_file_is_json_that_a_person_can_read(kept: Path) -> None:
    record("01.3", passed=True)
    content = json.loads(kept.read_text("utf-8"))
    assert logbook.VERSION == content["version"]
    assert {"attempts", "passed", "when"} == set(content["questions"]["01.3"])


def test_another_prediction_is_not_judged_by_what_happened_to_the_first(kept: Path) -> None:
    predict("01.2", "c")
    reveal("01.2", happened="c")
    predict("01.2", "a")  # the cell run again, the experiment not yet
    assert "a" == state_of("01.2", kept)


def test_a_file_system_without_locks_keeps_progress_all_the_same(
    kept: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(handle: int, operation: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(fcntl, "flock", refused)
    record("01.3", passed=True)
    assert (True, []) == (read(kept)["01.3"]["passed"], caplog.records)


def test_what_stands_in_the_file_is_shown_as_text(kept: Path) -> None:
    kept.parent.mkdir()
    entry = '{"01.1": {"attempts": 1, "passed": true, "answer": "[/red]\\u001b[31m"}}'
    kept.write_text(f'{{"version": 1, "questions": {entry}}}', "utf-8")
    console = Console(file=io.StringIO(), width=100)
    console.print(to_table(read(kept)))
    assert "[/red]\\x1b[31m" in console.file.getvalue()  # type: ignore[attr-defined]
