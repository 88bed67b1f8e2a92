"""`koemorph crash-test` and `certify`: a training is killed at every operation, or compared with one nobody killed."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from koemorph_tutorial.commands.arguments import Commands, above_zero, add_command, add_json
from koemorph_tutorial.commands.outcome import DONE, NO, interrupted, show, unusable
from koemorph_tutorial.records import Position

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


def add(commands: Commands) -> None:
    """Add the two commands."""
    crash = add_command(
        commands,
        "crash-test",
        _crash_test,
        "kill a training at every file operation",
        _CRASH_TEST,
        _CRASH_TEST_EXAMPLES,
    )
    crash.add_argument("--script", metavar="FILE", type=Path, help="a training of yours")
    crash.add_argument("--max-points", metavar="N", type=int, help="try only N of the operations, the same each time")
    add_json(crash, "every point, every trial")

    certify = add_command(
        commands, "certify", _certify, "prove that a training resumes bitwise", _CERTIFY, _CERTIFY_EXAMPLES
    )
    certify.add_argument("--script", metavar="FILE", type=Path, help="a training of yours")
    certify.add_argument(
        "--stop", metavar="EPOCH[,BATCH]", action="append", type=_position, help="where to stop (default: as above)"
    )
    certify.add_argument(
        "--processes",
        metavar="N",
        type=int,
        default=1,
        help="start the script N times by torchrun, to train together; killed are all of them, and then the last alone",
    )
    certify.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=above_zero(1e7, "a time above 0, in seconds"),
        default=600.0,
        help="for one process (default: %(default)g)",
    )
    certify.add_argument("--json", action="store_true", help="print the receipt as JSON, for programs")
    certify.add_argument("settings", metavar="key=value", nargs="*", help="settings of the example, by full names")


def _position(text: str) -> Position:
    epoch, comma, batch = text.partition(",")
    try:
        return Position(epoch=int(epoch), batch=int(batch) if comma else 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected EPOCH or EPOCH,BATCH, both from 0, found {text!r}") from None


@contextlib.contextmanager
def _ending_its_processes() -> Iterator[None]:
    """Have a request to end, however it comes, end the processes that a test has started as well."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@_ending_its_processes()
def _crash_test(options: argparse.Namespace) -> int:
    import json

    from koemorph_tutorial.testing.bench import CrashTestError, Recover, Train
    from koemorph_tutorial.testing.children import KilledError
    from koemorph_tutorial.testing.crash import Trial, crash_test
    from koemorph_tutorial.testing.example import recover, train, train_and_go_back
    from koemorph_tutorial.testing.scripts import load_script

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
                show([f"{name}:", *(f"  {line}" for line in campaigns[name].lines())])
    except CrashTestError as error:
        return unusable(f"{options.script or 'crash-test'}: {error}")
    except (ValueError, KilledError) as error:
        return unusable(str(error))
    except KeyboardInterrupt:
        return interrupted()
    if options.json:
        show([json.dumps({name: json.loads(campaign.to_json()) for name, campaign in campaigns.items()})])
    return NO if any(campaign.not_ok for campaign in campaigns.values()) else DONE


@_ending_its_processes()
def _certify(options: argparse.Namespace) -> int:
    from koemorph_tutorial.testing.certificate import certify_script
    from koemorph_tutorial.testing.children import KilledError
    from koemorph_tutorial.testing.stops import CertificateError
    from koemorph_tutorial.training.config import ConfigError, load_config

    script = options.script
    if options.processes != 1 and (script is None or options.processes < 1):
        return unusable("certify: --processes: expected a number from 1, and a --script that trains so")
    if script is not None and options.settings:
        return unusable(f"certify: {options.settings[0]}: settings are those of the example; a script has its own")
    try:
        if script is None:
            load_config(options.settings)
            train = [sys.executable, "-m", "koemorph_tutorial", "train", "--run-dir", "run"]
            command, resume = [*train, *options.settings], [*train, "--resume", "auto"]
        elif not script.is_file():
            return unusable(f"{script}: expected a Python script, found none")
        else:
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={options.processes}"]
            several = torchrun if options.processes > 1 else []
            command = resume = [sys.executable, *several, str(script.resolve())]
        certificate = certify_script(
            command, resume=resume, stops=options.stop, timeout=options.timeout, processes=options.processes
        )
    except (ConfigError, KilledError) as error:
        return unusable(str(error))
    except CertificateError as error:
        return unusable(f"{script or 'certify'}: {error}")
    except KeyboardInterrupt:
        return interrupted()
    show([certificate.to_json()] if options.json else certificate.lines())
    return DONE if certificate.certified else NO
