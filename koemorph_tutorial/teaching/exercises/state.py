"""Lesson 01: what a run is made of."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from koemorph_tutorial.teaching.cells import form
from koemorph_tutorial.teaching.lessons import Choice, Exercise, Lesson, Misconception, Option, WrongAnswerError
from koemorph_tutorial.teaching.trial import (
    first_line,
    is_nothing,
    raise_for_stub,
    same,
    small_run,
    through_a_file,
    train,
    wrong_if,
)
from koemorph_tutorial.text import printable

if TYPE_CHECKING:
    import torch

# ------------------------------------------------------------------------------------------------ 01.1 and 01.2

HABIT = Choice(
    asks="What would be left of your last run?",
    options={
        "a": Option(
            text="Nothing: I do not save, or only at the end.",
            reply="Honest, and common. This lesson is about what to save, the next about how to write it.",
        ),
        "b": Option(
            text="The weights.",
            reply="That is what most people save. You are about to see how far one gets with them.",
        ),
        "c": Option(
            text="The weights and the optimizer.",
            reply="More than most. You will see what else the next batch depends on.",
        ),
        "d": Option(
            text="A run that goes on as if nothing had happened; I have tried it.",
            reply="Rare, and “tried” is the word that counts. See whether your file has all that ours has.",
        ),
    },
)

PREDICTION = Choice(
    asks="Are the weights still equal after one batch?",
    options={
        "a": Option(
            text="Yes. Same weights, same batch, so the same step.",
            reply="The weights and the batch are the same, and so is the gradient. But a gradient is not yet a step: "
            "the optimizer makes one of it, and what it remembers was not in the file.",
        ),
        "b": Option(
            text="Yes at first; rounding errors pull the two apart after some batches.",
            reply="Rounding is not what parts them: both have the same gradient, to the last bit. What differs, at "
            "once, is what the optimizer makes of it.",
        ),
        "c": Option(
            text="No, not even after one batch.",
            reply="The gradient is the same to the last bit, the step is not. The optimizer makes the step, and what "
            "it remembers was not in the file.",
        ),
    },
    right="c",
)


# ------------------------------------------------------------------------------------------------ 01.3


def _result_of(function: Any, *arguments: Any) -> Any:
    """Return what a reader's function returns, unless that is nothing."""
    result, name = function(*arguments), getattr(function, "__name__", "it")
    says = f"`{name}` returned None: is `return` missing, or does it return what `torch.save` gives?"
    wrong_if(is_nothing(result), says)
    return result


def _examine_checkpoint(checkpoint_of: Any) -> None:
    raise_for_stub(checkpoint_of, _checkpoint("None"))
    model, optimizer = small_run()
    saved = _result_of(checkpoint_of, model, optimizer)
    if not isinstance(saved, dict) or not {"model_state_dict", "optimizer_state_dict"} <= set(saved):
        raise WrongAnswerError("expected a dict with `model_state_dict` and `optimizer_state_dict`, as it was at first")
    state, weights = saved["optimizer_state_dict"], saved["model_state_dict"]
    wrong_if(is_nothing(state), "the value of `optimizer_state_dict` is None: put in the state of `optimizer`")
    says = "`model_state_dict` is not the state of `model`, the one that was handed to the function"
    wrong_if(not isinstance(weights, dict) or set(weights) != set(model.state_dict()), says)
    wrong = _wrong_state(state, model, optimizer)
    if wrong:
        raise WrongAnswerError(wrong)
    back = through_a_file(saved)
    again, fresh = small_run()
    try:
        again.load_state_dict(back["model_state_dict"])
        fresh.load_state_dict(back["optimizer_state_dict"])
    except Exception as error:
        raise WrongAnswerError(f"it was saved, but a fresh run cannot load it: {first_line(error)}") from error
    train(model, optimizer)
    train(again, fresh)
    if not same(list(again.parameters()), list(model.parameters())):
        raise WrongAnswerError("a run that came back from it is not bitwise equal to the one that never stopped")


def _wrong_state(state: Any, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> str | None:
    """Say what is no state of a trained optimizer: a misconception or a sentence, None if it may be one."""
    import torch

    if isinstance(state, torch.optim.Optimizer):
        return "object"
    if callable(state) and getattr(state, "__name__", "") == "state_dict":
        return "brackets"
    if isinstance(state, (list, tuple)) and state and all(isinstance(g, dict) and "params" in g for g in state):
        return "groups"
    if not isinstance(state, dict):
        return f"expected the state of the optimizer, a dict, found {printable(type(state).__name__)}"
    if {"state", "param_groups"} <= set(state):
        if state["state"] and len(state["state"]) != len(optimizer.state):
            return "this is the state of another optimizer: save the one that was handed to the function, `optimizer`"
        return None if state["state"] else "fresh"
    if state and set(state) == set(model.state_dict()):
        return "weights"
    if state and all(isinstance(value, dict) and "exp_avg" in value for value in state.values()):
        return "half"
    keys = printable(", ".join(str(key) for key in state) or "nothing in it", 80)
    return f"expected the state of the optimizer, found a dict with other things in it: {keys}"


_checkpoint = form("""\
def checkpoint_of(model, optimizer):
    return {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": {lines},
    }
""")


CHECKPOINT = Exercise(
    asks="One line is missing",
    answer="checkpoint_of",
    expects="a function",
    examine=_examine_checkpoint,
    misconceptions={
        "object": Misconception(
            says="This is the optimizer itself. A file would hold the name of its class, and whoever opens the file "
            "would have to run that code: a safe `torch.load` refuses. Ask the optimizer for its state, plain numbers.",
            example=_checkpoint("optimizer"),
        ),
        "brackets": Misconception(
            says="This is the method, not what it returns: the brackets that call it are missing.",
            example=_checkpoint("optimizer.state_dict"),
        ),
        "groups": Misconception(
            says="`param_groups` are the settings: lr, betas, …, and which weights they are for. What the optimizer "
            "remembers, two numbers per weight, is not in them.",
            example=_checkpoint("optimizer.param_groups"),
        ),
        "half": Misconception(
            says="This is the memory without the settings (lr, betas, …), and `load_state_dict` wants both. There is "
            "one call that returns them together.",
            example=_checkpoint("optimizer.state"),
        ),
        "fresh": Misconception(
            says="This state remembers nothing, like that of an optimizer that has made no step. The one that trained "
            "was handed to you: `optimizer`.",
            example=_checkpoint("torch.optim.AdamW(model.parameters()).state_dict()"),
        ),
        "weights": Misconception(
            says="These are the weights a second time. The optimizer has a state of its own.",
            example=_checkpoint("model.state_dict()"),
        ),
    },
    hint="The line above it does the same for the model.",
    solution=_checkpoint("optimizer.state_dict()"),
    why="A run went on from your dict, through a file, and stayed bitwise equal to one that never stopped. (This tiny "
    "one draws no random numbers. Yours does: save those as well.)",
)


# ------------------------------------------------------------------------------------------------ 01.4


def _examine_photo(photo_of: Any) -> None:
    import torch

    raise_for_stub(photo_of, _photo("None"))
    model, optimizer = small_run()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    photo = _result_of(photo_of, model)
    live = {value.data_ptr() for value in model.state_dict().values()}
    if isinstance(photo, torch.nn.Module):
        raise WrongAnswerError(
            "itself" if live & {value.data_ptr() for value in photo.state_dict().values()} else "module"
        )
    wrong_if(callable(photo), "this is a method, not what it returns: the brackets that call it are missing")
    says = "expected the state as a dict from names to tensors, which `load_state_dict` takes"
    wrong_if(not isinstance(photo, dict), says)
    methods = "the dict holds methods, not tensors: the brackets that call them are missing"
    wrong_if(any(callable(value) for value in photo.values()), methods)
    wrong_if(any(type(value).__name__ == "ndarray" for value in photo.values()), "arrays")
    wrong_if(not all(isinstance(value, torch.Tensor) for value in photo.values()), says)
    unknown, missing = set(photo) - set(before), set(before) - set(photo)
    if unknown:
        raise WrongAnswerError(
            f"`{printable(min(map(str, unknown)), 60)}` is no name in this model: whose state is it?"
        )
    wrong_if(missing == {name for name, _ in model.named_buffers()}, "parameters")
    if missing:
        raise WrongAnswerError(f"`{min(missing)}` is missing in the photo")
    shared = [name for name, value in photo.items() if value.data_ptr() in live]
    wrong_if(len(shared) == len(photo), "live" if hasattr(photo, "_metadata") else "shallow")
    if shared:
        raise WrongAnswerError(f"`{shared[0]}` in the photo is the model's own tensor, not a copy")
    train(model, optimizer)
    changed = [name for name in before if not torch.equal(before[name], photo[name])]
    if changed:
        raise WrongAnswerError(f"`{changed[0]}` in the photo is not what it was in the model when the photo was taken")


def _photo(line: str, before: str = "") -> str:
    return f'''{before}\
def photo_of(model):
    """Return the state of the model as it is now, whatever training does to it later."""
    return {line}
'''


PHOTO = Exercise(
    asks="A photo of the best",
    answer="photo_of",
    expects="a function",
    examine=_examine_photo,
    misconceptions={
        "live": Misconception(
            says="Train on, and this photo shows the newer weights: `state_dict()` hands out the live tensors, and "
            "training writes into them.",
            example=_photo("model.state_dict()"),
        ),
        "shallow": Misconception(
            says="A new dict, but around the same tensors: it trains along with the model. `.copy()`, `dict(…)` "
            "and `.detach()` do not copy numbers.",
            example=_photo("model.state_dict().copy()"),
        ),
        "parameters": Misconception(
            says="The parameters are copied, and something is missing: what BatchNorm has counted (`running_mean`, "
            "`running_var`) is no parameter, and no gradient will bring it back. `state_dict()` has it.",
            example=_photo("{name: weight.detach().clone() for name, weight in model.named_parameters()}"),
        ),
        "arrays": Misconception(
            says="These are numpy arrays, which `load_state_dict` does not take. And `.numpy()` copies nothing: they "
            "train along with the model. Keep tensors, and copy them.",
            example=_photo("{name: value.numpy() for name, value in model.state_dict().items()}"),
        ),
        "itself": Misconception(
            says="This is the model itself, or a network around the same tensors, and it trains on. We want the state, "
            "and a copy of it.",
            example=_photo("model"),
        ),
        "module": Misconception(
            says="This is a whole network. It really is a copy, but what we want to keep, save and load is its state: "
            "tensors by name.",
            example=_photo("copy.deepcopy(model)", "import copy\n\n\n"),
        ),
    },
    hint="Take the state, then copy each tensor in it: `tensor.clone()`, or `copy.deepcopy` on the whole dict.",
    solution=_photo("{name: value.clone() for name, value in model.state_dict().items()}"),
    why="Without the copy, “go back to the best epoch” silently goes back to the last one. A file is a copy by itself; "
    "the trap is in memory, and where a file is written in the background.",
)


# ------------------------------------------------------------------------------------------------ 01.5


def _examine_loudness(loudness: Any) -> None:
    import torch

    raise_for_stub(loudness, _loudness("pass", "pass"))
    batches = [torch.full((2,), value) for value in (0.1, 8.3, 2.7, 3.1, 4.9, 5.3, 6.1)]
    running, back = loudness(), loudness()
    for batch in batches[:4]:
        running.hear(batch)
    then = _attributes(running)
    state = _result_of(running.state_dict)
    wrong_if(not isinstance(state, dict), "`state_dict` returns a dict, like that of a model or an optimizer")
    wrong_if(any(isinstance(value, loudness) for value in state.values()), "object")
    saved = through_a_file(state)
    goes_on = [running.hear(batch) for batch in batches[4:]]
    wrong_if(not same(through_a_file(state), saved), "live")
    back.hear(batches[5])  # it may have a life of its own already
    untouched = _attributes(back)
    back.load_state_dict(copy.deepcopy(saved))
    filled = _attributes(back)
    if same([back.hear(batch) for batch in batches[4:]], goes_on) and back.batches == running.batches:
        return
    wrong_if(same(filled, untouched), "unfilled")
    lost = [value for name, value in then.items() if not same(filled.get(name), value)]
    wrong_if(all(any(same(value, kept) for kept in saved.values()) for value in lost), "unrestored")
    raise WrongAnswerError("part")


def _attributes(item: object) -> dict[str, Any]:
    """Return the two attributes of a reader's object, as they are now."""
    return {name: copy.copy(getattr(item, name, None)) for name in ("peaks", "batches")}


def _loudness(save: str, load: str) -> str:
    return f'''\
class Loudness:
    """Divides each batch by the loudest sample of the last four."""

    def __init__(self):
        self.peaks, self.batches = [], 0

    def hear(self, batch):
        self.batches += 1
        self.peaks.append(batch.abs().max().item())
        del self.peaks[:-4]
        return batch / max(self.peaks)

    def state_dict(self):
        {save}

    def load_state_dict(self, state):
        {load}
'''


_LOAD = 'self.peaks, self.batches = list(state["peaks"]), state["batches"]'

LOUDNESS = Exercise(
    asks="A part that torch does not know",
    answer="Loudness",
    expects="a class",
    examine=_examine_loudness,
    misconceptions={
        "live": Misconception(
            says="After `state_dict()` the run heard three more batches, and the state that you had returned changed "
            "with it: the list in it is the live one, as in 01.4. Copy it.",
            example=_loudness('return {"peaks": self.peaks, "batches": self.batches}', _LOAD),
        ),
        "object": Misconception(
            says="The object itself is in the dict. A safe `torch.load` refuses that: put in what it holds, numbers "
            "and lists of numbers.",
            example=_loudness('return {"loudness": self}', 'self.__dict__ = state["loudness"].__dict__'),
        ),
        "part": Misconception(
            says="It came back with a part of itself missing. Whatever `hear` changes belongs to the state: `batches`, "
            "and every number in `peaks`, since the oldest drops out first.",
            example=_loudness('return {"peaks": list(self.peaks)}', 'self.peaks = list(state["peaks"])'),
        ),
        "unrestored": Misconception(
            says="All of it was saved, but it was not put back as it was: `load_state_dict` has to set both "
            "`self.peaks` and `self.batches` to what is in the state, whatever was there before.",
            example=_loudness(
                'return {"peaks": list(self.peaks), "batches": self.batches}', 'self.peaks = list(state["peaks"])'
            ),
        ),
        "unfilled": Misconception(
            says="After `load_state_dict` the object is as it was. It has to fill itself (`self.peaks = …`): whoever "
            "holds the object goes on with this one, and looks at no return value.",
            example=_loudness(
                'return {"peaks": list(self.peaks), "batches": self.batches}',
                'new = Loudness()\n        new.peaks, new.batches = state["peaks"], state["batches"]\n'
                "        return new",
            ),
        ),
    },
    hint="Two attributes change while it runs. `state_dict` returns both in a dict, the list as a copy; "
    "`load_state_dict` puts them back into `self`.",
    solution=_loudness('return {"peaks": list(self.peaks), "batches": self.batches}', _LOAD),
    why="With these two methods `CheckpointManager` saves it and brings it back like torch's own parts. (Copy the list "
    "on the way in as well, or the object and the state will share it.)",
)


LESSON = Lesson(
    prediction="01.2",
    questions={"01.1": HABIT, "01.2": PREDICTION, "01.3": CHECKPOINT, "01.4": PHOTO, "01.5": LOUDNESS},
)
