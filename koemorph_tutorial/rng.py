"""The random number generators of a process <-> tensors and ints that ``weights_only=True`` reads back.

Python, numpy (the global one), torch on the CPU and on every CUDA device. Python and numpy each hide one cached normal
number beside their state (``gauss_next``, ``has_gauss``); without it every second draw would differ.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from .records import MismatchError


def capture_rng() -> dict[str, Any]:
    """Return the state of every global generator.

    CUDA devices are in it only where this process uses CUDA: asking for their state would start CUDA.

    >>> before = capture_rng()
    >>> drawn = random.gauss(), float(np.random.normal()), float(torch.randn(()))
    >>> restore_rng(before)
    >>> drawn == (random.gauss(), float(np.random.normal()), float(torch.randn(())))
    True
    """
    version, numbers, gauss_next = random.getstate()
    return {
        "python": {
            "version": version,
            "state": torch.tensor(numbers, dtype=torch.int64, device="cpu"),
            "gauss_next": gauss_next,
        },
        "numpy": _to_plain(np.random.get_state(legacy=False)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Put every generator in `state` back; CUDA only where as many devices are here as were there.

    Raises:
        MismatchError: a state that is there and cannot be applied; then no generator was changed.
    """
    prepare_rng(state)()


@contextmanager
def kept_rng() -> Iterator[dict[str, Any]]:
    """Yield the state of every generator, and put it back at the end: a ``state_dict`` may draw random numbers."""
    state = capture_rng()
    try:
        yield state
    finally:
        restore_rng(state)


def prepare_rng(state: Mapping[str, Any]) -> Callable[[], None]:
    """Check `state` and return a function that applies it: the check may fail, the function does not.

    Raises:
        MismatchError: which generator's state cannot be applied.
    """
    steps: list[Callable[[], None]] = []
    for name, check in {"python": _python, "numpy": _numpy, "torch": _torch, "cuda": _cuda}.items():
        try:
            if name in state:
                steps.append(check(state[name]))
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
            raise MismatchError(
                f"rng_state.{name}: the state in the file cannot be applied ({error}); without it the run would go on "
                "with other random numbers"
            ) from None

    def apply_all() -> None:
        for step in steps:
            step()

    return apply_all


def _python(state: Any) -> Callable[[], None]:
    value = (state["version"], tuple(state["state"].tolist()), state["gauss_next"])
    random.Random().setstate(value)  # a trial on a generator that nobody uses
    return lambda: random.setstate(value)


def _numpy(state: Any) -> Callable[[], None]:
    value = _from_plain(state)
    name = np.random.get_state(legacy=False)["bit_generator"]
    if value["bit_generator"] != name:
        raise ValueError(f"expected a {name} state, found {value['bit_generator']}")
    if name == "MT19937" and not (len(value["state"]["key"]) == 624 and 0 <= value["state"]["pos"] <= 624):
        raise ValueError("expected 624 numbers and a place in them")  # numpy itself would read beyond them
    np.random.RandomState(type(np.random.mtrand._rand._bit_generator)()).set_state(value)
    return lambda: np.random.set_state(value)


def _torch(state: Any) -> Callable[[], None]:
    torch.Generator().set_state(state)
    return lambda: torch.set_rng_state(state)


def _cuda(states: Any) -> Callable[[], None]:
    if not torch.cuda.is_available() or len(states) != torch.cuda.device_count():
        return lambda: None
    for state in states:  # what torch would ask for; a trial generator would start CUDA
        if state.dtype != torch.uint8:
            raise TypeError("expected a torch.ByteTensor")
    return lambda: torch.cuda.set_rng_state_all(states)


def _to_plain(value: Any) -> Any:
    """Turn numpy's state into tensors and ints; uint64 has no signed tensor of its size and becomes a list."""
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist() if value.dtype == np.uint64 else torch.from_numpy(value.astype(np.int64))
    return value.item() if isinstance(value, np.generic) else value


def _from_plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _from_plain(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        return value.numpy().astype(np.uint32)
    return np.asarray(value, dtype=np.uint64) if isinstance(value, list) else value


def loaders_without_generator(objects: Mapping[str, object]) -> list[str]:
    """Return a line per DataLoader that shuffles by torch's global random numbers: anything may change its order.

    >>> loaders_without_generator({"model": torch.nn.Linear(1, 1), "loader": DataLoader(range(4), shuffle=False)})
    []
    """
    return [
        f"{name} shuffles by torch's global random numbers: whatever else draws from them changes its batches, and a "
        "resume inside an epoch gets others; give it a generator=torch.Generator() of its own"
        for name, item in objects.items()
        if isinstance(item, DataLoader)
        and _draws_globally(item.sampler if item.batch_sampler is None else item.batch_sampler)
    ]


def _draws_globally(sampler: Any) -> bool:
    inner = getattr(sampler, "sampler", None)
    return getattr(sampler, "generator", sampler) is None or (inner is not None and _draws_globally(inner))
