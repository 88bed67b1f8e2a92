"""The certificate says yes to a training that resumes bitwise, and of any other what differs first."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from koemorph_tutorial import CheckpointManager, Position
from koemorph_tutorial.testing import Certificate, CertificateError, Recorder, certify, certify_script

from . import forgetting

INSIDE = Position(epoch=3, batch=2)
AT_AN_END = Position(epoch=3)


def certify_without(sabotage: Callable[[], None], stop: Position = INSIDE) -> Certificate:
    """Certify the training of `forgetting`, in whose processes something is lost."""

    def loop(folder: Path, recorder: Recorder) -> None:
        sabotage()
        forgetting.train(folder)

    return certify(loop, stops=[stop])


@pytest.mark.parametrize(("workers", "background"), [(0, False), (2, False), (0, True), (2, True)])
def test_a_training_that_saves_everything_is_certified(workers: int, background: bool) -> None:
    """At the end of an epoch and inside one, each after a real kill; saved by a thread while it trains on, too."""
    certificate = certify(
        lambda folder, recorder: forgetting.train(folder, workers=workers, background=background),
        stops=[AT_AN_END, INSIDE],
    )
    assert certificate.certified, str(certificate)
    assert [AT_AN_END, INSIDE] == [_place(trial.resumed_at) for trial in certificate.trials]
    assert all(trial.killed and trial.moments >= 2 and trial.batches >= 8 for trial in certificate.trials)
    assert certificate.first_difference is None


def test_what_a_training_imports_is_imported_once() -> None:
    """An optimizer's first step takes seconds, which torch's compiler takes to be imported; not in each process."""
    late = "torch.utils.bundled_inputs"
    sys.modules.pop(late, None)
    imported = multiprocessing.Value("i", 0)

    def loop(folder: Path, recorder: Recorder) -> None:
        imported.value += late not in sys.modules
        importlib.import_module(late)
        forgetting.train(folder)

    assert certify(loop, stops=[AT_AN_END]).certified
    assert 1 == imported.value


def test_an_optimizer_that_lies_in_parts_is_certified_by_what_lies_here() -> None:
    """As a ZeroRedundancyOptimizer, which refuses to say its state until it is put together; here by one process."""

    class InParts(torch.optim.AdamW):
        state_is_whole = False

        def state_dict(self) -> dict[str, Any]:
            if not self.state_is_whole:
                raise RuntimeError("Optimizer state has not been consolidated")
            self.state_is_whole = False
            return super().state_dict()

        def consolidate_state_dict(self, to: int = 0) -> None:
            self.state_is_whole = True

        @property
        def optim(self) -> torch.optim.Optimizer:
            here = torch.optim.AdamW(self.param_groups[0]["params"])
            here.state = self.state
            return here

    def train(folder: Path, recorder: object) -> None:
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 1)
        objects = {"model": model, "optimizer": InParts(model.parameters())}
        with CheckpointManager(folder, objects, save_freq=1) as checkpoints:
            for _ in checkpoints.epochs(3):
                loss = model(torch.randn(4, 2)).square().mean()
                loss.backward()
                objects["optimizer"].step()
                objects["optimizer"].zero_grad()
                checkpoints.save({"loss": loss})

    certificate = certify(train, stops=[Position(epoch=2)])
    assert certificate.certified, str(certificate)
    assert "optimizer" in certificate.components


def _place(position: Position | None) -> Position | None:
    return position and Position(epoch=position.epoch, batch=position.batch)


AT_SAVE = [
    ("model", "0.weight"),
    ("scheduler", "last_epoch"),
    ("rng.numpy", "state"),
    ("loader", "batches"),
    ("ema", "0.weight"),
]
AT_RESTORE = [("optimizer", "state"), ("rng.python", "state"), ("rng.torch", ""), ("loader", "generator_state")]


@pytest.mark.parametrize("what", AT_SAVE, ids=".".join)
def test_what_was_not_saved_is_named_first(what: tuple[str, str]) -> None:
    """Five of a run's parts, each lost in the file."""
    assert_named(what, certify_without(lambda: forgetting.lose_at_save(what)))


@pytest.mark.parametrize("what", AT_RESTORE, ids=".".join)
def test_what_was_not_restored_is_named_first(what: tuple[str, str]) -> None:
    """Others, each in the file and never taken out of it."""
    assert_named(what, certify_without(lambda: forgetting.lose_at_restore(what)))


def test_a_best_that_was_not_restored_is_named_first() -> None:
    """The fifth of those."""
    assert_named(("best", "value"), certify_without(forgetting.forget_the_best))


def test_a_best_that_was_not_saved_is_found_again() -> None:
    """The folder is the truth: best_model.pth says what it is."""
    assert certify_without(lambda: forgetting.lose_at_save(("best", "value"))).certified


def assert_named(what: tuple[str, str], certificate: Certificate, stop: Position = INSIDE) -> None:
    """Assert that the certificate says no, and that it is this that differed right after the resume."""
    component, leaf = what
    difference = certificate.first_difference
    assert not certificate.certified
    assert difference is not None, str(certificate)
    assert f"right after the resume at epoch {stop.epoch}, batch {stop.batch}" == difference.when
    assert component == difference.component, str(difference)
    assert difference.leaf.startswith(leaf), str(difference)


def test_a_loader_without_a_generator_of_its_own_is_found_by_its_first_batch() -> None:
    """All that was saved is restored to the bit, and the order of the data is another one all the same."""
    certificate = certify_without(forgetting.share_the_global_generator)
    assert certificate.first_difference is not None, str(certificate)
    assert "data of loader" == certificate.first_difference.component
    assert "in batch 1 after epoch 3, batch 2" == certificate.first_difference.when


def test_a_training_that_is_not_seeded_gets_no_verdict() -> None:
    """Two of its runs differ before anybody has stopped one."""

    def loop(folder: Path, recorder: Recorder) -> None:
        torch.seed()
        recorder.record(Position(epoch=1), model=torch.nn.Linear(2, 2))
        recorder.record(Position(epoch=2), model=torch.nn.Linear(2, 2))

    certificate = certify(loop, stops=[Position(epoch=2)])
    assert not certificate.certified
    assert "two runs that nobody has stopped differ at the end of epoch 0: model.weight" in certificate.problem
    assert "seed random, numpy and torch" in str(certificate)


def hand_made(folder: Path, recorder: Recorder, *, repeat: bool = False) -> None:
    """Train with a saver that knows nothing of this library; what is random is seeded anew in each epoch."""
    model, file, start = torch.nn.Linear(2, 2), folder / "state.pth", 0
    torch.nn.init.ones_(model.weight)
    torch.nn.init.zeros_(model.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if file.exists():
        saved = torch.load(file)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["epoch"] if repeat else saved["epoch"] + 1
    for epoch in range(start, 4):
        torch.manual_seed(epoch)
        model(torch.randn(3, 2)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}, file)
        recorder.record(Position(epoch=epoch + 1), model=model, optimizer=optimizer)


def test_a_loop_with_another_way_of_saving_records_by_hand() -> None:
    """It says yes to the right resume, and no to the recipe's, which repeats the saved epoch."""
    stops = [Position(epoch=1), Position(epoch=3)]
    right = certify(hand_made, stops=stops)
    assert right.certified, "\n".join(right.lines())
    wrong = certify(lambda folder, recorder: hand_made(folder, recorder, repeat=True), stops=stops)
    assert wrong.first_difference is not None
    assert str(wrong.first_difference).startswith("in the first record after the resume, at the end of epoch 0: model")


def test_a_generator_that_is_never_drawn_from_is_not_compared() -> None:
    """A training that does not use Python's random numbers need not bring them back."""
    certificate = certify(hand_made, stops=[Position(epoch=2)])
    assert {"rng.python", "rng.numpy"}.isdisjoint(certificate.components)
    assert "rng.torch" in certificate.components


def test_a_resume_that_fails_is_not_certified() -> None:
    """What it raised is said."""

    def loop(folder: Path, recorder: Recorder) -> None:
        if any(folder.iterdir()):
            raise ValueError("no way back")
        forgetting.train(folder)

    certificate = certify(loop, stops=[AT_AN_END])
    assert not certificate.certified
    assert "ValueError: no way back" in str(certificate)


def test_a_resumed_run_that_ends_early_is_not_certified() -> None:
    """What there was to compare was equal, but the last epochs are missing."""

    def loop(folder: Path, recorder: Recorder) -> None:
        forgetting.train(folder, epochs=4 if any(folder.iterdir()) else 5)

    certificate = certify(loop, stops=[AT_AN_END])
    assert "at its end: the run: expected epoch 5, batch 0, found epoch 4, batch 0" in str(certificate)


def test_a_stop_that_is_never_reached_is_said() -> None:
    """Nothing is certified that was not tried."""
    certificate = certify(lambda folder, recorder: forgetting.train(folder), stops=[Position(epoch=77)])
    assert not certificate.certified
    assert "epoch 77, batch 0: this stop was never reached: the training ended before that" in str(certificate)


def test_a_training_that_fails_by_itself_is_an_error() -> None:
    """There is nothing to compare with."""

    def loop(folder: Path, recorder: Recorder) -> None:
        raise RuntimeError("broken as it is")

    with pytest.raises(
        CertificateError, match="the training fails without any stop, in an empty folder: RuntimeError: broken as it is"
    ):
        certify(loop)


def test_a_training_of_which_nothing_was_recorded_is_an_error() -> None:
    """A loop without a manager that does not call record."""
    with pytest.raises(CertificateError, match=r"nothing was recorded: .* or calls of recorder.record"):
        certify(lambda folder, recorder: None)


def test_without_stops_they_are_chosen_at_ends_and_inside() -> None:
    """Both kinds of resume are tried without being asked for, and one of them late."""
    certificate = certify(lambda folder, recorder: forgetting.train(folder))
    assert [(1, 0), (3, 2), (4, 0)] == [(trial.stop.epoch, trial.stop.batch) for trial in certificate.trials]
    assert str(certificate).startswith("certified: after each of 3 stops the resumed run is bitwise ")


def test_one_epoch_is_stopped_inside_or_not_at_all() -> None:
    """At its end there is no training left that could be compared."""
    certificate = certify(lambda folder, recorder: forgetting.train(folder, epochs=1))
    assert [(0, 2)] == [(trial.stop.epoch, trial.stop.batch) for trial in certificate.trials]
    assert certificate.certified
    with pytest.raises(CertificateError, match="one epoch without a ResumableLoader has no place to stop"):
        certify(lambda folder, recorder: recorder.record(Position(epoch=1), model=torch.nn.Identity()))


def test_where_no_training_is_left_nothing_is_certified() -> None:
    """A stop at the very end compares nothing."""
    certificate = certify(lambda folder, recorder: forgetting.train(folder), stops=[Position(epoch=5)])
    assert "no training was left after this stop, so nothing could be compared" in str(certificate)


def small(folder: Path, before_epoch: Callable[[int, torch.nn.Module], None] = lambda epoch, model: None) -> None:
    """Train a model that is saved by a manager in `folder`, with all that `before_epoch` does to it."""
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with CheckpointManager(folder, {"model": model, "optimizer": optimizer}, save_freq=1) as checkpoints:
        for epoch in checkpoints.epochs(4):
            before_epoch(epoch, model)
            loss = model(torch.randn(4, 2)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            checkpoints.save({"loss": loss})


def test_a_run_that_begins_again_is_not_certified() -> None:
    """It does all that the straight run did, since it is one: a folder named by the clock, say."""

    def loop(folder: Path, recorder: Recorder) -> None:
        small(folder / str(len(list(folder.iterdir()))))

    certificate = certify(loop, stops=[Position(epoch=2)])
    assert "expected to go on at epoch 2, batch 0, where it was saved last, found epoch 0, batch 0" in str(certificate)


def test_a_hand_made_loop_that_begins_again_is_not_certified() -> None:
    """The same without a manager."""

    def loop(folder: Path, recorder: Recorder) -> None:
        (folder / "state.pth").unlink(missing_ok=True)
        hand_made(folder, recorder)

    assert "expected to go on at epoch 3, batch 0" in str(certify(loop, stops=[Position(epoch=3)]))


def test_what_is_lost_outside_the_objects_is_said_to_be_outside() -> None:
    """A counter that nobody hands over: all is equal right after the resume."""

    def loop(folder: Path, recorder: Recorder) -> None:
        calls: list[int] = []

        def unfreeze(epoch: int, model: torch.nn.Module) -> None:
            calls.append(epoch)
            model.bias.requires_grad_(len(calls) > 2)

        small(folder, unfreeze)

    certificate = certify(loop, stops=[Position(epoch=3)])
    assert "all was equal right after the resume, so look for something that is not among the objects" in str(
        certificate
    )


def test_noise_that_comes_late_is_not_blamed_on_the_resume() -> None:
    """Before it says no, it looks whether two runs without a stop are alike."""

    def loop(folder: Path, recorder: Recorder) -> None:
        small(folder, lambda epoch, model: torch.seed() if epoch == 3 else None)  # type: ignore[arg-type, return-value]

    certificate = certify(loop, stops=[Position(epoch=1)])
    assert certificate.problem.startswith("two runs that nobody has stopped differ at the end of epoch 3")


def test_a_loop_that_seeds_each_epoch_may_record_right_after_its_restore() -> None:
    """The random states are others there, and nobody draws from them."""

    def loop(folder: Path, recorder: Recorder) -> None:
        if (folder / "state.pth").exists():
            saved = torch.load(folder / "state.pth")
            model = torch.nn.Linear(2, 2)
            model.load_state_dict(saved["model"])
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            optimizer.load_state_dict(saved["optimizer"])
            recorder.record(Position(epoch=saved["epoch"] + 1), model=model, optimizer=optimizer)
        hand_made(folder, recorder)

    assert certify(loop, stops=[Position(epoch=2)]).certified


def validated(folder: Path, *, shorter: bool = False) -> None:
    """Train with a DataLoader that is made anew for each validation, and one batch that is looked at beforehand."""
    data = TensorDataset(torch.linspace(-1, 1, 24).reshape(12, 2))
    next(iter(DataLoader(data, 4)))

    def validate(epoch: int, model: torch.nn.Module) -> None:
        subset = data if not shorter or epoch < 2 else TensorDataset(data.tensors[0][:8])
        for (batch,) in DataLoader(subset, 4):
            model(batch)

    small(folder, validate)


def test_loaders_that_are_made_for_each_validation_are_followed() -> None:
    """They are told apart by when they are opened, not by which object they are."""
    certificate = certify(lambda folder, recorder: validated(folder), stops=[Position(epoch=2)])
    assert certificate.certified, str(certificate)
    assert "data of DataLoader 1" in certificate.components


def test_batches_that_are_missing_after_the_resume_are_noticed() -> None:
    """Though nothing of what is saved depends on them."""

    def loop(folder: Path, recorder: Recorder) -> None:
        validated(folder, shorter=any(folder.iterdir()))

    difference = certify(loop, stops=[Position(epoch=2)]).first_difference
    assert difference is not None
    assert ("data of DataLoader 1", "a batch", "none") == (difference.component, difference.expected, difference.found)


def test_two_trainings_in_one_process_are_told_apart() -> None:
    """One after another, each in a directory of its own; the stop comes in the first that reaches it."""

    def loop(folder: Path, recorder: Recorder) -> None:
        for stage in ("first", "second"):
            small(folder / stage)

    certificate = certify(loop, stops=[Position(epoch=2)])
    assert certificate.certified, str(certificate)


def test_a_directory_of_the_users_is_not_gone_on_with(tmp_path: Path) -> None:
    """A loop that saves elsewhere would continue a real run."""
    with pytest.raises(CertificateError, match="expected a directory in the folder that the certificate made"):
        certify(lambda folder, recorder: small(tmp_path / "real"), stops=[Position(epoch=2)])
    assert not (tmp_path / "real").exists()


def test_a_process_that_is_killed_by_somebody_else_has_not_reached_its_stop() -> None:
    """Only its own kill counts, at the place that was asked for."""

    def loop(folder: Path, recorder: Recorder) -> None:
        if folder.parent.name != "straight":
            os.kill(os.getpid(), signal.SIGKILL)
        small(folder)

    certificate = certify(loop, stops=[Position(epoch=2)])
    assert "epoch 2, batch 0: this stop was never reached: killed by SIGKILL" in str(certificate)


def test_a_working_folder_with_files_in_it_is_refused(tmp_path: Path) -> None:
    """A run of an earlier certificate there would be gone on with."""
    (tmp_path / "file").touch()
    with pytest.raises(CertificateError, match="expected an empty folder to work in, found files"):
        certify(lambda folder, recorder: small(folder), workdir=tmp_path)


def test_the_receipt_says_what_was_compared_and_where() -> None:
    """One JSON object for programs, lines for people."""
    certificate = certify(lambda folder, recorder: forgetting.train(folder), stops=[INSIDE])
    receipt = json.loads(certificate.to_json())
    assert receipt["certified"] is True
    assert receipt["first_difference"] is None
    assert {"model", "optimizer", "loader", "best", "rng.torch", "data of loader"} <= set(receipt["components"])
    assert {"torch", "threads", "device"} <= set(receipt["environment"])
    assert (3, 2) == (receipt["stops"][0]["resumed_at"]["epoch"], receipt["stops"][0]["resumed_at"]["batch"])
    assert certificate.lines()[0] == "certified: after the stop the resumed run is bitwise the one without a stop"


def test_a_program_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    """One line says which."""
    with pytest.raises(CertificateError, match=r"nowhere.* cannot be started: No such file"):
        certify_script([str(tmp_path / "nowhere")])


def test_a_manager_records_nothing_unless_it_is_asked(tmp_path: Path) -> None:
    """The trainings of everyday pay nothing for this."""
    manager = CheckpointManager(tmp_path, {"model": torch.nn.Linear(1, 1)})
    assert manager._recorder is None
