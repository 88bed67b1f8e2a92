"""Lesson 08: is a file whole, what is wrong with it, and how sure can one be?"""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from koemorph_tutorial.teaching.autopsy import CAUSES, CUT, DIVERGED, FLIPPED, LOST, PATIENTS, REMEMBERED, UNCHECKED
from koemorph_tutorial.teaching.cells import form
from koemorph_tutorial.teaching.flips import first_byte, flip_at
from koemorph_tutorial.teaching.lessons import (
    Choice,
    Exercise,
    Lesson,
    Misconception,
    NotAttemptedError,
    Option,
    WrongAnswerError,
)
from koemorph_tutorial.teaching.trial import first_line, is_nothing, names_in, raise_for_stub, shown, wrong_if
from koemorph_tutorial.text import printable

# ------------------------------------------------------------------------------------------------ 08.1 and 08.2

NAMES = Choice(
    asks="How many of the three are damaged?",
    options={
        "a": Option(
            text="One: the other two are files of their own.",
            reply="They would be if they had been written three times. `save_checkpoint` writes once, and the two "
            "other names are hard links: entries in the folder for the same bytes. What happens to one happens to all.",
        ),
        "b": Option(
            text="All three.",
            reply="Three names, one copy. So an older epoch has to stay beside it. And whoever wants to damage a "
            "copy needs one that has bytes of its own: `shutil.copy` makes it.",
        ),
        "c": Option(
            text="None: `best_model.pth` only points to the numbered file, which nobody touched.",
            reply="That would be a symbolic link, which is a small file with a name in it. A hard link is a further "
            "name of the bytes themselves: behind all three lies what was hit.",
        ),
    },
    right="b",
)

PREDICTION = Choice(
    asks="What happens when a file with one flipped bit is loaded?",
    options={
        "a": Option(
            text="`torch.load` raises an error: the file holds checksums, and one of them no longer fits.",
            reply="The file does hold checksums, and one of them no longer fits. But `torch.load` does not look at "
            "them.",
        ),
        "b": Option(
            text="It loads, and the face is much as before: it is one weight of 47,732, and the network scales what it "
            "computes.",
            reply="It does scale what it computes, and for that it squares it. But this weight was multiplied by 2 to "
            "the power of 128, and the square of such a number is more than a float32 holds: infinite. From infinities "
            "comes NaN.",
        ),
        "c": Option(
            text="It loads without a word, and the face is ruined: one number drowns all the others.",
            reply="`torch.load` took it, and so did the recipe's check: neither looks at the checksums that the file "
            "holds.",
        ),
    },
    right="c",
)


# ------------------------------------------------------------------------------------------------ 08.3


def _save(path: Path, **entries: Any) -> Path:
    """Save a small checkpoint; `entries` replace its own, and None leaves one out."""
    import torch

    weights = {"layer.weight": torch.linspace(-1, 1, 64).reshape(8, 8), "norm.batches": torch.tensor(7)}
    checkpoint = {"epoch": 3, "config": {"lr": 0.1}, "model_state_dict": weights} | entries
    torch.save({name: value for name, value in checkpoint.items() if value is not None}, path)
    return path


def _hit(path: Path, record: str, byte: int, bit: int) -> Path:
    """Flip a bit of a record in a copy of a file."""
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(record)]
    place = first_byte(path, name) + byte
    copy = Path(shutil.copy(path, path.with_name(f"flipped {record.replace('/', ' ')} {byte} {bit}.pth")))
    flip_at(copy, place, bit)
    return copy


def _examine_whole(is_whole: Any) -> None:
    raise_for_stub(is_whole, _whole("return None  # your line"))
    with tempfile.TemporaryDirectory() as folder:
        good = _save(Path(folder, "good.pth"))
        first, last = (_hit(good, record, 5, 6) for record in ("data/0", "data/1"))
        inside = [_asked(is_whole, path) for path in (good, first, last)]
    whole, *hit = inside
    wrong_if(all(answer is None for answer in inside), "`is_whole` returned None: is `return` missing?")
    if any(isinstance(answer, str) for answer in inside):
        named = any(isinstance(answer, str) and "/data/" in answer for answer in hit)
        raise WrongAnswerError("name" if named else "words")
    wrong_if(None in inside, "`is_whole` returned None for one of the files: is `return` missing on one way?")
    wrong_if(not whole and all(hit), "inverted")
    wrong_if((not whole or all(hit)) and "testzip" in names_in(is_whole) and not _calls_testzip(is_whole), "brackets")
    wrong_if(not whole, "no")
    wrong_if(any(hit), "blind" if all(hit) else "one record")


def _asked(is_whole: Any, path: Path) -> bool | str | None:
    """Return what a reader's function says of a file: yes or no, a text, or nothing."""
    try:
        answer = is_whole(str(path))
    except zipfile.BadZipFile as error:
        raise WrongAnswerError("raises") from error
    if answer is None or isinstance(answer, str):
        return answer
    try:
        is_truth = bool(answer == 0) or bool(answer == 1)
    except Exception:  # an array has no truth
        is_truth = False
    wrong_if(not is_truth, f"expected True or False, found {shown(answer)}")
    return bool(answer)


def _calls_testzip(is_whole: Any) -> bool:
    called = []
    testzip = zipfile.ZipFile.testzip

    def noted(archive: zipfile.ZipFile) -> str | None:
        called.append(archive)
        return testzip(archive)

    zipfile.ZipFile.testzip = noted  # type: ignore[method-assign, assignment]
    try:
        with tempfile.TemporaryDirectory() as folder:
            _asked(is_whole, _save(Path(folder, "good.pth")))
    finally:
        zipfile.ZipFile.testzip = testzip  # type: ignore[method-assign]
    return bool(called)


_whole = form('''\
import zipfile


def is_whole(path):
    """Say of a checkpoint whether all its records are as they were written: True or False."""
    with zipfile.ZipFile(path) as archive:
        {lines}
''')


WHOLE = Exercise(
    asks="Is it whole?",
    answer="is_whole",
    expects="a function",
    examine=_examine_whole,
    misconceptions={
        "name": Misconception(
            says="`testzip` returns the name of the first damaged record, and None if there is none. As an answer to "
            "“is it whole?” that is the wrong way round: `if is_whole(path):` would hold for the damaged file.",
            example=_whole("return archive.testzip()"),
        ),
        "words": Misconception(
            says="It answers with a text, and any text that is not empty counts as true: `if is_whole(path):` would "
            "hold for the damaged file. True or False was asked for.",
            example=_whole('return "sound" if archive.testzip() is None else "damaged"'),
        ),
        "no": Misconception(
            says="It said no to every file that it was tried on, and one of them is good. `testzip` returns None where "
            "all records fit, and never True. And the file has to be judged by itself: no name of a record is known "
            "beforehand, and no other file is there to compare.",
            example=_whole("return archive.testzip() is True"),
        ),
        "brackets": Misconception(
            says="Brackets missing? `archive.testzip` is the method itself, whatever the file holds; "
            "`archive.testzip()` calls it.",
            example=_whole("return archive.testzip is None"),
        ),
        "inverted": Misconception(
            says="The wrong way round: the good file is called damaged, the damaged one whole. `testzip` returns None "
            "where every record fits.",
            example=_whole("return archive.testzip() is not None"),
        ),
        "blind": Misconception(
            says="It calls a file whole in which one bit was flipped. A file can open, load and hold nothing but "
            "finite numbers, and still not be what was written. Ask for the checksums.",
            example=_whole("return zipfile.is_zipfile(path)"),
        ),
        "one record": Misconception(
            says="It finds a flipped bit in one record, and overlooks it in another: each has a checksum of its own.",
            example=_whole(
                'name = next(name for name in archive.namelist() if name.endswith("data/0"))',
                "try:",
                "    return bool(archive.read(name))",
                "except zipfile.BadZipFile:",
                "    return False",
            ),
        ),
        "raises": Misconception(
            says="It does find the damage: reading a record compares its checksum. But it raises BadZipFile where it "
            "was asked for False. `testzip` reads them all, and raises nothing.",
            example=_whole("return all(archive.read(name) is not None for name in archive.namelist())"),
        ),
    },
    hint="`archive.testzip()` reads every record. It returns the name of the first that does not fit, else None.",
    solution=_whole("return archive.testzip() is None"),
    why="Your function tells the file from its copy with one bit flipped, whichever record was hit. For a zip file "
    "that holds checksums Python's own `zipfile` is enough, without torch.",
)


# ------------------------------------------------------------------------------------------------ 08.4

_WOULD: Mapping[str, str] = {
    FLIPPED: "A bit flipped on the disk changes one number and breaks a checksum.",
    REMEMBERED: "A bit flipped in memory changes one number, and that is saved with a checksum that fits.",
    LOST: "A lost block breaks a checksum, and sets as many numbers to 0 as fit in it.",
    DIVERGED: "A diverged run writes NaN or infinity, with checksums that fit.",
    UNCHECKED: "Saved without checksums, a file has the same numbers, and nobody can tell whether it is damaged.",
    CUT: "A file that was cut short has lost its table of contents, which stands at the end.",
}
_VERDICTS_OF: Mapping[str, str] = {
    FLIPPED: "damaged",
    REMEMBERED: "sound",
    LOST: "damaged",
    DIVERGED: "incomplete",
    UNCHECKED: "cannot tell",
}


def _examine_causes(causes: Any) -> None:
    given = {str(name): cause for name, cause in causes.items() if not is_nothing(cause)}
    if not given and set(causes) == set(PATIENTS):
        raise NotAttemptedError
    right, wrong = [], []
    for name, answer in given.items():
        cause = " ".join(answer.lower().split()) if isinstance(answer, str) else ""
        if name not in PATIENTS:
            wrong.append(f"There is no file `{printable(name, 60)}`; there are {', '.join(PATIENTS)}")
        elif cause not in CAUSES:
            found = shown(answer)
            wrong.append(f"{name}: expected one of {', '.join(map(repr, CAUSES))}, found {found}")
        elif cause != PATIENTS[name]:
            wrong.append(_something_else(name, cause))
        else:
            right.append(name)
    so_far = (
        f"{' and '.join(filter(None, (', '.join(right[:-1]), right[-1])))} {'is' if len(right) == 1 else 'are'} right"
        if right
        else ""
    )
    if wrong:
        raise WrongAnswerError(f"{so_far}. {wrong[0]}" if so_far else wrong[0])
    left = [name for name in PATIENTS if name not in given]
    if left:
        raise WrongAnswerError(f"{so_far}; still without a cause: {', '.join(left)}".removeprefix("; "))


def _something_else(name: str, cause: str) -> str:
    """Say what the cause that was named would do, and which tool shows that it did not: not what is the matter."""
    if cause == CUT:
        ask = "Does `zipfile.ZipFile` open this one?"
    elif (cause, PATIENTS[name]) == (REMEMBERED, DIVERGED):  # one bit can make a number NaN: incomplete as well
        ask = "How many numbers in this one are not finite? `validate_checkpoint` counts them."
    elif _VERDICTS_OF[cause] == _VERDICTS_OF[PATIENTS[name]]:
        ask = "Let `diff_checkpoints` count the numbers that differ from `original.pth`."
    else:
        ask = "Does `validate_checkpoint` agree?"
    return f"`{name}` is something else. {_WOULD[cause]} {ask}"


def _causes(given: Mapping[str, str]) -> str:
    lines = [f'    "{name}": {given.get(name)!r},'.replace("'", '"') for name in PATIENTS]
    return "\n".join(
        [
            "# One for each of the five, and one is left over:",
            '#   "a bit flipped on the disk", "a bit flipped in memory" (before it was saved), "cut short",',
            '#   "a lost block" (4,096 bytes, now zeros), "a diverged run", "no checksums" (saved without)',
            "causes = {",
            *lines,
            "}",
            "",
        ]
    )


AUTOPSY = Exercise(
    asks="The autopsy",
    answer="causes",
    expects="a dict",
    examine=_examine_causes,
    misconceptions={
        f"{name} taken for {cause}": Misconception(says=_something_else(name, cause), example=_causes({name: cause}))
        for name, true in PATIENTS.items()
        for cause in CAUSES
        if cause != true
    },
    hint="Ask two tools about each file: `print(validate_checkpoint(path))`, and "
    '`print(diff_checkpoints("original.pth", path))`. The one says whether the bytes are those that were written, the '
    "other how many numbers are not those of the original. One number and “damaged” is not the same as one number and "
    "“sound”.",
    solution=_causes(PATIENTS),
    why="Five causes, and five things to do. A lost block, a bit flipped on the disk: look at the disk, and go back to "
    "an older file. A bit flipped in memory: look at the computer's memory; a checksum vouches only for the way from "
    "saving to loading. A diverged run: look at the training. No checksums: save it again, once you trust it.",
)


# ------------------------------------------------------------------------------------------------ 08.5


def _examine_verdict(verdict: Any) -> None:
    import torch

    raise_for_stub(verdict, _STUB)
    numbers = torch.linspace(-1, 1, 64)
    here = Path()
    good = _save(here / "good.pth")
    _expect(verdict, good, "sound", {})
    _expect(verdict, _hit(good, "data/0", 5, 6), "damaged", {"sound": "blind"})
    torn = Path(shutil.copy(good, "torn.pth"))
    os.truncate(torn, torn.stat().st_size // 2)
    _expect(verdict, torn, "damaged", {"cannot tell": "shrug"}, raised={zipfile.BadZipFile: "torn"})
    _expect(verdict, _save_unchecked(here / "unchecked.pth"), "cannot tell", {"damaged": "off", "sound": "trusting"})
    hollow = {"layer.weight": numbers, "layer.unused": torch.zeros(0)}
    _expect(verdict, _save(here / "hollow.pth", model_state_dict=hollow), "sound", {"cannot tell": "any"})
    for value, name in ((float("nan"), "nan"), (float("inf"), "inf")):
        weights = {"layer.weight": numbers, "layer.bias": torch.tensor([0.5, value])}
        _expect(verdict, _save(here / f"{name}.pth", model_state_dict=weights), "incomplete", {"sound": name})
    _expect_of_each(verdict, good)
    infinite = _hit(good, "data/0", 3, 6)  # its first number is -1, and this the highest bit of its exponent
    _expect(verdict, infinite, "damaged", {"incomplete": "order"})
    lost = {KeyError: "keys", AttributeError: "keys", TypeError: "keys"}
    partial = _save(here / "lost.pth", model_state_dict=None)
    _expect(verdict, partial, "incomplete", {"sound": "keys"}, raised=lost)
    _expect(verdict, _save(here / "empty.pth", model_state_dict={}), "incomplete", {"sound": "empty"})
    if "validate_checkpoint" in names_in(verdict):
        print(  # noqa: T201
            "`validate_checkpoint` gives the four verdicts, and it is the library's. The exercise is to build one: "
            "try it with `zipfile` and `torch.load`."
        )


_VERDICTS = ("sound", "damaged", "incomplete", "cannot tell")


def _expect_of_each(verdict: Any, good: Path) -> None:
    """Hit other records than the first tensor's: the last tensor's, the one with all the names, several, every one."""
    with zipfile.ZipFile(good) as archive:
        name = archive.read("good/data.pkl").index(b"layer")
    hits = (
        _hit(good, "data/1", 0, 0),
        _hit(good, "data.pkl", 0, 0),  # cannot be loaded
        _hit(good, "data.pkl", name, 0),  # can be
        _hit_all(good, "two", "data/0", "data/1"),
        _hit_all(good, "all", ""),
    )
    for hit in hits:
        _expect(verdict, hit, "damaged", {"cannot tell": "unfit"})


def _hit_all(path: Path, name: str, *ends: str) -> Path:
    """Flip a bit of every record with one of these ends in a copy of a file."""
    copy = Path(shutil.copy(path, path.with_name(f"{name}.pth")))
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.file_size and info.filename.endswith(ends):
                flip_at(copy, first_byte(path, info.filename), 0)
    return copy


def _save_unchecked(path: Path) -> Path:
    from torch.utils.serialization import config

    before, config.save.compute_crc32 = config.save.compute_crc32, False
    try:
        return _save(path)
    finally:
        config.save.compute_crc32 = before


_IS = {  # what is said of each file, and why its verdict is what it is
    "good.pth": ("a good file", "every checksum fits, its weights are there, and all are finite"),
    "torn.pth": ("a file that is cut short", "it ends before its table of contents"),
    "unchecked.pth": (
        "a good file that was saved without checksums",
        "nothing in it says whether its bytes are those that were written",
    ),
    "hollow.pth": ("a good file with an empty tensor in it", "every checksum fits, and all its weights are finite"),
    "nan.pth": ("a file with a NaN among its weights", "every checksum fits, so it was saved like this"),
    "inf.pth": ("a file with an infinite weight", "every checksum fits, so it was saved like this"),
    "lost.pth": ("a file without `model_state_dict`", "every checksum fits, so it was saved like this"),
    "empty.pth": ("a file whose `model_state_dict` is empty", "every checksum fits, so it was saved like this"),
    "two.pth": ("a file with two damaged records", "two checksums do not fit"),
    "all.pth": ("a file in which every record is damaged", "it holds checksums, and none of them fits"),
}
_IS_HIT = ("a file with one bit flipped", "one checksum does not fit")


def _expect(
    verdict: Any,
    path: Path,
    right: str,
    otherwise: Mapping[str, str],
    *,
    raised: Mapping[type[Exception], str] | None = None,
) -> None:
    what, why = _IS.get(path.name, _IS_HIT)
    try:
        found = verdict(str(path))
    except Exception as error:
        for kind, name in (raised or {}).items():
            if isinstance(error, kind):
                raise WrongAnswerError(name) from error
        raise WrongAnswerError(f"of {what} it says nothing, it raises {first_line(error)}") from error
    wrong_if(is_nothing(found), f"of {what} it says None: is `return` missing on one way?")
    if not isinstance(found, str) or found not in _VERDICTS:
        says = shown(found)
        raise WrongAnswerError(f"of {what} it says {says}; expected one of {', '.join(map(repr, _VERDICTS))}")
    wrong_if(found != right, otherwise.get(found, f"it calls {what} {found!r}; it is {right!r}: {why}"))


_verdict = form('''\
import zipfile


def verdict(path):
    """Return "sound", "damaged", "incomplete" or "cannot tell"."""
    {lines}
''')


def _tried(
    unchecked: str = "all(info.CRC == 0 for info in archive.infolist())", torn: str = "damaged"
) -> tuple[str, ...]:
    return (
        "try:",
        "    with zipfile.ZipFile(path) as archive:",
        *((f"        if {unchecked}:", '            return "cannot tell"') if unchecked else ()),
        "        if archive.testzip() is not None:",
        '            return "damaged"',
        "except zipfile.BadZipFile:",
        f'    return "{torn}"',
    )


_STUB = _verdict(
    "with zipfile.ZipFile(path) as archive:", '    return "sound" if archive.testzip() is None else "damaged"'
)
_LOAD = 'weights = torch.load(path).get("model_state_dict", {})'
_FINITE = "finite = all(weight.isfinite().all() for weight in weights.values())"
_LAST = 'return "sound" if weights and finite else "incomplete"'

VERDICT = Exercise(
    asks="Four verdicts",
    answer="verdict",
    expects="a function",
    examine=_examine_verdict,
    apart=True,
    misconceptions={
        "blind": Misconception(
            says="It calls a file sound in which one bit was flipped: the checksums, which you began with, are gone.",
            example=_verdict(_LOAD, _FINITE, _LAST),
        ),
        "torn": Misconception(
            says="Of a file that is cut short it says nothing: `zipfile` raises BadZipFile. Catch that. Such a file is "
            "damaged.",
            example=_verdict(*(line[4:] for line in _tried()[1:-2]), _LOAD, _FINITE, _LAST),
        ),
        "shrug": Misconception(
            says="A file that is cut short is damaged: you can tell, since a zip ends with a table of contents, and "
            "this one does not. “Cannot tell” is for a file that may be good.",
            example=_verdict(*_tried(torn="cannot tell"), _LOAD, _FINITE, _LAST),
        ),
        "off": Misconception(
            says="It calls a good file damaged. It was saved with checksums turned off, and then each of them is 0, "
            "which `testzip` takes for wrong. Nobody can know whether its bytes are right: say so.",
            example=_verdict(*_tried(unchecked=""), _LOAD, _FINITE, _LAST),
        ),
        "trusting": Misconception(
            says="It calls a file sound that holds no checksums. It is good, but you cannot know: a flipped bit in it "
            "would look the same.",
            example=_verdict(*(line.replace("cannot tell", "sound") for line in _tried()), _LOAD, _FINITE, _LAST),
        ),
        "any": Misconception(
            says="It cannot tell of a good file. One of its tensors is empty, and the checksum of no bytes at all is "
            "0. Only where all of them are 0 were they turned off.",
            example=_verdict(
                *_tried(unchecked="any(info.CRC == 0 for info in archive.infolist())"), _LOAD, _FINITE, _LAST
            ),
        ),
        "unfit": Misconception(
            says="It cannot tell of a file in which checksums do not fit. That is damaged, whichever records were hit, "
            "and however many. Only where every `info.CRC` is 0 is there nothing to compare.",
            example=_verdict(*_tried(unchecked="archive.testzip() == archive.namelist()[0]"), _LOAD, _FINITE, _LAST),
        ),
        "nan": Misconception(
            says="Every checksum fits, and a weight is NaN: it was NaN when it was saved. The bytes are right, the "
            "training was not. Nobody wants to go on from it: incomplete.",
            example=_verdict(*_tried(), _LOAD, 'return "sound" if weights else "incomplete"'),
        ),
        "inf": Misconception(
            says="It finds NaN and overlooks the infinite, which becomes NaN in the next subtraction. `isfinite` "
            "refuses both.",
            example=_verdict(
                *_tried(), _LOAD, "finite = not any(weight.isnan().any() for weight in weights.values())", _LAST
            ),
        ),
        "order": Misconception(
            says="A flipped bit made this number infinite, and you call the file incomplete: that says the training "
            "went wrong. It was the disk. First ask whether the bytes are right, then what they say.",
            example=_verdict(
                "try:",
                "    checkpoint = torch.load(path)",
                "except Exception:",
                '    return "damaged"',
                'weights = checkpoint.get("model_state_dict", {})',
                "if not weights or not all(weight.isfinite().all() for weight in weights.values()):",
                '    return "incomplete"',
                *_tried(),
                'return "sound"',
            ),
        ),
        "keys": Misconception(
            says="This file has no `model_state_dict`, and your function has no verdict of its own for that: its bytes "
            "are right, something is not in it. That is incomplete.",
            example=_verdict(*_tried(), 'weights = torch.load(path)["model_state_dict"]', _FINITE, _LAST),
        ),
        "empty": Misconception(
            says="`model_state_dict` is there, and nothing is in it: incomplete. (`all` of nothing is True.)",
            example=_verdict(
                *_tried(),
                'weights = torch.load(path).get("model_state_dict")',
                "if weights is None:",
                '    return "incomplete"',
                _FINITE,
                'return "sound" if finite else "incomplete"',
            ),
        ),
    },
    hint="In this order: is `.CRC` 0 in all of `archive.infolist()`? Does `testzip` find something, or anything "
    "raise BadZipFile? Only then load: is `model_state_dict` there, not empty, and all of it `isfinite()`?",
    solution=_verdict(*_tried(), _LOAD, _FINITE, _LAST),
    why="First the bytes, then what they say: so the disk's faults and the training's are kept apart, and what cannot "
    "be known is admitted. `validate_checkpoint` asks in the same order.",
)


LESSON = Lesson(
    prediction="08.2",
    questions={"08.1": NAMES, "08.2": PREDICTION, "08.3": WHOLE, "08.4": AUTOPSY, "08.5": VERDICT},
)
