"""What every test shares: one thread, so that no result depends on how busy the machine is."""

import os
import time
from collections.abc import Iterator

import pytest

from koemorph_tutorial.testing import large_pages

os.environ.pop("KOEMORPH_PROJECT", None)  # of a terminal in `koemorph lab`: progress would go to the reader's own

_together = time.monotonic()


def pytest_runtest_setup() -> None:
    """Let a test that forks do so from large pages."""
    global _together
    if time.monotonic() - _together > 5:
        large_pages.put_together()
        _together = time.monotonic()


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Let torch compute on one thread; two on a busy machine are many times slower."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def small_batches() -> Iterator[None]:
    """Let the run that lesson 10 examines train on 4 windows at a time: as many batches, in half the time."""
    from dataclasses import replace

    from koemorph_tutorial.teaching import proctor

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(proctor, "_BATCH_SIZE", 4)
        data = replace(proctor._DATA, train_windows=4 * proctor.BATCHES, validation_windows=2 * proctor.PARTS)
        patched.setattr(proctor, "_DATA", data)
        proctor._windows.cache_clear()
        yield
    proctor._windows.cache_clear()
