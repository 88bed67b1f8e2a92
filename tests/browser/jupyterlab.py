"""What a reader does in JupyterLab, done by a program: open a notebook, run it, choose a theme, look."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Locator, Page

ROOT = Path(__file__).resolve().parent.parent.parent
LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
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
