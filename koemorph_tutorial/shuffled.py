"""The file of shuffle-zstd: the bytes of a .pth by the kind of number that they are, as byte planes, by zstd.

A zip of stored records, so that any program says what is in it. The first, ``index``, is JSON and says where which
numbers lie; ``header`` is the pickle of the .pth, so that a listing reads no more; then its parts, numbered, see
`parts`. A record is a frame of zstd with a checksum. Each plane of each run ends a block of it, which is what has a
code of its own: so exponents do not share one with digits, nor with those of another large tensor.

The pickle is not called ``data.pkl``: torch refuses the file, instead of reading numbers out of it that are none.

A flipped bit anywhere is found: each record has its CRC32, and all other bytes of the file follow from what was read,
and are compared with it.
"""

from __future__ import annotations

import io
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from .parts import MOST_INDEX, MOST_RUN, Index, Part, Piece, length_of
from .planes import from_planes, to_planes
from .records import TRY_OLDER, DamagedCheckpointError, UnsupportedCheckpointError
from .stored import FOLDER, Records
from .streams import bomb, read_exactly, zstd, zstd_options

if TYPE_CHECKING:
    from .planes import Bytes

T = TypeVar("T")

START = FOLDER.encode() + b"index"  # behind the first header of the zip
MOST_PICKLE = 1 << 27  # bytes: the header of 100,000 tensors has a fifth of it
_LARGE = 1 << 23  # bytes that are worth a second thread
_AHEAD = 4  # parts that are in memory at a time


# --------------------------------------------------------------------------------------------------------------- pack


def pack(source: BinaryIO, target: BinaryIO, pieces: Sequence[Piece], pickle: Piece | None) -> None:
    """Write the file of shuffle-zstd of the .pth `source`.

    Raises:
        ValueError: pieces that lie over each other or outside of the file, or of an unknown width.
    """
    index = Index.of(source.seek(0, os.SEEK_END), pieces, pickle)
    records = Records(target)
    records.write("index", index.to_json())

    def read(part: Part) -> Callable[[], tuple[str, bytes]]:
        raw = [b"".join(_read(source, offset, size) for offset, size in run) for run in part.runs]
        return lambda: (part.name, _pack_part(raw, part.width))

    for name, packed in _by_two(map(read, index.parts()), index.size):
        records.write(name, packed)
    target.write(records.end())


def _read(source: BinaryIO, offset: int, size: int) -> bytes:
    source.seek(offset)
    return read_exactly(source, size)


def _pack_part(raw: list[bytes], width: int) -> bytes:
    import numpy as np

    compressor = zstd().ZstdCompressor(options=zstd_options())
    packed = []
    for run in raw:
        numbers = np.frombuffer(run, np.uint8).reshape(-1, width)
        planes = np.empty(numbers.shape[::-1], np.uint8)
        to_planes(numbers, planes)
        packed += [compressor.compress(plane, mode=compressor.FLUSH_BLOCK) for plane in planes]
    return b"".join([*packed, compressor.flush()])


def _by_two(calls: Iterator[Callable[[], T]], size: int) -> Iterator[T]:
    """Yield in order what the calls return; two run at a time: zstd and numpy work without Python's lock."""
    if size < _LARGE:
        yield from (call() for call in calls)
        return
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 2)) as pool:
        try:
            for call in calls:
                waiting.append(pool.submit(call))
                if len(waiting) == _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


# -------------------------------------------------------------------------------------------------------------- unpack


def unpack(source: BinaryIO, path: Path, limit: int) -> bytes:
    """Return the .pth of a file of shuffle-zstd, after every byte was checked.

    `path` is for the message.

    Raises:
        DamagedCheckpointError: not the bytes that were written, or a .pth of more than `limit` bytes.
        UnsupportedCheckpointError: a newer version of the library wrote it.
    """
    records = Records(source, path)
    index = Index.from_json(records.read("index", MOST_INDEX), path)
    if index.size > limit:
        raise bomb(path, source.seek(0, os.SEEK_END), index.size)
    out = io.BytesIO(bytes(index.size))  # takes no memory yet, and gives its bytes away without another copy of them
    _unpack_parts(records, index, out.getbuffer(), path)
    records.read_end()
    return out.getvalue()


def _unpack_parts(records: Records, index: Index, out: memoryview, path: Path) -> None:
    import numpy as np

    file = np.frombuffer(out, np.uint8)

    def read(part: Part) -> Callable[[], None]:
        data = records.read(part.name, 2 * part.size + MOST_RUN)
        return lambda: _unpack_part(data, part, file, path)

    for _ in _by_two(map(read, index.parts()), index.size):
        pass


def unpack_pickle(source: BinaryIO, path: Path) -> bytes:
    """Return the pickle of the .pth alone, from the beginning of the file.

    Raises:
        DamagedCheckpointError, UnsupportedCheckpointError: as `unpack`; or it was packed without one.
    """
    records = Records(source, path)
    index = Index.from_json(records.read("index", MOST_INDEX), path)
    if index.pickle is None or index.pickle[1] > MOST_PICKLE:
        found = "none" if index.pickle is None else f"one of {index.pickle[1]:,} bytes"
        raise UnsupportedCheckpointError(
            f"{path}: expected the header of a checkpoint, found {found}; unpack the file with decompress"
        )
    return _unpack_frame(records.read("header", 2 * MOST_PICKLE), index.pickle[1], path)


def _unpack_part(data: bytes, part: Part, file: Bytes, path: Path) -> None:
    import numpy as np

    planes, at = np.frombuffer(_unpack_frame(data, part.size, path), np.uint8), 0
    for run in part.runs:
        length = length_of(run)
        first = run[0][0]
        numbers = file[first : first + length] if len(run) == 1 else np.empty(length, np.uint8)
        from_planes(planes[at : at + length].reshape(part.width, -1), numbers.reshape(-1, part.width))
        at += length
        if len(run) > 1:
            for offset, size in run:
                file[offset : offset + size], numbers = numbers[:size], numbers[size:]


def _unpack_frame(data: bytes, size: int, path: Path) -> bytes:
    module = zstd()
    decompressor = module.ZstdDecompressor()
    try:
        unpacked: bytes = decompressor.decompress(data, size + 1)  # never more, whatever is in it
    except module.ZstdError:
        unpacked = b""
    if len(unpacked) != size or not decompressor.eof or decompressor.unused_data:
        raise DamagedCheckpointError(
            f"{path}: expected {size:,} bytes in a part of the file, found a part that cannot be unpacked to them; "
            f"{TRY_OLDER}"
        )
    return unpacked
