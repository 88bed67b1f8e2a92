"""What a checkpoint holds, read without torch: the same tree as torch.load's, and nothing in the file can run."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from koemorph_tutorial import compress_checkpoint, load_checkpoint, save_checkpoint, validate_checkpoint
from koemorph_tutorial.header import find_misplaced, header_of, read_header
from koemorph_tutorial.records import CheckpointError, CheckpointNotFoundError, Codec, DamagedCheckpointError
from koemorph_tutorial.stubs import TensorStub

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e8m0fnu),
]


def stubbed(value: Any) -> Any:
    """Return what the header should hold for `value`: tensors as stubs, other things of torch as plain ones."""
    if isinstance(value, torch.Tensor):
        return TensorStub(tuple(value.shape), str(value.dtype).removeprefix("torch."))
    if isinstance(value, dict):
        return {stubbed(key): stubbed(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [stubbed(item) for item in value]
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, complex):
        return value.real, value.imag
    return str(value) if isinstance(value, torch.device) else value


def archive_of(path: Path, pickled: bytes) -> Path:
    """Write a zip that torch could have written, but for its header."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
    return path


def trained() -> dict[str, Any]:
    """Return the state of a small training: everything that an optimizer, a scheduler and a norm layer store."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2, 2, 5])
    for _ in range(3):
        model(torch.randn(6, 3)).sum().backward()
        optimizer.step()
        scheduler.step()
    return {
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": scheduler.state_dict(),
    }


# --------------------------------------------------------------------------------------------- the tree that torch sees


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(trained, id="a training"),
        pytest.param(lambda: {str(dtype): torch.zeros(2, 3).to(dtype) for dtype in DTYPES}, id="dtypes"),
        pytest.param(
            lambda: {
                "scalar": torch.tensor(1.5),
                "empty": torch.zeros(0, 4),
                "view": torch.zeros(4, 5)[1:, ::2],
                "expanded": torch.zeros(1).expand(7),
                "parameter": nn.Parameter(torch.zeros(2)),
                "conjugate": torch.zeros(2, dtype=torch.complex64).conj(),
                "shared": [torch.arange(3)] * 2,
            },
            id="tensors",
        ),
        pytest.param(
            lambda: {
                "none": None,
                "flag": True,
                "large": -(2**200),
                "text": "声 \ud800 \n",
                "bytes": b"\x00\xff",
                "nested": ([{}, (), [[]]], {2: 2.5, (1, "a"): None, True: 0, None: 1}),
                "ordered": OrderedDict([("b", 1), ("a", 2)]),
                "counted": Counter("abba"),
                "complex": 1 - 2j,
                "size": torch.Size([3, 4]),
                "device": torch.device("cuda:1"),
                "infinite": [float("inf"), float("-inf")],
            },
            id="plain values",
        ),
    ],
)
def test_the_header_is_what_torch_loads_without_the_numbers(tmp_path: Path, value: Any) -> None:
    """Same keys in the same order, same values, shapes and dtypes in place of tensors, and nothing foreign."""
    path = tmp_path / "last_model.pth"
    torch.save(value(), path)
    header = read_header(path)
    expected = stubbed(torch.load(path, weights_only=True))
    assert expected == header.content
    assert list(expected) == list(header.content)
    assert () == header.foreign


def test_sets_bytearrays_and_dtypes_are_readable_too(tmp_path: Path) -> None:
    """A set becomes a list, a dtype something with its name."""
    path = tmp_path / "last_model.pth"
    torch.save({"set": {1, "a"}, "none": set(), "array": bytearray(b"ab"), "dtype": torch.bfloat16}, path)
    content = read_header(path).content
    assert {1, "a"} == set(content["set"])
    assert ([], b"ab", "torch.bfloat16") == (content["none"], content["array"], content["dtype"].name)


def test_a_tensor_with_an_attribute_is_still_a_tensor(tmp_path: Path) -> None:
    """torch saves such a tensor by another function."""
    tensor, parameter = torch.zeros(2, 3), nn.Parameter(torch.zeros(4))
    tensor.unit, parameter.unit = "Hz", {"of": "pitch"}
    path = tmp_path / "last_model.pth"
    torch.save([tensor, parameter], path)
    header = read_header(path)
    assert [TensorStub((2, 3), "float32"), TensorStub((4,), "float32")] == header.content
    assert () == header.foreign


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (np.float64(0.125), 0.125),
        (np.float32(0.125), 0.125),
        (np.float16(0.125), 0.125),
        (np.int64(-3), -3),
        (np.int32(7), 7),
        (np.bool_(True), True),
        (np.uint64(7), 7),
        (np.int8(-7), -7),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_numpy_numbers_among_the_metrics_keep_their_value(
    tmp_path: Path, number: Any, value: Any, protocol: int
) -> None:
    """The recipe stored its metrics as numpy left them."""
    path = archive_of(tmp_path / "last_model.pth", pickle.dumps({"metrics": {"loss": number}}, protocol=protocol))
    header = read_header(path)
    assert {"metrics": {"loss": value}} == header.content
    assert type(value) is type(header.content["metrics"]["loss"])
    assert any(name.endswith("multiarray.scalar") for name in header.foreign)


def test_a_rarer_number_of_numpy_keeps_its_bits(tmp_path: Path) -> None:
    """It is no number here, but two that differ do not look the same."""
    found = []
    for number in (np.complex64(1), np.complex64(2)):
        path = archive_of(tmp_path / "last_model.pth", pickle.dumps({"loss": number}, protocol=2))
        found.append(read_header(path).content["loss"].content)
    assert [["c8", number.tobytes()] for number in (np.complex64(1), np.complex64(2))] == found


def test_no_tensor_is_read(tmp_path: Path) -> None:
    """The header of a file whose tensors are gone is read like any other."""
    path = tmp_path / "last_model.pth"
    torch.save({"weight": torch.arange(1000), "epoch": 3}, path)
    with zipfile.ZipFile(path) as file:
        without = {name: b"" if "/data/" in name else file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in without.items():
            file.writestr(name, data)
    assert {"weight": TensorStub((1000,), "int64"), "epoch": 3} == read_header(path).content


def test_a_file_is_asked_without_torch(tmp_path: Path) -> None:
    """A fresh interpreter that reads a header, wrong files included, never imports torch or numpy."""
    path = tmp_path / "last_model.pth"
    torch.save({**trained(), "metrics": {"loss": 0.5}}, path)
    program = (
        "import json, pathlib, sys\n"
        "from koemorph_tutorial import header, records\n"
        "content = header.read_header(pathlib.Path(sys.argv[1])).content\n"
        "try:\n"
        "    header.read_header(pathlib.Path('.'))\n"
        "except records.CheckpointError:\n"
        "    pass\n"
        "print(json.dumps([content['metrics'], sorted({'torch', 'numpy'} & set(sys.modules))]))\n"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert [{"loss": 0.5}, []] == json.loads(done.stdout)


# ------------------------------------------------------------------------------------------------------ nothing can run


class Hostile:
    """Runs a command of the shell when an ordinary unpickler meets it."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        import os

        return os.system, (self.command,)


def test_what_a_strangers_file_wants_to_run_does_not_run(tmp_path: Path) -> None:
    """Its command would have written a file; the header only names what it would have called."""
    path, trace = tmp_path / "last_model.pth", tmp_path / "it_ran"
    torch.save({"epoch": 3, "model": Hostile(f"echo hit > {trace}")}, path)
    header = read_header(path)
    assert 3 == header.content["epoch"]
    assert ("posix.system",) == header.foreign
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the proof that the file is what it is said to be
    assert trace.exists()


@pytest.mark.parametrize(
    ("value", "foreign"),
    [
        ({"f": print}, ("builtins.print",)),
        ({"s": frozenset({3})}, ("builtins.frozenset",)),
        ({"e": b""}, ("builtins.bytes",)),
        ({"d": date(2026, 1, 31)}, ("datetime.date",)),
        ({"v": torch.__version__}, ("torch.torch_version.TorchVersion",)),
        ({"a": np.zeros(2)}, ("numpy._core.multiarray._reconstruct", "numpy.dtype", "numpy.ndarray")),
        ({"l": torch.load}, ("torch.serialization.load",)),
        ({"m": nn.Linear(1, 1)}, ("torch.nn.modules.linear.Linear",)),
    ],
)
def test_what_torch_would_refuse_is_named(tmp_path: Path, value: Any, foreign: tuple[str, ...]) -> None:
    """Functions and classes other than those of tensors and plain containers, sorted."""
    path = tmp_path / "last_model.pth"
    torch.save(value, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    assert foreign == read_header(path).foreign


@pytest.mark.parametrize("name", ["torch\nload", "torch\ncompile", "os\nsystem", "builtins\neval", "torch.hub\nload"])
def test_a_function_of_torch_is_as_foreign_as_any(tmp_path: Path, name: str) -> None:
    """To be in torch is not to be harmless."""
    path = archive_of(tmp_path / "last_model.pth", b"\x80\x02c" + name.encode() + b"\nX\x01\x00\x00\x00x\x85R.")
    assert (name.replace("\n", "."),) == read_header(path).foreign


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(lambda: torch.eye(3).to_sparse(), id="sparse"),
        pytest.param(lambda: torch.empty(2, device="meta"), id="meta"),
        pytest.param(lambda: nn.Buffer(torch.zeros(2)), id="buffer"),
    ],
)
def test_what_torch_reads_is_not_foreign(tmp_path: Path, tensor: Any) -> None:
    """Rare kinds of tensors run nothing either."""
    path = tmp_path / "last_model.pth"
    torch.save(tensor(), path)
    torch.load(path, weights_only=True)
    assert () == read_header(path).foreign


TEXT = b"X\x01\x00\x00\x00x"


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


LAUGHS = b")q\x000" + b"h\x00h\x00h\x00\x87q\x000" * 60 + b"h\x00"  # 3 ** 60 times (), in 600 bytes


@pytest.mark.parametrize(
    "pickled",
    [
        pytest.param(b"K\x01r\xff\xff\xff\x7f.", id="a memo index of two billion"),
        pytest.param(b"\x8d" + (1 << 62).to_bytes(8, "little") + b".", id="a text of four exabytes"),
        pytest.param(b"\x8b\xff\xff\xff\x7f.", id="a number of two gigabytes"),
        pytest.param(b"]" * 100_000 + b"a" * 99_999 + b".", id="a deep list"),
        pytest.param(b"})" + b"\x85" * 1_000_000 + b"K\x01s.", id="a deep key"),
        pytest.param(b"}" + LAUGHS + b"K\x01s.", id="a key of all the laughs"),
        pytest.param(LAUGHS + b".", id="all the laughs"),
        pytest.param(LAUGHS + b"q\x01ctorch\ndevice\nh\x01\x85R.", id="a device of all the laughs"),
        pytest.param(b"ccollections\nCounter\n" + LAUGHS + b"\x85R.", id="a counter of all the laughs"),
        pytest.param(b"]q\x00h\x00a.", id="a list that holds itself"),
        pytest.param(b"}q\x00" + TEXT + b"h\x00s.", id="a dict that holds itself"),
        pytest.param(b"cos\nsystem\n)Rq\x00h\x00a.", id="a stand-in that holds itself"),
        pytest.param(b"ctorch._utils\n_rebuild_tensor\n}" + TEXT + b"K\x01sb.", id="attributes of a function of ours"),
        pytest.param(b"cos\nsystem\n)\x81}X\x0c\x00\x00\x00__setstate__h\x00sb.", id="a method from the file"),
        pytest.param(
            b"X\x00\x00\x01\x00" + b"a" * 65536 + b"q\x00(" + b"c_codecs\nencode\nh\x00\x85R" * 9999 + b"t.",
            id="one text as bytes ten thousand times",
        ),
        pytest.param(
            text("a" * 100_000)
            + b"q\x000("
            + b"".join(b"h\x00" + text(str(n)) + b"\x93" for n in range(20_000))
            + b"t.",
            id="twenty thousand functions of one long module",
        ),
        pytest.param(
            b"\x8b" + struct.pack("<I", 1 << 21) + b"\x7f" * (1 << 21) + b"q\x000}" + b"h\x00K\x01s" * 200_000 + b".",
            id="a number of two megabytes as a key again and again",
        ),
        pytest.param(
            b"(" + b"K\x01" * 500_000 + b"tq\x000}" + b"h\x00K\x01s" * 200_000 + b".",
            id="a long tuple as a key again and again",
        ),
        pytest.param(
            b"}" + b"".join(number(7 + n * (2**61 - 1)) + b"K\x01s" for n in range(1 << 16)) + b".",
            id="numbers that all have one hash",
        ),
        pytest.param(
            b"J\xff\xff\xff\xffq\x010J\xfe\xff\xff\xffq\x020}"
            + b"".join(b"(" + b"".join(key) + b"tK\x01s" for key in itertools.product((b"h\x01", b"h\x02"), repeat=16))
            + b".",
            id="tuples that all have one hash",
        ),
    ],
)
def test_a_small_header_costs_little(tmp_path: Path, pickled: bytes) -> None:
    """A few bytes that ask for all the memory, all the time or the end of the process: read or refused, and cheap."""
    read_cheaply(archive_of(tmp_path / "last_model.pth", b"\x80\x02" + pickled))


def read_cheaply(path: Path) -> None:
    program = (
        "import pathlib, resource, sys\n"
        "from koemorph_tutorial.header import read_header\n"
        "from koemorph_tutorial.records import CheckpointError\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (10, 10))\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))\n"
        "try:\n    read_header(pathlib.Path(sys.argv[1]))\n"
        "except CheckpointError as error:\n    assert 'MemoryError' not in str(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)


def test_a_small_header_of_a_script_costs_little(tmp_path: Path) -> None:
    """One set of attributes is not copied to object after object."""
    attributes = b"}(" + b"".join(text(str(n)) + b"K\x01" for n in range(10_000)) + b"uq\x00"
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/constants.pkl", b"\x80\x02).")
        file.writestr("archive/code/net.py", b"")
        objects = b"h\x01)\x81h\x00b" * 10_000
        file.writestr("archive/data.pkl", b"\x80\x02" + attributes + b"c__torch__.net\nNet\nq\x01(" + objects + b"t.")
    read_cheaply(path)
    with pytest.raises(DamagedCheckpointError, match=r"\(it asks for more attributes than it holds\)"):
        read_header(path)


def test_tensors_know_where_their_numbers_lie(tmp_path: Path) -> None:
    """Tied weights name one storage; the bytes of each are known from the file."""
    path = tmp_path / "last_model.pth"
    whole = torch.zeros(4, 5)
    torch.save({"a": whole, "b": whole[2:], "c": torch.zeros(3, dtype=torch.int16)}, path)
    header = read_header(path)
    a, b, c = header.content.values()
    assert (a.storage, 0, 20) == (b.storage, a.offset, a.storage.elements)
    assert (10, 10, 3) == (b.offset, b.numbers, c.numbers)
    assert {a.storage.key: 80, c.storage.key: 6} == header.stored
    assert path.stat().st_size == header.size


# ------------------------------------------------------------------------------------------------------- broken headers


@pytest.mark.parametrize(
    ("pickled", "why"),
    [
        (b"", "IndexError"),
        (b".", "IndexError"),
        (pickle.dumps({"epoch": 3}, protocol=2)[:-1], "IndexError"),
        (b"\x80\x02X\xff\xff\xff\x7f.", "it ends inside a text"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "IndexError"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", "TypeError"),
        (b"\x80\x02cos\nsyst\xffem\n.", "UnicodeDecodeError"),
        (b"\x80\x02U\x02\xff\xfe.", "UnicodeDecodeError"),
        (b"\x80\x02K\x01]a.", "it fills a int as if it were a list"),
        (b"I1\n.", "byte 0x49 at 0 is no instruction that torch.save writes"),
    ],
)
def test_a_header_that_is_no_pickle_is_damaged(tmp_path: Path, pickled: bytes, why: str) -> None:
    """Its checksum is right and its content is not: one line all the same."""
    path = archive_of(tmp_path / "last_model.pth", pickled)
    message = f"{path}: expected a header as torch.save writes it, found one that cannot be read ({why})"
    with pytest.raises(DamagedCheckpointError, match=rf"^{re.escape(message)}; use an older .*$"):
        read_header(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(st.sampled_from([bytes([code]) for code in range(256)] + [b"cos\nsystem\n", b"K\x01", b"q\x00"])).map(
            lambda codes: b"\x80\x02" + b"".join(codes) + b"."
        ),
    )
)
def test_no_header_does_more_than_fail_in_one_line(tmp_path: Path, pickled: bytes) -> None:
    """Random bytes and random programs of the pickle machine: read, or refused as damaged."""
    path = archive_of(tmp_path / "last_model.pth", pickled)
    message = ""
    try:
        read_header(path)
    except CheckpointError as error:
        message = str(error)
    assert 1 >= len(message.splitlines())


def test_a_header_of_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    """Missing, cut short anywhere: the same errors as for the bytes."""
    path = tmp_path / "last_model.pth"
    with pytest.raises(CheckpointNotFoundError, match="found nothing of that name"):
        read_header(path)
    torch.save({"epoch": 3, "weight": torch.zeros(3)}, path)
    data = path.read_bytes()
    for length in range(1, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(DamagedCheckpointError):
            read_header(path)


# ------------------------------------------------------------------------------------------- claims beyond the file


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def stored(key: str = "0", elements: int = 6, kind: str = "FloatStorage") -> bytes:
    module = "torch.storage" if kind == "UntypedStorage" else "torch"
    return b"(" + text("storage") + f"c{module}\n{kind}\n".encode() + text(key) + text("cpu") + number(elements) + b"tQ"


def tensor(storage: bytes, shape: bytes, stride: bytes, offset: int = 0) -> bytes:
    """Return the pickle of a tensor of the storage that is described."""
    place = storage + number(offset) + shape + stride
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + place + b"\x89ccollections\nOrderedDict\n)RtR"


def newer(storage: bytes, shape: bytes, stride: bytes, dtype: str) -> bytes:
    place = storage + number(0) + shape + stride
    made = b"\x89ccollections\nOrderedDict\n)R" + f"ctorch\n{dtype}\ntR".encode()
    return b"ctorch._utils\n_rebuild_tensor_v3\n(" + place + made


TEN_GB = 10**10 // 4
ONE = numbers(1)
CLAIMS = {
    "a shape": tensor(stored(), numbers(7), ONE),
    "ten gigabytes": tensor(stored(), numbers(TEN_GB), ONE),
    "an offset": tensor(stored(), numbers(2, 3), numbers(3, 1), offset=1),
    "an offset far behind": tensor(stored(), ONE, ONE, offset=2**62),
    "an offset of 2 ** 64 bytes": tensor(stored(), ONE, ONE, offset=2**62 + 2**61),
    "a stride": tensor(stored(), numbers(2, 3), numbers(4, 1)),
    "a stride of 2 ** 64 bytes": tensor(stored(), numbers(5), numbers(2**60)),
    "a stride that comes around": tensor(stored(), numbers(3), numbers(2**63 - 1)),
    "numbers that come around": tensor(stored(), numbers(2**32, 2**32), numbers(1, 1)),
    "a number without an axis": tensor(stored(), b")", b")", offset=6),
    "a storage of ten gigabytes": tensor(stored(elements=TEN_GB), numbers(TEN_GB), ONE),
    "a little of ten gigabytes": tensor(stored(elements=TEN_GB), numbers(6), ONE, offset=1000),
    "a storage too short": tensor(stored(elements=5), numbers(5), ONE),
    "a storage of larger numbers": tensor(stored(kind="DoubleStorage"), numbers(6), ONE),
    "a record that is missing": tensor(stored("1"), numbers(6), ONE),
    "a record of another folder": tensor(stored("../data.pkl"), numbers(6), ONE),
    "a storage by itself": stored(elements=7),
    "numbers of eight bytes each": newer(stored("0", 24, "UntypedStorage"), numbers(6), ONE, "uint64"),
}


def claiming(path: Path, claim: bytes, nested: bytes = b"", behind: bytes = b"") -> Path:
    """Write a file of one storage of 24 bytes, whose header says something else."""
    header = b"\x80\x02}(" + text("epoch") + b"K\x03" + text("weight") + nested + claim + behind + b"u."
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", header)
        file.writestr("archive/byteorder", b"little")
        file.writestr("archive/data/0", struct.pack("<6f", *range(6)))
        file.writestr("archive/version", b"3\n")
    return path


def test_a_header_that_claims_what_is_there_is_believed(tmp_path: Path) -> None:
    """The same file with claims that hold: nothing is out of place, and torch loads it."""
    for claim in (
        tensor(stored(), numbers(2, 3), numbers(3, 1)),
        tensor(stored(), numbers(2), ONE, offset=4),
        tensor(stored(), numbers(10**6), numbers(0)),
        tensor(stored(), numbers(0), ONE, offset=100),
        newer(stored("0", 24, "UntypedStorage"), numbers(3), ONE, "uint64"),
    ):
        path = claiming(tmp_path / "last_model.pth", claim)
        assert [] == list(find_misplaced(read_header(path)))
        assert load_checkpoint(path)["weight"].shape == read_header(path).content["weight"].shape


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_beyond_the_file_is_found(tmp_path: Path, claim: str) -> None:
    """By looking for it, by loading and by validating: one line that names the tensor, and torch is not asked."""
    path = claiming(tmp_path / "last_model.pth", CLAIMS[claim])
    ((name, why),) = find_misplaced(read_header(path))
    assert ("weight", True) == (name, why.startswith("found "))
    message = f"{path}: weight: expected the bytes of a tensor, {why}; use an older checkpoint of the run"
    for verify in (True, False):
        with pytest.raises(DamagedCheckpointError, match=rf"^{re.escape(message)}$"):
            load_checkpoint(path, verify=verify)
    report = validate_checkpoint(path)
    assert ("damaged", "weight", why) == (report.verdict, report.findings[0].where, f"found {report.findings[0].found}")


@pytest.mark.parametrize(
    ("nested", "behind", "name"),
    [
        (b"](K\x07", b"e", "weight.1"),
        (b"(" + text("x") + b"K\x07", b"t", "weight.2"),
        (b"}" + text("a\nb"), b"s", r"weight.a\nb"),
        (b"}" + numbers(1, 2), b"s", "weight.(1, 2)"),
        (b"cos\nsystem\n(", b"tR", "weight.0.0"),
        (b"ctorch._utils\n_rebuild_parameter\n(", b"\x88ccollections\nOrderedDict\n)RtR", "weight"),
        (b"ctorch._utils\n_rebuild_sparse_tensor\n(K\x01(", b"ttR", "weight.0.1.0"),
        (b"ccollections\nOrderedDict\n)R" + text("b"), b"s", "weight.b"),
    ],
)
def test_a_claim_is_found_wherever_it_is(tmp_path: Path, nested: bytes, behind: bytes, name: str) -> None:
    """In lists, tuples and dicts, and within what is foreign."""
    path = claiming(tmp_path / "last_model.pth", CLAIMS["ten gigabytes"], nested, behind)
    assert [name] == [where for where, _ in find_misplaced(read_header(path))]
    with pytest.raises(DamagedCheckpointError, match="expected the bytes of a tensor, found one that ends at byte"):
        load_checkpoint(path)


def test_no_claim_takes_memory(tmp_path: Path) -> None:
    """All of them, loaded and validated in one process, which stays as large as it was."""
    paths = [claiming(tmp_path / f"{n}.pth", claim) for n, claim in enumerate(CLAIMS.values())]
    program = (
        "import pathlib, sys\n"
        "import torch\n"
        "from koemorph_tutorial import load_checkpoint, validate_checkpoint\n"
        "from koemorph_tutorial.records import DamagedCheckpointError\n"
        "def peak():\n"
        "    status = pathlib.Path('/proc/self/status').read_text()\n"
        "    return int(status.partition('VmHWM:')[2].split()[0])\n"
        "validate_checkpoint(sys.argv[1])\n"
        "before = peak()\n"
        "for path in sys.argv[1:]:\n"
        "    assert validate_checkpoint(path).verdict == 'damaged'\n"
        "    try:\n        load_checkpoint(path)\n"
        "    except DamagedCheckpointError:\n        print('refused')\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", program, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    *said, grown = done.stdout.split()
    assert ["refused"] * len(CLAIMS) == said
    assert int(grown) < 50_000  # kB


@pytest.mark.parametrize("codec", ["gzip", "zstd", "shuffle-zstd"])
def test_the_header_of_a_compressed_file_is_that_of_what_is_in_it(tmp_path: Path, codec: Codec) -> None:
    """And says by what it is compressed, and how many bytes it takes."""
    path = save_checkpoint(trained(), tmp_path / "run.pth").path
    small = compress_checkpoint(path, codec=codec)
    header = read_header(small)
    assert (codec, small.stat().st_size) == (header.codec, header.packed)
    assert read_header(path) == replace(header, codec=None, packed=path.stat().st_size)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_disk_that_cannot_read_is_no_file_that_cannot_be_read(zipped: bool) -> None:
    """The words are those of the disk, also of a file as torch.save wrote it before 1.6."""

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if size != 14:  # it begins well
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    file = io.BytesIO()
    torch.save({"epoch": 3}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(DamagedCheckpointError, match="expected bytes that can be read, found: Input/output error"):
        header_of(Failing(file.getvalue()), Path("run.pth"))


@pytest.mark.parametrize("codec", ["gzip", "zstd", "shuffle-zstd"])
def test_its_tree_is_read_from_its_beginning(tmp_path: Path, codec: Codec) -> None:
    """A listing reads no more, so that it costs little; a plain file is read as ever."""
    weights = {"weight": torch.randn(300_000), "bias": torch.randn(300_000)}
    path = save_checkpoint(trained() | {"model_state_dict": weights}, tmp_path / "run.pth").path
    small = compress_checkpoint(path, codec=codec)
    small.write_bytes(small.read_bytes()[:1_200_000])
    header = read_header(small, whole=False)
    assert (codec, read_header(path).content, {}) == (header.codec, header.content, header.stored)
    assert read_header(path) == read_header(path, whole=False)
    with pytest.raises(DamagedCheckpointError):
        read_header(small)
