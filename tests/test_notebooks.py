"""The form of every lesson, and the build that makes them.

What a lesson shows is compared with a fresh run by nbval; how it is made is looked at here, and that both would notice.
A check looks at one lesson and yields what is wrong with it, in sentences.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import jupytext
import pytest

from koemorph_tutorial.teaching import notebooks
from koemorph_tutorial.teaching.places import project_root

ROOT = Path(__file__).resolve().parent.parent
PARTS = ["Predict", "Break", "Why", "Repair", "Practise"]
WORDS, LINES, CELLS, BYTES = 1200, 120, 40, 250_000
EXCUSED: dict[str, str] = {}  # cell -> why nbval need not compare what it shows
TAUGHT_BY = {"end_to_end": "manager"}  # every other lesson has the name of its module

Cell = dict[str, Any]


@dataclass(frozen=True)
class Lesson:
    path: Path

    @cached_property
    def notebook(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads(self.path.read_text("utf-8"))
        for cell in loaded["cells"]:
            cell["source"] = "".join(cell["source"])
        return loaded

    @property
    def cells(self) -> list[Cell]:
        found: list[Cell] = self.notebook["cells"]
        return found

    @property
    def code(self) -> list[Cell]:
        return [cell for cell in self.cells if cell["cell_type"] == "code"]

    @property
    def outputs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        return ((cell["id"], output) for cell in self.code for output in cell["outputs"])

    @property
    def text(self) -> str:
        return "\n\n".join(cell["source"] for cell in self.cells if cell["cell_type"] == "markdown")

    @property
    def headings(self) -> list[str]:
        return re.findall(r"^(#{1,2} .+)$", self.text, re.MULTILINE)

    def code_before(self, heading: str) -> list[Cell]:
        """Return the code cells above the first heading that begins so."""
        above: list[Cell] = []
        for cell in self.cells:
            if cell["cell_type"] == "markdown" and re.search(f"^{heading}", cell["source"], re.MULTILINE):
                break
            above.append(cell)
        return [cell for cell in above if cell["cell_type"] == "code"]

    def asks(self, *names: str) -> Iterator[tuple[Cell, str, str | None, ast.expr | None]]:
        """Yield, in order, the calls of these functions: cell, function, number of the question, answer."""
        for cell in self.code:
            calls = [node for node in ast.walk(ast.parse(cell["source"])) if isinstance(node, ast.Call)]
            for call in sorted(calls, key=lambda node: (node.lineno, node.col_offset)):
                if isinstance(call.func, ast.Name) and call.func.id in names:
                    number, answer, *_ = (*call.args, None, None)
                    yield cell, call.func.id, getattr(number, "value", None), answer


# ----------------------------------------------------------------------------------------------------------- the checks


def pair(lesson: Lesson) -> Iterator[str]:
    source = jupytext.read(lesson.path.with_suffix(".py"), fmt="py:percent")
    halves: list[list[Any]] = [
        [(cell["cell_type"], "".join(cell["source"]), cell["metadata"].get("tags")) for cell in half]
        for half in (source.cells, lesson.cells)
    ]
    for position, (written, built) in enumerate(zip_longest(*halves), start=1):
        if written != built:
            yield f"cell {position} is not that of the .py half: run `make notebooks`"
            break
    if lesson.notebook["metadata"].get("jupytext") != {"formats": "ipynb,py:percent"}:
        yield "the notebook does not say that it is paired with its .py half"


def executed(lesson: Lesson) -> Iterator[str]:
    counts = [cell["execution_count"] for cell in lesson.code]
    if counts != list(range(1, len(counts) + 1)):
        yield f"the code cells were not executed once each from top to bottom, their counts are {counts}"
    for cell in lesson.code:
        if "raises-exception" not in tags(cell) and "error" in {output["output_type"] for output in cell["outputs"]}:
            yield f"cell {cell['id']} shows an error"


def tags(cell: Cell) -> list[str]:
    found: list[str] = cell["metadata"].get("tags", [])
    return found


def the_same_from_every_build(lesson: Lesson) -> Iterator[str]:
    number = lesson.path.stem[:2]
    if [cell["id"] for cell in lesson.cells] != [f"{number}-{i:02d}" for i in range(1, len(lesson.cells) + 1)]:
        yield "the cells' ids do not count them"
    if "widgets" in lesson.notebook["metadata"]:
        yield "the states of widgets are stored"
    if "version" in lesson.notebook["metadata"].get("language_info", {}):
        yield "a version of Python is stored"
    for cell in lesson.cells:
        if "execution" in cell["metadata"]:
            yield f"cell {cell['id']} stores when it was run"


def outputs(lesson: Lesson) -> Iterator[str]:
    for cell, output in lesson.outputs:
        data, shown = output.get("data", {}), json.dumps(output)
        if "image/png" in data and "".join(data.get("text/plain", "<")).startswith("<"):
            yield f"cell {cell} shows a figure without a caption"
        if "<Figure " in shown:
            yield f"cell {cell} shows `<Figure …>`, which says nothing"
        if output.get("name") == "stderr":
            yield f"cell {cell} writes to stderr"
        if re.search(r"\bat 0x[0-9a-f]{6}", shown):
            yield f"cell {cell} shows an address in memory"
        if not data.keys() <= {"text/plain", "text/html", "text/markdown", "image/png"}:
            yield f"cell {cell} shows {sorted(data)}: what nbval cannot compare or GitHub cannot draw"


def excuses(lesson: Lesson) -> Iterator[str]:
    for cell in lesson.code:
        comments = re.findall(r"^\s*#\s*(NBVAL_\w+|PYTEST_VALIDATE_IGNORE_OUTPUT)\s*$", cell["source"], re.MULTILINE)
        if (comments or {"nbval-ignore-output", "nbval-skip"} & {*tags(cell)}) and cell["id"] not in EXCUSED:
            yield f"cell {cell['id']} is excused from comparison, and EXCUSED does not say why"


def headings(lesson: Lesson) -> Iterator[str]:
    first, *others = lesson.headings or [""]
    if not first.startswith("# ") or [heading for heading in others if heading.startswith("# ")]:
        yield "it does not begin with its one title"
    if [re.split(r":| ", heading)[1] for heading in others] != PARTS:
        yield f"its parts are not {', '.join(PARTS)}, but {others}"
    for heading in others:
        if not re.fullmatch(r"## (\w+: \S.*|Practise)", heading):
            yield f"`{heading}` does not name its subject: `## Break: the optimizer forgets`"


def breaks_early(lesson: Lesson) -> Iterator[str]:
    if len(lesson.code_before("## Break")) > 3:
        yield "more than three code cells stand before something breaks"


def japanese(lesson: Lesson) -> Iterator[str]:
    first_part = lesson.text.partition("\n## ")[0]
    found = [
        p for p in re.split(r"\n\s*\n", first_part) if re.search("[\N{HIRAGANA LETTER A}-\N{HIRAGANA LETTER N}]", p)
    ]
    if [paragraph.count("。") for paragraph in found] != [3]:
        yield "its first part has not one Japanese paragraph of three sentences"


def budget(lesson: Lesson) -> Iterator[str]:
    words = len(re.sub(r"<details>.*?</details>", "", lesson.text, flags=re.DOTALL).split())
    lines = sum(bool(line.strip()) for cell in lesson.code for line in cell["source"].splitlines())
    for what, is_, may in (
        ("words", words, WORDS),
        ("lines of code", lines, LINES),
        ("cells", len(lesson.cells), CELLS),
        ("bytes", lesson.path.stat().st_size, BYTES),
    ):
        if is_ > may:
            yield f"{is_} {what}, {may} are allowed"


def setup(lesson: Lesson) -> Iterator[str]:
    code = lesson.code[0]["source"] if lesson.code else ""
    if not re.match(r"from koemorph_tutorial\.teaching import [\w, ]+\n+setup\(\)(\n|$)", code):
        yield "it does not begin with the two lines that import from koemorph_tutorial.teaching and call setup()"


def links(lesson: Lesson) -> Iterator[str]:
    text = without_code(lesson.text)
    for target in re.findall(r"\]\(([^)\s]+)", text):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        if not re.fullmatch(r"\.\./.+|\d\d_\w+\.ipynb|", path):
            yield f"the link {target} would not work from a working copy: begin with ../, or name a lesson"
            continue
        file = lesson.path.parent / path if path else lesson.path
        if not file.exists():
            yield f"the link {target} leads nowhere"
        elif anchor and anchor not in anchors(file):
            yield f"the link {target} leads to no heading"
    if re.search(r"(src|href)=|^\[[^\]]+\]: ", text, re.MULTILINE):
        yield "a link is not written as [text](target), so a working copy would not mend it"


def without_code(text: str) -> str:
    return re.sub(r"^(```+).*?^\1|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(file: Path) -> set[str]:
    """Return what a link to a heading ends in: as JupyterLab writes it in a notebook, as GitHub does elsewhere."""
    if file.suffix == ".ipynb":
        return {re.sub("[ `]", lambda found: "-" * (found[0] == " "), h.lstrip("# ")) for h in Lesson(file).headings}
    found = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE) if file.suffix == ".md" else []
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def plain_markdown(lesson: Lesson) -> Iterator[str]:
    if "```mermaid" in lesson.text:
        yield "mermaid is drawn neither on GitHub nor in a dark theme"
    if re.search(r"^> \[!", lesson.text, re.MULTILINE):
        yield "JupyterLab shows `> [!NOTE]` as it is written: use `> **Trap.** …`"
    tagged = set(re.findall(r"</?([a-z]\w*)[ />]", without_code(lesson.text), re.IGNORECASE)) - {"details", "summary"}
    if tagged:
        yield f"raw HTML: {sorted(tagged)}"
    if re.search(r"</summary>(?!\n\n)", lesson.text):
        yield "a <summary> without a blank line after it: what is folded is not rendered"


def questions(lesson: Lesson) -> Iterator[str]:
    number = lesson.path.stem[:2]
    asked = list(dict.fromkeys(question for _, _, question, _ in lesson.asks("check", "predict")))
    if asked != [f"{number}.{i}" for i in range(1, len(asked) + 1)]:
        yield f"its questions are not numbered in order: {asked}"
    practice = [cell["id"] for cell in lesson.code_before("## Practise")]
    exercises = {question for cell, _, question, _ in lesson.asks("check") if cell["id"] not in practice}
    if not 1 <= len(exercises) <= 3:
        yield f"{len(exercises)} exercises, one to three are allowed"
    for cell, function, question, answer in lesson.asks("check", "predict"):
        given = isinstance(answer, ast.Constant) and answer.value not in (None, ...)
        if given or (function == "predict" and not isinstance(answer, ast.Constant)):
            yield f"cell {cell['id']} gives the answer to {question} away: it hands over None until the reader does"
    predicted = [question for _, _, question, _ in lesson.asks("predict")]
    if len(predicted) != 1 or predicted != [question for _, _, question, _ in lesson.asks("reveal")]:
        yield "it has not one prediction that is set beside what happened by reveal()"


def named(lesson: Lesson) -> Iterator[str]:
    idea = lesson.path.stem[3:]
    module = TAUGHT_BY.get(idea, idea)
    for file in (f"koemorph_tutorial/{module}.py", f"tests/test_{module}.py"):
        if not (lesson.path.parent.parent / file).is_file():
            yield f"there is no {file} of the same name"


CHECKS: list[Callable[[Lesson], Iterator[str]]] = [
    *(pair, executed, the_same_from_every_build, outputs, excuses, headings, breaks_early, japanese, budget, setup),
    *(links, plain_markdown, questions, named),
]


# --------------------------------------------------------------------------------------------------------- the lessons


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("lesson", sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_a_lesson_has_its_form(lesson: Path, check: Callable[[Lesson], Iterator[str]]) -> None:
    assert [] == list(check(Lesson(lesson)))


def test_every_notebook_has_its_source() -> None:
    halves = {suffix: {f.stem for f in (ROOT / "notebooks").glob(f"[0-9]*{suffix}")} for suffix in (".py", ".ipynb")}
    assert halves[".py"] == halves[".ipynb"]


# ------------------------------------------------------------------------------------------------------------ the build

GOOD = """\
# %% [markdown]
# # A lesson
# See [the module](../koemorph_tutorial/state.py), [itself](01_state.ipynb#Why:-chance), [below](#Repair:-five-lines),
# [the map](../README.md#a-map-of-the-lessons) and [others](https://pytorch.org).
#
# 一つ目です。二つ目です。三つ目です。

# %%
from koemorph_tutorial.teaching import check, predict, reveal, setup, show
setup()

# %%
check("01.1", None)

# %% [markdown]
# ## Predict: what comes

# %%
predict("01.2", None)

# %% [markdown]
# ## Break: it falls

# %% tags=["raises-exception"]
raise ValueError("broken")

# %%
reveal("01.2", happened="c")

# %% [markdown]
# ## Why: chance

# %%
import sys
from ipywidgets import IntSlider
show(b"\\x89PNG\\r\\n\\x1a\\n", "one line, rising")
for word in ("one", "two", "three"):
    print(word, file=sys.stdout, flush=True)
IntSlider()

# %% [markdown]
# ## Repair: five lines

# %% [markdown]
# ## Practise: yours
#
# <details><summary>More</summary>
#
# folded
# </details>

# %%
check("01.3", ...)
"""


def project(folder: Path, lesson: str = GOOD) -> Path:
    """Make a project of one lesson and return the lesson's source."""
    for name, text in {
        "pyproject.toml": '[project]\nname = "koemorph-tutorial"\n',
        "README.md": "# A project\n## A map of the lessons\n",
        "koemorph_tutorial/state.py": "",
        "tests/test_state.py": "",
        "notebooks/01_state.py": lesson,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    return folder / "notebooks/01_state.py"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project of one good lesson, built."""
    source = project(tmp_path_factory.mktemp("project"))
    notebooks.build(source)
    return source.parent.parent


def test_a_built_lesson_passes_every_check(built: Path) -> None:
    assert [] == list(chain.from_iterable(check(Lesson(built / "notebooks/01_state.ipynb")) for check in CHECKS))
    assert ["01_state.ipynb", "01_state.py"] == sorted(os.listdir(built / "notebooks"))


def test_the_same_source_gives_the_same_bytes_elsewhere_and_at_another_time(built: Path, tmp_path: Path) -> None:
    again = project(tmp_path)
    elsewhere = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "OMP_NUM_THREADS": "2", "MPLBACKEND": "agg", "COLUMNS": "40"}
    ran = subprocess.run(
        [sys.executable, "-m", "koemorph_tutorial.teaching.notebooks", "1"],
        cwd=again.parent,
        env={**os.environ, **elsewhere, "PATH": "/usr/bin:/bin"},  # not activated
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == ran.returncode, ran.stderr
    assert "arning" not in ran.stderr  # of ours or of the kernel's
    assert re.fullmatch(r"\S+01_state\.ipynb: \d+ kB, \d+\.\d s\n", ran.stdout)
    one, two = (folder / "notebooks/01_state.ipynb" for folder in (built, tmp_path))
    assert one.read_bytes() == two.read_bytes()
    assert one.read_text("utf-8").endswith("}\n")
    assert not one.read_text("utf-8").endswith("\n\n")


def test_a_cell_that_fails_is_named_and_the_notebook_stays_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = project(tmp_path, "# %% [markdown]\n# # A lesson\n\n# %%\nx = 1\nx.backward()\n")
    target = source.with_suffix(".ipynb")
    target.write_text("as it was")
    monkeypatch.chdir(tmp_path)
    assert notebooks.main(["01"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"make notebooks: {source}: cell 01-02 failed: AttributeError: 'int' object has no attribute 'backward'",
        "    x = 1",
        "    x.backward()",
    ]
    assert ("as it was", 2) == (target.read_text(), len(os.listdir(source.parent)))


def test_a_lesson_that_does_not_exist_gets_one_line(
    built: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(built / "koemorph_tutorial")
    assert project_root() == built
    assert notebooks.main(["11"]) == 2
    assert capsys.readouterr().err == "make notebooks: there is no lesson 11; there is 01 state\n"


# ------------------------------------------------------------------------------------------------- that the checks bite

MORE_CELLS = '{"cell_type": "markdown", "id": "x", "metadata": {}, "source": ["x"]},' * 41


SPOILED = [  # what is replaced in a good lesson, by what, and what is said about it
    ("for word in", "for sound in", "cell 10 is not that of the .py half: run `make notebooks`"),
    ('"raises-exception"', '"other"', "cell 7 is not that of the .py half: run `make notebooks`"),
    ("ipynb,py:percent", "ipynb", "the notebook does not say that it is paired with its .py half"),
    (
        '"execution_count": 3',
        '"execution_count": null',
        "the code cells were not executed once each from top to bottom, their counts are [1, 2, None, 4, 5, 6, 7]",
    ),
    ('"raises-exception"', '"other"', "cell 01-07 shows an error"),
    ('"id": "01-03"', '"id": "f00"', "the cells' ids do not count them"),
    ('"language_info"', '"widgets": {}, "language_info"', "the states of widgets are stored"),
    ('"mimetype"', '"version": "3.11", "mimetype"', "a version of Python is stored"),
    ('"metadata": {},', '"metadata": {"execution": {}},', "cell 01-03 stores when it was run"),
    ("one line, rising", "<Figure size 640x480 with 1 Axes>", "cell 01-10 shows a figure without a caption"),
    ('"text/plain"', '"text/html"', "cell 01-10 shows a figure without a caption"),
    ("IntSlider(value=0)", "<Figure size 1x1>", "cell 01-10 shows `<Figure …>`, which says nothing"),
    ('"stdout"', '"stderr"', "cell 01-10 writes to stderr"),
    ("IntSlider(value=0)", "<Slider at 0x7f21ab34>", "cell 01-10 shows an address in memory"),
    ("image/png", "image/svg+xml", "cell 01-10 shows ['image/svg+xml', 'text/plain']: what nbval cannot compare"),
    ('"raises-', '"nbval-skip", "raises-', "cell 01-07 is excused from comparison, and EXCUSED does not say why"),
    ("import sys", "# NBVAL_SKIP", "cell 01-10 is excused from comparison, and EXCUSED does not say why"),
    ("# A lesson", "A lesson", "it does not begin with its one title"),
    ("## Why: chance", "# Why: chance", "it does not begin with its one title"),
    ("## Why: chance", "Why", "its parts are not Predict, Break, Why, Repair, Practise, but"),
    ("## Why: chance", "## Why", "`## Why` does not name its subject"),
    ("## Break: it falls", "It falls", "more than three code cells stand before something breaks"),
    ("三つ目です。", "", "its first part has not one Japanese paragraph of three sentences"),
    ("and [others]", "and " * 1200 + "[others]", "words, 1200 are allowed"),
    ('"import sys\\n",', '"import sys\\n",' * 120, "lines of code, 120 are allowed"),
    ('"cells": [', f'"cells": [{MORE_CELLS}', "cells, 40 are allowed"),
    ("iVBORw0KGgo", "iVBORw0KGgo" * 25_000, "bytes, 250000 are allowed"),
    ('"setup()"', '"import torch; setup()"', "it does not begin with the two lines"),
    ("(../README.md", "(README.md", "the link README.md#a-map-of-the-lessons would not work from a working copy"),
    ("state.py", "states.py", "the link ../koemorph_tutorial/states.py leads nowhere"),
    ("Why:-chance", "Why:-luck", "the link 01_state.ipynb#Why:-luck leads to no heading"),
    ("(#Repair:-five-lines", "(#repair", "the link #repair leads to no heading"),
    ("a-map-of", "the-map-of", "the link ../README.md#the-map-of-the-lessons leads to no heading"),
    ("folded", "[map]: ../README.md", "a link is not written as [text](target)"),
    ("folded", "```mermaid", "mermaid is drawn neither on GitHub nor in a dark theme"),
    ("folded", "> [!NOTE]", "JupyterLab shows `> [!NOTE]` as it is written"),
    ("folded", "<div class=alert>", "raw HTML: ['div']"),
    ("</summary>", "</summary> more", "a <summary> without a blank line after it"),
    ("01.3", "01.4", "its questions are not numbered in order: ['01.1', '01.2', '01.4']"),
    ("## Practise: yours", "Yours", "0 exercises, one to three are allowed"),
    ("None)", "'a')", "cell 01-05 gives the answer to 01.2 away"),
    ("...", "7", "cell 01-13 gives the answer to 01.3 away"),
    ("reveal(", "print(", "it has not one prediction that is set beside what happened by reveal()"),
]


@pytest.mark.parametrize(("old", "new", "finding"), SPOILED, ids=[finding for *_, finding in SPOILED])
def test_a_spoiled_lesson_is_found_out(built: Path, tmp_path: Path, old: str, new: str, finding: str) -> None:
    spoiled = shutil.copytree(built, tmp_path / "spoiled") / "notebooks/01_state.ipynb"
    good = spoiled.read_text("utf-8")
    assert old in good
    spoiled.write_text(good.replace(old, new), "utf-8")
    found = list(chain.from_iterable(check(Lesson(spoiled)) for check in CHECKS))
    assert [line for line in found if line.startswith(finding) or line.endswith(finding)], found


def test_a_lesson_without_its_module_or_test_is_found_out(built: Path, tmp_path: Path) -> None:
    spoiled = shutil.copytree(built, tmp_path / "spoiled")
    (spoiled / "tests/test_state.py").unlink()
    assert ["there is no tests/test_state.py of the same name"] == list(
        named(Lesson(spoiled / "notebooks/01_state.ipynb"))
    )


def test_nbval_compares_each_word_and_each_caption(tmp_path: Path) -> None:
    """One notebook of four cells, and in three of them one thing is not as it was when it was built."""
    cells = ["print('equal')", "print('a word')", "show(b'', 'a rising line')", "show(b'', 'a wide face')"]
    source = "".join(f"# %%\nfrom koemorph_tutorial.teaching import show\n{cell}\n\n" for cell in cells)
    notebooks.build(project(tmp_path, source))
    text = (tmp_path / "notebooks/01_state.ipynb").read_text("utf-8")
    for old, new in (
        ('"a word\\n"', '"another\\n"'),
        ('"text/plain": [\n       "a rising line"', '"text/plain": [\n       "a falling line"'),
        ('"a wide face\\n"', '"a long face\\n"'),
    ):
        assert 1 == text.count(old), old
        text = text.replace(old, new)
    (tmp_path / "spoiled.ipynb").write_text(text, "utf-8")
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-p", "no:cacheprovider", "-qrA"]
    ran = subprocess.run([*command, "spoiled.ipynb"], cwd=tmp_path, capture_output=True, text=True, check=False)
    said = {cell: v for v, cell in re.findall(r"^(PASSED|FAILED) spoiled\.ipynb::Cell (\d)", ran.stdout, re.MULTILINE)}
    assert {"0": "PASSED", "1": "FAILED", "2": "FAILED", "3": "FAILED"} == said, ran.stdout
