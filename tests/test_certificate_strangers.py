"""Training scripts as somebody else would write them: a few lines make them resume, and the certificate proves it.

`tests/strangers/` holds each as its author wrote it and once more with our lines in it.
"""

from __future__ import annotations

import difflib
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from koemorph_tutorial.records import Position
from koemorph_tutorial.rng import capture_rng, restore_rng
from koemorph_tutorial.testing import Certificate, Recorder, certify
from tests.comparing import difference

STRANGERS = Path(__file__).parent / "strangers"
SCRIPTS = ["gan", "finetune"]

LOADERS = {  # the line that wraps the loader, and how it stands among the objects
    "gan": ("    loader = ResumableLoader(loader)\n", ', "loader": loader'),
    "finetune": ("    train_loader = ResumableLoader(train_loader)\n", ', "train": train_loader'),
}
IMPORT = "from koemorph_tutorial import CheckpointManager, ResumableLoader\n"


def text(name: str) -> str:
    return (STRANGERS / f"{name}.py").read_text("utf-8")


def without(script: str, *parts: str) -> str:
    """Return a script without some of its text."""
    for part in parts:
        assert 1 == script.count(part)
        script = script.replace(part, "")
    return script


@pytest.fixture
def final_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], object]]:
    """Return a function that runs a script to its end, in an empty folder, and returns the weights that it leaves."""
    before, runs = capture_rng(), 0

    def run(script: str) -> object:
        nonlocal runs
        runs += 1
        folder = tmp_path / str(runs)
        folder.mkdir()
        monkeypatch.chdir(folder)
        program = folder / "train.py"
        program.write_text(script, "utf-8")
        monkeypatch.setattr(sys, "argv", [str(program)])
        runpy.run_path(str(program), run_name="__main__")
        (weights,) = folder.glob("*.pt")
        return torch.load(weights, weights_only=True)

    yield run
    restore_rng(before)


# ---------------------------------------------------------------------------------------------- the lines that it takes


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("gan", ["for epoch in range(opt.epochs):"]),
        # The second: it counts batches for the gradients, and a resumed epoch does not begin with the first.
        ("finetune", ["for epoch in range(args.epochs):", "for step, (images, labels) in enumerate(train_loader):"]),
    ],
)
def test_ten_lines_make_a_strangers_script_resumable(name: str, changed: list[str]) -> None:
    lines = list(difflib.ndiff(text(name).splitlines(), text(f"{name}_resumable").splitlines()))
    assert changed == [line[2:].strip() for line in lines if line.startswith("- ")]
    added = [line[2:].strip() for line in lines if line.startswith("+ ")]
    assert len(changed) < len(list(filter(None, added))) <= 10
    assert "koemorph" not in text(name)


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_the_loader_the_lines_do_not_change_the_training(
    name: str, final_weights: Callable[[str], object]
) -> None:
    """Bitwise: a manager moves no random number, though it saves in every epoch."""
    manager_alone = without(text(f"{name}_resumable"), *LOADERS[name])
    assert "" == difference(final_weights(text(name)), final_weights(manager_alone))


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_loader_alone_decides_the_order(name: str, final_weights: Callable[[str], object]) -> None:
    """It draws one number for a generator of its own, so the order is another one than before, and nothing else is."""
    wrap, _ = LOADERS[name]
    (before,) = [line for line in text(name).splitlines(keepends=True) if wrap.split()[0] + " = DataLoader(" in line]
    loader_alone = (
        text(name).replace(before, before + wrap).replace("from torch import nn", IMPORT + "from torch import nn", 1)
    )
    resumable = final_weights(text(f"{name}_resumable"))
    assert "" == difference(resumable, final_weights(loader_alone))
    assert "" != difference(resumable, final_weights(text(name)))


# ------------------------------------------------------------------------------------------------------ the certificate


@pytest.fixture
def one_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the programs compute on one thread, as the tests do."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def certify_forked(script: Path, *arguments: str, stops: list[Position]) -> Certificate:
    """Certify a script in processes that are forked from this one, which has imported all that takes long."""

    def loop(folder: Path, recorder: Recorder) -> None:
        os.chdir(folder)
        sys.argv = [str(script), *arguments]
        runpy.run_path(str(script), run_name="__main__")

    return certify(loop, stops=stops)


@pytest.mark.usefixtures("one_thread_each")
@pytest.mark.parametrize(
    ("name", "workers", "batch", "components"),
    [
        # It seeds torch alone; the generators that it never draws from are nobody's concern.
        ("gan", 2, 3, {"netG", "netD", "optG", "optD", "ema", "scaler", "data of loader"}),
        ("finetune", 0, 4, {"model", "optimizer", "scheduler", "losses", "data of train", "rng.python", "rng.numpy"}),
    ],
)
def test_a_strangers_script_is_certified(name: str, workers: int, batch: int, components: set[str]) -> None:
    """Killed at the end of an epoch, and inside one with its average of the loss half done.

    In forked processes; `make proof` starts new ones, for every stop, count of workers and count of threads.
    """
    stops = [Position(epoch=1), Position(epoch=1, batch=batch)]
    certificate = certify_forked(STRANGERS / f"{name}_resumable.py", "--workers", str(workers), stops=stops)
    assert certificate.certified, "\n".join(certificate.lines())
    assert [True, True] == [trial.killed for trial in certificate.trials]
    assert [(1, 0), (1, batch)] == [
        (trial.resumed_at.epoch, trial.resumed_at.batch) for trial in certificate.trials if trial.resumed_at
    ]
    assert {*components, "metrics", "best", "rng.torch"} <= set(certificate.components)


FORGETS = [
    ("gan", '"optD": optD, ', 0, ["netG", "netD"]),  # it trains the one, which teaches the other
    # One step is left in the epoch, and the optimizer knows its rate; that of the next comes from the scheduler.
    ("finetune", '"scheduler": scheduler, ', 8, ["optimizer"]),
]


@pytest.mark.parametrize(("name", "left_out", "batch", "named"), FORGETS)
def test_a_script_that_forgets_one_of_its_objects_is_not_certified(
    name: str, left_out: str, batch: int, named: list[str], tmp_path: Path
) -> None:
    """In forked processes; `make proof` starts them."""
    script = tmp_path / "train.py"
    script.write_text(without(text(f"{name}_resumable"), left_out), "utf-8")
    assert_refused(certify_forked(script, stops=[Position(epoch=1, batch=batch)]), named)


def assert_refused(certificate: Certificate, named: list[str]) -> None:
    """Assert that the certificate says no, and that it is one of these that differs first."""
    assert not certificate.certified
    assert "" == certificate.problem
    assert certificate.first_difference is not None, "\n".join(certificate.lines())
    assert certificate.first_difference.component in named
