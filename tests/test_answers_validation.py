"""Lesson 08: answers that people give to its exercises, and that what is said of them is true."""

from __future__ import annotations

import pytest

from koemorph_tutorial.teaching import check
from koemorph_tutorial.teaching.autopsy import CAUSES, PATIENTS

from .test_answers import cell_of, said_to

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
        (("return len(zipfile.ZipFile(path).infolist()) > 0",), "It calls a file whole in which one bit was flipped"),
        (("return zipfile.ZipFile(path).testzip() != None",), "The wrong way round: the good file is called damaged"),
        (("return False",), "it always says no"),
        (("return zipfile.ZipFile(path).testzip() or ''",), "`testzip` returns the name of the first damaged record"),
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
    said = said_to("08.3", whole(*lines), capsys)
    assert said.startswith("08.3: not yet\n")
    assert words in said


# ------------------------------------------------------------------------------------------------ 08.4


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


@pytest.mark.parametrize(
    ("causes", "words"),
    [
        ({"F.pth": CAUSES[0]}, "there is no file `F.pth`; there are A.pth, B.pth, C.pth, D.pth, E.pth"),
        ({"A.pth": "cosmic rays"}, "A.pth: expected one of 'a flipped bit', 'cut short', 'a lost block',"),
        ({"A.pth": 3}, "no checksums', 'a part is missing', found 3"),
        ({3: "cut short"}, "there is no file `3`"),
        (
            {"A.pth": PATIENTS["A.pth"], "B.pth": PATIENTS["B.pth"]},
            "A.pth and B.pth are right; still without a cause: C",
        ),
        ({"A.pth": ...}, "still without a cause: A.pth, B.pth"),
        ({"A.pth": "x" * 500 + "\x1b[31m"}, "characters)"),
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


@pytest.mark.parametrize(
    "lines",
    [
        ("return koemorph_tutorial.validate_checkpoint(path).verdict",),
        (
            *BYTES,
            "weights = torch.load(path, weights_only=True, map_location='cpu').get('model_state_dict')",
            "if not weights: return 'incomplete'",
            "for value in weights.values():",
            "    if not np.isfinite(value.numpy()).all(): return 'incomplete'",
            "return 'sound'",
        ),
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


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("return True",), "of a good file it says True; expected one of 'sound'"),
        (("return 'good'",), "of a good file it says 'good'; expected one of 'sound'"),
        (("if not zipfile.is_zipfile(path): return 'damaged'",), "of a good file it says None: is `return` missing"),
        (("return 'damaged'",), "it calls a good file 'damaged'; it is 'sound'"),
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
    said = said_to("08.5", verdict(*lines), capsys)
    assert said.startswith("08.5: not yet\n")
    assert words in said


@pytest.mark.parametrize("number", ["08.3", "08.5"])
def test_a_function_is_a_stub_until_it_does_more(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    stub = cell_of(number).partition("\n\n\ncheck(")[0]
    assert "not attempted yet" in said_to(number, stub.replace("):\n", "):  # hm\n"), capsys)
    assert "not yet" in said_to(number, stub.replace("(path) as", "(path, 'r') as"), capsys)
