"""Thousands of bits, cuts, overwrites and files of noise: a verdict each, and none is called sound and loads otherwise.

What tests/test_damage.py samples. The figures are printed, for the README.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests import damage

SMALL = ["training.epochs=2", "data.train_windows=64", "data.validation_windows=16", "data.seconds=3.0"]
SLOWEST = 5.0  # seconds
MOST = 300 << 20  # bytes of memory above the start


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the newest checkpoint of a short training of the example, and what torch writes by itself."""
    folder = tmp_path_factory.mktemp("files")
    command = [sys.executable, "-m", "koemorph_tutorial", "train", "--run-dir", str(folder / "run"), *SMALL]
    subprocess.run(command, check=True, capture_output=True, cwd=folder, timeout=300)
    return {
        "ours": folder / "run/checkpoints/last_model.pth",
        "torch.save": damage.plain_state(folder / "plain.pth"),
        "TorchScript": damage.script(folder / "script.pt"),
    }


KINDS = ("ours", "torch.save", "TorchScript")


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_found_or_touches_no_state(files: dict[str, Path], kind: str, tmp_path: Path) -> None:
    """A thousand single bits each, anywhere in the file."""
    original, state = files[kind].read_bytes(), damage.loaded(files[kind])
    path = tmp_path / files[kind].name
    path.write_bytes(original)
    assert "touches no state" == damage.outcome_of(path, state)
    outcomes: dict[str, list[str]] = {}
    for what, data in damage.flips(original, 1000):
        path.write_bytes(data)
        outcomes.setdefault(damage.outcome_of(path, state), []).append(what)
    counts = {outcome: len(flips) for outcome, flips in outcomes.items()}
    print(f"\n{kind}, {len(original):,} bytes, 1,000 flipped bits: {counts}")
    assert [] == outcomes.get("silently wrong", [])
    assert [] == outcomes.get("called sound, not loaded by torch", [])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("harm", ["truncations", "overwrites"])
def test_two_hundred_cuts_and_overwrites_are_found(
    files: dict[str, Path], kind: str, harm: str, tmp_path: Path
) -> None:
    """Each in one line; an overwrite that changes no byte, or none that counts, may be sound."""
    original, state = files[kind].read_bytes(), damage.loaded(files[kind])
    damages = list(getattr(damage, harm)(original, 200))
    path = tmp_path / files[kind].name
    verdicts = damage.told_in_one_line(path, damages)
    for (what, data), verdict in zip(damages, verdicts, strict=True):
        if verdict == "sound":
            path.write_bytes(data)
            assert "touches no state" == damage.outcome_of(path, state), what
    print(f"\n{kind}, 200 {harm}: {dict(Counter(verdicts))}")
    if harm == "truncations":
        assert "sound" not in verdicts


def test_two_hundred_files_of_noise_get_a_verdict(tmp_path: Path) -> None:
    """Random bytes, most of which begin as a real format does: one line each, soon, in little memory."""
    start, slowest, verdicts = _peak(), 0.0, Counter[str]()
    for what, data in damage.random_files(200):
        for name in ("noise.pth", "noise.safetensors"):
            began = time.process_time()
            verdicts.update(damage.told_in_one_line(tmp_path / name, [(what, data)]))
            slowest = max(slowest, time.process_time() - began)
    print(f"\n200 files of noise under 2 names: {dict(verdicts)}; {slowest:.3f} s at most, {_peak() - start:,} bytes")
    assert "sound" not in verdicts
    assert slowest < SLOWEST
    assert _peak() - start < MOST


def test_damaged_files_are_told_by_every_command_in_a_process_of_its_own(
    files: dict[str, Path], tmp_path: Path
) -> None:
    """A sample of all of it: no traceback, no hang, one line of refusal."""
    rng = random.Random(0)
    damages = [
        *damage.flips(files["ours"].read_bytes(), 5, seed=1),
        *damage.truncations(files["ours"].read_bytes(), 5, seed=1),
        *damage.overwrites(files["TorchScript"].read_bytes(), 5, seed=1),
        *rng.sample(list(damage.random_files(60, seed=1)), 10),
    ]
    for what, data in damages:
        path = tmp_path / "damaged.pth"
        path.write_bytes(data)
        for command in (["validate"], ["inspect"], ["diff", str(files["ours"])]):
            line = [sys.executable, "-m", "koemorph_tutorial", *command, str(path)]
            done = subprocess.run(line, capture_output=True, text=True, timeout=60)
            assert done.returncode in (0, 1, 2), (what, command, done.stderr)
            assert (done.returncode == 2) == len(done.stderr.splitlines()) <= 1, (what, command, done.stderr)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
