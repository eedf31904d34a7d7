"""The protocols that there are, and what the YAML may say of those that a model speaks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field

from rayserve_app.errors import ConfigurationError
from rayserve_app.importing import import_from_string
from rayserve_app.settings.section import Section, read_section, shown

PROTOCOLS: Final = {
    "clipper": "rayserve_app.protocols.clipper:Clipper",
    "sagemaker": "rayserve_app.protocols.sagemaker:SageMaker",
    "sagemaker_runtime": "rayserve_app.protocols.sagemaker:SageMakerRuntime",
    "tensorflow_serving": "rayserve_app.protocols.tensorflow_serving:TensorFlowServing",
    "open_inference": "rayserve_app.protocols.open_inference:OpenInference",
    "simple_tensorflow_serving": (
        "rayserve_app.protocols.simple_tensorflow_serving:SimpleTensorFlowServing"
    ),
    "cluster_serving": "rayserve_app.protocols.cluster_serving:ClusterServing",
    "multi_model_server": "rayserve_app.protocols.multi_model_server:MultiModelServer",
}
"""In the order in which they claim paths, where the YAML names no other."""


def _check_protocols(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in PROTOCOLS:
            raise ValueError(f"No such protocol {name!r}; known: {', '.join(PROTOCOLS)}")
    if len(set(names)) < len(names):
        raise ValueError("A protocol stands there twice")
    return names


ProtocolNames = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_check_protocols)]
"""Protocols in the order in which they claim paths."""


def _check_origin(value: str) -> str:
    if value != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", value):
        raise ValueError(
            "Not an origin as browsers send it, like `https://host` or `http://host:8080`"
        )
    return value


class CorsSettings(Section):
    """Which pages from elsewhere may call, whatever the protocol."""

    origins: Annotated[
        tuple[Annotated[str, AfterValidator(_check_origin)], ...], Field(min_length=1)
    ]
    """`https://host`, with a port if it is not the scheme's own; `"*"` for all."""


def _read_settings(declared: Any) -> Any:
    """Return what is declared as the sections of those protocols that have settings.

    Raises:
        ConfigurationError: as `read_section` does.
    """
    if not isinstance(declared, Mapping):
        return declared  # which is an error of its own
    sections: dict[str, Section] = {}
    for name, section in declared.items():
        path = f"protocol_settings.{name}"
        settings_type = settings_type_of(name) if name in PROTOCOLS else None
        if settings_type is None:
            known = sorted(each for each in PROTOCOLS if settings_type_of(each) is not None)
            raise ConfigurationError(
                f"Unknown key {shown(name)}", path=path, remedy=f"Known: {', '.join(known)}"
            )
        sections[name] = read_section(settings_type, section, path)
    return sections


def settings_type_of(protocol: str) -> type[Section] | None:
    """Return the class of a protocol's settings, None if it has none. It is imported only for a
    model that sets some."""
    settings_type: type[Section] | None = import_from_string(PROTOCOLS[protocol]).settings_type
    return settings_type


ProtocolSettings = Annotated[Mapping[str, Section], BeforeValidator(_read_settings)]
"""The settings of protocols by their names, each read by the class that its protocol names."""
