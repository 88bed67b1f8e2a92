"""`koemorph train` and `evaluate`: the example that is being checkpointed."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from koemorph_tutorial.commands.arguments import Commands, add_command, add_json
from koemorph_tutorial.commands.outcome import DONE, INTERRUPTED, STOPPED, show, unusable
from koemorph_tutorial.records import BEST_NAME, StopTraining

if TYPE_CHECKING:
    from koemorph_tutorial.training.runs import RunToResume
    from koemorph_tutorial.training.settings import Config

_TRAIN = """\
Train, save when it is due, and say what was saved and why.

Settings are given by their full names, for example training.epochs=30 or training.checkpoint.save_freq=2; the file
config.yaml of a run lists them all. A resumed run goes on with the settings of its checkpoint, and those given here.
"""
_TRAIN_EXAMPLES = """\
examples:
  koemorph train                                      a new run in outputs/<date>/<time>
  koemorph train training.epochs=30 seed=1            with other settings
  koemorph train --resume auto                        go on with the youngest run under outputs/
  koemorph train --resume auto --run-dir DIR          go on with the run in DIR
  koemorph train --resume DIR/checkpoints/checkpoint_epoch_005.pth
                                                      go back to an older file of a run; what is newer is moved aside
  koemorph train --resume FILE --run-dir NEW          go on from FILE in a new folder; FILE's run stays as it is
"""
_EVALUATE = """\
Measure the loss and the mean absolute error of a checkpoint on a voice that
no training heard.
"""


def add(commands: Commands) -> None:
    """Add the two commands."""
    train = add_command(commands, "train", _train, "train the example, or go on", _TRAIN, _TRAIN_EXAMPLES)
    train.add_argument("--resume", metavar="PATH|auto", help="go on from a checkpoint file, a run's folder, or a run")
    train.add_argument("--run-dir", metavar="DIR", type=Path, help="the run's folder (default: outputs/<date>/<time>)")
    train.add_argument("settings", metavar="key=value", nargs="*", help="settings, by their full names")

    evaluate = add_command(commands, "evaluate", _evaluate, "measure a checkpoint on the test voice", _EVALUATE)
    evaluate.add_argument("--checkpoint", metavar="PATH", type=Path, required=True, help="a checkpoint file")
    add_json(evaluate)


def _train(options: argparse.Namespace) -> int:
    import torch

    from koemorph_tutorial.training.config import ConfigError, load_config
    from koemorph_tutorial.training.runs import find_run, new_run_dir, refuse_used
    from koemorph_tutorial.training.trainer import KoeMorphTrainer

    run = None
    try:
        if options.resume is None:
            run_dir: Path = options.run_dir or new_run_dir()
            refuse_used(run_dir)
            config = load_config(options.settings)
        else:
            run = find_run(options.resume, options.run_dir)
            run_dir = run.run_dir
            config = _config_of(run, options.settings)
        if config.training.threads is not None:
            torch.set_num_threads(config.training.threads)
        trainer = KoeMorphTrainer(config, run_dir)
    except ConfigError as error:
        return unusable(str(error))

    go_on = f"koemorph train --resume auto --run-dir {shlex.quote(str(run_dir))}"
    show([f"run {run_dir}: {trainer.describe()}"])
    try:
        result = trainer.train(
            run.source if run else None,
            on_epoch=lambda report: show([str(report)]),
            on_resumed=lambda resumed: show(resumed.lines()),
            signals=(signal.SIGTERM, signal.SIGUSR1, signal.SIGINT),
        )
    except StopTraining as stop:
        try:
            show([str(stop), f"go on by: {go_on}"])
        except BrokenPipeError:  # Ctrl-C has ended the reader of our output as well: `koemorph train | tee log`
            with contextlib.suppress(OSError):
                sys.stdout.close()  # Python would try it once more at its end, and complain
            sys.stdout = None
            print(f"go on by: {go_on}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:  # before it listened
        print(f"\nkoemorph: interrupted; what was saved last goes on by: {go_on}", file=sys.stderr)
        return INTERRUPTED
    show([str(result)])
    if result.best.value is not None:
        best = shlex.quote(str(run_dir / "checkpoints" / BEST_NAME))
        show([f"measure it: koemorph evaluate --checkpoint {best}"])
    return DONE


def _config_of(run: RunToResume, settings: Sequence[str]) -> Config:
    """Return the config of a run's file with `settings` on top; where these are not to blame, name the file."""
    from koemorph_tutorial.training.config import ConfigError, load_config

    try:
        return load_config(settings, base=run.config)
    except ConfigError as error:
        load_config(settings)
        raise ConfigError(f"{run.file}: its config cannot be used: {error}") from None


def _evaluate(options: argparse.Namespace) -> int:
    from koemorph_tutorial.training.config import ConfigError
    from koemorph_tutorial.training.evaluation import evaluate_checkpoint

    try:
        evaluation = evaluate_checkpoint(options.checkpoint)
    except ConfigError as error:
        return unusable(f"{options.checkpoint}: its config cannot be used: {error}")
    if options.json:
        show([evaluation.to_json()])
    else:
        from rich.console import Console

        Console().print(evaluation.to_table())
    return DONE
