"""An item as a value for each of a model's inputs, which have names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from rayserve_app.errors import ShapeMismatch
from rayserve_app.types import Array, Item


def match_inputs(
    item: Item, inputs: Mapping[str, Any], *, optional: Collection[str] = ()
) -> Mapping[str, Any]:
    """Return an item's values by the names of the inputs: a mapping as it is, anything else as the
    value of the only input.

    Args:
        inputs: the inputs, by their names.
        optional: those which an item may lack.
    Raises:
        ShapeMismatch: the item has not a value for each input, or one for another.
    """
    if not isinstance(item, Mapping):
        if len(inputs) != 1:
            raise ShapeMismatch(
                "The model takes several inputs",
                expected=f"an array for each of {_listed(inputs)}",
                got="a single value",
            )
        return dict.fromkeys(inputs, item)
    if item.keys() == inputs.keys():
        return item
    unknown = [name for name in item if name not in inputs]
    missing = [name for name in inputs if name not in item and name not in optional]
    if unknown or missing:
        raise ShapeMismatch(
            "There is no such input" if unknown else "An input is missing",
            expected=_listed(inputs),
            got=_listed(item),
            path=str((unknown or missing)[0]),
        )
    return item


def check_one_shape(arrays: Iterable[Array], name: str) -> None:
    """Raise ShapeMismatch unless the items' arrays of an input are of one shape, whatever it is."""
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise ShapeMismatch(
            "The items of one batch are unlike",
            expected="one shape",
            got=_listed(sorted(map(str, shapes))),
            path=name,
        )


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "nothing"
