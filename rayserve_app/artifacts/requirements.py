"""What a model's requirements ask for beside what its replica has installed, as pip compares them.

Sources: PEP 508 (requirements), PEP 440 (versions), pip's documentation, "Requirements File
Format".
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import distributions, packages_distributions
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator


def _check_requirement(value: str) -> str:
    if not value.strip():
        raise ValueError("A requirement is empty")
    if value.lstrip().startswith("-"):
        raise ValueError("A requirement begins with '-', as an option does")
    return value


Requirements = tuple[Annotated[str, AfterValidator(_check_requirement)], ...]
"""Requirements as pip takes them (PEP 508, URLs, paths), without its options."""

Strictness: TypeAlias = Literal["lenient", "strict"]
"""What becomes of a version that no index has for this Python, where another one is installed:
`lenient` goes on with that one and warns, `strict` refuses to load."""

_OPENCV: Final = ("opencv-contrib-python-headless", "opencv-contrib-python")
_TENSORFLOW: Final = ("tensorflow", "tensorflow-cpu", "tensorflow-intel", "tensorflow-gpu")

STAND_INS: Final[Mapping[str, Sequence[str]]] = {
    "opencv-python": ("opencv-python-headless", *_OPENCV),
    "opencv-python-headless": ("opencv-python", *_OPENCV),
    "opencv-contrib-python": _OPENCV[:1],
    "opencv-contrib-python-headless": _OPENCV[1:],
    **dict.fromkeys(_TENSORFLOW, _TENSORFLOW),
    "mxnet-mkl": ("mxnet",),
    "sklearn": ("scikit-learn",),
}
"""Distributions, and others that hold the same modules in the same versions."""

OTHER_FILES: Final = ("-r", "--requirement", "-c", "--constraint", "-e", "--editable")
"""Options of a requirements file that name more of what is wanted."""


class Installed(NamedTuple):
    """A distribution that the replica has."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


class Unmet(NamedTuple):
    """A requirement of another version than the one that is there."""

    requirement: Requirement
    there: Installed

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)


class Replica:
    """The distributions that this process can import."""

    def __init__(self) -> None:
        self._found: dict[str, Installed] = {}
        self._elsewhere: set[str] = set()
        own = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib")}
        for distribution in distributions():
            name = distribution.metadata["Name"]
            key = canonicalize_name(name or "")
            # A failed installation leaves some without a name; old ones are of no version that
            # can be compared.
            if key in self._found or not name or not _is_version(distribution.version):
                continue
            self._found[key] = Installed(name, distribution.version)
            if Path(str(distribution.locate_file(""))).resolve() not in own:
                self._elsewhere.add(key)

    @property
    def names(self) -> frozenset[str]:
        """All names, as PEP 503 writes them."""
        return frozenset(self._found)

    @cached_property
    def imported(self) -> frozenset[str]:
        """The names of what is imported already, with whatever shares a namespace with it."""
        owners = packages_distributions()
        modules = {name.partition(".")[0] for name in sys.modules}
        names = (owner for module in modules for owner in owners.get(module, ()))
        return frozenset(map(canonicalize_name, names))

    def find(self, name: str) -> Installed | None:
        """Return a distribution, or one that stands in for it."""
        for each in (name, *STAND_INS.get(name, ())):
            if each in self._found:
                return self._found[each]
        return None

    @property
    def unseen(self) -> frozenset[str]:
        """The names of what is there, but not as uv can see it: it has a stand-in, or lies outside
        the environment of this interpreter."""
        absent = (name for name in STAND_INS if name not in self._found)
        return frozenset(name for name in absent if self.find(name)) | self._elsewhere

    def is_imported(self, name: str) -> bool:
        """Return whether a distribution, or what stands in for it, is imported already."""
        there = self.find(name)
        return there is not None and canonicalize_name(there.name) in self.imported

    def pins(self, names: frozenset[str]) -> Iterator[str]:
        """Yield what holds a resolver to the versions that are there, stand-ins' too."""
        for name in sorted(names):
            if (there := self.find(name)) is not None:
                yield f"{name}=={there.version}"


class Wanted:
    """What a model's requirements ask for."""

    def __init__(self, requirements: Sequence[str], file: Path | None, replica: Replica) -> None:
        """Compare requirements, and the lines of a requirements file, with what is there."""
        self.requirements = tuple(requirements)
        self.file = file
        text = file.read_text("utf-8-sig", errors="replace") if file is not None else ""
        self.text = text
        self.unmet: list[Unmet] = []
        """Those that are there in another version."""
        self.is_met = True
        """Whether nothing is left to install."""
        for line in (*requirements, *_lines(text)):
            self._judge(line, replica)

    @property
    def shown(self) -> str:
        """The requirements as a sentence names them."""
        return ", ".join([*self.requirements, *([self.file.name] if self.file else [])])

    def _judge(self, line: str, replica: Replica) -> None:
        if line.startswith("-"):
            self.is_met &= not line.startswith(OTHER_FILES)
            return
        try:
            requirement = Requirement(line)
        except InvalidRequirement:  # a path, a URL, or none at all
            self.is_met = False
            return
        if requirement.marker is not None and not requirement.marker.evaluate():
            return
        there = replica.find(canonicalize_name(requirement.name))
        if requirement.url is not None or there is None:
            self.is_met = False
        elif not requirement.specifier.contains(there.version, prereleases=True):
            self.is_met = False
            self.unmet.append(Unmet(requirement, there))
        elif requirement.extras:
            self.is_met = False


def _is_version(text: str | None) -> bool:
    try:
        Version(text or "")
    except InvalidVersion:
        return False
    return True


def _lines(text: str) -> Iterator[str]:
    """Yield a file's lines without comments, and without the options that follow a requirement."""
    for line in text.replace("\\\n", " ").splitlines():
        content = f" {line}".split(" #", 1)[0].strip()
        if content and not content.startswith("-"):
            content = content.split(" --", 1)[0].strip()
        if content:
            yield content
