"""Lesson 10: a loop of one's own, and what it survives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from koemorph_tutorial.teaching.lessons import (
    Choice,
    Exercise,
    Lesson,
    Misconception,
    NotAttemptedError,
    Option,
    WrongAnswerError,
)
from koemorph_tutorial.teaching.trial import is_nothing, is_untouched
from koemorph_tutorial.text import printable

if TYPE_CHECKING:
    from koemorph_tutorial.teaching.examination import Examination, Outcome

# ------------------------------------------------------------------------------------------------ 10.1 and 10.2

LOWER = Choice(
    asks="Resumed, and the loss is lower",
    options={
        "a": Option(
            text="Yes: it learned at least as well as it would have without the stop.",
            reply="It learned something else. A run that comes back with a gap is another run, sometimes with a lower "
            "loss (the arrows in lesson 03). You still do not have the run that you started, and nobody can repeat it.",
        ),
        "b": Option(
            text="No: had nothing been forgotten, the loss would be the same number.",
            reply="The same number, and the same weights, to the last bit. Different is not worse, but it is "
            "different: something was not brought back. That is the measure of this lesson as well.",
        ),
        "c": Option(
            text="Nobody can say: training is random, so no two runs end alike.",
            reply="Its random numbers come from generators, whose states are saved and brought back (lesson 03). Then "
            "the second half of a run is as certain as a sum.",
        ),
    },
    right="b",
)

_BROKEN_OFF = (
    "The full disk did leave half a file: the new, numbered one, which it wrote first. `last_model.pth`, from which it "
    "goes on, was not its turn yet, and is whole: the recipe was lucky in its order."
)
PREDICTION = Choice(
    asks="Which ends with another network?",
    options={
        "a": Option(
            text="All four: each comes in the middle of an epoch, and what was trained of that epoch is lost.",
            reply="Lost is not different. What was lost was trained again, from the same state with the same random "
            "numbers, to the same bits. Only the flipped bit was loaded, trained on and saved as if it belonged there.",
        ),
        "b": Option(
            text="The full disk and the flipped bit: both spoil a file that it goes on from.",
            reply=f"The flipped bit it is. {_BROKEN_OFF}",
        ),
        "c": Option(
            text="The flipped bit only: after the other three it trains some batches again.",
            reply=f"Lost work is trained again, to the same bits. A wrong bit is trained on. {_BROKEN_OFF}",
        ),
    },
    right="c",
)


# ------------------------------------------------------------------------------------------------ 10.3

_PARTS = ("model", "average", "optimizer", "scheduler", "loader")
# Of several that are missing one is named, whose sentence stays true without the others.
_NAMED_FIRST = ("model", "optimizer", "loader", "scheduler", "average")


def _given(objects_of: Any, run: Any, loader: Any) -> dict[str, Any]:
    """Return what a reader's function hands over.

    Raises:
        WrongAnswerError: nothing that could be saved.
    """
    from koemorph_tutorial.state import check_objects

    given = objects_of(run, loader)
    if is_nothing(given):
        raise WrongAnswerError("`objects_of` returned None: is `return` missing?")
    if not isinstance(given, dict):
        raise WrongAnswerError(f"expected a dict, names and parts, found {printable(type(given).__name__, 60)}")
    if any(item is run.loader for item in given.values()):
        raise WrongAnswerError("everything" if "parts" in given else "plain loader")
    if any(isinstance(item, dict) for item in given.values()):
        raise WrongAnswerError("states")
    try:
        check_objects(given)
    except TypeError as error:
        raise WrongAnswerError(f"the manager refuses it: {error}") from error
    return given


def _train(run: Any, batches: Any, count: int) -> None:
    for _ in range(count):
        run.step(next(batches))
        run.average.update_parameters(run.model)


def _end(run: Any, loader: Any, batches: Any, left: int) -> None:
    """Train the rest of an epoch, and end it."""
    _train(run, batches, left)
    next(batches, None)
    loader.end_epoch()
    run.scheduler.step()


def _rest(run: Any, loader: Any, batches: Any, left: int) -> dict[str, Any]:
    """Train the rest of an epoch, and two batches of the next one."""
    _end(run, loader, batches, left)
    _train(run, iter(loader), 2)
    weights: dict[str, Any] = run.networks()
    return weights


def _examine_objects(objects_of: Any) -> None:
    """Stop a run after 3 of 10 batches of epoch 1, bring it back in a new one, and compare what becomes of both."""
    import torch

    from koemorph_tutorial.loading import ResumableLoader
    from koemorph_tutorial.records import Best, Position
    from koemorph_tutorial.state import build, restore
    from koemorph_tutorial.teaching.proctor import BATCHES, Run

    if is_untouched(objects_of, _objects("return None  # your line")):
        raise NotAttemptedError
    done = 3
    run = Run(average=True)
    loader = ResumableLoader(run.loader)
    given = _given(objects_of, run, loader)
    _end(run, loader, iter(loader), BATCHES)
    batches = iter(loader)
    _train(run, batches, done)
    place = Position(epoch=1, batch=done, global_step=BATCHES + done)
    saved = build(given, epoch=1, position=place, metrics={}, best=Best(), run={}, copy=True)
    expected = _rest(run, loader, batches, BATCHES - done)

    fresh = Run(average=True)
    loader_again = ResumableLoader(fresh.loader)
    restore(saved, _given(objects_of, fresh, loader_again))
    left = BATCHES - loader_again.batches
    found = _rest(fresh, loader_again, iter(loader_again), left)
    if all(torch.equal(expected[name], found[name]) for name in expected):
        return
    parts = {name: loader if name == "loader" else getattr(run, name) for name in _NAMED_FIRST}
    missing = [name for name, part in parts.items() if not any(item is part for item in given.values())]
    if len(missing) == len(_PARTS):
        raise WrongAnswerError("none of the five parts is in it: it came back as it began")
    raise WrongAnswerError(missing[0] if missing else "it comes back, and does not do what it would have done")


def _objects(line: str) -> str:
    return f'''\
def objects_of(run, loader):
    """Return all that must come back, by name. `loader` is a ResumableLoader of this run."""
    {line}
'''


def _all_but(*missing: str) -> str:
    values = {name: "loader" if name == "loader" else f"run.{name}" for name in _PARTS if name not in missing}
    return _objects("return {" + ", ".join(f'"{name}": {value}' for name, value in values.items()) + "}")


OBJECTS = Exercise(
    asks="All that comes back",
    answer="objects_of",
    expects="a function",
    examine=_examine_objects,
    misconceptions={
        "model": Misconception(
            says="Stopped and brought back, it began with the weights of a new network: `run.model` is not among them.",
            example=_all_but("model"),
        ),
        "average": Misconception(
            says="The network came back to the last bit, and its average did not: it began anew. Whatever learns, or "
            "counts, belongs among them, also what a loop has beside the usual four: `run.average`.",
            example=_all_but("average"),
        ),
        "optimizer": Misconception(
            says="It came back and went another way: AdamW had lost its memory (lesson 01). `run.optimizer` is not "
            "among them.",
            example=_all_but("optimizer"),
        ),
        "scheduler": Misconception(
            says="This epoch was right. When the learning rate moved next it moved as at the beginning of a run: "
            "`run.scheduler` is not among them.",
            example=_all_but("scheduler"),
        ),
        "loader": Misconception(
            says="Stopped after 3 of 10 batches it began the epoch again, with all ten: `loader` knows how many are "
            "done, and is not among them.",
            example=_all_but("loader"),
        ),
        "plain loader": Misconception(
            says="`run.loader` is a plain DataLoader: it has no state, and does not know which batches are done. "
            "`loader`, which is made of it, does.",
            example=_all_but("loader").replace("}", ', "loader": run.loader}'),
        ),
        "states": Misconception(
            says="Among them is a state of this moment. What saves wants the parts themselves, and asks each for its "
            "`state_dict()` whenever it saves. (Random numbers need no name.)",
            example=_objects("return {name: getattr(run, name).state_dict() for name in " + str(_PARTS[:4]) + "}"),
        ),
        "everything": Misconception(
            says="That is everything the run has, and some of it has no state: a plain DataLoader, the data. Name what "
            "learns or counts.",
            example=_objects("return vars(run)"),
        ),
    },
    hint='Four parts of `run`, and `loader`: `{"model": run.model, …}`. Which part learns, or counts?',
    solution=_all_but(),
    why="Stopped inside an epoch and brought back in new parts, it did what it would have done, to the last bit. "
    "The random numbers need no name: they are always saved.",
)


# ------------------------------------------------------------------------------------------------ 10.4

_LAST_SENTENCE = {
    "kill -9": "no warning came",
    "SIGTERM": "a warning came, and the kill a batch later",
    "full disk": "an epoch could not be saved",
    "flipped bit": "a bit of the newest file is wrong",
}


def _examine_train(train: Any) -> None:
    from koemorph_tutorial.teaching import examination

    if is_untouched(train, _loop_source(*_PLAIN)):
        raise NotAttemptedError
    examined = examination.examine(train, certificate=True)
    calls = [event["what"] for event in examined.seen]
    if examined.passed and "made" not in calls:
        examined = replace(examined, problem="")  # there is nobody to certify it, and it is as right as any other
    if examined.problem:
        raise WrongAnswerError(_failure(examined, calls))
    if not examined.passed:
        raise WrongAnswerError(_cause(examined))
    if int(examined.state["average.n_averaged"]) != examination.TOTAL:
        raise WrongAnswerError("idle average")
    if "made" in calls:
        _check_end_of_epoch(examined)
        if "best_model.pth" not in examined.files:
            raise WrongAnswerError("no best" if examined.metrics else "no save")
    examination.graduate(examined)


def _failure(examined: Examination, calls: list[str]) -> str:
    """Return the misconception behind a loop that fails, or is another one, though nothing happens to it."""
    if "iterate the ResumableLoader itself" in examined.problem:
        return "other loader"
    if "this iteration ended with its epoch" in examined.problem:
        return "save each batch"
    if calls[-1:] == ["save"] and "expected numbers by name" in examined.problem:
        return "bare loss"
    return examined.problem


def _check_end_of_epoch(examined: Examination) -> None:
    """See that the schedule went on once in each epoch, before the save.

    Raises:
        WrongAnswerError: not at all, another time, or after the save.
    """
    from koemorph_tutorial.teaching.examination import EPOCHS

    rates = [event["rates"] for event in examined.seen if event["what"] == "save"]
    if rates and rates[-1] != EPOCHS:
        raise WrongAnswerError("early save" if rates[-1] == EPOCHS - 1 else "no schedule")


def _cause(examined: Examination) -> str:
    """Return the misconception behind an examination that was not passed, or what is to be seen of it."""
    from koemorph_tutorial.teaching.examination import BATCHES

    made = [event for event in examined.seen if event["what"] == "made"]
    calls = [event["what"] for event in examined.seen]
    if not made:
        return "by hand" if examined.files else "nothing saved"
    if not made[-1]["here"]:
        return "elsewhere"
    given = set(made[-1]["given"].values())
    for part in ("model", "optimizer", "scheduler", "average", "loader"):  # as in _NAMED_FIRST
        if part not in given:
            return part
    worst = next(outcome for outcome in examined.outcomes if not outcome.survived)
    warned = worst.ordeal.name == "SIGTERM" and not worst.error  # and the kill is survived
    if "epochs" not in calls:
        return "own range" if warned and worst.is_equal else "own count"
    if "step" not in calls or (warned and worst.again > 0 and calls.count("step") < BATCHES):
        return "no step"
    if calls.index("step") < calls.index("batch"):
        return "early step"
    if _first(examined, "save")["rates"] == 0:
        return "early save"
    if not warned and worst.is_equal and worst.same_metrics and worst.again > worst.ordeal.may_cost:
        return "seldom"
    others = [outcome for outcome in examined.outcomes if outcome is not worst]
    if warned and not worst.is_equal and worst.again == 0 and all(outcome.survived for outcome in others):
        return "late average"
    return _told(examined, worst)


def _first(examined: Examination, what: str) -> Mapping[str, Any]:
    return next((event for event in examined.seen if event["what"] == what), {"rates": None})


def _told(examined: Examination, worst: Outcome) -> str:
    """Say what came of an ordeal, or why there is no certificate."""
    if examined.certificate is not None:
        return f"The ordeals are survived, the certificate is not given: {examined.certificate}"
    said = _LAST_SENTENCE.get(worst.ordeal.name)
    where = f"{worst.ordeal.name} ({said})" if said else worst.ordeal.name
    if worst.error:
        return f"{where}: it could not be started again: {printable(worst.error, 300)}"
    if not worst.is_equal:
        return f"{where}: it ended with another network, and trained {worst.cost}"
    if not worst.same_metrics:
        return f"{where}: the network is the same, and its metrics in `last_model.pth` are others"
    return f"{where}: the network is the same, but it cost {worst.cost}, and {worst.ordeal.may_cost} need not be more"


def _loop_source(*lines: str) -> str:
    body = "\n    ".join(lines)
    return f'''\
from koemorph_tutorial import CheckpointManager, ResumableLoader
from koemorph_tutorial.teaching import examination


def train(folder):
    """Train a network and its average; where this was stopped in `folder`, go on."""
    run = examination.Run(average=True)
    {body}
'''


_PLAIN = (
    "for epoch in range(examination.EPOCHS):",
    "    for batch in run.loader:",
    "        run.step(batch)",
    "        run.average.update_parameters(run.model)",
    "    run.scheduler.step()",
    "    loss = run.validate(run.average)",
)
_ALL = {name: "loader" if name == "loader" else f"run.{name}" for name in _PARTS}


def _managed(
    *,
    without: str = "",
    directory: str = "folder",
    settings: str = "save_freq=1",
    batches: str = "loader",
    each_batch: tuple[str, ...] = ("run.step(batch)", "run.average.update_parameters(run.model)", "checkpoints.step()"),
    epochs: str = "checkpoints.epochs(examination.EPOCHS)",
    before: tuple[str, ...] = (),
    end: tuple[str, ...] = (
        "run.scheduler.step()",
        "loss = run.validate(run.average)",
        'checkpoints.save({"loss": loss})',
    ),
) -> str:
    """Return the loop as it should be, but for what is asked for."""
    given = ", ".join(f'"{name}": {value}' for name, value in _ALL.items() if name not in ("loader", without))
    objects = [f"objects = {{{given}}}"]
    if without != "loader":
        objects.append('objects["loader"] = loader')
    return _loop_source(
        "loader = ResumableLoader(run.loader)",
        *objects,
        f"with CheckpointManager({directory}, objects, {settings}) as checkpoints:",
        *(f"    {line}" for line in before),
        f"    for epoch in {epochs}:",
        f"        for batch in {batches}:",
        *(f"            {line}" for line in each_batch),
        *(f"        {line}" for line in end),
    )


def _says_without(part: str, what: str) -> Misconception:
    return Misconception(says=what, example=_managed(without=part))


LOOP = Exercise(
    asks="A loop that comes back",
    answer="train",
    expects="a function",
    examine=_examine_train,
    misconceptions={
        "nothing saved": Misconception(
            says="After each ordeal it began with epoch 0: it has saved nothing in `folder`. Give a "
            "`CheckpointManager` the folder and the parts, let its `epochs` drive the loop, and call its `step` and "
            "`save`.",
            example=_loop_source(*_PLAIN, "return run"),
        ),
        "by hand": Misconception(
            says="It saves by hand, and did not get through all four: a SIGTERM may cost no batch, and no wrong bit "
            "may be trained on. `CheckpointManager` listens to the one and looks for the other.",
            example=_loop_source(*_PLAIN, '    torch.save(run.model.state_dict(), f"{folder}/last_model.pth")').replace(
                "from koemorph_tutorial import", "import torch\n\nfrom koemorph_tutorial import"
            ),
        ),
        "elsewhere": Misconception(
            says="It saves in a folder of its own choice. Whoever starts it again says where: in `folder`.",
            example=_managed(directory='"checkpoints"'),
        ),
        "model": _says_without(
            "model", "It came back with the weights of a new network: `run.model` is not among the objects."
        ),
        "average": _says_without(
            "average",
            "The network is the same to the last bit, and its average is not: after each ordeal it began anew. This "
            "loop has a part more than that of the Repair, `run.average`, and it belongs among the objects.",
        ),
        "optimizer": _says_without(
            "optimizer",
            "It ended with another network: `run.optimizer` is not among the objects, so AdamW came back without its "
            "memory.",
        ),
        "scheduler": _says_without(
            "scheduler",
            "It ended with another network: `run.scheduler` is not among the objects, so the learning rate began its "
            "way anew, in the middle of the run.",
        ),
        "loader": _says_without(
            "loader",
            "Nothing is different, but SIGTERM cost batches: without the `ResumableLoader` among the objects nobody "
            "knows which batches are done, so the manager waits with its save for the end of the epoch. The kill did "
            "not wait.",
        ),
        "other loader": Misconception(
            says="It reads from `run.loader`, or from a second `ResumableLoader`. The manager counts by the one among "
            "the objects, from which nothing was read: `for batch in loader:`, that one.",
            example=_managed(batches="run.loader"),
        ),
        "own count": Misconception(
            says="It was brought back, and then began with epoch 0: `range` does not know where the run is. "
            "`checkpoints.epochs(examination.EPOCHS)` does.",
            example=_managed(
                epochs="range(examination.EPOCHS)",
                before=("checkpoints.resume()",),
                end=(
                    "run.scheduler.step()",
                    'checkpoints.save({"loss": run.validate(run.average)}, epoch=epoch)',
                ),
            ),
        ),
        "own range": Misconception(
            says="It goes on in the right epoch, and SIGTERM cost batches: only where `checkpoints.epochs` drives the "
            "loop does the manager listen to the warning, and save inside an epoch.",
            example=_managed(
                epochs="range(checkpoints.position.epoch, examination.EPOCHS)", before=("checkpoints.resume()",)
            ),
        ),
        "no step": Misconception(
            says="Nothing is different, but SIGTERM cost batches: the warning was heard, and only a call of "
            "`checkpoints.step()` after each batch can act on it before the epoch ends. The kill came first.",
            example=_managed(each_batch=("run.step(batch)", "run.average.update_parameters(run.model)")),
        ),
        "early step": Misconception(
            says="After SIGTERM it ended with another network: `checkpoints.step()` comes before the batch is trained. "
            "So the file says that this batch is done, and it never was. First train, then count.",
            example=_managed(
                each_batch=("checkpoints.step()", "run.step(batch)", "run.average.update_parameters(run.model)")
            ),
        ),
        "late average": Misconception(
            says="Only SIGTERM, which saves inside an epoch, ended with other numbers. Something of a batch happens "
            "after `checkpoints.step()`, or is kept in a variable: the file says that this batch is done, and its "
            "`update_parameters` was still to come. `step` is the last line of a batch.",
            example=_managed(
                each_batch=("run.step(batch)", "checkpoints.step()", "run.average.update_parameters(run.model)")
            ),
        ),
        "save each batch": Misconception(
            says="`checkpoints.save` ends an epoch, and here it is called while batches are left. Inside an epoch "
            "`checkpoints.step()` is enough: it saves when there is a reason. `save` comes once, behind the batches.",
            example=_managed(
                each_batch=(
                    "run.step(batch)",
                    "run.average.update_parameters(run.model)",
                    "checkpoints.step()",
                    "checkpoints.save({})",
                )
            ),
        ),
        "bare loss": Misconception(
            says='`save` was given a bare number. It wants the metrics by their names: `save({"loss": loss})`.',
            example=_managed(end=("run.scheduler.step()", "checkpoints.save(run.validate(run.average))")),
        ),
        "idle average": Misconception(
            says="All four survived, by another training: `run.average.update_parameters(run.model)` no longer comes "
            "after each batch, so its average is that of other networks, or of none.",
            example=_managed(each_batch=("run.step(batch)", "checkpoints.step()")),
        ),
        "no schedule": Misconception(
            says="It comes back, as another training: `run.scheduler.step()` no longer comes once in an epoch, so the "
            "learning rate goes another way.",
            example=_managed(end=('checkpoints.save({"loss": run.validate(run.average)})',)),
        ),
        "early save": Misconception(
            says="It ended with another network: `checkpoints.save` comes before `run.scheduler.step()`. So the file "
            "holds the learning rate of the epoch that is over, and the next one is trained with it. Save last.",
            example=_managed(
                end=('checkpoints.save({"loss": run.validate(run.average)})', "run.scheduler.step()"),
            ),
        ),
        "seldom": Misconception(
            says="Nothing is different, but it cost more batches than it need: not every epoch was saved. "
            "`save_freq=1` saves each of these short ones (lesson 05 knows what that costs).",
            example=_managed(settings="save_freq=100", end=("run.scheduler.step()", "checkpoints.save({})")),
        ),
        "no save": Misconception(
            says="All four survived: `epochs` saves each epoch also where nobody calls `save`. But no loss was handed "
            'over, so there is no `best_model.pth`: `checkpoints.save({"loss": loss})`, at the end of each epoch.',
            example=_managed(end=("run.scheduler.step()", "loss = run.validate(run.average)")),
        ),
        "no best": Misconception(
            says="All four survived, and no `best_model.pth`: the manager watches the metric `loss`, and was given "
            "none of that name. (A misspelt name raises no error: lesson 05.)",
            example=_managed(end=("run.scheduler.step()", 'checkpoints.save({"val_loss": run.validate(run.average)})')),
        ),
    },
    hint="Seven lines are new: the `ResumableLoader`, the objects (10.3), the `with`, `epochs` in place of `range`, "
    "`loader` in place of `run.loader`, `step` after each batch, `save` at the very end of an epoch. All four ordeals "
    "ask for `save_freq=1`.",
    solution=_managed(),
    why="Killed, warned, out of room, and with a wrong bit in its newest file, your loop ended each time with the "
    "network of the run that nobody disturbed, and its average, to the last bit. One with a manager is certified as "
    "well: the diploma says it. Run the next cells.",
)


# ------------------------------------------------------------------------------------------------ 10.5


def _examine_watching(train: Any) -> None:
    from koemorph_tutorial.teaching import examination
    from koemorph_tutorial.teaching.proctor import PARTS

    if is_untouched(train, _watching_source()):
        raise NotAttemptedError
    warned = (examination.ORDEALS[1], examination.WATCHING)
    examined = examination.examine(train, ordeals=warned)
    if examined.problem:
        raise WrongAnswerError(examined.problem)
    if "train_loss" not in examined.metrics:
        raise WrongAnswerError("no train_loss")
    calls = [event["what"] for event in examined.seen]
    parts, expected = calls.count("part"), examination.EPOCHS * PARTS
    if parts != expected:
        raise WrongAnswerError(f"it validates {parts} parts, expected {expected} (counted by `run.loss`)")
    if examined.passed:
        _check_end_of_epoch(examined)
        return
    inside, watching = examined.outcomes
    if inside.is_equal and not inside.same_metrics:
        raise WrongAnswerError("half mean")
    if inside.survived and watching.is_equal and watching.again > 0:
        raise WrongAnswerError("late poll" if "poll" in calls else "no poll")
    if inside.survived and watching.is_equal:
        raise WrongAnswerError("early take" if "poll" in calls else "half validation")
    if inside.survived and not watching.error and (_first(examined, "poll")["rates"] or 0) > 0:
        raise WrongAnswerError("early schedule")
    raise WrongAnswerError(_told(examined, inside if not inside.survived else watching))


_LOCAL = ("losses = []", "losses.append(run.step(batch))", "mean(losses)", "")
_KEPT = ("", "train_loss.add(run.step(batch), count=1)", "train_loss.take()", ', "train_loss": train_loss')
_AT_ONCE = ("parts = [run.loss(part) for part in run.parts]",)
_POLLED = ("parts = []", "for part in run.parts:", "    parts.append(run.loss(part))", "    checkpoints.poll()")
_SCHEDULE = "run.scheduler.step()"


def _watching_source(
    kept: tuple[str, str, str, str] = _LOCAL, validation: tuple[str, ...] = (_SCHEDULE, *_AT_ONCE), save: str = ""
) -> str:
    begin, add, take, part = kept
    mean = "    train_loss = RunningMean()\n" if part else ""
    first = f"            {begin}\n" if begin else ""
    end = "\n            ".join(validation)
    save = save or f'checkpoints.save({{"loss": mean(parts), "train_loss": {take}}})'
    return f'''\
from statistics import mean

from koemorph_tutorial import CheckpointManager, ResumableLoader
from koemorph_tutorial.teaching import examination
from koemorph_tutorial.training.tracking import RunningMean


def train_and_watch(folder):
    """Report the mean loss of each epoch's batches, and validate in four parts."""
    run = examination.Run()
    loader = ResumableLoader(run.loader)
    objects = {{"model": run.model, "optimizer": run.optimizer}}
{mean}    objects |= {{"scheduler": run.scheduler, "loader": loader{part}}}
    with CheckpointManager(folder, objects, save_freq=1) as checkpoints:
        for epoch in checkpoints.epochs(examination.EPOCHS):
{first}            for batch in loader:
                {add}
                checkpoints.step()
            {end}
            {save}
'''


WATCHED = Exercise(
    asks="Warned while it validates",
    answer="train_and_watch",
    expects="a function",
    examine=_examine_watching,
    misconceptions={
        "half mean": Misconception(
            says="Warned inside an epoch it lost no batch, and saved another `train_loss`: after the resume it is that "
            "of the rest of the epoch. What a loop keeps in a variable, or begins anew in each epoch, is forgotten. A "
            "`RunningMean` (`add(value, count=1)`, `take()`) has a state: put one among the objects, and keep it.",
            example=_watching_source(_LOCAL, (*_POLLED, _SCHEDULE)),
        ),
        "no poll": Misconception(
            says="Warned in the validation it was killed, and the whole epoch was trained again: `step` is only called "
            "between batches, and here there are none. `checkpoints.poll()` after each part acts on the warning.",
            example=_watching_source(_KEPT),
        ),
        "late poll": Misconception(
            says="Warned in the second of four parts it was killed before it came to `checkpoints.poll()`, and the "
            "whole epoch was trained again. Call it after each part, not after all of them.",
            example=_watching_source(_KEPT, (*_AT_ONCE, "checkpoints.poll()", _SCHEDULE)),
        ),
        "early schedule": Misconception(
            says="Warned in the validation it ended with another network. What comes back goes through the end of the "
            "epoch once more, `run.scheduler.step()` included, and that had been done before the save. Step it after "
            "the validation.",
            example=_watching_source(_KEPT, (_SCHEDULE, *_POLLED)),
        ),
        "early take": Misconception(
            says="Warned in the validation it came back with another number: what comes back goes through the end of "
            "the epoch once more, with no batch left, and `train_loss` had been taken before the save. Take it after "
            "the validation.",
            example=_watching_source(
                _KEPT,
                ("train = train_loss.take()", *_POLLED, _SCHEDULE),
                'checkpoints.save({"loss": mean(parts), "train_loss": train})',
            ),
        ),
        "early save": Misconception(
            says="Both warnings cost nothing. A kill would: `checkpoints.save` comes before `run.scheduler.step()`, so "
            "the file holds the learning rate of the epoch that is over. Save last.",
            example=_watching_source(
                _KEPT, _POLLED, 'checkpoints.save({"loss": mean(parts), "train_loss": train_loss.take()})'
            )
            + f"            {_SCHEDULE}\n",
        ),
        "no schedule": Misconception(
            says="It comes back, as another training: `run.scheduler.step()` no longer comes once in an epoch.",
            example=_watching_source(_KEPT, _POLLED),
        ),
        "half validation": Misconception(
            says="It left the validation when it was warned, and saved the mean of half of it as the loss of the "
            "epoch. Half a validation may be the best one ever. Leave by `checkpoints.poll()`: it saves that only the "
            "validation is left.",
            example=_watching_source(
                _KEPT,
                (
                    "parts = []",
                    "for part in run.parts:",
                    "    parts.append(run.loss(part))",
                    "    if checkpoints.stop_requested:",
                    "        break",
                    _SCHEDULE,
                ),
            ),
        ),
        "no train_loss": Misconception(
            says="It no longer reports `train_loss`. That would be a way out, but not for whoever wants to know it.",
            example=_watching_source(_KEPT, (*_POLLED, _SCHEDULE), 'checkpoints.save({"loss": mean(parts)})'),
        ),
    },
    hint="Three things: `train_loss = RunningMean()` among the objects; `checkpoints.poll()` after each part; "
    "`run.scheduler.step()` behind the validation.",
    solution=_watching_source(_KEPT, (*_POLLED, _SCHEDULE)),
    why="Warned inside an epoch, and in the middle of a validation, it trained no batch again, and reported the same "
    "losses as the run that nobody disturbed.",
)


LESSON = Lesson(
    prediction="10.2",
    questions={"10.1": LOWER, "10.2": PREDICTION, "10.3": OBJECTS, "10.4": LOOP, "10.5": WATCHED},
)
