"""One copy of a checkpoint that training cannot change any more, in memory that is used again for the next one."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch

_Storages = dict[tuple[str, int], list[torch.UntypedStorage]]  # by whether it is pinned, and bytes


class Snapshot:
    """The memory of one copy. Whoever takes the next one has done with the one before: it is written over.

    Tensors that share memory share it in the copy as well, so a file made of the copy is byte for byte the file that
    the state itself would have made; but what lay on an accelerator lies on the CPU.

    >>> weight = torch.zeros(2)
    >>> taken = Snapshot().take({"weight": weight})
    >>> _ = weight.fill_(1)
    >>> taken
    {'weight': tensor([0., 0.])}
    """

    def __init__(self) -> None:
        self._memory: _Storages = {}

    def take(self, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of `checkpoint` that shares nothing with it that can change.

        Raises:
            MemoryError, RuntimeError: there is no room for one.
        """
        tensors = list(_tensors(checkpoint))
        plain = [tensor for tensor in tensors if _is_plain(tensor)]
        storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in plain}
        free, self._memory = self._memory, {}
        fitting = ((identity, free.get(_kind(storage))) for identity, storage in storages.items())
        taken = {identity: found.pop() for identity, found in fitting if found}
        del free  # what this state has no use for goes before more is taken
        copies = {identity: self._copy(taken.get(identity), storage) for identity, storage in storages.items()}
        # Where deepcopy looks for what it has copied: first whole tensors, then, for all other views, storages.
        memo: dict[Any, Any] = {"torch": copies}
        for tensor in tensors:
            if _is_plain(tensor):
                memo[id(tensor)] = _view(tensor, copies[tensor.untyped_storage()._cdata])
            elif tensor.layout is not torch.strided:  # some of which deepcopy cannot do
                memo[id(tensor)] = tensor.detach().clone().requires_grad_(tensor.requires_grad)
        return copy.deepcopy(dict(checkpoint), memo)

    def _copy(self, found: torch.UntypedStorage | None, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        pinned = storage.device.type == "cuda"  # memory that the GPU writes to by itself
        if found is None:
            found = torch.empty(storage.nbytes(), dtype=torch.uint8, device="cpu", pin_memory=pinned).untyped_storage()
        found.copy_(storage)
        self._memory.setdefault(_kind(storage), []).append(found)
        return found


def _kind(storage: torch.UntypedStorage) -> tuple[str, int]:
    return storage.device.type, storage.nbytes()


def _is_plain(tensor: torch.Tensor) -> bool:
    """Say whether a tensor is nothing but a view of a storage; any other is left to torch's own deepcopy."""
    return (
        type(tensor) in (torch.Tensor, torch.nn.Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and tensor.device.type in ("cpu", "cuda")
    )


def _view(tensor: torch.Tensor, storage: torch.UntypedStorage) -> torch.Tensor:
    """Return a tensor on `storage` that is saved as `tensor` is."""
    view = torch.empty(0, dtype=tensor.dtype, device="cpu")
    view.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
    view = view.conj() if tensor.is_conj() else view
    view = torch._neg_view(view) if tensor.is_neg() else view
    if isinstance(tensor, torch.nn.Parameter):
        view = torch.nn.Parameter(view, tensor.requires_grad)
    vars(view).update(copy.deepcopy(vars(tensor)))  # what somebody has written on it
    return view.requires_grad_(tensor.requires_grad)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor in containers."""
    stack, seen = [value], set()
    while stack:
        item = stack.pop()
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, (dict, list, tuple, set, Mapping)) and id(item) not in seen:
            seen.add(id(item))
            stack += item.values() if isinstance(item, Mapping) else item
