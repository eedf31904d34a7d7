"""The pages of the project, and the blocks in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"# (\w+\.\w+)\n")


class Block(NamedTuple):
    """One block between backticks."""

    page: str
    language: str
    text: str

    @property
    def file_name(self) -> str | None:
        """The file that the block shows, which its first line names; None if it names none."""
        found = _FILE_NAME.match(self.text)
        return found and found[1]


BLOCKS = tuple(
    Block(page.name, language, text)
    for page in PAGES
    for language, text in _BLOCK.findall(page.read_text())
)


def prose(page: Path) -> str:
    """Return a page without its blocks."""
    return _BLOCK.sub("", page.read_text())


def shown_file(name: str) -> str:
    """Return the contents of the one file of this name that the pages show."""
    (block,) = (each for each in BLOCKS if each.file_name == name)
    return block.text
