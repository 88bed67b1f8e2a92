"""The nouns of a lesson: what it asks, which answers it expects, and what it says to each.

Questions are numbered in the order in which a lesson asks them: one looks back, one is the prediction, the others are
exercises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any

# The lessons that are there: number -> the idea that names the notebook, the module, its test and its exercises; but
# the last lesson is about all of them, and only its notebook has its name.
LESSONS: Mapping[str, str] = MappingProxyType(
    {
        "01": "state",
        "02": "storage",
        "03": "resume",
        "04": "inference",
        "05": "save_policy",
        "06": "retention",
        "07": "compression",
        "08": "validation",
        "09": "export",
        "10": "end_to_end",
    }
)

TAUGHT_BY: Mapping[str, str] = MappingProxyType({"end_to_end": "manager"})  # idea -> module, where they differ


class LessonError(ValueError):
    """Something that a lesson's functions cannot take; a notebook shows its one line without a traceback."""

    def _render_traceback_(self) -> list[str]:  # asked for by IPython
        return [str(self)]


class NotAttemptedError(Exception):
    """Raised by an exercise's `examine`: the stub is as the lesson handed it out."""


class WrongAnswerError(Exception):
    """Raised by an exercise's `examine`: the name of a declared misconception, or a sentence of its own."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One answer to a question: its text as the lesson prints it, and what is said to whoever takes it."""

    text: str
    reply: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A question with options; `right` is None where only the reader knows."""

    asks: str
    options: Mapping[str, Option]
    right: str | None = None


@dataclass(frozen=True, kw_only=True)
class Misconception:
    """A wrong answer that people really give: what is said to it, and source code that gives it."""

    says: str
    example: str


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """A task with an answer that is tried out.

    `answer` is the name that the lesson hands to `check`, `expects` what it must be ("a function", "a class", …);
    `examine` tries it and raises `NotAttemptedError` or `WrongAnswerError`, `apart` in a copy of the process where an
    answer may do harm; `hint` and `why` are sentences, `solution` is source code.
    """

    asks: str
    answer: str
    expects: str
    examine: Callable[[Any], None]
    misconceptions: Mapping[str, Misconception]
    hint: str
    solution: str
    why: str
    apart: bool = False


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a lesson asks, by number; `prediction` is the number of the one that is answered by an experiment."""

    prediction: str
    questions: Mapping[str, Choice | Exercise]


@cache
def lesson(number: str) -> Lesson:
    """Return the lesson of that number, "01" to "10".

    Raises:
        LessonError: names the lessons that there are.
    """
    if number not in LESSONS:
        raise LessonError(f"there is no lesson {number}; there are {', '.join(LESSONS)}")
    idea = LESSONS[number]
    found: Lesson = import_module(f".exercises.{TAUGHT_BY.get(idea, idea)}", __package__).LESSON
    return found


def question(number: str) -> Choice | Exercise:
    """Return the question of that number, for example "01.3".

    Raises:
        LessonError: names the questions that there are.
    """
    if not isinstance(number, str):
        raise LessonError(f'expected the number of a question in quotes, like "01.3", found {number!r}')
    questions = lesson(number.partition(".")[0]).questions
    if number not in questions:
        raise LessonError(f"there is no question {number}; there are {', '.join(questions)}")
    return questions[number]
