"""What a module of PyTorch says of its arguments."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from inspect import Parameter, signature
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias

import numpy as np

from rayserve_app.inference.named_inputs import match_inputs
from rayserve_app.types import Item

BatchAs: TypeAlias = Literal["tensor", "list"]

LIST_OF_TENSORS: Final = re.compile(r"(typing\.)?[Ll]ist\[(torch\.)?Tensor\]")


class Argument(NamedTuple):
    """One argument of a module's `forward`."""

    is_required: bool
    is_list: bool
    """Whether it is a list of tensors, which is a tensor for each item."""


class Arguments:
    """A module's arguments by name, in their order; None if it takes any."""

    def __init__(
        self, known: Mapping[str, Argument] | None, batch_as: BatchAs | None = None
    ) -> None:
        """
        Args:
            batch_as: how each takes a batch; if None, as they say.
        """
        self._known = known
        self._optional = [name for name, each in (known or {}).items() if not each.is_required]
        self._batch_as = batch_as

    @classmethod
    def of_module(cls, torch: Any, module: Any, batch_as: BatchAs | None) -> Self:
        """Read those of a module."""
        if isinstance(module, torch.jit.ScriptModule):  # whose Python signature takes anything
            schema = module.forward.schema.arguments[1:]
            found = {
                each.name: Argument(not each.has_default_value(), _is_list(each.type))
                for each in schema
            }
            return cls(found, batch_as)
        parameters = signature(module.forward).parameters.values()
        variadic = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        if any(each.kind in variadic for each in parameters):
            return cls(None, batch_as)
        found = {
            each.name: Argument(each.default is Parameter.empty, _is_list(each.annotation))
            for each in parameters
        }
        return cls(found, batch_as)

    @classmethod
    def of_tensors(cls, names: Sequence[str]) -> Self:
        """Return those of a program, which needs a tensor for each."""
        return cls({name: Argument(True, False) for name in names})

    @property
    def names(self) -> Sequence[str]:
        return tuple(self._known or ())

    def takes_list(self, name: str) -> bool:
        """Return whether an argument, the first one for no name, is a list of the items."""
        if self._batch_as is not None:
            return self._batch_as == "list"
        argument = (self._known or {}).get(name or next(iter(self.names), ""))
        return argument is not None and argument.is_list

    def bucket(self, item: Any) -> Hashable:
        """Return what items must share to meet in one batch: type and shape of each array, but of
        those in a list the type alone."""
        if isinstance(item, Mapping):
            return tuple((name, self._bucket(name, value)) for name, value in item.items())
        return self._bucket("", item)

    def match(self, item: Item) -> Mapping[str, Any]:
        """Return an item's values by the arguments' names.

        Raises:
            ShapeMismatch: it does not have a value for each.
        """
        if self._known is None and isinstance(item, Mapping):
            return item
        return match_inputs(item, self._known or {}, optional=self._optional)

    def _bucket(self, name: str, value: Any) -> Hashable:
        if not isinstance(value, np.ndarray):
            return None
        return (value.dtype.str, () if self.takes_list(name) else value.shape)


def _is_list(declared: Any) -> bool:
    """Return whether a type, of TorchScript or an annotation, is a list of tensors."""
    return LIST_OF_TENSORS.fullmatch(str(declared)) is not None
