"""Lesson 05: what a kill costs, how often to save, and how to save while the training goes on."""

from __future__ import annotations

import numbers
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from koemorph_tutorial.records import CheckpointSettings
from koemorph_tutorial.teaching.cells import form
from koemorph_tutorial.teaching.lessons import Choice, Exercise, Lesson, Misconception, Option, WrongAnswerError
from koemorph_tutorial.teaching.slow_disk import HELD, Gate, SlowDisk
from koemorph_tutorial.teaching.trial import (
    expect_something,
    first_line,
    is_nothing,
    raise_for_stub,
    same,
    shown,
    wrong_if,
)

# ------------------------------------------------------------------------------------------------ 05.1 and 05.2

GOES_ON = Choice(
    asks="With which epoch does the run go on?",
    options={
        "a": Option(
            text="10: that is the epoch in the newest file.",
            reply="That is the epoch that the file ends: it is done, and the next one begins. The recipe repeats it, "
            "which was the first hole of lesson 03.",
        ),
        "b": Option(
            text="11: epoch 10 is done, and of what came after it no file knows.",
            reply="And so 11 and 12 are trained a second time, though they were finished. What that costs, and what "
            "to pay against it, is this lesson.",
        ),
        "c": Option(
            text="13: that is where it was stopped.",
            reply="Nobody told the disk. A run that comes back knows what is in its files, and the newest of them ends "
            "with epoch 10: 11 and 12 are gone as well.",
        ),
    },
    right="b",
)

PREDICTION = Choice(
    asks="How many epochs have to be trained again?",
    options={
        "a": Option(
            text="Three at most: as long as a network learns, a new best is never far.",
            reply="At first each epoch is a new best. Then they become rare, and the longer a run lasts, the rarer: "
            "most of its epochs are not its best. And it is the long run that has much to lose.",
        ),
        "b": Option(
            text="Four to nine: any epoch may be the best, so about half of them are lost.",
            reply="On average that is so, where a run learns no more and its loss only goes up and down. One run is "
            "not the average. And even half of a long run is much to lose.",
        ),
        "c": Option(
            text="Ten or more: the best of a run may come early.",
            reply="The best model is safe, the run is not. For whoever wants to use the network that may be enough. "
            "Whoever wants to train on has lost nearly everything.",
        ),
    },
    right="c",
)


# ------------------------------------------------------------------------------------------------ 05.3


def _again(epoch: int, save_freq: int) -> int:
    return (epoch - 1) % save_freq + 1


_TAKEN_FOR: Mapping[str, Callable[[int, int], float]] = {
    "due already": lambda epoch, save_freq: epoch % save_freq,
    "finished": lambda epoch, save_freq: (epoch - 1) % save_freq,
    "at worst": lambda epoch, save_freq: save_freq,
    "on average": lambda epoch, save_freq: save_freq / 2,
    "from 1": lambda epoch, save_freq: epoch % save_freq + 1,
    "newest": lambda epoch, save_freq: (epoch - 1) // save_freq * save_freq,
    "next": lambda epoch, save_freq: (epoch - 1) // save_freq * save_freq + 1,
}


def _examine_again(trained_again: Any) -> None:
    raise_for_stub(trained_again, _counted("return None  # your line"))
    kills = [(epoch, save_freq) for save_freq in (5, 3, 1, 2, 7) for epoch in (13, *range(1, 31))]
    said = {kill: trained_again(*kill) for kill in kills}
    for answer in said.values():
        expect_something(answer, "trained_again")
        if isinstance(answer, bool) or not isinstance(answer, numbers.Real):
            raise WrongAnswerError(f"expected a number of epochs, found {shown(answer)}")
    for name, wrong in _TAKEN_FOR.items():
        wrong_if(all(answer == wrong(*kill) for kill, answer in said.items()), name)
    for (epoch, save_freq), answer in said.items():
        if answer != _again(epoch, save_freq):
            newest = epoch - _again(epoch, save_freq)
            raise WrongAnswerError(
                f"Killed in epoch {epoch} with `save_freq={save_freq}` it says {answer:g}. The newest file ends epoch "
                f"{newest}, so the run goes on with {newest + 1} and comes to the end of {epoch} after "
                f"{epoch - newest} epoch{'s' * (epoch - newest != 1)}."
            )


_counted = form('''\
def trained_again(epoch, save_freq):
    """Return how many epochs a kill in the middle of `epoch` costs, this one included."""
    {lines}
''')


AGAIN = Exercise(
    asks="What a kill costs",
    answer="trained_again",
    expects="a function",
    examine=_examine_again,
    misconceptions={
        "due already": Misconception(
            says="Nearly. In the middle of epoch 10, with `save_freq=5`, it says that nothing is lost: epoch 10 is "
            "due, but it has not ended. The newest file ends epoch 5, so 6 to 10 are trained again: five.",
            example=_counted("return epoch % save_freq"),
        ),
        "finished": Misconception(
            says="You count the epochs that were finished and not saved. The one under way has to be trained again, "
            "too: one more.",
            example=_counted("return (epoch - 1) % save_freq"),
        ),
        "at worst": Misconception(
            says="That is the worst that can happen. In the middle of epoch 11, with `save_freq=5`, epoch 10 has just "
            "been saved, and only one epoch is lost.",
            example=_counted("return save_freq"),
        ),
        "on average": Misconception(
            says="About that is lost on average, over many kills. Asked for is what this kill costs: in the middle of "
            "epoch 11, with `save_freq=5`, it is one epoch, in the middle of 15 it is five.",
            example=_counted("return save_freq / 2"),
        ),
        "from 1": Misconception(
            says="You count epochs from 1, and so yours saves after 4, 9, 14. Counted from 0 the first epoch that is "
            "due is 0, then 5, then 10.",
            example=_counted("return epoch % save_freq + 1"),
        ),
        "newest": Misconception(
            says="That is the number of the newest file. Asked for is how far it is from there to the end of the epoch "
            "that was hit.",
            example=_counted("return (epoch - 1) // save_freq * save_freq"),
        ),
        "next": Misconception(
            says="That is the epoch with which the run goes on. Asked for is how many there are from it to the one "
            "that was hit, both included.",
            example=_counted("return (epoch - 1) // save_freq * save_freq + 1"),
        ),
    },
    hint="In the middle of `epoch` the last one that has ended is `epoch - 1`. How many epochs after one that is due "
    "is that? `%` says it. And the one under way comes on top.",
    solution=_counted("return (epoch - 1) % save_freq + 1"),
    why="From one epoch to all `save_freq`, half of them on average. That average is what the valley is made of: "
    "whoever doubles the interval loses twice as much with each kill.",
)


# ------------------------------------------------------------------------------------------------ 05.4

_SETTINGS = [field.name for field in fields(CheckpointSettings)]


_CASES = (  # interval and epoch, in seconds
    *((1800, 60), (1800, 600), (3600, 1700), (600, 100), (7200, 240), (1800, 1300)),
    *((1800, 7200), (900, 86400), (1800, 3700), (1800, 2400), (600, 1000), (3600, 5400), (7200, 10000)),
    (43200, 3700),  # a long epoch, and yet a short one
)


def _examine_setting(setting_for: Any) -> None:
    raise_for_stub(setting_for, _setting('return {"save_freq": int(interval_seconds / epoch_seconds)}'))
    for interval, epoch in _CASES:
        _compare(setting_for, interval, epoch)


def _compare(setting_for: Any, interval: int, epoch: int) -> None:
    answer = _asked(setting_for, interval, epoch)
    case = f"With an interval of {_time(interval)} and epochs of {_time(epoch)} it returns {shown(answer)}"
    try:
        settings = CheckpointSettings(**answer)
    except (TypeError, ValueError) as error:
        if answer.get("save_freq") == 0 and epoch > interval:
            raise WrongAnswerError("zero") from error
        if answer.get("save_freq") == 0 and _whole_epochs(setting_for) == 4:
            raise WrongAnswerError("upside down") from error
        if isinstance(answer.get("save_freq"), float):
            raise WrongAnswerError("float") from error
        raise WrongAnswerError(f"{case}, which the manager refuses: {first_line(error)}") from error
    apart: float = settings.save_freq * epoch  # seconds of work between two saves
    if settings.every_minutes is not None:
        apart = min(apart, settings.every_minutes * 60)
    # Whole epochs may be rounded up or down, minutes to whole ones.
    least, most = (0.5, 2) if epoch < interval else (0.9, 1.1)
    if least * interval <= apart <= most * interval:
        return
    if epoch < interval:
        wrong_if("save_freq" not in answer and _whole_epochs(setting_for) is not None, "swapped")
        if answer == {"every_minutes": interval / 60} and setting_for(7200, 240) == {"every_minutes": 120}:
            raise WrongAnswerError("always minutes")
        if settings.save_freq == round(interval / 60) and _asked(setting_for, 7200, 240).get("save_freq") == 120:
            raise WrongAnswerError("minutes")
        wrong_if(_whole_epochs(setting_for) == 4, "upside down")
    elif settings.every_minutes == interval:
        raise WrongAnswerError("seconds")
    elif apart == epoch and (interval, epoch) == (1800, 7200):
        raise WrongAnswerError("at least one")
    elif apart == epoch and (interval, epoch) == (1800, 2400):
        raise WrongAnswerError("a little longer")
    default = "" if "save_freq" in answer or apart != settings.save_freq * epoch else " (`save_freq` is 5)"
    raise WrongAnswerError(f"{case}{default}: that is a save after every {_time(apart)} of work.")


def _whole_epochs(setting_for: Any) -> Any:
    """Return the `save_freq` that it gives for epochs of four intervals, None if it gives none."""
    answer = setting_for(1800, 7200)
    return answer.get("save_freq") if isinstance(answer, dict) else None


def _asked(setting_for: Any, interval: int, epoch: int) -> dict[str, Any]:
    answer = setting_for(interval, epoch)
    wrong_if(is_nothing(answer), "`setting_for` returned None: is `return` missing on one way?")
    if not isinstance(answer, dict) or not all(name in _SETTINGS for name in answer):
        found = shown(answer)
        raise WrongAnswerError(f'expected {{"save_freq": …}} or {{"every_minutes": …}}, found {found}')
    return answer


def _time(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.3g} minute{'s' * (minutes != 1)}" if minutes < 120 else f"{minutes / 60:.3g} hours"


_setting = form('''\
def setting_for(interval_seconds, epoch_seconds):
    """Return the setting of the manager that fits: {"save_freq": …} or {"every_minutes": …}."""
    {lines}
''')


_LONG = "if epoch_seconds > interval_seconds:"
_EVERY = 'return {"every_minutes": interval_seconds / 60}'
_MINUTES = f"    {_EVERY}"

SETTING = Exercise(
    asks="From seconds to a setting",
    answer="setting_for",
    expects="a function",
    examine=_examine_setting,
    misconceptions={
        "zero": Misconception(
            says="For an epoch that is longer than the interval it still says `save_freq` 0, which the manager "
            "refuses: no whole number of such epochs is short enough.",
            example=_setting('return {"save_freq": interval_seconds // epoch_seconds}'),
        ),
        "at least one": Misconception(
            says="The manager takes that. But with epochs of 2 hours it saves every 2 hours, where 30 minutes were "
            "advised: a kill costs four times as much. A long epoch has to be saved inside.",
            example=_setting('return {"save_freq": max(1, int(interval_seconds / epoch_seconds))}'),
        ),
        "always minutes": Misconception(
            says="Right for long epochs. For short ones `save_freq` is in force as well, and where you say nothing it "
            "is 5: with epochs of a minute that is a save every 5 minutes, where 30 were advised. Whole epochs need no "
            "more than `save_freq`.",
            example=_setting(_EVERY),
        ),
        "swapped": Misconception(
            says="The two are swapped: `save_freq` is for epochs that fit into the interval, `every_minutes` for those "
            "that do not.",
            example=_setting(_LONG, '    return {"save_freq": round(interval_seconds / epoch_seconds)}', _EVERY),
        ),
        "a little longer": Misconception(
            says="Epochs of 2 hours are saved inside, as they should be. But epochs of 40 minutes are longer than an "
            "interval of 30 as well, and these are saved at their end only.",
            example=_setting(
                "whole = round(interval_seconds / epoch_seconds)",
                'return {"save_freq": whole} if whole else {"every_minutes": interval_seconds / 60}',
            ),
        ),
        "seconds": Misconception(
            says="Right, but for a unit: you were given seconds, and `every_minutes` counts minutes. 1800 of them are "
            "30 hours.",
            example=_setting(
                _LONG,
                '    return {"every_minutes": interval_seconds}',
                'return {"save_freq": round(interval_seconds / epoch_seconds)}',
            ),
        ),
        "minutes": Misconception(
            says="You put the minutes of the interval into `save_freq`, which counts epochs. With epochs of a minute "
            "that is the same; with epochs of ten it saves ten times too rarely.",
            example=_setting(_LONG, _MINUTES, 'return {"save_freq": round(interval_seconds / 60)}'),
        ),
        "float": Misconception(
            says="`save_freq` is a whole number of epochs, and yours is a float, as `/` makes it even of whole "
            "numbers: the manager refuses it. `round` or `int` makes a whole one.",
            example=_setting(_LONG, _MINUTES, 'return {"save_freq": interval_seconds / epoch_seconds}'),
        ),
        "upside down": Misconception(
            says="Upside down: the longer an epoch, the more of them lie between two saves of yours. How many epochs "
            "fit into the interval?",
            example=_setting('return {"save_freq": max(1, round(epoch_seconds / interval_seconds))}'),
        ),
    },
    hint="First ask whether an epoch is longer than the interval. If it is, no `save_freq` is small enough: return "
    '`{"every_minutes": …}`. It wants minutes.',
    solution=_setting(_LONG, _MINUTES, 'return {"save_freq": round(interval_seconds / epoch_seconds)}'),
    why="Time is what a kill takes, so time is what an interval is made of. Look at it again when your epochs grow: "
    "`save_freq` does not. (Inside an epoch the manager wants a `ResumableLoader`, lesson 03, or it could not go on "
    "exactly.)",
)


# ------------------------------------------------------------------------------------------------ 05.5


def _state(epoch: int) -> dict[str, Any]:
    import torch

    moments = {"exp_avg": torch.full((1000,), float(epoch))}
    return {
        "epoch": epoch,
        "model": {"weight": torch.full((1000,), float(epoch))},
        "optimizer": {"state": {0: moments}},
    }


def _examine_saver(saver: Any) -> None:
    raise_for_stub(saver, _SAVER_STUB)
    _stores_what_it_was_given(saver())
    _copies_in_time(saver)
    _keeps_the_order(saver())
    _says_what_went_wrong(saver)


def _train_on(state: dict[str, Any]) -> None:
    state["model"]["weight"] += 1
    state["optimizer"]["state"][0]["exp_avg"] += 1


def _stores_what_it_was_given(saver: Any) -> None:
    state = _state(3)
    with SlowDisk(held=True) as disk:
        saver.save(state, "given.pth")
        wrong_if(disk.in_front, "in front")
        if not disk.reached.wait(5 * HELD):
            raise WrongAnswerError("`save` has returned, and nobody writes: does it start a thread that does?")
        _train_on(state)
        disk.opened.set()
        saver.wait()
    stored, wanted = _stored("given.pth"), _state(3)
    wrong_if(not same(stored, wanted), "shallow" if same(stored["model"], wanted["model"]) else "live")


def _copies_in_time(new_saver: Any) -> None:
    state = _state(3)
    with Gate() as gate:
        saver = new_saver()
        gate.close()
        saver.save(state, "in_time.pth")
        _train_on(state)
        gate.open()
        saver.wait()
    wrong_if(not same(_stored("in_time.pth"), _state(3)), "late")


def _keeps_the_order(saver: Any) -> None:
    with SlowDisk(slow=1) as disk:
        saver.save(_state(4), "order.pth")
        disk.reached.wait(HELD)
        saver.save(_state(5), "order.pth")
        saver.wait()
        disk.settle()
    wrong_if(_stored("order.pth")["epoch"] != 5, "overtaken" if disk.overlapping else "dropped")


def _says_what_went_wrong(new_saver: Any) -> None:
    saver = new_saver()
    with SlowDisk(full=1):
        saver.save(_state(6), "full.pth")
        wrong_if(not _raises_in_time(saver.wait), "silent")
        wrong_if(_raises(lambda: saver.save(_state(7), "full.pth")) or _raises(saver.wait), "for ever")
    wrong_if(_stored("full.pth")["epoch"] != 7, "after a save that failed, the next one is not stored")
    saver = new_saver()
    with SlowDisk(full=1) as disk:
        saver.save(_state(8), "next.pth")
        disk.reached.wait(HELD)
        disk.settle()
        if disk.failed:
            disk.failed.join(0.3)  # until it has kept the error; one of a pool does not end
        if not _raises(lambda: saver.save(_state(9), "next.pth")):
            raise WrongAnswerError("at the end only" if _raises(saver.wait) else "forgotten")


def _raises(function: Callable[[], object]) -> bool:
    try:
        function()
    except Exception:
        return True
    return False


def _raises_in_time(function: Callable[[], object]) -> bool:
    """Say whether it raises; it does not if it waits for ever, for a thread that the full disk has ended."""
    raised: list[bool] = []
    thread = threading.Thread(target=lambda: raised.append(_raises(function)), daemon=True)
    thread.start()
    thread.join(5 * HELD)
    return raised == [True]


def _stored(path: str) -> dict[str, Any]:
    import torch

    try:
        stored = torch.load(path)
    except Exception as error:  # none, or the beginning of one
        raise WrongAnswerError(
            "after `wait` there is no whole file: does it wait for the thread, and does that save?"
        ) from error
    if not isinstance(stored, dict) or list(stored) != list(_state(0)):
        raise WrongAnswerError("what is stored is not the state that was handed over")
    return stored


def _saver(*methods: str, imports: str = "from threading import Thread") -> str:
    body = "\n\n".join("    " + method.replace("\n", "\n    ") for method in methods)
    return f'''\
{imports}


class Saver:
    """Saves in a thread: `save` returns at once; after `wait` the file is there."""

{body}
'''


_START = """\
def save(self, state, path):
    self.thread = Thread(target=torch.save, args=(state, path))
    self.thread.start()"""
_JOIN = """\
def wait(self):
    self.thread.join()"""
_SAVER_STUB = _saver(_START, _JOIN)

_COPY = "from threading import Thread\nfrom copy import deepcopy"
_BEGIN = """\
def __init__(self):
    self.thread = self.error = None"""
_SAVE = """\
def save(self, state, path):
    self.wait()
    self.thread = Thread(target=self.write, args=(deepcopy(state), path))
    self.thread.start()"""
_WRITE = """\
def write(self, state, path):
    try:
        torch.save(state, path)
    except Exception as error:
        self.error = error"""
_WAIT = """\
def wait(self):
    if self.thread:
        self.thread.join()
    error, self.error = self.error, None
    if error:
        raise error"""

SAVER = Exercise(
    asks="In the background, whatever happens",
    answer="Saver",
    expects="a class",
    examine=_examine_saver,
    apart=True,
    misconceptions={
        "live": Misconception(
            says="While the thread was writing, training went on, and the file holds a weight of afterwards. The state "
            "that you are given shares its memory with the network: copy it before `save` returns.",
            example=_saver(_BEGIN, _SAVE.replace("deepcopy(state)", "dict(state)"), _WRITE, _WAIT, imports=_COPY),
        ),
        "shallow": Misconception(
            says="The weights are those of the call, the optimizer's memory is not: it lies deeper, in dicts within "
            "dicts. `copy.deepcopy` goes all the way down.",
            example=_saver(
                _BEGIN,
                _SAVE.replace("deepcopy(state)", 'state | {"model": deepcopy(state["model"])}'),
                _WRITE,
                _WAIT,
                imports=_COPY,
            ),
        ),
        "late": Misconception(
            says="Copied, but too late: the thread makes the copy, and training may go on before it has begun to. Copy "
            "before `save` returns.",
            example=_saver(
                _BEGIN,
                _SAVE.replace("deepcopy(state)", "state"),
                _WRITE.replace("torch.save(state, path)", "torch.save(deepcopy(state), path)"),
                _WAIT,
                imports=_COPY,
            ),
        ),
        "in front": Misconception(
            says="Safe, but no longer in the background: `save` returned only when the disk was done, and the training "
            "stood still. Only the copy has to be ready before it returns.",
            example=_saver(_BEGIN, f"{_SAVE}\n    self.wait()", _WRITE, _WAIT, imports=_COPY),
        ),
        "overtaken": Misconception(
            says="The disk was slow, a second save came, and two threads wrote at a time: then the older state can end "
            "on top. Let a save wait for the one before it.",
            example=_saver(_BEGIN, _SAVE.replace("    self.wait()\n", ""), _WRITE, _WAIT, imports=_COPY),
        ),
        "dropped": Misconception(
            says="The disk was slow, a second save came, and yours let it go: the file still holds the older state. "
            "Let a save wait for the one before it.",
            example=_saver(
                _BEGIN,
                _SAVE.replace("    self.wait()", "    if self.thread and self.thread.is_alive():\n        return"),
                _WRITE,
                _WAIT,
                imports=_COPY,
            ),
        ),
        "silent": Misconception(
            says="The disk was full, nothing was saved, and nobody was told: what is raised in a thread does not reach "
            "the one who started it. Catch it there, whatever it is (`torch.save` raises a RuntimeError then, no "
            "OSError), keep it, raise it in `wait`.",
            example=_saver(
                _BEGIN,
                _SAVE.replace("self.write", "torch.save"),
                _WAIT.partition("    error,")[0].rstrip(),
                imports=_COPY,
            ),
        ),
        "for ever": Misconception(
            says="The disk was full once. Somebody has tidied up, and the old error is raised again: so this run will "
            "never save any more. Forget an error once it is raised.",
            example=_saver(
                _BEGIN,
                _SAVE,
                _WRITE,
                _WAIT.replace("error, self.error = self.error, None", "error = self.error"),
                imports=_COPY,
            ),
        ),
        "at the end only": Misconception(
            says="A save fails, the next one comes, and says nothing: only `wait` raises what was kept. Whoever calls "
            "it at the end of the run hears of the full disk then. Let `save` raise it as well.",
            example=_saver(
                _BEGIN,
                _SAVE.replace("self.wait()", "self.thread and self.thread.join()"),
                _WRITE,
                _WAIT,
                imports=_COPY,
            ),
        ),
        "forgotten": Misconception(
            says="A save fails, the next one comes before anybody called `wait`, and the error is forgotten. Let "
            "`save` raise it.",
            example=_saver(
                _BEGIN,
                _SAVE.replace("self.wait()", "self.thread and self.thread.join()\n    self.error = None"),
                _WRITE,
                _WAIT,
                imports=_COPY,
            ),
        ),
    },
    hint="Three things. Hand the thread `copy.deepcopy(state)`. Let the thread run a method of yours that catches what "
    "`torch.save` raises and keeps it. And let `save` begin with `self.wait()`, which joins the thread if there is "
    "one, and raises what was kept, once.",
    solution=_saver(_BEGIN, _SAVE, _WRITE, _WAIT, imports=_COPY),
    why="Copy, one at a time, and no error lost: that is what `background=True` does. It also writes the file whole "
    "(lesson 02), and uses the memory of one copy for the next.",
)


LESSON = Lesson(
    prediction="05.2",
    questions={"05.1": GOES_ON, "05.2": PREDICTION, "05.3": AGAIN, "05.4": SETTING, "05.5": SAVER},
)
