"""The network: its shapes, what it refuses, what is in its file, and that it can leave Python."""

from __future__ import annotations

import math
import re
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from koemorph_tutorial.training.dataset import cut_windows
from koemorph_tutorial.training.model import LogMel, SimplifiedKoeMorphModel, mel_filters
from koemorph_tutorial.training.settings import ModelConfig
from koemorph_tutorial.training.voices import make_voice


@pytest.fixture(scope="module")
def model() -> SimplifiedKoeMorphModel:
    """Return a network whose weights are the same in every test."""
    torch.manual_seed(0)
    return SimplifiedKoeMorphModel().eval()


@pytest.fixture(scope="module")
def scripted(model: SimplifiedKoeMorphModel) -> torch.jit.ScriptModule:
    """Return the same network as TorchScript, which torch calls deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script: torch.jit.ScriptModule = torch.jit.script(model)
    return script


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 5), samples=st.integers(512, 9000), loudness=st.floats(0, 100))
def test_any_audio_becomes_52_numbers_from_0_to_1(batch: int, samples: int, loudness: float) -> None:
    """Whatever the length, silent or far too loud."""
    torch.manual_seed(1)
    faces = SimplifiedKoeMorphModel().eval()(loudness * torch.randn(batch, samples))
    assert (batch, 52) == faces.shape
    assert 0 <= faces.min() <= faces.max() <= 1


def test_it_is_small_and_its_file_holds_nothing_that_nobody_trained(model: SimplifiedKoeMorphModel) -> None:
    """Spectrogram constants in every checkpoint would be dead weight, and falsify what compression can do."""
    state = model.state_dict()
    assert 47_732 == sum(parameter.numel() for parameter in model.parameters())
    assert {name for name, _ in model.named_parameters()} == set(state)
    assert {"frequencies", "spectrogram.window", "spectrogram.filters"} == {name for name, _ in model.named_buffers()}


def test_dropout_is_on_in_training_and_off_in_evaluation(model: SimplifiedKoeMorphModel) -> None:
    """It stands inside forward, so the mode is all that a caller has to know."""
    audio = torch.randn(2, 6400)
    assert torch.equal(model(audio), model(audio))
    model.train()
    try:
        assert not torch.equal(model(audio), model(audio))
    finally:
        model.eval()


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ((6400,), "audio: expected 2 dimensions (batch, samples), found 1"),
        ((1, 1, 6400), "audio: expected 2 dimensions (batch, samples), found 3"),
        ((2, 511), "audio: expected at least 512 samples, found 511"),
        ((2, 0), "audio: expected at least 512 samples, found 0"),
    ],
)
def test_audio_of_another_shape_is_refused_in_python_and_in_torchscript(
    model: SimplifiedKoeMorphModel, scripted: torch.jit.ScriptModule, shape: tuple[int, ...], line: str
) -> None:
    """The shortest length is one analysis window; a wrong one says so instead of failing deep inside."""
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        model(torch.zeros(shape))
    with pytest.raises(torch.jit.Error) as scripted_refused:
        scripted(torch.zeros(shape))
    assert line in str(scripted_refused.value)


@pytest.mark.parametrize(("batch", "samples"), [(1, 512), (3, 6400), (2, 16_001)])
def test_torchscript_computes_the_same(
    model: SimplifiedKoeMorphModel, scripted: torch.jit.ScriptModule, batch: int, samples: int
) -> None:
    """For batches and lengths that were not there when it was scripted."""
    audio = torch.randn(batch, samples)
    torch.testing.assert_close(model(audio), scripted(audio), rtol=0, atol=1e-6)


def test_it_can_learn_a_few_windows_by_heart() -> None:
    """Every parameter gets a gradient, and the loss goes down by far."""
    torch.manual_seed(0)
    learner = SimplifiedKoeMorphModel(ModelConfig(dropout=0.0))
    audio, faces = cut_windows(make_voice("aki", seconds=3.0), 4, 6400)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.mse_loss(learner(audio), faces)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    gradients = {name: parameter.grad for name, parameter in learner.named_parameters()}
    assert [] == [name for name, gradient in gradients.items() if gradient is None or not gradient.any()]
    assert losses[-1] < losses[0] / 10


def test_a_tone_is_brightest_in_the_filter_of_its_pitch() -> None:
    """The filters stand where O'Shaughnessy's formula puts them."""
    spectrogram = LogMel(ModelConfig())
    top = 2595 * math.log10(1 + 8000 / 700)
    bottom = 2595 * math.log10(1 + 60 / 700)
    for hertz in (300, 1000, 3000, 6000):
        tone = torch.sin(2 * math.pi * hertz * torch.arange(16_000) / 16_000)[None]
        brightest = int(spectrogram(tone)[0, :, 20].argmax())
        expected = (2595 * math.log10(1 + hertz / 700) - bottom) / (top - bottom) * 41 - 1
        assert expected == pytest.approx(brightest, abs=0.75)
    assert 1 + 16_000 // 320 == spectrogram(torch.zeros(1, 16_000)).shape[-1]


def test_mel_filters_cover_every_frequency_above_the_lowest() -> None:
    """Neighbouring triangles add up to one, and none is empty."""
    filters = mel_filters(40, 512, 16_000)
    assert (40, 257) == filters.shape
    assert (filters.sum(1) > 0).all()
    inner = filters.sum(0)[(torch.linspace(0, 8000, 257) > 110) & (torch.linspace(0, 8000, 257) < 7400)]
    torch.testing.assert_close(torch.ones_like(inner), inner)


def test_another_config_gives_another_size() -> None:
    """A model is made of its config alone."""
    small = SimplifiedKoeMorphModel(ModelConfig(width=16, heads=2, hidden=8, n_mels=20, hop=160))
    assert (2, 52) == small(torch.zeros(2, 600)).shape
    assert (16, 20, 3) == small.conv1.weight.shape
