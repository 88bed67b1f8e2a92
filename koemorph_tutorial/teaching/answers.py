"""predict, reveal, check: questions that answer back.

An answer is tried out, and what is said is about that answer. Nothing here stops a notebook, except a question or an
option that does not exist.
"""

from __future__ import annotations

import inspect
import linecache
import traceback
from typing import Literal

from koemorph_tutorial.text import printable

from . import logbook
from .kernel import Message, code_block
from .lessons import Choice, Exercise, LessonError, NotAttemptedError, WrongAnswerError, lesson, question
from .trial import apart, is_nothing

Letter = Literal["a", "b", "c", "d"]

_predicted: dict[str, str] = {}  # in this kernel: what a lesson shows depends on nothing that was done before


def predict(number: str, answer: Letter | None) -> None:
    """Note a prediction; None is no prediction yet.

    Raises:
        LessonError: no such question or option.
    """
    asked = _choice(number)
    if is_nothing(answer):
        _predicted.pop(number, None)
        Message(f"{number}: no prediction yet (replace None by {_letters(asked)})").show()
        return
    letter = _letter(number, asked, answer)
    _predicted[number] = letter
    logbook.record(number, answer=letter)
    Message(f"{number}: noted. {letter}) {asked.options[letter].text}").show()


def reveal(number: str, *, happened: Letter) -> None:
    """Set the prediction beside what happened, and say what is wrong with the idea behind it.

    `happened` is computed by the cell that ran the experiment.

    Raises:
        LessonError: no such question or option.
    """
    asked = _choice(number)
    truth = asked.options[_letter(number, asked, happened)]
    answer = _predicted.get(number)
    happened_so = f"What happened: {happened}) {truth.text}"
    if answer is None:
        Message(f"{number}: no prediction", happened_so, truth.reply).show()
        return
    logbook.record(number, answer=answer, passed=answer == happened)
    if answer == happened:
        Message(f"{number}: as you predicted. {happened}) {truth.text}", truth.reply, passed=True).show()
    else:
        yours = asked.options[answer]
        Message(f"{number}: you predicted {answer}) {yours.text}", happened_so, yours.reply, passed=False).show()


def check(number: str, answer: object) -> None:
    """Try an answer and say what this answer shows; a stub left alone is "not attempted yet".

    Raises:
        LessonError: no such question or option.
    """
    asked = question(number)
    if number == lesson(number[:2]).prediction:
        raise LessonError(f"{number} is the prediction, for predict()")
    if is_nothing(answer):
        Message(f"{number}: not attempted yet").show()
    elif isinstance(asked, Choice):
        _check_choice(number, asked, answer)
    else:
        _check_exercise(number, asked, answer)


def _check_choice(number: str, asked: Choice, answer: object) -> None:
    letter = _letter(number, asked, answer)
    passed = None if asked.right is None else letter == asked.right
    logbook.record(number, answer=letter, passed=passed is not False)
    title = {None: "noted", True: "right", False: "not quite"}[passed]
    Message(f"{number}: {title}", asked.options[letter].reply, passed=passed).show()


def _check_exercise(number: str, asked: Exercise, answer: object) -> None:
    try:
        says = _examine(asked, answer)
    except NotAttemptedError:
        Message(f"{number}: not attempted yet").show()
        return
    logbook.record(number, passed=says is None)
    if says is None:
        Message(f"{number}: passed", asked.why, passed=True).show()
    else:
        folded = {"A hint": asked.hint, "The solution": code_block(asked.solution)}
        Message(f"{number}: not yet", says, passed=False, folded=folded).show()


def _examine(asked: Exercise, answer: object) -> str | None:
    """Return what is wrong with an answer, None if nothing is."""
    found = _kind(answer)
    if found != asked.expects:
        without = " itself, without the brackets that call it" if asked.expects == "a function" else ""
        return f"expected {asked.expects}, found {found}: hand over `{asked.answer}`{without}"
    return apart(asked.answer, lambda: _tried(asked, answer)) if asked.apart else _tried(asked, answer)


def _tried(asked: Exercise, answer: object) -> str | None:
    import torch

    from koemorph_tutorial.rng import capture_rng, prepare_rng

    random_state = prepare_rng(capture_rng())  # a lesson goes on the same whether its exercises were tried or not
    try:
        with torch.inference_mode(False), torch.enable_grad():
            asked.examine(answer)
    except (NotAttemptedError, KeyboardInterrupt):
        raise
    except WrongAnswerError as error:
        name = str(error)
        return asked.misconceptions[name].says if name in asked.misconceptions else name
    except BaseException as error:  # the reader's own code may raise anything
        return _raised(asked.answer, answer, error)
    finally:
        random_state()
    return None


def _kind(answer: object) -> str:
    if isinstance(answer, type):
        return "a class"
    if callable(answer):
        return "a function"
    name = printable(type(answer).__name__) or "nameless thing"
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _raised(name: str, answer: object, error: BaseException) -> str:
    """Say what was raised, and in which line if that is one of the reader's own."""
    try:
        message = printable(f"{type(error).__name__}: {error}", 300)
        own = _files(answer)
    except Exception:  # an error that cannot even be printed, an answer that cannot be looked into
        message, own = type(error).__name__, set()
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in own]
    if not lines:
        return f"what came of `{name}` could not be tried: {message}"
    line = linecache.getline(lines[-1].filename, lines[-1].lineno or 0).strip().replace("`", "'")
    return f"`{name}` raised {message}, in line {lines[-1].lineno}" + (f": `{line}`" if line else "")


def _files(answer: object) -> set[str]:
    """Return the file, or the cell, in which a function or the methods of a class were written."""
    written = vars(answer).values() if isinstance(answer, type) else [inspect.unwrap(getattr(answer, "func", answer))]  # type: ignore[arg-type]
    return {item.__code__.co_filename for item in written if hasattr(item, "__code__")}


def _choice(number: str) -> Choice:
    asked = question(number)
    prediction = lesson(number[:2]).prediction
    if number != prediction or not isinstance(asked, Choice):
        raise LessonError(f"{number} is for check(); the prediction of this lesson is {prediction}")
    return asked


def _letter(number: str, asked: Choice, answer: object) -> str:
    letter = answer.strip().lower() if isinstance(answer, str) else ""
    if letter not in asked.options:
        raise LessonError(f"{number}: expected {_letters(asked)}, found {printable(repr(answer))}")
    return letter


def _letters(asked: Choice) -> str:
    *first, last = (f'"{letter}"' for letter in asked.options)
    return f"{', '.join(first)} or {last}"
