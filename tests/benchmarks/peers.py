"""Other savers, each used as its own manual says (extra ``peers``). None of them reads back what it wrote.

Lightning: what a ``ModelCheckpoint`` with save_top_k and save_last has its ``CheckpointIO`` do: two full writes, each
through a buffer in memory and renamed. Ignite: two ``Checkpoint`` handlers, of the best and of the newest: two full
writes, each renamed. safetensors: one write of the tensors alone, without checksums; the fsync is ours.
torch.distributed.checkpoint: one process, a folder for each save, which its writer syncs.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Save = Callable[[int], object]

PACKAGES = {"lightning": "lightning", "ignite": "pytorch-ignite", "safetensors": "safetensors"}


def installed() -> list[str]:
    return [package for module, package in PACKAGES.items() if importlib.util.find_spec(module)]


def missing() -> list[str]:
    return [package for package in PACKAGES.values() if package not in installed()]


def lightning(checkpoint: dict[str, Any], folder: Path) -> Save:
    from lightning.pytorch.plugins.io import TorchCheckpointIO

    files = TorchCheckpointIO()

    def save(epoch: int) -> None:
        files.save_checkpoint(checkpoint, folder / f"epoch_{epoch:03d}.ckpt")
        files.save_checkpoint(checkpoint, folder / "last.ckpt")

    return save


def ignite(checkpoint: dict[str, Any], folder: Path) -> Save:
    from ignite.engine import Engine
    from ignite.handlers import Checkpoint, DiskSaver

    class Training:
        def state_dict(self) -> dict[str, Any]:
            return checkpoint

        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise NotImplementedError

    engine = Engine(lambda *_: None)
    handlers = [
        Checkpoint(
            {"training": Training()},
            DiskSaver(str(folder), require_empty=False),
            filename_prefix="best",
            score_function=lambda engine: engine.state.iteration,
        ),
        Checkpoint({"training": Training()}, DiskSaver(str(folder), require_empty=False), n_saved=3),
    ]

    def save(epoch: int) -> None:
        engine.state.iteration = epoch
        for handler in handlers:
            handler(engine)

    return save


def safetensors(checkpoint: dict[str, Any], folder: Path) -> Save:
    from safetensors.torch import save_file

    tensors = dict(_tensors(checkpoint))

    def save(epoch: int) -> None:
        path = folder / f"epoch_{epoch:03d}.safetensors"
        save_file(tensors, path)
        with open(path, "rb") as file:
            os.fsync(file.fileno())

    return save


def _tensors(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    import torch

    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(item, f"{path}.{key}")


def distributed(checkpoint: dict[str, Any], folder: Path) -> Save:
    from torch.distributed import checkpoint as dcp

    def save(epoch: int) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # which is what was asked for
            dcp.save(checkpoint, checkpoint_id=folder / f"epoch_{epoch:03d}", no_dist=True)

    return save


SAVERS: dict[str, Callable[[dict[str, Any], Path], Save]] = {
    "Lightning, 2 names, no fsync": lightning,
    "Ignite, 2 names, no fsync": ignite,
    "safetensors + fsync, 1 name": safetensors,
    "torch.distributed.checkpoint, 1 folder": distributed,
}


def lightning_beside(objects: dict[str, Any], folder: Path) -> tuple[Save, Callable[[], object], Callable[[], object]]:
    """Save as a ModelCheckpoint without save_last has its asynchronous plugin do: one file."""
    from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

    files = AsyncCheckpointIO(TorchCheckpointIO())
    folder.mkdir()

    def save(epoch: int) -> None:
        state = {name: item.state_dict() for name, item in objects.items()}
        files.save_checkpoint(state, folder / f"epoch_{epoch % 3:03d}.ckpt")

    def wait() -> None:
        if files._executor is not None:  # there is no other way to wait for one save
            files._executor.submit(lambda: None).result()

    return save, wait, files.teardown


def distributed_beside(
    objects: dict[str, Any], folder: Path
) -> tuple[Save, Callable[[], object], Callable[[], object]]:
    """Save by ``async_save`` of torch.distributed.checkpoint, one process, into a folder of its own each time."""
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    under_way: list[Any] = []

    def save(epoch: int) -> None:
        state = {name: item.state_dict() for name, item in objects.items()}
        under_way.append(dcp.async_save(state, checkpoint_id=str(folder / f"epoch_{epoch:03d}")))

    def wait() -> None:
        while under_way:
            under_way.pop().result()
        shutil.rmtree(folder, ignore_errors=True)  # one is never written over another

    return save, wait, dist.destroy_process_group


IN_BACKGROUND = {"Lightning's AsyncCheckpointIO": lightning_beside, "DCP async_save": distributed_beside}
