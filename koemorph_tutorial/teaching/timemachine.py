"""A run that is quick to train, and a slider over its checkpoints: the face learns to speak."""

from __future__ import annotations

import os
from pathlib import Path

from ipywidgets import HBox, IntSlider, Layout, Play, jslink  # type: ignore[import-untyped]

from koemorph_tutorial.inference import load_for_inference
from koemorph_tutorial.records import numbered_name
from koemorph_tutorial.storage import list_checkpoints, load_checkpoint
from koemorph_tutorial.training.config import load_config
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel
from koemorph_tutorial.training.runs import CHECKPOINTS
from koemorph_tutorial.training.trainer import KoeMorphTrainer

from . import vowels
from .views import View

EPOCHS = 12
# Half of the windows and three quarters of the epochs of the example, so that it is trained in two seconds. The seed is
# the first one: with the seeds 0 to 4 the lips say few vowels after epoch 0, and all five after epoch 11.
_SMALL = [
    "seed=0",
    f"training.epochs={EPOCHS}",
    "data.train_windows=160",
    "data.validation_windows=32",
    "training.device=cpu",
    "training.patience=null",
    "training.checkpoint.save_freq=1",
    "training.checkpoint.keep_last_n=null",
]


def train(folder: str | os.PathLike[str]) -> Path:
    """Train the example, made small, in `folder`, unless that was done; return the folder of its checkpoints."""
    checkpoints = Path(folder, CHECKPOINTS)
    if not (checkpoints / numbered_name(EPOCHS - 1)).exists():
        KoeMorphTrainer(load_config(_SMALL), folder).train("auto" if checkpoints.exists() else None, signals=())
    return checkpoints


def network(path: str | os.PathLike[str]) -> tuple[SimplifiedKoeMorphModel, dict[str, float]]:
    """Return the network in a checkpoint of the example, ready to be used, and its metrics.

    It is built by the settings in the file, whatever today's are.
    """
    config = load_config([], base=load_checkpoint(path)["config"])
    return load_for_inference(path, SimplifiedKoeMorphModel(config.model))


def at_epoch(path: str | os.PathLike[str], epoch: int) -> tuple[bytes, str]:
    """Draw what the network in a checkpoint says to five vowels, and the faces that belong to them."""
    model, metrics = network(path)
    faces, truth = vowels.say(model), vowels.moments()[1]
    loss = f"loss × 1000: {1000 * metrics['loss']:.1f}"
    png = vowels.grid({f"epoch {epoch}": faces, vowels.TRUTH: truth}, below={f"epoch {epoch}": loss})
    right = sum(vowels.is_right(vowels.read(faces)))
    much = "all five vowels" if right == 5 else "most of the five vowels" if right > 2 else "few of the five vowels"
    return png, f"Epoch {epoch}, in a voice that it was not trained on: the lips say {much}."


class TimeMachine(View):
    """A slider over the epochs of a run: at each its checkpoint is loaded, and the face says five vowels.

    It begins at the last epoch. `value` is the epoch; to set it moves the slider. Where nothing runs the picture alone
    is shown. Show each only once: a player that is seen twice stops as soon as it begins.
    """

    def __init__(self, checkpoints: str | os.PathLike[str]) -> None:
        files = [file for file in list_checkpoints(checkpoints) if file.kind == "numbered"]
        if not files:
            raise ValueError(f"{checkpoints}: expected numbered checkpoints, found none; train with save_freq=1")
        self._paths = {file.epoch: file.path for file in files}
        self._drawn: dict[int, tuple[bytes, str]] = {}
        first, last = min(self._paths), max(self._paths)
        self._slider = IntSlider(last, first, last, description="epoch", layout=Layout(width="26em"))
        self._play = Play(value=last, min=first, max=last, interval=800, description="play")
        jslink((self._play, "value"), (self._slider, "value"))
        self._slider.observe(self._draw, "value")
        super().__init__(HBox([self._play, self._slider]), width=936)
        self._draw()

    @property
    def value(self) -> int:
        """The epoch, counted from 0 as in the files; between two that were saved, the earlier one."""
        return max(epoch for epoch in self._paths if epoch <= self._slider.value)

    @value.setter
    def value(self, epoch: int) -> None:
        if epoch not in self._paths:
            raise ValueError(f"expected one of the epochs {', '.join(map(str, sorted(self._paths)))}, found {epoch!r}")
        self._slider.value = self._play.value = epoch  # the browser links them, and is not there yet at first

    def _draw(self, change: object = None) -> None:
        self._show(*self._picture())

    def _picture(self) -> tuple[bytes, str]:
        if self.value not in self._drawn:
            self._drawn[self.value] = at_epoch(self._paths[self.value], self.value)
        return self._drawn[self.value]
