"""Lesson 06: which files stay, by what they say and not by the clock, and which nobody may touch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from koemorph_tutorial.records import numbered_epoch, numbered_name
from koemorph_tutorial.teaching.cells import form
from koemorph_tutorial.teaching.lessons import Choice, Exercise, Lesson, Misconception, Option, WrongAnswerError
from koemorph_tutorial.teaching.trial import expect_kind, expect_something, is_nothing, raise_for_stub, shown, wrong_if
from koemorph_tutorial.text import printable

# ------------------------------------------------------------------------------------------------ 06.1 and 06.2

FORGOTTEN = Choice(
    asks="What does `best_model.pth` hold in the end?",
    options={
        "a": Option(
            text="Epoch 4: no loss after the restart is below 0.31.",
            reply="Nobody compares with 0.31 any more: the recipe's file does not hold it. After the restart the best "
            "loss is infinite, so the first epoch that ends takes `best_model.pth`, and the best since then keeps it.",
        ),
        "b": Option(
            text="The best epoch since the restart.",
            reply="The recipe's file does not hold the best loss, so after the restart it is infinite, and the first "
            "epoch that ends takes the name from epoch 4. From now on epoch 4 is in its numbered file only.",
        ),
        "c": Option(
            text="Epoch 11, the last: after a restart each epoch counts as the best.",
            reply="Only the first one does, since any loss is below infinity. From then on the losses are compared "
            "again: in the end the name is with the best since the restart, and epoch 4 is in its numbered file only.",
        ),
    },
    right="b",
)

PREDICTION = Choice(
    asks="Which epochs are left in the copy?",
    options={
        "a": Option(
            text="9, 10 and 11: the copy has the names and the bytes of the original.",
            reply="It has, to the last byte. But the cleanup looks at neither: it asks for the time of each file, and "
            "that is new.",
        ),
        "b": Option(
            text="All twelve: they were made today, so none is old.",
            reply="None is old, but each is older than the next, be it by a second. Three are always the newest.",
        ),
        "c": Option(
            text="The three that the copying came to last, whichever they are.",
            reply="The time of a copy is the time of the copying. So the last three to be copied are the “newest”, "
            "whatever they hold.",
        ),
    },
    right="c",
)


# ------------------------------------------------------------------------------------------------ 06.3


def _examine_stays(what_stays: Any) -> None:
    raise_for_stub(what_stays, _stays("None  # your line"))
    # In the order of a listing, which is none. The best, the worst, the first, the lowest number and the place of the
    # best are five different numbers, and none is among the newest.
    losses = {7: 0.3, 5: 0.9, 12: 0.5, 0: 0.6, 3: 0.2, 100: 0.4}
    given = dict(losses)
    found = what_stays(given, 2)
    expect_something(found, "what_stays")
    if not isinstance(found, (set, frozenset, list, tuple)):
        raise WrongAnswerError(f"expected a set of epochs, found {shown(found)}")
    kept = set(found)
    if not {12, 100} <= kept:
        raise WrongAnswerError(
            f"of the epochs {_listed(losses)} the newest two are 12 and 100; yours are not among them"
        )
    others = {0: "number", 5: "largest", 4: "place", 0.2: "value", (3, 0.2): "item", (0.2, 3): "item"}
    for extra, name in others.items():
        wrong_if(kept == {extra, 12, 100}, name)
    wrong_if(kept == {12, 100}, "newest")
    wrong_if(None in kept, "the best is None: is your line there?")
    if kept != {3, 12, 100}:
        raise WrongAnswerError(
            f"of the losses {losses} the smallest is that of epoch 3; beside 12 and 100 yours keeps "
            f"{printable(_listed(kept - {12, 100}), 60)}"
        )
    wrong_if(given != losses, "right, and `losses` is no longer what it was: decide, and remove nothing")
    found = what_stays({0: 0.5, 1: 0.1, 2: 0.3}, 2)
    if is_nothing(found) or set(found) != {1, 2}:
        raise WrongAnswerError(
            "of epochs 0, 1 and 2, with the losses 0.5, 0.1 and 0.3, two stay: 1 and 2 are the newest, and 1 the best. "
            f"Yours keeps {printable(_listed(found or ()), 60)}"
        )


def _listed(items: Iterable[Any]) -> str:
    return ", ".join(str(item) for item in sorted(items, key=str))


_stays = form('''\
def what_stays(losses, keep_n):
    """Return the epochs whose files stay: the newest `keep_n`, and the best.

    `losses`: epoch -> loss, in any order.
    """
    newest = sorted(losses)[-keep_n:]
    best = {lines}
    return {*newest, best}
''')


STAYS = Exercise(
    asks="One line is missing",
    answer="what_stays",
    expects="a function",
    examine=_examine_stays,
    misconceptions={
        "number": Misconception(
            says="It keeps epoch 0, whose number is the smallest, and not its loss: `min` of a dict goes through its "
            "keys, and these are the epochs. Tell it by what to compare them.",
            example=_stays("min(losses)"),
        ),
        "largest": Misconception(
            says="It keeps epoch 5, whose loss is the largest. The smaller a loss, the better: the best is at the "
            "other end.",
            example=_stays("max(losses, key=losses.get)"),
        ),
        "place": Misconception(
            says="It keeps 4. That is the place of the smallest loss, counted from 0, and there is no such epoch: what "
            "is asked for is the epoch that stands there.",
            example=_stays("list(losses.values()).index(min(losses.values()))"),
        ),
        "value": Misconception(
            says="It keeps 0.2. That is the smallest loss, and a loss is no file: what is asked for is the epoch that "
            "has it.",
            example=_stays("min(losses.values())"),
        ),
        "item": Misconception(
            says="It keeps a pair of epoch and loss. It is the right one; only its epoch belongs into the answer.",
            example=_stays("min(losses.items(), key=lambda item: item[1])"),
        ),
        "newest": Misconception(
            says="It keeps the newest two, and epoch 3 goes, the best of all. The best is to be sought among all the "
            "files, and not among those that stay anyway.",
            example=_stays("min(newest, key=losses.get)"),
        ),
    },
    hint="`min(losses, key=…)` returns the epoch for which the function `key` gives the smallest value. Which function "
    "gives the loss of an epoch?",
    solution=_stays("min(losses, key=losses.get)"),
    why="No clock, no folder, no order of a listing: what the files say decides. And as nothing is removed in here, it "
    "can be tried on a table.",
)


# ------------------------------------------------------------------------------------------------ 06.4


def _save(
    folder: Path,
    losses: Mapping[int, float],
    *,
    of: Mapping[int, str] | None = None,
    weights: Mapping[int, int] | None = None,
) -> Path:
    """Make a folder of numbered checkpoints whose times lie.

    `of` names the run of an epoch, if it is not "ours"; `weights` says how many numbers it holds, if it is not one.
    """
    import torch

    folder.mkdir()
    for epoch, loss in losses.items():
        path = folder / numbered_name(epoch)
        model = {"weight": torch.zeros((weights or {}).get(epoch, 1))}
        whose = (of or {}).get(epoch, "ours")
        torch.save({"epoch": epoch, "run": whose, "metrics": {"loss": loss}, "model_state_dict": model}, path)
        os.utime(path, (1e9 - epoch, 1e9 - epoch))
    return folder


def _there(folder: Path) -> set[int]:
    """Return the epochs whose files lie in a folder."""
    return {epoch for file in folder.iterdir() if (epoch := numbered_epoch(file.name)) is not None}


def _examine_planned(planned: Any) -> None:
    raise_for_stub(planned, _planned(*_DEED))
    losses = {3: 0.4, 8: 0.2, 999: 0.5, 1000: 0.3, 1001: 0.6}
    newest = {1000: ["newest"], 1001: ["newest"]}
    _expect_plan(planned, _save(Path("plain"), losses), {8: ["best"], **newest}, "")
    both = _save(Path("both"), losses | {1001: 0.1})
    _expect_plan(planned, both, {**newest, 1001: ["best", "newest"]}, "both")
    for nan in losses:  # `min` stays with a NaN that it meets first, and in which order it meets them is chance
        best = min(losses.keys() - {nan}, key=lambda epoch: losses[epoch])
        right = {epoch: [*["best"] * (epoch == best), *newest.get(epoch, ())] for epoch in losses}
        _expect_plan(planned, _save(Path(f"nan{nan}"), losses | {nan: math.nan}), right, "nan")
    _expect_plan(planned, _save(Path("inf"), losses | {3: -math.inf}), {8: ["best"], **newest}, "inf")
    _expect_plan(planned, _save(Path("none"), dict.fromkeys(losses, math.nan)), newest, "named", raised="none")


def _expect_plan(
    planned: Any, folder: Path, right: Mapping[int, list[str]], otherwise: str, *, raised: str = ""
) -> None:
    before = _there(folder)
    try:
        found = planned(str(folder), 2)
    except (ValueError, TypeError) as error:
        if raised:
            raise WrongAnswerError(raised) from error
        raise
    wrong_if(_there(folder) != before, "deed" if is_nothing(found) else "removes")
    expect_kind(found, Mapping, "a dict", of="planned")
    wrong_if(any(isinstance(name, Path) or "/" in str(name) for name in found), "paths")
    expected = {numbered_name(epoch): sorted(right.get(epoch, ())) for epoch in before}
    if unknown := found.keys() - expected.keys():
        raise WrongAnswerError(f"it names {printable(repr(min(map(str, unknown))), 60)}, and there is no such file")
    missing = expected.keys() - found.keys()
    wrong_if(missing and not any(expected[name] for name in missing), "kept only")
    for name in sorted(expected):
        reasons = found.get(name)
        if isinstance(reasons, str) or reasons is None or isinstance(reasons, bool):
            raise WrongAnswerError(f"of {name} it says {shown(reasons)}; expected a list of reasons")
        if sorted(reasons) != expected[name]:
            says = f"of {name} it says {shown(reasons)}; expected {expected[name]}"
            raise WrongAnswerError(_diagnosis(otherwise, set(reasons), set(expected[name])) or says)


def _diagnosis(otherwise: str, reasons: set[str], expected: set[str]) -> str:
    """Name what went wrong with a file in the folder that `otherwise` stands for; "" if it is something else."""
    if otherwise == "both":
        return "older" if reasons - expected == {"best"} else "one" if len(expected & reasons) == 1 else ""
    if otherwise and expected - reasons == {"newest"}:  # where all are finite it was found
        return "dropped"
    return otherwise if ("best" in reasons) != ("best" in expected) else ""


def _form(cell: str) -> Callable[..., str]:
    """Return what fills the blank of a cell and puts the imports before it: all need Path, some need math."""
    fill = form(cell)

    def whole(*lines: str) -> str:
        needed = "import math\n" if any("math." in line for line in lines) else ""
        return f"from pathlib import Path\n{needed}\n\n{fill(*lines)}"

    return whole


_planned = _form('''\
def planned(folder, keep_n):
    """Say of each file why it stays, and remove nothing.

    {file name: ["newest", "best"]}, an empty list if it may go.
    """
    files = {path: torch.load(path) for path in Path(folder).glob("checkpoint_epoch_*.pth")}
    newest = sorted(files, key=lambda path: files[path]["epoch"])[-keep_n:]
    {lines}
''')


_LOSS = 'key=lambda path: files[path]["metrics"]["loss"]'
_DEED = (f"best = min(files, {_LOSS})", "for path in files.keys() - {*newest, best}:", "    path.unlink()")
_FINITE = 'finite = [path for path in files if math.isfinite(files[path]["metrics"]["loss"])]'
_BEST = f"best = min(finite, {_LOSS}, default=None)"
_REASONS = 'return {path.name: ["newest"] * (path in newest) + ["best"] * (path == best) for path in files}'

PLANNED = Exercise(
    asks="First a plan",
    answer="planned",
    expects="a function",
    examine=_examine_planned,
    apart=True,
    misconceptions={
        "removes": Misconception(
            says="It makes a plan, and still removes files. Whoever reads the plan then has nothing left to decide. "
            "Leave the deed to another function.",
            example=_planned(_FINITE, _BEST, *_DEED[1:], _REASONS),
        ),
        "deed": Misconception(
            says="It removes files, as before, and returns no plan. In place of the last two lines return a dict: for "
            "each file its name and a list of reasons.",
            example=_planned(_FINITE, _BEST, *_DEED[1:]),
        ),
        "kept only": Misconception(
            says="It says nothing of the files that may go. These are the ones that somebody wants to read about "
            "before they are gone: name every file, with an empty list if nothing speaks for it.",
            example=_planned(_FINITE, _BEST, f"{_REASONS[:-1]} if path in newest or path == best}}"),
        ),
        "paths": Misconception(
            says="It names paths. A plan that somebody reads, or prints, or compares with another one had better name "
            "files: `path.name`.",
            example=_planned(_FINITE, _BEST, _REASONS.replace("path.name", "path")),
        ),
        "one": Misconception(
            says="The newest file was also the best, and your plan gives one reason. Both count: whoever next year "
            "turns “newest” down must see that the file stays all the same.",
            example=_planned(
                _FINITE,
                _BEST,
                'plan = {path.name: ["newest"] if path in newest else [] for path in files}',
                "if best:",
                '    plan[best.name] = ["best"]',
                "return plan",
            ),
        ),
        "older": Misconception(
            says="The newest file was also the best, and your plan calls an older one the best. The best is to be "
            "sought among all the files, and not only among those that may go.",
            example=_planned(_FINITE.replace("if ", "if path not in newest and "), _BEST, _REASONS),
        ),
        "dropped": Misconception(
            says="A file whose loss is not finite is not among your newest. It is no best; but it was saved last, and "
            "for that it stays. Leave `newest` as it was.",
            example=_planned(_FINITE, "newest = [path for path in newest if path in finite]", _BEST, _REASONS),
        ),
        "named": Misconception(
            says="Every loss was NaN, and your plan names a best all the same. There is none then, and the newest "
            "stay.",
            example=_planned(
                'loss = {path: files[path]["metrics"]["loss"] for path in files}',
                "best = min(files, key=lambda path: loss[path] if abs(loss[path]) < math.inf else math.inf)",
                _REASONS,
            ),
        ),
        "nan": Misconception(
            says="One loss was NaN, and your plan takes that file for the best, or lets the best go. NaN is never "
            "larger and never smaller: where `min` meets it first, it stays with it (lesson 02). Compare finite losses "
            "only.",
            example=_planned(_DEED[0], _REASONS),
        ),
        "inf": Misconception(
            says="NaN is out, and minus infinity is your best. No loss is that good: such a run has diverged as well. "
            "`math.isfinite` says no to both.",
            example=_planned(_FINITE.replace("math.isfinite", "not math.isnan"), _BEST, _REASONS),
        ),
        "none": Misconception(
            says="Every loss was NaN, and it raises an error: `min` of nothing. There is no best then, and the newest "
            "stay. `min` takes a `default`.",
            example=_planned(_FINITE, _BEST.replace(", default=None", ""), _REASONS),
        ),
    },
    hint="Take the losses that `math.isfinite` accepts, and give `min` a `default=None`. Then one entry a file: "
    '`["newest"] * (path in newest)` is a list with the word or an empty one.',
    solution=_planned(_FINITE, _BEST, _REASONS),
    why="Now it can be read before it is done, tested without a disk at stake, and done by three lines that decide "
    "nothing. `plan_retention` is this function, with more rules.",
)


# ------------------------------------------------------------------------------------------------ 06.5


def _examine_clean_up(clean_up: Any) -> None:
    raise_for_stub(clean_up, _clean_up(*_NAIVE))
    losses = {3: 0.5, 8: 0.2, 999: 0.4, 1000: 0.3, 1001: 0.6}
    left = _left(clean_up, _save(Path("plain"), losses))
    wrong_if(left == {8, 999, 1001}, "names")
    _expect(left, {8, 1000, 1001}, "five files of one run, where epoch 8 is the best")

    losses = {0: 0.5, 1: 0.2, 2: 0.4, 3: 0.3, 4: 0.1, 5: 0.1, 6: 0.1}
    torn = _save(Path("torn"), losses, weights={5: 4000})
    os.truncate(torn / numbered_name(4), 0)
    for epoch in (5, 6):  # one of them is larger than any that is sound
        os.truncate(torn / numbered_name(epoch), (torn / numbered_name(epoch)).stat().st_size // 2)
    left = _left(clean_up, torn, raised="raises")
    wrong_if(not {4, 5, 6} <= left, "torn")
    wrong_if(not {2, 3} <= left, "counted")
    wrong_if(left == losses.keys(), "gives up")
    _expect(left, {1, 2, 3, 4, 5, 6}, "three torn files among seven, where epoch 1 is the best")

    losses = {0: 0.5, 1: 0.2, 2: 0.4, 3: 0.3, 4: 0.05, 5: 0.1, 6: 0.6, 7: 0.3}
    theirs = {4: "theirs", 5: "theirs", 7: "theirs"}
    left = _left(clean_up, _save(Path("two"), losses, of=theirs))
    wrong_if(not theirs.keys() <= left, "theirs")
    wrong_if(not {3, 6} <= left, "their newest")
    wrong_if(1 not in left, "their best")
    _expect(left, {1, 3, 4, 5, 6, 7}, "two runs in one folder, ours with the epochs 0, 1, 2, 3 and 6")
    if _left(clean_up, _save(Path("asked"), losses, of=theirs), run="theirs", keep_n=1) != losses.keys() - {5}:
        raise WrongAnswerError("fixed")
    alike = {4: "ours, too", 5: "our", 6: "not ours"}
    losses = {0: 0.5, 1: 0.2, 2: 0.4, 3: 0.3, 4: 0.1, 5: 0.6, 6: 0.7}
    wrong_if(_left(clean_up, _save(Path("alike"), losses, of=alike)) != losses.keys() - {0}, "alike")

    nobody = _save(Path("nobody"), {4: 0.1, 5: 0.2}, of=theirs)
    _expect(_left(clean_up, nobody, raised="nothing"), {4, 5}, "a folder without a file of our run")

    losses = {0: 0.5, 1: 0.2, 2: 0.4, 3: 0.3, 4: 0.6}
    for bad in (math.nan, -math.inf):
        for epoch in losses:  # where `min` meets a NaN is chance, as in 06.4
            best = min(losses.keys() - {epoch}, key=lambda other: losses[other])
            left = _left(clean_up, _save(Path(f"{bad}{epoch}"), losses | {epoch: bad}))
            wrong_if(not {3, 4} <= left, "dropped")
            wrong_if(left != {best, 3, 4}, "finite")
    left = _left(clean_up, _save(Path("none"), dict.fromkeys(losses, math.nan)), raised="no best")
    _expect(left, {3, 4}, "five files whose losses are all NaN")


def _left(clean_up: Any, folder: Path, *, run: str = "ours", keep_n: int = 2, raised: str = "") -> set[int]:
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    try:
        clean_up(str(folder), run, keep_n)
    except Exception as error:
        if raised:
            raise WrongAnswerError(raised) from error
        raise
    wrong_if(any(before.get(path) != path.read_bytes() for path in Path().rglob("*") if path.is_file()), "moved")
    return _there(folder)


def _expect(left: set[int], right: set[int], what: str) -> None:
    if left != right:
        are, expected = (", ".join(map(str, sorted(epochs))) or "none" for epochs in (left, right))
        raise WrongAnswerError(f"{what}, and the newest two are to stay: left were {are}; expected {expected}")


_clean_up = _form('''\
def clean_up(folder, run, keep_n):
    """Of the files of `run` keep the newest `keep_n` sound ones and the best.

    Remove its other sound files, touch nothing else.
    """
    {lines}
''')


_NAIVE = (
    'files = {path: torch.load(path) for path in Path(folder).glob("checkpoint_epoch_*.pth")}',
    'newest = sorted(files, key=lambda path: files[path]["epoch"])[-keep_n:]',
    *_DEED,
)
_READ = (
    "files = {}",
    'for path in Path(folder).glob("checkpoint_epoch_*.pth"):',
    "    try:",
    "        checkpoint = torch.load(path)",
    "    except Exception:",
    "        continue  # torn: nobody knows whose it is",
    '    if checkpoint["run"] == run:',
    "        files[path] = checkpoint",
)
_KEEP = (_NAIVE[1], _FINITE, _BEST, *_DEED[1:])

CLEAN_UP = Exercise(
    asks="A night with a full disk",
    answer="clean_up",
    expects="a function",
    examine=_examine_clean_up,
    apart=True,
    misconceptions={
        "raises": Misconception(
            says="A torn file makes `torch.load` raise an error, and the cleanup ends there. Pass over what cannot be "
            "loaded, whatever the error is (an empty file raises another one than half a file).",
            example=_clean_up(*_READ[:2], "    checkpoint = torch.load(path)", *_READ[6:], *_KEEP),
        ),
        "torn": Misconception(
            says="It removes the torn files. Whose they are nobody can read any more, and a file that cannot be judged "
            "is not for a cleanup to remove: somebody may still want to look at it.",
            example=_clean_up(
                *(line.replace("continue", "path.unlink()") for line in _READ[:6]),
                "        continue",
                *_READ[6:],
                *_KEEP,
            ),
        ),
        "gives up": Misconception(
            says="Where a file is torn, it removes nothing at all, and the disk stays full. Pass over that file alone "
            "and go on with the next: `try` stands inside the loop, and `continue` goes on.",
            example=_clean_up(
                *(line.replace("continue", "return") for line in _READ),
                *_KEEP,
            ),
        ),
        "counted": Misconception(
            says="The torn files count as the newest, so the sound ones before them went. When the run starts again it "
            "has to go back all the way to the best. Only what can be loaded counts.",
            example=_clean_up(
                *_READ[:5],
                '        checkpoint = {"epoch": int(path.stem[17:]), "metrics": {"loss": float("inf")}, "run": run}',
                *_READ[6:],
                *_KEEP[:3],
                'torn = {path for path in files if files[path]["metrics"]["loss"] == float("inf")}',
                "for path in files.keys() - {*newest, best, *torn}:",
                "    path.unlink()",
            ),
        ),
        "theirs": Misconception(
            says="It removes files of the other run. Its owner sees in the morning that they are gone, and not why. "
            'Each file says whose it is: `checkpoint["run"]`.',
            example=_clean_up(*_READ[:6], "    files[path] = checkpoint", *_KEEP),
        ),
        "their newest": Misconception(
            says="The other run's files stay, but they count: two of its epochs are further than ours, so our newest "
            "went. That is what happened to `checkpoint-100`. Choose among the files of one run only.",
            example=_clean_up(
                *_READ[:6],
                "    files[path] = checkpoint",
                *_KEEP[:3],
                "for path in files.keys() - {*newest, best}:",
                '    if files[path]["run"] == run:',
                "        path.unlink()",
            ),
        ),
        "their best": Misconception(
            says="The other run has a smaller loss, so our best went. Whether two losses can be compared at all only "
            "their runs know: choose among the files of one.",
            example=_clean_up(
                *_READ[:6],
                "    files[path] = checkpoint",
                f"best = min(files, {_LOSS}, default=None)",
                'files = {path: files[path] for path in files if files[path]["run"] == run}',
                _KEEP[0],
                *_DEED[1:],
            ),
        ),
        "names": Misconception(
            says="It sorts by the names of the files, and letters know no numbers: `checkpoint_epoch_1000` comes "
            "before `checkpoint_epoch_999`. Sort by the epoch that stands in the file.",
            example=_clean_up(*_READ, "newest = sorted(files)[-keep_n:]", *_KEEP[1:]),
        ),
        "fixed": Misconception(
            says="Asked for the run `theirs` and for one newest file, it does something else: two of its three files "
            "were to stay, the newest and the best. Go by `run` and `keep_n`, as they are given.",
            example=_clean_up(*(line.replace("== run", '== "ours"') for line in _READ), *_KEEP),
        ),
        "alike": Misconception(
            says="Other runs in the folder had names like ours, longer ones or a shorter one, and it took their files "
            "for ours. Two runs are the same if their whole names are: `==`.",
            example=_clean_up(*(line.replace('["run"] == run', '["run"].startswith(run)') for line in _READ), *_KEEP),
        ),
        "moved": Misconception(
            says="It writes, or gives a file another name. That frees nothing, and the disk is full: what need not "
            "stay is removed with `unlink`, and nothing else is touched.",
            example=_clean_up(*_READ, *_KEEP[:-1], '    path.rename(path.with_suffix(".old"))'),
        ),
        "dropped": Misconception(
            says="A file whose loss is not finite is not among your newest. It is no best; but it can be loaded and "
            "was saved last, and for that it stays.",
            example=_clean_up(*_READ, _FINITE, _KEEP[0].replace("sorted(files", "sorted(finite"), *_KEEP[2:]),
        ),
        "finite": Misconception(
            says="One loss was not finite, and its file stayed though it was old, or the best went. The rule of 06.4 "
            "holds here as well: only a finite loss can be the best. Such a file goes when it is old, like any other.",
            example=_clean_up(*_READ, _KEEP[0], _BEST.replace("finite", "files"), *_DEED[1:]),
        ),
        "no best": Misconception(
            says="Every loss was NaN, and it raises an error. There is no best then, and the newest stay: `min` takes "
            "a `default`.",
            example=_clean_up(
                *_READ,
                "if not files:",
                "    return",
                *(line.replace(", default=None", "") for line in _KEEP),
            ),
        ),
        "nothing": Misconception(
            says="In a folder without a file of our run it raises an error: `min` of nothing. There is nothing to "
            "remove then. `min` takes a `default`.",
            example=_clean_up(*_READ, _KEEP[0], *_DEED),
        ),
    },
    hint="Fill `files` in a loop: `try` to load, `continue` where that fails, take what is of this `run`. Of these "
    "`newest` and the `finite` ones of 06.4 are chosen; `min` gets a `default=None`.",
    solution=_clean_up(*_READ, *_KEEP),
    why="What cannot be read, and what is of others, neither counts nor goes. The library's own files name their run "
    "in a way that `list_checkpoints` and `cleanup_old_checkpoints` know; that of these files, made for the exercise, "
    "they do not. And `cleanup_old_checkpoints` compares checksums: a file can be loaded and still be damaged (lesson "
    "08).",
)


LESSON = Lesson(
    prediction="06.2",
    questions={"06.1": FORGOTTEN, "06.2": PREDICTION, "06.3": STAYS, "06.4": PLANNED, "06.5": CLEAN_UP},
)
