"""The versions of a model and their signatures: what a request may pick."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from rayserve_app.errors import InvalidRequest, VersionNotFound
from rayserve_app.inference.backend import DEFAULT_SIGNATURE, Backend, Predictor
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.settings.model import InputSettings, ModelSettings
from rayserve_app.types import Item, Metadata, Outputs, TensorSpec


class Servable(NamedTuple):
    """One signature of one version: what reads a request's inputs, and what predicts them."""

    version: str
    signature: str
    metadata: Metadata
    inputs: Inputs
    predict: Callable[[Sequence[Item]], Outputs]
    bucket: Callable[[Item], Hashable]
    """Returns a key that two items share only if they may meet in one batch, which items of two
    servables never do."""
    parts_requests: bool = False
    """Whether an output holds for a whole call, and may depend on all items in it: then those of
    two requests must not meet, and no item's answer is good for another request."""

    def of_one_request(self) -> Servable:
        """Return the same for the items of one request, which meet no others."""
        return self._replace(bucket=partial(_marked_bucket, object(), self.bucket))


class Versions:
    """All servables of one model."""

    def __init__(self, name: str, settings: ModelSettings, backend: Backend) -> None:
        """Ask the backend what it has loaded."""
        self._name = name
        self._servables: dict[str, dict[str, Servable]] = {}
        loaded: Mapping[str, Mapping[str, Predictor]] = backend.versions() or {
            settings.version: {DEFAULT_SIGNATURE: backend}
        }
        for version, predictors in loaded.items():
            self._servables[version] = {}
            for signature, predictor in predictors.items():
                self._add(version, signature, predictor, settings)
        self.default = next(iter(self))

    def __iter__(self) -> Iterator[Servable]:
        """Iterate over all servables, the default one first."""
        for signatures in self._servables.values():
            yield from signatures.values()

    def select(self, version: str | None = None, signature: str | None = None) -> Servable:
        """Return the servable of a version and a signature, each the default one if None.

        Raises:
            VersionNotFound: the model serves no such version; the sentence lists the served.
            InvalidRequest: the version has no such signature; the sentence lists its own.
        """
        if version is None and signature is None:
            return self.default
        signatures = self._servables.get(self.default.version if version is None else version)
        if signatures is None:
            raise VersionNotFound(
                f"Model {self._name!r} has no such version",
                expected=_choice(self._servables),
                got=repr(version),
            )
        if signature is None:
            return next(iter(signatures.values()))
        if signature not in signatures:
            raise InvalidRequest(
                f"Model {self._name!r} has no such signature",
                expected=_choice(signatures),
                got=repr(signature),
            )
        return signatures[signature]

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the inputs and outputs of each signature of each version, as JSON values."""
        return {
            version: {name: describe_metadata(each.metadata) for name, each in signatures.items()}
            for version, signatures in self._servables.items()
        }

    def _add(
        self, version: str, signature: str, predictor: Predictor, settings: ModelSettings
    ) -> None:
        metadata = predictor.metadata()
        declared = settings.input
        if self._servables[version]:
            declared = _without_shape(declared, metadata.inputs)
        bucket: Callable[[Item], Hashable] = predictor.bucket
        if any(self):  # items of the first servable, which most models have alone, need no mark
            bucket = partial(_marked_bucket, (version, signature), bucket)
        self._servables[version][signature] = Servable(
            version,
            signature,
            metadata,
            Inputs(
                declared,
                settings.limits,
                metadata.inputs,
                normalizes_images=not predictor.normalizes_images,
            ),
            predictor.predict,
            bucket,
            parts_requests=any(not spec.has_batch_axis for spec in metadata.outputs),
        )


def describe_metadata(metadata: Metadata) -> dict[str, Any]:
    """Return inputs and outputs as JSON values."""
    return {
        "inputs": [_describe_spec(spec) for spec in metadata.inputs],
        "outputs": [_describe_spec(spec) for spec in metadata.outputs],
    }


def _describe_spec(spec: TensorSpec) -> dict[str, Any]:
    described = {"name": spec.name, "datatype": spec.dtype, "shape": list(spec.shape)}
    return described if spec.has_batch_axis else described | {"has_batch_axis": False}


def _without_shape(settings: InputSettings, specs: Sequence[TensorSpec]) -> InputSettings:
    """Return the input of a signature that is not the one which the YAML describes: its tensors
    are what it says itself."""
    if settings.type not in ("tensor", "tensors") or not specs:
        return settings
    kind = "tensor" if len(specs) == 1 else "tensors"
    return settings.model_copy(update={"type": kind, "dtype": None, "shape": None})


def _marked_bucket(mark: Hashable, bucket: Callable[[Item], Hashable], item: Item) -> Hashable:
    return (mark, bucket(item))


def _choice(names: Mapping[str, Any]) -> str:
    known = [repr(name) for name in names]
    return known[0] if len(known) == 1 else f"one of {', '.join(known)}"
