"""Files that other programs wrote: looked into, validated, compared, and their weights taken, by the command line too.

Each is written by the library itself (extra ``peers``), but for timm's, which needs torchvision: that one is written as
timm's CheckpointSaver does. Nothing is skipped: a library that is missing fails.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from koemorph_tutorial import CheckpointError, load_checkpoint
from koemorph_tutorial.inference import load_weights
from tests.comparing import difference

PACKAGES = ("torch", "lightning", "pytorch-ignite", "transformers", "accelerate", "safetensors")


@pytest.fixture(autouse=True, scope="module")
def offline() -> Iterator[None]:
    """Ask no hub for anything, and say with whom this was proved."""
    print("\n" + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@dataclass(frozen=True)
class Foreign:
    """Two files that a program wrote, one training step apart, and the model whose weights the first holds."""

    first: Path
    second: Path
    model: nn.Module
    fresh: Callable[[], nn.Module]
    verdicts: tuple[str, ...] = ("sound",)
    weights: str = "model"


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Train one batch."""
    optimizer.zero_grad()
    model(torch.ones(5, 4) * torch.arange(5)[:, None]).square().sum().backward()
    optimizer.step()


def twice(folder: Path, suffix: str, save: Callable[[nn.Module, torch.optim.Optimizer, int, Path], object]) -> Foreign:
    """Have a network saved after each of two steps."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    paths = []
    state: dict[str, torch.Tensor] = {}
    for number in range(2):
        step(model, optimizer)
        if not number:
            state = {name: value.clone() for name, value in model.state_dict().items()}
        paths.append(folder / f"after_{number}{suffix}")
        save(model, optimizer, number, paths[-1])
    model.load_state_dict(state)
    return Foreign(paths[0], paths[1], model, lambda: network(1))


# ------------------------------------------------------------------------------------------------------------ who wrote


def lightning(folder: Path) -> Foreign:
    """Lightning: trainer.save_checkpoint."""
    import lightning.pytorch as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"width": 8})
            self.net = network()

        def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
            return self.net(batch).square().sum()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]

    def saved(steps: int) -> tuple[Path, Module]:
        torch.manual_seed(0)
        module, path = Module(), folder / f"step_{steps}.ckpt"
        trainer = pl.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=folder,
        )
        trainer.fit(module, torch.utils.data.DataLoader(torch.arange(32.0).view(8, 4), batch_size=4))
        trainer.save_checkpoint(path)
        return path, module

    (first, module), (second, _) = saved(1), saved(2)
    return Foreign(first, second, module.net, lambda: network(1))


def ignite(folder: Path) -> Foreign:
    """Ignite: Checkpoint with a model, an optimizer and the trainer."""
    from ignite.engine import Engine
    from ignite.handlers import Checkpoint, DiskSaver

    def save(model: nn.Module, optimizer: torch.optim.Optimizer, number: int, path: Path) -> None:
        trainer = Engine(lambda *_: None)
        trainer.run([0], max_epochs=number + 1)
        saver = DiskSaver(str(path.parent), require_empty=False, create_dir=False)
        objects = {"model": model, "optimizer": optimizer, "trainer": trainer}
        Checkpoint(objects, saver, filename_pattern=path.name)(trainer)

    return twice(folder, ".pt", save)


def ignite_best(folder: Path) -> Foreign:
    """Ignite: ModelCheckpoint of a model alone: the file is its state dict."""
    from ignite.engine import Engine
    from ignite.handlers import ModelCheckpoint

    def save(model: nn.Module, optimizer: torch.optim.Optimizer, number: int, path: Path) -> None:
        trainer = Engine(lambda *_: None)
        trainer.run([0], max_epochs=1)
        ModelCheckpoint(path.parent, require_empty=False, filename_pattern=path.name)(trainer, {"model": model})

    return twice(folder, ".pt", save)


def transformers(folder: Path) -> Foreign:
    """Transformers: a tiny GPT-2, save_pretrained, which since version 5 writes safetensors alone."""
    from transformers import GPT2Config, GPT2LMHeadModel

    def fresh(seed: int = 1) -> nn.Module:
        torch.manual_seed(seed)
        return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=16, vocab_size=40))

    model = fresh(0)
    model.save_pretrained(folder / "first")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(input_ids=torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
    optimizer.step()
    model.save_pretrained(folder / "second")
    model.load_state_dict(state)
    first, second = (folder / name / "model.safetensors" for name in ("first", "second"))
    return Foreign(first, second, model, fresh, ("cannot tell",))


def accelerate_model(folder: Path) -> Foreign:
    """Accelerate: save_model as safetensors."""
    from accelerate import Accelerator

    def save(model: nn.Module, optimizer: torch.optim.Optimizer, number: int, path: Path) -> None:
        Accelerator(cpu=True).save_model(model, str(path))

    made = twice(folder, "", save)
    first, second = (path / "model.safetensors" for path in (made.first, made.second))
    return Foreign(first, second, made.model, made.fresh, ("cannot tell",))


def accelerate_bin(folder: Path) -> Foreign:
    """Accelerate: save_model(safe_serialization=False), pytorch_model.bin."""
    from accelerate import Accelerator

    def save(model: nn.Module, optimizer: torch.optim.Optimizer, number: int, path: Path) -> None:
        Accelerator(cpu=True).save_model(model, str(path), safe_serialization=False)

    made = twice(folder, "", save)
    first, second = (path / "pytorch_model.bin" for path in (made.first, made.second))
    return Foreign(first, second, made.model, made.fresh)


def accelerate_state(folder: Path) -> Foreign:
    """Accelerate: save_state; the optimizer's file, which holds no network."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = network()
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.01))
    for name in ("first", "second"):
        step(model, optimizer)
        torch.rand(1)
        accelerator.save_state(str(folder / name), safe_serialization=False)
    first, second = (folder / name / "optimizer.bin" for name in ("first", "second"))
    return Foreign(first, second, model, lambda: network(1), weights="")


def accelerate_random(folder: Path) -> Foreign:
    """Accelerate: save_state; the random states, a pickle of numpy's and Python's in the zip of torch."""
    made = accelerate_state(folder)
    first, second = (path.parent / "random_states_0.pkl" for path in (made.first, made.second))
    return Foreign(first, second, made.model, made.fresh, ("sound", "cannot tell"), weights="")


def timm_style(folder: Path) -> Foreign:
    """As timm's CheckpointSaver writes it: epoch, arch, state_dict, optimizer, args, amp_scaler, metric, version."""
    args = argparse.Namespace(model="tiny", lr=0.01, data_dir=Path("data"), mean=(0.5, 0.5, 0.5), resume="")

    def save(model: nn.Module, optimizer: torch.optim.Optimizer, number: int, path: Path) -> None:
        averaged = torch.optim.swa_utils.AveragedModel(model)
        scaler = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
        content = {
            "epoch": number,
            "arch": "tiny",
            "state_dict": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "version": 2,
            "args": args,
            "amp_scaler": {**scaler, "_growth_tracker": 0},
            "state_dict_ema": averaged.module.state_dict(),
            "metric": 75.5 + number,
        }
        torch.save(content, path)

    made = twice(folder, ".pth.tar", save)
    return Foreign(made.first, made.second, made.model, made.fresh, ("cannot tell",))


def scripted(folder: Path) -> Foreign:
    """TorchScript: torch.jit.script."""

    def save(model: nn.Module, optimizer: torch.optim.Optimizer, number: int, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated; its files are there
            torch.jit.save(torch.jit.script(model), path)

    return twice(folder, ".pt", save)


def traced(folder: Path) -> Foreign:
    """TorchScript: torch.jit.trace."""

    def save(model: nn.Module, optimizer: torch.optim.Optimizer, number: int, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.trace(model.eval(), torch.ones(1, 4)), path)
        model.train()

    return twice(folder, ".pt", save)


def legacy(folder: Path) -> Foreign:
    """torch.save as it wrote before 1.6."""

    def save(model: nn.Module, optimizer: torch.optim.Optimizer, number: int, path: Path) -> None:
        content = {"epoch": number, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(content, path, _use_new_zipfile_serialization=False)

    made = twice(folder, ".pth", save)
    return Foreign(made.first, made.second, made.model, made.fresh, ("cannot tell",))


def without_checksums(folder: Path) -> Foreign:
    """torch.save without checksums."""
    from torch.utils.serialization import config

    def save(model: nn.Module, optimizer: torch.optim.Optimizer, number: int, path: Path) -> None:
        with config.patch("save.compute_crc32", False):
            torch.save({"epoch": number, "model": model.state_dict()}, path)

    made = twice(folder, ".pth", save)
    return Foreign(made.first, made.second, made.model, made.fresh, ("cannot tell",))


PEERS = (
    *(lightning, ignite, ignite_best, transformers, accelerate_model, accelerate_bin),
    *(accelerate_state, accelerate_random, timm_style, scripted, traced, legacy, without_checksums),
)


# -------------------------------------------------------------------------------------------------------- what is asked


def koemorph(*arguments: object, expected: tuple[int, ...]) -> str:
    """Run the command line as a person would, and return what it printed."""
    command = [sys.executable, "-m", "koemorph_tutorial", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "120"})
    assert done.returncode in expected, (arguments, done.returncode, done.stdout, done.stderr)
    assert "" == done.stderr
    assert "Traceback" not in done.stdout
    return done.stdout


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.__name__)
@pytest.mark.filterwarnings("ignore")
def test_a_file_of_others_is_understood(peer: Callable[[Path], Foreign], tmp_path: Path) -> None:
    """By the command line: looked into, validated, compared; and its weights fill a fresh model bitwise."""
    made = peer(tmp_path)
    assert made.first.is_file()

    looked = koemorph("inspect", made.first, expected=(0,))
    assert made.first.name in looked
    koemorph("inspect", "--json", made.first, expected=(0,))
    said = koemorph("validate", made.first, expected=(0, 1))
    verdict = said.removeprefix(f"{made.first}: ").partition(":")[0]
    assert verdict in made.verdicts, said
    assert (verdict == "sound") == (koemorph("validate", "--json", made.first, expected=(0, 1)).count('"sound"') == 1)

    assert "identical" in koemorph("diff", made.first, made.first, expected=(0,))
    (copy := tmp_path / f"copy of {made.first.name}").write_bytes(made.first.read_bytes())
    koemorph("diff", made.first, copy, expected=(0,))
    compared = koemorph("diff", made.first, made.second, expected=(1,))
    koemorph("diff", "--json", made.first, made.second, expected=(1,))

    model = made.fresh()
    if made.weights:
        loaded = load_weights(made.first, model, weights=made.weights)
        assert "" == difference(plain(made.model), plain(model))
        loads = str(loaded)
    else:
        before = plain(model)
        with pytest.raises(CheckpointError) as refused:
            load_weights(made.first, model)
        assert 1 == len(str(refused.value).splitlines())
        assert "" == difference(before, plain(model))
        loads = str(refused.value).removeprefix(f"{made.first}: ")
    print(f"\n{peer.__doc__}", said.replace(f"{tmp_path}/", "").strip(), compared.splitlines()[0], loads, sep="\n    ")


def plain(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def test_a_whole_pickled_model_is_named_and_not_opened(tmp_path: Path) -> None:
    """What torch.save(model) writes is code to an unpickler: each command says so in one line."""
    made = twice(tmp_path, ".pth", lambda model, optimizer, number, path: torch.save(model, path))
    said = koemorph("validate", made.first, expected=(1,))
    assert "torch.nn.modules.container.Sequential" in said
    koemorph("diff", made.first, made.second, expected=(1,))
    for refused in (lambda: load_weights(made.first, made.fresh()), lambda: load_checkpoint(made.first)):
        with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.container\.Sequential") as error:
            refused()
        assert 1 == len(str(error.value).splitlines())
    print(f"\na whole model: {said.replace(f'{tmp_path}/', '').strip()}")
