"""Worker processes: random numbers that belong to a batch, and a life that ends after the main process has saved."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from koemorph_tutorial import CheckpointManager, ResumableLoader
from koemorph_tutorial.workers import Ticket, TicketDataset

pytestmark = [
    # Python 3.12 and later warn of every fork of a process with threads, and loader workers are forked.
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
    # Two workers are not too many for these tests, whatever the machine.
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning"),
]


class Noisy(Dataset[torch.Tensor]):
    """Samples with noise of all three generators, as an augmentation in a dataset makes it."""

    shift = 0.0

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index + self.shift, random.random(), float(np.random.rand()), float(torch.rand(()))])


class AtOnce(Noisy):
    """The same, fetched a batch at a time."""

    def __getitems__(self, indices: list[int]) -> list[torch.Tensor]:
        return [self[index] for index in indices]


class Mixing:
    """A collate_fn that draws as well."""

    def __call__(self, samples: list[torch.Tensor]) -> torch.Tensor:
        mixed: torch.Tensor = default_collate(samples) * random.random()
        return mixed


def shifted(worker: int) -> None:
    """Set an attribute of the dataset in its worker, as many a worker_init_fn does."""
    info = get_worker_info()
    assert info is not None
    info.dataset.shift = 100.0


KINDS: dict[str, dict[str, Any]] = {
    "one by one": {"dataset": Noisy(), "batch_size": 4, "shuffle": True},
    "at once": {"dataset": AtOnce(), "batch_size": 4, "shuffle": True},
    "mixed": {"dataset": Noisy(), "batch_size": 4, "collate_fn": Mixing()},
    "no batches": {"dataset": Noisy(), "batch_size": None},
    "workers that stay": {"dataset": Noisy(), "batch_size": 4, "shuffle": True, "persistent_workers": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_workers_draw_is_the_same_after_going_on_inside_an_epoch(kind: str) -> None:
    """The rest of the epoch, and the next one."""

    def make() -> ResumableLoader[torch.Tensor]:
        torch.manual_seed(0)
        return ResumableLoader(DataLoader(**KINDS[kind], num_workers=2))

    whole, resumed = make(), make()
    batches = iter(whole)
    for _ in range(3):
        next(batches)
    state = whole.state_dict()
    expected = [*batches, *whole]
    resumed.load_state_dict(state)
    torch.manual_seed(99)
    random.seed(99)
    found = [*resumed, *resumed]
    assert len(expected) == len(found)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_batches_and_epochs_do_not_share_their_noise() -> None:
    """Each draws numbers of its own."""
    loader = ResumableLoader(DataLoader(Noisy(), 4, num_workers=2))
    noise = [sample[1].item() for _ in range(2) for batch in loader for sample in batch]
    assert len(noise) == len(set(noise)) == 48


def test_a_worker_init_fn_is_called_and_sees_the_dataset() -> None:
    """What it sets is set on the dataset itself."""
    loader = ResumableLoader(DataLoader(Noisy(), 4, num_workers=2, worker_init_fn=shifted))
    assert [100.0, 101.0] == [sample[0].item() for sample in next(iter(loader))[:2]]


class Peeking(Mixing):
    """A collate_fn that looks into the dataset of its worker."""

    def __call__(self, samples: list[torch.Tensor]) -> torch.Tensor:
        info = get_worker_info()
        assert info is not None
        assert 3.0 == info.dataset[3][0].item()
        assert 24 == len(list(iter(info.dataset)))
        return super().__call__(samples)


class Iterated(Noisy):
    """A dataset that can be iterated as well."""

    def __iter__(self) -> Any:
        return iter(range(24))


def test_a_worker_may_look_into_its_dataset() -> None:
    """By an index, and from its beginning."""
    assert 6 == len(list(ResumableLoader(DataLoader(Iterated(), 4, num_workers=2, collate_fn=Peeking()))))


def test_batches_come_in_order_whatever_the_loader_says() -> None:
    """A count of them would say nothing else."""
    loader = ResumableLoader(DataLoader(Noisy(), 4, num_workers=2, in_order=False))
    assert [0, 4, 8, 12, 16, 20] == [int(batch[0][0]) for batch in loader]


def test_persistent_workers_end_with_the_run(tmp_path: Path) -> None:
    """Nothing keeps them that only a garbage collection would find."""
    before = set(multiprocessing.active_children())

    def run() -> None:
        loader = ResumableLoader(DataLoader(Noisy(), 4, num_workers=2, persistent_workers=True))
        with CheckpointManager(tmp_path, {"model": torch.nn.Linear(1, 1), "loader": loader}) as checkpoints:
            for _ in checkpoints.epochs(1):
                for _ in loader:
                    checkpoints.step()

    gc.disable()
    try:
        run()
    finally:
        gc.enable()
    assert before == set(multiprocessing.active_children())


def test_a_dataset_that_is_asked_by_tickets_is_else_itself() -> None:
    """Also after it was pickled, for workers that are spawned."""
    dataset = pickle.loads(pickle.dumps(TicketDataset(Noisy())))
    assert 24 == len(dataset)
    assert 0.0 == dataset.shift
    ticket = pickle.loads(pickle.dumps(Ticket(7, 1, 3)))
    assert torch.equal(dataset[ticket], dataset[ticket])
    assert not torch.equal(dataset[ticket], dataset[Ticket(7, 2, 3)])


SCRIPT = """
    import os, signal, sys, time, torch
    from torch.utils.data import DataLoader, TensorDataset
    from koemorph_tutorial import CheckpointManager, ResumableLoader

    if __name__ == "__main__":
        torch.manual_seed(0)
        model = torch.nn.Linear(1, 1)
        loader = ResumableLoader(DataLoader(TensorDataset(torch.zeros(400, 1)), 2, num_workers=2))
        objects = {"model": model, "loader": loader}
        with CheckpointManager("run", objects, signals=(signal.SIGTERM, signal.SIGINT)) as checkpoints:
            for epoch in checkpoints.epochs(3):
                for batch in loader:
                    print("batch", flush=True)
                    time.sleep(0.05)
                    checkpoints.step()
                checkpoints.save({"loss": 1.0})
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_stops_it_with_a_save(number: signal.Signals, tmp_path: Path) -> None:
    """Schedulers, `timeout` and Ctrl-C signal the workers as well; their death would be an error of the training."""
    (tmp_path / "train.py").write_text(textwrap.dedent(SCRIPT))
    process = subprocess.Popen(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    for _ in range(3):
        assert "batch\n" == process.stdout.readline()
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert 3 == process.returncode, errors
    assert (tmp_path / "run" / "last_model.pth").exists()
    until = time.monotonic() + 20
    while _group_lives(process.pid) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _group_lives(process.pid)


def test_an_error_in_a_worker_ends_the_training_at_once(tmp_path: Path) -> None:
    """Workers that ignore a request to end are ended by another way."""
    (tmp_path / "train.py").write_text(
        textwrap.dedent("""
            import torch
            from torch.utils.data import DataLoader
            from koemorph_tutorial import ResumableLoader

            class Broken(torch.utils.data.Dataset):
                def __len__(self):
                    return 100
                def __getitem__(self, index):
                    if index == 5:
                        raise ValueError("a bad sample")
                    return index

            for batch in ResumableLoader(DataLoader(Broken(), 2, num_workers=2)):
                pass
        """)
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "a bad sample" in done.stderr
    assert time.monotonic() - begin < 30


def test_a_signal_that_comes_while_workers_start_waits(tmp_path: Path) -> None:
    """Until they can ignore it; with both ways to start them."""
    for how in ("fork", "spawn"):
        (tmp_path / "train.py").write_text(
            textwrap.dedent(SCRIPT)
            .replace("num_workers=2", f"num_workers=2, multiprocessing_context={how!r}")
            .replace("for batch in loader:", "for batch in stopping(loader):")
            .replace("if __name__", STOPPING + "if __name__")
        )
        done = subprocess.run(
            [sys.executable, "train.py"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            start_new_session=True,
        )
        assert 3 == done.returncode, done.stderr


STOPPING = """
def stopping(loader):
    # A group signal as soon as the first worker is there.
    import multiprocessing.process
    start = multiprocessing.process.BaseProcess.start
    def and_stop(self):
        start(self)
        os.killpg(os.getpgid(0), signal.SIGTERM)
        multiprocessing.process.BaseProcess.start = start
    multiprocessing.process.BaseProcess.start = and_stop
    return loader

"""


def _group_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True
