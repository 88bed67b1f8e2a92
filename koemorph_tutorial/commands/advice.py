"""`koemorph advise`: how often to save."""

from __future__ import annotations

import argparse

from koemorph_tutorial.commands.arguments import Commands, above_zero, add_command, add_json
from koemorph_tutorial.commands.outcome import DONE, show

_ADVISE = """\
Say how often to save, by Young (1974) and Daly (2006): rarely, and a failure costs much work; often, and saving does.

S is how long one save holds the training up: Saved.seconds, which on_saved is given and the log says. H is how long the
training runs, on average, until something stops it: a preemption, a crash, a limit of the queue.
"""


def add(commands: Commands) -> None:
    """Add the command."""
    advise = add_command(commands, "advise", _advise, "say how often to save", _ADVISE)
    advise.add_argument(
        "--save-seconds",
        metavar="S",
        type=above_zero(1e9, "a time above 0, in seconds"),
        required=True,
        help="how long a save holds the training up",
    )
    advise.add_argument(
        "--mtbf-hours",
        metavar="H",
        type=above_zero(1e9, "a time above 0, in hours"),
        required=True,
        help="mean time between failures",
    )
    add_json(advise)


def _advise(options: argparse.Namespace) -> int:
    from koemorph_tutorial.save_policy import advise

    advice = advise(options.save_seconds, options.mtbf_hours * 3600)
    show([advice.to_json()] if options.json else advice.lines())
    return DONE
