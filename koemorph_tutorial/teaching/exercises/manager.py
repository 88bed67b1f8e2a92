"""Lesson 10: a loop of one's own, and what it survives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import isclose
from statistics import mean
from typing import TYPE_CHECKING, Any

from koemorph_tutorial.teaching.cells import changed, form
from koemorph_tutorial.teaching.lessons import Choice, Exercise, Lesson, Misconception, Option, WrongAnswerError
from koemorph_tutorial.teaching.trial import expect_kind, raise_for_stub, wrong_if
from koemorph_tutorial.text import printable

if TYPE_CHECKING:
    from koemorph_tutorial.teaching.examination import Examination, Ordeal, Outcome

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

_PARTS = {
    "model": "run.model",
    "average": "run.average",
    "optimizer": "run.optimizer",
    "scheduler": "run.scheduler",
    "loader": "loader",
}
# Of several that are missing one is named, whose sentence stays true without the others.
_NAMED_FIRST = ("model", "optimizer", "loader", "scheduler", "average")


def _given(objects_of: Any, run: Any, loader: Any) -> dict[str, Any]:
    """Return what a reader's function hands over.

    Raises:
        WrongAnswerError: nothing that could be saved.
    """
    from koemorph_tutorial.state import check_objects

    given: dict[str, Any] = objects_of(run, loader)
    expect_kind(given, dict, "a dict, names and parts", of="objects_of")
    wrong_if(any(item is run.loader for item in given.values()), "everything" if "parts" in given else "plain loader")
    wrong_if(any(isinstance(item, dict) for item in given.values()), "states")
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
    """Train what is left of an epoch, and end it."""
    _train(run, batches, left)
    next(batches, None)
    loader.end_epoch()
    run.scheduler.step()


def _rest(run: Any, loader: Any, batches: Any, left: int) -> dict[str, Any]:
    """Train what is left of an epoch, and the first batch of the next one."""
    _end(run, loader, batches, left)
    _train(run, iter(loader), 1)
    weights: dict[str, Any] = run.networks()
    return weights


def _examine_objects(objects_of: Any) -> None:
    """Stop a run after 3 of 10 batches of epoch 1, bring it back in a new one, and compare what becomes of both.

    Epoch 0 is there to move the learning rate, and one batch long.
    """
    import torch

    from koemorph_tutorial.loading import ResumableLoader
    from koemorph_tutorial.records import Best, Position
    from koemorph_tutorial.state import build, restore
    from koemorph_tutorial.teaching.proctor import BATCHES, Run

    raise_for_stub(objects_of, _objects("return None  # your line"))
    done = 3
    run = Run(average=True)
    loader = ResumableLoader(run.loader)
    given = _given(objects_of, run, loader)
    _end(run, loader, iter(loader), 1)
    batches = iter(loader)
    _train(run, batches, done)
    place = Position(epoch=1, batch=done, global_step=1 + done)
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
    wrong_if(len(missing) == len(_PARTS), "none of the five parts is in it: it came back as it began")
    raise WrongAnswerError(missing[0] if missing else "it comes back, and does not do what it would have done")


_objects = form('''\
def objects_of(run, loader):
    """Return all that must come back, by name. `loader` is a ResumableLoader of this run."""
    {lines}
''')


def _all_but(*missing: str) -> str:
    given = ", ".join(f'"{name}": {value}' for name, value in _PARTS.items() if name not in missing)
    return _objects(f"return {{{given}}}")


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
            example=_objects(
                "return {name: getattr(run, name).state_dict() for name in " + str(tuple(_PARTS)[:4]) + "}"
            ),
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

    raise_for_stub(train, _loop(*_PLAIN))
    examined, calls = _examined(train, examination.ORDEALS)
    if examined.problem:
        raise WrongAnswerError(_failure(examined, calls))
    if not examined.passed:
        raise WrongAnswerError(_cause(examined, calls))
    wrong_if(examined.state.get("average.n_averaged") != examination.TOTAL, "idle average")
    if "made" in calls:
        _check_end_of_epoch(examined)
        wrong_if("best_model.pth" not in examined.files, "no best" if examined.metrics else "no save")
    wrong_if(calls.count("part") < examination.EPOCHS * examination.PARTS, "no validation")
    if "made" in calls:  # else there is nobody to certify it, and it is as right as any other
        examined = examination.certified(examined, train)
        wrong_if(examined.problem, examined.problem)
        says = f"The ordeals are survived, the certificate is not given: {examined.certificate}"
        wrong_if(not examined.passed, says)
    examination.graduate(examined)


def _examined(train: Any, ordeals: Sequence[Ordeal]) -> tuple[Examination, list[str]]:
    """Examine a loop until something is wrong; return what came of it, and what it did undisturbed, in order."""
    from koemorph_tutorial.teaching import examination

    for examined in examination.rounds(train, ordeals=ordeals):
        if examined.problem or examined.survived < len(examined.outcomes):
            break
    return examined, [event["what"] for event in examined.seen]


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
    wrong_if(rates and rates[-1] != EPOCHS, "early save" if rates[-1:] == [EPOCHS - 1] else "no schedule")


def _cause(examined: Examination, calls: list[str]) -> str:
    """Return the misconception behind an examination that was not passed, or what is to be seen of it."""
    from koemorph_tutorial.teaching.examination import BATCHES

    made = [event for event in examined.seen if event["what"] == "made"]
    if not made:
        return "by hand" if examined.files else "nothing saved"
    if not made[-1]["here"]:
        return "elsewhere"
    given = set(made[-1]["given"].values())
    for part in ("model", "optimizer", "scheduler", "average", "loader"):  # as in _NAMED_FIRST
        if part not in given:
            return part
    worst = _worst(examined)
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
    return _told(worst)


def _worst(examined: Examination) -> Outcome:
    return next(outcome for outcome in examined.outcomes if not outcome.survived)


def _first(examined: Examination, what: str) -> Mapping[str, Any]:
    return next((event for event in examined.seen if event["what"] == what), {"rates": None})


def _told(worst: Outcome) -> str:
    """Say what came of an ordeal."""
    said = _LAST_SENTENCE.get(worst.ordeal.name)
    where = f"{worst.ordeal.name} ({said})" if said else worst.ordeal.name
    if worst.error:
        return f"{where}: it could not be started again: {printable(worst.error, 300)}"
    if not worst.is_equal:
        return f"{where}: it ended with another network, and trained {worst.cost}"
    if not worst.same_metrics:
        return f"{where}: the network is the same, and its metrics in `last_model.pth` are others"
    return f"{where}: the network is the same, but it cost {worst.cost}, and {worst.ordeal.may_cost} need not be more"


_loop = form('''\
from koemorph_tutorial import CheckpointManager, ResumableLoader
from koemorph_tutorial.teaching import examination


def train(folder):
    """Train a network and its average; where this was stopped in `folder`, go on."""
    run = examination.Run(average=True)
    {lines}
''')


_PLAIN = (
    "for epoch in range(examination.EPOCHS):",
    "    for batch in run.loader:",
    "        run.step(batch)",
    "        run.average.update_parameters(run.model)",
    "    run.scheduler.step()",
    "    loss = run.validate(run.average)",
)
_LOOP = _loop(
    "loader = ResumableLoader(run.loader)",
    'objects = {"model": run.model, "average": run.average, "optimizer": run.optimizer, "scheduler": run.scheduler}',
    'objects["loader"] = loader',
    "with CheckpointManager(folder, objects, save_freq=1) as checkpoints:",
    "    for epoch in checkpoints.epochs(examination.EPOCHS):",
    "        for batch in loader:",
    "            run.step(batch)",
    "            run.average.update_parameters(run.model)",
    "            checkpoints.step()",
    "        run.scheduler.step()",
    "        loss = run.validate(run.average)",
    '        checkpoints.save({"loss": loss})',
)
_EPOCHS = "for epoch in checkpoints.epochs(examination.EPOCHS):"
_TRAIN = "                run.step(batch)\n"
_AVERAGE = "                run.average.update_parameters(run.model)\n"
_STEP = "                checkpoints.step()\n"
_SCHEDULE = "            run.scheduler.step()\n"
_SAVE = '            checkpoints.save({"loss": loss})\n'
_but = partial(changed, _LOOP)  # the loop as it should be, but for what is asked for


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
            example=_loop(*_PLAIN, "return run"),
        ),
        "by hand": Misconception(
            says="It saves by hand, and did not get through all four: a SIGTERM may cost no batch, and no wrong bit "
            "may be trained on. `CheckpointManager` listens to the one and looks for the other.",
            example=changed(
                _loop(*_PLAIN, '    torch.save(run.model.state_dict(), f"{folder}/last_model.pth")'),
                ("from koemorph_tutorial import", "import torch\n\nfrom koemorph_tutorial import"),
            ),
        ),
        "elsewhere": Misconception(
            says="It saves in a folder of its own choice. Whoever starts it again says where: in `folder`.",
            example=_but(("(folder,", '("checkpoints",')),
        ),
        "model": Misconception(
            says="It came back with the weights of a new network: `run.model` is not among the objects.",
            example=_but(('"model": run.model, ', "")),
        ),
        "average": Misconception(
            says="The network is the same to the last bit, and its average is not: after each ordeal it began anew. "
            "This loop has a part more than that of the Repair, `run.average`, and it belongs among the objects.",
            example=_but(('"average": run.average, ', "")),
        ),
        "optimizer": Misconception(
            says="It ended with another network: `run.optimizer` is not among the objects, so AdamW came back without "
            "its memory.",
            example=_but(('"optimizer": run.optimizer, ', "")),
        ),
        "scheduler": Misconception(
            says="It ended with another network: `run.scheduler` is not among the objects, so the learning rate began "
            "its way anew, in the middle of the run.",
            example=_but((', "scheduler": run.scheduler', "")),
        ),
        "loader": Misconception(
            says="Nothing is different, but SIGTERM cost batches: without the `ResumableLoader` among the objects "
            "nobody knows which batches are done, so the manager waits with its save for the end of the epoch. The "
            "kill did not wait.",
            example=_but(('    objects["loader"] = loader\n', "")),
        ),
        "other loader": Misconception(
            says="It reads from `run.loader`, or from a second `ResumableLoader`. The manager counts by the one among "
            "the objects, from which nothing was read: `for batch in loader:`, that one.",
            example=_but(("for batch in loader", "for batch in run.loader")),
        ),
        "own count": Misconception(
            says="It was brought back, and then began with epoch 0: `range` does not know where the run is. "
            "`checkpoints.epochs(examination.EPOCHS)` does.",
            example=_but(
                (_EPOCHS, "checkpoints.resume()\n        for epoch in range(examination.EPOCHS):"),
                ('{"loss": loss}', '{"loss": loss}, epoch=epoch'),
            ),
        ),
        "own range": Misconception(
            says="It goes on in the right epoch, and SIGTERM cost batches: only where `checkpoints.epochs` drives the "
            "loop does the manager listen to the warning, and save inside an epoch.",
            example=_but(
                (
                    _EPOCHS,
                    "checkpoints.resume()\n        for epoch in range(checkpoints.position.epoch, examination.EPOCHS):",
                )
            ),
        ),
        "no step": Misconception(
            says="Nothing is different, but SIGTERM cost batches: the warning was heard, and only a call of "
            "`checkpoints.step()` after each batch can act on it before the epoch ends. The kill came first.",
            example=_but((_STEP, "")),
        ),
        "early step": Misconception(
            says="After SIGTERM it ended with another network: `checkpoints.step()` comes before the batch is trained. "
            "So the file says that this batch is done, and it never was. First train, then count.",
            example=_but((_STEP, ""), (_TRAIN, _STEP + _TRAIN)),
        ),
        "late average": Misconception(
            says="Only SIGTERM, which saves inside an epoch, ended with other numbers. Something of a batch happens "
            "after `checkpoints.step()`, or is kept in a variable: the file says that this batch is done, and its "
            "`update_parameters` was still to come. `step` is the last line of a batch.",
            example=_but((_AVERAGE + _STEP, _STEP + _AVERAGE)),
        ),
        "save each batch": Misconception(
            says="`checkpoints.save` ends an epoch, and here it is called while batches are left. Inside an epoch "
            "`checkpoints.step()` is enough: it saves when there is a reason. `save` comes once, behind the batches.",
            example=_but((_STEP, f"{_STEP}                checkpoints.save({{}})\n")),
        ),
        "bare loss": Misconception(
            says='`save` was given a bare number. It wants the metrics by their names: `save({"loss": loss})`.',
            example=_but(('{"loss": loss}', "loss")),
        ),
        "idle average": Misconception(
            says="All four survived, by another training: `run.average.update_parameters(run.model)` no longer comes "
            "after each batch, so its average is that of other networks, or of none.",
            example=_but((_AVERAGE, "")),
        ),
        "no schedule": Misconception(
            says="It comes back, as another training: `run.scheduler.step()` no longer comes once in an epoch, so the "
            "learning rate goes another way.",
            example=_but((_SCHEDULE, "")),
        ),
        "early save": Misconception(
            says="It ended with another network: `checkpoints.save` comes before `run.scheduler.step()`. So the file "
            "holds the learning rate of the epoch that is over, and the next one is trained with it. Save last.",
            example=_but((_SCHEDULE, ""), (_SAVE, _SAVE + _SCHEDULE)),
        ),
        "seldom": Misconception(
            says="Nothing is different, but it cost more batches than it need: not every epoch was saved. "
            "`save_freq=1` saves each of these short ones (lesson 05 knows what that costs).",
            example=_but(("save_freq=1", "save_freq=100"), ('{"loss": loss}', "{}")),
        ),
        "no save": Misconception(
            says="All four survived: `epochs` saves each epoch also where nobody calls `save`. But no loss was handed "
            'over, so there is no `best_model.pth`: `checkpoints.save({"loss": loss})`, at the end of each epoch.',
            example=_but((_SAVE, "")),
        ),
        "no validation": Misconception(
            says="All four survived, by a loop that does less: `run.validate(run.average)` no longer comes once in an "
            "epoch. So nobody knows how good the network is, and which is the best.",
            example=_but(("run.validate(run.average)", "1.0")),
        ),
        "no best": Misconception(
            says="All four survived, and no `best_model.pth`: the manager watches the metric `loss`, and was given "
            "none of that name. (A misspelt name raises no error: lesson 05.)",
            example=_but(('"loss": loss', '"val_loss": loss')),
        ),
    },
    hint="Seven lines are new: the `ResumableLoader`, the objects (10.3), the `with`, `epochs` in place of `range`, "
    "`loader` in place of `run.loader`, `step` after each batch, `save` at the very end of an epoch. All four ordeals "
    "ask for `save_freq=1`.",
    solution=_LOOP,
    why="Killed, warned, out of room, and with a wrong bit in its newest file, your loop ended each time with the "
    "network of the run that nobody disturbed, and its average, to the last bit. One with a manager is certified as "
    "well: the diploma says it. Run the next cells.",
)


# ------------------------------------------------------------------------------------------------ 10.5


def _examine_watching(train: Any) -> None:
    from koemorph_tutorial.teaching import examination

    raise_for_stub(train, _watching(*_LOCAL, (_POLLED + _SCHEDULE, _SCHEDULE + _AT_ONCE)))
    examined, calls = _examined(train, (examination.ORDEALS[1], examination.WATCHING))
    wrong_if(examined.problem, examined.problem)
    parts, expected = calls.count("part"), examination.EPOCHS * examination.PARTS
    wrong_if("train_loss" not in examined.metrics, "no train_loss")
    wrong_if(parts != expected, f"it validates {parts} parts, expected {expected} (counted by `run.loss`)")
    _check_train_loss(examined)
    if examined.passed:
        _check_end_of_epoch(examined)
        return
    worst = _worst(examined)
    if worst.ordeal != examination.WATCHING:
        wrong_if(worst.is_equal and not worst.same_metrics, "half mean")
    elif worst.is_equal:
        wrong_if(worst.again > 0, "late poll" if "poll" in calls else "no poll")
        raise WrongAnswerError("early take" if "poll" in calls else "half validation")
    else:
        wrong_if(not worst.error and (_first(examined, "poll")["rates"] or 0) > 0, "early schedule")
    raise WrongAnswerError(_told(worst))


def _check_train_loss(examined: Examination) -> None:
    """See that `train_loss` in the last file is the mean of the last epoch's batches.

    Raises:
        WrongAnswerError: it is the mean of all batches, or something else.
    """
    from koemorph_tutorial.teaching.examination import BATCHES

    losses = [event["loss"] for event in examined.seen if event["what"] == "batch"]
    found, right = examined.metrics["train_loss"], mean(losses[-BATCHES:])
    wrong_if(isclose(found, mean(losses), rel_tol=1e-6), "never taken")
    says = f"in the last epoch it reports {found:.6f} as `train_loss`; the mean of its {BATCHES} batches is {right:.6f}"
    wrong_if(not isclose(found, right, rel_tol=1e-6), says)


_WATCHING = '''\
from statistics import mean

from koemorph_tutorial import CheckpointManager, ResumableLoader
from koemorph_tutorial.teaching import examination
from koemorph_tutorial.training.tracking import RunningMean


def train_and_watch(folder):
    """Report the mean loss of each epoch's batches, and validate in four parts."""
    run = examination.Run()
    loader = ResumableLoader(run.loader)
    objects = {"model": run.model, "optimizer": run.optimizer}
    train_loss = RunningMean()
    objects |= {"scheduler": run.scheduler, "loader": loader, "train_loss": train_loss}
    with CheckpointManager(folder, objects, save_freq=1) as checkpoints:
        for epoch in checkpoints.epochs(examination.EPOCHS):
            for batch in loader:
                train_loss.add(run.step(batch), count=1)
                checkpoints.step()
            parts = []
            for part in run.parts:
                parts.append(run.loss(part))
                checkpoints.poll()
            run.scheduler.step()
            checkpoints.save({"loss": mean(parts), "train_loss": train_loss.take()})
'''
_LOCAL = (
    ("    train_loss = RunningMean()\n", ""),
    (', "train_loss": train_loss}', "}"),
    ("            for batch in loader:", "            losses = []\n            for batch in loader:"),
    ("train_loss.add(run.step(batch), count=1)", "losses.append(run.step(batch))"),
    ("train_loss.take()", "mean(losses)"),
)
_POLLED = """\
            parts = []
            for part in run.parts:
                parts.append(run.loss(part))
                checkpoints.poll()
"""
_AT_ONCE = "            parts = [run.loss(part) for part in run.parts]\n"
_REPORT = '            checkpoints.save({"loss": mean(parts), "train_loss": train_loss.take()})\n'
_watching = partial(changed, _WATCHING)


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
            example=_watching(*_LOCAL),
        ),
        "no poll": Misconception(
            says="Warned in the validation it was killed, and the whole epoch was trained again: `step` is only called "
            "between batches, and here there are none. `checkpoints.poll()` after each part acts on the warning.",
            example=_watching((_POLLED, _AT_ONCE)),
        ),
        "late poll": Misconception(
            says="Warned in the second of four parts it was killed before it came to `checkpoints.poll()`, and the "
            "whole epoch was trained again. Call it after each part, not after all of them.",
            example=_watching((_POLLED, f"{_AT_ONCE}            checkpoints.poll()\n")),
        ),
        "early schedule": Misconception(
            says="Warned in the validation it ended with another network. What comes back goes through the end of the "
            "epoch once more, `run.scheduler.step()` included, and that had been done before the save. Step it after "
            "the validation.",
            example=_watching((_POLLED + _SCHEDULE, _SCHEDULE + _POLLED)),
        ),
        "early take": Misconception(
            says="Warned in the validation it came back with another number: what comes back goes through the end of "
            "the epoch once more, with no batch left, and `train_loss` had been taken before the save. Take it after "
            "the validation.",
            example=_watching(
                (_POLLED, f"            train = train_loss.take()\n{_POLLED}"),
                ('"train_loss": train_loss.take()', '"train_loss": train'),
            ),
        ),
        "early save": Misconception(
            says="Both warnings cost nothing. A kill would: `checkpoints.save` comes before `run.scheduler.step()`, so "
            "the file holds the learning rate of the epoch that is over. Save last.",
            example=_watching((_SCHEDULE, ""), (_REPORT, _REPORT + _SCHEDULE)),
        ),
        "no schedule": Misconception(
            says="It comes back, as another training: `run.scheduler.step()` no longer comes once in an epoch.",
            example=_watching((_SCHEDULE, "")),
        ),
        "half validation": Misconception(
            says="It left the validation when it was warned, and saved the mean of half of it as the loss of the "
            "epoch. Half a validation may be the best one ever. Leave by `checkpoints.poll()`: it saves that only the "
            "validation is left.",
            example=_watching(("checkpoints.poll()", "if checkpoints.stop_requested:\n                    break")),
        ),
        "never taken": Misconception(
            says="Its `train_loss` is the mean of all batches since the run began, and that of each epoch is asked "
            "for. `take()`, once at the end of an epoch, returns the mean and starts over.",
            example=_watching(("train_loss.take()", "train_loss.total / train_loss.count")),
        ),
        "no train_loss": Misconception(
            says="It no longer reports `train_loss`. That would be a way out, but not for whoever wants to know it.",
            example=_watching((', "train_loss": train_loss.take()', "")),
        ),
    },
    hint="Three things: `train_loss = RunningMean()` among the objects; `checkpoints.poll()` after each part; "
    "`run.scheduler.step()` behind the validation.",
    solution=_WATCHING,
    why="Warned inside an epoch, and in the middle of a validation, it trained no batch again, and reported the same "
    "losses as the run that nobody disturbed.",
)


LESSON = Lesson(
    prediction="10.2",
    questions={"10.1": LOWER, "10.2": PREDICTION, "10.3": OBJECTS, "10.4": LOOP, "10.5": WATCHED},
)
