"""Lesson 08: answers that people give to its exercises, and that what is said of them is true."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from koemorph_tutorial import diff_checkpoints, validate_checkpoint
from koemorph_tutorial.teaching import autopsy, check
from koemorph_tutorial.teaching.autopsy import CAUSES, PATIENTS
from koemorph_tutorial.teaching.lessons import Exercise, question
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel

from .test_answers import refused, said_to

# ------------------------------------------------------------------------------------------------ 08.3


def whole(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f"import io, zipfile, zlib\nimport numpy as np\nimport koemorph_tutorial\ndef is_whole(path):\n    {body}\n"


@pytest.mark.parametrize(
    "lines",
    [
        ("return not zipfile.ZipFile(path).testzip()",),
        ("with open(path, 'rb') as file:", "    return zipfile.ZipFile(io.BytesIO(file.read())).testzip() is None"),
        ("if zipfile.ZipFile(path).testzip() is None: return True", "else: return False"),
        ("return np.bool_(zipfile.ZipFile(path).testzip() is None)",),
        ("return torch.tensor(zipfile.ZipFile(path).testzip() is None)",),
        ("return int(zipfile.ZipFile(path).testzip() is None)",),
        (
            "with zipfile.ZipFile(path) as archive:",
            "    archive._RealGetContents()",
            "    return archive.testzip() == None",
        ),
        (
            "try:",
            "    archive = zipfile.ZipFile(path)",
            "    return all(zlib.crc32(archive.read(info)) == info.CRC for info in archive.infolist())",
            "except zipfile.BadZipFile:",
            "    return False",
        ),
        ("return koemorph_tutorial.validate_checkpoint(path).verdict == 'sound'",),
        ("return bool(koemorph_tutorial.validate_checkpoint(path))",),
    ],
)
def test_every_right_way_to_ask_the_checksums_passes(
    lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "08.3: passed" in said_to("08.3", whole(*lines), capsys)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("zipfile.ZipFile(path).testzip() is None",), "`is_whole` returned None: is `return` missing?"),
        (("if zipfile.ZipFile(path).testzip() is None: return True",), "returned None for one of the files"),
        (("torch.load(path)", "return True"), "It calls a file whole in which one bit was flipped"),
        (
            (
                "weights = torch.load(path)['model_state_dict']",
                "return all(w.isfinite().all() for w in weights.values())",
            ),
            "A file can open, load and hold nothing but finite numbers, and still not be what was written.",
        ),
        (("return len(zipfile.ZipFile(path).infolist()) > 0",), "It calls a file whole in which one bit was flipped"),
        (("return zipfile.ZipFile(path).testzip() != None",), "The wrong way round: the good file is called damaged"),
        (("return False",), "It said no to every file that it was tried on, and one of them is good"),
        (("return zipfile.ZipFile(path).testzip() == 'archive/data/5'",), "no name of a record is known beforehand"),
        (
            ("return zipfile.ZipFile(path).testzip() is True",),
            "`testzip` returns None where all records fit, and never",
        ),
        (
            (
                "import shutil, os",
                "same = os.path.exists('original.pth') and open(path, 'rb').read() == b''",
                "return same",
            ),
            "no other file is there to compare",
        ),
        (("return zipfile.ZipFile(path).testzip() or ''",), "`testzip` returns the name of the first damaged record"),
        (("return 'damaged' if zipfile.ZipFile(path).testzip() else 'sound'",), "any text that is not empty counts as"),
        (("return 'whole'",), "It answers with a text, and any text that is not empty counts as true"),
        (("return zipfile.ZipFile(path).testzip is None",), "Brackets missing?"),
        (("return not zipfile.ZipFile(path).testzip",), "Brackets missing?"),
        (("return zipfile.ZipFile(path).testzip is not None",), "Brackets missing?"),
        (("return [zipfile.ZipFile(path).testzip()]",), "expected True or False, found [None]"),
        (("return 0.5",), "expected True or False, found 0.5"),
        (("return torch.ones(3)",), "expected True or False, found tensor"),
        (("return zipfile.ZipFile(path)",), "expected True or False, found <zipfile.ZipFile"),
        (("zipfile.ZipFile(path).testzip()", "return nothing"), "`is_whole` raised NameError"),
    ],
)
def test_what_is_said_of_other_checks_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("08.3", whole(*lines), words, capsys)


# ------------------------------------------------------------------------------------------------ 08.4


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good file, `original.pth`, and the five that were made of it."""
    folder = tmp_path_factory.mktemp("ward")
    model = SimplifiedKoeMorphModel()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(2, 6400)).sum().backward()
    optimizer.step()
    states = {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    torch.save({"epoch": 3, "config": {}, "metrics": {"loss": 0.5}, **states}, folder / "original.pth")
    autopsy.lay_out(folder / "original.pth", folder)
    return folder


def asked(causes: object, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    check("08.4", causes)
    return capsys.readouterr().out


def test_causes_are_understood_however_they_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert "08.4: passed" in asked({name: f"  {cause.upper()} " for name, cause in PATIENTS.items()}, capsys)


@pytest.mark.parametrize("name", PATIENTS)
@pytest.mark.parametrize("cause", CAUSES)
def test_one_cause_alone_is_judged(name: str, cause: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = asked(dict.fromkeys(PATIENTS) | {name: cause}, capsys)
    if cause == PATIENTS[name]:
        others = ", ".join(other for other in PATIENTS if other != name)
        assert f"08.4: not yet\n{name} is right; still without a cause: {others}\n" == said
    else:
        assert said.startswith(f"08.4: not yet\n`{name}` is something else. ")
        assert PATIENTS[name] not in said.lower()  # it points to a tool, not to the answer


@pytest.mark.parametrize("name", PATIENTS)
@pytest.mark.parametrize("cause", CAUSES)
def test_the_tool_that_is_named_does_speak_against_a_wrong_cause(name: str, cause: str, ward: Path) -> None:
    """The verdict is another than this cause would have, the file opens, or other numbers differ."""
    if cause == PATIENTS[name]:
        return
    exercise = question("08.4")
    assert isinstance(exercise, Exercise)
    said = exercise.misconceptions[f"{name} taken for {cause}"].says
    if "zipfile.ZipFile" in said:
        assert zipfile.is_zipfile(ward / name)
    elif "Does `validate_checkpoint` agree?" in said:
        like = next(other for other, its in PATIENTS.items() if its == cause)
        verdicts = [validate_checkpoint(ward / file).verdict for file in (name, like)]
        assert verdicts[0] != verdicts[1]
    elif "not finite" in said:
        (found,) = {
            finding.found for finding in validate_checkpoint(ward / name).findings if "queries" in finding.where
        }
        assert found == "3,328 NaN of 3,328"
    else:
        difference = diff_checkpoints(ward / "original.pth", ward / name)
        assert {"2.pth": 1024, "4.pth": 1}[name] == sum(row.change.differing for row in difference.rows if row.change)


@pytest.mark.parametrize(
    ("causes", "words"),
    [
        ({"6.pth": CAUSES[0]}, "There is no file `6.pth`; there are 1.pth, 2.pth, 3.pth, 4.pth, 5.pth"),
        ({"1.pth": "cosmic rays"}, "1.pth: expected one of 'a bit flipped on the disk', 'a bit flipped in memory',"),
        ({"1.pth": 3}, "no checksums', 'cut short', found 3"),
        ({3: "cut short"}, "There is no file `3`"),
        (
            {"1.pth": PATIENTS["1.pth"], "2.pth": PATIENTS["2.pth"]},
            "1.pth and 2.pth are right; still without a cause: 3",
        ),
        ({**PATIENTS, "2.pth": CAUSES[0]}, "1.pth, 3.pth, 4.pth and 5.pth are right. `2.pth` is something else."),
        (
            {"5.pth": PATIENTS["5.pth"], "4.pth": CAUSES[1]},
            "5.pth is right. `4.pth` is something else. A bit flipped in",
        ),
        ({"5.pth": PATIENTS["5.pth"], "6.pth": CAUSES[1]}, "5.pth is right. There is no file"),
        ({"1.pth": ...}, "still without a cause: 1.pth, 2.pth"),
        ({"1.pth": "x" * 500 + "\x1b[31m"}, "characters)"),
    ],
)
def test_what_is_said_of_odd_causes_is_true(
    causes: dict[object, object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = asked(causes, capsys)
    assert said.startswith("08.4: not yet\n")
    assert words in said
    assert "\x1b" not in said


# ------------------------------------------------------------------------------------------------ 08.5


def verdict(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f"import os, zipfile\nimport numpy as np\nimport koemorph_tutorial\ndef verdict(path):\n    {body}\n"


BYTES = (
    "if not zipfile.is_zipfile(path): return 'damaged'",
    "archive = zipfile.ZipFile(path)",
    "if not any(info.CRC for info in archive.infolist()): return 'cannot tell'",
    "if archive.testzip(): return 'damaged'",
)
NUMBERS = (
    "weights = torch.load(path, weights_only=True, map_location='cpu').get('model_state_dict')",
    "if not weights: return 'incomplete'",
    "for value in weights.values():",
    "    if not np.isfinite(value.numpy()).all(): return 'incomplete'",
    "return 'sound'",
)


@pytest.mark.parametrize(
    "lines",
    [
        (*BYTES, *NUMBERS),
        (
            *BYTES,
            "try:",
            "    weights = torch.load(path)['model_state_dict'].values()",
            "    total = sum(value.double().abs().sum() for value in weights)",
            "    return 'sound' if weights and total - total == 0 else 'incomplete'",
            "except KeyError: return 'incomplete'",
        ),
    ],
)
def test_every_right_verdict_passes(lines: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "08.5: passed" in said_to("08.5", verdict(*lines), capsys)


def test_the_library_s_own_verdict_passes_and_is_called_so(capsys: pytest.CaptureFixture[str]) -> None:
    said = said_to("08.5", verdict("return koemorph_tutorial.validate_checkpoint(path).verdict"), capsys)
    assert said.startswith("`validate_checkpoint` gives the four verdicts, and it is the library's.")
    assert "08.5: passed" in said
    assert "library" not in said_to("08.5", verdict(*BYTES, *NUMBERS), capsys)


CHECKSUMS = (
    "import zlib",
    "if not zipfile.is_zipfile(path): return 'damaged'",
    "archive = zipfile.ZipFile(path)",
    "infos, bad = archive.infolist(), []",
    "if not any(info.CRC for info in infos): return 'cannot tell'",
    "for info in infos:",
    "    try: archive.read(info)",
    "    except zipfile.BadZipFile: bad.append(info.filename)",
)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("if len(bad) > 1: return 'cannot tell'", "if bad: return 'damaged'"), "It cannot tell of a file in which"),
        (("if len(bad) > 7: return 'cannot tell'", "if bad: return 'damaged'"), "It cannot tell of a file in which"),
        (
            ("if 'good/data.pkl' in bad: return 'cannot tell'", "if bad: return 'damaged'"),
            "whichever records were hit, and however many",
        ),
        (
            (
                "try: torch.load(path)",
                "except Exception: return 'cannot tell'",
                "if bad: return 'damaged'",
            ),
            "It cannot tell of a file in which checksums do not fit",
        ),
        (("if 'good/data/0' in bad: return 'damaged'",), "it calls a file with one bit flipped 'sound'; it is"),
        (
            ("if any('/data/' in name for name in bad): return 'damaged'",),
            "of a file with one bit flipped it says nothing, it raises",
        ),
        (
            (
                "if any('/data/' in name for name in bad): return 'damaged'",
                "try: torch.load(path)",
                "except Exception: return 'damaged'",
            ),
            "it calls a file with one bit flipped 'sound'; it is 'damaged'",  # another name for a tensor
        ),
    ],
)
def test_a_damaged_record_is_damage_whichever_it_is_and_however_many(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_to("08.5", verdict(*CHECKSUMS, *lines, *NUMBERS), capsys)
    assert said.startswith("08.5: not yet\n")
    assert words in said
    assert "08.5: passed" in said_to("08.5", verdict(*CHECKSUMS, "if bad: return 'damaged'", *NUMBERS), capsys)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("return True",), "of a good file it says True; expected one of 'sound'"),
        (("return 'good'",), "of a good file it says 'good'; expected one of 'sound'"),
        (("if not zipfile.is_zipfile(path): return 'damaged'",), "of a good file it says None: is `return` missing"),
        (("return 'damaged'",), "it calls a good file 'damaged'; it is 'sound': every checksum fits, its weights are"),
        (
            (*BYTES[:3], "return 'incomplete' if archive.testzip() else 'sound'"),
            "is 'damaged': one checksum does not fit",
        ),
        ((*BYTES[1:], "return 'sound'"), "cut short"),
        (("os.remove(path)", "return 'sound'"), "what came of `verdict` could not be tried"),
        ((*BYTES[:1], "return 'sound'"), "the checksums, which you began with, are gone"),
        ((*BYTES, "raise ValueError(3)"), "of a good file it says nothing, it raises ValueError: 3"),
        ((*BYTES, "return 'sound'"), "Every checksum fits, and a weight is NaN"),
        (("import time; time.sleep(99)",), "`verdict` did not come to an end within 2 seconds"),
        (("os._exit(3)",), "`verdict` ended the process that it ran in"),
    ],
)
def test_what_is_said_of_other_verdicts_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sleep" in lines[0]:
        monkeypatch.setattr("koemorph_tutorial.teaching.trial.PATIENCE", 2.0)
    refused("08.5", verdict(*lines), words, capsys)
