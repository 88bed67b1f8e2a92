"""Files that mean harm, and files that came to harm: each is made here, none is kept.

A maker writes one file into `folder` and returns its path; its docstring is the danger. Where an ordinary unpickler
would run what the file names, it would write the environment variable `SECRET` to the file `proof`: so a test sees that
nothing ran, and that nothing was read.
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import pickle
import random
import shlex
import socket
import struct
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from koemorph_tutorial.compression import Piece, pack
from koemorph_tutorial.records import Best, Codec, Position
from koemorph_tutorial.state import build
from koemorph_tutorial.stored import Records
from koemorph_tutorial.streams import zstd

from .forging import (
    Record,
    archive,
    archive_file,
    called,
    entry,
    mapping,
    number,
    numbers,
    program,
    records_of,
    safetensors_file,
    state,
    storage,
    tensor,
    text,
    zipped,
)

SECRET = "KOEMORPH_TEST_SECRET"
TEN_GB = 10**10
RED = "\x1b[31m\x1b]0;owned\x07"  # colours what follows, and renames the window
Maker = Callable[[Path, Path], Path]


class Calls:
    """What an ordinary unpickler replaces by the result of a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call

    def __call__(self) -> None:
        """Be what can be called: the result of the call may be, and a pickle asks first."""


class HostileModel(nn.Linear):
    """A network that runs a command when it is unpickled as a whole."""

    def __init__(self, proof: Path) -> None:
        super().__init__(3, 2)
        self.proof = proof

    def __setstate__(self, state: dict[str, Any]) -> None:
        os.system(command(state["proof"]))


def command(proof: Path) -> str:
    """Return a command of the shell that tells the secret."""
    return f'printf %s "${SECRET}" > {shlex.quote(str(proof))}'


def source(proof: Path) -> str:
    """Return a Python expression that tells the secret."""
    return f"__import__('pathlib').Path({str(proof)!r}).write_text(__import__('os').environ[{SECRET!r}])"


def model() -> nn.Linear:
    """Return the network that all these files pretend to hold."""
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def objects() -> dict[str, Any]:
    """Return what a resume would fill from such a file."""
    network = model()
    return {"model": network, "optimizer": torch.optim.AdamW(network.parameters())}


def bait() -> dict[str, Any]:
    """Return a checkpoint of this library, as sound as can be."""
    return build(
        objects(),
        epoch=3,
        position=Position(epoch=4, global_step=40),
        metrics={"loss": 0.5},
        best=Best(),
        run={"line": "bait", "parent": None, "saves": 4},
        config={"seed": 1},
    )


def torch_file(path: Path, content: Any, **options: Any) -> Path:
    """Write a file as torch.save does."""
    torch.save(content, path, **options)
    return path


LAUGHS = b")q\x00" + b"h\x00h\x00\x87q\x00" * 60  # 3 ** 60 times (), in 400 bytes


# ------------------------------------------------------------------------------------------------------ code that runs


def os_system(folder: Path, proof: Path) -> Path:
    """A command of the shell among the states."""
    return torch_file(folder / "os_system.pth", bait() | {"extra": Calls(os.system, command(proof))})


def evaluated_text(folder: Path, proof: Path) -> Path:
    """A Python expression, evaluated."""
    return torch_file(folder / "eval.pth", bait() | {"extra": Calls(eval, source(proof))})


def executed_text(folder: Path, proof: Path) -> Path:
    """Python statements, executed."""
    return torch_file(folder / "exec.pth", bait() | {"extra": Calls(exec, source(proof))})


def functools_partial(folder: Path, proof: Path) -> Path:
    """A call prepared by functools.partial, so that what is called is not what the file names last."""
    return torch_file(folder / "partial.pth", bait() | {"extra": Calls(functools.partial(os.system, command(proof)))})


def getattr_chain(folder: Path, proof: Path) -> Path:
    """os.system without its name: __import__ and getattr."""
    system = Calls(getattr, Calls(__import__, "os"), "system")
    return torch_file(folder / "getattr.pth", bait() | {"extra": Calls(system, command(proof))})


def nested_torch_load(folder: Path, proof: Path) -> Path:
    """A call of torch.load on a second file, which is hostile."""
    second = torch_file(folder / "second.bin", Calls(os.system, command(proof)))
    load = functools.partial(torch.load, weights_only=False)
    return torch_file(folder / "nested.pth", bait() | {"extra": Calls(load, str(second))})


def function_of_torch(folder: Path, proof: Path) -> Path:
    """A function of torch itself that hands its text to a shell."""
    from torch.utils.collect_env import run

    return torch_file(folder / "of_torch.pth", bait() | {"extra": Calls(run, command(proof))})


def function_of_numpy(folder: Path, proof: Path) -> Path:
    """A function of numpy's that executes its text; numbers of numpy are harmless, and often there."""
    from numpy.testing._private.utils import runstring

    return torch_file(folder / "of_numpy.pth", bait() | {"metrics": {"loss": Calls(runstring, source(proof), {})}})


def legacy_pickle(folder: Path, proof: Path) -> Path:
    """The format of torch.save before 1.6: five pickles in a row, no zip."""
    content = bait() | {"extra": Calls(os.system, command(proof))}
    return torch_file(folder / "legacy.pth", content, _use_new_zipfile_serialization=False)


def legacy_magic(folder: Path, proof: Path) -> Path:
    """The format before 1.6 whose second pickle, not the one with the states, runs the command."""
    data = io.BytesIO()
    torch.save(bait(), data, _use_new_zipfile_serialization=False)
    magic, version = (pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001))
    assert data.getvalue().startswith(magic + version)
    path = folder / "legacy_magic.pth"
    hostile = pickle.dumps(Calls(os.system, command(proof)), protocol=2)
    path.write_bytes(magic + hostile + data.getvalue().removeprefix(magic + version))
    return path


def plain_pickle(folder: Path, proof: Path) -> Path:
    """A pickle by itself, named .pth."""
    path = folder / "plain.pth"
    path.write_bytes(pickle.dumps({"epoch": 3, "extra": Calls(os.system, command(proof))}))
    return path


def old_tar(folder: Path, proof: Path) -> Path:
    """The format of torch 0.1.1: a tar of pickles."""
    path = folder / "tar.pth"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(Calls(os.system, command(proof)), protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def pickle_among_metrics(folder: Path, proof: Path) -> Path:
    """A command in the place of the loss, which every listing reads."""
    return torch_file(
        folder / "metrics.pth", bait() | {"metrics": {"loss": Calls(os.system, command(proof)), "mae": 0.1}}
    )


def pickle_as_epoch(folder: Path, proof: Path) -> Path:
    """Commands in the place of the epoch, the version and a key."""
    hostile = Calls(os.system, command(proof))
    return torch_file(folder / "epoch.pth", bait() | {"epoch": hostile, "run": {"line": hostile, "saves": hostile}})


def whole_module(folder: Path, proof: Path) -> Path:
    """A network pickled as a whole; its class runs a command when it is put together."""
    return torch_file(folder / "module.pth", HostileModel(proof))


def module_in_state(folder: Path, proof: Path) -> Path:
    """The same network in the place of its state dict."""
    return torch_file(folder / "module_inside.pth", bait() | {"model_state_dict": HostileModel(proof)})


def persistent_call(folder: Path, proof: Path) -> Path:
    """A command where the description of a storage belongs."""
    system = called("os system", text(command(proof)) + b"\x85")
    return archive_file(folder / "persistent.pth", state(tensor(b"(" + text("storage") + system * 4 + b"tQ")))


def torchscript_data(folder: Path, proof: Path) -> Path:
    """A TorchScript archive whose data.pkl is a command."""
    return _torchscript(folder / "script.pt", "data.pkl", pickle.dumps(Calls(os.system, command(proof)), protocol=2))


def torchscript_constants(folder: Path, proof: Path) -> Path:
    """A TorchScript archive whose constants.pkl is a command."""
    hostile = pickle.dumps((Calls(os.system, command(proof)),), protocol=2)
    return _torchscript(folder / "constants.pt", "constants.pkl", hostile)


def _torchscript(path: Path, name: str, data: bytes, **lies: Any) -> Path:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and its files are there all the same
        torch.jit.save(torch.jit.script(model()), file)
    records = records_of(file.getvalue())
    folder = records[0].name.partition("/")[0]
    kept = [record for record in records if record.name != f"{folder}/{name}"]
    path.write_bytes(zipped([Record(f"{folder}/{name}", data, **lies), *kept]))
    return path


def config_interpolation(folder: Path, proof: Path) -> Path:
    """A config that asks OmegaConf for a variable of the environment."""
    asks = f"${{oc.env:{SECRET}}}"
    config = {"seed": 1, "training": {"run_name": asks, "epochs": asks}, "data": asks, "model": {"hidden": asks}}
    return torch_file(folder / "interpolation.pth", bait() | {"config": config, "metadata": {"hostname": asks}})


# --------------------------------------------------------------------------------------------------- zips that deceive


def names_that_climb(folder: Path, proof: Path) -> Path:
    """Records named to be written beside or above the folder, and by an absolute path."""
    records = archive(program(state()))
    climbing = [
        os.path.relpath(proof, folder),
        f"archive/../../{proof.name}",
        str(proof),
        f"archive/data/..\\{proof.name}",
    ]
    path = folder / "climbs.pth"
    path.write_bytes(zipped([*records, *(Record(name, b"it was written") for name in climbing)]))
    return path


def folder_that_climbs(folder: Path, proof: Path) -> Path:
    """All records lie in the folder above."""
    path = folder / "above.pth"
    path.write_bytes(zipped(archive(program(state()), folder="..")))
    return path


def entry_twice(folder: Path, proof: Path) -> Path:
    """Two records data.pkl: a good one, and one that runs a command."""
    good = archive(program(state()))
    path = folder / "twice.pth"
    path.write_bytes(
        zipped([*good, Record("archive/data.pkl", pickle.dumps(Calls(os.system, command(proof)), protocol=2))])
    )
    return path


def storage_twice(folder: Path, proof: Path) -> Path:
    """Two records data/0 with different numbers: which one a program reads is its own affair."""
    path = folder / "storage_twice.pth"
    path.write_bytes(zipped([*archive(program(state())), Record("archive/data/0", struct.pack("<6f", *[9.0] * 6))]))
    return path


def _zeros(size: int) -> dict[str, Any]:
    """Return a stream of 1/1000 of `size` that inflates to zeros, and what a zip says of it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    crc, zeros = 0, bytes(1 << 20)
    for _ in range(size >> 20):
        crc = zlib.crc32(zeros, crc)
    return {"data": block * (size >> 20) + packer.flush(), "size": size, "crc": crc, "method": zipfile.ZIP_DEFLATED}


def zip_bomb(folder: Path, proof: Path) -> Path:
    """A megabyte that unpacks to one gigabyte of weights."""
    bomb = Record("archive/data/0", **_zeros(1 << 30))
    good = [record for record in archive(program(state(tensor(storage("0", 1 << 28))))) if record.name != bomb.name]
    path = folder / "bomb.pth"
    path.write_bytes(zipped([*good, bomb]))
    return path


def header_bomb(folder: Path, proof: Path) -> Path:
    """The header itself unpacks to one gigabyte."""
    path = folder / "header_bomb.pth"
    path.write_bytes(zipped([Record("archive/data.pkl", **_zeros(1 << 30)), *archive(b"")[1:]]))
    return path


def torchscript_bomb(folder: Path, proof: Path) -> Path:
    """A gigabyte in the source code of a TorchScript archive, where a packed record is legal."""
    return _torchscript(folder / "bomb.pt", "code/__torch__/bomb.py", **_zeros(1 << 30))


def torchscript_many_bombs(folder: Path, proof: Path) -> Path:
    """Five gigabytes of source code in twenty records, each of them no longer than it may be."""
    bomb = _zeros(250 << 20)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(model()), file)
    records = records_of(file.getvalue())
    top = records[0].name.partition("/")[0]
    path = folder / "bombs.pt"
    path.write_bytes(zipped([*records, *(Record(f"{top}/code/{number}.py", **bomb) for number in range(20))]))
    return path


def sizes_that_lie(folder: Path, proof: Path) -> Path:
    """A record that says to be 4 GB long, in a file of one kB."""
    records = archive(program(state()))
    path = folder / "lies.pth"
    path.write_bytes(zipped([*records[:-1], Record("archive/data/2", b"", size=2**32 - 2)]))
    return path


# --------------------------------------------------------------------------------------------- safetensors that deceive


def safetensors_endless_header(folder: Path, proof: Path) -> Path:
    """A header of 2 ** 63 bytes."""
    return safetensors_file(folder / "endless.safetensors", {"weight": entry([1], 0, 4)}, bytes(4), length=2**63)


def safetensors_overlap(folder: Path, proof: Path) -> Path:
    """Two tensors that lie one over the other."""
    header = {"weight": entry([2, 3], 0, 24), "bias": entry([2], 20, 28)}
    return safetensors_file(folder / "overlap.safetensors", header, bytes(28))


def safetensors_claim(folder: Path, proof: Path) -> Path:
    """A tensor of 10 GB in a file of 100 bytes."""
    return safetensors_file(folder / "claim.safetensors", {"weight": entry([TEN_GB // 4], 0, TEN_GB)}, bytes(4))


def safetensors_overflow(folder: Path, proof: Path) -> Path:
    """A shape whose product is 2 ** 64 + 4 bytes, so four in 64 bits."""
    header = {"weight": entry([2**31, 2**31, 4], 0, 0), "bias": entry([1], 0, 4)}
    return safetensors_file(folder / "overflow.safetensors", header, bytes(4))


def safetensors_twice(folder: Path, proof: Path) -> Path:
    """One name twice: the readers of the world disagree on which counts."""
    once, twice = (json.dumps({"weight": entry([1], at, at + 4)}).encode() for at in (0, 4))
    header = once[:-1] + b"," + twice[1:]
    return safetensors_file(folder / "twice.safetensors", header, bytes(8))


def safetensors_hole(folder: Path, proof: Path) -> Path:
    """Bytes that belong to no tensor, where a second file can hide."""
    return safetensors_file(folder / "hole.safetensors", {"weight": entry([1], 8, 12)}, b"MZ hides" + bytes(4))


def safetensors_deep(folder: Path, proof: Path) -> Path:
    """A header of a hundred thousand brackets."""
    return safetensors_file(folder / "deep.safetensors", b'{"weight":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


def safetensors_long_number(folder: Path, proof: Path) -> Path:
    """A number of 100,000 digits, which Python refuses to read, as a size and as an offset."""
    digits = b"9" * 100_000
    header = b'{"weight":{"dtype":"F32","shape":[' + digits + b'],"data_offsets":[0,' + digits + b"]}}"
    return safetensors_file(folder / "digits.safetensors", header)


def safetensors_odd_types(folder: Path, proof: Path) -> Path:
    """Values of other types than the format has: true as a size, 1e3 as an offset, a dict as a name of a type."""
    header = {
        "a": entry([True], 0, 4),
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [4.0, 1e3]},
        "c": {"dtype": {}, "shape": None, "data_offsets": {}},
        "d": None,
        "__metadata__": {"format": ["pt"], "x": None},
    }
    return safetensors_file(folder / "odd.safetensors", header, bytes(8))


def safetensors_below_zero(folder: Path, proof: Path) -> Path:
    """Offsets and sizes below zero."""
    header = {"weight": entry([-1, -1], -4, 0), "bias": entry([1], 0, 4)}
    return safetensors_file(folder / "below.safetensors", header, bytes(4))


def safetensors_escapes(folder: Path, proof: Path) -> Path:
    """Names that command the terminal, and half a character, which no terminal can show."""
    header = {f"{RED}\nweight\u202e\ud800": entry([1], 0, 4), "__metadata__": {RED: RED + "\n\ud800"}}
    return safetensors_file(folder / "escapes.safetensors", header, bytes(4))


# ------------------------------------------------------------------------------------------- little that asks for much


def claimed_shape(folder: Path, proof: Path) -> Path:
    """A tensor of 10 GB over a storage of 24 bytes."""
    return archive_file(folder / "shape.pth", state(tensor(shape=(TEN_GB // 4,), stride=(1,))))


def claimed_storage(folder: Path, proof: Path) -> Path:
    """A storage that says to hold 10 GB, and holds 24 bytes."""
    whole = tensor(storage("0", TEN_GB // 4), (TEN_GB // 4,), (1,))
    return archive_file(folder / "storage.pth", state(whole))


def claimed_storage_behind(folder: Path, proof: Path) -> Path:
    """A storage that says to hold 10 GB, and a small tensor in it beyond its bytes: it would show foreign memory."""
    beyond = tensor(storage("0", TEN_GB // 4), (2, 3), (3, 1), offset=1000)
    return archive_file(folder / "behind.pth", state(beyond))


def claimed_offset(folder: Path, proof: Path) -> Path:
    """A tensor that begins behind the end of its storage."""
    return archive_file(folder / "offset.pth", state(tensor(offset=2**62)))


def claimed_stride(folder: Path, proof: Path) -> Path:
    """A tensor whose strides lead far out of its storage."""
    return archive_file(folder / "stride.pth", state(tensor(stride=(2**40, 1))))


def stride_below_zero(folder: Path, proof: Path) -> Path:
    """A tensor that walks backwards out of its storage."""
    return archive_file(folder / "backwards.pth", state(tensor(stride=(-3, -1))))


def expanded_weight(folder: Path, proof: Path) -> Path:
    """One number that is shown ten billion times: legal, and 40 GB as soon as it is copied."""
    return torch_file(folder / "expanded.pth", bait() | {"model_state_dict": {"weight": torch.zeros(1).expand(TEN_GB)}})


def legacy_claim(folder: Path, proof: Path) -> Path:
    """A storage of 10 GB in the format before 1.6, which reserves it before it reads."""
    data = io.BytesIO()
    torch.save({"model_state_dict": {"weight": torch.zeros(3)}}, data, _use_new_zipfile_serialization=False)
    small, huge = b"K\x03Ntq", b"\x8a\x05" + (TEN_GB // 4).to_bytes(5, "little") + b"Ntq"
    assert 1 == data.getvalue().count(small)
    path = folder / "legacy_claim.pth"
    path.write_bytes(data.getvalue().replace(small, huge))
    return path


def bytearray_call(folder: Path, proof: Path) -> Path:
    """bytearray(10 ** 10), which torch.load(weights_only=True) calls as it is told."""
    made = called("builtins bytearray", number(TEN_GB) + b"\x85")
    return archive_file(folder / "bytearray.pth", state(extra=made))


def tensor_call(folder: Path, proof: Path) -> Path:
    """torch.FloatTensor(10 ** 10), which torch.load(weights_only=True) calls as it is told."""
    return archive_file(folder / "float_tensor.pth", state(called("torch FloatTensor", number(TEN_GB) + b"\x85")))


def storage_call(folder: Path, proof: Path) -> Path:
    """torch.storage.UntypedStorage(10 ** 10), which torch.load(weights_only=True) calls as it is told."""
    made = called("torch.storage UntypedStorage", number(TEN_GB) + b"\x85")
    return archive_file(folder / "untyped.pth", state(extra=made))


def sparse_claim(folder: Path, proof: Path) -> Path:
    """A sparse tensor of a billion by a billion numbers, one of which is stored."""
    sparse = torch.sparse_coo_tensor(torch.tensor([[5], [7]]), torch.ones(1), (10**9, 10**9), check_invariants=True)
    return torch_file(folder / "sparse.pth", bait() | {"model_state_dict": {"weight": sparse}})


def slow_codec(folder: Path, proof: Path) -> Path:
    """A text of 90 kB to be encoded by a codec that takes the square of its length."""
    slow = "".join(chr(0x4E00 + i % 20_000) for i in range(30_000))
    made = called("_codecs encode", text(slow) + text("punycode") + b"\x86")
    return archive_file(folder / "codec.pth", state(extra=made))


def memo_index(folder: Path, proof: Path) -> Path:
    """Five bytes that have Python's own unpickler reserve 32 GB."""
    return archive_file(folder / "memo.pth", state(extra=b"K\x01r\xff\xff\xff\x7f"))


def deep_nesting(folder: Path, proof: Path) -> Path:
    """A list in a list, twenty thousand times: deeper than recursion goes."""
    return archive_file(folder / "deep.pth", state(extra=b"]" * 20_000 + b"a" * 19_999))


def deep_states(folder: Path, proof: Path) -> Path:
    """A state dict in a state dict, two thousand times."""
    deep = tensor()
    for _ in range(2000):
        deep = b"}" + text("in") + deep + b"s"
    return archive_file(folder / "deep_states.pth", state(extra=deep, optimizer_state_dict=deep))


def quadratic_texts(folder: Path, proof: Path) -> Path:
    """One text of 100 kB, five thousand times in a list: half a gigabyte as soon as it is written out."""
    many = text("a" * 100_000) + b"q\x00](" + b"h\x00" * 5000 + b"e\x86"
    return archive_file(folder / "quadratic.pth", state(config=many, extra=many))


def all_the_laughs(folder: Path, proof: Path) -> Path:
    """Three times three times three …: 600 bytes that are 3 ** 60 things when they are walked."""
    return archive_file(folder / "laughs.pth", state(config=LAUGHS, metrics=LAUGHS, optimizer_state_dict=LAUGHS))


def laughing_states(folder: Path, proof: Path) -> Path:
    """The same with dicts, and a tensor at the bottom."""
    laughs = tensor() + b"q\x00" + (b"}(" + text("a") + b"h\x00" + text("b") + b"h\x00" + b"u\x86q\x00") * 60
    return archive_file(folder / "laughing.pth", state(ema=laughs, optimizer_state_dict=mapping({"state": laughs})))


def long_names(folder: Path, proof: Path) -> Path:
    """Names of half a megabyte, for tensors that share their bytes, and for a key of the config."""
    long = "a." * 250_000
    body = {"model_state_dict": mapping({f"{long}weight": tensor(), f"{long}bias": tensor()}), long: tensor()}
    return archive_file(
        folder / "names.pth", mapping({"epoch": number(3), **body, "config": mapping({long: text(long)})})
    )


def circle(folder: Path, proof: Path) -> Path:
    """A dict that holds itself."""
    round_and_round = b"}q\x07" + text("again") + b"h\x07s"
    return archive_file(folder / "circle.pth", state(config=round_and_round, optimizer_state_dict=round_and_round))


def long_number(folder: Path, proof: Path) -> Path:
    """A number of five thousand digits, which Python refuses to print, in each place where a number is shown."""
    huge = b"\x8b" + struct.pack("<I", 3000) + b"\x7f" * 3000
    places = dict.fromkeys(("global_step", "config", "extra"), huge)
    best = mapping({"monitor": text("loss"), "mode": text("min"), "value": huge, "epoch": huge})
    return archive_file(
        folder / "digits.pth",
        state(**places, metrics=mapping({"loss": huge}), best=best, metadata=mapping({"timestamp": huge})),
    )


def odd_keys(folder: Path, proof: Path) -> Path:
    """Keys that are not equal to themselves, or to what they look like."""
    nan = b"G" + struct.pack(">d", float("nan"))
    keys = (
        b"}(" + nan + b"K\x01" + nan + b"K\x02" + b"K\x01K\x03" + text("1") + b"K\x04" + b"\x88K\x05" + b"NK\x06" + b"u"
    )
    return archive_file(folder / "keys.pth", state(config=keys, extra=keys, optimizer_state_dict=keys, metrics=keys))


def escapes_in_keys(folder: Path, proof: Path) -> Path:
    """Keys, texts and names that command the terminal."""
    evil = f"{RED}\nforged: line\r\u202e\ud800"
    body = {
        RED: text(evil),
        evil: tensor(),
        "config": mapping({evil: text(evil)}),
        "metrics": mapping({evil: number(1)}),
    }
    more = {"extra": called(f"os {RED}", b")"), "metadata": mapping({"hostname": text(evil), "timestamp": text(evil)})}
    path = folder / "escapes.pth"
    states = mapping({evil: tensor(), "bias": tensor()})
    path.write_bytes(
        zipped(archive(program(mapping({"epoch": number(3), "model_state_dict": states, **body, **more})), folder=RED))
    )
    return path


# ------------------------------------------------------------------------------------------------------ no file at all


def endless_device(folder: Path, proof: Path) -> Path:
    """A link to a device that never ends."""
    path = folder / "zero.pth"
    path.symlink_to("/dev/zero")
    return path


def full_device(folder: Path, proof: Path) -> Path:
    """A link to the device that is always full."""
    path = folder / "full.pth"
    path.symlink_to("/dev/full")
    return path


def named_pipe(folder: Path, proof: Path) -> Path:
    """A pipe into which nobody ever writes."""
    path = folder / "pipe.pth"
    os.mkfifo(path)
    return path


def unix_socket(folder: Path, proof: Path) -> Path:
    """A socket."""
    path = folder / "socket.pth"
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(folder)  # the name of a socket may have a hundred characters
        try:
            listening.bind(path.name)
        finally:
            os.chdir(here)
    return path


def link_to_itself(folder: Path, proof: Path) -> Path:
    """A link that leads to itself."""
    path = folder / "loop.pth"
    path.symlink_to(path.name)
    return path


def file_of_proc(folder: Path, proof: Path) -> Path:
    """A file without a size that is not empty: of the kernel's."""
    path = folder / "proc.pth"
    path.symlink_to("/proc/self/environ")
    return path


# ------------------------------------------------------------------------------ one file, two readers, two contents


def pickle_before_zip(folder: Path, proof: Path) -> Path:
    """A zip in the eyes of who looks at its end, a pickle that runs a command in the eyes of who looks at its start."""
    path = folder / "polyglot.pth"
    hostile = pickle.dumps(Calls(os.system, command(proof)), protocol=2)
    path.write_bytes(zipped(archive(program(state())), before=hostile))
    return path


def legacy_before_zip(folder: Path, proof: Path) -> Path:
    """A file of torch.save before 1.6, then a zip: torch reads the first, zipfile the second."""
    old = io.BytesIO()
    other = {"epoch": 9, "model_state_dict": {"weight": torch.full((2, 3), 9.0), "bias": torch.zeros(2)}}
    torch.save(other, old, _use_new_zipfile_serialization=False)
    path = folder / "legacy_before.pth"
    path.write_bytes(zipped(archive(program(state())), before=old.getvalue()))
    return path


def zip_after_zip(folder: Path, proof: Path) -> Path:
    """Two zips, one after the other."""
    path = folder / "two_zips.pth"
    first = zipped(archive(program(state()), {"0": struct.pack("<6f", *[9.0] * 6), "1": bytes(8)}))
    path.write_bytes(first + zipped(archive(program(state()))))
    return path


def two_directories(folder: Path, proof: Path) -> Path:
    """Two directories of one zip: one right before the end, one where the end says that it is."""
    shown = zipped(archive(program(state())))
    hidden = zipped(archive(program(state()), {"0": struct.pack("<6f", *[9.0] * 6), "1": bytes(8)}))
    end = bytearray(shown[-22:])
    at = struct.unpack_from("<L", hidden, len(hidden) - 6)[0]  # the directory of the hidden one, from the file's start
    end[16:20] = struct.pack("<L", at)
    path = folder / "directories.pth"
    path.write_bytes(hidden[:-22] + shown[:-22] + bytes(end))
    return path


def two_cases(folder: Path, proof: Path) -> Path:
    """data.pkl and DATA.PKL: torch looks for names without regard to case."""
    other = mapping(
        {"epoch": number(9), "model_state_dict": mapping({"weight": tensor(offset=3, shape=(3,), stride=(1,))})}
    )
    path = folder / "cases.pth"
    records = archive(program(state()))
    path.write_bytes(zipped([Record("archive/DATA.PKL", program(other)), *records]))
    return path


def two_cases_reversed(folder: Path, proof: Path) -> Path:
    """The same, in the other order, and for the numbers too."""
    other = state(tensor(offset=3, shape=(3,), stride=(1,)))
    path = folder / "cases_reversed.pth"
    nines = Record("archive/DATA/0", struct.pack("<6f", *[9.0] * 6))
    path.write_bytes(zipped([*archive(program(state())), nines, Record("archive/DATA.PKL", program(other))]))
    return path


def script_by_one_record(folder: Path, proof: Path) -> Path:
    """A record constants.pkl beside the rest, by which torch knows an archive of TorchScript."""
    path = folder / "constants.pth"
    path.write_bytes(zipped([*archive(program(state())), Record("archive/constants.pkl", program(b")"))]))
    return path


def two_folders(folder: Path, proof: Path) -> Path:
    """The folder of the first record, in which torch looks, is not the one with the header."""
    path = folder / "folders.pth"
    path.write_bytes(zipped([Record("other/version", b"3\n"), *archive(program(state()))]))
    return path


def rebuilt_tensor(folder: Path, proof: Path) -> Path:
    """A tensor that is made of one storage and then, as its attributes are set, of another."""
    moved = b"(" + storage("1", 2) + number(0) + numbers([2]) + numbers([1]) + b"t"
    return archive_file(folder / "rebuilt.pth", state(tensor() + moved + b"b"))


def one_storage_two_types(folder: Path, proof: Path) -> Path:
    """One storage described twice, as floats and as whole numbers: for torch the first description counts."""
    body = state(tensor(), extra=tensor(storage("0", 6, "torch IntStorage")))
    return archive_file(folder / "types.pth", body)


def one_storage_two_sizes(folder: Path, proof: Path) -> Path:
    """One storage described twice, first shorter than it is."""
    return archive_file(
        folder / "two_sizes.pth", state(tensor(storage("0", 2), (2,), (1,)), extra=tensor(storage("0", 6)))
    )


def other_byte_order(folder: Path, proof: Path) -> Path:
    """Numbers whose bytes stand the other way round, which one record says and torch turns."""
    path = folder / "byteorder.pth"
    swapped = archive(program(state()), {"0": struct.pack(">6f", *range(6)), "1": struct.pack(">2f", 6, 7)})
    path.write_bytes(zipped([Record(r.name, b"big") if r.name.endswith("byteorder") else r for r in swapped]))
    return path


def made_without_init(folder: Path, proof: Path) -> Path:
    """A Counter made by __new__, which does not look at what it is given."""
    made = b"ccollections\nCounter\n}" + text("a") + b"K\x05s\x85\x81"
    return archive_file(folder / "without_init.pth", state(extra=made))


def ordered_by_call(folder: Path, proof: Path) -> Path:
    """A state dict that is handed to OrderedDict as pairs, so that no key is ever set."""
    pairs = b"](" + text("weight") + tensor() + b"\x86" + text("bias") + tensor(storage("1", 2), (2,), (1,)) + b"\x86e"
    states = called("collections OrderedDict", pairs + b"\x85")
    return archive_file(folder / "pairs.pth", mapping({"epoch": number(3), "model_state_dict": states, "config": b"}"}))


def another_codec(folder: Path, proof: Path) -> Path:
    """Bytes stored as text that is to be encoded by another codec than usual."""
    made = called("_codecs encode", text("ab") + text("utf-16") + b"\x86")
    return archive_file(folder / "utf16.pth", state(extra=made))


def unknown_codec(folder: Path, proof: Path) -> Path:
    """Bytes stored as text that is to be encoded by a codec that nobody has."""
    made = called("_codecs encode", text("ab") + text("latn1") + b"\x86")
    return archive_file(folder / "latn1.pth", state(extra=made))


def version_of_many_digits(folder: Path, proof: Path) -> Path:
    """A record version that is no number of 64 bits, though its checksum is right."""
    path = folder / "version.pth"
    path.write_bytes(zipped([*archive(program(state()))[:-1], Record("archive/version", b"9" * 30)]))
    return path


# ------------------------------------------------------------------------------------------------ what is compressed


def recipes_gzip(folder: Path, proof: Path) -> Path:
    """gzip.open and pickle.dump, as the recipe does it: whoever opens it runs the command."""
    path = folder / "recipe.pth.gz"
    with gzip.open(path, "wb") as file:
        pickle.dump(bait() | {"extra": Calls(os.system, command(proof))}, file)
    return path


def recipes_zstd(folder: Path, proof: Path) -> Path:
    """The same by zstd."""
    path = folder / "recipe.pth.zst"
    path.write_bytes(zstd().compress(pickle.dumps(bait() | {"extra": Calls(os.system, command(proof))})))
    return path


def hostile_in_gzip(folder: Path, proof: Path) -> Path:
    """A command of the shell among the states of a checkpoint, and gzip around it."""
    return _compressed(os_system, proof, folder / "hostile.pth.gz", "gzip")


def legacy_in_zstd(folder: Path, proof: Path) -> Path:
    """The format before 1.6 with a command in it, and zstd around it."""
    return _compressed(legacy_pickle, proof, folder / "legacy.pth.zst", "zstd")


def hostile_in_planes(folder: Path, proof: Path) -> Path:
    """A command in the place of the loss, which every listing reads; in the header of a file of shuffle-zstd."""
    return _compressed(pickle_among_metrics, proof, folder / "hostile.shuffle.pth", "shuffle-zstd")


def _compressed(make: Maker, proof: Path, target: Path, codec: Codec) -> Path:
    with tempfile.TemporaryDirectory() as elsewhere:
        data = make(Path(elsewhere), proof).read_bytes()
    begin = data.index(b"\x80\x02")
    header = Piece(offset=begin, size=data.index(b"PK\x07\x08") - begin, width=1) if codec == "shuffle-zstd" else None
    with target.open("wb") as packed:
        pack(io.BytesIO(data), packed, codec, pickle=header)
    return target


def gzip_bomb(folder: Path, proof: Path) -> Path:
    """Four megabytes that gunzip makes four gigabytes of."""
    zeros = _zeros(1 << 32)
    path = folder / "bomb.pth.gz"
    path.write_bytes(b"\x1f\x8b\x08" + bytes(7) + zeros["data"] + struct.pack("<2L", zeros["crc"], 0))
    return path


def zstd_bomb(folder: Path, proof: Path) -> Path:
    """A hundred kilobytes that say to be 30 GB and are, behind the beginning of a good checkpoint."""
    return _zstd_frame(folder / "bomb.pth.zst", zipped(archive(program(state()))), claim=3 * TEN_GB, zeros=3 * TEN_GB)


def zstd_lie(folder: Path, proof: Path) -> Path:
    """A frame that says to hold 900 bytes, and holds 2 GB."""
    return _zstd_frame(folder / "lie.pth.zst", zipped(archive(program(state()))), claim=900, zeros=1 << 31)


def _zstd_frame(path: Path, start: bytes, claim: int, zeros: int) -> Path:
    """Write a frame of one block as it is, and of one byte again and again: RFC 8878, 3.1.1."""
    most = 1 << 17  # bytes of a block
    body = (len(start) << 3).to_bytes(3, "little") + start
    body += ((most << 3 | 1 << 1).to_bytes(3, "little") + b"\0") * (zeros // most)
    body += (1).to_bytes(3, "little")  # the last one, of nothing
    # A size of eight bytes, no checksum, a window of a megabyte.
    path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes([0xC0, 10 << 3]) + struct.pack("<Q", claim) + body)
    return path


def planes_that_claim(folder: Path, proof: Path) -> Path:
    """An index of shuffle-zstd that says the .pth has 900 MB, in a file of one kilobyte."""
    return _planes(folder / "claim.shuffle.pth", 900_000_000, [[0, 900_000_000, 4]])


def planes_beyond_all(folder: Path, proof: Path) -> Path:
    """One that says 10 ** 30 bytes."""
    return _planes(folder / "beyond.shuffle.pth", 10**30, [])


def planes_that_overlap(folder: Path, proof: Path) -> Path:
    """Numbers that lie one over the other, before the beginning and behind the end."""
    return _planes(folder / "overlap.shuffle.pth", 100, [[0, 64, 4], [32, 64, 4], [-8, 8, 4], [96, 64, 4]])


def planes_without_end(folder: Path, proof: Path) -> Path:
    """An index of a hundred thousand brackets."""
    raw = b'{"version":1,"size":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    return _planes(folder / "deep.shuffle.pth", 0, [], raw=raw)


def planes_that_climb(folder: Path, proof: Path) -> Path:
    """A record behind the others, named to be written above the folder."""
    return _planes(folder / "climb.shuffle.pth", 100, [], more=[f"../../{proof.name}"])


def _planes(path: Path, size: int, pieces: list[Any], raw: bytes | None = None, more: Sequence[str] = ()) -> Path:
    """Write a file of shuffle-zstd whose checksums are all right, whatever its index says."""
    index = {"version": 1, "size": size, "pickle": [0, 9], "pieces": pieces}
    with path.open("wb") as file:
        records = Records(file)
        records.write("index", json.dumps(index, separators=(",", ":")).encode() if raw is None else raw)
        records.write("header", zstd().compress(program(state())[:9]))
        for name in more:
            records.write(name, b"it was written")
        file.write(records.end())
    return path


def gzip_of_noise(folder: Path, proof: Path) -> Path:
    """Random bytes, well packed."""
    path = folder / "noise.pth.gz"
    path.write_bytes(gzip.compress(random.Random(0).randbytes(9999)))
    return path


def gzip_in_gzip(folder: Path, proof: Path) -> Path:
    """A good checkpoint, packed twice."""
    path = folder / "twice.pth.gz"
    path.write_bytes(gzip.compress(gzip.compress(zipped(archive(program(state()))))))
    return path


def two_members(folder: Path, proof: Path) -> Path:
    """Two checkpoints in one file: gunzip gives both, other programs the first."""
    path = folder / "members.pth.gz"
    data = zipped(archive(program(state())))
    path.write_bytes(gzip.compress(data) + gzip.compress(data))
    return path


def gzip_with_a_name(folder: Path, proof: Path) -> Path:
    """A good checkpoint under a name, inside of the file, that commands the terminal and leads out of the folder."""
    path = folder / "named.pth.gz"
    data = zipped(archive(program(state())))
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = packer.compress(data) + packer.flush()
    name = f"../../{proof.name}{RED}".encode() + b"\0"
    path.write_bytes(b"\x1f\x8b\x08\x08" + bytes(6) + name + body + struct.pack("<2L", zlib.crc32(data), len(data)))
    return path


def compressed_named_plain(folder: Path, proof: Path) -> Path:
    """A good compressed checkpoint that says by its name that it is plain."""
    return _compressed(lambda inside, _: archive_file(inside / "x.pth", state()), proof, folder / "packed.pth", "gzip")


def plain_named_compressed(folder: Path, proof: Path) -> Path:
    """And a plain one that says that it is compressed."""
    return archive_file(folder / "plain.pth.gz", state())


RUNS: tuple[Maker, ...] = (  # code, as soon as an ordinary unpickler opens them
    *(os_system, evaluated_text, executed_text, functools_partial, getattr_chain, nested_torch_load),
    *(function_of_torch, function_of_numpy, legacy_pickle, legacy_magic, plain_pickle, old_tar, pickle_among_metrics),
    *(pickle_as_epoch, whole_module, module_in_state, persistent_call, pickle_before_zip),
)
HIDES: tuple[Maker, ...] = (torchscript_data, torchscript_constants, entry_twice)  # it where torch does not look today
DECEIVES: tuple[Maker, ...] = (
    *(names_that_climb, folder_that_climbs, storage_twice, sizes_that_lie),
    *(safetensors_endless_header, safetensors_overlap, safetensors_claim, safetensors_overflow, safetensors_twice),
    *(safetensors_hole, safetensors_deep, safetensors_long_number, safetensors_odd_types, safetensors_below_zero),
    *(safetensors_escapes, escapes_in_keys),
)
CLAIMS: tuple[Maker, ...] = (  # more than is there
    *(zip_bomb, header_bomb, torchscript_bomb, torchscript_many_bombs, claimed_shape, claimed_storage),
    *(claimed_storage_behind, claimed_offset, claimed_stride, stride_below_zero, legacy_claim, bytearray_call),
    *(tensor_call, storage_call, slow_codec),
)
LEGAL: tuple[Maker, ...] = (  # torch loads them, and so may anybody who takes care
    *(config_interpolation, odd_keys, expanded_weight, sparse_claim, memo_index, deep_nesting, deep_states),
    *(quadratic_texts, all_the_laughs, laughing_states, long_names, circle, long_number),
)
NO_FILES: tuple[Maker, ...] = (endless_device, full_device, named_pipe, unix_socket, link_to_itself, file_of_proc)
TWO_FACED: tuple[Maker, ...] = (  # what torch reads is not what another reader finds
    *(legacy_before_zip, zip_after_zip, two_directories, two_cases, two_cases_reversed, two_folders),
    *(script_by_one_record, rebuilt_tensor, one_storage_two_types, one_storage_two_sizes, other_byte_order),
    *(made_without_init, ordered_by_call, another_codec, unknown_codec, version_of_many_digits),
)

PACKED_RUNS: tuple[Maker, ...] = (recipes_gzip, recipes_zstd)  # code, as soon as they are unpacked and unpickled
PACKED: tuple[Maker, ...] = (  # in a compressed file what else is refused, and what only a compressed file can do
    *(hostile_in_gzip, legacy_in_zstd, hostile_in_planes, gzip_bomb, zstd_bomb, zstd_lie, planes_that_claim),
    *(planes_beyond_all, planes_that_overlap, planes_without_end, planes_that_climb, gzip_of_noise, gzip_in_gzip),
    *(two_members,),
)
PACKED_LEGAL: tuple[Maker, ...] = (gzip_with_a_name, compressed_named_plain, plain_named_compressed)

KINDS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        *(*RUNS, *HIDES, *DECEIVES, *CLAIMS, *LEGAL, *NO_FILES, *TWO_FACED),
        *(*PACKED_RUNS, *PACKED, *PACKED_LEGAL),
    )
}
