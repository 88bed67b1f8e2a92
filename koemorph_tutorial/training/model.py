"""The network of the example: from raw audio to a face, everything inside `forward`."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from koemorph_tutorial.training.phonemes import ARKIT_NAMES
from koemorph_tutorial.training.settings import ModelConfig
from koemorph_tutorial.training.voices import SAMPLE_RATE

__all__ = ["LogMel", "SimplifiedKoeMorphModel", "mel_filters"]


class SimplifiedKoeMorphModel(nn.Module):
    """Map a window of speech to the face at its centre: audio (batch, samples) -> blendshapes (batch, 52) in [0, 1].

    A log-mel spectrogram goes through two convolutions; then 52 learned queries, one per blendshape, look for what they
    need in it by cross-attention (Vaswani 2017). Each frame knows its distance from the centre of the window.

    Audio is float, at 16 kHz; at least `n_fft` samples (512: 32 ms), any length above. The same
    weights serve every length. Raises ValueError for another shape. About 48,000 parameters with the default config;
    spectrogram constants are no part of the state dict.

    >>> model = SimplifiedKoeMorphModel().eval()
    >>> model(torch.zeros(2, 6400)).shape
    torch.Size([2, 52])
    """

    frequencies: Tensor

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__()
        config = ModelConfig() if config is None else config
        width, faces = config.width, len(ARKIT_NAMES)
        self.heads = config.heads
        self.spectrogram = LogMel(config)
        self.conv1 = nn.Conv1d(config.n_mels, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, padding=1)
        self.queries = nn.Parameter(0.1 * torch.randn(faces, width))
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.attended = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, config.hidden)
        self.head = nn.Parameter(torch.randn(faces, config.hidden) / math.sqrt(config.hidden))
        self.bias = nn.Parameter(torch.full((faces,), -2.0))  # a face at rest is near 0
        self.dropout = nn.Dropout(config.dropout)
        # Radians a frame: from a wave longer than any window to one of about four frames.
        frequencies = torch.linspace(math.log(0.1), math.log(1.5), width // 2).exp()
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Return the blendshapes, (batch, 52), for audio (batch, samples)."""
        frames = self.spectrogram(audio)  # (batch, mels, time)
        frames = self.dropout(functional.gelu(self.conv1(frames)))
        frames = self.dropout(functional.gelu(self.conv2(frames))).transpose(1, 2)  # (batch, time, width)
        frames = frames + 0.5 * self.distance_from_centre(frames)
        batch, time, width = frames.shape
        per_head = width // self.heads
        query = self.query(self.queries).view(1, -1, self.heads, per_head).transpose(1, 2)
        key, value = self.key_value(frames).chunk(2, -1)
        key = key.reshape(batch, time, self.heads, per_head).transpose(1, 2)
        value = value.reshape(batch, time, self.heads, per_head).transpose(1, 2)
        attention = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(per_head), -1)  # (batch, head, 52, time)
        found = (attention @ value).transpose(1, 2).reshape(batch, -1, width)  # (batch, 52, width)
        found = self.norm(self.queries + self.dropout(self.attended(found)))
        found = self.dropout(functional.gelu(self.hidden(found)))
        # A head of its own per blendshape: a product with its row, summed.
        return torch.sigmoid(3 * (found * self.head).sum(-1) + self.bias)

    def distance_from_centre(self, frames: Tensor) -> Tensor:
        """Return sines and cosines, (time, width), of how far each frame is from the middle of the window."""
        time = frames.shape[1]
        distance = torch.arange(time, device=frames.device, dtype=frames.dtype) - 0.5 * (time - 1)
        angle = distance[:, None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], -1)


class LogMel(nn.Module):
    """Turn audio (batch, samples) into a log-mel spectrogram (batch, n_mels, 1 + samples // hop), about 0 to 1."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_fft, self.hop = config.n_fft, config.hop
        # Constants, so not persistent: in every checkpoint they would be mostly zeros that nobody trained.
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        filters = mel_filters(config.n_mels, config.n_fft, SAMPLE_RATE)
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Return the spectrogram; raise ValueError for a wrong shape (torch.jit.Error once it is scripted)."""
        if audio.dim() != 2:
            raise ValueError(f"audio: expected 2 dimensions (batch, samples), found {audio.dim()}")
        if audio.shape[1] < self.n_fft:
            raise ValueError(f"audio: expected at least {self.n_fft} samples, found {audio.shape[1]}")
        spectrum = torch.stft(
            audio, self.n_fft, hop_length=self.hop, window=self.window, pad_mode="constant", return_complex=True
        )
        power = torch.view_as_real(spectrum).square().sum(-1)
        return 0.25 * torch.log(self.filters @ power + 1e-4) + 0.5


def mel_filters(n_mels: int, n_fft: int, sample_rate: int) -> Tensor:
    """Return triangular filters, (n_mels, 1 + n_fft // 2), evenly spaced in mel from 60 Hz upwards.

    mel = 2595 log10(1 + Hz / 700) (O'Shaughnessy 1987; as in HTK). Each triangle peaks at 1 where its neighbours begin.

    >>> mel_filters(40, 512, 16_000).shape
    torch.Size([40, 257])
    """
    ends = [2595 * math.log10(1 + hertz / 700) for hertz in (60.0, sample_rate / 2)]
    mel = torch.linspace(ends[0], ends[1], n_mels + 2, dtype=torch.float64)
    corners = 700 * (10 ** (mel / 2595) - 1)
    left, peak, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    hertz = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    return torch.minimum((hertz - left) / (peak - left), (right - hertz) / (right - peak)).clamp(min=0).float()
