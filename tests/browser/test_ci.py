"""What every change must pass in a real JupyterLab, by `.ci/run`: every lesson runs, and all that can be moved moves.

It is `koemorph lab` for real, in Chromium. With SCREENSHOTS=DIR every lesson is kept there from top to bottom, light
and dark, folded and unfolded, as one picture and as pages. `make browser` goes on with every answer to every question.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.jupyterlab import (
    LESSONS,
    ROOT,
    command,
    in_its_own_workspace,
    open_notebook,
    photograph_all,
    pixels,
    read,
    run_all,
)
from tests.browser.widgets import move_all, widgets

IN_THE_DARK = {"05_save_policy", "08_validation"}  # the others are light
WHITE, LIGHT, DARK = (255, 255, 255), 224, 80  # of 255, each part of a colour
LEAST_ALPHA = """picture => {
    const canvas = new OffscreenCanvas(picture.naturalWidth, picture.naturalHeight), pen = canvas.getContext('2d');
    pen.drawImage(picture, 0, 0);
    const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
    return data.reduce((least, part, i) => i % 4 == 3 && part < least ? part : least, 255);
}"""
READABLE = 4.5  # the contrast that WCAG 2 asks of text
FAINT = (ROOT / "tests/browser/faint_texts.js").read_text("utf-8")
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_runs_and_all_its_widgets_move(
    project: Path, lab: str, page: Page, screenshots: Path | None, lesson: str
) -> None:
    before = files(project)
    copy = project / f"outputs/my-notebooks/{lesson}.ipynb"
    first = lab if lesson == LESSONS[0] else in_its_own_workspace(lab, copy)  # where `koemorph lab` begins
    open_notebook(page, first, "Dark" if lesson in IN_THE_DARK else "Light")
    run_all(page, copy)
    assert "not attempted yet" in page.locator(".jp-Notebook").inner_text()
    assert_black_on_white(page)
    assert_no_label_is_cut_off(page)
    assert_text_can_be_read(page)
    if screenshots is not None:
        photograph_all(page, screenshots / lesson)

    command(page, "docmanager:save")
    code = [cell for cell in read(copy)["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    live = [output for cell in code for output in cell["outputs"] if WIDGET in output.get("data", {})]
    moved = [move_all(page, widget) for widget in widgets(page)]
    assert len(live) == len(moved)
    assert all(moved)
    assert before == files(project)  # no .py beside the copy, and nothing else either


def assert_black_on_white(page: Page) -> None:
    """Every picture is opaque, so no theme shines through it, and has dark labels on white or on a light tint."""
    pictures = page.locator(".jp-Notebook img").all()
    assert pictures
    for number, picture in enumerate(pictures, start=1):
        seen = pixels(picture)
        colours = sorted(seen.getcolors(seen.width * seen.height), reverse=True)
        ground, darkest = min(colours[0][1]), min(max(colour) for _, colour in colours)
        found = picture.evaluate(LEAST_ALPHA), ground > LIGHT, darkest < DARK, WHITE in {c for _, c in colours}
        assert (255, True, True, True) == found, f"picture {number} of {len(pictures)}"


def assert_no_label_is_cut_off(page: Page) -> None:
    cut_off = "labels => labels.filter(label => label.scrollWidth > label.clientWidth).map(label => label.innerText)"
    found = page.locator(".jp-Notebook .widget-label").evaluate_all(cut_off)
    assert [] == found, found


def assert_text_can_be_read(page: Page) -> None:
    """Whatever the theme, text and what lies behind it are far enough apart."""
    faint = page.evaluate(FAINT, READABLE)
    assert [] == faint, faint


def files(project: Path) -> set[Path]:
    """Return the files that git would see, and the copies."""
    found = (path.relative_to(project) for path in project.rglob("*") if path.is_file())
    unseen = {"__pycache__", ".ipynb_checkpoints", "progress.json"}
    return {path for path in found if not unseen & {*path.parts}}
