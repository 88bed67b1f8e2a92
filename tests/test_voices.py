"""Synthetic voices and their windows: what is said is heard, seen, and the same every time."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from koemorph_tutorial.training.dataset import SPLITS, augment, cut_windows, make_split
from koemorph_tutorial.training.phonemes import LABELS
from koemorph_tutorial.training.settings import DataConfig, TrainingConfig
from koemorph_tutorial.training.voices import ARKIT_NAMES, FRAME_RATE, HOP, SAMPLE_RATE, SPEAKERS, make_voice, pose

speakers = st.sampled_from(sorted(SPEAKERS))


def test_there_are_52_names_and_each_side_has_its_other_side() -> None:
    """A face with a left eye only would be a slip in the table."""
    assert 52 == len(ARKIT_NAMES) == len(set(ARKIT_NAMES))
    left = {name.removesuffix("Left") for name in ARKIT_NAMES if name.endswith("Left")}
    right = {name.removesuffix("Right") for name in ARKIT_NAMES if name.endswith("Right")}
    assert left == right
    assert 6 == len(SPEAKERS)


@pytest.mark.parametrize("label", LABELS)
def test_every_pose_is_a_face_and_none_is_empty(label: str) -> None:
    """A misspelt name in the table of poses would move nothing."""
    face = pose(label)
    assert (52,) == face.shape
    assert 0 <= face.min() < face.max() <= 1


@settings(max_examples=25, deadline=None)
@given(speaker=speakers, seconds=st.floats(0.01, 3), seed=st.integers(0, 2**63))
def test_any_voice_is_finite_and_of_the_promised_shape(speaker: str, seconds: float, seed: int) -> None:
    """From one face on, whatever the seed."""
    voice = make_voice(speaker, seconds=seconds, seed=seed)
    frames = round(seconds * FRAME_RATE)
    assert (frames * HOP,) == voice.audio.shape
    assert (frames, 52) == voice.blendshapes.shape
    assert frames == len(voice.labels)
    assert np.dtype(np.float32) == voice.audio.dtype == voice.blendshapes.dtype
    assert np.isfinite(voice.audio).all()
    assert 0 <= voice.blendshapes.min() <= voice.blendshapes.max() <= 1
    assert set(voice.labels) <= set(LABELS)


def test_a_voice_does_not_depend_on_those_made_before_it() -> None:
    """Adding a speaker must not change what the others say."""
    alone = make_voice("sora", seconds=2.0, seed=3)
    for speaker in SPEAKERS:
        make_voice(speaker, seconds=1.0, seed=3)
    again = make_voice("sora", seconds=2.0, seed=3)
    assert np.array_equal(alone.audio, again.audio)
    assert np.array_equal(alone.blendshapes, again.blendshapes)
    assert alone.labels == again.labels


def test_a_voice_is_the_same_in_another_process_and_needs_no_torch() -> None:
    """Python salts the hash of a string in each process; a seed made of it would change from run to run."""
    script = (
        "import sys, zlib; from koemorph_tutorial.training.voices import make_voice\n"
        "v = make_voice('mei', seconds=1.0)\n"
        "print(zlib.crc32(v.audio.tobytes()), zlib.crc32(v.blendshapes.tobytes()), 'torch' in sys.modules)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": salt}, capture_output=True, text=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    (output,) = outputs
    assert "False" == output.split()[-1]


def test_other_speakers_and_other_seeds_say_something_else() -> None:
    """Two names with one seed, and one name with two seeds, are three scripts."""
    scripts = {make_voice(speaker, seed=seed).labels for speaker, seed in (("aki", 0), ("ren", 0), ("aki", 1))}
    assert 3 == len(scripts)


@pytest.mark.parametrize("speaker", sorted(SPEAKERS))
def test_a_voice_has_the_pitch_of_its_speaker(speaker: str) -> None:
    """The shortest lag at which a vowel repeats itself well (autocorrelation) is near the speaker's period."""
    voice = make_voice(speaker, seconds=12.0, seed=1)
    pitches = []
    for frame in range(4, len(voice.labels) - 4, 5):
        if len(set(voice.labels[frame - 2 : frame + 3])) == 1 and voice.labels[frame] in ("a", "e", "o"):
            part = voice.audio[(frame - 2) * HOP : (frame + 3) * HOP].astype(np.float64)
            similar = np.correlate(part, part, "full")[len(part) - 1 :] / np.arange(len(part), 0, -1)
            rises = np.diff(similar[:300])
            peaks = 1 + np.flatnonzero((rises[:-1] > 0) & (rises[1:] <= 0))
            peaks = peaks[peaks > 40]
            pitches.append(SAMPLE_RATE / peaks[similar[peaks] > 0.8 * similar[peaks].max()][0])
    assert SPEAKERS[speaker].pitch == pytest.approx(np.median(pitches), rel=0.2)


def test_silence_is_quiet_and_an_open_mouth_is_loud() -> None:
    """Sound and face tell of the same thing, or there would be nothing to learn."""
    voice = make_voice("haru", seconds=20.0, seed=2)
    labels = np.array(voice.labels)
    level = np.sqrt(np.square(voice.audio.reshape(-1, HOP)).mean(1))
    jaw = voice.blendshapes[:, ARKIT_NAMES.index("jawOpen")]
    assert np.median(level[labels == "a"]) > 20 * np.median(level[labels == ""])
    assert np.median(jaw[labels == "a"]) > 0.6 > 0.1 > np.median(jaw[labels == ""])


@pytest.mark.parametrize(("brighter", "darker"), [("s", "sh"), ("sh", "k"), ("i", "u"), ("e", "o")])
def test_sounds_differ_where_their_formants_and_hiss_say_so(brighter: str, darker: str) -> None:
    """The centre of the power above 600 Hz is higher for the first of each pair."""
    voice = make_voice("haru", seconds=20.0, seed=0)
    labels = np.array(voice.labels)
    power = np.abs(np.fft.rfft(voice.audio.reshape(-1, HOP) * np.hanning(HOP)))[:, 6:] ** 2  # bins of 100 Hz
    centre = (power * np.arange(power.shape[1])).sum(1) / power.sum(1)
    assert np.median(centre[labels == brighter]) > np.median(centre[labels == darker])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"speaker": "bob"}, "speaker: expected one of haru, aki, ren, yuki, sora, mei, found 'bob'"),
        ({"speaker": "aki", "seconds": 0.001}, "seconds: expected at least 0.01, found 0.001"),
        ({"speaker": "aki", "seed": -1}, "seed: expected 0 or above, found -1"),
    ],
)
def test_a_voice_that_cannot_be_made_is_refused(arguments: dict[str, object], line: str) -> None:
    """In one line that says what was expected."""
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        make_voice(**arguments)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 60), length=st.integers(512, 6400))
def test_a_window_is_the_audio_around_its_face(count: int, length: int) -> None:
    """Its middle sample lies in the middle of the 10 ms that the face belongs to."""
    voice = make_voice("ren", seconds=1.2, seed=5)
    audio, faces = cut_windows(voice, count, length)
    assert ((count, length), (count, 52)) == (tuple(audio.shape), tuple(faces.shape))
    starts = [int(np.flatnonzero((voice.blendshapes == face.numpy()).all(1))[0]) for face in faces[:3]]
    found = [
        any(
            np.array_equal(window.numpy(), voice.audio[frame * HOP + HOP // 2 - length // 2 :][:length])
            # At rest several faces may be equal: one of them must fit.
            for frame in np.flatnonzero((voice.blendshapes == voice.blendshapes[first]).all(1))
        )
        for window, first in zip(audio[:3], starts, strict=True)
    ]
    assert [True] * len(starts) == found


def test_more_windows_than_the_voice_holds_are_refused() -> None:
    """Else some would be there twice."""
    with pytest.raises(ValueError, match="expected 1 to 60 windows of 6400 samples, found 61"):
        cut_windows(make_voice("ren", seconds=1.0), 61, 6400)


def test_the_splits_have_the_sizes_of_the_config_and_share_no_window() -> None:
    """Validation and test are voices that training never hears."""
    config = DataConfig(seconds=3.0, train_windows=30, validation_windows=7, test_windows=5)
    splits = {split: make_split(config, split) for split in SPLITS}
    assert {"train": 30, "validation": 7, "test": 5} == {split: len(data) for split, data in splits.items()}
    windows = torch.cat([splits[split].tensors[0] for split in SPLITS])
    assert 42 == len(torch.unique(windows, dim=0))
    with pytest.raises(ValueError, match="split: expected one of train, validation, test, found 'dev'"):
        make_split(config, "dev")  # type: ignore[arg-type]


@settings(max_examples=20, deadline=None)
@given(seconds=st.floats(1, 4), window_seconds=st.floats(0.032, 0.9))
def test_as_many_windows_as_the_config_allows_can_be_cut(seconds: float, window_seconds: float) -> None:
    """What passes the check when a config is made never fails when the data are."""
    config = DataConfig(
        seconds=seconds, window_seconds=window_seconds, train_windows=1, validation_windows=2, test_windows=1
    )
    most = config.most_windows("test")
    full = replace(config, test_windows=most)
    assert most == len(make_split(full, "test"))


def test_augmentation_draws_from_python_numpy_and_torch_and_each_one_matters() -> None:
    """A run that comes back without one of the three goes on differently: that is why it is there."""
    import random

    audio, faces = torch.randn(4, 800), torch.rand(4, 52)

    def draw(python: int, numpy: int, torch_seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        random.seed(python)
        np.random.seed(numpy)
        torch.manual_seed(torch_seed)
        return augment(audio, faces, TrainingConfig())

    reference = draw(0, 0, 0)
    assert [True, True] == [torch.equal(a, b) for a, b in zip(reference, draw(0, 0, 0), strict=True)]
    assert not torch.equal(reference[0], draw(1, 0, 0)[0])
    assert not torch.equal(reference[0], draw(0, 1, 0)[0])
    assert not torch.equal(reference[1], draw(0, 0, 1)[1])


def test_augmentation_leaves_still_parts_still_and_can_be_turned_off() -> None:
    """Faces stay within 0 and 1; with all three settings at 0 nothing changes."""
    audio, faces = torch.randn(64, 100), torch.rand(64, 52).round()
    _, moved = augment(audio, faces, TrainingConfig(target_jitter=0.5))
    assert 0 == moved[faces == 0].abs().max()
    assert 0 <= moved.min() < moved.max() <= 1
    same_audio, same_faces = augment(audio, faces, TrainingConfig(target_jitter=0.0, gain=0.0, noise=0.0))
    assert torch.equal(audio, same_audio)
    assert torch.equal(faces, same_faces)
