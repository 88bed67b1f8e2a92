"""Windows of speech with the face at their centre: cut from the voices once, disturbed anew each time they are seen."""

import random
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from koemorph_tutorial.training.settings import DataConfig, TrainingConfig
from koemorph_tutorial.training.voices import HOP, SAMPLE_RATE, Voice, make_voice

__all__ = ["SPLITS", "Split", "augment", "cut_windows", "make_split"]

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def make_split(config: DataConfig, split: Split) -> TensorDataset:
    """Return the windows of one split: audio (windows, samples) and blendshapes (windows, 52), both float32.

    Each speaker gives an equal share, the first ones one window more where it does not divide. Raises ValueError for a
    split that is not in SPLITS.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, found {split!r}")
    speakers: tuple[str, ...] = getattr(config, f"{split}_speakers")
    share, rest = divmod(getattr(config, f"{split}_windows"), len(speakers))
    length = round(config.window_seconds * SAMPLE_RATE)
    cuts = [
        cut_windows(make_voice(speaker, seconds=config.seconds, seed=config.seed), share + (index < rest), length)
        for index, speaker in enumerate(speakers)
    ]
    return TensorDataset(torch.cat([audio for audio, _ in cuts]), torch.cat([face for _, face in cuts]))


def cut_windows(voice: Voice, count: int, length: int) -> tuple[Tensor, Tensor]:
    """Cut `count` windows of `length` samples, evenly spread over a voice, with the face at the centre of each.

    Returns audio (count, length) and blendshapes (count, 52). Raises ValueError where the voice is too short for that
    many different windows.

    >>> audio, face = cut_windows(make_voice("ren", seconds=1.0), 3, 6400)
    >>> audio.shape, face.shape
    (torch.Size([3, 6400]), torch.Size([3, 52]))
    """
    # Face k belongs to the middle of its hop, sample k * HOP + HOP // 2.
    before = length // 2 - HOP // 2
    first = max(-(-before // HOP), 0)
    last = (len(voice.audio) - length + before) // HOP
    if not 1 <= count <= last - first + 1:
        raise ValueError(f"count: expected 1 to {max(last - first + 1, 0)} windows of {length} samples, found {count}")
    faces = np.linspace(first, last, count).round().astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(voice.audio, length)[faces * HOP - before]
    return torch.from_numpy(windows.copy()), torch.from_numpy(voice.blendshapes[faces])


def augment(audio: Tensor, faces: Tensor, config: TrainingConfig) -> tuple[Tensor, Tensor]:
    """Return a batch made louder or softer, noisier, and with faces that are a little off.

    Gains are drawn from Python's random numbers, the strength of the noise from numpy's, noise itself and jitter from
    torch's: a run that comes back must bring all three back. (They differ because in real pipelines they do.)
    """
    batch = len(audio)
    gain = torch.tensor([2 ** random.uniform(-config.gain, config.gain) for _ in range(batch)], device=audio.device)
    strength = torch.from_numpy(np.random.uniform(0, config.noise, batch).astype(np.float32)).to(audio.device)
    audio = audio * gain[:, None] + torch.randn_like(audio) * strength[:, None]
    # Only what moves: a jitter around 0 would be cut in half, and teach the network a face that never rests.
    jitter = config.target_jitter * torch.randn_like(faces) * (faces > 0.02)
    return audio, (faces + jitter).clamp(0, 1)
