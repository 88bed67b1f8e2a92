"""The command line: `koemorph`, or ``python -m koemorph_tutorial``. A command imports only the rooms that it uses."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .records import BEST_NAME, CheckpointError, Position, StopTraining

if TYPE_CHECKING:
    from .resume import Resumed

DONE, NO, UNUSABLE, STOPPED, INTERRUPTED = 0, 1, 2, 3, 130

_DESCRIPTION = """\
Train the KoeMorph example, stop it whenever you like, and bring it back.

The example learns to move a face (52 ARKit blendshapes) from synthetic speech, in a few seconds. Every run has a folder
of its own with its config and its checkpoints; the same library saves and resumes any PyTorch training loop.
"""
_EXIT_CODES = """\
exit codes: 0 done; 1 a test found something; 2 a setting, a file or a folder cannot be used, and one line says why;
3 stopped after saving; 130 interrupted
"""
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


_INSPECT = """\
Say what is in a checkpoint file, ours or any that torch.save wrote: where the run was and goes on, its metrics, its
config, and its tensors as a tree that adds up to the size of the file. Of a run's folder: its checkpoints as a table.

Only the headers are read, without torch, and nothing in a file can run.
"""


_DIFF = """\
Say in one sentence what differs between two checkpoint files, of whatever program, and then in detail, what matters
first: the model, where the runs are, metrics, weights, optimizer, config, random states. Tensors are compared bit by
bit, by their names; a .pth can be compared with the .safetensors made of its weights.

It reads both files once, without torch, and nothing in a file can run. Exit code 0: identical; 1: something differs.
"""


_VALIDATE = """\
Say of each file whether it is sound: every byte as it was written, every tensor in its place, every weight a number;
damaged: where, what was expected, what was found; incomplete: whole, but something that it takes is missing or is no
number; or that it cannot be told, and why. Any file of torch.save will do, TorchScript and safetensors as well; of a
folder, every checkpoint in it. Nothing in a file can run.
"""


_LAB = """\
Copy the lessons that you have no copy of to outputs/my-notebooks, and open JupyterLab in the first one.

A copy that is there is yours and is never written to. It needs the project's folder, where the lessons are.
"""


_CRASH_TEST = """\
Kill, or fail, a training at every file operation, and say what a fresh process makes of what is left each time:
killed there, killed in the middle of the write, no space left, an input/output error, a power cut.

Without --script it tries this library's own saves: a training of four epochs, and a roll-back.
"""
_CRASH_TEST_EXAMPLES = """\
A script is a training of yours, small enough to be run some hundred times. Any script that saves by a CheckpointManager
will do as it is; it runs in an empty folder each time. For any other way of saving it defines two functions:

  from koemorph_tutorial.testing import saved

  def train(directory):      # train to the end, going on from what lies there; after each save: saved(digest)
  def recover(directory):    # resume; return the digest of what was restored, None for a fresh start
"""


_CERTIFY = """\
Kill a training, resume it, and compare it with the training that nobody killed, bit by bit: what was handed over to be
saved, the random numbers and the metrics, right after the resume and at the end of each epoch from there on, and each
batch. The first thing that differs is named.

Without --script it certifies the example, with the settings given here. It is killed with SIGKILL at the end of an
epoch, inside a later one where the training can go on there, and at the end of the last but one. Each process is a new
one.
"""
_CERTIFY_EXAMPLES = """\
examples:
  koemorph certify                                    the example as it is
  koemorph certify training.epochs=4 training.threads=2 training.workers=2
  koemorph certify --script train.py                  a script of yours that saves by a CheckpointManager in a relative
                                                      directory; it runs in an empty folder, without arguments, and must
                                                      be the same each time: seed it
  koemorph certify --stop 3 --stop 5,20               stop at the beginning of epoch 3, and in epoch 5 after 20 batches
"""


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(UNUSABLE, f"{self.prog}: {message}; see {self.prog} --help\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each names the function that runs it."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="koemorph", description=_DESCRIPTION, epilog=_EXIT_CODES, formatter_class=layout)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    train = commands.add_parser(
        "train", help="train the example, or go on", description=_TRAIN, epilog=_TRAIN_EXAMPLES, formatter_class=layout
    )
    train.add_argument("--resume", metavar="PATH|auto", help="go on from a checkpoint file, a run's folder, or a run")
    train.add_argument("--run-dir", metavar="DIR", type=Path, help="the run's folder (default: outputs/<date>/<time>)")
    train.add_argument("settings", metavar="key=value", nargs="*", help="settings, by their full names")
    train.set_defaults(run=_train)

    evaluate = commands.add_parser(
        "evaluate",
        help="measure a checkpoint on the test voice",
        description="Measure the loss and the mean absolute error of a checkpoint on a voice that no training heard.",
    )
    evaluate.add_argument("--checkpoint", metavar="PATH", type=Path, required=True, help="a checkpoint file")
    evaluate.add_argument("--json", action="store_true", help="print JSON, for programs")
    evaluate.set_defaults(run=_evaluate)

    inspect = commands.add_parser(
        "inspect", help="say what is in a file or a run", description=_INSPECT, formatter_class=layout
    )
    inspect.add_argument("path", metavar="PATH|DIR", type=Path, help="a checkpoint file, or a run's folder")
    inspect.add_argument(
        "--json", action="store_true", help="print JSON, for programs: every tensor; long texts are cut"
    )
    inspect.set_defaults(run=_inspect)

    diff = commands.add_parser(
        "diff", help="say what differs between two files", description=_DIFF, formatter_class=layout
    )
    diff.add_argument("a", metavar="A", type=Path, help="a checkpoint file")
    diff.add_argument("b", metavar="B", type=Path, help="another one")
    diff.add_argument("--json", action="store_true", help="print JSON, for programs: everything that differs")
    diff.set_defaults(run=_diff)

    validate = commands.add_parser(
        "validate", help="say whether files are sound", description=_VALIDATE, formatter_class=layout
    )
    validate.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="a checkpoint file, or a run's folder")
    validate.add_argument("--json", action="store_true", help="print JSON, for programs: every finding of every file")
    validate.set_defaults(run=_validate)

    crash = commands.add_parser(
        "crash-test",
        help="kill a training at every file operation",
        description=_CRASH_TEST,
        epilog=_CRASH_TEST_EXAMPLES,
        formatter_class=layout,
    )
    crash.add_argument("--script", metavar="FILE", type=Path, help="a training of yours")
    crash.add_argument("--max-points", metavar="N", type=int, help="try only N of the operations, the same each time")
    crash.add_argument("--json", action="store_true", help="print JSON, for programs: every point, every trial")
    crash.set_defaults(run=_crash_test)

    certify = commands.add_parser(
        "certify",
        help="prove that a training resumes bitwise",
        description=_CERTIFY,
        epilog=_CERTIFY_EXAMPLES,
        formatter_class=layout,
    )
    certify.add_argument("--script", metavar="FILE", type=Path, help="a training of yours")
    certify.add_argument(
        "--stop", metavar="EPOCH[,BATCH]", action="append", type=_position, help="where to stop (default: two places)"
    )
    certify.add_argument(
        "--timeout", metavar="SECONDS", type=_seconds, default=600.0, help="for one process (default: %(default)g)"
    )
    certify.add_argument("--json", action="store_true", help="print the receipt as JSON, for programs")
    certify.add_argument("settings", metavar="key=value", nargs="*", help="settings of the example, by full names")
    certify.set_defaults(run=_certify)

    lab = commands.add_parser(
        "lab", help="open your copies of the lessons in JupyterLab", description=_LAB, formatter_class=layout
    )
    lab.add_argument("--reset", metavar="NN", help="bring this lesson back as it comes; your copy is moved aside")
    lab.set_defaults(run=_lab)

    progress = commands.add_parser(
        "progress",
        help="list what you have answered in the lessons",
        description="List the questions of the lessons, and how you answered them so far.",
    )
    progress.set_defaults(run=_progress)
    return parser


def _position(text: str) -> Position:
    epoch, comma, batch = text.partition(",")
    try:
        return Position(epoch=int(epoch), batch=int(batch) if comma else 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected EPOCH or EPOCH,BATCH, both from 0, found {text!r}") from None


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 1e7:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a time above 0, in seconds, found {text!r}")


@contextlib.contextmanager
def _ending_its_processes() -> Iterator[None]:
    """Have a request to end, however it comes, end the processes that a test has started as well."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = make_parser().parse_args(arguments)
    logging.getLogger(__package__).addHandler(logging.NullHandler())  # what the library logs is printed here anyway
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        code = run(options)
        if sys.stdout is not None:  # None where it was closed
            sys.stdout.flush()
        return code
    except CheckpointError as error:
        return _unusable(str(error))
    except KeyboardInterrupt:  # before anything has begun that could be saved
        print("\nkoemorph: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left: `koemorph train | head`
        sys.stderr.close()
        return DONE
    except OSError as error:  # of our output, or of a folder on the way to a file
        where = f"{error.filename}: " if error.filename else ""
        _close_refusing_output()
        return _unusable(f"{where}{error.strerror or error}")


def _close_refusing_output() -> None:
    """Close an output that takes nothing, or Python would try it once more at its end, and complain."""
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: there is no output
        try:
            sys.stdout.flush()
        except OSError:
            sys.stdout.close()


def _unusable(message: str) -> int:
    from .text import printable

    print(f"koemorph: {printable(' '.join(message.split()), 2000)}", file=sys.stderr)
    return UNUSABLE


def _train(options: argparse.Namespace) -> int:
    import torch

    from .training.config import ConfigError, load_config
    from .training.runs import find_run, new_run_dir, refuse_used
    from .training.trainer import KoeMorphTrainer

    run = None
    try:
        if options.resume is None:
            run_dir: Path = options.run_dir or new_run_dir()
            refuse_used(run_dir)
            config = load_config(options.settings)
        else:
            run = find_run(options.resume, options.run_dir)
            run_dir = run.run_dir
            config = load_config(options.settings, base=run.config)
        if config.training.threads is not None:
            torch.set_num_threads(config.training.threads)
        trainer = KoeMorphTrainer(config, run_dir)
    except ConfigError as error:
        return _unusable(str(error))

    def say_resumed(resumed: Resumed) -> None:
        print(*resumed.lines(), sep="\n", flush=True)

    go_on = f"koemorph train --resume auto --run-dir {shlex.quote(str(run_dir))}"
    print(f"run {run_dir}: {trainer.describe()}", flush=True)
    try:
        result = trainer.train(
            run.source if run else None,
            on_epoch=lambda report: print(report, flush=True),
            on_resumed=say_resumed,
            signals=(signal.SIGTERM, signal.SIGUSR1, signal.SIGINT),
        )
    except StopTraining as stop:
        try:
            print(stop, f"go on by: {go_on}", sep="\n", flush=True)
        except BrokenPipeError:  # Ctrl-C has ended the reader of our output as well: `koemorph train | tee log`
            with contextlib.suppress(OSError):
                sys.stdout.close()  # Python would try it once more at its end, and complain
            sys.stdout = None
            print(f"go on by: {go_on}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:  # before it listened
        print(f"\nkoemorph: interrupted; what was saved last goes on by: {go_on}", file=sys.stderr)
        return INTERRUPTED
    print(result)
    if result.best.value is not None:
        best = shlex.quote(str(run_dir / "checkpoints" / BEST_NAME))
        print(f"measure it: koemorph evaluate --checkpoint {best}")
    return DONE


def _evaluate(options: argparse.Namespace) -> int:
    from .training.config import ConfigError
    from .training.evaluation import evaluate_checkpoint

    try:
        evaluation = evaluate_checkpoint(options.checkpoint)
    except ConfigError as error:
        return _unusable(f"{options.checkpoint}: its config cannot be used: {error}")
    if options.json:
        print(evaluation.to_json())
    else:
        from rich.console import Console

        Console().print(evaluation.to_table())
    return DONE


def _inspect(options: argparse.Namespace) -> int:
    import shutil

    from .inspection.folder import inspect_directory
    from .inspection.summary import inspect_checkpoint
    from .inspection.views import directory_lines, file_lines

    columns = max(shutil.get_terminal_size().columns, 60)
    if os.path.isdir(options.path):
        run = inspect_directory(options.path)
        lines = [run.to_json()] if options.json else directory_lines(run, columns)
    else:
        file = inspect_checkpoint(options.path)
        lines = [file.to_json()] if options.json else file_lines(file, columns)
    print(*map(_shown, lines), sep="\n")
    return DONE


def _diff(options: argparse.Namespace) -> int:
    import shutil

    from .difference.compare import diff_checkpoints
    from .difference.views import difference_lines

    difference = diff_checkpoints(options.a, options.b)
    columns = max(shutil.get_terminal_size().columns, 60)
    lines = [difference.to_json()] if options.json else difference_lines(difference, columns)
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    print("\n".join(lines).encode(encoding, "backslashreplace").decode(encoding))
    return DONE if difference.identical else NO


def _validate(options: argparse.Namespace) -> int:
    from .validation import checkpoints_in, validate_checkpoint

    reports, unusable = [], []
    for path in (found for given in options.paths for found in checkpoints_in(given)):
        try:
            reports.append(validate_checkpoint(path))
        except CheckpointError as error:
            unusable.append(str(error))
        else:
            if not options.json:
                print(*map(_shown, reports[-1].lines()), sep="\n", flush=True)
    if options.json:
        print("[" + ",\n".join(report.to_json() for report in reports) + "]")
    for message in unusable:
        _unusable(message)
    return UNUSABLE if unusable else DONE if all(reports) else NO


def _shown(line: str) -> str:
    """Return a line as the output can take it: what it cannot show is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)


@_ending_its_processes()
def _crash_test(options: argparse.Namespace) -> int:
    import json

    from .testing.crash import CrashTestError, Recover, Train, Trial, crash_test
    from .testing.example import recover, train, train_and_go_back
    from .testing.scripts import load_script

    trainings: dict[str, tuple[Train, Recover]] = {
        "a training of four epochs": (train, recover),
        "a roll-back": (train_and_go_back, recover),
    }
    on_terminal = sys.stderr is not None and sys.stderr.isatty()

    def show_progress(trial: Trial, number: int, total: int) -> None:
        if on_terminal:
            end = "\n" if number == total else "\r"
            print(f"trial {number:5,} of {total:,}", end=end, file=sys.stderr, flush=True)

    campaigns = {}
    try:
        if options.script is not None:
            trainings = {str(options.script): load_script(options.script)}
        for name, (training, recovery) in trainings.items():
            campaigns[name] = crash_test(training, recovery, max_points=options.max_points, on_trial=show_progress)
            if not options.json:
                print(f"{name}:", *(f"  {line}" for line in campaigns[name].lines()), sep="\n", flush=True)
    except CrashTestError as error:
        return _unusable(f"{options.script or 'crash-test'}: {error}")
    except ValueError as error:
        return _unusable(str(error))
    except KeyboardInterrupt:
        print("\nkoemorph: interrupted", file=sys.stderr)
        return INTERRUPTED
    if options.json:
        print(json.dumps({name: json.loads(campaign.to_json()) for name, campaign in campaigns.items()}))
    return NO if any(campaign.not_ok for campaign in campaigns.values()) else DONE


@_ending_its_processes()
def _certify(options: argparse.Namespace) -> int:
    from .testing.certificate import CertificateError, certify_script
    from .training.config import ConfigError, load_config

    script = options.script
    if script is not None and options.settings:
        return _unusable(f"certify: {options.settings[0]}: settings are those of the example; a script has its own")
    try:
        if script is None:
            load_config(options.settings)
            train = [sys.executable, "-m", __package__ or "koemorph_tutorial", "train", "--run-dir", "run"]
            command, resume = [*train, *options.settings], [*train, "--resume", "auto"]
        elif not script.is_file():
            return _unusable(f"{script}: expected a Python script, found none")
        else:
            command = resume = [sys.executable, str(script.resolve())]
        certificate = certify_script(command, resume=resume, stops=options.stop, timeout=options.timeout)
    except ConfigError as error:
        return _unusable(str(error))
    except CertificateError as error:
        return _unusable(f"{script or 'certify'}: {error}")
    except KeyboardInterrupt:
        print("\nkoemorph: interrupted", file=sys.stderr)
        return INTERRUPTED
    print(certificate.to_json() if options.json else "\n".join(certificate.lines()))
    return DONE if certificate.certified else NO


def _lab(options: argparse.Namespace) -> int:
    from .teaching.copies import launch, reset_copy
    from .teaching.places import project_root

    root = project_root()
    if options.reset is None:
        launch(root)  # does not come back: this process becomes JupyterLab
    else:
        print(*reset_copy(root, options.reset), sep="\n")
    return DONE


def _progress(options: argparse.Namespace) -> int:
    from rich.console import Console

    from .teaching.logbook import progress_file, read, to_table
    from .teaching.places import project_root

    Console().print(to_table(read(progress_file(project_root()))))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
