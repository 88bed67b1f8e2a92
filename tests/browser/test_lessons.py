"""The lessons as a reader meets them: `koemorph lab` for real, in Chromium, by `make browser`.

With SCREENSHOTS=DIR every lesson, and every answer to its questions, is kept there from top to bottom, light and dark,
folded and unfolded, as one picture and as pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page

from koemorph_tutorial.teaching import lessons
from tests.browser.jupyterlab import (
    PAGE,
    ROOT,
    WIDTH,
    choose,
    command,
    in_its_own_workspace,
    open_notebook,
    read,
    run_all,
    write,
)

LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


def files(project: Path) -> set[Path]:
    """Return the files that git would see, and the copies."""
    found = (path.relative_to(project) for path in project.rglob("*") if path.is_file())
    unseen = {"__pycache__", ".ipynb_checkpoints", "progress.json"}
    return {path for path in found if not unseen & {*path.parts}}


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_runs_in_its_working_copy(project: Path, lab: str, page: Page, screenshots: Path, lesson: str) -> None:
    before = files(project)
    copy = project / f"outputs/my-notebooks/{lesson}.ipynb"
    open_notebook(page, lab if lesson == LESSONS[0] else in_its_own_workspace(lab, copy))
    run_all(page, copy)
    assert "not attempted yet" in page.locator(".jp-Notebook").inner_text()
    photograph_all(page, screenshots / lesson)
    command(page, "docmanager:save")
    assert all(cell["execution_count"] for cell in read(copy)["cells"] if cell["cell_type"] == "code")
    assert before == files(project)  # no .py beside the copy, and nothing else either


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_answer_is_answered(project: Path, lab: str, page: Page, screenshots: Path, lesson: str) -> None:
    answers = list(answers_to(lesson[:2]))
    sources = ["import torch\nfrom koemorph_tutorial.teaching import check, predict, reveal, setup\n\nsetup()"]
    sources += [source for source, _ in answers]
    cells = [{"cell_type": "code", "source": source} for source in sources]
    for number, cell in enumerate(cells):
        cell |= {"execution_count": None, "id": str(number), "metadata": {}, "outputs": []}
    notebook = project / f"outputs/my-notebooks/answers-{lesson}.ipynb"
    kernel = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}
    write(notebook, {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})
    open_notebook(page, in_its_own_workspace(lab, notebook))
    run_all(page, notebook)
    shown = [" ".join(text.split()) for text in page.locator(".jp-OutputArea").all_text_contents()]
    shown = [text for text in shown if f"{lesson[:2]}." in text]
    assert len(answers) == len(shown)
    assert [] == [says for (_, says), text in zip(answers, shown, strict=True) if says.replace("`", "") not in text]
    photograph_all(page, screenshots / f"{lesson}-answers")


def answers_to(number: str) -> Iterator[tuple[str, str]]:
    """Yield a cell for every option, every misconception and every solution of a lesson, and what is said to it."""
    asked = lessons.lesson(number)
    for name, question in asked.questions.items():
        if isinstance(question, lessons.Exercise):
            answers = [(wrong.example, wrong.says) for wrong in question.misconceptions.values()]
            for source, says in [*answers, (question.solution, question.why)]:
                yield f'{source}\n\ncheck("{name}", {question.answer})', says
        elif name == asked.prediction:
            for letter, option in question.options.items():
                yield f'predict("{name}", "{letter}")\nreveal("{name}", happened="{question.right}")', option.reply
        else:
            for letter, option in question.options.items():
                yield f'check("{name}", "{letter}")', option.reply


def photograph_all(page: Page, file: Path) -> None:
    """Keep a notebook light and dark, and with what is folded opened where there is such."""
    for name in ("folded", "unfolded") if page.locator(".jp-Notebook details").count() else ("",):
        page.evaluate(f"document.querySelectorAll('details').forEach(d => {{ d.open = {int(name == 'unfolded')} }})")
        for theme in ("Light", "Dark"):
            choose(page, theme)
            parts = filter(None, (file.name, theme.lower(), name))
            photograph(page, file.with_name(f"{'-'.join(parts)}.png"))


def photograph(page: Page, file: Path) -> None:
    """Keep the whole notebook as one picture, and as pages for eyes."""
    page.evaluate("window.jupyterapp.shell.currentWidget.content.activeCellIndex = 0")
    height = page.evaluate("[...document.querySelectorAll('.jp-Cell')].reduce((sum, c) => sum + c.offsetHeight, 0)")
    page.set_viewport_size({"width": WIDTH, "height": height + PAGE})
    page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")
    page.wait_for_timeout(500)  # what is drawn anew for another size is drawn after the event
    page.locator(".jp-Notebook").first.screenshot(path=file)
    page.set_viewport_size({"width": WIDTH, "height": PAGE})
    with Image.open(file) as tall:
        whole = tall.crop((0, 0, tall.width, min(tall.height, height + 100)))
    whole.save(file)
    for number, top in enumerate(range(0, whole.height, PAGE), start=1):
        part = whole.crop((0, top, whole.width, min(top + PAGE, whole.height)))
        part.save(file.with_name(f"{file.stem}-{number}.png"))
