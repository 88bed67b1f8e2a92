"""Lesson 03: where a run goes on, and with which random numbers."""

from __future__ import annotations

import copy
import operator
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from koemorph_tutorial.teaching.cells import form
from koemorph_tutorial.teaching.lessons import Choice, Exercise, Lesson, Misconception, Option, WrongAnswerError
from koemorph_tutorial.teaching.trial import (
    expect_something,
    first_line,
    raise_for_stub,
    shown,
    through_a_file,
    wrong_if,
)

# ------------------------------------------------------------------------------------------------ 03.1 and 03.2

NEWEST = Choice(
    asks="From which file does a run go on?",
    options={
        "a": Option(
            text="`last_model.pth`: it has that name for a reason.",
            reply="A name is a promise. While the file was being written somebody killed the process: it is torn. Of "
            "the files that are whole, the one that holds the furthest epoch is the newest, whatever it is called.",
        ),
        "b": Option(
            text="`checkpoint_epoch_006.pth`: of the whole files it holds the furthest epoch.",
            reply="What is in the files survives a kill and a copy. Names and clocks do not.",
        ),
        "c": Option(
            text="`best_model.pth`: it has the newest time stamp.",
            reply="A time stamp says when a file was touched, and a copy touches all of them, in any order. Inside it "
            "lies epoch 4, and a whole file of epoch 6 lies beside it.",
        ),
    },
    right="b",
)

PREDICTION = Choice(
    asks="Are the weights equal in the end?",
    options={
        "a": Option(
            text="They differ with random numbers, and differ without.",
            reply="Two things are wrong at once. The random numbers start again. And without any random number it "
            "still went wrong: the file says that epoch 3 was done, the recipe takes it for the epoch to do.",
        ),
        "b": Option(
            text="They differ with random numbers, and are equal without.",
            reply="The random numbers do start again. But look at the lines above: without any of them the two still "
            "differ. The file says that epoch 3 was done, the recipe takes it for the epoch to do.",
        ),
        "c": Option(
            text="They are equal with random numbers, and equal without.",
            reply="A seed is where random numbers begin, not where they were on Friday: set again, it brings the "
            "numbers of epoch 0 back. And the file says that epoch 3 was done, the recipe takes it for the epoch to "
            "do.",
        ),
    },
    right="a",
)


# ------------------------------------------------------------------------------------------------ 03.3

_EPOCHS, _LENGTH, _DONE = 4, 7, 3  # a run of four epochs; stopped after the third of seven batches


def _examine_place(next_batch: Any) -> None:
    raise_for_stub(next_batch, _place("return None  # your line"))
    inside = _asked(next_batch, 1, _DONE, _LENGTH)
    end = _asked(next_batch, 1, _LENGTH, _LENGTH)
    found = {
        ((1, 0), (1, 0)): "recipe",
        ((2, 0), (2, 0)): "rest",
        ((1, 0), (2, 0)): "again",
        ((1, _DONE), (1, _LENGTH)): "empty",
        ((1, _DONE + 1), (1, _LENGTH + 1)): "off by one",
        ((1, _DONE + 1), (2, 0)): "off by one",
        ((2, _DONE), (2, _LENGTH)): "both",
        ((_DONE, 1), (_LENGTH, 1)): "swapped",
        ((_DONE, 1), (0, 2)): "swapped",
    }.get((inside, end))
    if found:
        raise WrongAnswerError(found)
    for length in (1, 5, _LENGTH):
        for epoch in range(_EPOCHS):
            for done in range(1, length + 1):
                _compare_batches(epoch, done, length, _asked(next_batch, epoch, done, length))


def _asked(next_batch: Any, epoch: int, done: int, length: int) -> tuple[int, int]:
    place = next_batch(epoch, done, length)
    expect_something(place, "next_batch")
    if hasattr(place, "epoch") and hasattr(place, "batch"):
        place = (place.epoch, place.batch)
    if not isinstance(place, (tuple, list)) or len(place) != 2:
        raise WrongAnswerError(f"expected two numbers, the epoch and the batch, found {shown(place)}")
    try:
        return operator.index(place[0]), operator.index(place[1])
    except TypeError:
        says = f"expected whole numbers, found {shown(place)}"
    if all(isinstance(number, (int, float)) and float(number).is_integer() for number in place):
        says += ", with a float, which `range` refuses. Of whole numbers `//` makes a whole one, `/` a float"
    raise WrongAnswerError(says)


def _compare_batches(epoch: int, done: int, length: int, place: tuple[int, int]) -> None:
    """Train from there to the end, in thought, and say which batches come twice or never."""
    before = [(e, b) for e in range(epoch + 1) for b in range(length) if (e, b) < (epoch, done)]
    after = [(e, b) for e in range(place[0], _EPOCHS) for b in range(place[1] if e == place[0] else 0, length)]
    trained = Counter(before + after)
    twice = sorted(batch for batch, times in trained.items() if times > 1)
    never = sorted({(e, b) for e in range(_EPOCHS) for b in range(length)} - set(trained))
    where = f"Saved in epoch {epoch} after {done} of {length} batches, it goes on at epoch {place[0]}, batch {place[1]}"
    if twice:
        raise WrongAnswerError(f"{where}: {_named(twice, 'trained twice')}")
    if never:
        raise WrongAnswerError(f"{where}: {_named(never, 'never trained')}")
    wrong_if(place[1] >= length, f"{where}, which is no batch: an epoch has the batches 0 to {length - 1}")


def _named(batches: list[tuple[int, int]], become: str) -> str:
    first = f"epoch {batches[0][0]}, batch {batches[0][1]}"
    if len(batches) == 1:
        return f"1 batch is {become}: {first}"
    return f"{len(batches)} batches are {become}, from {first}, on"


_place = form('''\
def next_batch(epoch, done, length):
    """Return the epoch and the batch to go on with, both counted from 0."""
    {lines}
''')


PLACE = Exercise(
    asks="Where to go on",
    answer="next_batch",
    expects="a function",
    examine=_examine_place,
    misconceptions={
        "recipe": Misconception(
            says="This is the recipe's line. The epoch that was saved begins again from its first batch: what was done "
            "of it, and at its end that is all of it, is trained twice.",
            example=_place("return epoch, 0"),
        ),
        "rest": Misconception(
            says="Right for a save at the end of an epoch. But saved after 3 of 7 batches it skips the other four: "
            "they are never trained.",
            example=_place("return epoch + 1, 0"),
        ),
        "again": Misconception(
            says="Right for a save at the end of an epoch. But saved after 3 of 7 batches it begins the epoch again: "
            "those three are trained twice.",
            example=_place("return (epoch + 1, 0) if done == length else (epoch, 0)"),
        ),
        "empty": Misconception(
            says="Right inside an epoch. But after the last of 7 batches it goes on at batch 7, and they are counted "
            "from 0 to 6: an epoch without a batch, validated a second time, its learning rate stepped a second time.",
            example=_place("return epoch, done"),
        ),
        "off by one": Misconception(
            says="One too far: 3 batches done are the batches 0, 1 and 2, so the next is number 3. Yours skips it.",
            example=_place("return epoch, done + 1"),
        ),
        "both": Misconception(
            says="Both at once is too much: the rest of this epoch is never trained, nor is the beginning of the next. "
            "The epoch moves on where it is full; then the batch is 0.",
            example=_place("return epoch + 1, done"),
        ),
        "swapped": Misconception(
            says="The right numbers in the wrong order: first the epoch, then the batch.",
            example=_place("return done, epoch"),
        ),
    },
    hint="Two cases: is the epoch full (`done == length`) or not? `divmod` counts both in one line.",
    solution=_place("return divmod(epoch * length + done, length)"),
    why="From each of its batches your run went on with the next one: none came twice, none was left out. The library "
    "calls this pair, with the count of all batches, a `Position`.",
)


# ------------------------------------------------------------------------------------------------ 03.4


def _draw() -> dict[str, list[float]]:
    """Draw from each generator; a normal number comes first, since that is what may wait in a cache."""
    import numpy as np
    import torch

    return {
        "torch": [*torch.randn(3).tolist(), torch.rand(1).item()],
        "Python": [random.gauss(0, 1), random.random(), random.gauss(0, 1)],
        "numpy": [float(np.random.normal()), float(np.random.random()), float(np.random.normal())],
    }


def _seed(seed: int, normals: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    for _ in range(normals):
        random.gauss(0, 1), np.random.normal()


@dataclass(frozen=True)
class _Return:
    """What a run draws after its state was taken, and what another process draws that got this state; of numpy more."""

    expected: dict[str, list[float]]
    found: dict[str, list[float]]
    is_kept: bool  # numpy's numbers are in the state
    is_left: bool  # numpy is where it was before the state came
    is_near: bool  # numpy has the numbers, and is at another place in them


def _state_of_numpy() -> Any:
    import numpy as np

    return np.random.get_state()


def _brought_back(kind: Any, seed: int, normals: int) -> _Return:
    _seed(seed, normals)
    expected = _draw()
    _seed(seed, normals)
    numbers = _state_of_numpy()[1]
    state = kind().state_dict()
    expect_something(state, "state_dict")
    wrong_if(not isinstance(state, dict), "`state_dict` returns a dict, like that of a model or an optimizer")
    wrong_if(_draw() != expected, "moves")
    try:
        saved = through_a_file(state)
    except WrongAnswerError as error:
        if "numpy" in str(error):
            raise WrongAnswerError("array") from error
        raise
    wrong_if(any(isinstance(leaf, (bytes, bytearray)) for leaf in _leaves(saved)), "pickled")
    _seed(seed + 1000, 4)
    kind().state_dict()  # what is kept elsewhere than in the state would be of this moment
    before = _state_of_numpy()
    kind().load_state_dict(copy.deepcopy(saved))
    after = _state_of_numpy()
    return _Return(
        expected=expected,
        found=_draw(),
        is_kept=_holds(saved, numbers[:9].tolist()),
        is_left=repr(before) == repr(after) and bool((before[1] == after[1]).all()),
        is_near=bool((after[1] == numbers).all()),
    )


def _holds(saved: Any, numbers: list[int]) -> bool:
    """Say whether these numbers are somewhere in a state: in a list, a tensor, a text."""
    found = " ".join(str(leaf.tolist() if hasattr(leaf, "tolist") else leaf) for leaf in _leaves(saved))
    return set(map(str, numbers)) <= set(re.findall(r"\d+", found))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        yield value
        return
    for item in value:
        yield from _leaves(item)


def _examine_random_numbers(kind: Any) -> None:
    raise_for_stub(kind, _RANDOM_STUB)
    plain, cached, later = _brought_back(kind, 1, 0), _brought_back(kind, 1, 1), _brought_back(kind, 2, 6)
    runs = (plain, later)
    wrong = [name for name in plain.expected if any(run.expected[name] != run.found[name] for run in runs)]
    if wrong == ["numpy"]:
        wrong_if(all(run.is_left for run in runs), "unused" if all(run.is_kept for run in runs) else "elsewhere")
        wrong_if(all(run.is_near for run in runs), "place")
        wrong_if(plain.found["numpy"] == later.found["numpy"], "seed")
    wrong_if(wrong, f"the random numbers of {' and '.join(wrong)} do not come back as they were")
    wrong_if(cached.expected != cached.found, "cached")


def _random_numbers(save: str, load: tuple[str, ...], head: tuple[str, ...] = (), imports: str = "numpy as np") -> str:
    before = "".join(f"        {line}\n" for line in head)
    after = "".join(f"        {line}\n" for line in load)
    more = f"\nimport {imports}\n" if imports else ""
    return f'''\
import random
{more}

class RandomNumbers:
    """The random numbers of a run, as a part with a state."""

    def state_dict(self):
{before}        return {{"torch": torch.get_rng_state(), "python": random.getstate(){save}}}

    def load_state_dict(self, state):
        torch.set_rng_state(state["torch"])
        random.setstate(state["python"])
{after}'''


_RANDOM_STUB = _random_numbers("", (), imports="")
_SET_NUMPY = 'np.random.set_state(state["numpy"])'

RANDOM_NUMBERS = Exercise(
    asks="One generator is missing",
    answer="RandomNumbers",
    expects="a class",
    examine=_examine_random_numbers,
    misconceptions={
        "elsewhere": Misconception(
            says="numpy's do not come back: after `load_state_dict` it goes on from wherever it was. What you ask and "
            "set has to be `np.random` itself, from which `np.random.normal()` draws; `np.random.default_rng()` makes "
            "another generator.",
            example=_random_numbers(
                ', "numpy": np.random.default_rng().bit_generator.state',
                ('np.random.default_rng().bit_generator.state = state["numpy"]',),
            ),
        ),
        "array": Misconception(
            says="The right state, but `torch.load` with `weights_only=True` refuses it: one of the five things that "
            "`np.random.get_state()` returns is a numpy array, and `list` makes numpy's numbers of it. It opens "
            "Python's numbers, text and tensors, and lists of them.",
            example=_random_numbers(', "numpy": np.random.get_state()', (_SET_NUMPY,)),
        ),
        "unused": Misconception(
            says="numpy's numbers are in the file, and there they stay: after `load_state_dict` numpy goes on from "
            "wherever it was. It has to set them, as it does for torch and Python.",
            example=_random_numbers(
                ', "numpy": (name, numbers.tolist(), *rest)', (), ("name, numbers, *rest = np.random.get_state()",)
            ),
        ),
        "place": Misconception(
            says="The right 624 numbers, read from the wrong place. numpy hands them out one after the other, and the "
            "third of the five entries says how many are used up: 624 after a seed, another count inside a run. Keep "
            "it as well.",
            example=_random_numbers(
                ', "numpy": np.random.get_state()[1].tolist()',
                ('np.random.set_state(("MT19937", state["numpy"], 624))',),
            ),
        ),
        "cached": Misconception(
            says="Nearly. numpy makes normal numbers in pairs, and the second one waits in its state for the next "
            "call: the last two entries. Yours loses it, so after an odd count of them all that follows is different. "
            "Keep all five.",
            example=_random_numbers(
                ', "numpy": [name, numbers.tolist(), place]',
                (_SET_NUMPY,),
                ("name, numbers, place, *_ = np.random.get_state()",),
            ),
        ),
        "seed": Misconception(
            says="It brings back the same numbers wherever the run was when it was saved. A seed is where they begin, "
            "and a run is somewhere behind that: keep the state, which says where.",
            example=_random_numbers(', "numpy": 0', ('np.random.seed(state["numpy"])',)),
        ),
        "moves": Misconception(
            says="Taking the state changes it: the run that was saved draws other numbers than one that was not. "
            "`state_dict` only looks; it draws nothing and seeds nothing.",
            example=_random_numbers(
                ', "numpy": seed',
                ('np.random.seed(state["numpy"])',),
                ("seed = np.random.randint(2**31)", "np.random.seed(seed)"),
            ),
        ),
        "pickled": Misconception(
            says="It works, and hides a pickle in the file. Whoever opens that pickle runs the code that it brings, "
            "which a safe `torch.load` is there to prevent. Numbers and lists are enough.",
            example=_random_numbers(
                ', "numpy": pickle.dumps(np.random.get_state())',
                ('np.random.set_state(pickle.loads(state["numpy"]))',),
                imports="pickle, numpy as np",
            ),
        ),
    },
    hint="Look at the five: `name, numbers, *rest = np.random.get_state()`. Only `numbers` is an array; its "
    "`.tolist()` is as good, and `np.random.set_state` takes the five back with a list in its place.",
    solution=_random_numbers(
        ', "numpy": (name, numbers.tolist(), *rest)',
        (_SET_NUMPY,),
        ("name, numbers, *rest = np.random.get_state()",),
    ),
    why="Another process, with other random numbers, took your state through a safe file and drew the same numbers as "
    "the run that was saved, also where a normal number was waiting. (A GPU has its own: `torch.cuda`.)",
)


# ------------------------------------------------------------------------------------------------ 03.5

_SAMPLES, _SIZE = 16, 4
_PATIENCE = 20.0

Epochs = list[list[list[int]]]


def _begun(kind: Any, state: Any) -> Any:
    loader = kind()
    if state is not None:
        loader.load_state_dict(copy.deepcopy(state))
    return loader


def _goes_on(kind: Any, state: Any, epochs: int) -> Epochs:
    """Return the batches of so many epochs, begun anew or from a state."""
    loader = _begun(kind, state)
    return [[_numbers(batch) for batch in loader] for _ in range(epochs)]


def _numbers(batch: Any) -> list[int]:
    found = batch.tolist() if hasattr(batch, "tolist") else batch
    return [int(number) for number in (found if isinstance(found, Iterable) else [found])]


def _killed_after(kind: Any, state: Any, batches: int, *, epochs: int = 0) -> tuple[list[list[int]], Any]:
    """Return the first batches of an epoch, all if the count is negative, and the state that is saved after them."""
    loader = _begun(kind, state)
    for _ in range(epochs):
        list(loader)
    read: list[list[int]] = []
    for batch in loader if batches else ():
        read.append(_numbers(batch))
        if len(read) == batches:
            break
    saved = loader.state_dict()
    expect_something(saved, "state_dict")
    return read, through_a_file(saved)


def _elsewhere(work: Callable[[], Any]) -> Any:
    """Return what `work` returns in a copy of this process: whatever it leaves in memory is gone, as after a kill."""
    import torch

    from koemorph_tutorial.testing.children import run

    def child() -> dict[str, str]:
        try:
            torch.save(work(), "elsewhere.pth")
        except WrongAnswerError as error:
            return {"wrong": str(error)}
        except Exception as error:
            return {"wrong": f"`Batches` raised {first_line(error)}"}
        return {}

    ended = run(child, Path(), timeout=_PATIENCE)
    if ended.timed_out or ended.killed or ended.error is not None:
        raise WrongAnswerError(f"reading from `Batches` did not come to its end: {ended.error or 'no end in sight'}")
    if "wrong" in ended.result:
        raise WrongAnswerError(ended.result["wrong"])
    return torch.load("elsewhere.pth", weights_only=True)


def _examine_batches(kind: Any) -> None:
    raise_for_stub(kind, _BATCHES_STUB)
    straight: Epochs = _elsewhere(partial(_goes_on, kind, None, 3))
    for number, epoch in enumerate(straight):
        if sorted(chain.from_iterable(epoch)) != list(range(_SAMPLES)):
            held = len(set(chain.from_iterable(epoch)) & set(range(_SAMPLES)))
            raise WrongAnswerError(
                "never reset"
                if number and not held
                else f"without any kill an epoch has to hold each of the {_SAMPLES} samples once; epoch {number} holds "
                f"{held} of them in {len(epoch)} batches"
            )
    if straight[0] == straight[1] or straight[1] == straight[2]:
        raise WrongAnswerError("each epoch was to have a new order; two that follow each other have the same one")

    _, ends = _elsewhere(partial(_killed_after, kind, None, -1))
    after = _elsewhere(partial(_goes_on, kind, ends, 2))
    if after != straight[1:]:
        how = "repeats that epoch" if after[0] == straight[0] else "does not go on as before"
        raise WrongAnswerError(f"killed at the end of an epoch it {how}; what you began with goes on with the next")
    killed = [(done, *_elsewhere(partial(_killed_after, kind, None, done))) for done in (1, 2, 3)]
    rests = [_elsewhere(partial(_goes_on, kind, state, 3)) for _, _, state in killed]
    wrong_if(all(rest[0] == straight[0][done - 1 :] for (done, *_), rest in zip(killed, rests, strict=True)), "late")
    for (done, read, state), rest in zip(killed, rests, strict=True):
        _judge(straight, read, rest[0])
        wrong_if(rest[1] == straight[1][done:], "count kept")
        wrong_if(rest[1:] != straight[1:], "later")
        if done == 1:
            _, state = _elsewhere(partial(_killed_after, kind, state, 1))
            wrong_if(_elsewhere(partial(_goes_on, kind, state, 1)) != [straight[0][2:]], "second")

    # In epoch 1, since what a fresh loader has of itself may be right for epoch 0.
    _, state = _elsewhere(partial(_killed_after, kind, None, 2, epochs=1))
    if _elsewhere(partial(_goes_on, kind, state, 2)) != [straight[1][2:], straight[2]]:
        raise WrongAnswerError(
            "killed inside epoch 0 it goes on, killed inside epoch 1 it does not: is what it keeps of the epoch's "
            "beginning renewed in each?"
        )
    try:
        _, again = _elsewhere(partial(_killed_after, kind, state, 0))
        same = _elsewhere(partial(_goes_on, kind, again, 2)) == [straight[1][2:], straight[2]]
    except WrongAnswerError:  # it kept what cannot be gone on from, None say
        same = False
    wrong_if(not same, "at once")


def _judge(straight: Epochs, read: list[list[int]], rest: list[list[int]]) -> None:
    """Say what is wrong with the rest of an epoch of which `read` was trained before the kill."""
    if rest == straight[0][len(read) :]:
        return
    wrong_if(rest == straight[0], "begins again")
    seen = Counter(chain.from_iterable(read + rest))
    twice, never = sum(times > 1 for times in seen.values()), _SAMPLES - len(seen)
    wrong_if(rest == straight[1][len(read) :], "other order")
    wrong_if(rest == straight[1], "next epoch")
    wrong_if(not rest, "killed inside an epoch it goes on with no batch at all: the rest of the epoch is lost")
    raise WrongAnswerError(
        f"killed after {len(read)} of 4 batches it goes on with others than the run that was not: in this epoch "
        f"{twice} of the {_SAMPLES} samples come twice, and {never} never"
    )


def _batches(init: str, before: str, loop: tuple[str, ...], after: str, save: str, load: str) -> str:
    indent = "\n        "
    inside = loop[1:] if "yield batch" in loop else (*loop[1:], "yield batch")
    body = f"{indent}    ".join([f"for batch in {loop[0]}:", *inside]) if loop[1:] else f"yield from {loop[0]}"
    lines = [before, "order = torch.randperm(16, generator=self.generator)", body, after]
    return f'''\
class Batches:
    """Sixteen samples, four at a time, in a new order each epoch."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(0){indent + init if init else ""}

    def __iter__(self):
        {indent.join(line for line in lines if line)}

    def state_dict(self):
        return {save}

    def load_state_dict(self, state):
        {load}
'''


_INIT = "self.start, self.done = self.generator.get_state(), 0"
_BEFORE = "self.generator.set_state(self.start)"
_LOOP = ("order.split(4)[self.done :]", "self.done += 1")
_STATE, _LOAD = '{"start": self.start, "done": self.done}', 'self.start, self.done = state["start"], state["done"]'
_NOW = '"generator": self.generator.get_state()'
_SET = 'self.generator.set_state(state["generator"])'
_BATCHES_STUB = _batches("", "", ("order.split(4)",), "", f"{{{_NOW}}}", _SET)

BATCHES = Exercise(
    asks="Inside an epoch",
    answer="Batches",
    expects="a class",
    examine=_examine_batches,
    apart=True,
    misconceptions={
        "other order": Misconception(
            says="The right count in the wrong order. The order was drawn when the epoch began; by the time of the "
            "save the generator had moved on, and what it draws now is the next epoch's. Some samples come twice, "
            "others never. Keep the generator's state from before the order was drawn.",
            example=_batches(
                "self.done = 0",
                "",
                _LOOP,
                "self.done = 0",
                f'{{{_NOW}, "done": self.done}}',
                f'{_SET}; self.done = state["done"]',
            ),
        ),
        "begins again": Misconception(
            says="The order is right, but the epoch begins again: the batches that were done come a second time. Count "
            "them, keep the count in the state, and leave so many out.",
            example=_batches(
                "self.start = self.generator.get_state()",
                _BEFORE,
                ("order.split(4)",),
                "self.start = self.generator.get_state()",
                '{"start": self.start}',
                'self.start = state["start"]',
            ),
        ),
        "late": Misconception(
            says="One late: the batch before the kill comes again. At a `yield` the loader stands still until somebody "
            "asks for the next batch, so what is written after it has not happened yet when the state is saved. Count "
            "first, then hand out.",
            example=_batches(_INIT, _BEFORE, (_LOOP[0], "yield batch", _LOOP[1]), _INIT, _STATE, _LOAD),
        ),
        "never reset": Misconception(
            says="Without any kill epoch 0 is whole, and epoch 1 has no batch: the count of batches done still stands "
            "at 4, and so many are left out. It has to go back to 0 when an epoch ends.",
            example=_batches(_INIT, _BEFORE, _LOOP, "self.start = self.generator.get_state()", _STATE, _LOAD),
        ),
        "at once": Misconception(
            says="Killed and brought back, it goes on. But saved again right after that, before any batch, it writes "
            "another place than it was given, and is lost with the next kill. What `state_dict` reads, "
            "`load_state_dict` has to set.",
            example=_batches(
                _INIT,
                "self.start = self.generator.get_state()",
                _LOOP,
                "self.start, self.done = self.generator.get_state(), 0",
                _STATE,
                'self.generator.set_state(state["start"]); self.done = state["done"]',
            ),
        ),
        "next epoch": Misconception(
            says="The rest of this epoch is lost: it goes on with the whole of the next one. The state has to say that "
            "an epoch is under way, in which order, and how much of it is done.",
            example=_batches(
                "self.unused = 0", "", ("order.split(4)",), "", f'{{{_NOW}, "unused": self.unused}}', _SET
            ),
        ),
        "count kept": Misconception(
            says="This epoch is right, and the next one lacks its beginning: the count of batches done has to go back "
            "to 0 when an epoch ends.",
            example=_batches(
                f"{_INIT}; self.skip = 0",
                _BEFORE,
                ("order.split(4)[self.skip :]", "self.done += 1"),
                "self.start, self.done = self.generator.get_state(), 0",
                _STATE,
                f'{_LOAD}; self.skip = state["done"]',
            ),
        ),
        "later": Misconception(
            says="This epoch is right, the next ones have another order than without the kill. At the end of a resumed "
            "epoch the generator has to be where it would have been.",
            example=_batches(
                "self.order, self.done = None, 0",
                "",
                (
                    "(order if self.order is None else self.order).split(4)[self.done :]",
                    "self.order, self.done = (order if self.order is None else self.order), self.done + 1",
                ),
                "self.order, self.done = None, 0",
                f'{{"order": self.order, "done": self.done, {_NOW}}}',
                f'self.order, self.done = state["order"], state["done"]; {_SET}',
            ),
        ),
        "second": Misconception(
            says="Killed once, it goes on. Killed a second time in the same epoch it does not: after a resume the "
            "count of batches done begins at those before the kill, not at 0.",
            example=_batches(
                f"{_INIT}; self.skip = 0",
                f"{_BEFORE}; skip, self.skip, self.done = self.skip, 0, 0",
                ("order.split(4)[skip:]", "self.done += 1"),
                "self.start, self.done = self.generator.get_state(), 0",
                _STATE,
                'self.start, self.skip = state["start"], state["done"]',
            ),
        ),
    },
    hint="Two things in the state: `self.start`, the generator's state when the epoch began, and `self.done`, the "
    "batches so far. `__iter__` sets the generator to `self.start`, draws the order, leaves out the first `self.done` "
    "and counts on. After the loop both are set anew.",
    solution=_batches(_INIT, _BEFORE, _LOOP, _INIT, _STATE, _LOAD),
    why="Killed after each batch, twice in one epoch, and before any batch, it handed out the same batches as without "
    "a kill, and the same orders later. This is the idea of `ResumableLoader`, which does it for any DataLoader.",
)


LESSON = Lesson(
    prediction="03.2",
    questions={"03.1": NEWEST, "03.2": PREDICTION, "03.3": PLACE, "03.4": RANDOM_NUMBERS, "03.5": BATCHES},
)
