"""The root of the package: public names, resolved when they are used, and nothing loaded before."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import koemorph_tutorial

HEAVY = ("torch", "numpy", "matplotlib", "omegaconf", "ipywidgets", "rich")


def loaded_by(code: str) -> set[str]:
    """Return which heavy packages a fresh interpreter has loaded after `code`."""
    script = f"{code}\nimport sys\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")[-2].split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    """Python runs a parent's __init__ before any child, so the parent is the lowest floor."""
    assert set() == loaded_by("import koemorph_tutorial")


LOWER_ROOMS = ["records", "archive", "unpickling", "header", "save_policy", "durable", "lock", "cut", "storage"]
LOWER_ROOMS += ["retention", "inspection.summary", "inspection.folder", "inspection.views", "__main__"]


@pytest.mark.parametrize("module", LOWER_ROOMS)
def test_the_lower_rooms_load_without_torch(module: str) -> None:
    """What only reads names and headers starts in a fraction of the time that torch takes."""
    assert set() == loaded_by(f"import koemorph_tutorial.{module}")


def test_progress_loads_only_what_draws_its_table() -> None:
    """The exercises know torch only when an answer is tried."""
    code = "import contextlib, io\nfrom koemorph_tutorial.__main__ import main\n"
    assert {"rich"} == loaded_by(code + "with contextlib.redirect_stdout(io.StringIO()): main(['progress'])")


def test_help_loads_nothing_heavy() -> None:
    """koemorph --help and the help of each command."""
    for arguments in (
        ["--help"],
        ["train", "--help"],
        ["evaluate", "--help"],
        ["inspect", "--help"],
        ["validate", "--help"],
        ["diff", "--help"],
        ["lab", "--help"],
    ):
        code = (
            "import contextlib\nfrom koemorph_tutorial.__main__ import main\n"
            f"with contextlib.suppress(SystemExit): main({arguments!r})"
        )
        assert set() == loaded_by(code)


def test_every_public_name_resolves_and_is_listed() -> None:
    """The table of names is the truth for dir(), for `from … import *` and for attribute access."""
    assert sorted(koemorph_tutorial.__all__) == koemorph_tutorial.__all__ == dir(koemorph_tutorial)
    for name in koemorph_tutorial.__all__:
        assert name == getattr(koemorph_tutorial, name).__name__
    with pytest.raises(AttributeError, match="module 'koemorph_tutorial' has no attribute 'nothing'"):
        koemorph_tutorial.nothing  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    """The imports for type checkers stand beside the table: they must not part."""
    text = Path(koemorph_tutorial.__file__).read_text(encoding="utf-8")
    for name in koemorph_tutorial.__all__:
        assert f" import {name} as {name}\n" in text
    assert len(koemorph_tutorial.__all__) == text.count(" as ")


def test_no_public_name_is_a_modules_name() -> None:
    """`from koemorph_tutorial import resume` would give the module."""
    modules = {module.name for module in pkgutil.iter_modules(koemorph_tutorial.__path__)}
    assert set() == modules & set(koemorph_tutorial.__all__)


def test_every_public_name_has_a_docstring() -> None:
    """One imperative sentence or a noun phrase, at the least."""
    for name in koemorph_tutorial.__all__:
        doc = getattr(koemorph_tutorial, name).__doc__
        assert doc
        assert not doc.startswith(f"{name}("), f"{name} has only the docstring that a dataclass writes"


def test_every_public_name_has_an_example_that_runs() -> None:
    """All but errors, which are raised by what has one; that they run, tests/test_house.py sees to."""
    for name in koemorph_tutorial.__all__:
        item = getattr(koemorph_tutorial, name)
        if not (isinstance(item, type) and issubclass(item, Exception)):
            assert ">>> " in item.__doc__, name
