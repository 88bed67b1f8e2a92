"""The strangers' scripts with 0 and 2 workers, 1 and 2 threads, stopped at the end of an epoch and all along one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from koemorph_tutorial.records import Position
from koemorph_tutorial.testing import certify_script
from tests.test_certificate_strangers import FORGETS, STRANGERS, assert_refused, text, without


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("name", "workers", "batches"),
    [
        ("gan", 0, [0, 1, 5, 9, 10]),
        ("gan", 2, [0, 1, 5, 9, 10]),
        ("finetune", 0, [0, 4, 8, 10]),  # after each step of its optimizer
        ("finetune", 2, [0, 4, 8, 10]),
    ],
)
def test_a_strangers_script_is_certified_wherever_it_is_stopped(
    name: str, workers: int, batches: list[int], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    command = [sys.executable, str(STRANGERS / f"{name}_resumable.py"), "--workers", str(workers)]
    certificate = certify_script(command, stops=[Position(epoch=1, batch=batch) for batch in batches])
    print(f"\n{name}, {workers} workers, {threads} threads: {certificate}")
    assert certificate.certified, "\n".join(certificate.lines())
    assert threads == certificate.environment["threads"]


@pytest.mark.parametrize(("name", "left_out", "batch", "named"), FORGETS)
def test_a_script_that_forgets_one_of_its_objects_is_not_certified(
    name: str, left_out: str, batch: int, named: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In processes of their own; `make test` forks them."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    script = tmp_path / "train.py"
    script.write_text(without(text(f"{name}_resumable"), left_out), "utf-8")
    assert_refused(certify_script([sys.executable, str(script)], stops=[Position(epoch=1, batch=batch)]), named)
