"""What of a checkpoint inference needs: two thirds of it are an optimizer's memory, which only a training does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from .records import MismatchError
from .text import printable

State = Mapping[str, Any]

_TOLD = ("metrics", "best", "config", "metadata")  # kept as they are, whatever is in them
_OF_TRAINING = ("optim", "sched", "scaler", "loader", "sampler", "rng", "ranks", "callbacks", "loops")
_DEEPEST = 8


def for_inference(checkpoint: State, *, bf16: bool = False) -> dict[str, Any]:
    """Return what of a checkpoint inference needs: all weights, and what is told of them, as metrics, epoch, config.

    Optimizer, scheduler, loader and random numbers are left out: no training can go on from it, and its metadata says
    so. `bf16`: weights of more than two bytes become bfloat16, which has their range, and 3 digits where float32 has 7.

    >>> for_inference({"epoch": 3, "metrics": {"loss": 0.5}, "optimizer_state_dict": {"param_groups": []}})
    Traceback (most recent call last):
        ...
    koemorph_tutorial.records.MismatchError: expected weights in the checkpoint, found none: epoch, metrics, \
optimizer_state_dict

    Raises:
        MismatchError: there are no weights in it.
        ValueError: `bf16`, and a weight that is too large for it.
    """
    convert = _Halving() if bf16 else lambda state: state
    if _are_weights(checkpoint):
        whole = convert(checkpoint)
        return copy.copy(whole) if isinstance(whole, dict) else dict(whole)
    kept = _without_training(checkpoint, convert)
    if not kept:
        names = ", ".join(printable(str(key), 40) for key in list(checkpoint)[:12])
        raise MismatchError(f"expected weights in the checkpoint, found none: {names or 'it is empty'}")
    if "format_version" in kept and isinstance(kept.get("metadata"), Mapping):
        kept["metadata"] = {**kept["metadata"], "for_inference": True}
    return kept


def _without_training(content: State, convert: Callable[[State], State], depth: int = 0) -> dict[str, Any]:
    """Return what is left of `content`; nothing where there are no weights in it."""
    found, kept = False, {}
    for key, value in content.items():
        if key in _TOLD and not depth:
            kept[key] = value
        elif _are_weights(value):
            found, kept[key] = True, convert(value)
        elif _is_of_training(key, value):
            continue
        elif not _holds_tensors(value):
            kept[key] = value
        elif isinstance(value, Mapping) and depth < _DEEPEST:  # a whole checkpoint under that key
            left = _without_training(value, convert, depth + 1)
            if left:
                found, kept[key] = True, left
    return kept if found else {}


def _are_weights(value: Any) -> bool:
    """Say whether it looks like the state dict of a network."""
    if not isinstance(value, Mapping) or "param_groups" in value or not all(isinstance(name, str) for name in value):
        return False
    tensors = [item for item in value.values() if _is_tensor(item)]
    others = [item for item in value.values() if not _is_tensor(item)]
    real = any("float" in str(item.dtype) or "complex" in str(item.dtype) for item in tensors)
    return real and len(others) <= len(tensors) and not any(map(_holds_tensors, others))


def _is_of_training(key: Any, value: Any) -> bool:
    name = str(key).lower()
    known = name.endswith("_state_dict") or any(part in name for part in _OF_TRAINING)
    return known or (isinstance(value, Mapping) and "param_groups" in value)


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _holds_tensors(value: Any, depth: int = 0) -> bool:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return any(_is_tensor(item) or (depth < _DEEPEST and _holds_tensors(item, depth + 1)) for item in items)


class _Halving:
    """Makes bfloat16 of the weights in state dicts; those that share their memory share it after that."""

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Any, Any]] = {}  # with the storage itself, so that its address is not used again

    def __call__(self, state: State) -> State:
        halved = copy.copy(state) if isinstance(state, dict) else dict(state)  # a copy keeps the versions of the layers
        for name, value in state.items():
            if getattr(value, "is_floating_point", bool)() and value.element_size() > 2:
                halved[name] = self._halve(name, value.detach())
        return halved

    def _halve(self, name: str, tensor: Any) -> Any:
        import torch

        storage = tensor.untyped_storage()
        key = storage.data_ptr(), storage.nbytes(), tensor.dtype
        if key not in self._known:
            numbers = storage.nbytes() // tensor.element_size()
            flat = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(storage, 0, (numbers,), (1,))
            small = flat.to(torch.bfloat16)
            if bool((small.isinf() & flat.isfinite()).any()):
                raise ValueError(
                    f"{name}: expected weights that bfloat16 can hold, found one of {float(flat.abs().max()):.3g}; "
                    "leave bf16 out"
                )
            self._known[key] = small, storage
        return self._known[key][0].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
