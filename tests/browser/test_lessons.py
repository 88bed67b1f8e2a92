"""The lessons as a reader meets them: `koemorph lab` for real, in Chromium, by `make browser`.

With SCREENSHOTS=DIR every lesson, and every answer to its questions, is kept there from top to bottom, light and dark,
folded and unfolded, as one picture and as pages.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from koemorph_tutorial.teaching import lessons

ROOT = Path(__file__).resolve().parent.parent.parent
LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
WIDTH, PAGE = 1280, 1500  # pixels

LAB = (
    "import koemorph_tutorial.teaching.copies as c, koemorph_tutorial.teaching.places as p; c.launch(p.project_root())"
)
SERVER = {"ServerApp": {"open_browser": False, "port": 0}, "IdentityProvider": {"token": ""}}
QUIET = {"news_url": None, "check_for_updates_class": "jupyterlab.NeverCheckForUpdate"}
SETTINGS = {"notebook-extension/tracker": {"windowingMode": "none"}}  # all cells are drawn, seen or not


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project as it is now, without what runs have left in it."""
    not_copied = shutil.ignore_patterns("outputs", ".git", ".venv", ".*_cache", ".hypothesis", "__pycache__")
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("browser") / "project", ignore=not_copied))


@pytest.fixture(scope="module")
def lab(project: Path) -> Iterator[str]:
    """Start JupyterLab as `make lab` does, and return its address."""
    places = project.parent / "jupyter"
    write(places / "config/jupyter_server_config.json", SERVER)
    write(places / "config/jupyter_lab_config.json", {"LabApp": {"expose_app_in_browser": True, **QUIET}})
    for name, settings in SETTINGS.items():
        write(places / f"settings/@jupyterlab/{name}.jupyterlab-settings", settings)
    own = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    environment = os.environ | {name: str(places / folder) for name, folder in own.items()}
    environment["PYTHONPATH"] = str(project)  # its kernels import the copy, too
    with open(places / "log", "wb") as log:
        server = subprocess.Popen([sys.executable, "-c", LAB], cwd=project, env=environment, stdout=log, stderr=log)
    try:
        yield address(server, places)
    finally:
        server.terminate()
        server.wait(30)


def write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), "utf-8")


def read(file: Path) -> Any:
    return json.loads(file.read_text("utf-8"))


def address(server: subprocess.Popen[bytes], places: Path) -> str:
    said = places / f"runtime/jpserver-{server.pid}.json"
    for _ in range(600):
        if said.is_file():
            return str(read(said)["url"])
        if server.poll() is not None:
            break
        time.sleep(0.1)
    server.kill()
    raise AssertionError((places / "log").read_text("utf-8"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Return a page on which nothing may go wrong behind the scenes."""
    page = browser.new_page(viewport={"width": WIDTH, "height": PAGE})
    page.set_default_timeout(60_000)  # ms, for a lesson's every wait
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(f"{request.url}: {request.failure}"))
    page.on("response", lambda answer: wrong.append(f"{answer.url}: {answer.status}") if answer.status >= 400 else None)
    yield page
    seen = list(wrong)  # leaving the page ends requests, which is no mistake of the page
    page.close()
    assert seen == []


def command(page: Page, name: str, **arguments: str) -> None:
    """Run a command of JupyterLab and wait until it is done."""
    page.evaluate("([name, arguments]) => window.jupyterapp.commands.execute(name, arguments)", [name, arguments])


def wait_until_idle(page: Page) -> None:
    page.wait_for_function(
        "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
    )


def files(project: Path) -> set[Path]:
    """Return the files that git would see, and the copies."""
    found = (path.relative_to(project) for path in project.rglob("*") if path.is_file())
    unseen = {"__pycache__", ".ipynb_checkpoints", "progress.json"}
    return {path for path in found if not unseen & {*path.parts}}


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_runs_in_its_working_copy(project: Path, lab: str, page: Page, screenshots: Path, lesson: str) -> None:
    before = files(project)
    copy = project / f"outputs/my-notebooks/{lesson}.ipynb"
    run_all(page, lab if lesson == LESSONS[0] else in_its_own_workspace(lab, copy), copy)
    assert "not attempted yet" in page.locator(".jp-Notebook").inner_text()
    assert [] == page.evaluate(
        "[...document.querySelectorAll('.jp-Notebook img')].filter(i => !i.naturalWidth).map(i => i.src)"
    )
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
    run_all(page, in_its_own_workspace(lab, notebook), notebook)
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


def in_its_own_workspace(lab: str, notebook: Path) -> str:
    """Return the address that opens a working copy, without those that were open before."""
    return f"{lab}lab/workspaces/{notebook.stem}/tree/outputs/my-notebooks/{notebook.name}"


def run_all(page: Page, url: str, notebook: Path) -> None:
    """Open a notebook, run all its cells, and let none fail that is not meant to."""
    page.goto(url)
    page.locator(".jp-Notebook").wait_for()
    wait_until_idle(page)
    if page.locator(".jp-SideBar .lm-TabBar-tab.lm-mod-current").count():
        command(page, "application:toggle-left-area")
    command(page, "notebook:run-all-cells")
    wait_until_idle(page)
    code = [cell for cell in read(notebook)["cells"] if cell["cell_type"] == "code"]
    raising = sum("raises-exception" in cell["metadata"].get("tags", []) for cell in code)
    assert raising == page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]').count()
    assert 0 == page.locator('.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"]').count()
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
    assert [f"[{count}]:" for count in range(1, len(code) + 1)] == prompts


def photograph_all(page: Page, file: Path) -> None:
    """Keep a notebook light and dark, and with what is folded opened where there is such."""
    for name in ("folded", "unfolded") if page.locator(".jp-Notebook details").count() else ("",):
        page.evaluate(f"document.querySelectorAll('details').forEach(d => {{ d.open = {int(name == 'unfolded')} }})")
        for theme in ("Light", "Dark"):
            command(page, "apputils:change-theme", theme=f"JupyterLab {theme}")
            page.locator(f'body[data-jp-theme-name="JupyterLab {theme}"]').wait_for(state="attached")
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
