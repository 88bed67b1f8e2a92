"""An exported network answers where there is no torch; and an export is killed at every operation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
import torch

from koemorph_tutorial import export_onnx
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel
from koemorph_tutorial.training.settings import DataConfig
from koemorph_tutorial.training.shipping import FREE, voices
from tests import test_export as exports

ROOT = Path(__file__).parent.parent.parent
_ASKS = """
import importlib.util, json, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("face.onnx")
for number in range(int(sys.argv[1])):
    answer = session.run(None, {"audio": np.load(f"audio{number}.npy")})[0]
    np.save(f"answer{number}.npy", answer)
print(json.dumps({name: bool(importlib.util.find_spec(name)) for name in ("torch", "koemorph_tutorial", "numpy")}))
"""


def test_the_file_answers_where_there_is_no_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SimplifiedKoeMorphModel().eval()
    example, cases = voices(DataConfig())
    receipt = export_onnx(model, example, tmp_path / "face.onnx", free=FREE, cases=cases)
    assert receipt.ok
    sounds = [example, *(case[0] for case in cases), example[:1, :512]]
    for number, sound in enumerate(sounds):
        np.save(tmp_path / f"audio{number}.npy", sound.numpy())
    venv.create(tmp_path / "bare", with_pip=True)
    python = tmp_path / "bare/bin/python"
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", "onnxruntime", "numpy"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    subprocess.run([str(each) for each in install], check=True, env=environment)
    command = [str(python), "-c", _ASKS, str(len(sounds))]
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment).stdout
    assert {"torch": False, "koemorph_tutorial": False, "numpy": True} == json.loads(said)
    furthest = 0.0
    for number, sound in enumerate(sounds):
        with torch.no_grad():
            expected = model(sound).numpy()
        furthest = max(furthest, float(np.abs(np.load(tmp_path / f"answer{number}.npy") - expected).max()))
    print(f"without torch: {len(sounds)} shapes, {furthest:.1e} at most from PyTorch, Python {sys.version.split()[0]}")
    assert furthest <= 1e-5


@pytest.mark.parametrize("name", exports.STRANGERS)
def test_every_strangers_model_leaves_with_a_receipt(name: str, tmp_path: Path) -> None:
    exports.test_a_strangers_model_leaves_with_a_receipt(name, tmp_path)


_WRITES = '''
"""Exports one network over another; a fresh process looks at what is left."""
import hashlib, json, os, torch
from koemorph_tutorial import export_safetensors
from koemorph_tutorial.exporting.placing import receipt_path
from koemorph_tutorial.testing import saved


def train(directory):
    for seed in range(3):
        torch.manual_seed(seed)
        export_safetensors(torch.nn.Linear(8, 8), directory / "w.safetensors", force=True)
        saved(hashlib.sha256(weights(directory)).hexdigest())


def weights(directory):
    from safetensors.numpy import load_file

    return load_file(directory / "w.safetensors")["weight"].tobytes()


def recover(directory):
    path = directory / "w.safetensors"
    if not path.exists():
        return None
    receipt = receipt_path(path)
    if receipt.exists():
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        assert json.loads(receipt.read_text())["sha256"] == found, "a receipt of another file"
    return hashlib.sha256(weights(directory)).hexdigest()
'''


def test_killed_at_every_operation_an_export_is_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "writes.py").write_text(_WRITES)
    command = [sys.executable, "-m", "koemorph_tutorial", "crash-test", "--script", str(tmp_path / "writes.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    print(done.stdout)
    assert 0 == done.returncode, done.stdout[-2000:]
