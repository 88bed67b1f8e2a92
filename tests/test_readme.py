"""README.md tells the truth: its lines are run on a model that is not ours, its table is provoked, its links lead on.

What its consoles show is run by tests/test_readers.py.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from koemorph_tutorial import list_checkpoints, load_checkpoint
from koemorph_tutorial.__main__ import make_parser
from koemorph_tutorial.teaching import errors
from koemorph_tutorial.teaching.lessons import LESSONS
from tests.comparing import difference
from tests.readers import blocks as code_blocks
from tests.test_notebooks import anchors

ROOT = Path(__file__).resolve().parents[1]
BEFORE = """
import os, random, sys
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.set_num_threads(1)
random.seed(0); np.random.seed(0); torch.manual_seed(0)
model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Flatten(), nn.Linear(24, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
loss_function = nn.functional.mse_loss
audio = torch.randn(24, 1, 8)
loader = DataLoader(TensorDataset(audio, audio.mean(2)), batch_size=4, shuffle=True)
validations = 0

def validate(model):
    global validations
    validations += 1
    if validations == int(os.environ.get("DIE_AT", "-1")):
        os.kill(os.getpid(), 9)
    model.eval()
    with torch.no_grad():
        value = loss_function(model(audio), audio.mean(2)).item()
    model.train()
    return value
"""


def blocks() -> tuple[str, str]:
    """Return the README's Python blocks: the lines of integration, and those that look into files."""
    integration, looking = code_blocks("python")
    return integration, looking


def integration() -> str:
    return blocks()[0]


def test_the_readme_lines_train_a_model_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 100 epochs, as written: the final epoch is there, and what retention keeps."""
    monkeypatch.chdir(tmp_path)
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    exec(compile(BEFORE + integration(), "README.md", "exec"), {"__name__": "readme"})
    files = {file.path.name for file in list_checkpoints("checkpoints")}
    assert {"best_model.pth", "last_model.pth", "checkpoint_epoch_099.pth", "checkpoint_epoch_095.pth"} <= files
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])


def test_the_readme_lines_that_look_into_files_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As written, on files with the names that stand there: a sound one is loaded, and two neighbours are compared."""
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    model = torch.nn.Linear(3, 2)
    torch.save(
        {"model_state_dict": model.state_dict(), "epoch": 4, "config": {}, "metrics": {"loss": 0.5}}, "model.pth"
    )
    save_file({"weight": model.weight.detach()}, "pretrained.safetensors")
    for name, change in (("epoch_004.pth", 0.0), ("epoch_005.pth", 1.0)):
        torch.save({"weight": model.weight.detach() + change, "bias": model.bias.detach()}, name)
    names = {"model": torch.nn.Linear(3, 2)}
    exec(compile(blocks()[1], "README.md", "exec"), names)
    assert torch.equal(model.weight, names["model"].weight)
    assert {"loss": 0.5} == names["metrics"]
    (line,) = capsys.readouterr().out.splitlines()
    assert "weight" in line


def assert_survives(tmp_path: Path, *kills: int) -> None:
    """kill -9 in these validations, one process after another, then to the end: every file is as without a kill."""
    script = tmp_path / "train.py"
    script.write_text(BEFORE + integration().replace("epochs(100)", "epochs(13)"), encoding="utf-8")
    for run in ("straight", "killed"):
        (tmp_path / run).mkdir()
    for run, die_at in [("straight", -1), *(("killed", n) for n in kills), ("killed", -1)]:
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=tmp_path / run,
            env={"DIE_AT": str(die_at), "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (0 if die_at < 0 else -9) == done.returncode, done.stderr
    straight = list_checkpoints(tmp_path / "straight/checkpoints")
    killed = list_checkpoints(tmp_path / "killed/checkpoints")
    assert [file.path.name for file in straight] == [file.path.name for file in killed]
    for one, other in zip(straight, killed, strict=True):
        assert "" == difference(load_checkpoint(one.path), load_checkpoint(other.path)), one.path.name


def test_killed_and_run_again_the_readme_lines_end_with_the_same_bits(tmp_path: Path) -> None:
    """Twice, far from each other; `make proof` kills them five times."""
    assert_survives(tmp_path, 2, 5)


# ----------------------------------------------------------------------------------------------------- the two doors

README = (ROOT / "README.md").read_text("utf-8")
JAPANESE = (ROOT / "README.ja.md").read_text("utf-8")
DOORS = pytest.mark.parametrize("text", [README, JAPANESE], ids=["README.md", "README.ja.md"])


def without_consoles(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def commands() -> set[str]:
    """Return the commands that the program has."""
    (found,) = [action.choices for action in make_parser()._actions if action.choices]
    return set(found)


@DOORS
def test_every_link_leads_somewhere(text: str) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", without_consoles(text))
    assert len(links) > 10
    for target in links:
        path, _, anchor = target.partition("#")
        file = ROOT / path if path else ROOT / ("README.md" if text is README else "README.ja.md")
        assert file.exists(), f"{target} leads nowhere"
        assert not anchor or anchor in anchors(file), f"{target} leads to no heading"


@DOORS
def test_every_lesson_is_linked_by_its_name(text: str) -> None:
    found = re.findall(r"\(notebooks/(\d\d)_(\w+)\.ipynb\)", text.partition("<!-- errors")[0])
    assert dict(LESSONS) == dict(found)


@DOORS
def test_every_command_and_target_that_is_named_exists(text: str) -> None:
    named = set(re.findall(r"\bkoemorph ([a-z][a-z-]+)(?= |`|$)", text, re.MULTILINE))
    assert named <= commands()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE)) <= targets


def test_the_figures_at_both_doors_are_the_same() -> None:
    """Row by row, of the table that says who loses what."""

    def figures(text: str) -> list[list[str]]:
        table = text[text.index("| --- | --- |") :].partition("\n\n")[0]
        return [sorted(re.findall(r"\d[\d.]*", row)) for row in table.splitlines()[1:]]

    assert 6 == len(figures(README))
    assert figures(README) == figures(JAPANESE)


def test_every_command_that_exists_is_in_the_list() -> None:
    (listed,) = [block for block in code_blocks("bash") if block.startswith("koemorph train")]
    assert commands() == set(re.findall(r"^koemorph (\S+)", listed, re.MULTILINE))


# -------------------------------------------------------------------------------------------------- what is claimed


def rows(text: str, first: str) -> dict[str, list[str]]:
    """Return a table by the first cell of its rows; `first` is that of its head."""
    (table,) = re.findall(rf"^\| {re.escape(first)} \|.*\n\|[-| ]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
    return {name: rest for name, *rest in cells}


def test_the_table_at_the_door_is_the_one_below() -> None:
    """What a stranger sees first are the figures of the campaign that stands further down, and of no other one."""
    door, campaign = rows(README, "who saves"), rows(README, "what is saved")
    _, trials, bad = campaign["four epochs, `keep_last_n=2`"]
    assert door["**this library**"][0].startswith(f"**{bad} of {trials} times**")
    _, trials, bad = campaign["the recipe's saves, four epochs"]
    (recipe,) = [cells for name, cells in door.items() if name.startswith("the recipe")]
    share = round(100 * int(bad.partition(":")[0]) / int(trials))
    assert recipe[0].startswith(f"{bad.partition(':')[0]} of {trials} times, {share} %")


# --------------------------------------------------------------------------------------------- what a message means


def test_each_message_in_the_table_is_raised_today_and_none_is_left_out() -> None:
    """Every error is provoked anew: the table is what `python -m koemorph_tutorial.teaching.errors` would write."""
    shown = README.partition(errors.BEGIN)[2].partition(errors.END)[0].strip()
    assert errors.table().splitlines() == shown.splitlines()


def test_every_lesson_has_a_message_of_its_own() -> None:
    assert set(LESSONS) == {row.lesson for row in errors.ROWS}


def test_a_provocation_after_which_nothing_is_raised_is_no_row() -> None:
    with pytest.raises(AssertionError, match="expected an error, nothing was raised"):
        errors.message(errors.Row(provoke=lambda folder: None, happened="Nothing.", lesson="01"))


def test_a_message_names_no_folder_of_this_machine() -> None:
    def provoke(folder: Path) -> None:
        raise ValueError(f"{folder}/run/last_model.pth: torn\n\tat byte 12")

    assert errors.message(errors.Row(provoke=provoke, happened="", lesson="02")) == (
        "ValueError: run/last_model.pth: torn at byte 12"
    )


def test_the_table_is_written_between_its_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "ROWS", errors.ROWS[:1])
    file = tmp_path / "README.md"
    file.write_text(f"before\n{errors.BEGIN}\nold\n{errors.END}\nafter\n", "utf-8")
    assert errors.main(file) == 0
    assert file.read_text("utf-8") == f"before\n{errors.BEGIN}\n\n{errors.table()}\n\n{errors.END}\nafter\n"
    file.write_text("nothing", "utf-8")
    assert errors.main(file) == 2
    assert file.read_text("utf-8") == "nothing"


# ----------------------------------------------------------------------------------------------------- the glossary


def test_each_of_the_forty_terms_is_used_in_the_course_and_stands_once() -> None:
    glossary = rows(JAPANESE, "English")
    lessons = "".join(file.read_text("utf-8") for file in sorted((ROOT / "notebooks").glob("[0-9]*.py")))
    course = re.sub(r"\s+", " ", README + lessons).lower()
    assert len(glossary) == 40
    assert [] == [term for term in glossary if not re.search(rf"\b{re.escape(term.lower())}", course)]
    words = [japanese for japanese, _ in glossary.values()]
    assert len(words) == len(set(words))
    assert len({term.lower() for term in glossary}) == 40
    assert all(meaning.endswith("。") and meaning.count("。") == 1 for _, meaning in glossary.values())
    assert all(re.search(r"[ぁ-んァ-ヶ一-龠]", japanese) for japanese in words)


def test_the_japanese_door_shows_the_same_lines() -> None:
    """The two commands and the integration are not translated, so they cannot part."""
    assert code_blocks("python", JAPANESE) == [integration()]
    commands = [re.findall(r"^(make \w+)", block, re.MULTILINE) for block in code_blocks("bash", JAPANESE)]
    assert ["make lab", "make test"] in commands
