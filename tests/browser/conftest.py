"""JupyterLab as `make lab` starts it, on a copy of the project, and Chromium to look at it; both end with the tests.

What they write, they write into a temporary folder: theirs is the home there, too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.jupyterlab import PAGE, ROOT, WIDTH, read, write

LAB = (
    "import koemorph_tutorial.teaching.copies as c, koemorph_tutorial.teaching.places as p; c.launch(p.project_root())"
)
SERVER = {"ServerApp": {"open_browser": False, "port": 0}, "IdentityProvider": {"token": ""}}
QUIET = {"news_url": None, "check_for_updates_class": "jupyterlab.NeverCheckForUpdate"}
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # all cells are drawn, seen or not
    "apputils-extension/notification": {"fetchNews": "false"},  # nothing asks about news in front of a picture
}


@pytest.fixture(scope="session", autouse=True)
def asked_to_end() -> None:
    """Let a request to end end what was started, too, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the project as it is now, without what runs have left in it."""
    not_copied = shutil.ignore_patterns("outputs", ".git", ".venv", ".*_cache", ".hypothesis", "__pycache__")
    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("browser") / "project", ignore=not_copied))


@pytest.fixture(scope="module")
def home(project: Path) -> dict[str, str]:
    """Return the environment in which nothing is written to the home of whoever runs the tests."""
    home = project.parent / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "JUPYTER"))}
    return {**kept, "HOME": str(home)}


@pytest.fixture(scope="module")
def lab(project: Path, home: dict[str, str]) -> Iterator[str]:
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
    environment = home | {name: str(places / folder) for name, folder in own.items()}
    environment["PYTHONPATH"] = str(project)  # its kernels import the copy, too
    with open(places / "log", "wb") as log:
        server = subprocess.Popen([sys.executable, "-c", LAB], cwd=project, env=environment, stdout=log, stderr=log)
    try:
        yield address(server, places)
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()  # its kernels notice that it is gone, and end
            server.wait()


def address(server: subprocess.Popen[bytes], places: Path) -> str:
    said = places / f"runtime/jpserver-{server.pid}.json"
    for _ in range(600):
        with contextlib.suppress(FileNotFoundError, ValueError):  # not there yet, or not whole
            return str(read(said)["url"])
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise AssertionError((places / "log").read_text("utf-8"))


@pytest.fixture(scope="module")
def browser(home: dict[str, str]) -> Iterator[Browser]:
    asked = os.environ.get("CHROMIUM", "chromium")
    program = shutil.which(asked)
    assert program is not None, f"no {asked} is here: install it, or say where one is by CHROMIUM=PATH"
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=program, args=["--no-sandbox"], env=home) as browser,
    ):
        yield browser


@pytest.fixture(scope="session")
def screenshots() -> Path | None:
    """Return the folder that pictures of the lessons are asked for in, None where they are not."""
    if not os.environ.get("SCREENSHOTS"):
        return None
    folder = Path(os.environ["SCREENSHOTS"])
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
