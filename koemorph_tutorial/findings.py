"""What a validation says: a verdict, and of each thing that is wrong where it is, what was expected, what was found."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from .records import CheckpointError
from .text import json_text, printable

Verdict = Literal["sound", "damaged", "incomplete", "cannot tell"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong: `where` in the file, what was `expected`, what was `found`, what to do."""

    where: str
    expected: str
    found: str
    todo: str

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        return f"{where}expected {self.expected}, found {self.found}" + (f"; {self.todo}" if self.todo else "")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Whether a file is sound, and what was found; true only where it is.

    `verdict` is "sound"; "damaged", its bytes are not those that were written; "incomplete", they are, but something
    that it takes is not in it, or is no number; or "cannot tell", with the reason in `findings`. `notes` are further
    things worth knowing, one sentence each. `checked` says what was looked at.
    """

    path: str
    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    checked: str = ""

    def __bool__(self) -> bool:
        return self.verdict == "sound"

    def lines(self) -> list[str]:
        """Return it as a line, and one for each further finding and note."""
        return [
            str(self),
            *(f"  also: {finding}" for finding in self.findings[1:]),
            *(f"  note: {n}" for n in self.notes),
        ]

    def to_json(self) -> str:
        """Return one JSON object."""
        return json_text(asdict(self))

    def __str__(self) -> str:
        said = str(self.findings[0]) if self.findings else self.checked
        return f"{printable(self.path, 1000)}: {self.verdict}: {said}"


def finding_of(error: CheckpointError, path: Path) -> Finding:
    """Return what one of our errors says as its parts.

    >>> error = CheckpointError("a.pth: record 'a/data/0': expected 1, found 2; use it not")
    >>> finding_of(error, Path("a.pth"))
    Finding(where="record 'a/data/0'", expected='1', found='2', todo='use it not')
    """
    said = str(error).removeprefix(f"{path}: ")
    parts = re.fullmatch(
        r"(?:(.*?)(?: is damaged)?: )?expected (.*?), (?:found:? |but )(.*?)(?:; (.*))?", said, re.DOTALL
    )
    if parts is None:
        return Finding(where="", expected="a checkpoint that can be read", found=printable(said, 500), todo="")
    where, expected, found, todo = (printable(part or "", 500) for part in parts.groups())
    return Finding(where=where, expected=expected, found=found, todo=todo)
