"""The file operations of a process, seen one by one, and made to fail at the n-th.

`Operations.install` puts itself in the place of ``open`` and of the functions of ``os`` that change a disk, in this
process and for good: it is called in a forked child that ends soon. Writes are counted where Python hands bytes to the
system, so a buffered file is one write per full buffer.

What it cannot see: writes by C, C++ or Rust code, through ``mmap``, by other processes, and functions of ``os`` that a
module imported by name before (``from os import replace``). `unseen` compares what is on the disk with what was seen.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from .power import Key, Unsynced, key_of

ALLOCATES = {"open", "write", "rename", "link", "truncate", "mkdir", "fsync"}  # what a full disk refuses
_WRITES = os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One file operation of a training: its number from 1, what it is, on which path, during which save (from 0).

    `name` is open (that creates or empties), write, fsync, rename, link, unlink, truncate or mkdir; "end" stands for
    the moment after the last one. `size` is that of a write, in bytes.
    """

    number: int
    name: str
    path: str
    size: int = 0
    save: int = 0

    def __str__(self) -> str:
        size = f" of {self.size:,} bytes" if self.name == "write" else ""
        return f"{self.number} {self.name}{size} {self.path}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens at which operation: kill, torn, enospc, eio, power (bytes) or power names."""

    number: int
    mode: str


class Operations:
    """Count what happens below `directories`; note it in `trail`, a line of JSON each, and carry out `fault`."""

    def __init__(self, directories: list[str], trail: str, shadow: str, fault: Fault | None = None) -> None:
        self.directories = [os.path.realpath(directory) for directory in directories]
        self._fault = fault
        self._count = 0
        self._saves = 0
        self._full = False
        self._sizes: dict[Key, int] = {}  # of the files that were seen to be written
        self._names: dict[Key, str] = {}
        self._made: set[str] = set()  # the names that were seen to be made, and not to be removed
        self._turn = threading.RLock()
        self._process = os.getpid()  # what it forks is not counted
        self._unsynced = Unsynced(shadow) if fault is not None and fault.mode.startswith("power") else None
        self._trail = os.open(trail, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._write, self._open, self._kill = os.write, io.open, os.kill  # the system's own

    def note(self, entry: dict[str, Any]) -> None:
        """Append an entry to the trail; what is noted survives any kill."""
        self._write(self._trail, (json.dumps(entry) + "\n").encode())

    def saved(self, digest: str, files: dict[str, str]) -> None:
        """Note that a save has finished, with the digests of the files that are there."""
        self._saves += 1
        self.note({"saved": digest, "files": files})

    def end(self) -> None:
        """Note that all is done; the last moment at which a fault can come."""
        self._point("end", "")

    def install(self) -> None:
        """Take the places of ``open``, the functions of ``os`` and the writer of ``torch.save``."""
        # Every function first, so that none of ours calls another one of ours.
        ours: dict[str, Callable[..., Any]] = {
            "open": partial(self._os_open, os.open),
            "write": partial(self._os_write, os.write),
            "pwrite": partial(self._os_pwrite, os.pwrite),
            "writev": partial(self._os_writev, os.writev),
            "fsync": partial(self._os_fsync, os.fsync),
            "fdatasync": partial(self._os_fsync, getattr(os, "fdatasync", os.fsync)),
            "truncate": partial(self._os_truncate, os.truncate),
            "ftruncate": partial(self._os_truncate, os.ftruncate),
            "rename": partial(self._os_rename, os.rename),
            "replace": partial(self._os_rename, os.replace),
            "link": partial(self._os_add, os.link, "link"),
            "symlink": partial(self._os_add, os.symlink, "link"),
            "mkdir": partial(self._os_mkdir, os.mkdir),
            "unlink": partial(self._os_remove, os.unlink),
            "remove": partial(self._os_remove, os.remove),
            "rmdir": partial(self._os_remove, os.rmdir),
            "sendfile": partial(self._os_sendfile, getattr(os, "sendfile", None)),
        }
        for name, function in ours.items():
            setattr(os, name, function)
        io.open = builtins.open = self._io_open
        shell = sys.modules.get("IPython.core.interactiveshell")
        if shell is not None:  # the cells of a notebook have an open of their own
            shell.io_open = self._io_open  # type: ignore[attr-defined]
        serialization = sys.modules.get("torch.serialization")
        if serialization is not None:  # it writes in C++ where no hook can see it: hand it a file of ours instead
            serialization._open_zipfile_writer = partial(  # type: ignore[attr-defined]
                self._torch_writer, serialization._open_zipfile_writer
            )

    def unseen(self) -> list[str]:
        """Return a sentence for every file whose bytes were not all seen to be written, or whose end was not seen."""
        gone = [path for path in sorted(self._made) if not os.path.lexists(path)]
        found = [f"{self._shown(path)}: was not seen to be removed" for path in gone]
        for top in self.directories:
            for folder, _, files in os.walk(top):
                for name in files:
                    path = os.path.join(folder, name)
                    status = os.lstat(path)
                    seen = self._sizes.get(key_of(status), 0)
                    if seen != status.st_size:
                        what = f"{seen:,} of its {status.st_size:,} bytes were" if seen else "none of its bytes was"
                        found.append(f"{os.path.relpath(path, top)}: {what} seen to be written")
        return found

    # --- one operation

    def _point(self, name: str, path: str, size: int = 0) -> bool:
        """Count one operation and let the fault happen before it; True asks for a write that is torn."""
        with self._turn:
            self._count += 1
            shown = self._shown(path)
            self.note(asdict(Operation(number=self._count, name=name, path=shown, size=size, save=self._saves)))
            if self._full and name in ALLOCATES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            if self._fault is None or self._count != self._fault.number:
                return False
            mode = self._fault.mode
            self.note({"fault": mode})
            if mode == "torn":
                return True
            if mode == "enospc":
                self._full = True  # and stays so until this process ends
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            if mode == "eio":
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            if self._unsynced is not None:
                self._unsynced.cut(self.directories, names=mode == "power names")
            self._die()
        return False

    def _die(self) -> None:
        self._kill(os.getpid(), signal.SIGKILL)

    def _shown(self, path: str) -> str:
        for top in self.directories:
            if path.startswith(top + os.sep) or path == top:
                return path[len(top) + 1 :] or "."
        return path

    def _path(self, path: Any, dir_fd: int | None = None) -> str | None:
        """Return the whole path of what lies below our directories, None for everything else."""
        if os.getpid() != self._process:
            return None
        if isinstance(path, int):
            return self._names.get(key_of(os.fstat(path)))
        text = os.fsdecode(path)
        if dir_fd is not None and dir_fd >= 0 and not os.path.isabs(text):
            text = os.path.join(os.path.realpath(f"/proc/self/fd/{dir_fd}"), text)
        folder, name = os.path.split(os.path.abspath(text))
        whole = os.path.join(os.path.realpath(folder), name)
        return whole if any(whole.startswith(top + os.sep) for top in self.directories) else None

    # --- files

    def _opened(self, descriptor: int, path: str, *, emptied: bool, new: bool) -> None:
        key = key_of(os.fstat(descriptor))
        self._names[key] = path
        if new or emptied:
            self._sizes[key] = 0
            if self._unsynced is not None:
                self._unsynced.wrote(key, 0)
        if new:
            self._made.add(path)
            if self._unsynced is not None:
                self._unsynced.changed("add", path)

    def _os_open(self, original: Any, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        whole = self._path(path, dir_fd)
        if whole is None or not flags & (_WRITES | os.O_WRONLY | os.O_RDWR):
            return int(original(path, flags, mode, dir_fd=dir_fd))
        if flags & _WRITES:
            self._point("open", whole)
        new = not os.path.exists(whole)
        descriptor = int(original(path, flags, mode, dir_fd=dir_fd))
        self._opened(descriptor, whole, emptied=bool(flags & os.O_TRUNC), new=new)
        return descriptor

    def _io_open(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        whole = self._path(file)
        # What an opener opens is known by its descriptor: its call of os.open was seen.
        if (whole is None and opener is None) or not set(mode) & set("wxa+"):
            return self._open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        made_here = whole is not None and opener is None and not isinstance(file, int)
        new = made_here and not os.path.exists(whole or "")
        if made_here and set(mode) & set("wxa"):
            self._point("open", whole or "")
        raw = _Raw(self, file, mode.replace("b", "").replace("t", ""), closefd=closefd, opener=opener)
        if made_here:
            self._opened(raw.fileno(), whole or "", emptied="w" in mode, new=new)
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else os.fstat(raw.fileno()).st_blksize  # as io.open does
        buffered = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
        if "b" in mode:
            return buffered
        text = io.TextIOWrapper(buffered, encoding, errors, newline, line_buffering=buffering == 1)
        text.mode = mode  # type: ignore[misc]  # as io.open does
        return text

    def _torch_writer(self, original: Any, target: Any) -> Any:
        if not isinstance(target, str | os.PathLike) or self._path(target) is None:
            return original(target)
        self.note({"routed": self._shown(self._path(target) or "")})
        return _TorchWriter(original, self._io_open(target, "wb"))

    def written(self, descriptor: int, data: Any, write: Callable[[Any], int], offset: int | None = None) -> int:
        """Carry out one write of `data`, half of it where it is to be torn."""
        path = self._path(descriptor)
        if path is None:
            return write(data)
        data = memoryview(data).cast("B")
        if self._point("write", path, len(data)):
            write(data[: len(data) // 2])
            self._die()
        status = os.fstat(descriptor)
        key = key_of(status)
        if offset is None:
            offset = status.st_size if _appends(descriptor) else os.lseek(descriptor, 0, os.SEEK_CUR)
        count = write(data)
        self._sizes[key] = max(self._sizes.get(key, 0), offset + count)
        if self._unsynced is not None:
            self._unsynced.wrote(key, offset)
        return count

    def truncated(self, target: Any, length: int, truncate: Callable[[], Any]) -> Any:
        """Carry out one truncation."""
        path = self._path(target)
        if path is None:
            return truncate()
        self._point("truncate", path)
        result = truncate()
        key = key_of(os.stat(target))
        self._sizes[key] = length
        if self._unsynced is not None:
            self._unsynced.wrote(key, length)
        return result

    def _os_write(self, original: Any, fd: int, data: Any, /) -> int:
        return self.written(fd, data, partial(original, fd))

    def _os_pwrite(self, original: Any, fd: int, buffer: Any, offset: int, /) -> int:
        return self.written(fd, buffer, lambda part: int(original(fd, part, offset)), offset)

    def _os_writev(self, original: Any, fd: int, buffers: Any, /) -> int:
        return self.written(fd, b"".join(buffers), lambda part: int(original(fd, [part])))

    def _os_truncate(self, original: Any, path: Any, length: int) -> None:
        self.truncated(path, length, partial(original, path, length))

    def _os_sendfile(self, original: Any, out: int, *arguments: Any, **keywords: Any) -> int:
        if self._path(out) is None:
            return int(original(out, *arguments, **keywords))
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))  # shutil then copies by read and write

    def _os_fsync(self, original: Any, fd: Any) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        path = self._path(number) or self._directory(number)
        if path is not None:
            self._point("fsync", path)
        original(number)
        if path is not None and self._unsynced is not None:
            self._unsynced.synced(number)

    def _directory(self, descriptor: int) -> str | None:
        status = os.fstat(descriptor)
        for top in self.directories if os.getpid() == self._process else ():
            for folder, _, _ in os.walk(top):
                if os.path.samestat(os.stat(folder), status):
                    return folder
        return None

    # --- names

    def _os_rename(self, original: Any, src: Any, dst: Any, **fds: Any) -> None:
        old = self._path(src, fds.get("src_dir_fd"))
        new = self._path(dst, fds.get("dst_dir_fd"))
        if old is None and new is None:
            original(src, dst, **fds)
            return
        self._point("rename", new or old or "")
        if new is not None and os.path.lexists(new) and old is not None and _same(old, new):
            original(src, dst, **fds)  # two names of one file: the system does nothing
            return
        before = self._unsynced.keep(new) if self._unsynced is not None and new is not None else None
        original(src, dst, **fds)
        self._made.discard(old or "")
        if new is not None:
            if self._unsynced is not None:
                self._unsynced.changed("rename", new, source=old, before=before)
            self._learn(new)

    def _os_add(self, original: Any, name: str, src: Any, dst: Any, *rest: Any, **keywords: Any) -> None:
        new = self._path(dst, keywords.get("dst_dir_fd", keywords.get("dir_fd")))
        if new is None:
            original(src, dst, *rest, **keywords)
            return
        self._point(name, new)
        original(src, dst, *rest, **keywords)
        if self._unsynced is not None:
            self._unsynced.changed("add", new)
        self._learn(new)

    def _os_mkdir(self, original: Any, path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        whole = self._path(path, dir_fd)
        refused = whole is not None and (os.path.lexists(whole) or not os.path.isdir(os.path.dirname(whole)))
        if whole is None or refused:  # Path.mkdir(parents=True) asks so what is there
            original(path, mode, dir_fd=dir_fd)
            return
        self._point("mkdir", whole)
        original(path, mode, dir_fd=dir_fd)
        if self._unsynced is not None:
            self._unsynced.changed("mkdir", whole)

    def _os_remove(self, original: Any, path: Any, *, dir_fd: int | None = None) -> None:
        whole = self._path(path, dir_fd)
        if whole is None or not os.path.lexists(whole):  # which is refused
            original(path, dir_fd=dir_fd)
            return
        self._point("unlink", whole)
        if self._unsynced is not None:
            if not os.path.isdir(whole):
                self._unsynced.keep(whole)  # so that its inode is not given to another file meanwhile
            self._unsynced.changed("remove", whole)
        original(path, dir_fd=dir_fd)
        self._made.discard(whole)

    def _learn(self, path: str) -> None:
        """Remember under which name a file is known now; the bytes of one that came from outside were not seen."""
        try:
            status = os.lstat(path)
        except OSError:
            return
        key = key_of(status)
        self._names[key] = path
        self._made.add(path)
        if stat.S_ISLNK(status.st_mode):
            self._sizes[key] = status.st_size


class _Raw(io.FileIO):
    """A file that reports every write."""

    def __init__(self, operations: Operations, file: Any, mode: str, *, closefd: bool, opener: Any) -> None:
        super().__init__(file, mode, closefd=closefd, opener=opener)
        self._operations = operations

    def write(self, data: Any, /) -> int:
        return self._operations.written(self.fileno(), data, super().write)

    def truncate(self, size: int | None = None, /) -> int:
        length = self.tell() if size is None else size
        result: int = self._operations.truncated(self.fileno(), length, partial(super().truncate, length))
        return result


class _TorchWriter:
    """torch's writer into a buffer, with the file closed at the end."""

    def __init__(self, original: Any, file: Any) -> None:
        self._file = file
        self._writer = original(file)

    def __enter__(self) -> Any:
        return self._writer.__enter__()

    def __exit__(self, *error: object) -> None:
        with self._file:
            self._writer.__exit__(*error)


def _same(one: str, other: str) -> bool:
    return os.path.samestat(os.lstat(one), os.lstat(other))


def _appends(descriptor: int) -> bool:
    import fcntl

    return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND)
