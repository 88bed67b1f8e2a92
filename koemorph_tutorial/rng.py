"""The random number generators of a process <-> tensors and ints that ``weights_only=True`` reads back.

Python, numpy (the global one), torch on the CPU and on every CUDA device. Python and numpy each hide one cached normal
number beside their state (``gauss_next``, ``has_gauss``); without it every second draw would differ.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

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
    apply_rng = prepare_rng(state)
    apply_rng()


def prepare_rng(state: Mapping[str, Any]) -> Callable[[], None]:
    """Check `state` and return a function that applies it: the check may fail, the function does not.

    Raises:
        MismatchError: which generator's state cannot be applied.
    """
    steps: list[Callable[[], None]] = []

    def add(name: str, check: Callable[[Any], Callable[[], None]]) -> None:
        if name not in state:
            return
        try:
            steps.append(check(state[name]))
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
            raise MismatchError(
                f"rng_state.{name}: the state in the file cannot be applied ({error}); without it the run would go on "
                "with other random numbers"
            ) from None

    add("python", _python)
    add("numpy", _numpy)
    add("torch", _torch)
    if torch.cuda.is_available() and len(state.get("cuda", ())) == torch.cuda.device_count():
        add("cuda", lambda states: lambda: torch.cuda.set_rng_state_all(states))

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
