"""A training in two processes that comes back: what torchrun starts, and what starts torchrun.

In a shell: ``torchrun --nproc-per-node 2 two_processes.py FOLDER --kill``, and once more without ``--kill``. Each
process, called a rank, trains on data of its own; DistributedDataParallel averages their gradients. Where a rank has
died torchrun ends the others. (With ``--max-restarts`` it would start all of them again by itself.)
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

EPOCHS, KILLED = 6, 3  # rank 1 is killed in that epoch
_PATIENCE = 90.0  # seconds


def train(folder: Path, *, kill: bool) -> tuple[list[int], bytes]:
    """Train in `folder`, as one of several ranks; go on where that run was; return the epochs done and the weights."""
    import torch
    from torch import distributed, nn

    from koemorph_tutorial.manager import CheckpointManager

    rank, done = distributed.get_rank(), []
    torch.manual_seed(0)
    network = nn.parallel.DistributedDataParallel(nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    torch.manual_seed(rank)  # the data of this rank
    objects = {"model": network, "optimizer": optimizer}
    with CheckpointManager(folder, objects, save_freq=1) as checkpoints:
        for epoch in checkpoints.epochs(EPOCHS):
            loss = (network(torch.randn(16, 8)) - 1).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mean = loss.detach()
            distributed.all_reduce(mean)  # the sum over the ranks
            if kill and (rank, epoch) == (1, KILLED):
                os.kill(os.getpid(), signal.SIGKILL)
            checkpoints.save({"loss": mean.item() / distributed.get_world_size()})
            done.append(epoch)
    return done, b"".join(value.numpy().tobytes() for value in network.state_dict().values())


def main(folder: Path, *, kill: bool) -> None:
    """Train a twin and then a run in which rank 1 is killed; or go on with that run, and compare."""
    import torch
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    is_first = distributed.get_rank() == 0
    twin = folder / "twin.bytes"
    if kill:
        done, weights = train(folder / "twin", kill=False)
        if is_first:
            twin.write_bytes(weights)
            _say(f"a twin: epochs {done[0]} to {done[-1]}")
        train(folder / "run", kill=True)
    else:
        done, weights = train(folder / "run", kill=False)
        if is_first:
            _say(
                f"the run: epochs {done[0]} to {done[-1]}, and the weights of the twin: {weights == twin.read_bytes()}"
            )
    distributed.destroy_process_group()


def _say(what: str) -> None:
    sys.stdout.write(f"rank 0: {what}\n")
    sys.stdout.flush()  # before somebody ends it


def launch(folder: str | os.PathLike[str], *, kill: bool = False) -> str:
    """Start this file in two processes, by torchrun, and return what rank 0 said, or in a line why nothing came."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(Path(__file__).resolve()), os.fspath(folder), *(["--kill"] if kill else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, env=environment, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"two processes cannot be started here: {type(error).__name__}"
    said: list[str] = re.findall(r"^rank 0: (.*)$", done.stdout, re.MULTILINE)
    if said and done.returncode == 0:
        return said[-1]
    if said and kill and "exitcode: -9" in done.stderr:
        return f"{said[-1]}; the run: rank 1 was killed, and rank 0 left"
    return f"two processes cannot be started here: {(done.stderr.splitlines() or ['nothing was said'])[-1][:100]}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), kill="--kill" in sys.argv)
