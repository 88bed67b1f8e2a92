"""A checkpoint measured on a voice that no training has heard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from koemorph_tutorial.inference import load_for_inference
from koemorph_tutorial.records import CheckpointFile, MismatchError, UnsupportedCheckpointError
from koemorph_tutorial.resume import find
from koemorph_tutorial.text import json_text
from koemorph_tutorial.training.config import load_config
from koemorph_tutorial.training.dataset import make_split
from koemorph_tutorial.training.model import SimplifiedKoeMorphModel
from koemorph_tutorial.training.settings import Config
from koemorph_tutorial.training.trainer import evaluate_model

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How good a checkpoint is: `metrics` on the test split, `saved_metrics` as they stand in the file."""

    checkpoint: str
    epoch: int
    global_step: int
    speakers: tuple[str, ...]
    windows: int
    metrics: Mapping[str, float]
    saved_metrics: Mapping[str, float]

    def to_json(self) -> str:
        """Return one JSON object; a value that is not finite is null there."""
        return json_text(asdict(self))

    def to_table(self) -> Table:
        """Return the same as a table."""
        from rich.table import Table

        table = Table(title=f"epoch {self.epoch}, global step {self.global_step}", title_justify="left")
        table.add_column("measured on")
        for name in ("windows", "loss (MSE)", "MAE"):
            table.add_column(name, justify="right")
        rows = (
            (f"test: {', '.join(self.speakers)}", str(self.windows), self.metrics),
            ("validation, when it was saved", "", self.saved_metrics),
        )
        for label, windows, metrics in rows:
            values = (f"{metrics[name]:.5f}" if name in metrics else "-" for name in ("loss", "mae"))
            table.add_row(label, windows, *values)
        return table


@dataclass(frozen=True, kw_only=True)
class Built:
    """The example's model as a checkpoint has it, in eval mode, and the `metrics` in the file."""

    file: CheckpointFile
    config: Config
    model: SimplifiedKoeMorphModel
    metrics: Mapping[str, float]


def build_from(path: str | os.PathLike[str], weights: str = "model") -> Built:
    """Build the example's model from a checkpoint's own config, and fill it with its weights ("ema": the averaged).

    Raises:
        CheckpointError: no sound checkpoint, or not one of this model. ConfigError: its config cannot be used.
    """
    found = find(Path(path))
    stored = found.checkpoint.get("config")
    if not isinstance(stored, Mapping) or not stored:
        raise UnsupportedCheckpointError(
            f"{path}: expected a config to build the model from, found none; build the model yourself and load it with "
            "load_for_inference"
        )
    config = load_config([], base=stored)
    try:
        model, metrics = load_for_inference(found.file.path, SimplifiedKoeMorphModel(config.model), weights=weights)
    except MismatchError as error:
        if weights != "model":  # a name that the file does not have is no fault of its config
            raise
        built = ", ".join(f"{name} {value}" for name, value in asdict(config.model).items())
        raise MismatchError(
            f"{error}; the model was built from the file's own config ({built}), so its config and its weights are of "
            "two models"
        ) from None
    return Built(file=found.file, config=config, model=model, metrics=metrics)


def evaluate_checkpoint(path: str | os.PathLike[str]) -> Evaluation:
    """Measure a checkpoint on the test split of its own config.

    Raises:
        CheckpointError: no sound checkpoint, or not one of this model. ConfigError: its config cannot be used.
    """
    built = build_from(path)
    data = built.config.data
    windows = make_split(data, "test")
    return Evaluation(
        checkpoint=str(built.file.path),
        epoch=built.file.epoch,
        global_step=built.file.position.global_step,
        speakers=data.test_speakers,
        windows=len(windows),
        metrics=evaluate_model(built.model, windows),
        saved_metrics=built.metrics,
    )
