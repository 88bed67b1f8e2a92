"""Ten tasks of a stranger who has README.md and nothing else: its lines are run as they stand there, and looked at.

``python -m tests.readers PROGRAMS FOLDER`` plays the README in an empty folder, with the `koemorph` and the `python` of
PROGRAMS, the bin folder of an environment that the package is installed in. What a command says is compared with what
README says that it says; whether it did what the stranger wanted is asked of the files, by torch alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
OWN_MODEL = """
import os, random
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
random.seed(0); np.random.seed(0); torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
loss_function = nn.functional.smooth_l1_loss
numbers = torch.randn(40, 6)
loader = DataLoader(TensorDataset(numbers, numbers[:, :2].sin()), batch_size=8, shuffle=True)
seen = 0

def validate(model):
    global seen
    seen += 1
    if seen == int(os.environ.get("KILL_IN_VALIDATION", "-1")):
        os.kill(os.getpid(), 9)
    with torch.no_grad():
        return loss_function(model.eval()(numbers), numbers[:, :2].sin()).item() + 0 * len(str(model.train()))
"""


@dataclass
class Step:
    """A command of README with what stands below it; once it was played, what it really said, and its exit code."""

    command: str
    shown: str
    said: str = ""
    code: int | None = None

    def __str__(self) -> str:
        return self.command


def blocks(kind: str, text: str | None = None) -> list[str]:
    """Return README's code blocks of a kind: "python", "bash", "console"."""
    text = (ROOT / "README.md").read_text("utf-8") if text is None else text
    return re.findall(rf"^```{kind}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def steps(text: str | None = None) -> list[Step]:
    """Return the commands in README's consoles, in their order."""
    found: list[Step] = []
    for line in "".join(blocks("console", text)).splitlines(keepends=True):
        if line.startswith("$ "):
            found.append(Step(command=line[2:].strip(), shown=""))
        else:
            found[-1].shown += line
    return found


# ------------------------------------------------------------------------------------------------ what is said

# Figures that another machine has, or another minute: kept are counts of files and epochs, and every word.
_FIGURES = "|".join(
    (
        r"\b(?=[a-f]*\d)[0-9a-f]{8,}\b",  # a CRC32, a line of runs
        r"-?\d[\d,]*\.\d+(e[+-]?\d+)?",  # 0.00413, 1.41e+38
        r"-?\d+e[+-]?\d+",
        r"\d{1,3}(,\d{3})+",  # 8,192
        r"\d+(?= ?(%|kB|MB|bytes|s\b|threads?\b|times\b))",
        r"(?<=\[)\d+, \d+(?=\])",
    )
)


def masked(text: str) -> str:
    """Return text without what differs from machine to machine, and with single spaces.

    >>> print(masked("at [56, 44]:  0.415 -> 1.41e+38 (bit 30);   8,192 of epoch 7"))
    at [#]: # -> #; # of epoch 7
    """
    text = re.sub(r" \(bits? [^)]*\)", "", text)
    return re.sub(r"[ \t]+", " ", re.sub(_FIGURES, "#", text))


def agrees(shown: str, said: str) -> bool:
    """Say whether README shows what was said: a … stands for the rest of a line, and alone in a line for some lines.

    Where a line breaks depends on how long its figures are, so a break is as good as a space.
    """
    pattern = r"\s*"
    for line in masked(shown).splitlines():
        words = r"\s+".join(map(re.escape, line.split())).replace("…", ".*?")
        pattern += r"(?m:^)(.*\n)*?\s*" if line.strip() == "…" else rf"{words}\s+"
    return re.fullmatch(pattern, masked(said) + "\n") is not None


# ---------------------------------------------------------------------------------------- what the stranger wants


def _load(path: Path) -> dict[str, Any]:
    """Open a checkpoint as anybody can who does not have this library."""
    loaded: dict[str, Any] = torch.load(path, weights_only=True)
    return loaded


def _opens(path: Path) -> bool:
    try:
        return bool(_load(path))
    except Exception:
        return False


def _equal(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _save(folder: Path, step: Step) -> None:
    """Killed in its seventh epoch: what came before it lies there, and opens."""
    assert step.code in (-9, 137), step.said
    files = {file.name for file in (folder / "checkpoints").glob("*.pth")}
    assert {"best_model.pth", "last_model.pth", "checkpoint_epoch_005.pth"} <= files
    assert _load(folder / "checkpoints/checkpoint_epoch_005.pth")["position"]["epoch"] == 6


def _resume(folder: Path, step: Step) -> None:
    """Started again by the same line, it is the same run that has come to its end."""
    assert step.code == 0, step.said
    before = _load(folder / "killed/last_model.pth")
    after = _load(folder / "checkpoints/last_model.pth")
    assert before["run"]["line"] == after["run"]["line"]
    assert after["epoch"] > before["epoch"]
    assert after["global_step"] == 5 * (after["epoch"] + 1)  # five batches an epoch, none twice


def _certify(folder: Path, step: Step) -> None:
    assert step.code == 0, step.said
    assert step.said.startswith("certified: ")
    assert "bitwise equal" in step.said


def _find_the_best(folder: Path, step: Step) -> None:
    """The line that says best names the file with the smallest loss of all."""
    (named,) = re.findall(r"^(checkpoint_epoch_\d+\.pth) .*\bbest\b", step.said, re.MULTILINE)
    files = (folder / "run/checkpoints").glob("checkpoint_epoch_*.pth")
    losses = {file.name: _load(file)["metrics"]["loss"] for file in files}
    assert len(losses) == 8
    assert named == min(losses, key=lambda name: losses[name])


def _prove_sound(folder: Path, step: Step) -> None:
    assert step.code == 0
    assert re.fullmatch(r"run/checkpoints/best_model\.pth: sound: .*\n", step.said)


def _find_damage(folder: Path, step: Step) -> None:
    """What torch.load takes without a word is not sound, and the tensor is named."""
    good, bad = (_load(folder / name)["model_state_dict"] for name in ("run/checkpoints/best_model.pth", "copy.pth"))
    (other,) = [name for name in good if not torch.equal(good[name], bad[name])]
    assert step.code == 1
    assert f"model_state_dict.{other}" in step.said


def _compare(folder: Path, step: Step) -> None:
    """The one tensor and the one number in it that differ are named."""
    good, bad = (_load(folder / name)["model_state_dict"] for name in ("run/checkpoints/best_model.pth", "copy.pth"))
    (other,) = [name for name in good if not torch.equal(good[name], bad[name])]
    ((*place,),) = (good[other] != bad[other]).nonzero().tolist()
    assert step.code == 1
    said = " ".join(step.said.split())
    assert f"1 number of {good[other].numel():,} differs in model_state_dict.{other}, at {place}" in said


def _tear(folder: Path, step: Step) -> None:
    names = ("best_model", "last_model", "checkpoint_epoch_007")
    assert [False] * 3 == [_opens(folder / f"run/checkpoints/{name}.pth") for name in names]


def _bring_back(folder: Path, step: Step) -> None:
    """The run has gone on to its end, best and last open, and the torn ones are moved aside, not lost."""
    assert step.code == 0, step.said
    checkpoints = folder / "run/checkpoints"
    assert _load(checkpoints / "last_model.pth")["epoch"] == 9
    best = _load(checkpoints / "best_model.pth")
    assert best["metrics"]["loss"] == best["best"]["value"]
    assert len(list((checkpoints / "abandoned-001").glob("*.pth"))) == 3


def _prune(folder: Path, step: Step) -> None:
    """The newest two are left, and the numbered file of the best."""
    best = _load(folder / "run/checkpoints/best_model.pth")["epoch"]
    left = {int(file.stem[-3:]) for file in (folder / "run/checkpoints").glob("checkpoint_epoch_*.pth")}
    assert step.code == 0
    assert {8, 9, best} == left


def _shrink(folder: Path, step: Step) -> None:
    small = folder / "run/checkpoints/checkpoint_epoch_009.shuffle.pth"
    plain = folder / "run/checkpoints/checkpoint_epoch_009.pth"
    assert step.code == 0, step.said
    assert small.stat().st_size < 0.85 * plain.stat().st_size


def _unpack(folder: Path, step: Step) -> None:
    """The same file again, byte for byte."""
    assert step.code == 0, step.said
    plain = folder / "run/checkpoints/checkpoint_epoch_009.pth"
    assert plain.read_bytes() == (folder / "same.pth").read_bytes()


def _export(folder: Path, step: Step) -> None:
    """What lies there answers in its own runtime, in a shape that nobody gave as an example, as the checkpoint does."""
    import onnxruntime

    from koemorph_tutorial.teaching.timemachine import network

    assert step.code == 0, step.said
    assert "same model: yes" in step.said
    audio = 0.1 * torch.randn(3, 7001, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(folder / "face.onnx", providers=["CPUExecutionProvider"])
    (faces,) = session.run(None, {"audio": audio.numpy()})
    with torch.no_grad():
        expected = network(folder / "run/checkpoints/best_model.pth")[0](audio)
    assert (expected - torch.from_numpy(faces)).abs().max() < 1e-5


@dataclass(frozen=True)
class Task:
    """What the stranger wants, the command in README that should do it, and what must be so afterwards."""

    command: str
    check: Callable[[Path, Step], None]


TASKS: Mapping[str, tuple[Task, ...]] = {
    "save a training of your own": (Task(r"python train\.py", _save),),
    "resume it": (Task(r"python train\.py", _resume),),
    "certify that": (Task(r"koemorph certify --script train\.py .*", _certify),),
    "find the best": (Task("koemorph inspect run", _find_the_best),),
    "prove that a file is sound": (
        Task(r"koemorph validate run/checkpoints/best_model\.pth", _prove_sound),
        Task(r"koemorph validate copy\.pth", _find_damage),
    ),
    "bring back a run from a torn directory": (
        Task(r"cp torn\.pth run/checkpoints/last_model\.pth", _tear),
        Task(r"koemorph train .*--resume auto .*", _bring_back),
    ),
    "compare two files": (Task(r"koemorph diff run/checkpoints/best_model\.pth copy\.pth", _compare),),
    "prune": (Task(r"koemorph prune run --keep-last-n 2", _prune),),
    "shrink": (
        Task(r"koemorph compress run/checkpoints/checkpoint_epoch_009\.pth", _shrink),
        Task(r"koemorph decompress .* -o same\.pth", _unpack),
    ),
    "export": (Task(r"koemorph export .* --format onnx .*", _export),),
}


class Stranger:
    """Plays README's consoles in a folder, in their order, and looks at each task when its command has been run."""

    def __init__(self, programs: Path, folder: Path, *, epochs: int = 100) -> None:
        self._programs, self._folder = programs, folder
        loop = blocks("python")[0]
        assert loop.count("epochs(100)") == 1
        (folder / "train.py").write_text(OWN_MODEL + loop.replace("epochs(100)", f"epochs({epochs})"), "utf-8")
        self.steps = steps()
        self.done: dict[str, list[str]] = {name: [] for name in TASKS}
        self.problems: dict[str, str] = {}

    def play(self) -> None:
        """Run every command once; the training is killed, and started again."""
        for step in self.steps:
            if step.command == "python train.py":
                killed = self._run(Step(step.command, ""), KILL_IN_VALIDATION="7")
                self._look(killed, only=_save)
                (self._folder / "killed").mkdir()
                last = (self._folder / "checkpoints/last_model.pth").read_bytes()
                (self._folder / "killed/last_model.pth").write_bytes(last)
            self._look(self._run(step), without=_save)

    def _run(self, step: Step, **variables: str) -> Step:
        environment = {
            "PATH": f"{self._programs}:/usr/bin:/bin",
            "HOME": str(self._folder),
            "LANG": "C.UTF-8",
            "COLUMNS": "100",
            **variables,
        }
        ran = subprocess.run(
            ["sh", "-c", step.command],
            cwd=self._folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        step.said, step.code = ran.stdout, ran.returncode
        return step

    def _look(self, step: Step, *, only: Any = None, without: Any = None) -> None:
        for name, tasks in TASKS.items():
            for task in tasks:
                if task.check is without or only not in (None, task.check):
                    continue
                if re.fullmatch(task.command, step.command):
                    try:
                        task.check(self._folder, step)
                    except Exception as error:
                        self.problems[name] = f"$ {step.command}\n{step.said}{type(error).__name__}: {error}"
                    else:
                        self.done[name].append(step.command)

    def missing(self, name: str) -> str:
        """Say what of a task went wrong, or has no command in README; nothing if it was done."""
        if name in self.problems:
            return self.problems[name]
        undone = len(TASKS[name]) - len(self.done[name])
        return f"README has no command for it, or not all: done {self.done[name]}" if undone > 0 else ""


def main(programs: str, folder: str) -> int:
    """Play README and print what came of each task; the exit code is 1 where something is not as README says."""
    stranger = Stranger(Path(programs).resolve(), Path(folder).resolve())
    stranger.play()
    code = 0
    for step in stranger.steps:
        print(f"$ {step.command}\n{step.said}", end="")
        if not agrees(step.shown, step.said):
            code = 1
            print(f"--- README shows:\n{step.shown}---")
    for name in TASKS:
        problem = stranger.missing(name)
        code = 1 if problem else code
        print(f"{name}: {problem or 'done'}")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
