"""The house itself: what is installed, by which commands, and rules that no tool of ours checks by itself."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "koemorph_tutorial"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
OWN_NAME = "koemorph-tutorial"
EXTRAS = PROJECT["project"]["optional-dependencies"]
REQUIREMENTS = [Requirement(line) for lines in (PROJECT["project"]["dependencies"], *EXTRAS.values()) for line in lines]


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return {
        canonicalize_name(name): Version(version)
        for name, version in (line.split("==") for line in lines if not line.startswith("#"))
    }


# ------------------------------------------------------------------------------------------------- what is installed


def test_constraints_are_exact_pins_that_any_index_can_serve() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if not line.startswith("#")]
    assert sorted(pins()) == list(pins())
    # No local part (`+cpu`), no address, no path, no option, and not the project itself.
    assert [] == [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)]
    assert OWN_NAME not in pins()


@pytest.mark.parametrize("requirement", sorted({str(r) for r in REQUIREMENTS if r.name != OWN_NAME}))
def test_every_requirement_has_a_pin_within_its_range(requirement: str) -> None:
    asked = Requirement(requirement)
    assert canonicalize_name(asked.name) in pins(), f"{asked.name} has no pin: run `make lock`"
    assert asked.specifier.contains(pins()[canonicalize_name(asked.name)]), f"{asked} is not what constraints.txt pins"


def test_everything_that_comes_along_is_pinned_too() -> None:
    seen: set[str] = set()
    todo = [requirement for requirement in REQUIREMENTS if requirement.name != OWN_NAME]
    while todo:
        asked = todo.pop()
        name = canonicalize_name(asked.name)
        with contextlib.suppress(metadata.PackageNotFoundError):  # an extra that is not installed here
            for line in metadata.requires(name) or []:
                child = Requirement(line)
                wanted = any(child.marker.evaluate({"extra": e}) for e in ("", *asked.extras)) if child.marker else True
                if wanted and canonicalize_name(child.name) not in seen:
                    todo.append(child)
        seen.add(name)
    assert {"sympy", "jupyter-server"} <= seen
    # What only the CUDA build of torch brings is pinned by torch itself.
    assert [] == sorted(n for n in seen - set(pins()) if not re.match(r"nvidia-|cuda-|triton$", n))


def test_all_is_every_extra_but_the_peers() -> None:
    (all_of_it,) = (Requirement(line) for line in EXTRAS["all"])
    assert (OWN_NAME, set(EXTRAS) - {"all", "peers"}) == (all_of_it.name, all_of_it.extras)


def test_every_dependency_says_why_it_is_there() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    section = text[text.index("\ndependencies = [") : text.index("\n[project.scripts]")]
    lines = [line.strip() for line in section.splitlines() if line.startswith('    "')]
    assert len(REQUIREMENTS) - len(EXTRAS["all"]) == len(lines)
    assert [] == [line for line in lines if not re.fullmatch(r'"[^"]+",\s+# \S.*', line)]


# --------------------------------------------------------------------------------------------------- the conda way in


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a folder with what an installer looks at, so that nothing is written into the repository."""
    folder = tmp_path / "a clone"
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "constraints.txt", "environment.yml", "Makefile", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def test_conda_takes_a_python_that_the_package_supports() -> None:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    assert "pip" in dependencies  # conda warns, and guesses, where pip is not asked for
    (asked,) = [d for d in dependencies if isinstance(d, str) and d.startswith("python")]
    version = re.fullmatch(r"python =(3\.\d+)", asked)
    assert version is not None
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(version[1])
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + version[1].replace(".", "")


def test_pip_understands_what_conda_hands_to_it(copied: Path) -> None:
    # conda writes the lines under `pip:` into a file beside environment.yml and runs this command there. Added here:
    # nothing is installed, and nothing is asked of the network.
    dependencies = yaml.safe_load((copied / "environment.yml").read_text("utf-8"))["dependencies"]
    (lines,) = [d["pip"] for d in dependencies if isinstance(d, dict)]
    handed_over = copied / "condaenv.test.requirements.txt"
    handed_over.write_text("\n".join(lines), "utf-8")
    conda = [sys.executable, "-m", "pip", "install", "-U", "-r", str(handed_over), "--exists-action=b"]
    dry = ["--dry-run", "--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--report", "report.json"]
    ran = subprocess.run([*conda, *dry], cwd=copied, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "does not provide the extra" not in ran.stderr
    (package,) = json.loads((copied / "report.json").read_text("utf-8"))["install"]
    assert (OWN_NAME, ["all"], True) == (
        package["metadata"]["name"],
        package["requested_extras"],
        package["download_info"]["dir_info"]["editable"],
    )

    (copied / "constraints.txt").unlink()
    refused = subprocess.run([*conda, *dry], cwd=copied, capture_output=True, text=True, check=False)
    assert "constraints.txt" in refused.stderr  # so it is this file that is read, beside environment.yml


def test_the_wheel_holds_the_library_and_nothing_else(copied: Path) -> None:
    import zipfile

    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "wheels"]
    subprocess.run(build, cwd=copied, check=True, capture_output=True)
    (wheel,) = (copied / "wheels").iterdir()
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {
        f.relative_to(ROOT).as_posix() for f in PACKAGE.rglob("*") if f.is_file() and "__pycache__" not in f.parts
    }
    assert "koemorph_tutorial/py.typed" in names


# --------------------------------------------------------------------------------------------------------------- make

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="without make there is no Makefile to test")

FAKE_PYTHON = """#!/bin/sh
# Stands in for Python, in .venv too: nothing is really installed, and pip can be made to kill the whole set-up.
case "$*" in
    *"print("*) echo "Python ${FAKE_VERSION-3.11}" ;;
    *sys.exit*) test -z "$FAKE_VERSION" ;;
    *ensurepip*) test -z "$FAKE_NO_VENV" ;;
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *"pip install"*) echo "$*" >>pip.log; echo half >.venv/half; if test -n "$FAKE_KILL"; then kill -9 0; fi ;;
esac
"""


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # Not the environment of the make that may be running these tests.
    environment = {name: v for name, v in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHON"))}
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env={**environment, **variables},
        start_new_session=True,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def set_up(copied: Path) -> Path:
    fake = copied / "python"
    fake.write_text(FAKE_PYTHON, "utf-8")
    fake.chmod(0o755)
    return copied


@needs_make
def test_every_target_in_the_help_exists_and_none_is_missing_there() -> None:
    listed = re.findall(r"^make ([a-z]+) +\S", make(ROOT).stdout, re.MULTILINE)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert sorted(targets) == sorted(listed)
    for target in listed:
        dry = make(ROOT, "--dry-run", target)
        assert dry.returncode == 0, dry.stderr


@needs_make
def test_a_set_up_that_was_killed_starts_afresh_and_a_finished_one_is_left_alone(set_up: Path) -> None:
    command = ("setup", "PYTHON=./python", "TORCH_INDEX=https://example.org/an-index")
    ready, log = set_up / ".venv/.ready", set_up / "pip.log"

    assert make(set_up, *command, FAKE_KILL="1").returncode == -9
    assert not ready.exists()
    (set_up / ".venv/bin/left-behind").touch()

    again = make(set_up, *command)
    assert (0, True) == (again.returncode, ready.exists()), again.stderr
    assert "an earlier set-up was interrupted; .venv is made afresh" in again.stdout
    assert not (set_up / ".venv/bin/left-behind").exists()
    assert log.read_text().splitlines()[-1] == (
        "-m pip install --no-compile -c constraints.txt --extra-index-url https://example.org/an-index "
        "-e .[lab,export,test,dev]"
    )

    assert make(set_up, *command).returncode == 0
    assert len(log.read_text().splitlines()) == 2  # the killed one and the second; the third had nothing to do

    later = ready.stat().st_mtime + 10
    os.utime(set_up / "constraints.txt", (later, later))
    (set_up / ".venv/bin/of-mine").touch()
    assert make(set_up, *command, FAKE_KILL="1").returncode == -9  # killed while it was being brought up to date
    assert not ready.exists()


@needs_make
def test_new_pins_are_installed_into_the_venv_that_is_there(set_up: Path) -> None:
    assert make(set_up, "setup", "PYTHON=./python").returncode == 0
    (set_up / ".venv/bin/of-mine").touch()
    old = (set_up / "constraints.txt").stat().st_mtime - 10
    os.utime(set_up / ".venv/.ready", (old, old))
    assert make(set_up, "setup", "PYTHON=./python").returncode == 0
    assert len((set_up / "pip.log").read_text().splitlines()) == 2
    assert (set_up / ".venv/bin/of-mine").exists()


@needs_make
def test_a_folder_that_was_moved_gets_a_new_venv(set_up: Path) -> None:
    assert make(set_up, "setup", "PYTHON=./python").returncode == 0
    moved = set_up.rename(set_up.with_name("elsewhere"))
    assert ".venv is made afresh" in make(moved, "setup", "PYTHON=./python").stdout
    assert make(moved, "setup", "PYTHON=./python").returncode == 0
    assert len((moved / "pip.log").read_text().splitlines()) == 2


@needs_make
@pytest.mark.parametrize(
    ("variables", "line"),
    [
        (
            {"FAKE_VERSION": "3.9"},
            "make: Python 3.11 or newer is needed, './python' is Python 3.9: choose one by PYTHON=python3.12",
        ),
        (
            {"FAKE_NO_VENV": "1"},
            "make: './python' cannot make a .venv: install its venv package (on Debian and Ubuntu python3-venv)",
        ),
    ],
)
def test_a_python_that_cannot_do_it_gets_one_line(set_up: Path, variables: dict[str, str], line: str) -> None:
    refused = make(set_up, "setup", "PYTHON=./python", **variables)
    assert (2, line) == (refused.returncode, refused.stderr.splitlines()[0])
    assert not (set_up / ".venv").exists()


@needs_make
def test_two_set_ups_do_not_work_on_one_venv(set_up: Path) -> None:
    (set_up / ".venv").mkdir()
    (set_up / ".venv/.unfinished").write_text(f"{os.getpid()} {set_up}\n")
    refused = make(set_up, "setup", "PYTHON=./python")
    line = f"make setup: process {os.getpid()} is setting up .venv already: wait for it, or end it"
    assert (2, line) == (refused.returncode, refused.stderr.splitlines()[0])


# ----------------------------------------------------------------------------------------------------------------- CI

FAKES = {
    "make": 'echo "make $*" >>log; test "$*" != "$FAKE_FAILS"',
    "id": "echo ${FAKE_USER-0}",
    "apt-get": 'echo "apt-get $*" >>log; if test -n "$FAKE_REFUSED"; then echo "$FAKE_REFUSED" >&2; exit 100; fi',
    "sudo": 'test "$1" = -n && shift && echo sudo >>log && exec "$@"',
    "chromium": "",
}
SHORT = "make browser BROWSER_TESTS=-n 2 tests/browser/test_ci.py"
NOT_RUN = "CI: THE BROWSER TESTS DID NOT RUN: no chromium is here to run them with, and "


def ci(folder: Path, *programs: str, **variables: str) -> tuple[int, list[str], str]:
    """Run `.ci/run` where only these programs are, and return its exit code, what it called and what it complained."""
    (folder / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", folder / ".ci")
    (folder / "bin").mkdir()
    for tool in ("bash", "sh", "dirname", "env", "grep", "tail"):
        (folder / "bin" / tool).symlink_to(str(shutil.which(tool)))
    for name in programs:
        fake = folder / "bin" / name
        fake.write_text(f"#!/bin/sh\n{FAKES[name]}\n", "utf-8")
        fake.chmod(0o755)
    environment = {"PATH": str(folder / "bin"), **variables}
    ran = subprocess.run(["bash", ".ci/run"], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    log = (folder / "log").read_text("utf-8").splitlines()
    assert ("make setup", {"make lint", "make test"}) == (log[0], set(log[1:3]))
    return ran.returncode, log[3:], ran.stderr


def test_ci_runs_every_lesson_in_the_chromium_that_is_there(tmp_path: Path) -> None:
    assert (0, [SHORT], "") == ci(tmp_path, "make", "chromium")


@pytest.mark.parametrize("user", [0, 1000])
def test_ci_installs_chromium_where_there_is_none(tmp_path: Path, user: int) -> None:
    code, called, complained = ci(tmp_path, "make", "id", "apt-get", "sudo", FAKE_USER=str(user))
    assert (0, "") == (code, complained)
    updated, installed, ran = [line for line in called if line != "sudo"]
    assert updated.endswith(" update")
    assert installed.endswith(" install -y --no-install-recommends chromium")
    assert SHORT == ran
    assert (2 if user else 0) == called.count("sudo")


@pytest.mark.parametrize(
    ("programs", "variables", "why"),
    [
        (("make", "id"), {}, "no apt-get is here"),
        (("make", "id", "apt-get"), {"FAKE_USER": "1000"}, "to install it takes root, and no sudo is here"),
        (("make", "id", "apt-get"), {"FAKE_REFUSED": "W: a\nE: No host\nE: No luck"}, "apt-get says: E: No host"),
    ],
)
def test_ci_says_loudly_that_no_browser_test_ran(
    tmp_path: Path, programs: tuple[str, ...], variables: dict[str, str], why: str
) -> None:
    code, called, complained = ci(tmp_path, *programs, **variables)
    assert (0, f"{NOT_RUN}{why}\n") == (code, complained)
    assert [] == [line for line in called if line.startswith("make")]


def test_a_style_that_fails_fails_ci_though_it_is_looked_at_beside_the_tests(tmp_path: Path) -> None:
    assert (1, [], "") == ci(tmp_path, "make", "chromium", FAKE_FAILS="lint")


def test_a_browser_test_that_fails_fails_ci(tmp_path: Path) -> None:
    assert (1, [SHORT], "") == ci(tmp_path, "make", "chromium", FAKE_FAILS=SHORT.removeprefix("make "))


# --------------------------------------------------------------------------------------------------- rules of the house

ROOMS = sorted(f.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for f in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("room", [room.removesuffix(".__init__") for room in ROOMS])
def test_the_examples_in_the_docstrings_hold(room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # an example may write files
    assert doctest.testmod(importlib.import_module(room)).failed == 0


def test_no_room_imports_a_public_name_through_the_root() -> None:
    # The root finds a name's room when it is asked, so import-linter could not see that such an import goes up.
    modules = {child.stem for child in PACKAGE.iterdir()}
    for file in sorted(PACKAGE.rglob("*.py")):
        depth = len(file.relative_to(PACKAGE).parts)  # how many dots lead to the root
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module, node.level) in {(None, depth), (PACKAGE.name, 0)}:
                names = {alias.name for alias in node.names} - modules - {"__version__"}
                assert not names, f"{file.relative_to(ROOT)}:{node.lineno} imports {names} from the root"


def test_no_public_name_is_also_the_name_of_a_module() -> None:
    import koemorph_tutorial

    assert set() == set(koemorph_tutorial.__all__) & {room.split(".")[1] for room in ROOMS}


def test_no_file_names_a_place_on_the_machine_of_its_author() -> None:
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    git = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if git.returncode != 0:
        pytest.skip("not a git repository: nothing says which files belong to the project")
    place = r"/(?:home|Users)/\w+|/ro[o]t/|[A-Z]:\\+Users\\"
    if len(ROOT.parts) > 2:
        place += "|" + re.escape(str(ROOT)) + r"\b"
    found = []
    for name in filter(None, git.stdout.split("\0")):
        file = ROOT / name
        if file.is_file():
            found += [f"{name}: {place}" for place in re.findall(place, file.read_bytes().decode("utf-8", "ignore"))]
    assert found == []


def test_the_lines_that_notebooks_readme_offers_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (cell,) = re.findall(r"```python\n(.*?)```", (ROOT / "notebooks/README.md").read_text("utf-8"), re.DOTALL)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    exec(compile(cell, "notebooks/README.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.splitlines()[-1] == "bitwise equal: True"
