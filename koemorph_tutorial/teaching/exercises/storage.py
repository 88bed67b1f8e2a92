"""Lesson 02: what a kill leaves of a file, and of the names of a run."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from koemorph_tutorial.records import numbered_name
from koemorph_tutorial.teaching.cells import form
from koemorph_tutorial.teaching.lessons import Choice, Exercise, Lesson, Misconception, Option, WrongAnswerError
from koemorph_tutorial.teaching.trial import is_nothing, raise_for_stub, type_of, wrong_if
from koemorph_tutorial.text import printable

if TYPE_CHECKING:
    from koemorph_tutorial.testing import Campaign, Trial

# ------------------------------------------------------------------------------------------------ 02.1 and 02.2

ALIAS = Choice(
    asks="What does `best = model.state_dict()` hold in the end?",
    options={
        "a": Option(
            text="The weights of the best epoch.",
            reply="They would be, if `state_dict()` copied. It hands out the live tensors, and training writes into "
            "them: in the end `best` holds the last epoch. Two names, one copy.",
        ),
        "b": Option(
            text="The weights of the last epoch.",
            reply="`state_dict()` hands out the live tensors, and training writes into them. Two names, one copy.",
        ),
        "c": Option(
            text="On a CPU those of the last, on a GPU those of the best.",
            reply="The device makes no difference: `state_dict()` hands out the live tensors, wherever they are, so in "
            "the end `best` holds the last epoch. Two names, one copy.",
        ),
    },
    right="b",
)

PREDICTION = Choice(
    asks="What does `last_model.pth` hold after the kill?",
    options={
        "a": Option(
            text="Epoch 6. The new file takes its place once it is complete.",
            reply='A good idea: it is the repair. But `torch.save` opens the old file itself, with mode "w", and '
            "that empties it first.",
        ),
        "b": Option(
            text="Epoch 7. A write that has begun is finished by the system.",
            reply="The system does write what it was given, even after the death of the process. The rest of epoch 7 "
            "it was never given: that was in the memory of the process, and went with it.",
        ),
        "c": Option(
            text="Neither. There is a file, and nothing can be loaded from it.",
            reply='`torch.save` opens the old file itself, with mode "w", and that empties it first. '
            "From then until the last byte is written, there is no checkpoint.",
        ),
    },
    right="c",
)


# ------------------------------------------------------------------------------------------------ 02.3


def _killed(train: Callable[[Path], None], recover: Callable[[Path], str | None]) -> Campaign:
    """Kill a training before each of its file operations and within each of its writes."""
    from koemorph_tutorial.testing import crash_test

    return crash_test(train, recover, modes=("kill", "torn"), timeout=5)


def _done_to(campaign: Campaign, name: str) -> set[str]:
    """Return what was done to the file of that name itself."""
    return {point.name for point in campaign.points if point.path == name}


def _harmful(campaign: Campaign) -> tuple[Trial, ...]:
    """Return the trials that left more behind than a file that nobody needs."""
    return tuple(t for t in campaign.not_ok if t.verdict != "LITTER" and not t.detail.endswith(" is left"))


def _raise_for(campaign: Campaign) -> None:
    bad = _harmful(campaign)
    if bad:
        raise WrongAnswerError(
            f"it works, as long as nobody kills it. Of {len(campaign.trials)} kills {len(bad)} did harm; one of them "
            f"came before `{bad[0].point.name}`: {printable(bad[0].detail or bad[0].verdict, 200)}"
        )


def _epoch_in(path: Path) -> int | None:
    try:
        found: int = json.loads(path.read_text("utf-8"))["epoch"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found


def _examine_metrics(save_metrics: Any) -> None:
    from koemorph_tutorial.testing import saved

    raise_for_stub(save_metrics, _metrics("# your line"))
    path, beside = Path("metrics.json"), Path("metrics.json.tmp")
    path.write_text('{"epoch": 0}', "utf-8")
    changes = _watch_names()
    try:
        save_metrics({"epoch": 1}, str(path))
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise WrongAnswerError("outside") from error
        if error.errno == errno.EEXIST and error.filename2 == str(path):
            raise WrongAnswerError("taken") from error
        raise
    wrong_if(not path.exists(), "swapped" if _epoch_in(beside) == 0 else "afterwards there is no `metrics.json`")
    wrong_if(_epoch_in(path) == 0, "afterwards `metrics.json` still holds the old metrics")
    wrong_if(_epoch_in(path) != 1, "afterwards `metrics.json` does not hold the new metrics")
    wrong_if(any(new and new.name == path.name and Path.cwd() not in old.parents for old, new in changes), "outside")
    removed = path.absolute() in [old for old, _ in changes]
    path.unlink()
    try:
        save_metrics({"epoch": 1}, str(path))
    except FileNotFoundError as error:
        if removed and error.filename == str(path):
            raise WrongAnswerError("removed") from error
        raise

    def recover(folder: Path) -> str | None:
        file = folder / path
        return json.dumps(json.loads(file.read_text("utf-8"))) if file.exists() else None

    def train(folder: Path) -> None:
        for epoch in range(json.loads(recover(folder) or '{"epoch": -1}')["epoch"] + 1, 2):
            metrics = {"epoch": epoch, "losses": [epoch, epoch]}  # the old and the new one in one file would show
            save_metrics(metrics, str(folder / path))
            saved(json.dumps(metrics))

    campaign = _killed(train, recover)
    done, harmful = _done_to(campaign, path.name), _harmful(campaign)
    wrong_if(harmful and "unlink" in done, "removed")
    wrong_if(harmful and "open" in done, "in place")
    _raise_for(campaign)
    if not any(point.name == "fsync" and not Path(point.path).is_absolute() for point in campaign.points):
        raise WrongAnswerError("unsynced")


def _watch_names() -> list[tuple[Path, Path | None]]:
    """Return a list that takes every rename and removal in this process, a copy, from now on: old path, new path."""
    changes: list[tuple[Path, Path | None]] = []

    def seen(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.rename", "os.remove"):
            old = Path(os.fsdecode(arguments[0]))
            new = Path(os.fsdecode(arguments[1])) if event == "os.rename" else None
            changes.append((old.parent.resolve() / old.name, new))

    sys.addaudithook(seen)
    return changes


def _metrics(line: str, sync: str = "os.fsync(file.fileno())", beside: str = 'path + ".tmp"') -> str:
    return f"""\
import json
import os


def save_metrics(metrics, path):
    beside = {beside}
    with open(beside, "w") as file:
        json.dump(metrics, file)
        file.flush()
        {sync}
    {line}
"""


METRICS = Exercise(
    asks="One line is missing",
    answer="save_metrics",
    expects="a function",
    examine=_examine_metrics,
    apart=True,
    misconceptions={
        "in place": Misconception(
            says="This opens `metrics.json` itself and writes into it from front to back: killed on the way it is "
            "torn, as before. The finished file lies beside it already, and lacks only the name.",
            example=_metrics("import shutil; shutil.copyfile(beside, path)"),
        ),
        "removed": Misconception(
            says="Between removing the old file and naming the new one there is a moment without `metrics.json`: "
            "a kill there leaves none. (And the first time there is nothing to remove.) One call does both at once.",
            example=_metrics("os.remove(path)\n    os.rename(beside, path)"),
        ),
        "swapped": Misconception(
            says="The other way round: this gives the old file the temporary name. First comes the file that is to be "
            "renamed, then the name that it gets.",
            example=_metrics("os.replace(path, beside)"),
        ),
        "outside": Misconception(
            says="The temporary file lies outside the folder. Where that is another disk, no rename can put it in "
            "place in one step: `os.replace` raises an error, and `shutil.move` copies, which a kill can tear. Write "
            "it beside the old one.",
            example=_metrics("os.replace(beside, path)", beside='os.path.abspath("../metrics.tmp")'),
        ),
        "taken": Misconception(
            says="A link takes no name that exists already: the old `metrics.json` has it, so FileExistsError is "
            "raised. And the temporary name would stay. The call that you need takes the name from the old file.",
            example=_metrics("os.link(beside, path)"),
        ),
        "unsynced": Misconception(
            says="No kill does harm, but the `fsync` is gone. After a power cut the new name may be on the disk, and "
            "the bytes behind it not.",
            example=_metrics("os.replace(beside, path)", sync="pass"),
        ),
    },
    hint="`os.replace(file, name)` gives a file the name of another one, which is dropped, in one step.",
    solution=_metrics("os.replace(beside, path)"),
    why="Your function was killed before each of its file operations and within each write, and always left the old "
    "metrics or the new ones. It serves whatever a run reads when it starts again.",
)


# ------------------------------------------------------------------------------------------------ 02.4


def _examine_name(also_named: Any) -> None:
    from koemorph_tutorial.testing import saved

    raise_for_stub(also_named, _name("os.link(path, name)"))
    first, second, best = Path(numbered_name(0)), Path(numbered_name(1)), Path("best_model.pth")
    first.write_text("0", "utf-8")
    second.write_text("1", "utf-8")
    also_named(str(first), str(best))
    also_named(str(second), str(best))
    wrong_if(not os.path.lexists(best), f"afterwards there is no `{best}`")
    wrong_if(best.is_symlink(), "symlink")
    wrong_if(best.read_text("utf-8") == "0", "kept")
    wrong_if(not second.exists(), "moved")
    wrong_if(not best.samefile(second), "copy")
    ours = {first.name, second.name, best.name}
    left = sorted({file.name for file in Path().iterdir()} - ours)
    if left:
        raise WrongAnswerError(f"afterwards `{printable(left[0], 60)}` is left over")
    try:
        also_named(str(second), str(best))  # a name that is right already
        also_named(str(first), str(best))
    except FileExistsError as error:
        raise WrongAnswerError("leftover") from error
    if not best.exists() or not best.samefile(first):
        raise WrongAnswerError("called twice for the same file, and then for another one, it names the wrong one")

    def recover(folder: Path) -> str | None:
        file = folder / best
        return file.read_text("utf-8") if file.exists() else None

    def train(folder: Path) -> None:
        for epoch in range(int(recover(folder) or -1) + 1, 2):
            numbered = folder / numbered_name(epoch)
            numbered.write_text(str(epoch), "utf-8")
            also_named(str(numbered), str(folder / best))
            saved(str(epoch))

    campaign = _killed(train, recover)
    wrong_if(_harmful(campaign) and "unlink" in _done_to(campaign, best.name), "removed")
    wrong_if(any("FileExistsError" in trial.detail for trial in campaign.not_ok), "leftover")
    _raise_for(campaign)
    wrong_if(campaign.not_ok or {file.name for file in Path().iterdir()} - ours, "litter")


_name = form('''\
import os


def also_named(path, name):
    """Give the file `path` the further name `name`, whatever had that name before."""
    {lines}
''')


NAME = Exercise(
    asks="A second name, again and again",
    answer="also_named",
    expects="a function",
    examine=_examine_name,
    apart=True,
    misconceptions={
        "removed": Misconception(
            says="Between `os.remove` and `os.link` there is no `best_model.pth`: killed there, the run has lost its "
            "best. Give the file a temporary name first, and put that in place by `os.replace`.",
            example=_name("if os.path.exists(name):", "    os.remove(name)", "os.link(path, name)"),
        ),
        "moved": Misconception(
            says="The file has the new name now, and has lost its own: the numbered checkpoint is gone. `os.replace` "
            "moves a name, so hand it a further one.",
            example=_name("os.replace(path, name)"),
        ),
        "kept": Misconception(
            says="`best_model.pth` still names the best of before: the new best is never put in place.",
            example=_name("if not os.path.exists(name):", "    os.link(path, name)"),
        ),
        "copy": Misconception(
            says="This is a second copy. Its bytes are written again, which takes as long as the save did, and a kill "
            "can tear what is being written. A link is there at once.",
            example=_name("import shutil", "shutil.copyfile(path, name)"),
        ),
        "symlink": Misconception(
            says="A symbolic link points to a name, not to bytes. When an old `checkpoint_epoch_001.pth` is removed, "
            "`best_model.pth` points to nothing. A hard link keeps the bytes for as long as one name is left.",
            example=_name('os.symlink(path, name + ".tmp")', 'os.replace(name + ".tmp", name)'),
        ),
        "leftover": Misconception(
            says="Nearly. The temporary name can stay: a kill between your two lines leaves it, and so does "
            "`os.replace` where both names are one file already. Then `os.link` fails, in every later run: "
            "FileExistsError. Remove it first.",
            example=_name('os.link(path, name + ".tmp")', 'os.replace(name + ".tmp", name)'),
        ),
        "litter": Misconception(
            says="`best_model.pth` is there at every kill. But the temporary name that a kill leaves stays for good, "
            "and with it the bytes on the disk: the next call takes another one. Take the same name each time, in the "
            "folder of the checkpoint, and remove it first.",
            example=_name(
                "import uuid",
                "temporary = name + uuid.uuid4().hex",
                "os.link(path, temporary)",
                "os.replace(temporary, name)",
            ),
        ),
    },
    hint="Link to a temporary name, then `os.replace` that. Before you link, remove what a kill may have left there.",
    solution=_name(
        'temporary = name + ".tmp"',
        "if os.path.exists(temporary):",
        "    os.remove(temporary)  # a kill left it",
        "os.link(path, temporary)",
        "os.replace(temporary, name)",
    ),
    why="At every kill `best_model.pth` was there, and named a whole file. This is what the library does for each name "
    "of a save.",
)


# ------------------------------------------------------------------------------------------------ 02.5


def _examine_newest(newest: Any) -> None:
    raise_for_stub(newest, _newest(*_NAIVE))
    _expect(newest, "a", [1, 2, 3], 3, "these lie in the order in which they were written", clock=[1, 2, 3])
    _expect(newest, "b", [1, 2, 3], 3, "clock", clock=[3, 1, 2])
    _expect(newest, "c3", [5, 1000], 1000, "digits", clock=[1000, 5])
    _expect(newest, "c", [999, 1000, 5], 1000, "text", clock=[5, 999, 1000])
    _expect(newest, "d", [1, 2, 3, 4], 2, "torn", clock=[1, 2, 3, 4], torn=[3, 4])
    others = ("checkpoint_epoch_900 (copy).pth", "checkpoint_epoch_1e3.pth", ".checkpoint_epoch_004.pth.1-f00.tmp")
    _expect(newest, "e", [1, 2, 3], 3, "alike", clock=[1, 2, 3], others=others)
    empty = Path("f")
    empty.mkdir()
    try:
        wrong_if(not is_nothing(newest(empty)), "in an empty folder it found something; there it is to return None")
    except (IndexError, ValueError, OSError) as error:
        raise WrongAnswerError("empty") from error
    ruined = _run("g", [1, 2], clock=[1, 2], torn=[1, 2])
    try:
        found = newest(ruined)
    except Exception:
        return  # as it should be
    raise WrongAnswerError("fresh" if is_nothing(found) else "it found something where both files are torn")


def _run(name: str, epochs: list[int], *, clock: list[int], torn: list[int] | None = None) -> Path:
    """Make a folder of numbered checkpoints, changed in the order of `clock`; of those in `torn` a kill left a part."""
    import torch

    folder = Path(name)
    folder.mkdir()
    for epoch in epochs:
        path = folder / numbered_name(epoch)
        torch.save({"epoch": epoch}, path)
        if epoch in (torn or ()):
            os.truncate(path, 0 if epoch == max(torn or ()) else path.stat().st_size // 2)
    for second, epoch in enumerate(clock):
        os.utime(folder / numbered_name(epoch), (1e9 + second, 1e9 + second))
    return folder


def _expect(
    newest: Any,
    name: str,
    epochs: list[int],
    right: int,
    otherwise: str,
    *,
    clock: list[int],
    torn: list[int] | None = None,
    others: tuple[str, ...] = (),
) -> None:
    import torch

    folder = _run(name, epochs, clock=clock, torn=torn)
    for other in others:
        torch.save({"epoch": 900, "of": "another run"}, folder / other)
    try:
        found = newest(folder)
    except Exception as error:
        if otherwise == "torn" or (otherwise == "alike" and isinstance(error, ValueError)):
            raise WrongAnswerError(otherwise) from error
        raise
    wrong_if(is_nothing(found), f"`newest` returned None where {len(epochs)} checkpoints lie: is `return` missing?")
    if not isinstance(found, Mapping) or "epoch" not in found:
        kind = type_of(found)
        raise WrongAnswerError(f"expected the checkpoint as it was loaded, a dict, found: {kind}")
    wrong_if(found["epoch"] != right, otherwise)


_newest = form('''\
from pathlib import Path


def newest(folder):
    """Load the newest checkpoint_epoch_NNN.pth. None if there is none, an error if all are torn."""
    {lines}
''')


_NAIVE = (
    'files = sorted(Path(folder).glob("*.pth"), key=lambda file: file.stat().st_mtime)',
    "return torch.load(files[-1])",
)
_NUMBER = (
    "import re",
    'files = [file for file in Path(folder).iterdir() if re.fullmatch(r"checkpoint_epoch_\\d+\\.pth", file.name)]',
)
_SORT = "files.sort(key=lambda file: int(file.stem[17:]), reverse=True)"
_TRY = (
    "for file in files:",
    "    try:",
    "        return torch.load(file)",
    "    except Exception:",
    "        pass  # torn: the one before it",
)
_REFUSE = (
    "if files:",
    '    raise ValueError(f"{folder}: {len(files)} checkpoints, and none of them is sound")',
)

NEWEST = Exercise(
    asks="The newest sound one",
    answer="newest",
    expects="a function",
    examine=_examine_newest,
    apart=True,
    misconceptions={
        "clock": Misconception(
            says="An older file was copied back, and your function took it for the newest: a time says when a file "
            "was touched, not how far the training was. The epoch is in the name, and in the file.",
            example=_newest(
                'files = sorted(Path(folder).glob("checkpoint_epoch_*.pth"), key=lambda file: file.stat().st_ctime)',
                "files.sort(key=lambda file: file.stat().st_mtime)",
                "return torch.load(files[-1])",
            ),
        ),
        "text": Misconception(
            says="Epoch 1000 is newer than 999, but as text `checkpoint_epoch_1000.pth` comes first: 1 before 9. "
            "Compare numbers.",
            example=_newest(
                'files = sorted(Path(folder).glob("checkpoint_epoch_*.pth"))',
                "return torch.load(files[-1])",
            ),
        ),
        "digits": Misconception(
            says="Epochs beyond 999 occur: `checkpoint_epoch_1000.pth` has four digits, one more than your function "
            "looks at.",
            example=_newest(
                "import re",
                r'files = [f for f in Path(folder).iterdir() if re.fullmatch(r"checkpoint_epoch_\d{3}\.pth", f.name)]',
                _SORT,
                *_TRY,
                *_REFUSE,
            ),
        ),
        "torn": Misconception(
            says="A kill had torn the newest files, one was cut and one empty (that one raises EOFError), and a sound "
            "one lay beside them. Try them one by one, newest first, until one can be loaded.",
            example=_newest(*_NUMBER, _SORT, "return torch.load(files[0])"),
        ),
        "alike": Misconception(
            says="It fell for a file that only looks like one: `checkpoint_epoch_900 (copy).pth`, "
            "`checkpoint_epoch_1e3.pth` or a temporary file. What counts is `checkpoint_epoch_`, digits, `.pth`, and "
            "nothing else.",
            example=_newest(
                'files = list(Path(folder).glob("checkpoint_epoch_*.pth"))',
                _SORT,
                *_TRY,
                *_REFUSE,
            ),
        ),
        "empty": Misconception(
            says="A folder without checkpoints is no error: there a run begins. Return None.",
            example=_newest(
                *_NUMBER,
                _SORT,
                *_TRY,
                'raise ValueError("nothing sound")',
            ),
        ),
        "fresh": Misconception(
            says="Both files of the run were torn, and your function says that there is nothing. Then the run starts "
            "afresh, and writes over what somebody could still have repaired. Raise an error.",
            example=_newest(*_NUMBER, _SORT, *_TRY),
        ),
    },
    hint="Keep the names that `re.fullmatch` accepts, sort them by their number, newest first, and return the first "
    "that loads. After the loop: None if there were no files, else raise.",
    solution=_newest(*_NUMBER, _SORT, *_TRY, *_REFUSE),
    why="It needs no list of what was saved, no clock and no luck: a restart knows only the folder. (`resume_training` "
    "looks at every byte as well: lesson 08.)",
)


LESSON = Lesson(
    prediction="02.2",
    questions={"02.1": ALIAS, "02.2": PREDICTION, "02.3": METRICS, "02.4": NAME, "02.5": NEWEST},
)
