"""docs/settings.md from the settings' types and docstrings: `python -m tests.settings_page`."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from deployments.closure.backend import ClosureSettings
from deployments.mxnet.backend import MXNetSettings
from deployments.sagemaker.backend import SageMakerSettings
from deployments.tensorflow.backend import TensorFlowSettings
from deployments.torch.backend import TorchSettings
from rayserve_app.gateway.settings import GatewaySettings
from rayserve_app.settings.model import FileSettings, ModelSettings
from rayserve_app.settings.protocols import PROTOCOLS, settings_type_of
from rayserve_app.settings.section import Section

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
TOP = """\
# Settings

The keys under `args` of an application in the YAML. An unknown key is refused. All other keys of
the YAML are [Ray Serve's own](https://docs.ray.io/en/latest/serve/production-guide/config.html).
This page is made from the source by `python -m tests.settings_page`.
"""
FRAMEWORKS: tuple[tuple[str, type[ModelSettings]], ...] = (
    ("Closures", ClosureSettings),
    ("TensorFlow", TensorFlowSettings),
    ("PyTorch", TorchSettings),
    ("MXNet", MXNetSettings),
    ("SageMaker packages", SageMakerSettings),
)
NAMES = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Any: "any value",
}
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def page() -> str:
    """Return the whole page."""
    parts = [TOP, *sections("model", ModelSettings), *sections("model", FileSettings, "In files")]
    for title, settings_type in FRAMEWORKS:
        parts += sections("model", settings_type, title)
    return "\n".join([*parts, *sections("gateway", GatewaySettings)])


def sections(path: str, section_type: type[Section], title: str = "") -> Iterator[str]:
    """Return one part of the page for a section of the YAML, and one for each that it holds.

    Args:
        title: of a kind of model, of which only what others do not have is described.
    """
    fields = dict(section_type.model_fields)
    if title:
        fields = {
            name: field
            for name, field in fields.items()
            if not any(_has(base, name, field) for base in section_type.__mro__[1:])
        }
    told = descriptions(section_type)
    heading = f"{title}: `{path}`" if title else f"`{path}`"
    lines = [f"## {heading}", "", *textwrap.wrap(_one_line(section_type.__doc__), 100), ""]
    inner: list[str] = []
    for name, field in fields.items():
        held = section_in(field.annotation)
        text = f"- `{name}`: {kind(field.annotation, field.metadata)}{default(field)}. "
        text += _one_line(told.get(name, ""))
        lines += textwrap.wrap(
            text, 100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        if name == "protocol_settings":
            for protocol in PROTOCOLS:
                if (owned := settings_type_of(protocol)) is not None:
                    inner += sections(f"{path}.{name}.{protocol}", owned, title)
        elif held is not None:
            inner += sections(f"{path}.{name}", held, title)
    yield "\n".join(lines).rstrip() + "\n"
    yield from inner


def _has(base: type, name: str, field: FieldInfo) -> bool:
    """Return whether a class has the same field."""
    other = base.model_fields.get(name) if issubclass(base, Section) else None
    return other is not None and (
        (other.annotation, other.metadata) == (field.annotation, field.metadata)
    )


def descriptions(section_type: type[Section]) -> dict[str, str]:
    """Return the docstring below each field of a class, its bases' where it has none."""
    found: dict[str, str] = {}
    for each in reversed(section_type.__mro__):
        if issubclass(each, Section):
            (definition,) = ast.parse(inspect.getsource(each)).body
            assert isinstance(definition, ast.ClassDef)
            for field, text in pairwise(definition.body):
                match field, text:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(told))),
                    ):
                        found[name] = told
    return found


def section_in(annotation: Any) -> type[Section] | None:
    """Return the section that a field, or an entry of its mapping, holds; None if it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(section_in, get_args(annotation))), None)


def kind(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """Return in words which values a field takes."""
    arguments = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Annotated:
            return kind(arguments[0], annotation.__metadata__)
        case origin if origin in (Union, UnionType):
            return ", or ".join(kind(each) for each in arguments if each is not NoneType)
        case origin if origin is Literal:
            return _listed([f"`{each}`" for each in arguments])
        case origin if origin is tuple and arguments[-1] is not Ellipsis:
            return f"a list of {len(arguments)}, each {kind(arguments[0])}"
        case origin if origin in (tuple, list):
            return f"a list, each {kind(arguments[0])}"
        case origin if origin in (dict, Mapping):
            return f"a mapping of names, each to {kind(arguments[1])}"
    if section_in(annotation) is not None:
        return "a section, below"
    return NAMES[annotation] + "".join(
        f", {words} {getattr(each, bound):g}"
        for each in _constraints(metadata)
        for bound, words in BOUNDS.items()
        if getattr(each, bound, None) is not None
    )


def _constraints(metadata: list[Any] | tuple[Any, ...]) -> Iterator[Any]:
    for each in metadata:
        yield from each.metadata if isinstance(each, FieldInfo) else (each,)


def default(field: FieldInfo) -> str:
    """Return in words what a field is if it is not set."""
    if field.is_required():
        return "; required"
    value = field.get_default(call_default_factory=True)
    if value is None or isinstance(value, Section):
        return ""
    if isinstance(value, bool):
        return f"; `{str(value).lower()}` if not set"
    if isinstance(value, tuple | dict):
        return f"; {_listed([f'`{each}`' for each in value], 'and')} if not set" if value else ""
    return f"; `{value}` if not set"


def _listed(words: list[str], last: str = "or") -> str:
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


if __name__ == "__main__":
    PAGE.write_text(page())
