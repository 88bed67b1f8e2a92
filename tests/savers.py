"""Savers to be crash-tested: the recipe's, a sound one of a few lines, and that one broken in three ways on purpose."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from koemorph_tutorial.testing import digest, saved

Pair = tuple[Callable[[Path], None], Callable[[Path], str | None]]


def the_recipe(epochs: int = 4) -> Pair:
    """Save as parts 3 and 4 of the recipe do: up to three torch.save calls, each over the name that it has."""
    import torch

    losses = (0.9, 0.5, 0.7, 0.4)

    def train(directory: Path) -> None:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        last, start, best = directory / "last_model.pth", 0, float("inf")
        if last.exists():
            checkpoint = torch.load(last)
            model.load_state_dict(checkpoint["model_state_dict"])
            optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
            start, best = checkpoint["epoch"] + 1, checkpoint["best"]
        for epoch in range(start, epochs):
            loss = model(torch.ones(4, 3)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            is_best, best = losses[epoch] < best, min(losses[epoch], best)
            checkpoint = {
                "epoch": epoch,
                "model_state_dict": model.state_dict(),
                "optimizer_state_dict": optimizer.state_dict(),
                "metrics": {"loss": losses[epoch]},
                "best": best,
            }
            torch.save(checkpoint, directory / f"checkpoint_epoch_{epoch:03d}.pth")
            if is_best:
                torch.save(checkpoint, directory / "best_model.pth")
            torch.save(checkpoint, last)
            saved(digest(checkpoint))

    def recover(directory: Path) -> str | None:
        last = directory / "last_model.pth"
        return digest(torch.load(last)) if last.exists() else None

    return train, recover


@dataclass(frozen=True, kw_only=True)
class SmallSaver:
    """A saver of texts: temporary, fsync, rename, fsync of the directory, checked on reading, removals last."""

    epochs: int = 4
    sync: bool = True
    remove_first: bool = False
    trust_the_newest_name: bool = False

    def train(self, directory: Path) -> None:
        state = self._load(directory) or "start"
        self._remove(directory, keep=2)  # a kill may have come before the removal
        for epoch in range(0 if state == "start" else int(state.split()[0]) + 1, self.epochs):
            state = f"{epoch} {hashlib.sha256(state.encode()).hexdigest()}"
            if self.remove_first:
                self._remove(directory, keep=0)
            self._save(directory / f"epoch_{epoch}.txt", state)
            self._remove(directory, keep=2)
            saved(state)

    def recover(self, directory: Path) -> str | None:
        return self._load(directory)

    def _save(self, path: Path, state: str) -> None:
        data = f"{zlib.crc32(state.encode()):08x} {state}".encode()
        temporary = path if self.trust_the_newest_name else path.with_name(".tmp")
        with open(temporary, "wb", buffering=0) as file:
            file.write(data[:40])
            file.write(data[40:])
            if self.sync:
                os.fsync(file.fileno())
        if temporary != path:
            os.replace(temporary, path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    def _remove(self, directory: Path, *, keep: int) -> None:
        files = self._files(directory)
        for path in files[: len(files) - keep]:
            path.unlink()

    def _load(self, directory: Path) -> str | None:
        for path in reversed(self._files(directory)):
            checksum, _, state = path.read_text().partition(" ")
            if self.trust_the_newest_name or checksum == f"{zlib.crc32(state.encode()):08x}":
                return state
        return None

    def _files(self, directory: Path) -> list[Path]:
        return sorted(directory.glob("epoch_*.txt"), key=lambda path: int(path.stem[6:]))
