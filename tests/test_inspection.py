"""`koemorph inspect`: what is in a file and in a run, for people and for programs; nothing hidden, nothing run."""

from __future__ import annotations

import gzip
import json
import math
import os
import pickle
import re
import subprocess
import sys
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from koemorph_tutorial import Best, Position, inspect_checkpoint, save_checkpoint
from koemorph_tutorial.__main__ import main
from koemorph_tutorial.inspection.folder import inspect_directory
from koemorph_tutorial.inspection.tree import Node
from koemorph_tutorial.inspection.views import directory_lines, file_lines
from koemorph_tutorial.records import CheckpointError
from koemorph_tutorial.state import build
from tests.test_header import Hostile, archive_of

Capture = pytest.CaptureFixture[str]
IN_ONE_FOLDER = [HealthCheck.function_scoped_fixture]


def a_checkpoint(epoch: int = 3, **changes: Any) -> dict[str, Any]:
    """Return what the manager would save after some epochs of a small training with everything in it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    model(torch.randn(6, 3)).sum().backward()
    optimizer.step()
    checkpoint = build(
        {"model": model, "optimizer": optimizer, "scheduler": scheduler},
        epoch=epoch,
        position=Position(epoch=epoch + 1, global_step=10 * (epoch + 1)),
        metrics={"loss": 0.5 / (epoch + 1), "mae": 0.25},
        best=Best(value=0.125, epoch=2),
        run={"line": "a1b2", "parent": None, "saves": epoch + 1},
        config={"seed": 1, "training": {"lr": 0.02, "checkpoint": {"save_freq": 5}}},
        training_time=12.5,
    )
    return {**checkpoint, **changes}


def pickled(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def said(path: Path, columns: int = 80) -> str:
    lines = file_lines(inspect_checkpoint(path), columns)
    assert max(map(columns_of, lines)) <= columns
    return "\n".join(lines)


def columns_of(line: str) -> int:
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


def assert_adds_up(path: Path) -> Node:
    """Every branch is the sum of its children, and the file is the tree and the rest."""
    summary = inspect_checkpoint(path)
    for node in nodes(summary.tensors):
        if node.children:
            for what in ("tensors", "numbers", "bytes"):
                assert getattr(node, what) == sum(getattr(child, what) for child in node.children), (node.name, what)
    assert path.stat().st_size == summary.size == summary.tensors.bytes + summary.rest
    return summary.tensors


# --------------------------------------------------------------------------------------------------------- what is said


def test_everything_that_a_person_asks_is_answered(tmp_path: Path) -> None:
    """Where it was, where it goes on, how good it was, what is in it, where it came from."""
    text = said(save_checkpoint(a_checkpoint(), tmp_path / "last_model.pth").path)
    for words in (
        "format          koemorph checkpoint, format version 1",
        "epoch           3 ended, global step 40",
        "goes on at      epoch 4, batch 0 (global step 40)",
        "metrics         loss 0.125, mae 0.25",
        "best            loss 0.125 at epoch 2 (min)",
        "saves           4 so far in the line of runs a1b2",
        "states          model, optimizer, scheduler",
        "random states   python, numpy, torch",
        "optimizer       6 parameters, lr 0.02, betas [0.9, 0.999]",
        "state of 6 parameters: step, exp_avg, exp_avg_sq",
        "scheduler       T_max 10",
        "config          seed 1\n                training: lr 0.02\n                training.checkpoint: save_freq 5",
        "UTC, after 12.5 s of training",
        f"torch {torch.__version__}",
        "git commit      ",
        "parameters      34",
    ):
        assert words in text, words
    assert not re.search("foreign names|note|also in it", text)


def test_inside_an_epoch_it_says_so(tmp_path: Path) -> None:
    """The epoch has begun and is not over."""
    path = pickled(
        tmp_path / "a.pth", a_checkpoint(position={"epoch": 3, "batch": 7, "global_step": 37}, global_step=37)
    )
    assert "3 begun, global step 37" in said(path)
    assert "goes on at      epoch 3, batch 7 (global step 37)" in said(path)


def test_json_has_everything_and_is_valid_where_a_metric_is_not_finite(tmp_path: Path, capsys: Capture) -> None:
    """NaN is null, as no JSON knows it; people see it as it is."""
    metrics = {"loss": float("nan"), "mae": float("-inf"), "f1": 0.5}
    path = save_checkpoint(a_checkpoint(metrics=metrics), tmp_path / "a.pth").path
    assert 0 == main(["inspect", str(path), "--json"])
    plain = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))
    assert {"loss": None, "mae": None, "f1": 0.5} == plain["metrics"]
    assert {"epoch": 4, "batch": 0, "global_step": 40} == plain["position"]
    assert plain["size"] == plain["rest"] + plain["tensors"]["bytes"]
    assert [["model.0.weight", "model.0.bias"], 0.02] == [
        plain["optimizers"][0]["groups"][0]["names"][:2],
        plain["optimizers"][0]["groups"][0]["settings"]["lr"],
    ]
    assert "metrics         loss nan, mae -inf, f1 0.5" in said(path)


def lightning() -> dict[str, Any]:
    ours = a_checkpoint()
    return {
        "epoch": 3,
        "global_step": 40,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": ours["model_state_dict"],
        "loops": {"fit_loop": {}},
        "callbacks": {},
        "optimizer_states": [ours["optimizer_state_dict"]],
        "lr_schedulers": [ours["scheduler_state_dict"]],
        "hyper_parameters": {"width": 64},
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(
            lambda: {
                "epoch": 4,
                "global_step": 20,
                "model_state_dict": nn.Linear(2, 1).state_dict(),
                "metrics": {"loss": np.float64(0.25)},
            },
            ["the recipe's format (version 0)", "4 ended, global step 20", "loss 0.25", "numbers of numpy"],
            id="recipe",
        ),
        pytest.param(
            lightning,
            [
                "PyTorch Lightning 2.5.0",
                "3, global step 40",
                "state_dict, optimizer_states, lr_schedulers",
                "6 parameters, lr 0.02",
                "width 64",
            ],
            id="lightning",
        ),
        pytest.param(lambda: nn.Linear(2, 1).state_dict(), ["weights alone", "all 2 tensors"], id="weights"),
        pytest.param(
            lambda: {"net": nn.Linear(2, 1), "note": "mine"},
            [
                "a dict of another program",
                "torch.nn.modules.linear.Linear",
                "also in it",
                "net: ",
                "note: mine",
                "all 2 t",
            ],
            id="a dict with a module",
        ),
        pytest.param(dict, ["a dict of another program", "all 0 tensors"], id="an empty dict"),
    ],
)
def test_what_other_programs_wrote_is_told_as_what_it_is(
    tmp_path: Path, content: Callable[[], Any], words: list[str]
) -> None:
    """The recipe's files, Lightning's, weights alone, anything else; each adds up."""
    path = pickled(tmp_path / "theirs.ckpt", content())
    text = said(path)
    assert [] == [word for word in words if word not in text], text
    assert_adds_up(path)


# ------------------------------------------------------------------------------------------------------- it adds up

shapes = st.lists(st.integers(0, 4), max_size=3)
tensors = st.builds(
    lambda shape, dtype: torch.zeros(shape, dtype=dtype),
    shapes,
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64]),
)
names = st.text("ab.", max_size=4) | st.integers(0, 3)
trees = st.recursive(
    tensors | st.integers(),
    lambda below: st.dictionaries(names, below, max_size=4) | st.lists(below, max_size=3),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=IN_ONE_FOLDER)
@given(st.dictionaries(names, trees, max_size=4))
def test_the_tree_adds_up_whatever_is_in_it(tmp_path: Path, content: dict[Any, Any]) -> None:
    """Names with dots, numbers as names, names that are a branch and a tensor: sums, and what torch counts."""
    path = pickled(tmp_path / "a.pth", content)
    tree = assert_adds_up(path)
    flat = list(leaves_of(content))
    assert len(flat) == tree.tensors == len(list(tree.leaves()))
    assert sum(t.numel() for t in flat) == tree.numbers
    assert sum(t.numel() * t.itemsize for t in flat) == tree.bytes


def leaves_of(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves_of(item)


def test_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    """Tied weights count once, a view brings its whole storage along, an expanded tensor is small; each is said."""
    weight, big = torch.zeros(10, 10), torch.zeros(1000)
    content = {
        "in": weight,
        "out": weight,
        "part": big[:10],
        "row": torch.zeros(1).expand(7),
        "bare": torch.zeros(6).untyped_storage(),
    }
    path = pickled(tmp_path / "a.pth", content)
    tree = assert_adds_up(path)
    found = [(leaf.numbers, leaf.bytes) for leaf in tree.children]
    assert [(100, 400), (0, 0), (10, 4000), (7, 4), (24, 24)] == found
    text = said(path)
    assert "out shares its bytes with in" in text
    assert "part uses 40 of the 4,000 bytes stored" in text


def test_bytes_that_are_missing_or_that_nothing_names_are_said(tmp_path: Path) -> None:
    """What torch could not load, and what it would never look at."""
    path = pickled(tmp_path / "a.pth", {"a": torch.zeros(5), "b": torch.zeros(6)})
    with zipfile.ZipFile(path) as file:
        records = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in records.items():
            file.writestr(name.replace("data/0", "data/9"), data)
    assert_adds_up(path)
    text = said(path)
    assert "a its bytes are not in the file" in text
    assert "20 bytes of tensors are in the file that nothing in it names" in text


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({f"layer{i}": torch.zeros(2) for i in range(1200)}, id="wide"),
        pytest.param({f"a{i % 40}.b{i}.c.d.weight": torch.zeros(2) for i in range(1200)}, id="both"),
        pytest.param({".".join("abcdefghij" * 5): torch.zeros(2), "z": torch.zeros(1)}, id="deep"),
    ],
)
def test_a_large_tree_is_bounded_for_people_and_whole_for_programs(tmp_path: Path, content: dict[str, Any]) -> None:
    """What is folded is counted, so that also the rows on the screen add up."""
    path = pickled(tmp_path / "a.pth", content)
    lines = said(path).splitlines()
    tree = lines[lines.index("") + 2 : -3]
    assert len(lines) < 60
    top = [int(line.split()[-1].replace(",", "")) for line in tree if not line.startswith(" ")]
    assert sum(top) == inspect_checkpoint(path).tensors.bytes == sum(t.numel() * 4 for t in content.values())
    assert len(content) == inspect_checkpoint(path).to_json().count('"dtype"')


# ------------------------------------------------------------------------------------------------------------ strangers

NASTY = "\x1b[31m[red]\r\n\u202e\ud800" + "x" * 5000


def test_nothing_in_a_file_reaches_the_terminal_raw(tmp_path: Path, capsys: Capture) -> None:
    """Escapes, newlines, markup, surrogates and very long text, wherever text can stand."""
    content = a_checkpoint(
        metrics={NASTY: 1.0, "loss": NASTY, "big": 10**600},
        best={"monitor": NASTY, "mode": NASTY, "value": NASTY, "epoch": NASTY},
        run={"line": NASTY, "parent": NASTY, "saves": NASTY},
        config={NASTY: {NASTY: NASTY}, "list": [NASTY] * 3},
        metadata={"timestamp": 1e300, "git_commit": NASTY, "hostname": NASTY, NASTY: NASTY},
        rng_state={NASTY: torch.zeros(1)},
        scheduler_state_dict={NASTY: NASTY},
    )
    content["optimizer_state_dict"]["param_groups"][0][NASTY] = NASTY
    content["model_state_dict"][NASTY] = torch.zeros(1)
    content |= {f"{NASTY}_state_dict": {}, NASTY: NASTY, "also": {NASTY: NASTY}, 3: 4}
    path = pickled(tmp_path / "a\x1b[31m.pth", content)
    for arguments in ([], ["--json"]):
        assert 0 == main(["inspect", str(path), *arguments])
        out = capsys.readouterr().out
        assert {"\n"} >= {c for c in out if not c.isprintable()}
        assert arguments or "x" * 100 not in out
    said(path)
    assert 2 == main(["inspect", f"{tmp_path}/\x1b[31m"])
    assert r"\x1b[31m" in capsys.readouterr().err


def test_wide_letters_are_aligned_as_a_terminal_shows_them(tmp_path: Path) -> None:
    """声 takes two columns."""
    text = said(pickled(tmp_path / "a.pth", {"声.重み": torch.zeros(3), "koe": {"声" * 60: torch.zeros(2)}}))
    assert 1 == len({columns_of(line) for line in text.splitlines()[text.splitlines().index("") + 1 :]})


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_terminal_that_cannot_show_a_letter_gets_its_number(tmp_path: Path, encoding: str) -> None:
    """No traceback where the locale is plain."""
    path = pickled(tmp_path / "a.pth", {"声": torch.zeros(3)})
    command = [sys.executable, "-m", "koemorph_tutorial", "inspect", str(path)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    assert ("声" if encoding == "utf-8" else r"\u58f0") in done.stdout.decode(encoding)


class Evaluated:
    """Runs an expression of Python, from within."""

    def __init__(self, expression: str) -> None:
        self.expression = expression

    def __reduce__(self) -> Any:
        return eval, (self.expression,)


class Filled:
    """Hands its state to a function of the system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return print, (), (self.command, {"__setstate__": os.system})


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (lambda trace: Hostile(f"touch {trace}"), "posix.system"),
        (lambda trace: Evaluated(f"open({str(trace)!r}, 'w')"), "builtins.eval"),
        (lambda trace: Filled(f"touch {trace}"), "builtins.print"),
        (lambda trace: nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    ],
)
def test_what_a_file_wants_to_run_does_not_run(
    tmp_path: Path, capsys: Capture, payload: Callable[[Path], Any], name: str, alone: bool
) -> None:
    """Alone it is no checkpoint: one line, exit 2. In a fine one it is named, beside what is fine."""
    trace = tmp_path / "it_ran"
    bad = payload(trace)
    content = bad if alone else {**a_checkpoint(), "extra": {"a": [bad]}, "metrics": bad}
    path = pickled(tmp_path / "last_model.pth", content)
    assert (2 if alone else 0) == main(["inspect", str(path)])
    out, error = capsys.readouterr()
    assert name in (error if alone else out)
    assert (1 if alone else 0) == error.count("\n"), error
    if alone:
        assert f"{path}: expected a dict with the states of a run, found the pickled {name}" in error
    else:
        assert "foreign names" in out
        assert "3 ended, global step 40" in out
    assert not trace.exists()


def legacy(path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)


def scripted(path: Path) -> None:
    torch.jit.script(nn.Sequential(nn.Linear(2, 1))).save(str(path))


def safetensors(path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"__metadata__":{"format":"pt"}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize(
    ("write", "called", "numbers", "noted"),
    [
        (legacy, "weights alone, with nothing to go on from, in the format of torch before 1.6", 2, True),
        (scripted, "an archive of TorchScript: a model and its code", 3, False),
        (safetensors, "a safetensors file: weights alone", 2, True),
    ],
)
def test_a_file_of_another_format_is_described(
    tmp_path: Path, write: Callable[[Path], None], called: str, numbers: int, noted: bool
) -> None:
    """Its tensors add up to its size as those of any other, and where there are no checksums that is said."""
    path = tmp_path / "model.bin"
    write(path)
    summary = inspect_checkpoint(path)
    assert (called, numbers) == (summary.format, summary.tensors.numbers)
    assert path.stat().st_size == summary.tensors.bytes + summary.rest
    assert noted == any("no checksums" in note for note in summary.notes)
    assert () == summary.foreign
    assert 0 == main(["inspect", str(path)])


def a_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("word/document.xml", "<w/>" * 100)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: p.write_bytes(b""), "found an empty file; use an older checkpoint of the run"),
        (lambda p: p.write_text("epoch: 3\n"), "found a file that begins with b'epoch: 3'; check the path"),
        (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)), "found a PNG picture; name a file of torch.save"),
        (
            lambda p: p.write_bytes((8).to_bytes(8, "little") + b'{"a": 1}'),
            "expected a safetensors file, found one that cannot be read (tensor 'a', whose description does not fit",
        ),
        (lambda p: p.write_bytes(gzip.compress(gzip.compress(b"x"))), "found a gzip file; unpack it with gunzip"),
        (
            lambda p: p.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(9)),
            "expected a whole zstd file, found the beginning of one",
        ),
        (
            lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(9)),
            "found an HDF5 file, as Keras writes it; name a file",
        ),
        (
            lambda p: p.write_bytes(pickle.dumps({"epoch": 3})),
            "found a plain pickle; name a file of torch.save; to open",
        ),
        (a_zip, "expected one record data.pkl, as torch.save writes it, found 0: another kind of zip; check the path"),
        (lambda p: torch.save(nn.Linear(1, 1), p), "found the pickled torch.nn.modules.linear.Linear, which runs code"),
        (lambda p: torch.save(torch.zeros(2), p), "expected a dict with the states of a run, found a tensor"),
        (lambda p: torch.save([1], p), "expected a dict with the states of a run, found a list"),
        (
            lambda p: torch.save({"format_version": 99}, p),
            "expected format_version 1 or older, found 99; it was written",
        ),
        (lambda p: torch.save({"format_version": [[NASTY]] * 99}, p), "expected format_version 1 or older, found [["),
        (lambda p: None, "found nothing of that name; check the path"),
    ],
)
def test_what_is_no_checkpoint_gets_one_line(
    tmp_path: Path, capsys: Capture, write: Callable[[Path], Any], words: str
) -> None:
    """Which file, what was expected, what was found, what to do; exit 2."""
    path = tmp_path / "last_model.pth"
    write(path)
    assert 2 == main(["inspect", str(path)])
    out, error = capsys.readouterr()
    assert ("", 1) == (out, error.count("\n"))
    assert error.startswith(f"koemorph: {path}: ")
    assert words in error
    assert len(error) < 600


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return pickled(tmp_path_factory.mktemp("sound") / "a.pth", a_checkpoint()).read_bytes()


@settings(max_examples=150, deadline=None, suppress_health_check=IN_ONE_FOLDER)
@given(data=st.data())
def test_a_damaged_file_never_does_worse_than_one_line(tmp_path: Path, sound: bytes, data: st.DataObject) -> None:
    """Flipped bytes and lost ends, the header's own checksum mended: read and shown, or refused."""
    with zipfile.ZipFile(pickled_again(tmp_path, sound)) as file:
        header = bytearray(file.read(next(name for name in file.namelist() if name.endswith("data.pkl"))))
    path = tmp_path / "bad.pth"
    if data.draw(st.booleans()):
        for at in data.draw(st.lists(st.integers(0, len(header) - 1), min_size=1, max_size=4)):
            header[at] = data.draw(st.integers(0, 255))
        archive_of(path, bytes(header[: data.draw(st.integers(len(header) // 2, len(header)))]))
    else:
        changed = bytearray(sound)
        changed[data.draw(st.integers(0, len(sound) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(changed[: data.draw(st.integers(0, len(sound)))])
    try:
        summary = inspect_checkpoint(path)
    except CheckpointError as error:
        assert 1 == len(str(error).splitlines())  # noqa: PT017
    else:
        json.loads(summary.to_json())
        file_lines(summary, 80)
        assert summary.size == summary.tensors.bytes + summary.rest


def pickled_again(folder: Path, data: bytes) -> Path:
    (folder / "sound.pth").write_bytes(data)
    return folder / "sound.pth"


LOOPS = [
    b"}q\x00X\x01\x00\x00\x00ah\x00s.",
    b"}X\x06\x00\x00\x00config]q\x00h\x00asX\x08\x00\x00\x00metadata}q\x01X\x01\x00\x00\x00ah\x01ss.",
    b"}X\x06\x00\x00\x00config" + b"]" * 50_000 + b"a" * 49_999 + b"s.",
    b"}X\x06\x00\x00\x00config)q\x00" + b"0h\x00h\x00h\x00\x87q\x00" * 60 + b"s.",
    b"}X\x0e\x00\x00\x00format_version)q\x00" + b"0h\x00h\x00h\x00\x87q\x00" * 60 + b"s.",
    b"}X\x07\x00\x00\x00metrics}]cos\nsystem\nK\x01ss.",
    b")" + b"\x85" * 200_000 + b"X\x01\x00\x00\x00a\x93.",  # a module's name that hashing would never come back from
]


@pytest.mark.parametrize("pickled_content", LOOPS)
def test_content_without_an_end_is_shown_with_one(tmp_path: Path, capsys: Capture, pickled_content: bytes) -> None:
    """Dicts within themselves, fifty thousand lists in each other, branches that double at every step, deep names."""
    path = archive_of(tmp_path / "a.pth", b"\x80\x02" + pickled_content)
    for arguments in ([], ["--json"]):
        assert main(["inspect", str(path), *arguments]) in (0, 2)
        out, error = capsys.readouterr()
        assert len(out) + len(error) < 5_000_000
        assert error.count("\n") <= 1


# ------------------------------------------------------------------------------------------------------------ a folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make the folder of a run: two generations, one of them under three names, a damaged file, one of a stranger's."""
    folder = tmp_path / "run/checkpoints"
    folder.mkdir(parents=True)
    save_checkpoint(a_checkpoint(0), folder / "checkpoint_epoch_000.pth", also=["best_model.pth"])
    save_checkpoint(a_checkpoint(5), folder / "checkpoint_epoch_005.pth", also=["last_model.pth"])
    (folder / "checkpoint_epoch_003.pth").write_bytes(b"")
    (folder / "checkpoint_epoch_7.pth").write_bytes(b"")
    return tmp_path / "run"


def test_a_run_is_a_table_of_its_contents(run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of one content share a row; newest first; last and best marked; what is ignored and why; bytes once."""
    sizes = [(run / "checkpoints" / f"checkpoint_epoch_00{epoch}.pth").stat().st_size for epoch in (5, 0)]
    monkeypatch.chdir(run.parent)
    for folder in ("run", "run/checkpoints"):
        assert 0 == main(["inspect", folder])
        lines = capsys.readouterr().out.splitlines()
        assert f"in it           2 checkpoints under 4 names, {sum(sizes):,} bytes on the disk" == lines[1]
        assert ["name", "epoch", "next", "saves", "size", "loss", "mae"] == lines[3].split()
        assert ["checkpoint_epoch_005.pth", "last", "5", "6", "6"] == lines[4].split()[:5]
        assert ["checkpoint_epoch_000.pth", "best", "0", "1", "1"] == lines[5].split()[:5]
        assert any(line.startswith("ignored         checkpoint_epoch_003.pth: expected a checkpoint") for line in lines)
        assert any(line.startswith("ignored         checkpoint_epoch_7.pth: not a name that this") for line in lines)
        assert max(map(len, lines)) <= 80
    assert 0 == main(["inspect", str(run), "--json"])
    plain = json.loads(capsys.readouterr().out)
    assert sum(sizes) == plain["size"]
    assert [["checkpoint_epoch_005.pth", "last_model.pth"], True, False] == [
        sorted(plain["contents"][0]["names"]),
        plain["contents"][0]["last"],
        plain["contents"][0]["best"],
    ]
    assert ["checkpoint_epoch_003.pth", "checkpoint_epoch_7.pth"] == [entry["name"] for entry in plain["ignored"]]


def test_metrics_that_do_not_fit_are_counted(run: Path) -> None:
    """In a wider terminal they are there; what is not finite is shown as it is."""
    metrics = {f"a_metric_with_a_long_name_{i}": math.nan for i in range(6)}
    save_checkpoint(a_checkpoint(9, metrics=metrics), run / "checkpoints/last_model.pth")
    narrow, wide = (directory_lines(inspect_directory(run), columns) for columns in (80, 400))
    assert max(map(len, narrow)) <= 80
    assert any(line.startswith("8 more metrics: ") for line in narrow)
    assert "nan" in wide[4]


def empty(folder: Path) -> None:
    folder.mkdir()


def of_others(folder: Path) -> None:
    folder.mkdir()
    (folder / "epoch=3.ckpt").touch()


def all_damaged(folder: Path) -> None:
    folder.mkdir()
    (folder / "last_model.pth").touch()


def unreadable(folder: Path) -> None:
    (folder.parent / "file").touch()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (empty, "expected checkpoints, found none; check the path"),
        (of_others, "found none by the names of this library; name one file, for example "),
        (all_damaged, "found none that can be used (last_model.pth: expected a checkpoint file (.pth), found an empty"),
    ],
)
def test_a_folder_without_checkpoints_gets_one_line(
    tmp_path: Path, capsys: Capture, make: Callable[[Path], None], words: str
) -> None:
    """Nothing in it, files of others, nothing sound."""
    make(tmp_path / "run")
    assert 2 == main(["inspect", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert 1 == error.count("\n")
    assert words in error


def test_a_folder_that_cannot_be_read_gets_one_line(
    run: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No permission: root has it everywhere, so it is taken away here."""

    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    assert 2 == main(["inspect", str(run)])
    assert "expected a directory of checkpoints, found: Permission denied; check the path" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- without torch


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_inspect_loads_neither_torch_nor_anything_heavy(run: Path, arguments: list[str]) -> None:
    """A fresh interpreter, a file and a folder, sound and not."""
    paths = [run, run / "checkpoints/last_model.pth", run / "checkpoints/checkpoint_epoch_003.pth"]
    program = (
        "import sys\nfrom koemorph_tutorial.__main__ import main\n"
        f"codes = [main(['inspect', path, *{arguments!r}]) for path in {list(map(str, paths))!r}]\n"
        "assert [0, 0, 2] == codes, codes\n"
        "assert not {'torch', 'numpy', 'rich', 'omegaconf', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_a_summary_is_a_sentence(run: Path) -> None:
    """For a notebook, or a log."""
    file = inspect_checkpoint(run / "checkpoints/last_model.pth")
    assert re.fullmatch(r"last_model\.pth: epoch 5; [\d,]+ numbers in [\d,]+ bytes", str(file))
    assert str(inspect_directory(run)).startswith(f"{run}/checkpoints: 2 checkpoints under 4 names, ")
