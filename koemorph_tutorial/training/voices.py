"""Synthetic speech with a face: six voices, made with numpy alone.

A voice says random Japanese-like morae. Its sound follows the source-filter model (Fant 1960): glottal pulses and hiss
go through a cascade of formant resonators. Its face, 52 ARKit blendshapes, follows from the same script. So the audio
really tells what the face does, nothing has to be downloaded, and no person was recorded.

Equal arguments give equal numbers on one machine, whatever the number of threads. Another processor may round
differently: numpy picks its kernels by what the processor offers.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from koemorph_tutorial.training.phonemes import (
    ARKIT_NAMES,
    BANDWIDTHS,
    CONSONANTS,
    NASAL,
    SPEAKERS,
    VOWELS,
    Consonant,
    Formants,
    Speaker,
    pose,
)

__all__ = ["ARKIT_NAMES", "FRAME_RATE", "HOP", "SAMPLE_RATE", "SPEAKERS", "Voice", "make_voice", "pose"]

Array = npt.NDArray[np.float64]

SAMPLE_RATE = 16_000  # audio samples per second
FRAME_RATE = 100  # faces per second
HOP = SAMPLE_RATE // FRAME_RATE  # audio samples per face

_INDEX = {name: index for index, name in enumerate(ARKIT_NAMES)}
_MOUTH = np.array([name.startswith("mouth") or name == "jawOpen" for name in ARKIT_NAMES])
_SIDE = np.array([name.endswith("Left") - float(name.endswith("Right")) for name in ARKIT_NAMES])  # 1, -1 or 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Voice:
    """Hold what one speaker says, and the face that goes with it."""

    speaker: str
    audio: npt.NDArray[np.float32]  # (frames * HOP,), about -1 to 1, at SAMPLE_RATE
    blendshapes: npt.NDArray[np.float32]  # (frames, 52), 0 to 1, at FRAME_RATE, in the order of ARKIT_NAMES
    labels: tuple[str, ...]  # the sound meant in each frame; "" is silence

    def __str__(self) -> str:
        return f"{self.speaker}: {len(self.labels) / FRAME_RATE:g} s of speech, {len(self.labels)} faces"


def make_voice(speaker: str, *, seconds: float = 12.0, seed: int = 0) -> Voice:
    """Make a speaker talk for a while.

    The random numbers come from the speaker's name and `seed`: a voice stays the same whichever others are made, and in
    whichever order. `seconds` is rounded to whole faces (10 ms). Raises ValueError for a speaker who is not among
    SPEAKERS, for less than one face and for a negative seed.

    >>> voice = make_voice("mei", seconds=2.0, seed=7)
    >>> voice.audio.shape, voice.blendshapes.shape
    ((32000,), (200, 52))
    >>> print(voice)
    mei: 2 s of speech, 200 faces
    """
    if speaker not in SPEAKERS:
        raise ValueError(f"speaker: expected one of {', '.join(SPEAKERS)}, found {speaker!r}")
    frames = round(seconds * FRAME_RATE)
    if frames < 1:
        raise ValueError(f"seconds: expected at least {1 / FRAME_RATE}, found {seconds}")
    if seed < 0:
        raise ValueError(f"seed: expected 0 or above, found {seed}")
    # The letters and not hash(speaker): Python salts the hash of a string anew in every process.
    rng = np.random.default_rng([seed, *speaker.encode()])
    script = _write_script(rng, frames)
    loudness = rng.uniform(0.7, 1.3) * (1 + 0.25 * script.accent)
    return Voice(
        speaker=speaker,
        audio=_make_sound(rng, script, SPEAKERS[speaker], loudness).astype(np.float32),
        blendshapes=_make_face(script, SPEAKERS[speaker], loudness).astype(np.float32),
        labels=tuple(script.labels),
    )


class _Script:
    """What is meant in each frame, written from left to right until the page is full."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.written = 0
        self.labels = [""] * frames
        self.formants = np.zeros((frames, 4))
        self.face = np.zeros((frames, len(ARKIT_NAMES)))
        self.voicing, self.noise, self.accent, self.silence = np.zeros((4, frames))
        self.centre, self.width = np.full(frames, 2000.0), np.full(frames, 1000.0)

    def write(self, label: str, seconds: float, formants: Formants, accent: float, sound: Consonant) -> None:
        """Write one sound at the end, as much of it as still fits."""
        start, end = self.written, min(self.frames, self.written + max(1, round(seconds * FRAME_RATE)))
        part, self.written = slice(start, end), end
        self.labels[part] = [label] * (end - start)
        self.formants[part], self.face[part], self.accent[part] = formants, pose(label), accent
        self.voicing[part], self.centre[part], self.width[part] = sound.voicing, sound.centre, sound.width
        self.silence[part] = label == ""
        # A stop is a closure and then a burst: its noise comes in the last 30 ms.
        self.noise[max(start, end - 3) if label in ("k", "t", "p") else start : end] = sound.noise


def _write_script(rng: np.random.Generator, frames: int) -> _Script:
    """Write phrases of three to seven morae, a breath before each; neighbours then blend into one another."""
    script = _Script(frames)
    vowel_sound, breath = Consonant(seconds=0.0, voicing=1.0), Consonant(seconds=0.0)
    onsets = ("", *CONSONANTS)  # a mora may begin with its vowel
    formants = VOWELS["u"]
    while script.written < frames:
        script.write("", rng.uniform(0.15, 0.45), formants, 0.0, breath)
        for _ in range(rng.integers(3, 8)):
            onset, vowel = onsets[rng.integers(len(onsets))], "aiueo"[rng.integers(5)]
            accent, formants = rng.uniform(-0.5, 1.0), VOWELS[vowel]
            if onset:
                place = NASAL if onset in ("m", "n") else VOWELS["u"] if onset == "w" else formants
                sound = CONSONANTS[onset]
                script.write(onset, sound.seconds * rng.uniform(0.8, 1.3), place, accent, sound)
            script.write(vowel, rng.uniform(0.10, 0.24), formants, accent, vowel_sound)
    script.formants, script.face = _smooth(script.formants, 7), _smooth(script.face, 9)
    script.voicing, script.noise = _smooth(script.voicing, 5), _smooth(script.noise, 3)
    script.accent = _smooth(script.accent, 15)
    return script


def _make_sound(rng: np.random.Generator, script: _Script, speaker: Speaker, loudness: Array) -> Array:
    """Turn a script into audio, (frames * HOP,), with an RMS of 0.12 and a little noise of the room."""
    samples = script.frames * HOP
    source = _glottal_flow(rng, script, speaker) * _to_audio_rate(script.voicing * loudness)
    source += 0.3 * speaker.breath * rng.standard_normal(samples) * _to_audio_rate(script.voicing)
    hiss = rng.standard_normal(samples) * _to_audio_rate(script.noise)
    audio = _filter(source, hiss, script, speaker)
    level = float(np.sqrt(np.mean(audio**2)))
    return 0.12 * audio / (level + 1e-9) + 1e-3 * rng.standard_normal(samples)


def _glottal_flow(rng: np.random.Generator, script: _Script, speaker: Speaker) -> Array:
    """Return the derivative of trigonometric glottal pulses (Rosenberg 1971); pitch follows accent, and drifts."""
    drift = _smooth(rng.standard_normal(script.frames), 25)
    pitch = _to_audio_rate(speaker.pitch * 2 ** (0.22 * script.accent + 0.06 * drift - 0.08))
    phase = np.cumsum(pitch / SAMPLE_RATE) % 1.0
    opening, closing = 0.45, 0.18  # as parts of a period
    rise = 0.5 * (1 - np.cos(np.pi * phase / opening))
    fall = np.cos(0.5 * np.pi * (phase - opening) / closing)
    flow = np.where(phase < opening, rise, np.where(phase < opening + closing, fall, 0.0))
    return 12 * np.diff(flow, prepend=0.0)


def _filter(source: Array, hiss: Array, script: _Script, speaker: Speaker) -> Array:
    """Shape source and hiss frame by frame in the frequency domain, and overlap-add the frames.

    The tract is a cascade of resonators f0^2 / (f0^2 - f^2 + i f b) with the formants f0 and the bandwidths b
    (Klatt 1980); hiss gets a band of Gaussian shape. float32 here halves the time and is far below what is audible.
    """
    frames, size = script.frames, 1024
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE).astype(np.float32)
    formants = (script.formants * speaker.tract).astype(np.float32)
    bandwidths = np.array(BANDWIDTHS, np.float32)
    gain, resistance = np.ones((frames, 1), np.float32), np.ones((frames, len(frequency)), np.complex64)
    for formant, bandwidth in zip(formants.T[..., None], bandwidths, strict=True):
        gain *= formant**2
        resistance *= formant**2 - frequency**2 + 1j * (frequency * bandwidth)
    tract = gain / resistance
    band = np.exp(np.float32(-0.5) * ((frequency - script.centre[:, None]) / script.width[:, None]) ** 2)

    window = np.hanning(2 * HOP + 1)[:-1]  # periodic: windows that overlap by half add up to one
    at = np.arange(frames)[:, None] * HOP + np.arange(2 * HOP)
    spectrum = sum(
        np.fft.rfft((np.pad(signal, (HOP // 2, 2 * HOP))[at] * window).astype(np.float32), size) * shape
        for signal, shape in ((source, tract), (hiss, band))
    )
    hops = -(-size // HOP)  # a frame rings on into the next ones
    pieces = np.zeros((frames, hops * HOP))
    pieces[:, :size] = np.fft.irfft(spectrum, size)
    total = np.zeros((frames + hops, HOP))
    for hop in range(hops):
        total[hop : hop + frames] += pieces[:, hop * HOP : (hop + 1) * HOP]
    return total.ravel()[HOP // 2 : HOP // 2 + frames * HOP]


def _make_face(script: _Script, speaker: Speaker, loudness: Array) -> Array:
    """Turn a script into blendshapes, (frames, 52): mouth by sound, brows by accent, a blink a pause."""
    face = script.face * speaker.expression
    face[:, _MOUTH] *= loudness[:, None] ** 0.35
    raised = np.clip(script.accent, 0, None) * _smooth(1 - script.silence, 11)
    blink = np.zeros(script.frames)
    breaths = np.flatnonzero(np.diff(script.silence, prepend=0) > 0)
    blink[np.minimum(breaths + 8, script.frames - 1)] = 1
    face[:, _INDEX["browInnerUp"]] = 0.75 * raised * speaker.expression
    for side in ("Left", "Right"):
        smile = face[:, _INDEX["mouthSmile" + side]]
        face[:, _INDEX["browOuterUp" + side]] = 0.5 * raised * speaker.expression
        face[:, _INDEX["browDown" + side]] = 0.35 * np.clip(-2 * script.accent, 0, 1) * speaker.expression
        face[:, _INDEX["cheekSquint" + side]] = 0.55 * smile
        face[:, _INDEX["eyeSquint" + side]] = 0.3 * smile
        face[:, _INDEX["eyeWide" + side]] = 0.3 * np.clip(raised - 0.3, 0, 1)
        face[:, _INDEX["eyeBlink" + side]] = np.clip(11 * _smooth(blink, 19), 0, 1)
    return np.clip(face * (1 + speaker.asymmetry * _SIDE), 0, 1)


def _to_audio_rate(curve: Array) -> Array:
    """Interpolate a curve of one value a frame linearly to one value a sample."""
    centres = (np.arange(len(curve)) + 0.5) * HOP
    return np.interp(np.arange(len(curve) * HOP), centres, curve)


def _smooth(curve: Array, width: int) -> Array:
    """Average along time (axis 0) with a raised cosine over `width` frames; the ends are held."""
    weights = np.hanning(width + 2)[1:-1]
    weights /= weights.sum()
    before = width // 2
    padded = np.concatenate([curve[:1].repeat(before, 0), curve, curve[-1:].repeat(width - 1 - before, 0)])
    # One weight after another, not np.convolve: it serves both shapes, and no BLAS rounds by the number of threads.
    return np.asarray(sum(weight * padded[k : k + len(curve)] for k, weight in enumerate(weights)))
