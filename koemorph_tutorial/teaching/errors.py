"""The table of error messages in README: each one provoked, so that none stands there that nobody gets.

``python -m koemorph_tutorial.teaching.errors`` writes it anew, between the two comments that mark its place.
"""

from __future__ import annotations

import gzip
import io
import pickle
import re
import resource
import subprocess
import sys
import tempfile
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from .lessons import LESSONS

BEGIN, END = "<!-- errors: written by koemorph_tutorial.teaching.errors -->", "<!-- end of errors -->"
_WIDTH = 120  # of a message; what is longer is cut at a word


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way to get an error in an empty folder, what has happened to whoever gets it, and the lesson about that."""

    provoke: Callable[[Path], object]
    happened: str
    lesson: str


def _parts() -> tuple[Any, Any, Any]:
    """Return a model, its optimizer after a step, and a scheduler."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(torch.ones(4, 3)).square().mean().backward()
    optimizer.step()
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 3)


def _trained(folder: Path, name: str = "checkpoints", epochs: int = 4, **settings: Any) -> Path:
    """Let a manager save some epochs, and return the directory."""
    from koemorph_tutorial.manager import CheckpointManager

    model, optimizer, scheduler = _parts()
    objects = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    with CheckpointManager(folder / name, objects, save_freq=1, **settings) as checkpoints:
        for _ in checkpoints.epochs(epochs):
            checkpoints.step()
            checkpoints.save({"loss": 1.0})
    return folder / name


# ------------------------------------------------------------------------------------------------------------ 01


def _weights_alone(folder: Path) -> None:
    import torch

    torch.save({"model_state_dict": _parts()[0].state_dict()}, folder / "model.pth")
    torch.load(folder / "model.pth")["optimizer_state_dict"]


def _another_optimizer(folder: Path) -> None:
    import torch

    model, optimizer, _ = _parts()
    torch.optim.AdamW([model.weight]).load_state_dict(optimizer.state_dict())


class _Augmentation:
    """A part of a run that puts a function into its state."""

    def state_dict(self) -> dict[str, Any]:
        return {"strength": 0.5, "transform": max}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back: never called, it cannot be saved."""


def _a_function_in_the_state(folder: Path) -> None:
    from koemorph_tutorial.manager import CheckpointManager

    with CheckpointManager(folder, {"model": _parts()[0], "augmentation": _Augmentation()}) as checkpoints:
        for _ in checkpoints.epochs(1):
            checkpoints.save({"loss": 1.0})


# ------------------------------------------------------------------------------------------------------------ 02


def _torn(folder: Path) -> None:
    import torch

    torch.save(_parts()[0].state_dict(), folder / "last_model.pth")
    data = (folder / "last_model.pth").read_bytes()
    (folder / "last_model.pth").write_bytes(data[: len(data) // 2])
    torch.load(folder / "last_model.pth")


def _empty(folder: Path) -> None:
    import torch

    (folder / "last_model.pth").touch()
    torch.load(folder / "last_model.pth")


@contextmanager
def _a_disk_of(size: int) -> Iterator[None]:
    """Let no file grow above so many bytes; Python ignores the signal, so the write fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _no_room(folder: Path) -> None:
    import torch

    with _a_disk_of(20_000):
        torch.save({"weight": torch.ones(10_000)}, folder / "last_model.pth")


# ------------------------------------------------------------------------------------------------------------ 03


def _used_directory(folder: Path) -> None:
    from koemorph_tutorial.manager import CheckpointManager

    directory = _trained(folder)
    with CheckpointManager(directory, {"model": _parts()[0]}) as checkpoints:
        for _ in checkpoints.epochs(3, resume=False):
            checkpoints.save({"loss": 1.0})


def _none_is_sound(folder: Path) -> None:
    directory = _trained(folder)
    for file in directory.glob("*.pth"):
        file.write_bytes(file.read_bytes()[:1000])
    _trained(folder)


def _another_name(folder: Path) -> None:
    from koemorph_tutorial.manager import CheckpointManager

    model, optimizer, _ = _parts()
    with CheckpointManager(_trained(folder), {"net": model, "optimizer": optimizer}) as checkpoints:
        checkpoints.resume(strict=True)


# ------------------------------------------------------------------------------------------------------------ 04


class _Postcard:
    """Something that is no tensor, in a stranger's file."""


def _names_a_class(folder: Path) -> None:
    import torch

    torch.save({"model_state_dict": {}, "postcard": _Postcard()}, folder / "face.pth")
    torch.load(folder / "face.pth")


def _wrapped(folder: Path) -> None:
    model = _parts()[0]
    model.load_state_dict({f"module.{name}": value for name, value in model.state_dict().items()})


def _other_shape(folder: Path) -> None:
    import torch

    torch.nn.Linear(4, 2).load_state_dict(_parts()[0].state_dict())


def _of_a_gpu(folder: Path) -> None:
    """Load a file as one that was saved on a GPU: its tensors say so, and here is none."""
    import torch

    written, moved = io.BytesIO(), io.BytesIO()
    torch.save({"weight": torch.ones(3)}, written)
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(moved, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("data.pkl"):
                data = data.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
            target.writestr(name, data)
    moved.seek(0)
    with mock.patch("torch.cuda.is_available", return_value=False):
        torch.load(moved)


# ------------------------------------------------------------------------------------------------ 05, 06, 07, 08


def _inside_an_epoch(folder: Path) -> None:
    _trained(folder, every_n_steps=100)


def _keep_one(folder: Path) -> None:
    _trained(folder, keep_last_n=1)


def _gzip_and_pickle(folder: Path) -> None:
    from koemorph_tutorial.storage import load_checkpoint

    (folder / "last_model.pth.gz").write_bytes(gzip.compress(pickle.dumps({"model_state_dict": {}, "epoch": 3})))
    load_checkpoint(folder / "last_model.pth.gz")


def _flipped(folder: Path) -> None:
    from koemorph_tutorial.storage import load_checkpoint

    from . import flips

    path = _trained(folder) / "last_model.pth"
    flips.flip(path, flips.draw(path, seed=0), bit=30)
    load_checkpoint(path)


def _newer(folder: Path) -> None:
    import torch

    from koemorph_tutorial.storage import load_checkpoint

    torch.save({"format_version": 2}, folder / "model.pth")
    load_checkpoint(folder / "model.pth")


# ------------------------------------------------------------------------------------------------------- 09, 10


def _numpy_inside(folder: Path) -> None:
    import torch

    from koemorph_tutorial.export import export_onnx

    class Loudness(torch.nn.Module):
        def forward(self, audio: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(abs(audio.numpy()).max(1))

    export_onnx(Loudness(), torch.ones(2, 100), folder / "model.onnx")


_HOLDER = """\
import sys
from pathlib import Path
from koemorph_tutorial.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def _second_writer(folder: Path) -> None:
    directory = _trained(folder)
    command = [sys.executable, "-c", _HOLDER, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        _trained(folder, epochs=6)


ROWS = (
    Row(provoke=_weights_alone, lesson="01", happened="The file holds the weights alone: the run cannot go on."),
    Row(provoke=_another_optimizer, lesson="01", happened="The optimizer was made for other parameters."),
    Row(provoke=_a_function_in_the_state, lesson="01", happened="A part's state holds code, not numbers."),
    Row(provoke=_torn, lesson="02", happened="The file is torn: killed while it was overwritten, or a half download."),
    Row(provoke=_empty, lesson="02", happened="Killed, or out of space, before the first byte: an empty file."),
    Row(provoke=_no_room, lesson="02", happened="The disk, or a quota, is full. `torch.save` to a path hides it."),
    Row(provoke=_used_directory, lesson="03", happened="A fresh start where another run's checkpoints lie."),
    Row(provoke=_none_is_sound, lesson="03", happened="All files of the run are damaged; nothing starts from zero."),
    Row(provoke=_another_name, lesson="03", happened="What is to go on has another name than what was saved."),
    Row(provoke=_names_a_class, lesson="04", happened="The file names code, which opening it would have run."),
    Row(provoke=_wrapped, lesson="04", happened="Saved from a wrapper: DDP's `module.`, compile's `_orig_mod.`."),
    Row(provoke=_other_shape, lesson="04", happened="Today's settings are not those that the file was made with."),
    Row(provoke=_of_a_gpu, lesson="04", happened="Saved on a GPU, loaded where none is, without `map_location`."),
    Row(provoke=_inside_an_epoch, lesson="05", happened="Saves inside an epoch, and nothing knows the batches."),
    Row(provoke=_keep_one, lesson="06", happened="One file, and a kill or a bad block takes all there is."),
    Row(provoke=_gzip_and_pickle, lesson="07", happened="The recipe's compression: to open it is to run it."),
    Row(provoke=_flipped, lesson="08", happened="A byte is not what was written. `torch.load` would not say so."),
    Row(provoke=_newer, lesson="08", happened="The file is from a newer version of this library."),
    Row(provoke=_numpy_inside, lesson="09", happened="The model leaves PyTorch half way, so it cannot be exported."),
    Row(provoke=_second_writer, lesson="10", happened="Two processes write one directory: the same job, twice."),
)


def message(row: Row) -> str:
    """Provoke an error and return its kind and what it says, in one line, without folders of this machine.

    Raises:
        AssertionError: nothing was raised.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        try:
            row.provoke(folder)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        else:
            raise AssertionError(f"{row.provoke.__name__}: expected an error, nothing was raised")
    return shorten(said.replace(f"{folder}/", "").replace(f"{name}/", ""))


def shorten(said: str) -> str:
    r"""Return a message in one line, cut at a word; a … stands where another number would each time.

    >>> shorten("a file: process 4711 on box, since 2026-11-24 19:20:14 UTC; wait\n\texpected CRC32 1a2b3c4d")
    'a file: process … on …, since …; wait expected CRC32 …'
    """
    said = re.sub(r"\x1b\[[\d;]*m", "", said)  # colours of a terminal
    said = re.sub(r"process \d+ on \S+, since [^;]*", "process … on …, since …", said)
    said = re.sub(r"\b[0-9a-f]{8}\b|(?<=unexpected pos )\d+ vs \d+|(?<=\.cc:)\d+|(?<=errors\.py:)\d+", "…", said)
    return textwrap.shorten(said.rstrip(": "), _WIDTH, placeholder=" …")


def table() -> str:
    """Return the table as Markdown, one row per error, in the order of the lessons."""
    lines = ["| the message | what happened | lesson |", "| --- | --- | --- |"]
    for row in ROWS:
        shown = message(row).replace("|", r"\|").replace("`", "'")
        link = f"[{row.lesson}](notebooks/{row.lesson}_{LESSONS.get(row.lesson, 'end_to_end')}.ipynb)"
        lines.append(f"| `{shown}` | {row.happened} | {link} |")
    return "\n".join(lines)


def main(readme: Path) -> int:
    """Write the table into `readme`, between its two comments. Returns the exit code."""
    text = readme.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        print(f"{readme}: expected the comments {BEGIN} and {END}", file=sys.stderr)
        return 2
    readme.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}", "utf-8")
    return 0


if __name__ == "__main__":
    from .places import project_root

    sys.exit(main(project_root() / "README.md"))
