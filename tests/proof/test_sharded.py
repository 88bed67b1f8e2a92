"""Sharded saves, exhaustively: stopped at every file operation, either rank killed and both, and a real torchrun."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import distributed

from koemorph_tutorial import folders, sharded, validate_checkpoint
from koemorph_tutorial.digests import digest
from koemorph_tutorial.sharded import consolidate, load_sharded, newest_sharded, save_sharded
from koemorph_tutorial.testing import crash_test
from koemorph_tutorial.testing.operations import Fault, Operations
from tests.proof.test_crash import told
from tests.test_sharded import held, make, train, train_on, train_on_by_two, what_is_there


def test_at_every_moment_the_newest_complete_folder_comes_back() -> None:
    campaign = told("three saves by one process", crash_test(train_on, what_is_there))
    assert campaign.not_ok == ()
    assert {trial.point for trial in campaign.trials} == set(campaign.points)


def test_at_forty_moments_of_rank_0_it_comes_back() -> None:
    campaign = told("three saves by two processes", crash_test(train_on_by_two, what_is_there, max_points=40))
    assert campaign.not_ok == ()


def test_without_its_syncs_a_power_cut_would_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kit sees what the syncs are for: torch's own come before its buffers are flushed."""

    def sum_alone(path: Path) -> tuple[int, int]:
        with open(path, "rb", buffering=0) as file:
            return folders._sum(file)

    monkeypatch.setattr(sharded, "sync_and_sum", sum_alone)
    campaign = told("without a sync", crash_test(train_on, what_is_there, modes=["power"], max_points=40))
    assert len(campaign.not_ok) > 20


def by_two(
    directory: Path, store: Path, victim: int | None, number: int, *, both: bool = False
) -> tuple[list[int], int]:
    """Load ``step_1``, take a step, save ``step_2`` on two ranks; kill `victim` before its file operation `number`.

    Return how both ended, and how many operations the victim had; with `both` the other is killed as well.
    """
    trail = store.with_suffix(".trail")
    ranks = {}
    for rank in (0, 1):
        child = os.fork()
        if child == 0:
            try:
                distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
                objects = make("fsdp", seed=8)
                load_sharded(directory / "step_1", objects)
                train(objects, 1)
                distributed.barrier()
                if rank == victim:
                    fault = Fault(number=number, mode="kill")
                    Operations([str(directory)], str(trail), str(store.with_suffix(".shadow")), fault).install()
                save_sharded(objects, directory / "step_2", extra={"held": held(objects)})
                os._exit(0)
            except SystemExit:  # of a rank whose peer has ended
                os._exit(1)
            finally:
                os._exit(9)
        ranks[child] = rank
    ended = [0, 0]
    limit = time.monotonic() + 60
    while ranks:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            ended[ranks.pop(child)] = os.waitstatus_to_exitcode(status)
            for other in ranks if both and os.WIFSIGNALED(status) else ():
                os.kill(other, signal.SIGKILL)
        assert time.monotonic() < limit, f"a rank did not end: {ranks}"
        time.sleep(0.001)
    return ended, trail.read_text().count('"number"') if trail.exists() else 0


def test_whoever_is_killed_one_of_the_two_states_is_there(tmp_path: Path) -> None:
    """Either rank, and both, before each of their file operations: an old folder, a save, SIGKILL, a fresh process."""
    torch.manual_seed(0)

    def start(name: str) -> Path:
        directory = tmp_path / name
        objects = make()
        train(objects, 1)
        save_sharded(objects, directory / "step_1", extra={"held": held(objects)})
        return directory

    found: Counter[str] = Counter()
    for victim, both in ((0, False), (1, False), (0, True), (1, True)):
        directory = start(f"dry-{victim}-{both}")
        ended, operations = by_two(directory, tmp_path / f"store-{victim}-{both}", victim, 10**6)
        assert [0, 0] == ended
        assert operations > 5
        states = [digest(load_sharded(directory / name, make())["held"]) for name in ("step_1", "step_2")]
        assert states[0] != states[1]
        for number in sorted({*range(1, operations, 2), operations - 1, operations}):
            torch.manual_seed(0)
            where = f"{victim}-{both}-{number}"
            directory = start(where)
            ended, _ = by_two(directory, tmp_path / f"store-{where}", victim, number, both=both)
            assert -signal.SIGKILL == ended[victim], ended
            assert ended[1 - victim] in ((-signal.SIGKILL, 0, 1) if both else (0, 1)), ended
            objects = make(seed=3)
            says = load_sharded(newest_sharded(directory) or directory, objects)["held"]
            what = "old" if newest_sharded(directory) == directory / "step_1" else "new"
            is_so = says == held(objects)
            found[f"rank {victim}{' and the other' if both else ''} killed: {what if is_so else 'NOT OK'}"] += 1
            save_sharded(objects, directory / "step_3")
            assert {"step_1", "step_3"} <= set(os.listdir(directory)) <= {"step_1", "step_2", "step_3"}
    print("\nSIGKILL during a sharded save over an older one:")
    for line, count in sorted(found.items()):
        print(f"  {count:3} {line}")
    assert sum(found.values()) >= 40
    assert not [line for line in found if line.endswith("NOT OK")]


SCRIPT = """
import sys
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from koemorph_tutorial.sharded import load_sharded, save_sharded
from koemorph_tutorial.digests import digest

torch.set_num_threads(1)
distributed.init_process_group("gloo")
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 33), nn.Tanh(), nn.Linear(33, 3))
for part in (model[0], model[2], model):
    fully_shard(part)
optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
objects = {"model": model, "optimizer": optimizer}
torch.manual_seed(distributed.get_rank())
done = load_sharded("run", objects)["step"] if "go-on" in sys.argv else 0
for step in range(done, int(sys.argv[1])):
    model(torch.randn(4, 8)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 2:
        save_sharded(objects, f"run/step_{step + 1}", extra={"step": step + 1})
state = {name: value.full_tensor() for name, value in model.state_dict().items()}
moments = [{key: getattr(v, "full_tensor", lambda v=v: v)() for key, v in s.items()} for s in optimizer.state.values()]
if distributed.get_rank() == 0:
    print("held", digest(state), digest(moments))
distributed.barrier()
distributed.destroy_process_group()
"""


def test_a_real_torchrun_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Six steps; four, and from there by a new start six: the same weights and moments, on two ranks and on three."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)

    def torchrun(folder: str, ranks: int, *arguments: str) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        ended = subprocess.run(
            [*command, str(script), *arguments],
            cwd=tmp_path / folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert 0 == ended.returncode, ended.stderr
        (line,) = re.findall("^held .*$", ended.stdout, re.MULTILINE)
        return str(line)

    straight = torchrun("straight", 2, "6")
    there = torchrun("stopped", 2, "4")
    assert straight == torchrun("stopped", 2, "6", "go-on")
    (tmp_path / "stopped" / "run" / "step_6").rename(tmp_path / "aside")
    assert there == torchrun("stopped", 3, "4", "go-on")
    path = consolidate(tmp_path / "stopped" / "run" / "step_4", tmp_path / "step_4.pth")
    assert validate_checkpoint(path)
    print("\ntorchrun on 2 ranks, stopped and resumed: bitwise equal; loaded on 3: the same weights and moments")
