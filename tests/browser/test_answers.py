"""Every answer to every question of the lessons, and what is said to it in JupyterLab, by `make browser`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from koemorph_tutorial.teaching import lessons
from tests.browser.jupyterlab import LESSONS, in_its_own_workspace, open_notebook, photograph_all, run_all, write


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_answer_is_answered(project: Path, lab: str, page: Page, screenshots: Path | None, lesson: str) -> None:
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
    if screenshots is not None:
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
