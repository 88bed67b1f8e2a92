"""Numbers read without torch are torch's own, bit by bit; where bytes changed, nothing is read."""

from __future__ import annotations

import re
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from koemorph_tutorial.header import Header, find_misplaced, read_header
from koemorph_tutorial.records import DamagedCheckpointError, UnsupportedCheckpointError
from koemorph_tutorial.stubs import StorageStub, TensorStub, item_bytes
from koemorph_tutorial.tensors import TensorReader, as_numbers, count_not_finite

REAL = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu"
WHOLE = "int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool"
NAMES = [*REAL.split(), *WHOLE.split(), "complex64", "complex128"]
RARE = ["complex32", "bits8", "bits16", "float4_e2m1fn_x2"]  # torch can save them and do little else
UNKNOWN_TO_SAFETENSORS = {"complex128"}
TO_FLOAT = ("float16", "bfloat16", "float8")

TEMPORARY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def tensor_of(dtype: str, data: bytes) -> torch.Tensor:
    """Return a tensor of one axis whose bytes are `data`: every NaN, infinity and denormal there is."""
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8).clone() if data else torch.zeros(0, dtype=torch.uint8)
    return (raw & 1 if dtype == "bool" else raw).view(getattr(torch, dtype))


def bits(tensor: torch.Tensor) -> bytes:
    """Return the numbers of a tensor, in their order, as bytes."""
    tensor = tensor.resolve_conj().resolve_neg()
    if not tensor.numel():
        return b""
    return tensor.contiguous().as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().tobytes()


@st.composite
def views(draw: st.DrawFn, names: list[str] = NAMES) -> dict[str, torch.Tensor]:
    """Draw tensors, some of which share their bytes: slices, transposed, expanded, of no axis and of no number."""
    tensors: dict[str, torch.Tensor] = {}
    for number in range(draw(st.integers(1, 3))):
        dtype = draw(st.sampled_from(names))
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        size = int(np.prod(shape)) * getattr(torch, dtype).itemsize
        whole = tensor_of(dtype, draw(st.binary(min_size=size, max_size=size))).reshape(shape)
        tensors[f"whole{number}"] = whole
        for step in range(draw(st.integers(0, 2))):
            view = whole
            for axis in range(view.dim()):
                begin, stride = draw(st.integers(0, view.shape[axis])), draw(st.integers(1, 3))
                view = view[(slice(None),) * axis + (slice(begin, None, stride),)]
            view = view.permute(draw(st.permutations(range(view.dim()))))
            if draw(st.booleans()):
                view = view.unsqueeze(0).expand(draw(st.integers(1, 3)), *view.shape)
            tensors[f"view{number}.{step}"] = view
    return tensors


# ------------------------------------------------------------------------------------------------------- four formats


def save_zip(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    torch.save(dict(tensors), path)


def save_legacy(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    torch.save(dict(tensors), path, _use_new_zipfile_serialization=False)


class Holder(nn.Module):
    """Holds tensors, and does nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def save_script(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    holder = Holder()
    for name, tensor in tensors.items():
        holder.register_buffer(name.replace(".", "_"), tensor)
    with warnings.catch_warnings(action="ignore"):  # torch.jit is deprecated, and its files are there all the same
        torch.jit.save(torch.jit.script(holder), str(path))


def stubs_of(header: Header) -> dict[str, TensorStub]:
    return {
        name.replace("_", ".") if header.kind == "torchscript" else name: stub
        for name, stub in header.content.items()
        if isinstance(stub, TensorStub)
    }


def is_plain(stub: TensorStub) -> bool:
    """Say whether each of its numbers is there once."""
    return all(size <= 1 or step for size, step in zip(stub.shape, stub.stride, strict=True))


def check_all(tensors: Mapping[str, torch.Tensor], path: Path) -> Header:
    header = read_header(path)
    assert [] == list(find_misplaced(header))
    stubs = stubs_of(header)
    assert list(tensors) == list(stubs)
    with TensorReader(path, header) as reader:
        for name, tensor in tensors.items():
            stub, dtype = stubs[name], str(tensor.dtype).removeprefix("torch.")
            array = reader.read(stub)
            assert (dtype, tuple(tensor.shape), bits(tensor)) == (stub.dtype, array.shape, array.tobytes()), name
            assert array.itemsize == tensor.element_size()
            one, flat = array.itemsize, reader.flat(stub)
            expected = sorted(bits(tensor)[at : at + one] for at in range(0, array.nbytes, one))
            found = sorted(number.tobytes() for number in flat)
            assert expected == found if is_plain(stub) else set(expected) <= set(found), name
            assert flat.size <= stub.storage.bytes // one
            check_numbers(array, tensor, dtype)
    return header


def check_numbers(array: Any, tensor: torch.Tensor, dtype: str) -> None:
    numbers = as_numbers(array, dtype)
    assert tuple(tensor.shape) == numbers.shape
    if dtype.startswith(TO_FLOAT):
        assert np.float32 == numbers.dtype
        assert np.array_equal(tensor.float().numpy(), numbers, equal_nan=True)
    else:
        assert dtype == numbers.dtype.name
        assert bits(tensor) == numbers.tobytes()
    if dtype in REAL.split():
        double = tensor.double()
        counted = int(double.isnan().sum()), int(double.isinf().sum()), int(bool(double[double.isfinite()].any()))
        nan, infinite, rest = count_not_finite([array.reshape(-1)], dtype)
        assert counted == (nan, infinite, min(rest, 1))


@pytest.mark.parametrize("save", [save_zip, save_legacy])
@TEMPORARY
@given(tensors=views())
def test_what_is_read_is_what_torch_saved(
    tmp_path: Path, save: Callable[[Mapping[str, torch.Tensor], Path], None], tensors: dict[str, torch.Tensor]
) -> None:
    """Tensors of every dtype and any view, several in one storage: the same bits, shapes and numbers."""
    path = tmp_path / "model.pth"
    save(tensors, path)
    if save is save_zip or b"UntypedStorage" not in path.read_bytes():  # which torch writes in the old format, for ever
        loaded = torch.load(path, weights_only=True)
        assert {name: bits(value) for name, value in tensors.items()} == {n: bits(value) for n, value in loaded.items()}
    check_all(tensors, path)


@settings(TEMPORARY, max_examples=25)
@given(tensors=views())
def test_what_is_read_is_what_a_script_holds(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Buffers of a TorchScript archive, whose storages have names of their own for the newer dtypes."""
    path = tmp_path / "model.pt"
    save_script(tensors, path)
    assert "torchscript" == check_all(tensors, path).kind


@TEMPORARY
@given(tensors=views([name for name in NAMES if name not in UNKNOWN_TO_SAFETENSORS]))
def test_what_is_read_is_what_safetensors_saved(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """It knows no views: each tensor has bytes of its own."""
    path = tmp_path / "model.safetensors"
    whole = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    safetensors.torch.save_file(whole, path)
    again = safetensors.torch.load_file(path)
    header = read_header(path)
    with TensorReader(path, header) as reader:
        for name, tensor in whole.items():
            array = reader.read(header.content[name])
            assert (bits(tensor), bits(again[name])) == (array.tobytes(), array.tobytes())
            check_numbers(array, tensor, str(tensor.dtype).removeprefix("torch."))


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_script])
@pytest.mark.parametrize("name", RARE)
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_rare_dtypes_are_read_bit_by_bit(
    tmp_path: Path, name: str, save: Callable[[Mapping[str, torch.Tensor], Path], None]
) -> None:
    """Halves of a byte, packed bits, complex numbers of two halves: as whole numbers of the same size."""
    path = tmp_path / "model.pth"
    whole = tensor_of(name, bytes(range(48)))
    save({"whole": whole, "part": whole[3:9:2]}, path)
    header = read_header(path)
    assert [] == list(find_misplaced(header))
    with TensorReader(path, header) as reader:
        arrays = [reader.read(stub) for stub in stubs_of(header).values()]
    assert [bits(whole), bits(whole[3:9:2])] == [array.tobytes() for array in arrays]


def test_a_complex_number_of_two_halves_is_one_of_two_floats() -> None:
    """Infinities and NaN in one half do not touch the other."""
    halves = np.array([[1.5, -2], [np.inf, 0], [0, np.nan]], np.float16)
    expected = halves.astype(np.float32).view(np.complex64)[:, 0]
    found = as_numbers(halves.view(np.uint32)[:, 0], "complex32")
    assert np.array_equal(expected.view(np.float32), found.view(np.float32), equal_nan=True)
    assert (1, 1, 1) == count_not_finite([halves.view(np.uint32)[:, 0]], "complex32")
    assert () == as_numbers(np.array(7, np.uint32), "complex32").shape


@pytest.mark.parametrize("save", [save_zip, save_legacy, save_script])
@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda: tensor_of("complex64", bytes(range(64))).conj()[1::2], id="conjugate"),
        pytest.param(lambda: tensor_of("complex128", bytes(range(64))).conj().expand(2, 4).T, id="expanded"),
        pytest.param(lambda: tensor_of("complex64", bytes(range(64))).conj().imag, id="negative"),
        pytest.param(lambda: torch._neg_view(torch.tensor(3)), id="without an axis"),
        pytest.param(lambda: torch._neg_view(torch.tensor([1 + 2j])).conj(), id="both"),
    ],
)
def test_what_torch_does_lazily_is_done(
    tmp_path: Path, view: Callable[[], torch.Tensor], save: Callable[[Mapping[str, torch.Tensor], Path], None]
) -> None:
    """A conjugate view has the bytes of the other one, and a mark: read without it the numbers would be others."""
    path = tmp_path / "model.pth"
    save({"whole": view()}, path)
    header = read_header(path)
    with TensorReader(path, header) as reader:
        found = reader.read(header.content["whole"])
    assert (bits(view()), tuple(view().shape)) == (found.tobytes(), found.shape)


def test_a_mark_needs_no_more_memory_than_the_storage(tmp_path: Path) -> None:
    """One number shown ten billion times and marked as conjugate: 80 GB where it is copied first."""
    path = tmp_path / "model.pth"
    torch.save(torch.zeros(1, dtype=torch.complex64).expand(10**10).conj(), path)
    header = read_header(path)
    tracemalloc.start()
    with TensorReader(path, header) as reader:
        assert (10**10,) == reader.read(header.content).shape
        assert 1 == reader.flat(header.content).size
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_mark_that_numpy_cannot_follow_is_refused(tmp_path: Path) -> None:
    """The numbers of a bfloat16 come as whole ones, whose negative would be something else."""
    path = tmp_path / "model.pth"
    torch.save(torch._neg_view(torch.ones(2, dtype=torch.bfloat16)), path)
    header = read_header(path)
    message = f"{path}: a tensor of the dtype 'bfloat16' marked as neg"
    with TensorReader(path, header) as reader, pytest.raises(UnsupportedCheckpointError, match=re.escape(message)):
        reader.read(header.content)


# --------------------------------------------------------------------------------------------------- bytes that changed


def first_byte(path: Path, record: str) -> int:
    """Return where in the file the bytes of a record begin."""
    data = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        at = file.getinfo(record).header_offset
    name, extra = (int.from_bytes(data[at + place : at + place + 2], "little") for place in (26, 28))
    return at + 30 + name + extra


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


@pytest.mark.parametrize("save", [save_zip, save_script])
@settings(TEMPORARY, max_examples=25)
@given(data=st.data())
def test_a_flipped_bit_is_found_in_its_storage_and_only_there(
    tmp_path: Path, save: Callable[[Mapping[str, torch.Tensor], Path], None], data: st.DataObject
) -> None:
    """Every tensor of that storage is refused, with the file and the record; every other one is read as before."""
    path = tmp_path / "model.pth"
    tensors = {f"whole{n}": tensor_of("int16", bytes(range(n, n + 8))) for n in range(3)}
    tensors["view1.0"] = tensors["whole1"][1:2]
    save(tensors, path)
    header = read_header(path)
    key = data.draw(st.sampled_from(sorted({stub.storage.key for stub in stubs_of(header).values()})))
    place = header.places[key]
    flip(path, first_byte(path, place.record) * 8 + data.draw(st.integers(0, place.size * 8 - 1)))
    message = rf"^{re.escape(f'{path}: record {place.record!r} is damaged: expected CRC32 {place.crc:08x}, found ')}"
    with TensorReader(path, header) as reader:
        for name, stub in stubs_of(header).items():
            if stub.storage.key == key:
                for read in (reader.read, reader.flat):
                    with pytest.raises(DamagedCheckpointError, match=message):
                        read(stub)
            else:
                assert bits(tensors[name]) == reader.read(stub).tobytes()
    with TensorReader(path, header, check=False) as reader:  # as who has checked every byte a moment ago
        assert all(tensor.nbytes == reader.read(stubs_of(header)[name]).nbytes for name, tensor in tensors.items())


def test_a_storage_larger_than_its_view_counts_as_a_whole(tmp_path: Path) -> None:
    """The checksum is one of all bytes: a changed one that the view does not show is damage as well."""
    path = tmp_path / "model.pth"
    torch.save(torch.arange(1000)[500:502], path)
    header = read_header(path)
    stub = header.content
    with TensorReader(path, header) as reader:
        assert [500, 501] == reader.read(stub).tolist() == reader.flat(stub).tolist()
        assert list(range(1000)) == np.concatenate(list(reader.blocks(stub))).tolist()
    flip(path, first_byte(path, "model/data/0") * 8)
    with TensorReader(path, header) as reader, pytest.raises(DamagedCheckpointError, match="record 'model/data/0'"):
        reader.read(stub)


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_a_file_that_became_shorter_since_is_refused(
    tmp_path: Path, save: Callable[[Mapping[str, torch.Tensor], Path], None]
) -> None:
    """Its header was read from a whole one; every length gives numbers or one line."""
    path = tmp_path / "model.pth"
    save({"weight": torch.arange(20)}, path)
    header = read_header(path)
    data = path.read_bytes()
    start = 64 if save is save_zip else header.places[header.content["weight"].storage.key].offset
    said = set()
    for length in range(start, len(data), 5):
        path.write_bytes(data[:length])
        with TensorReader(path, header) as reader:
            try:
                said.add(str(reader.read(header.content["weight"]).tolist()))
            except DamagedCheckpointError as error:
                said.add(str(error).replace(f"{path}: ", "", 1))
    said.discard(str(list(range(20))))
    assert all(re.fullmatch("(record .*: )?expected .*, found .*", text) for text in said), said


# --------------------------------------------------------------------------------------------- what a header may claim


@pytest.fixture
def five(tmp_path: Path) -> tuple[Path, Header]:
    """Five numbers in a file."""
    path = tmp_path / "model.pth"
    torch.save(torch.arange(5, dtype=torch.float32), path)
    return path, read_header(path)


FIVE = StorageStub("0", "float32", 5)


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ((6,), (1,), 0),
        ((5,), (1,), 1),
        ((2, 2), (4, 1), 0),
        ((1,), (1,), 5),
        ((1,), (1,), 2**62),
        ((), (), 2**63 - 1),
        ((2,), (2**63 - 1,), 0),
        ((2**32 + 1,), (2**32,), 0),  # 2 ** 64 elements on: none, in 64 bits
        ((2**62, 2**62), (1, 1), 0),
        ((2,) * 64, (2**58,) * 64, 0),
    ],
)
def test_a_tensor_outside_of_its_storage_is_refused(
    five: tuple[Path, Header], shape: tuple[int, ...], stride: tuple[int, ...], offset: int
) -> None:
    """By shape, by stride, by offset, and by sums that wrap around in 64 bits."""
    path, header = five
    stub = TensorStub(shape, "float32", FIVE, offset, stride)
    assert [("the tensor", stub.misplaced(20))] == list(find_misplaced(replace(header, content=stub)))
    message = rf"^{re.escape(f'{path}: ')}expected the bytes of a tensor, found one that ends at byte [\d,]+ of 20; use"
    with TensorReader(path, header) as reader:
        for read in (reader.flat, reader.read):
            with pytest.raises((DamagedCheckpointError, UnsupportedCheckpointError)):
                read(stub)
        with pytest.raises(DamagedCheckpointError, match=message):
            reader.flat(stub)


def test_a_tensor_without_a_record_is_refused(five: tuple[Path, Header]) -> None:
    """It names a storage that the file does not have, or one of another size."""
    path, header = five
    for storage, found in (
        (StorageStub("1", "float32", 5), "found no record '1'"),
        (StorageStub("0", "float32", 6), "found 20 bytes in record '0' where it says 24"),
        (StorageStub("\n" * 50, "float32", 5), r"found no record '\\n\\n"),
    ):
        stub = TensorStub((1,), "float32", storage, 0, (1,))
        with TensorReader(path, header) as reader, pytest.raises(DamagedCheckpointError) as caught:
            reader.read(stub)
        assert str(caught.value).startswith(f"{path}: expected the bytes of a tensor, {found}")
        assert 1 == len(str(caught.value).splitlines())


@pytest.mark.parametrize(
    "dtype", ["dream", "float8_evil", "float9", "float123456", "Float32", "x" + "9" * 5000, "int٣٢", "\n" * 99, ""]
)
def test_a_dtype_that_nobody_knows_is_refused(five: tuple[Path, Header], dtype: str) -> None:
    """Whatever digits are in its name; it is one line, and not damage."""
    path, header = five
    assert 0 == item_bytes(dtype)
    stub = TensorStub((5,), dtype, FIVE, 0, (1,))
    for asked in (stub, replace(stub, shape=(0,))):
        with TensorReader(path, header) as reader, pytest.raises(UnsupportedCheckpointError) as caught:
            reader.read(asked)
        assert str(caught.value).startswith(f"{path}: a tensor of the dtype ")
        assert 1 == len(str(caught.value).splitlines())
    unknown = TensorStub((5,), dtype, StorageStub("0", dtype, 5), 0, (1,))
    assert "" == unknown.misplaced(20)  # of a newer torch, perhaps, and whole


@pytest.mark.parametrize("shape", [(2**40, 2**40), (2**62,), (2**61, 0), (0, 2**62, 2**62)])
def test_more_numbers_than_numpy_can_count_are_refused(five: tuple[Path, Header], shape: tuple[int, ...]) -> None:
    """All of them one number, or none: legal for the file, too many for an array."""
    path, header = five
    stub = TensorStub(shape, "float32", FIVE, 0, (0,) * len(shape))
    message = rf"^{re.escape(f'{path}: a tensor of more numbers than numpy can count')}$"
    with TensorReader(path, header) as reader:
        with pytest.raises(UnsupportedCheckpointError, match=message):
            reader.read(stub)
        assert reader.flat(stub).size == min(stub.numbers, 1)


def test_the_step_along_an_axis_of_one_number_may_be_any(five: tuple[Path, Header]) -> None:
    """It leads nowhere, so no number of bytes is made of it."""
    path, header = five
    with TensorReader(path, header) as reader:
        stub = TensorStub((1, 3, 1), "float32", FIVE, 1, (2**62, 1, 2**63 - 1))
        assert [[[1.0], [2.0], [3.0]]] == reader.read(stub).tolist()


def test_an_empty_tensor_has_no_numbers_wherever_it_lies(five: tuple[Path, Header]) -> None:
    """Not those behind its offset either."""
    path, header = five
    with TensorReader(path, header) as reader:
        for offset in (0, 3, 5, 6, 2**62):
            stub = TensorStub((0, 7), "float32", FIVE, offset, (7, 1))
            assert (0, (0, 7), "float32") == (reader.flat(stub).size, reader.read(stub).shape, reader.read(stub).dtype)


def test_what_was_read_cannot_be_changed_and_does_not_change(tmp_path: Path) -> None:
    """It is a view of the storage, of which another tensor may be a view too."""
    path = tmp_path / "model.pth"
    whole = torch.arange(6)
    torch.save({"a": whole, "b": whole[2:], "c": torch.zeros(4)}, path)
    header = read_header(path)
    with TensorReader(path, header) as reader:
        first = reader.read(header.content["a"])
        with pytest.raises(ValueError, match="read-only"):
            first[0] = 7
        reader.read(header.content["c"])
        assert [2, 3, 4, 5] == reader.read(header.content["b"]).tolist()
    assert list(range(6)) == first.tolist()


def test_one_storage_is_in_memory_at_a_time(tmp_path: Path) -> None:
    """Twenty tensors of a megabyte need two."""
    path = tmp_path / "model.pth"
    torch.save([torch.full((1 << 18,), float(n)) for n in range(20)], path)
    header = read_header(path)
    tracemalloc.start()
    with TensorReader(path, header) as reader:
        firsts = [float(reader.read(stub)[0]) for stub in header.content]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [float(n) for n in range(20)] == firsts
    assert peak < 3 << 20


# ----------------------------------------------------------------------------------------------------------- not finite


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "complex64", "complex128"])
def test_what_is_not_finite_is_counted(tmp_path: Path, dtype: str) -> None:
    """Across blocks, at either end, and in either part of a complex number."""
    path = tmp_path / "model.pth"
    tensor = torch.zeros((1 << 18) + 10, dtype=getattr(torch, dtype))
    for at, value in ((0, "nan"), (-1, "inf"), ((1 << 18) - 1, "-inf"), (1 << 18, "nan"), (7, "inf")):
        tensor[at] = complex(0, float(value)) if tensor.is_complex() else float(value)
    torch.save({"zeros": tensor, "others": tensor + 1}, path)
    header = read_header(path)
    with TensorReader(path, header) as reader:
        counted = [count_not_finite([reader.flat(stub)], stub.dtype) for stub in header.content.values()]
    assert [(2, 3, 0), (2, 3)] == [counted[0], counted[1][:2]]
    assert counted[1][2] > 0


def test_whole_numbers_are_finite() -> None:
    """Whatever their bits would be as others."""
    for name in WHOLE.split():
        numbers = np.array([0, 1, 1], name)
        assert (0, 0, True) == (*count_not_finite([numbers], name)[:2], count_not_finite([numbers], name)[2] > 0)
    assert (0, 0, 0) == count_not_finite([np.zeros(0, np.float32)], "float32")
