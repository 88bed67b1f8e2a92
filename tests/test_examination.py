"""The examination of a training loop: that its ordeals are real, and that what is said of each is true."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from koemorph_tutorial import CheckpointManager, ResumableLoader
from koemorph_tutorial.teaching import examination, proctor, small_disk
from koemorph_tutorial.teaching.examination import BATCHES, EPOCHS, ORDEALS, TOTAL, Examination, Run, examine
from koemorph_tutorial.testing import children

KILL, TERM, DISK, BIT = ORDEALS


def managed(folder: Path) -> None:
    run = Run()
    loader = ResumableLoader(run.loader)
    objects = {"model": run.model, "optimizer": run.optimizer, "scheduler": run.scheduler, "loader": loader}
    with CheckpointManager(folder, objects, save_freq=1) as checkpoints:
        for _ in checkpoints.epochs(EPOCHS):
            for batch in loader:
                run.step(batch)
                checkpoints.step()
            run.scheduler.step()
            checkpoints.save({"loss": run.validate()})


def overwrites(folder: Path) -> None:
    """One file of weights alone, written over and over; go on from it, if it is there."""
    run, done = Run(), 0
    path = folder / "weights.pth"
    if path.exists():
        saved = torch.load(path)
        run.model.load_state_dict(saved["model_state_dict"])
        done = saved["epoch"] + 1
    for epoch in range(done, EPOCHS):
        for batch in run.loader:
            run.step(batch)
        torch.save({"epoch": epoch, "model_state_dict": run.model.state_dict()}, path)


def starts_over(folder: Path) -> None:
    run = Run()
    for _ in range(EPOCHS):
        for batch in run.loader:
            run.step(batch)


@pytest.fixture(scope="module")
def passed() -> Examination:
    return examine(managed, certificate=True)


def test_a_managed_loop_survives_all_four_and_is_certified(passed: Examination) -> None:
    assert passed.passed
    assert passed.certificate is not None
    assert passed.certificate.certified
    assert [5, 0, 10, 15] == [outcome.again for outcome in passed.outcomes]
    assert [0, 0, 0, 0] == [outcome.wrong_bits for outcome in passed.outcomes]


def test_the_processes_ended_as_the_ordeals_have_it(passed: Examination) -> None:
    ended = [outcome.ended for outcome in passed.outcomes]
    assert ("killed by SIGKILL", "exit code 3", "killed by SIGKILL") == (ended[0], ended[1], ended[3])
    assert "could not be written" in ended[2]
    assert any(os.strerror(number) in ended[2] for number in (errno.ENOSPC, errno.EFBIG))


def test_the_wrong_bit_was_in_a_file_that_was_moved_aside(passed: Examination) -> None:
    assert ("abandoned-001",) == passed.outcomes[3].left
    assert () == passed.outcomes[0].left


def test_the_survivor_is_the_network_of_the_run_that_nobody_disturbed(
    passed: Examination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained here, in this process, without any examiner."""
    made: list[Run] = []
    init = Run.__init__

    def noted(run: Run, **options: bool) -> None:
        init(run, **options)
        made.append(run)

    monkeypatch.setattr(Run, "__init__", noted)
    managed(tmp_path)
    weights = made[0].model.state_dict()
    assert weights.keys() == passed.state.keys()
    assert all(torch.equal(weights[name], passed.state[name]) for name in weights)


def test_it_prints_as_a_table(passed: Examination) -> None:
    assert str(passed).splitlines() == [
        "managed: survived 4 of 4",
        "kill -9      5 batches again      the same network  survived",
        "SIGTERM      0 batches again      the same network  survived",
        "full disk    10 batches again     the same network  survived",
        "flipped bit  15 batches again     the same network  survived",
    ]


def test_a_loop_that_forgets_is_found_out_by_its_bits() -> None:
    examined = examine(overwrites)
    kill, term, disk, bit = examined.outcomes
    assert kill.wrong_bits is not None
    assert kill.wrong_bits > 0
    assert (5, 5) == (kill.again, term.again)
    assert "killed by SIGTERM" == term.ended
    assert ((60, 0), "") == (disk.batches, disk.ended)  # emptied first, its only file made its own room
    assert bit.wrong_bits is not None
    assert bit.wrong_bits > 0
    assert 1 == examined.survived
    assert examined.certificate is None


def test_a_loop_that_saves_nothing_does_all_again() -> None:
    examined = examine(starts_over, ordeals=(KILL, DISK))
    assert [45, 60] == [outcome.again for outcome in examined.outcomes]
    assert all(outcome.is_equal for outcome in examined.outcomes)
    assert 0 == examined.survived


def fails(folder: Path) -> None:
    raise ValueError("no data")


def trains_little(folder: Path) -> None:
    run = Run()
    run.step(next(iter(run.loader)))


def trains_nothing(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("loop", "problem"),
    [
        (fails, "it fails though nothing happens to it: ValueError: no data"),
        (trains_little, f"it trains 1 batch of its run, expected {TOTAL} (counted by `run.step`)"),
        (trains_nothing, f"it trains 0 batches of its run, expected {TOTAL} (counted by `run.step`)"),
    ],
)
def test_a_loop_that_does_not_run_by_itself_is_not_examined(loop: Callable[[Path], None], problem: str) -> None:
    examined = examine(loop, ordeals=(KILL,))
    assert (problem, ()) == (examined.problem, examined.outcomes)
    assert f"{loop.__name__}: {problem}" == str(examined)
    assert not examined.passed


def test_a_relative_folder_is_no_way_to_come_back() -> None:
    def elsewhere(folder: Path) -> None:
        managed(Path("checkpoints"))

    examined = examine(elsewhere, ordeals=(KILL,))
    assert (45,) == tuple(outcome.again for outcome in examined.outcomes)
    assert not Path("checkpoints").exists()


def test_what_the_loop_did_is_seen_in_its_order(passed: Examination) -> None:
    calls = [event["what"] for event in passed.seen]
    assert ["made", "epochs", "batch", "step"] == calls[:4]
    assert (EPOCHS, TOTAL) == (calls.count("save"), calls.count("batch"))
    assert {"model", "optimizer", "scheduler", "loader"} == set(passed.seen[0]["given"].values())
    assert 1 == next(event["rates"] for event in passed.seen if event["what"] == "save")


def test_nothing_of_an_examination_is_left_here(passed: Examination) -> None:
    """The proctor sits in processes of its own: here a run reports to nobody, and a manager is as it was."""
    assert proctor._proctor is None
    assert "noted" not in CheckpointManager.step.__qualname__


def test_a_small_disk_gets_really_full(tmp_path: Path) -> None:
    """In a child; where nothing may be mounted the system refuses to let a file grow instead."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def fills_it() -> list[object]:
        mounted = small_disk.mount(disk)
        small_disk.fill(disk, 100_000)
        try:
            (disk / "file").write_bytes(bytes(200_000))
        except OSError as error:
            return [mounted, error.errno]
        return [mounted, 0]

    mounted, refused = children.run(fills_it, tmp_path, timeout=30).result
    assert (errno.ENOSPC if mounted else errno.EFBIG) == refused
    assert ([] if mounted else ["file"]) == os.listdir(disk)  # the disk went with the process


def test_a_disk_that_has_less_room_than_is_to_be_left_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda _: True)
    small_disk.fill(tmp_path, 1 << 62)
    assert [] == os.listdir(tmp_path)


def test_a_loop_that_removes_its_folder_is_examined_as_well() -> None:
    def tidies_up(folder: Path) -> None:
        starts_over(folder)
        shutil.rmtree(folder)

    (outcome,) = examine(tidies_up, ordeals=(KILL,)).outcomes
    assert (TOTAL + 45, "45 batches again") == (sum(outcome.batches), outcome.cost)


@pytest.mark.parametrize("loop", [managed])
def test_where_nothing_may_be_mounted_the_ordeal_is_the_same(
    loop: Callable[[Path], None], passed: Examination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(small_disk, "mount", lambda folder: False)
    (outcome,) = examine(loop, ordeals=(DISK,)).outcomes
    assert os.strerror(errno.EFBIG) in outcome.ended
    expected = passed.outcomes[2]
    assert expected == replace(outcome, ended=expected.ended)


def test_room_can_be_made_again(tmp_path: Path) -> None:
    def fills_and_empties() -> bool:
        if not small_disk.mount(tmp_path / "disk"):
            return True
        small_disk.fill(tmp_path / "disk", 0)
        small_disk.make_room(tmp_path / "disk")
        (tmp_path / "disk" / "file").write_bytes(bytes(200_000))
        return (tmp_path / "disk" / "file").stat().st_size == 200_000

    (tmp_path / "disk").mkdir()
    assert children.run(fills_and_empties, tmp_path, timeout=30).result is True


def test_the_kill_comes_a_batch_after_the_warning(tmp_path: Path) -> None:
    """A loop without an ear is ended by SIGTERM at once; one that listens and goes on has one batch more."""

    def deaf(folder: Path) -> None:
        import signal

        signal.signal(signal.SIGTERM, lambda *_: None)
        starts_over(folder)

    journals = []
    for loop in (starts_over, deaf):
        place = tmp_path / loop.__name__
        (place / "run").mkdir(parents=True)

        def sit(loop: Callable[[Path], None] = loop, place: Path = place) -> None:
            proctor.sit(loop, place / "run", place / "journal", place / "final.pth", TERM.strike)

        ended = children.run(sit, place, timeout=60)
        journals.append((ended.error, len((place / "journal").read_text().splitlines())))
    assert [("killed by SIGTERM", 45), ("killed by SIGKILL", 46)] == journals


def test_without_weights_in_the_newest_file_a_bit_in_its_middle_is_flipped(tmp_path: Path) -> None:
    path = tmp_path / "anything.json"
    path.write_text(json.dumps(list(range(100))))
    before = path.read_bytes()
    examination._flip(path)
    pairs = zip(before, path.read_bytes(), strict=True)
    assert 1 == sum((one ^ other).bit_count() for one, other in pairs)


def test_the_newest_file_is_the_last_model_or_what_was_written_last(tmp_path: Path) -> None:
    assert proctor.newest(tmp_path) is None
    for number, name in enumerate(("b.pth", "a.pth")):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, ns=(number, number))
    assert tmp_path / "a.pth" == proctor.newest(tmp_path)
    (tmp_path / "last_model.pth").write_bytes(b"")
    os.utime(tmp_path / "last_model.pth", ns=(0, 0))
    assert tmp_path / "last_model.pth" == proctor.newest(tmp_path)


def test_two_runs_are_the_same_and_hold_what_a_loop_needs() -> None:
    losses = []
    for _ in range(2):
        run = Run(average=True)
        assert run.average is not None
        batches = list(run.loader)
        losses.append((run.step(batches[0]), run.validate()))
        run.average.update_parameters(run.model)
    assert losses[0] == losses[1]
    assert BATCHES == len(batches)
    assert {"average.n_averaged"} < run.networks().keys()
    assert Run().average is None


def test_a_graduate_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "_graduate", None)
    assert examination.graduate() is None
    examined = Examination(name="train")
    assert examined is examination.graduate(examined)
    assert examined is examination.graduate()
