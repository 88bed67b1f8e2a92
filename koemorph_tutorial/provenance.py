"""Where a checkpoint came from, and what in this process is not as it was there."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import time
from collections.abc import Mapping
from functools import cache
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

# What must be the same for the same bits: what it is, and what to do about another one.
_CURES = {
    "pytorch_version": ("torch", "install that one to go on exactly"),
    "threads": ("threads", "torch.set_num_threads({}) goes on exactly"),
    "ranks": ("ranks", "each rank sees other batches now; start {} processes to go on exactly"),
    "cuda_devices": ("CUDA devices", "their random states stay as they are; show it {} to go on exactly"),
}
_PATIENCE = 5.0  # seconds for git: a huge repository on a slow disk must not hold up a save


def collect_metadata(modules: Mapping[str, nn.Module], training_time: float) -> dict[str, Any]:
    """Return where a checkpoint came from: ``model_params`` counts the module called "model", else the first.

    `training_time` in seconds; ``timestamp`` in seconds since 1970.
    """
    parameters = _parameters(modules)
    return {
        "timestamp": time.time(),
        "hostname": socket.gethostname(),
        "git_commit": _commit_here(),
        "pytorch_version": str(torch.__version__),
        "model_params": sum(parameter.numel() for parameter in parameters if not is_lazy(parameter)),
        "training_time": training_time,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_of(modules),
        "package_version": package_version(),
        **surroundings(),
    }


def _parameters(modules: Mapping[str, nn.Module]) -> list[nn.Parameter]:
    first = next(iter(modules.values()), None)
    model = modules.get("model", first)  # not by `or`: a compiled module has no truth value
    return list(model.parameters()) if model is not None else []


def device_of(modules: Mapping[str, nn.Module]) -> str:
    """Return where the module called "model" is, else the first; of a GPU its kind as well."""
    device = next((parameter.device for parameter in _parameters(modules)), torch.device("cpu"))
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def surroundings() -> dict[str, int]:
    """Return what must be the same for the same bits, beside the random states."""
    return {
        "threads": torch.get_num_threads(),
        "ranks": world_size(),
        "cuda_devices": torch.cuda.device_count() if torch.cuda.is_initialized() else 0,
    }


def world_size() -> int:
    """Return how many processes train together; 1 where torch.distributed was not begun."""
    begun = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if begun else 1


def package_version() -> str:
    """Return the version of this library, "unknown" where it was copied and not installed."""
    try:
        return packages.version("koemorph-tutorial")
    except packages.PackageNotFoundError:  # copied into another project, not installed
        return "unknown"


def _commit_here() -> str | None:
    try:
        return git_commit(Path.cwd())
    except OSError:  # the working directory was removed
        return None


@cache
def git_commit(directory: Path) -> str | None:
    """Return the commit checked out in `directory`, with "-dirty" if files differ from it; None without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # asking must not get in the way of somebody's commit
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,  # as bytes: what git complains about may be in any encoding
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("ascii", "replace").strip() or None if done.returncode == 0 else None


def find_drift(checkpoint: Mapping[str, Any], device: str | None = None) -> tuple[str, ...]:
    """Return why a run would not go on bitwise the same in this process, on `device`: a reason each, and what to do."""
    if "rng_state" not in checkpoint:
        return ("the file holds no random states",)
    then = checkpoint.get("metadata", {})
    now: dict[str, Any] = {"pytorch_version": str(torch.__version__), **surroundings()}
    moved = device is not None and _kind(then.get("device", device)) != _kind(device)
    if moved:
        now.pop("cuda_devices")  # how many there are follows from it
    drift = [
        f"saved with {what} {then[name]}, here {now[name]}; {cure.format(then[name])}"
        for name, (what, cure) in _CURES.items()
        if name in now and name in then and then[name] != now[name]
    ]
    if moved:
        drift.append(f"saved on {then['device']}, here on {device}, which rounds otherwise; go on there to be exact")
    return tuple(drift)


def _kind(device: Any) -> str:
    """Leave out which of several devices of one kind it is."""
    return re.sub(r":\d+", "", str(device), count=1)
