"""A small disk that gets really full: mounted where only this process and its children see it, where that is allowed.

Linux allows it in a namespace of one's own, unless somebody has forbidden that. Elsewhere the system is asked to refuse
files that grow beyond a size: a real refusal as well, by another name (EFBIG, "file too large", for ENOSPC).
"""

from __future__ import annotations

import ctypes
import os
import resource
from contextlib import suppress
from pathlib import Path

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000  # of unshare(2)
_SIZE = "16m"
_BALLAST = ".ballast"


def mount(folder: Path) -> bool:
    """Put an empty small disk at `folder`, for this process and its children; it goes away with the last of them.

    Returns False where that is not allowed: then nothing has changed. It is for a process that is there for this, and
    has one thread.
    """
    user, group = os.getuid(), os.getgid()
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_NEW_USER | _NEW_MOUNTS) != 0:
            return False
        with suppress(FileNotFoundError):  # a kernel of before 3.19
            Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        return bool(libc.mount(b"none", os.fsencode(folder), b"tmpfs", 0, f"size={_SIZE}".encode()) == 0)
    except (OSError, AttributeError):  # forbidden, or a system without unshare
        return False


def fill(folder: Path, leave: int) -> None:
    """Leave `leave` bytes of room at `folder`, or less: on a disk that `mount` made by a file that takes the rest.

    On any other disk no file of this process may grow beyond so many bytes from now on.
    """
    if not os.path.ismount(folder):
        resource.setrlimit(resource.RLIMIT_FSIZE, (leave, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return
    status = os.statvfs(folder)
    too_much = status.f_bavail * status.f_frsize - leave
    if too_much > 0:
        with (folder / _BALLAST).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, too_much)


def make_room(folder: Path) -> None:
    """Take away what `fill` put on a disk; where it only limited its own process there is nothing to take away."""
    (folder / _BALLAST).unlink(missing_ok=True)
