"""What every test shares: one thread, so that no result depends on how busy the machine is."""

import os

import pytest

os.environ.pop("KOEMORPH_PROJECT", None)  # of a terminal in `koemorph lab`: progress would go to the reader's own
for name in ("PYTHONMALLOC", "GLIBC_TUNABLES"):  # of `make test`: for this process, which forks, not for what it starts
    os.environ.pop(name, None)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Let torch compute on one thread; two on a busy machine are many times slower."""
    import torch

    torch.set_num_threads(1)
