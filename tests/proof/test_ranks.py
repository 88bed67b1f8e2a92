"""Several ranks, exhaustively: rank 0 stopped at every file operation, and a real torchrun, certified."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from koemorph_tutorial.testing import crash_test
from koemorph_tutorial.testing.example import recover
from tests.proof.test_crash import told
from tests.test_ranks import train_by_two

SCRIPT = """
import os, random
import numpy, torch
from torch import distributed, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from koemorph_tutorial import CheckpointManager, ResumableLoader

torch.set_num_threads(1)
distributed.init_process_group("gloo")
rank = distributed.get_rank()
torch.manual_seed(0)
x, y = torch.randn(64, 8), torch.randn(64, 2)
model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 2))
model = nn.parallel.DistributedDataParallel(model)
random.seed(rank), numpy.random.seed(rank), torch.manual_seed(rank)
optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
sampler = DistributedSampler(range(64))
loader = ResumableLoader(DataLoader(TensorDataset(x, y), 4, sampler=sampler, num_workers=int(os.environ["WORKERS"])))
objects = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": loader}
with CheckpointManager("run", objects, save_freq=2, background=bool(int(os.environ["BACKGROUND"]))) as checkpoints:
    for epoch in checkpoints.epochs(4):
        sampler.set_epoch(epoch)
        model.train()
        for a, b in loader:
            a = a + 0.1 * torch.randn_like(a) * random.random() * numpy.random.rand()
            loss = nn.functional.mse_loss(model(a), b)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            checkpoints.step()
        scheduler.step()
        model.eval()
        with torch.no_grad():
            share = nn.functional.mse_loss(model(x[rank::2]), y[rank::2])
        distributed.all_reduce(share)
        checkpoints.save({"loss": share / 2})
os._exit(0)  # gloo's own threads abort a process now and then while Python ends
"""


def test_rank_0_at_every_moment() -> None:
    campaign = told("two epochs by two processes", crash_test(train_by_two, recover))
    assert campaign.not_ok == ()
    assert {trial.point for trial in campaign.trials} == set(campaign.points)


def test_torchrun_is_certified(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "koemorph_tutorial", "certify", "--script", str(script), "--processes=2", "--json"]
    for workers, background in (("0", "0"), ("2", "1")):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "WORKERS": workers, "BACKGROUND": background}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        receipt = json.loads(ended.stdout)
        print(f"\n{workers} workers, background {background}:")
        for stop in receipt["stops"]:
            print(" ", {name: stop[name] for name in ("stop", "only", "certified", "moments", "batches", "error")})
        assert receipt["certified"], receipt
        assert {None, 1} == {stop["only"] for stop in receipt["stops"]}
        assert any(stop["stop"]["batch"] for stop in receipt["stops"]), "one inside an epoch"
