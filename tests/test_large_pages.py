"""Forks from large pages: the same process, its memory in larger pieces."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from koemorph_tutorial.testing import large_pages


def in_large_pages() -> int:
    """Return how many bytes of this process lie in large pages."""
    found = re.search(r"AnonHugePages: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    assert found is not None
    return 1024 * int(found[1])


def cut_up(memory: bytearray) -> None:
    """Write to every page while a child lives, as a training does beside its loader's processes."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    memory[::4096] = bytes(len(memory) // 4096)
    os.close(writing)
    os.close(reading)
    os.waitpid(child, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="pages are put together on Linux alone")
def test_what_was_cut_lies_in_large_pages_again_and_is_the_same() -> None:
    """On a kernel that has no such call nothing happens; where it has one, most of the memory comes together."""
    memory = bytearray(range(256)) * (1 << 16)
    large_pages.put_together()
    whole = in_large_pages()
    if whole == 0:
        pytest.skip("this kernel puts no pages together")
    cut_up(memory)
    expected = bytes(memory)
    cut = in_large_pages()
    large_pages.put_together()
    assert cut + len(memory) // 2 < whole
    assert in_large_pages() > cut + len(memory) // 2
    assert expected == memory


def test_a_process_that_cannot_be_looked_into_forks_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container without /proc, or under a rule that forbids the call."""

    def refuse(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    large_pages.put_together()
