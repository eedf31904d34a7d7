"""What a module of PyTorch says of its arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any, Final, NamedTuple

LIST_OF_TENSORS: Final = re.compile(r"(typing\.)?[Ll]ist\[(torch\.)?Tensor\]")


class Argument(NamedTuple):
    """One argument of a module's `forward`."""

    is_required: bool
    is_list: bool
    """Whether it is a list of tensors, which is a tensor for each item."""


def read_arguments(torch: Any, module: Any) -> Mapping[str, Argument] | None:
    """Return a module's arguments by name, in their order; None if it takes any."""
    if isinstance(module, torch.jit.ScriptModule):  # whose Python signature takes anything
        schema = module.forward.schema.arguments[1:]
        return {
            each.name: Argument(not each.has_default_value(), _is_list(each.type))
            for each in schema
        }
    parameters = signature(module.forward).parameters.values()
    if any(each.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) for each in parameters):
        return None
    return {
        each.name: Argument(each.default is Parameter.empty, _is_list(each.annotation))
        for each in parameters
    }


def _is_list(declared: Any) -> bool:
    """Return whether a type, of TorchScript or an annotation, is a list of tensors."""
    return LIST_OF_TENSORS.fullmatch(str(declared)) is not None
