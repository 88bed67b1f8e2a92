"""Every door of the library, tried with files that mean harm, in a process of its own that is watched.

``python -m tests.siege`` reads the paths of files from its input, one a line, and writes a line of JSON for each door
of each file; beside them lies a sound one, ``sound.pth``. It may take so much memory and no more, start nothing, write
nothing, and not ask for the secret.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.hostile import SECRET, model, objects

MOST = 300 << 20  # bytes of memory above the start
LONGEST = 20.0  # seconds of a clock: then it is a hang
ROOM = 1 << 30  # addresses above the start: a request for more fails at once
_STARTS = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "pty.spawn",
    "subprocess.Popen",
)
_WRITES = ("os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate", "shutil.")
_FORBIDDEN = (*_STARTS, *_WRITES, "socket.", "ctypes.dlopen", "pickle.find_class")


@dataclass(frozen=True)
class Try:
    """What happened at one door: `outcome` is "returned", "refused" (one line, in `said`) or "broke".

    `seconds` are the processor's, which others' work does not move; `peak` bytes of memory above the start; `seen`
    are things that a reader of files has no need to do.
    """

    file: str
    door: str
    outcome: str
    said: str
    seconds: float
    peak: int
    seen: tuple[str, ...]


def doors(path: Path) -> dict[str, Callable[[], str]]:
    """Return everything that opens a file, each as a function that returns all that it says."""
    from koemorph_tutorial import inspect_checkpoint, list_checkpoints, load_checkpoint, resume_training
    from koemorph_tutorial.inference import load_for_inference, load_weights
    from koemorph_tutorial.inspection.views import file_lines
    from koemorph_tutorial.validation import validate_checkpoint

    def inspected() -> str:
        summary = inspect_checkpoint(path)
        return "\n".join([str(summary), summary.to_json(), *file_lines(summary, 100)])

    def validated() -> str:
        report = validate_checkpoint(path)
        return "\n".join([str(report), report.to_json(), *report.notes])

    def resumed() -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "\n".join(resume_training(path, objects()).lines())

    def listed() -> str:
        folder = path.parent / f"run of {path.name}"
        found = list_checkpoints(folder)
        return "\n".join([*map(str, found), *(f"{name}: {why}" for name, why in found.ignored)])

    return {
        "validate_checkpoint": validated,
        "inspect_checkpoint": inspected,
        "diff_checkpoints": lambda: compared(path, path),
        "load_checkpoint": lambda: leaves(load_checkpoint(path)),
        "load_checkpoint unverified": lambda: leaves(load_checkpoint(path, verify=False)),
        "load_weights": lambda: str(load_weights(path, model())),
        "load_weights what fits": lambda: str(load_weights(path, model(), strict=False)),
        "load_weights ema": lambda: str(load_weights(path, model(), weights="ema", strict=False)),
        "load_for_inference": lambda: str(load_for_inference(path, model())[1]),
        "resume_training": resumed,
        "list_checkpoints": listed,
    }


def compared(a: Path, b: Path) -> str:
    from koemorph_tutorial.difference.compare import diff_checkpoints
    from koemorph_tutorial.difference.views import difference_lines

    difference = diff_checkpoints(a, b)
    return "\n".join([str(difference), difference.to_json(), *difference_lines(difference, 100)])


def leaves(value: Any) -> str:
    """Return the texts and numbers in a loaded checkpoint, without recursion, each container once."""
    said, stack, seen = [], [value], set()
    while stack:
        item = stack.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple)):
            stack += item
        elif isinstance(item, (str, bytes, float)):
            said.append(str(item)[:1000])
    return " ".join(said)


def commands(path: Path, sound: Path) -> list[list[str]]:
    """Return the lines of a shell that open a file."""
    name = str(path)
    return [
        *(["validate", name], ["validate", "--json", name], ["inspect", name], ["inspect", "--json", name]),
        *(["diff", name, name], ["diff", "--json", name, name], ["diff", name, str(sound)], ["diff", str(sound), name]),
        ["evaluate", "--checkpoint", name],
    ]


def run_command(arguments: list[str]) -> tuple[int, str, str]:
    """Run a command here; its output is as strict as a terminal's about what is no character."""
    from koemorph_tutorial.__main__ import main

    outputs = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    with contextlib.redirect_stdout(outputs[0]), contextlib.redirect_stderr(outputs[1]):
        code = main(arguments)
    texts = []
    for output in outputs:
        output.flush()
        texts.append(output.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return code, texts[0], texts[1]


class Watched(dict[bytes, bytes]):
    """The environment of a process that says when somebody asks for the secret."""

    asked: list[str]

    def __getitem__(self, key: bytes) -> bytes:
        if key == SECRET.encode():
            self.asked.append("asked for the secret")
        return super().__getitem__(key)


def besiege(paths: Iterable[Path], sound: Path) -> Iterator[Try]:
    """Try each door with each file, and say what happened."""
    from koemorph_tutorial.records import CheckpointError

    seen: list[str] = []
    watching = False

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching:
            return
        writes = event == "open" and (
            (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"))
            or (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        )
        if writes or event.startswith(_FORBIDDEN):
            seen.append(f"{event} {arguments!r}"[:200])

    for _ in range(2):  # all that is imported late is there, and so are the buffers
        for door in doors(sound).values():
            with contextlib.suppress(CheckpointError):  # it has no averaged weights
                door()
        for arguments in commands(sound, sound):
            run_command(arguments)
    environment = Watched(os.environ._data)  # type: ignore[attr-defined]
    environment.asked = seen
    os.environ._data = environment  # type: ignore[attr-defined]
    sys.addaudithook(watch)
    signal.signal(signal.SIGALRM, _end)
    start = _peak()
    addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (addresses + ROOM, addresses + ROOM))

    for path in paths:
        every: dict[str, Callable[[], Any]] = {**doors(path)}
        if (twin := path.with_name(f"twin of {path.name}")).exists():
            every["diff_checkpoints of a twin"] = lambda path=path, twin=twin: compared(path, twin)  # type: ignore[misc]
        for arguments in commands(path, sound):
            named = " ".join(
                ["koemorph", *("FILE" if a == str(path) else "SOUND" if a == str(sound) else a for a in arguments)]
            )
            every[named] = lambda arguments=arguments: run_command(arguments)  # type: ignore[misc]
        for name, door in every.items():
            sys.stderr.write(f"{path.name}: {name}\n")  # what it was at, if it is ended here
            sys.stderr.flush()
            began = time.process_time()
            watching = True
            signal.setitimer(signal.ITIMER_REAL, LONGEST)
            try:
                said: Any = door()
                outcome = "returned"
            except CheckpointError as error:
                said, outcome = str(error), "refused"
            except BaseException as error:
                said, outcome = f"{type(error).__name__}: {error}"[:500], "broke"
            signal.setitimer(signal.ITIMER_REAL, 0)
            watching = False
            if isinstance(said, tuple):
                code, out, err = said
                outcome = {0: "returned", 1: "returned", 2: "refused"}.get(code, "broke")
                said = err.removesuffix("\n") if code == 2 else out + err
            yield Try(path.name, name, outcome, said, time.process_time() - began, _peak() - start, tuple(seen))
            seen.clear()


class Hangs(BaseException):
    """It had taken too long."""


def _end(number: int, frame: object) -> None:
    raise Hangs


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    files = [Path(line) for line in sys.stdin.read().splitlines()]
    good = files[0].parent / "sound.pth"
    for attempt in besiege(files, good):
        sys.stdout.write(json.dumps(asdict(attempt)) + "\n")
        sys.stdout.flush()
