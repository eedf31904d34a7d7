"""What PyTorch's modules answer: outputs of a whole batch by name, or one result per item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from rayserve_app.errors import PredictError

ResultsAs: TypeAlias = Literal["outputs", "items"]

OUTPUTS: Final = "args.model.output.outputs"

PLAIN: Final = (str, bytes, bool, int, float, type(None))


class Answers:
    """Tells what a module's answers are.

    A tensor is `output`. A tuple is `output_0`, `output_1` and so on, or as the YAML names its
    tensors; a mapping or a named tuple has its own names. What is None is no output: Inception's
    auxiliary classifier is, except while it is trained. Detectors answer a list of one mapping of
    tensors for each image, which scripted ones of torchvision put behind their losses, which are
    empty then.
    """

    def __init__(
        self, tensor_type: type, names: Sequence[str], results_as: ResultsAs | None = None
    ) -> None:
        """
        Args:
            names: the outputs to answer, in this order; empty for all.
            results_as: what a list is; if None, results of the items where it is one of mappings.
        """
        self._tensor_type = tensor_type
        self._names = tuple(names)
        self._results_as = results_as

    def named(self, answer: Any) -> dict[str, Any]:
        """Return the outputs of a whole batch, those that are wanted.

        Raises:
            PredictError: they are no tensors, or one that is wanted is not there.
        """
        if isinstance(answer, self._tensor_type):
            answer = {self._names[0] if len(self._names) == 1 else "output": answer}
        elif isinstance(answer, tuple | list):
            answer = dict(zip(self._names_of(answer), answer, strict=True))
        if not isinstance(answer, Mapping):
            raise self._unfit(type(answer).__name__)
        chosen = self._choose(answer)
        for name, value in chosen.items():
            if not isinstance(value, self._tensor_type):
                sendable = [key for key in answer if isinstance(answer[key], self._tensor_type)]
                raise self._unfit(f"{type(value).__name__} as `{name}`", sendable)
        if not chosen:
            raise self._unfit("nothing but None" if answer else "nothing")
        return chosen

    def items(self, answer: Any, *, takes_list: bool) -> list[Any] | None:
        """Return the results of the items, if that is what an answer holds, else None.

        Args:
            takes_list: whether the module was given a list of items.
        """
        if self._results_as == "outputs":
            return None
        if type(answer) is tuple and len(answer) > 1:
            parts = [part for part in answer if not _is_empty(part)]
            if len(parts) == 1 and isinstance(parts[0], list):
                answer = parts[0]
        is_told = self._results_as == "items" and isinstance(answer, list | tuple)
        is_seen = isinstance(answer, list) and bool(answer) and _are_mappings(answer)
        if is_told or is_seen or (takes_list and isinstance(answer, list)):
            return [self._item(each) for each in answer]
        return None

    def _item(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return self._choose(value)
        if not self._names:
            return value
        raise self._missing(self._names[0], f"no names: a {type(value).__name__} for each item")

    def _choose(self, answer: Mapping[Any, Any]) -> dict[str, Any]:
        present = {str(name): value for name, value in answer.items() if value is not None}
        for name in self._names:
            if name not in present:
                raise self._missing(name, ", ".join(present) or "none")
        return {name: present[name] for name in self._names or present}

    def _names_of(self, answer: Sequence[Any]) -> Sequence[str]:
        fields: Sequence[str] | None = getattr(answer, "_fields", None)
        if fields is not None:
            return fields
        if len(self._names) == len(answer):
            return self._names
        return [f"output_{index}" for index in range(len(answer))]

    def _missing(self, name: str, present: str) -> PredictError:
        return PredictError(
            "The model has no such output", expected=f"one of {present}", got=name, path=OUTPUTS
        )

    def _unfit(self, got: str, sendable: Sequence[str] = ()) -> PredictError:
        return PredictError(
            "The model's answer is none that can be sent",
            expected="a tensor, or a tuple or a mapping of tensors; or a list of one mapping for"
            " each item",
            got=got,
            remedy=f"`output.outputs: [{', '.join(sendable)}]` answers the tensors alone"
            if sendable
            else None,
        )


def replaced(value: Any, tensor_type: type, change: Callable[[Any], Any]) -> Any:
    """Return an item's result with each of its tensors changed, as plain collections.

    Raises:
        PredictError: it holds something that is neither a tensor nor plain.
    """
    if isinstance(value, tensor_type):
        return change(value)
    if isinstance(value, Mapping):
        return {str(name): replaced(each, tensor_type, change) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [replaced(each, tensor_type, change) for each in value]
    if isinstance(value, PLAIN):
        return value
    raise PredictError(
        "An item's result is none that can be sent",
        expected="tensors, numbers and text, in lists and mappings",
        got=type(value).__name__,
    )


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping | list | tuple) and not value)


def _are_mappings(values: Sequence[Any]) -> bool:
    return all(isinstance(each, Mapping) for each in values)
