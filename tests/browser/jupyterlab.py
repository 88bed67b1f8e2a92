"""What a reader does in JupyterLab, done by a program: open a notebook, run it, choose a theme, look."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Locator, Page

ROOT = Path(__file__).resolve().parent.parent.parent
WIDTH, PAGE = 1280, 1500  # pixels


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), "utf-8")


def read(file: Path) -> Any:
    return json.loads(file.read_text("utf-8"))


def command(page: Page, name: str, **arguments: str) -> None:
    """Run a command of JupyterLab and wait until it is done."""
    page.evaluate("([name, arguments]) => window.jupyterapp.commands.execute(name, arguments)", [name, arguments])


def wait_until_idle(page: Page) -> None:
    page.wait_for_function(
        "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
    )


def in_its_own_workspace(lab: str, notebook: Path) -> str:
    """Return the address that opens a working copy, without those that were open before."""
    return f"{lab}lab/workspaces/{notebook.stem}/tree/outputs/my-notebooks/{notebook.name}"


def open_notebook(page: Page, url: str, theme: str = "Light") -> None:
    """Open a notebook at its address, in one of the two themes, with nothing beside it."""
    page.goto(url)
    page.locator(".jp-Notebook").wait_for()
    wait_until_idle(page)
    if page.locator(".jp-SideBar .lm-TabBar-tab.lm-mod-current").count():
        command(page, "application:toggle-left-area")
    choose(page, theme)


def choose(page: Page, theme: str) -> None:
    command(page, "apputils:change-theme", theme=f"JupyterLab {theme}")
    page.locator(f'body[data-jp-theme-name="JupyterLab {theme}"]').wait_for(state="attached")


def run_all(page: Page, notebook: Path) -> None:
    """Run all cells of the notebook that is open: none fails that is not meant to, and no picture is missing."""
    command(page, "notebook:run-all-cells")
    wait_until_idle(page)
    code = [cell for cell in read(notebook)["cells"] if cell["cell_type"] == "code"]
    raising = sum("raises-exception" in cell["metadata"].get("tags", []) for cell in code)
    errors = outputs(page, "application/vnd.jupyter.error")
    assert raising == len(errors), errors
    complaints = outputs(page, "application/vnd.jupyter.stderr")
    assert [] == complaints, complaints
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
    assert [f"[{count}]:" for count in range(1, len(code) + 1)] == prompts
    images = "[...document.querySelectorAll('.jp-Notebook img')]"
    page.wait_for_function(f"{images}.every(image => image.complete)")
    assert [] == page.evaluate(f"{images}.filter(image => !image.naturalWidth).map(image => image.src)")


def outputs(page: Page, kind: str) -> list[str]:
    """Return the text of all outputs of a kind."""
    return page.locator(f'.jp-OutputArea-output[data-mime-type="{kind}"]').all_inner_texts()


def pixels(image: Locator) -> Image.Image:
    """Return what a reader sees of an image."""
    with Image.open(io.BytesIO(image.screenshot())) as seen:
        return seen.convert("RGB")
