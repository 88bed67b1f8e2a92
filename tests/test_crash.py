"""The crash kit finds what is broken, at the moment where it is, and nothing in what is not."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from koemorph_tutorial.testing import Campaign, CrashTestError, crash_test, saved
from koemorph_tutorial.testing.crash import MODES, VERDICTS
from koemorph_tutorial.testing.example import recover, train, train_and_go_back, train_in_background

from .savers import SmallSaver, the_recipe


def found(campaign: Campaign) -> Counter[str]:
    """Count the points at which each verdict fell."""
    return Counter(verdict for _, verdict in {(trial.point.number, trial.verdict) for trial in campaign.not_ok})


@pytest.mark.parametrize(("training", "sample"), [(train, 5), (train_in_background, 3), (train_and_go_back, 3)])
def test_at_a_sample_of_all_moments_the_run_comes_back(training: object, sample: int) -> None:
    """The same points each time, from all along it; all of them are tried by `make proof`."""
    campaign = crash_test(training, recover, max_points=sample)  # type: ignore[arg-type]
    assert campaign.not_ok == ()
    tried = sorted({trial.point.number for trial in campaign.trials})
    assert sample == len(tried)
    assert tried[0] < len(campaign.points) / 2 < tried[-1]
    assert set(MODES) == {trial.mode.split()[0] for trial in campaign.trials}
    assert campaign.blind_spots == ()
    assert {"open", "write", "fsync", "rename", "link", "unlink"} <= {point.name for point in campaign.points}


def test_a_sound_saver_of_a_few_lines_passes_too() -> None:
    """So zero is no privilege of ours, and the kit does not cry wolf."""
    saver = SmallSaver(epochs=2)
    campaign = crash_test(saver.train, saver.recover)
    assert campaign.not_ok == ()
    assert len(campaign.trials) > 50


def test_a_missing_fsync_is_found_by_the_power_cut_and_by_nothing_else() -> None:
    saver = SmallSaver(epochs=2, sync=False)
    campaign = crash_test(saver.train, saver.recover)
    assert {"power", "power names"} == {t.mode for t in campaign.not_ok}
    assert found(campaign)["LOST"] > 1


def test_a_removal_before_the_new_file_is_found() -> None:
    saver = SmallSaver(epochs=2, remove_first=True)
    campaign = crash_test(saver.train, saver.recover, modes=["kill", "torn", "enospc"])
    assert found(campaign)["LOST"] > 1
    assert {"kill", "torn", "enospc"} == {t.mode for t in campaign.not_ok}


def test_a_resume_that_trusts_the_newest_name_is_found() -> None:
    saver = SmallSaver(epochs=3, trust_the_newest_name=True)
    campaign = crash_test(saver.train, saver.recover, modes=["kill", "torn"])
    assert found(campaign)["WRONG"] > 1


def test_the_recipe_loses_its_only_copy() -> None:
    """While `last_model.pth` is written over there is no good copy of it, and nothing was ever synced."""
    campaign = crash_test(*the_recipe(2))
    torn = {t.point.path for t in campaign.not_ok if t.mode in ("kill", "torn") and t.verdict in ("MISLED", "BLOCKED")}
    assert torn == {"last_model.pth"}
    assert found(campaign)["LOST"] > 1
    assert "torch.save writes to a path in C++" in campaign.blind_spots[0]


@pytest.mark.parametrize(
    ("verdict", "flaw"),
    [
        ("BLOCKED", "stale lock"),
        ("RESTART", "left over"),
        ("LITTER", "temporary"),
        ("MISLABELLED", "forgotten"),
        ("STALE", "rarely"),
        ("WRONG", "mixed"),
    ],
)
def test_each_verdict_has_a_saver_that_earns_it(verdict: str, flaw: str) -> None:
    """Each of these flaws was seen in a saver that people use."""

    def train(directory: Path) -> None:
        if flaw == "stale lock":
            (directory / "lock").mkdir()  # refuses to begin where it lies
        start = int(state.split()[0]) + 1 if (state := newest(directory)) else 0
        if flaw == "left over" and (directory / "scratch").exists():
            raise RuntimeError("scratch: is there already")
        for epoch in range(start, 4):
            text = f"{epoch} {'x' * 20}"
            if flaw == "left over":
                (directory / "scratch").write_text("in use")
            name = f".{os.getpid()}.tmp" if flaw == "temporary" else ".tmp"
            write(directory / name, text)
            os.replace(directory / name, directory / f"epoch_{epoch}.txt")
            if flaw == "mixed":
                write(directory / f"epoch_{epoch}.sum", "checksum")
            if flaw == "forgotten" and epoch == 1:
                write(directory / "best.txt", text)
            if flaw == "left over":
                (directory / "scratch").unlink()
            saved(text)
        if flaw == "stale lock":
            (directory / "lock").rmdir()

    def newest(directory: Path) -> str | None:
        files = sorted(directory.glob("epoch_*.txt"))
        if flaw == "rarely" and len(files) == 2:  # looks at the clock, and is a save late
            files = files[:1]
        if flaw == "mixed" and files and not files[-1].with_suffix(".sum").exists():
            return "no checksum"
        return files[-1].read_text() if files else None

    def recover(directory: Path) -> str | None:
        if flaw == "stale lock" and (directory / "lock").exists():
            raise RuntimeError("another process is at work here")
        return newest(directory)

    campaign = crash_test(train, recover, modes=["kill"])
    assert verdict in found(campaign), str(campaign)


def write(path: Path, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def test_a_resume_that_hangs_is_ended_and_said() -> None:
    def train(directory: Path) -> None:
        write(directory / "a.txt", "a")
        saved("a")

    def recover(directory: Path) -> str | None:
        time.sleep(60)
        return None

    campaign = crash_test(train, recover, modes=["kill"], max_points=1, timeout=1.0)
    assert [t.verdict for t in campaign.trials] == ["BLOCKED"]
    assert "did not end within 1 s" in campaign.trials[0].detail


def raises(directory: Path) -> None:
    raise RuntimeError("no such data")


def never_says(directory: Path) -> None:
    (directory / "a.txt").write_text("a")


def writes_elsewhere(directory: Path) -> None:
    saved("a")


def never_the_same(directory: Path) -> None:
    (directory / "a.txt").write_text("a")
    saved(str(time.time_ns()))


@pytest.mark.parametrize(
    ("training", "line"),
    [
        (raises, "the training fails without any crash: RuntimeError: no such data"),
        (never_says, "the training never called saved"),
        (writes_elsewhere, "no file operation was seen"),
        (never_the_same, "the training is not the same each time it is run: seed"),
    ],
)
def test_a_training_that_cannot_be_tested_gets_one_line(training: object, line: str) -> None:
    with pytest.raises(CrashTestError, match=line) as error:
        crash_test(training, lambda directory: None)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="modes: expected some of kill, torn, enospc, eio, power, found 'flood'"):
        crash_test(raises, lambda directory: None, modes=["flood"])  # type: ignore[list-item]


def test_a_campaign_leaves_this_process_as_it_was(tmp_path: Path) -> None:
    """Hooks, the current folder and random states are the children's."""
    import io
    import random

    before = (open, io.open, os.replace, os.fsync, os.getcwd(), random.getstate(), os.environ.copy())
    saver = SmallSaver(epochs=1)
    crash_test(saver.train, saver.recover, modes=["kill"])
    assert before == (open, io.open, os.replace, os.fsync, os.getcwd(), random.getstate(), os.environ.copy())


def test_a_campaign_can_be_read_by_programs_and_people() -> None:
    saver = SmallSaver(epochs=1, sync=False)
    campaign = crash_test(saver.train, saver.recover)
    told = json.loads(campaign.to_json())
    assert len(campaign.points) == len(told["points"])
    assert len(campaign.trials) == len(told["trials"])
    assert "not OK" in str(campaign)
    assert any(line.startswith("kill ") for line in campaign.lines())
    assert set(VERDICTS) >= {t["verdict"] for t in told["trials"]}
    assert set(MODES) == {t["mode"].split()[0] for t in told["trials"]}


def test_outside_a_campaign_saved_does_nothing() -> None:
    saved("whatever")


def test_a_training_that_leaves_by_sys_exit_is_a_training() -> None:
    def train(directory: Path) -> None:
        SmallSaver(epochs=1).train(directory)
        sys.exit(0)

    campaign = crash_test(train, SmallSaver().recover, modes=["kill"])
    assert campaign.not_ok == ()
    assert campaign.points[-1].name == "end"


def test_a_worker_that_somebody_kills_is_no_clean_campaign() -> None:
    def recover(directory: Path) -> str | None:
        os.kill(os.getppid(), signal.SIGKILL)
        return None

    with pytest.raises(RuntimeError, match="was killed from outside: is the memory full"):
        crash_test(SmallSaver(epochs=1).train, recover, modes=["kill"])


def test_what_a_forked_process_writes_is_a_blind_spot_and_no_point() -> None:
    def train(directory: Path) -> None:
        write(directory / "a.txt", "a")
        child = os.fork()
        if child == 0:
            write(directory / "b.txt", "b")
            os._exit(0)
        os.waitpid(child, 0)
        saved("a")

    campaign = crash_test(train, lambda directory: None, modes=["kill"], max_points=1)
    assert [point.name for point in campaign.points] == ["open", "write", "fsync", "end"]
    assert campaign.blind_spots == ("b.txt: none of its bytes was seen to be written",)


def test_a_path_or_a_second_in_a_file_is_no_difference() -> None:
    """Of two trainings that nobody disturbed both may be equal by chance."""

    def train(directory: Path) -> None:
        write(directory / "a.txt", f"{directory} {int(time.time())}")
        saved("a")

    def recover(directory: Path) -> str | None:
        path = directory / "a.txt"
        return "a" if path.exists() and path.read_text() else None

    time.sleep(max(0, 0.3 - time.time() % 1))
    assert crash_test(train, recover, modes=["kill"]).not_ok == ()


def test_a_training_that_never_gives_up_is_said() -> None:
    def train(directory: Path) -> None:
        while True:
            with contextlib.suppress(OSError):
                write(directory / "a.txt", "a")
                break
        saved("a")

    campaign = crash_test(train, lambda directory: None, modes=["enospc"], timeout=1.0)
    assert ["BLOCKED"] * 3 == [trial.verdict for trial in campaign.trials]


def test_a_sample_of_no_points_is_refused() -> None:
    with pytest.raises(ValueError, match="max_points: expected 1 or more, found 0"):
        crash_test(raises, lambda directory: None, max_points=0)
