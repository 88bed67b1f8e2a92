"""What stands in the place of what a pickle calls: plain values, in no more memory than the file has."""

from __future__ import annotations

import copyreg
import itertools
from pickle import UnpicklingError
from typing import Any

import pytest
import torch

from koemorph_tutorial.rebuild import Rebuild, is_known, kind_text, storage
from koemorph_tutorial.stubs import StorageStub, TensorStub
from koemorph_tutorial.unpickling import Attributes, Name, Opaque

STORED = StorageStub("0", "float32", 6)
TENSOR = "torch._utils._rebuild_tensor_v2"


def rebuild(name: str, *arguments: Any, scripted: bool = False, size: int = 1000) -> Any:
    return Rebuild(size, scripted=scripted)(name, arguments)


# ------------------------------------------------------------------------------------------------------------ storages


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("torch.FloatStorage", "float32"),
        ("torch.BFloat16Storage", "bfloat16"),
        ("torch.ComplexHalfStorage", "complex32"),
        ("torch.ComplexDoubleStorage", "complex128"),
        ("torch.storage.UntypedStorage", "uint8"),
        ("torch.UInt16Storage", "uint16"),  # as TorchScript writes the newer ones
        ("torch.Float8_e4m3fnuzStorage", "float8_e4m3fnuz"),
        ("torch.Float4_e2m1fn_x2Storage", "float4_e2m1fn_x2"),
        ("torch.Bits1x8Storage", "bits1x8"),
        ("torch.QInt8Storage", "QInt8Storage"),
        ("torch.DreamStorage", "DreamStorage"),
        ("torch.Float8_evilStorage", "Float8_evilStorage"),
    ],
)
def test_a_storage_has_the_dtype_of_its_class(kind: str, dtype: str) -> None:
    """By the name of the class alone; one that is not known keeps it."""
    assert StorageStub("7", dtype, 5) == storage(("storage", Name(kind), "7", "cuda:0", 5))
    assert StorageStub("7", dtype, 5) == storage(("storage", Name(kind), "7", "cpu", 5, None))


def test_a_class_with_its_source_is_its_name() -> None:
    """The old format keeps the source of a pickled network beside its class."""
    assert Name("models.Net") == storage(("module", Name("models.Net"), "/models.py", "class Net: ..."))


@pytest.mark.parametrize(
    "pid",
    [
        ("storage", "torch.FloatStorage", "0", "cpu", 5),
        ("storage", Name("torch.FloatStorage"), 0, "cpu", 5),
        ("storage", Name("torch.FloatStorage"), "0", "cpu", -1),
        ("storage", Name("torch.FloatStorage"), "0", "cpu", 2**63),
        ("storage", Name("torch.FloatStorage"), "0", "cpu", True),
        ("storage", Name("torch.FloatStorage"), "0", "cpu", 5.0),
        ("storage", Name("torch.FloatStorage"), "0", "cpu", 5, ("1", 0, 2)),
        ("module", "models.Net", "0", "cpu", 5),
    ],
)
def test_a_description_that_is_none_is_refused(pid: Any) -> None:
    """Whatever stands there in place of a class, a key and a count."""
    with pytest.raises(UnpicklingError, match="a storage"):
        storage(pid)


# ------------------------------------------------------------------------------------------------------------- tensors


def test_a_tensor_has_the_dtype_of_its_storage_or_its_own() -> None:
    """Newer dtypes are stored as bytes, and named beside them."""
    plain = rebuild(TENSOR, STORED, 1, (2, 2), (2, 1), False, {})
    assert (TensorStub((2, 2), "float32"), STORED, 1, (2, 1), ()) == (
        plain,
        plain.storage,
        plain.offset,
        plain.stride,
        plain.lazily,
    )
    raw = StorageStub("0", "uint8", 24)
    newer = rebuild("torch._utils._rebuild_tensor_v3", raw, 0, (3,), (1,), False, {}, Name("torch.uint64"))
    assert (TensorStub((3,), "uint64"), raw) == (newer, newer.storage)
    assert plain == rebuild("torch._utils._rebuild_parameter", plain, True, {})


@pytest.mark.parametrize(
    ("marks", "lazily"),
    [
        ({}, ()),
        ({"conj": True}, ("conj",)),
        ({"neg": True, "conj": True}, ("conj", "neg")),
        ({"conj": False, "neg": 1, "other": True}, ("conj", "neg")),  # that they are there is all torch looks at
        (None, ()),
        (["conj"], ()),
    ],
)
def test_the_marks_of_a_view_are_kept(marks: Any, lazily: tuple[str, ...]) -> None:
    """In either form."""
    place = (STORED, 0, (2,), (1,), False, {})
    assert lazily == rebuild(TENSOR, *place, marks).lazily
    newer = rebuild("torch._utils._rebuild_tensor_v3", *place, Name("torch.float32"), marks)
    assert lazily == newer.lazily


@pytest.mark.parametrize(
    ("stored", "offset", "shape", "stride"),
    [
        (STORED, -1, (2,), (1,)),
        (STORED, 2**63, (2,), (1,)),
        (STORED, True, (2,), (1,)),
        (STORED, 0.0, (2,), (1,)),
        (STORED, 0, (-2,), (1,)),
        (STORED, 0, (2,), (-1,)),
        (STORED, 0, (2**63,), (1,)),
        (STORED, 0, (2,), (1, 1)),
        (STORED, 0, [2], [1]),
        (STORED, 0, (1,) * 65, (1,) * 65),
        (STORED, 0, ("2",), (1,)),
        (None, 0, (2,), (1,)),
        (TensorStub((6,), "float32"), 0, (2,), (1,)),
        (Opaque("os.system", []), 0, (2,), (1,)),
    ],
)
def test_a_tensor_that_is_none_is_refused(stored: Any, offset: Any, shape: Any, stride: Any) -> None:
    """Numbers below zero, beyond 64 bits, or none at all."""
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        with pytest.raises(UnpicklingError, match="no description of a tensor"):
            rebuild(f"torch._utils.{name}", stored, offset, shape, stride)


def test_a_tensor_with_attributes_is_the_tensor() -> None:
    """torch names the function that rebuilds it among the arguments; it is followed, and no other is."""
    place = (STORED, 0, (2,), (1,), False, {})
    outer = "torch._tensor._rebuild_from_type_v2"
    assert TensorStub((2,), "float32") == rebuild(outer, Name(TENSOR), Name("torch.Tensor"), place, {"unit": "Hz"})
    stranger = rebuild(outer, Name("os.system"), Name("torch.Tensor"), ("ls",), {})
    assert isinstance(stranger, Opaque)
    assert ("os.system", [("ls",)]) == (stranger.name, stranger.content)


# ------------------------------------------------------------------------------------------------------- what asks much


@pytest.mark.parametrize(
    "name",
    [
        "torch.FloatTensor",
        "torch.Tensor",
        "torch.cuda.FloatTensor",
        "torch.storage.UntypedStorage",
        "torch.ByteStorage",
    ],
)
def test_no_class_of_torch_makes_memory(name: str) -> None:
    """Called with a number they reserve as much, whatever is in the file: refused, or a stand-in."""
    try:
        made = rebuild(name, 10**10)
    except UnpicklingError as error:
        made = str(error)
    assert made == f"it asks {name} for memory" or (isinstance(made, Opaque) and [(10**10,)] == made.content)


def test_a_bytearray_of_a_size_is_refused() -> None:
    """Five bytes that are gigabytes of zeros."""
    for size in (10**10, 0):
        with pytest.raises(UnpicklingError, match="more bytes than it holds"):
            rebuild("builtins.bytearray", size)
    assert (b"ab", b"") == (rebuild("builtins.bytearray", b"ab"), rebuild("builtins.bytearray"))


def test_text_becomes_bytes_only_as_often_as_it_is_there() -> None:
    """A short reference can ask for the copy of a long text again and again."""
    made = Rebuild(250)
    assert [b"\xe9" * 100] * 2 == [made("_codecs.encode", ("é" * 100, "latin1")) for _ in range(2)]
    with pytest.raises(UnpicklingError, match="more bytes than it holds"):
        made("_codecs.encode", ("é" * 100, "latin1"))
    with pytest.raises(UnicodeEncodeError):
        rebuild("_codecs.encode", "声", "latin1")


def test_a_device_is_a_short_text() -> None:
    """With or without its number; anything else is refused."""
    assert ("cpu", "cuda:1", "cuda:1") == (
        rebuild("torch.device", "cpu"),
        rebuild("torch.device", "cuda", 1),
        rebuild("torch.device", "cuda:1"),
    )
    for wrong in (("x" * 21,), (7,), ("cuda", "1"), ("cuda", True), (("cuda",),)):
        with pytest.raises(UnpicklingError, match="no device"):
            rebuild("torch.device", *wrong)


@pytest.mark.parametrize("name", ["os.system", "torch.load", TENSOR, "builtins.bytearray", "torch.FloatTensor"])
def test_arguments_that_no_function_has_are_kept_as_they_are(name: str) -> None:
    """No tuple, or one that is too long to be handed over: a stand-in."""
    for arguments in ([1], None, "text", tuple(range(17)), Opaque("", [])):
        made = Rebuild(1000)(name, arguments)
        assert isinstance(made, Opaque)
        assert (name, [arguments]) == (made.name, made.content)


# --------------------------------------------------------------------------------------------------------------- names


def test_what_torchscript_names_is_known_there_alone() -> None:
    """Its classes are in the archive, and become their attributes."""
    for name in ("__torch__.models.Net", "torch.jit._pickle.build_intlist"):
        assert (True, False) == (is_known(name, scripted=True), is_known(name))
    assert isinstance(rebuild("__torch__.models.Net", scripted=True), Attributes)
    assert isinstance(rebuild("__torch__.models.Net"), Opaque)
    assert [1, 2] == rebuild("torch.jit._pickle.build_intlist", [1, 2], scripted=True)
    assert [1, 2] == rebuild("torch.jit._pickle.restore_type_tag", [1, 2], "List[int]", scripted=True)
    for name in ("torch.jit._pickle.run", "torch.jit.load", "os.system", "__torch__", "x__torch__.a"):
        assert not is_known(name, scripted=True)


def test_no_function_that_torch_would_not_call_is_known() -> None:
    """Of all that torch's modules of serialization hold, only what rebuilds tensors."""
    hostile = [
        "torch.load",
        "torch.save",
        "torch.hub.load",
        "torch.compile",
        "torch.serialization.load",
        "torch.jit.load",
    ]
    hostile += ["torch.FloatStorage.from_file", "torch.storage.UntypedStorage.from_file", "torch.uint8\nload", "torch."]
    hostile += ["torch._utils.classproperty", "torch.storage._load_from_bytes", "torch._utils._import_dotted_name"]
    assert [] == [name for name in hostile if is_known(name)]
    safe = torch._weights_only_unpickler._get_allowed_globals()
    ours = [name for name in safe if is_known(name)]
    assert {"torch._utils._rebuild_tensor_v2", "torch.float32", "torch.Size", "collections.OrderedDict"} <= set(ours)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "nothing"),
        ({}, "a dict"),
        (3, "a int"),
        (TensorStub((2,), "int8"), "a tensor"),
        (STORED, "a storage"),
        (Name("torch.float32"), "a torch.float32"),
        (Opaque("torch._utils._rebuild_sparse_tensor", []), "a torch._utils._rebuild_sparse_tensor"),
        (Opaque("os.system", []), "the pickled os.system, which runs code of its own when it is loaded"),
        (Name("a\n\x1b[31m"), r"the pickled a\n\x1b[31m, which runs code of its own when it is loaded"),
    ],
)
def test_a_value_is_said_in_words(value: Any, said: str) -> None:
    """For a message: what it is, and whether it would run."""
    assert said == kind_text(value)


def test_nothing_that_is_called_is_imported() -> None:
    """Whatever a name says, what stands for it is made of the arguments and of nothing else."""
    before = dict(copyreg.dispatch_table)
    names = ["os.system", "builtins.eval", "antigravity.x", "this.y", "copyreg._reconstructor", "", ".", "a.b.c", "声"]
    for name, arguments in itertools.product(names, [(), ("echo hit",), (1, 2, 3)]):
        made = rebuild(name, *arguments)
        assert isinstance(made, Opaque)
        assert ([arguments], f"<{name}>") == (made.content, repr(made))
    assert before == copyreg.dispatch_table
