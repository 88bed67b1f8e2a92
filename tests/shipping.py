"""Networks of other people, in a file of their own: an export that fails names the line in it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 4)

    def forward(self, frames: Tensor) -> Tensor:
        found, _ = self.lstm(frames)
        return self.head(found)


class TwoAndTwo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 4), nn.Linear(6, 4)

    def forward(self, sound: Tensor, speaker: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.a(sound) + self.b(speaker)
        return logits, logits.softmax(-1)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 4)

    def forward(self, sound: Tensor) -> dict[str, Tensor]:
        return {"logits": self.a(sound), "loudness": sound.abs().amax(-1)}


class UsesNumpy(nn.Module):
    def forward(self, sound: Tensor) -> Tensor:
        louder = sound + 1
        return torch.from_numpy(np.interp(louder.numpy(), [-1.0, 1.0], [0.0, 1.0]))


class Branches(nn.Module):
    def forward(self, sound: Tensor) -> Tensor:
        if sound.sum() > 0:
            return sound * 2
        return sound


class BranchesOnLength(nn.Module):
    def forward(self, sound: Tensor) -> Tensor:
        return sound * 2 if sound.shape[1] > 4 else sound


class Holds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(64, 3)

    def forward(self, sound: Tensor) -> Tensor:
        return self.a((sound * 2).reshape(2, 64))


class Hops(nn.Module):
    """Takes hops of 160 samples, as sound is often cut, and no other length."""

    def forward(self, audio: Tensor) -> Tensor:
        return audio.reshape(audio.shape[0], -1, 160).mean(-1)


class Decomposes(nn.Module):
    def forward(self, matrix: Tensor) -> Tensor:
        return torch.linalg.svd(matrix)[1]


class Talks(nn.Module):
    def forward(self, sound: Tensor) -> tuple[Tensor, str]:
        return sound, "done"


class NeverRests(nn.Module):
    def forward(self, sound: Tensor) -> Tensor:
        return functional.dropout(sound, 0.5)


class Stubborn(nn.Module):
    """Its dropout stays on, whatever train() and eval() say."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Dropout(0.5)

    def train(self, mode: bool = True) -> Stubborn:
        super().train(mode)
        self.noise.training = True
        return self

    def forward(self, sound: Tensor) -> Tensor:
        return self.noise(sound)


class Counts(nn.Module):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, sound: Tensor) -> Tensor:
        self.calls += 1
        return sound * self.calls


def convolutional() -> nn.Module:
    """Return a network with a BatchNorm whose running statistics are those of no fresh one."""
    network = nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    network(4 * torch.randn(16, 3, 20) + 1)
    return network


def transformer() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)
