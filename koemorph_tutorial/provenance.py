"""Where a checkpoint came from, and what in this process is not as it was there."""

from __future__ import annotations

import os
import platform
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

_PATIENCE = 5.0  # seconds for git: a huge repository on a slow disk must not hold up a save


def collect_metadata(modules: Mapping[str, nn.Module], training_time: float) -> dict[str, Any]:
    """Return where a checkpoint came from: ``model_params`` counts the module called "model", else the first.

    `training_time` in seconds; ``timestamp`` in seconds since 1970.
    """
    model = modules.get("model") or next(iter(modules.values()), None)
    parameters = list(model.parameters()) if model is not None else []
    return {
        "timestamp": time.time(),
        "hostname": socket.gethostname(),
        "git_commit": _commit_here(),
        "pytorch_version": str(torch.__version__),
        "model_params": sum(parameter.numel() for parameter in parameters if not is_lazy(parameter)),
        "training_time": training_time,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": _device(parameters[0].device if parameters else torch.device("cpu")),
        "package_version": _package_version(),
        **surroundings(),
    }


def _device(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def surroundings() -> dict[str, int]:
    """Return what must be the same for the same bits, beside the random states."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return {
        "threads": torch.get_num_threads(),
        "ranks": torch.distributed.get_world_size() if distributed else 1,
        "cuda_devices": torch.cuda.device_count() if torch.cuda.is_initialized() else 0,
    }


def _package_version() -> str:
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


def find_drift(checkpoint: Mapping[str, Any]) -> tuple[str, ...]:
    """Return why a run would not go on bitwise the same in this process, one reason each."""
    if "rng_state" not in checkpoint:
        return ("the file holds no random states",)
    then = checkpoint.get("metadata", {})
    now: dict[str, Any] = {"pytorch_version": str(torch.__version__), **surroundings()}
    words = {"pytorch_version": "torch", "cuda_devices": "CUDA devices"}
    return tuple(
        f"saved with {words.get(name, name)} {then[name]}, here {value}"
        for name, value in now.items()
        if name in then and then[name] != value
    )
