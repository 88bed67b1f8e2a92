"""The README's integration lines, run as they stand, on a model that is not ours."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from koemorph_tutorial import list_checkpoints, load_checkpoint
from tests.comparing import difference

ROOT = Path(__file__).resolve().parents[1]
BEFORE = """
import os, random, sys
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
random.seed(0); np.random.seed(0); torch.manual_seed(0)
model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Flatten(), nn.Linear(24, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
loss_function = nn.functional.mse_loss
audio = torch.randn(24, 1, 8)
loader = DataLoader(TensorDataset(audio, audio.mean(2)), batch_size=4, shuffle=True)
validations = 0

def validate(model):
    global validations
    validations += 1
    if validations == int(os.environ.get("DIE_AT", "-1")):
        os.kill(os.getpid(), 9)
    model.eval()
    with torch.no_grad():
        value = loss_function(model(audio), audio.mean(2)).item()
    model.train()
    return value
"""


def blocks() -> tuple[str, str]:
    """Return the README's Python blocks: the lines of integration, and those that look into files."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    integration, looking = found
    return integration, looking


def integration() -> str:
    return blocks()[0]


def test_the_readme_lines_train_a_model_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 100 epochs, as written: the final epoch is there, and what retention keeps."""
    monkeypatch.chdir(tmp_path)
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    exec(compile(BEFORE + integration(), "README.md", "exec"), {"__name__": "readme"})
    files = {file.path.name for file in list_checkpoints("checkpoints")}
    assert {"best_model.pth", "last_model.pth", "checkpoint_epoch_099.pth", "checkpoint_epoch_095.pth"} <= files
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])


def test_the_readme_lines_that_look_into_files_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As written, on files with the names that stand there: a sound one is loaded, and two neighbours are compared."""
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    model = torch.nn.Linear(3, 2)
    torch.save(
        {"model_state_dict": model.state_dict(), "epoch": 4, "config": {}, "metrics": {"loss": 0.5}}, "model.pth"
    )
    save_file({"weight": model.weight.detach()}, "pretrained.safetensors")
    for name, change in (("epoch_004.pth", 0.0), ("epoch_005.pth", 1.0)):
        torch.save({"weight": model.weight.detach() + change, "bias": model.bias.detach()}, name)
    names = {"model": torch.nn.Linear(3, 2)}
    exec(compile(blocks()[1], "README.md", "exec"), names)
    assert torch.equal(model.weight, names["model"].weight)
    assert {"loss": 0.5} == names["metrics"]
    (line,) = capsys.readouterr().out.splitlines()
    assert "weight" in line


def assert_survives(tmp_path: Path, *kills: int) -> None:
    """kill -9 in these validations, one process after another, then to the end: every file is as without a kill."""
    script = tmp_path / "train.py"
    script.write_text(BEFORE + integration().replace("epochs(100)", "epochs(13)"), encoding="utf-8")
    for run in ("straight", "killed"):
        (tmp_path / run).mkdir()
    for run, die_at in [("straight", -1), *(("killed", n) for n in kills), ("killed", -1)]:
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=tmp_path / run,
            env={"DIE_AT": str(die_at), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (0 if die_at < 0 else -9) == done.returncode, done.stderr
    straight = list_checkpoints(tmp_path / "straight/checkpoints")
    killed = list_checkpoints(tmp_path / "killed/checkpoints")
    assert [file.path.name for file in straight] == [file.path.name for file in killed]
    for one, other in zip(straight, killed, strict=True):
        assert "" == difference(load_checkpoint(one.path), load_checkpoint(other.path)), one.path.name


def test_killed_and_run_again_the_readme_lines_end_with_the_same_bits(tmp_path: Path) -> None:
    """Twice, far from each other; `make proof` kills them five times."""
    assert_survives(tmp_path, 2, 5)
