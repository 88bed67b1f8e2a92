"""predict, reveal and check, and every exercise of every lesson: the stub, the wrong answers, the solution."""

from __future__ import annotations

import random
from pathlib import Path

import nbformat
import pytest
import torch

from koemorph_tutorial.teaching import check, predict, reveal
from koemorph_tutorial.teaching.lessons import LESSONS, Choice, Exercise, LessonError, lesson, question

pytestmark = pytest.mark.usefixtures("small_batches")

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"

QUESTIONS = [(number, asked) for name in LESSONS for number, asked in lesson(name).questions.items()]
EXERCISES = {number: asked for number, asked in QUESTIONS if isinstance(asked, Exercise)}
MISCONCEPTIONS = [(number, name) for number, exercise in EXERCISES.items() for name in exercise.misconceptions]
CHOICES = {number: asked for number, asked in QUESTIONS if isinstance(asked, Choice)}


def cells(number: str) -> list[nbformat.NotebookNode]:
    name = f"{number[:2]}_{LESSONS[number[:2]]}"
    return list(nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells)  # type: ignore[no-untyped-call]


def cell_of(number: str) -> str:
    """Return the source of the lesson's cell that checks an exercise."""
    (source,) = [c.source for c in cells(number) if c.cell_type == "code" and f'check("{number}"' in c.source]
    return str(source)


def run(source: str) -> None:
    exec(compile(source, "a cell", "exec"), {"check": check, "torch": torch, "__name__": "__main__"})


def answered(number: str, source: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run an answer as a reader would, in place of the stub, and return what is said."""
    stub, line = cell_of(number).split("\n\n\ncheck(") if "\n\n\ncheck(" in cell_of(number) else ("", "")
    assert stub, f"{number}: expected the stub, two empty lines and check(…)"
    capsys.readouterr()
    run(f"{source}\n\ncheck({line}")
    return capsys.readouterr().out


@pytest.mark.parametrize("number", EXERCISES)
def test_a_stub_left_alone_is_not_attempted_yet(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(cell_of(number))
    assert f"{number}: not attempted yet\n" == capsys.readouterr().out


# Each answer to these two is a training that is killed many times over: an eighth here, all of them by `make proof`.
EXAMINED = [pair for pair in MISCONCEPTIONS if pair[0] in ("10.4", "10.5")]
SAMPLED = [pair for pair in MISCONCEPTIONS if pair not in EXAMINED or pair in EXAMINED[::8]]


@pytest.mark.parametrize(("number", "name"), SAMPLED)
def test_every_misconception_gets_its_own_sentence(number: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    exercise = EXERCISES[number]
    said = answered(number, exercise.misconceptions[name].example, capsys)
    assert f"{number}: not yet\n{exercise.misconceptions[name].says}\n" == said


@pytest.mark.parametrize("number", EXERCISES)
def test_the_solution_passes_and_says_why_and_leaves_the_random_numbers_alone(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lesson goes on the same whether its exercises were tried or not."""
    before = torch.get_rng_state(), random.getstate()
    said = answered(number, EXERCISES[number].solution, capsys)
    assert f"{number}: passed\n{EXERCISES[number].why}\n" == said
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


@pytest.mark.parametrize("number", EXERCISES)
def test_the_stub_in_the_lesson_is_the_solution_with_something_missing(number: str) -> None:
    """So that a reader who opens the solution finds the cell again, and the imports it needs are there."""
    stub = cell_of(number).partition("\n\n\ncheck(")[0]
    head = EXERCISES[number].solution.splitlines()[0]
    assert head in stub.splitlines()
    kept = [line for line in EXERCISES[number].solution.splitlines() if line in stub.splitlines()]
    assert 2 * len(kept) >= len(stub.splitlines())


@pytest.mark.parametrize("number", EXERCISES)
@pytest.mark.parametrize("answer", [3, "text", [], {}, object(), int, torch.ones(3), check, type, lambda: 1, len])
def test_an_answer_of_any_other_kind_gets_a_sentence_and_raises_nothing(
    number: str, answer: object, capsys: pytest.CaptureFixture[str]
) -> None:
    check(number, answer)
    title, _, said = capsys.readouterr().out.partition("\n")
    assert (f"{number}: not yet", True) == (title, len(said) > 10)


def test_what_was_expected_and_found_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    check("01.3", {"model_state_dict": 1})
    expected = "expected a function, found a dict: hand over `checkpoint_of` itself, without the brackets that call it"
    assert f"01.3: not yet\n{expected}\n" == capsys.readouterr().out
    check("01.5", 3)
    assert "01.5: not yet\nexpected a class, found an int: hand over `Loudness`\n" == capsys.readouterr().out


def test_an_answer_that_raises_is_quoted_with_its_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "cell.py"
    file.write_text("def photo_of(model):\n    state = model.state_dict()\n    return state['wait']\n", "utf-8")
    namespace: dict[str, object] = {}
    exec(compile(file.read_text("utf-8"), str(file), "exec"), namespace)
    check("01.4", namespace["photo_of"])
    said = "`photo_of` raised KeyError: 'wait', in line 3: `return state['wait']`"
    assert f"01.4: not yet\n{said}\n" == capsys.readouterr().out


@pytest.mark.parametrize("how", ["raise SystemExit(3)", "raise RuntimeError", "1 / 0", "import sys; sys.exit('bye')"])
def test_nothing_that_an_answer_raises_stops_the_notebook(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {}
    exec(f"def photo_of(model):\n    {how}", namespace)
    check("01.4", namespace["photo_of"])
    assert "01.4: not yet\n`photo_of` raised " in capsys.readouterr().out


def test_an_interrupt_is_not_caught() -> None:
    def photo_of(model: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("01.4", photo_of)


# ------------------------------------------------------------------------------------------------ predictions


@pytest.mark.parametrize("name", LESSONS)
def test_the_options_stand_in_the_lesson_as_they_are_quoted(name: str) -> None:
    text = "\n".join(cell.source for cell in cells(name) if cell.cell_type == "markdown")
    for number, asked in CHOICES.items():
        if number.startswith(name):
            missing = [f"- {letter}) {o.text}" for letter, o in asked.options.items()]
            assert [] == [line for line in missing if line not in text], f"{number} says otherwise"


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_asks_all_its_questions_in_order(name: str) -> None:
    code = "\n".join(cell.source for cell in cells(name) if cell.cell_type == "code")
    calls = [
        f'predict("{number}", None)' if number == lesson(name).prediction else f'check("{number}", '
        for number in lesson(name).questions
    ]
    places = [code.find(call) for call in calls]
    assert -1 not in places, f"{calls[places.index(-1)]}… is missing"
    assert sorted(places) == places
    assert f'reveal("{lesson(name).prediction}", happened=' in code


def test_a_question_without_a_right_answer_replies_to_each(capsys: pytest.CaptureFixture[str]) -> None:
    check("01.1", None)
    assert "01.1: not attempted yet\n" == capsys.readouterr().out
    for letter, option in CHOICES["01.1"].options.items():
        check("01.1", letter)
        assert f"01.1: noted\n{option.reply}\n" == capsys.readouterr().out


def test_a_wrong_prediction_is_set_beside_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    options = CHOICES["01.2"].options
    predict("01.2", "a")
    assert f"01.2: noted. a) {options['a'].text}\n" == capsys.readouterr().out
    reveal("01.2", happened="c")
    said = capsys.readouterr().out.splitlines()
    assert [
        f"01.2: you predicted a) {options['a'].text}",
        f"What happened: c) {options['c'].text}",
        options["a"].reply,
    ] == said


def test_a_capital_letter_is_the_same_answer(capsys: pytest.CaptureFixture[str]) -> None:
    predict("01.2", " C ")  # type: ignore[arg-type]
    assert capsys.readouterr().out.startswith("01.2: noted. c) ")


def test_a_right_prediction_and_none_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    options = CHOICES["01.2"].options
    predict("01.2", "c")
    capsys.readouterr()
    reveal("01.2", happened="c")
    assert capsys.readouterr().out == f"01.2: as you predicted. c) {options['c'].text}\n{options['c'].reply}\n"
    predict("01.2", None)  # taken back
    assert '01.2: no prediction yet (replace None by "a", "b" or "c")\n' == capsys.readouterr().out
    reveal("01.2", happened="c")
    assert capsys.readouterr().out.startswith("01.2: no prediction\nWhat happened: c) ")


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: predict("01.2", "e"), '01.2: expected "a", "b" or "c", found \'e\''),  # type: ignore[arg-type]
        (lambda: predict("01.2", "ab"), '01.2: expected "a", "b" or "c", found \'ab\''),  # type: ignore[arg-type]
        (lambda: reveal("01.2", happened=None), '01.2: expected "a", "b" or "c", found None'),  # type: ignore[arg-type]
        (lambda: predict("01.1", "a"), "01.1 is for check(); the prediction of this lesson is 01.2"),
        (lambda: check("01.2", "a"), "01.2 is the prediction, for predict()"),
        (lambda: check("01.1", 7), '01.1: expected "a", "b", "c" or "d", found 7'),
        (lambda: check("01.9", 7), "there is no question 01.9; there are 01.1, 01.2, 01.3, 01.4, 01.5"),
        (lambda: check("11.1", 7), "there is no lesson 11; there are " + ", ".join(LESSONS)),
        (lambda: check(1.3, 7), 'expected the number of a question in quotes, like "01.3", found 1.3'),  # type: ignore[arg-type]
        (
            lambda: predict("01.3", "a"),
            "01.3 is for check(); the prediction of this lesson is 01.2",
        ),
    ],
)
def test_a_question_or_an_option_that_does_not_exist_is_one_line(call: object, line: str) -> None:
    with pytest.raises(LessonError) as caught:
        call()  # type: ignore[operator]
    assert line == str(caught.value)
    assert [line] == caught.value._render_traceback_()  # all that a notebook shows


def test_the_questions_know_their_numbers() -> None:
    for name in LESSONS:
        numbers = list(lesson(name).questions)
        assert [f"{name}.{k + 1}" for k in range(len(numbers))] == numbers
        assert isinstance(question(lesson(name).prediction), Choice)


# ------------------------------------------------------------------------- answers that people give, and what is true

CHECKPOINT_BODY = """
import copy, collections
ANOTHER = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
ANOTHER.param_groups[0]["params"][0].grad = torch.ones(2)
ANOTHER.step()
def checkpoint_of(model, optimizer):
    {body}
"""


def said_to(number: str, source: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Try an answer, and return what is said."""
    namespace: dict[str, object] = {"torch": torch, "nn": torch.nn}
    exec(compile(source, "a cell", "exec"), namespace)
    capsys.readouterr()
    check(number, namespace[EXERCISES[number].answer])
    return capsys.readouterr().out


def refused(number: str, source: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """See that an answer does not pass, and that this is said of it."""
    said = said_to(number, source, capsys)
    assert said.startswith(f"{number}: not yet\n")
    assert words in said


@pytest.mark.parametrize("number", [number for number in EXERCISES if number not in ("08.4", "10.4", "10.5")])
def test_an_answer_is_a_stub_until_it_does_more(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A comment is nothing more, a line in its last function is."""
    stub = cell_of(number).partition("\n\n\ncheck(")[0]
    assert "not attempted yet" in said_to(number, stub.replace("):\n", "):  # hm\n"), capsys)
    *_, last = [line for line in stub.splitlines() if line.strip().startswith("def ")]
    indent = " " * (len(last) - len(last.lstrip()) + 4)
    assert "not yet" in said_to(number, stub.replace(f"{last}\n", f"{last}\n{indent}more = 0\n"), capsys)


@pytest.mark.parametrize("name", ["04", "09"])
def test_the_solutions_are_not_broken_in_the_box_of_an_answer(name: str) -> None:
    exercises = [exercise for number, exercise in EXERCISES.items() if number.startswith(name)]
    assert [] == [line for exercise in exercises for line in exercise.solution.splitlines() if len(line) >= 88]


@pytest.mark.parametrize(
    "value",
    [
        "optimizer.state_dict()",
        "copy.deepcopy(optimizer.state_dict())",
        "dict(optimizer.state_dict())",
        "collections.OrderedDict(optimizer.state_dict())",
        "{**optimizer.state_dict()}",
        "{'state': optimizer.state_dict()['state'], 'param_groups': optimizer.state_dict()['param_groups']}",
    ],
)
def test_every_right_checkpoint_passes(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    body = f'return {{"model_state_dict": model.state_dict(), "optimizer_state_dict": {value}, "extra": 1}}'
    assert "01.3: passed" in said_to("01.3", CHECKPOINT_BODY.format(body=body), capsys)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{}", "found a dict with other things in it: nothing in it"),
        ("{'lr': 0.1}", "found a dict with other things in it: lr"),
        ("optimizer.defaults", "found a dict with other things in it: lr, betas"),
        ("[optimizer.state_dict()]", "a dict, found list"),
        ("list(model.parameters())", "a dict, found list"),
        ("model", "a dict, found Sequential"),
        ("optimizer.step", "a dict, found method"),
        ("0.005", "a dict, found float"),
        (
            "{**optimizer.state_dict(), 'param_groups': []}",
            "it was saved, but a fresh run cannot load it: ValueError: loaded state dict has a different number",
        ),
        (
            "{**optimizer.state_dict(), 'param_groups': [optimizer.state_dict()['param_groups'][0] | {'lr': 1.0}]}",
            "is not bitwise equal to the one that never stopped",
        ),
        ("ANOTHER.state_dict()", "this is the state of another optimizer"),
        ("torch.save(optimizer.state_dict(), '/dev/null')", "the value of `optimizer_state_dict` is None"),
        ("{'state': optimizer.state, 'param_groups': optimizer.param_groups}", "a safe `torch.load` does not bring it"),
    ],
)
def test_what_is_said_of_other_checkpoints_is_true(value: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    body = f'return {{"model_state_dict": model.state_dict(), "optimizer_state_dict": {value}}}'
    said = said_to("01.3", CHECKPOINT_BODY.format(body=body), capsys)
    assert words in said
    assert said.count("\n") == 2
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "model.state_dict(), optimizer.state_dict()",
            "`checkpoint_of` returned None: is `return` missing, or does it return what",
        ),
        ("return 3", "expected a dict with `model_state_dict` and"),
        (
            "return {'model_state_dict': optimizer.state_dict(), 'optimizer_state_dict': model.state_dict()}",
            "`model_state_dict` is not the state of `model`",
        ),
        (
            "import numpy as np; return {'model_state_dict': model.state_dict(), 'optimizer_state_dict': "
            "optimizer.state_dict(), 'rng': np.random.get_state()}",
            "a safe `torch.load` does not bring it back: it holds `numpy",
        ),
    ],
)
def test_what_is_said_of_odd_bodies_is_true(body: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in said_to("01.3", CHECKPOINT_BODY.format(body=body), capsys)


@pytest.mark.parametrize(
    "line",
    [
        "copy.deepcopy(model.state_dict())",
        "copy.deepcopy(model).state_dict()",
        "{n: v.detach().clone() for n, v in model.state_dict().items()}",
        "{n: torch.tensor(v.tolist(), dtype=v.dtype) for n, v in model.state_dict().items()}",
        "{n: v + 0 for n, v in model.state_dict().items()}",
    ],
)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_every_right_photo_passes_in_any_mode(line: str, mode: type, capsys: pytest.CaptureFixture[str]) -> None:
    with mode():
        said = said_to("01.4", f"import copy\ndef photo_of(model):\n    return {line}", capsys)
    assert "01.4: passed" in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{n: v.clone for n, v in model.state_dict().items()}", "the brackets that call them are missing"),
        ("model.state_dict", "the brackets that call it are missing"),
        ("dict(model.state_dict())", "A new dict, but around the same tensors"),
        ("{n: v.detach() for n, v in model.state_dict().items()}", "A new dict, but around the same tensors"),
        ("torch.nn.Sequential(*model)", "or a network around the same tensors"),
        ("copy.copy(model)", "or a network around the same tensors"),
        ("{n: v.clone() for n, v in torch.nn.Linear(2, 2).state_dict().items()}", "is no name in this model"),
        (
            "{n: v.clone() for n, v in model.state_dict().items() if 'num' not in n}",
            "`1.num_batches_tracked` is missing",
        ),
        (
            "{n: v.clone() if v.is_floating_point() else v for n, v in model.state_dict().items()}",
            "`1.num_batches_tracked` in the photo is the model's own tensor",
        ),
        ("{n: torch.zeros_like(v) for n, v in model.state_dict().items()}", "is not what it was in the model"),
        ("list(model.state_dict().values())", "expected the state as a dict from names to tensors"),
    ],
)
def test_what_is_said_of_other_photos_is_true(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in said_to("01.4", f"import copy\ndef photo_of(model):\n    return {line}", capsys)


LOUDNESS = EXERCISES["01.5"].solution
SAVE, LOAD = 'return {"peaks": list(self.peaks), "batches": self.batches}', "self.peaks, self.batches = list("


@pytest.mark.parametrize(
    ("save", "load"),
    [
        ("return copy.deepcopy(self.__dict__)", "self.__dict__.update(copy.deepcopy(state))"),
        ('return {"p": torch.tensor(self.peaks, dtype=torch.float64), "b": self.batches}', "LIST"),
        ('return {"peaks": self.peaks[:], "batches": self.batches}', "for k, v in state.items(): setattr(self, k, v)"),
    ],
)
def test_every_right_part_passes(save: str, load: str, capsys: pytest.CaptureFixture[str]) -> None:
    load = load.replace("LIST", 'self.peaks, self.batches = state["p"].tolist(), state["b"]')
    original = next(line.strip() for line in LOUDNESS.splitlines() if LOAD in line)
    source = "import copy\n" + LOUDNESS.replace(SAVE, save).replace(original, load)
    assert "01.5: passed" in said_to("01.5", source, capsys)


def test_a_part_with_slots_passes(capsys: pytest.CaptureFixture[str]) -> None:
    source = LOUDNESS.replace("    def __init__", '    __slots__ = ("peaks", "batches")\n\n    def __init__', 1)
    assert "01.5: passed" in said_to("01.5", source, capsys)


@pytest.mark.parametrize(
    ("save", "load", "words"),
    [
        ('return {"peaks": [int(p) for p in self.peaks], "batches": self.batches}', None, "with a part of itself"),
        (None, 'self.peaks.extend(state["peaks"]); self.batches += state["batches"]', "it was not put back as it was"),
        (None, "pass", "After `load_state_dict` the object is as it was"),
        ("return [self.peaks, self.batches]", None, "`state_dict` returns a dict"),
        ('{"peaks": self.peaks}', None, "`state_dict` returned None: is `return` missing, or does it return what"),
    ],
)
def test_what_is_said_of_other_parts_is_true(
    save: str | None, load: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    original = next(line.strip() for line in LOUDNESS.splitlines() if LOAD in line)
    source = LOUDNESS.replace(SAVE, save or SAVE).replace(original, load or original)
    assert words in said_to("01.5", source, capsys)


def test_a_line_of_a_library_is_not_said_to_be_the_reader_s(capsys: pytest.CaptureFixture[str]) -> None:
    said = said_to("01.4", "def photo_of(model):\n    import json; return json.dumps(model.state_dict())", capsys)
    assert "in line 2" in said


@pytest.mark.parametrize(
    "source",
    [
        "class E(Exception):\n    def __str__(self): raise RuntimeError\ndef photo_of(model): raise E",
        "class E(BaseException): pass\ndef photo_of(model): raise E('x')",
        "def photo_of(model): raise BaseExceptionGroup('many', [KeyboardInterrupt()])",
        "def photo_of(model): raise ValueError('x' * 3_000_000 + chr(27))",
        "photo_of = type('', (), {})()",
        "class A:\n def __call__(self, m): raise ValueError\n def __getattr__(self, name): return self\nphoto_of = A()",
    ],
)
def test_no_answer_is_odd_enough_to_stop_a_lesson(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = said_to("01.4", source, capsys)
    assert said.startswith("01.4: not yet\n")
    assert len(said) < 600
    assert "\x1b" not in said


# ---------------------------------------------------------------------------- lesson 02: answers that are tried apart


def named(number: str, *lines: str) -> str:
    """Return an answer with this body, in place of what the solution has below its first lines."""
    head = EXERCISES[number].solution.splitlines()
    (start,) = [index for index, line in enumerate(head) if line.startswith("def ")]
    imports = "import json, os, pathlib, re, shutil, signal, sys, tempfile, time\n"
    return imports + "\n".join([head[start], *(f"    {line}" for line in lines)])


METRICS_BEGIN = (
    'with open(path + ".new", "w") as file:',
    "    json.dump(metrics, file)",
    "    file.flush()",
    "    os.fsync(file.fileno())",
)

NEW_NAME_EACH_TIME = (
    "file = tempfile.NamedTemporaryFile('w', {}, delete=False)",
    "json.dump(metrics, file)",
    "file.flush()",
    "os.fsync(file.fileno())",
    "os.replace(file.name, path)",
)


@pytest.mark.parametrize(
    "line",
    [
        'os.rename(path + ".new", path)',
        'pathlib.Path(path + ".new").replace(path)',
        'shutil.move(path + ".new", path)',
    ],
)
def test_every_right_way_to_put_a_file_in_place_passes(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "02.3: passed" in said_to("02.3", named("02.3", *METRICS_BEGIN, line), capsys)


@pytest.mark.parametrize("more", ["", ", suffix='.json'", ", prefix='.'"])
def test_what_a_kill_leaves_beside_the_metrics_does_no_harm(more: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.format("dir=os.path.dirname(path)" + more) for line in NEW_NAME_EACH_TIME]
    assert "02.3: passed" in said_to("02.3", named("02.3", *lines), capsys)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (('json.dump(metrics, open(path, "w"))',), "This opens `metrics.json` itself"),
        ((*METRICS_BEGIN, 'os.symlink(path + ".new", path)'), "A link takes no name that exists already"),
        (("open(path, 'x')",), "`save_metrics` raised FileExistsError"),
        ((*METRICS_BEGIN, "os.remove(path)"), "afterwards there is no `metrics.json`"),
        ((*METRICS_BEGIN, "return"), "afterwards `metrics.json` still holds the old metrics"),
        (('open(path, "w").close()',), "afterwards `metrics.json` does not hold the new metrics"),
        ([line.format("suffix='.json'") for line in NEW_NAME_EACH_TIME], "The temporary file lies outside the folder"),
        (
            ("open(path + '.new', 'x').close()", *METRICS_BEGIN, "os.replace(path + '.new', path)"),
            "works, as long as nobody kills it. Of ",
        ),
        (
            ("open(path, 'r+' if os.path.exists(path) else 'w').write(json.dumps(metrics))",),
            "This opens `metrics.json` itself",
        ),
        (("open(path, 'r+').write(json.dumps(metrics))",), "`save_metrics` raised FileNotFoundError"),
    ],
)
def test_what_is_said_of_other_ways_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in said_to("02.3", named("02.3", *lines), capsys)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("os._exit(0)",), "ended the process that it ran in: ended with exit code 0"),
        (("os.kill(os.getpid(), signal.SIGKILL)",), "ended the process that it ran in: killed by SIGKILL"),
        (("sys.exit(3)",), "`save_metrics` raised SystemExit: 3"),
        (("raise KeyboardInterrupt",), "ended the process that it ran in: KeyboardInterrupt"),
        (("shutil.rmtree(os.getcwd())",), "afterwards there is no `metrics.json`"),
        (("os.chdir('/')",), "afterwards there is no `metrics.json`"),
        (("for name in ('open', 'replace', 'fsync'): setattr(os, name, None)",), "still holds the old metrics"),
    ],
)
def test_an_answer_that_does_harm_does_it_elsewhere(
    lines: tuple[str, ...],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    assert words in said_to("02.3", named("02.3", *lines), capsys)
    assert [tmp_path / "mine.txt"] == list(Path.cwd().iterdir())


@pytest.mark.parametrize(("name", "words"), [(None, "02.3: passed"), ("in place", "02.3: not yet\nThis opens")])
def test_files_that_are_opened_as_in_a_notebook_are_seen(
    name: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from IPython.core import interactiveshell

    before = interactiveshell.io_open
    exercise = EXERCISES["02.3"]
    source = exercise.misconceptions[name].example if name else exercise.solution
    namespace: dict[str, object] = {"open": interactiveshell._modified_open}
    exec(source, namespace)
    check("02.3", namespace["save_metrics"])
    assert capsys.readouterr().out.startswith(words)
    assert before is interactiveshell.io_open


def test_an_answer_that_never_ends_is_ended(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("koemorph_tutorial.teaching.trial.PATIENCE", 0.5)
    said = said_to("02.3", named("02.3", "while True: pass"), capsys)
    assert "02.3: not yet\n`save_metrics` did not come to an end within 0.5 seconds\n" == said


def test_what_an_answer_prints_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    said = said_to("02.5", named("02.5", "print('I was\x1b here')", "return 3"), capsys)
    assert said.startswith("I was\\x1b here\n")
    assert "expected the checkpoint as it was loaded, a dict, found: int" in said


PUT = ("os.path.exists({new}) and os.remove({new})", "os.link(path, {new})", "os.replace({new}, name)")


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ("name + '.x'", "passed"),
        ("f'{name}.{os.getpid()}'", "the temporary name that a kill leaves stays for good"),
        ("f'{os.getpid()}.pth'", "the temporary name that a kill leaves stays for good"),
    ],
)
def test_other_names_for_the_temporary_one_are_judged_by_what_a_kill_leaves(
    new: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in said_to("02.4", named("02.4", *(line.format(new=new) for line in PUT)), capsys)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("if os.path.exists(name): os.remove(name)", "os.symlink(path, name)"), "A symbolic link points to a name"),
        (("shutil.copy(path, name + '.x')", "os.replace(name + '.x', name)"), "This is a second copy"),
        (("shutil.move(path, name)",), "has lost its own"),
        (("os.remove(path)",), "afterwards there is no `best_model.pth`"),
        (
            (
                "new = tempfile.mkdtemp(dir=os.path.dirname(name) or '.')",
                "os.link(path, new + '/x')",
                "os.replace(new + '/x', name)",
                "os.path.exists(new + '/x') and os.remove(new + '/x')",
                "os.rmdir(new)",
            ),
            "the temporary name that a kill leaves stays for good",
        ),
    ],
)
def test_what_is_said_of_other_names_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in said_to("02.4", named("02.4", *lines), capsys)


def test_the_newest_sound_one_may_be_found_by_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    lines = (
        "from koemorph_tutorial.resume import find",
        "return find(folder).checkpoint if any(pathlib.Path(folder).glob('*.pth')) else None",
    )
    assert "02.5: passed" in said_to("02.5", named("02.5", *lines), capsys)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("*.pth", "02.5: not yet\nIt fell for a file that only looks like one"),
        ("checkpoint_epoch_*.pth", "02.5: not yet\nIt fell for a file that only looks like one"),
        ("checkpoint_epoch_???.pth", "02.5: not yet\nEpochs beyond 999 occur"),
    ],
)
def test_the_highest_epoch_in_any_file_is_not_the_newest(
    pattern: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (
        "found = []",
        f"for file in pathlib.Path(folder).glob({pattern!r}):",
        "    try: found.append(torch.load(file))",
        "    except Exception: pass",
        "return max(found, key=lambda checkpoint: checkpoint['epoch'])",
    )
    assert words in said_to("02.5", named("02.5", *lines), capsys)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("list(pathlib.Path(folder).iterdir())",), "`newest` returned None where 3 checkpoints lie"),
        (("return max(pathlib.Path(folder).glob('*.pth'))",), "a dict, found: PosixPath"),
        (("return json.loads(3)",), "`newest` raised TypeError"),
    ],
)
def test_what_is_said_of_other_finds_is_true(
    lines: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in said_to("02.5", named("02.5", *lines), capsys)


# --------------------------------------------------------------------- lesson 03: where to go on, with which numbers


def place(line: str) -> str:
    return f"import koemorph_tutorial\ndef next_batch(epoch, done, length):\n    {line}"


@pytest.mark.parametrize(
    "line",
    [
        "return (epoch + 1, 0) if done == length else (epoch, done)",
        "return epoch + done // length, done % length",
        "return [epoch, done] if done < length else [epoch + 1, 0]",
        "return tuple(torch.tensor([epoch + (done == length), done % length]))",
        "return koemorph_tutorial.Position(epoch=epoch + done // length, batch=done % length)",
        "return torch.tensor([epoch + (done == length), done % length]).tolist()",
    ],
)
def test_every_right_place_passes(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "03.3: passed" in said_to("03.3", place(line), capsys)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "return epoch, done - 1",
            "Saved in epoch 0 after 1 of 1 batches, it goes on at epoch 0, batch 0: 1 batch is trained twice: epoch",
        ),
        ("return epoch * length + done", "expected two numbers, the epoch and the batch, found 10"),
        ("return 0, 0", "1 batch is trained twice: epoch 0, batch 0"),
        (
            "return (1, 0) if epoch == 3 else divmod(epoch * length + done, length)",
            "3 batches are trained twice, from epoch 1, b",
        ),
        (
            "return (1, 3) if (epoch, done) == (1, 3) else (epoch + 1, 0)",
            "are never trained, from epoch 0, batch 1, on",
        ),
        (
            "return (epoch, length) if done == length == 5 else divmod(epoch * length + done, length)",
            "which is no batch",
        ),
        ("return epoch, done / 2", "expected whole numbers, found (1, 1.5)"),
        ("return epoch + done // length * 1.0, done % length", "found (1.0, 3), with a float, which `range` refuses"),
        ("return epoch, float('nan')", "expected whole numbers, found (1, nan)"),
        ("divmod(epoch * length + done, length)", "`next_batch` returned None: is `return` missing?"),
        ("return 'epoch', 1", "expected whole numbers, found ('epoch', 1)"),
    ],
)
def test_what_is_said_of_other_places_is_true(line: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused("03.3", place(line), words, capsys)


def random_numbers(save: str, load: str) -> str:
    return f"""\
import json, pickle, random
import numpy as np
from koemorph_tutorial.rng import capture_rng, restore_rng

class RandomNumbers:
    kept = None
    def state_dict(self):
        state = {{"torch": torch.get_rng_state(), "python": random.getstate()}}
        {save}
        return state
    def load_state_dict(self, state):
        torch.set_rng_state(state["torch"])
        random.setstate(state["python"])
        {load}
"""


NEW = "np.random.get_state(legacy=False)"


@pytest.mark.parametrize(
    ("save", "load"),
    [
        (
            "state = {**state, **capture_rng(), 'python': state['python'], 'rest': capture_rng()}",
            "restore_rng(state['rest'])",
        ),
        (
            "n, k, *r = np.random.get_state(); state['n'] = [n, torch.tensor(k), r]",
            "n, k, r = state['n']; np.random.set_state((n, k.numpy(), *r))",
        ),
        (
            f"state['n'] = json.dumps({NEW}, default=lambda a: a.tolist())",
            "np.random.set_state(json.loads(state['n']))",
        ),
        (
            f"s = {NEW}; s['state']['key'] = s['state']['key'].tolist(); state['n'] = s",
            "s = state['n']; s['state']['key'] = np.array(s['state']['key'], dtype=np.uint32); np.random.set_state(s)",
        ),
    ],
)
def test_every_right_way_to_keep_random_numbers_passes(
    save: str, load: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "03.4: passed" in said_to("03.4", random_numbers(save, load), capsys)


@pytest.mark.parametrize(
    ("save", "load", "words"),
    [
        (
            "RandomNumbers.kept = np.random.get_state()",
            "np.random.set_state(RandomNumbers.kept)",
            "numpy's do not come back",
        ),
        ("state['n'] = np.random.get_state()[2]", "pass", "numpy's do not come back"),
        ("state['n'] = torch.tensor(np.random.get_state()[1])", "pass", "numpy's numbers are in the file, and there t"),
        (f"state['n'] = json.dumps({NEW}, default=lambda a: a.tolist())", "pass", "numpy's numbers are in the file"),
        (
            "state['n'] = np.random.get_state()[1].tolist()",
            "np.random.set_state(('MT19937', state['n'], 0))",
            "The right 624 numbers, read from the wrong place",
        ),
        (
            "state['n'] = np.random.get_state()[1].tolist()",
            "np.random.set_state(('MT19937', state['n'][::-1], 624))",
            "the random numbers of numpy do not come back",
        ),
        ("state['n'] = np.random.random()", "np.random.seed(0)", "Taking the state changes it"),
        (
            "state['n'] = [k.tolist() if hasattr(k, 'tolist') else k for k in np.random.get_state()]",
            "random.seed(0)",
            "the random numbers of Python and numpy do not come back",
        ),
        ("state = None", "pass", "`state_dict` returned None: is `return` missing?"),
        ("state = [state]", "pass", "`state_dict` returns a dict"),
        (
            "state['n'] = np.random.get_state()[1].tolist()",
            "np.random.set_state(state['n'])",
            "`RandomNumbers` raised ",
        ),
    ],
)
def test_what_is_said_of_other_random_numbers_is_true(
    save: str, load: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused("03.4", random_numbers(save, load), words, capsys)


def batches(init: str, iterate: tuple[str, ...], save: str, load: str) -> str:
    return f"""\
KEPT = {{}}
class Batches:
    def __init__(self):
        {init}
    def __iter__(self):
        {(chr(10) + 8 * " ").join(iterate)}
    def state_dict(self):
        {save}
    def load_state_dict(self, state):
        {load}
"""


BY_SEED = (
    "order = torch.randperm(16, generator=torch.Generator().manual_seed(self.epoch)).tolist()",
    "while self.done < 4:",
    "    self.done += 1",
    "    yield order[4 * self.done - 4 : 4 * self.done]",
    "self.epoch, self.done = self.epoch + 1, 0",
)
BY_LIST = (
    "if not self.left:",
    "    self.left = torch.randperm(16, generator=self.generator).split(4)",
    "while self.left:",
    "    batch, self.left = self.left[0], self.left[1:]",
    "    yield batch",
)
SEEDED = "self.generator, self.left = torch.Generator().manual_seed(0), []"
LIST_SAVE = "return {'left': list(self.left), 'generator': self.generator.get_state()}"
LIST_LOAD = "self.left = state['left']; self.generator.set_state(state['generator'])"
SEED_SAVE, SEED_LOAD = "return {'epoch': self.epoch, 'done': self.done}", "vars(self).update(state)"


@pytest.mark.parametrize(
    ("init", "iterate", "save", "load"),
    [
        ("self.epoch, self.done = 0, 0", BY_SEED, SEED_SAVE, SEED_LOAD),
        ("self.epoch, self.done = 0, 0", BY_SEED, "return dict(vars(self))", "self.__dict__ = state"),
        (SEEDED, BY_LIST, LIST_SAVE, LIST_LOAD),
        (
            "self.start, self.done, self.generator = None, 0, torch.Generator().manual_seed(7)",
            (
                "self.start = self.generator.get_state() if self.start is None else self.start",
                "self.generator.set_state(self.start)",
                "for k, batch in enumerate(torch.randperm(16, generator=self.generator).view(4, 4)):",
                "    if k >= self.done:",
                "        self.done = k + 1",
                "        yield batch",
                "self.start, self.done = None, 0",
            ),
            "return {'s': self.start, 'd': self.done, 'g': self.generator.get_state()}",
            "self.start, self.done = state['s'], state['d']; self.generator.set_state(state['g'])",
        ),
    ],
)
def test_every_right_loader_passes(
    init: str, iterate: tuple[str, ...], save: str, load: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "03.5: passed" in said_to("03.5", batches(init, iterate, save, load), capsys)


@pytest.mark.parametrize(
    ("iterate", "save", "load", "words"),
    [
        (("yield from torch.arange(16).split(4)",), "return {}", "pass", "each epoch was to have a new order"),
        (("yield torch.arange(4)",), "return {}", "pass", "16 samples once; epoch 0 holds 4 of them in 1 batches"),
        (
            ("yield from torch.randperm(16, generator=self.generator).split(4)[len(KEPT) :]", "KEPT[len(KEPT)] = 1"),
            "return {}",
            "pass",
            "epoch 1 holds 12 of them in 3 batches",
        ),
        (
            ("self.left, self.done = [], 4", "yield from torch.arange(0).split(4)"),
            "return {}",
            "pass",
            "epoch 0 holds 0 of them in 1 batches",
        ),
        (
            (
                "self.start, now = self.__dict__.setdefault('start', self.generator.get_state()), self.left",
                "order = now or torch.randperm(16, generator=self.generator).split(4)",
                "for k, batch in enumerate(order):",
                "    self.left = order[k + 1 :]",
                "    yield batch",
            ),
            "return {'left': list(self.left), 'start': self.start, 'now': self.generator.get_state()}",
            "self.left = state['left']; self.generator.set_state(state['now'] if not len(state['left']) else state['s"
            "tart']); len(self.left) and torch.randperm(16, generator=self.generator)",
            "killed inside epoch 0 it goes on, killed inside epoch 1 it does not",
        ),
        (
            BY_LIST,
            "KEPT.update(left=self.left); return {}",
            "self.left = KEPT['left']",
            "`Batches` raised KeyError: 'left'",
        ),
        (
            BY_LIST,
            "return {'left': list(self.left)}",
            "self.left = state['left']",
            "killed at the end of an epoch it repeats that epoch; what you began with goes on with the next",
        ),
        (BY_LIST, LIST_SAVE, LIST_LOAD + "; self.left = self.left[1:] or self.left", "samples come twice, and 4 never"),
        (BY_LIST, "pass", "pass", "`state_dict` returned None: is `return` missing?"),
        (BY_LIST, "return {'me': self}", "pass", "a safe `torch.load` does not bring it back"),
        (("while True:", "    yield [0]"), "return {}", "pass", "did not come to its end"),
    ],
)
def test_what_is_said_of_other_loaders_is_true(
    iterate: tuple[str, ...],
    save: str,
    load: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("koemorph_tutorial.teaching.exercises.resume._PATIENCE", 1.0)
    refused("03.5", batches(SEEDED, iterate, save, load), words, capsys)
