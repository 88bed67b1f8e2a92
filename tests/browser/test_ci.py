"""What every change must pass in a real JupyterLab, by `.ci/run`: five lessons, their sliders, and the dark theme.

`make browser` runs this and then every lesson with every answer, which takes some minutes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page

from tests.browser.jupyterlab import ROOT, in_its_own_workspace, open_notebook, pixels, run_all

WHITE = (255, 255, 255)
EDGE = 4  # pixels: an image ends between two of the screen's


@pytest.mark.parametrize(
    ("number", "theme", "sliders_each"),
    [("01", "Light", 0), ("04", "Light", 1), ("05", "Dark", 1), ("06", "Light", 4), ("08", "Dark", 1)],
)
def test_a_lesson_runs_and_its_sliders_move_the_picture(
    project: Path, lab: str, page: Page, number: str, theme: str, sliders_each: int
) -> None:
    (lesson,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    copy = project / "outputs/my-notebooks" / lesson.name
    open_notebook(page, in_its_own_workspace(lab, copy), theme)
    run_all(page, copy)
    assert_white_ground(page)
    assert_no_label_is_cut_off(page)
    widgets = page.locator(".jp-Notebook .widget-vbox:has(> img)").filter(has=page.locator("[role=slider]"))
    assert bool(sliders_each) == (widgets.count() > 0)
    for widget in widgets.all():
        assert sliders_each == widget.locator("[role=slider]").count()
        for handle in widget.locator("[role=slider]").all():
            assert_keys_move(page, handle, widget.locator("img"))


def assert_white_ground(page: Page) -> None:
    """Every picture is white to its corners, in the dark theme too: its labels are black."""
    pictures = page.locator(".jp-Notebook img").all()
    assert pictures
    for number, picture in enumerate(pictures, start=1):
        seen = pixels(picture)
        right, bottom = seen.width - 1 - EDGE, seen.height - 1 - EDGE
        corners = {seen.getpixel((x, y)) for x in (EDGE, right) for y in (EDGE, bottom)}
        assert {WHITE} == corners, f"picture {number} of {len(pictures)}"


def assert_no_label_is_cut_off(page: Page) -> None:
    cut_off = "labels => labels.filter(label => label.scrollWidth > label.clientWidth).map(label => label.innerText)"
    found = page.locator(".jp-Notebook .widget-label").evaluate_all(cut_off)
    assert [] == found, found


def assert_keys_move(page: Page, handle: Locator, picture: Locator) -> None:
    """An arrow key moves the slider and changes the picture, the other one brings both back."""

    def pressed(key: str) -> tuple[str | None, bytes]:
        source = picture.get_attribute("src")
        handle.press(key)
        changed = "([picture, source]) => picture.src !== source && picture.complete"
        page.wait_for_function(changed, arg=[picture.element_handle(), source])
        return handle.get_attribute("aria-valuenow"), pixels(picture).tobytes()

    begun = handle.get_attribute("aria-valuenow"), pixels(picture).tobytes()
    is_last = begun[0] == handle.get_attribute("aria-valuemax")
    moved = pressed("ArrowLeft" if is_last else "ArrowRight")
    assert begun[0] != moved[0]
    assert begun[1] != moved[1]
    assert begun == pressed("ArrowRight" if is_last else "ArrowLeft")
