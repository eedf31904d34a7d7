"""The SavedModels of a SageMaker package, by name, version and signature, answering as TensorFlow's
model server does, its statuses and sentences included.

Sources: aws/sagemaker-tensorflow-serving-container, tfs_utils.py (which directories are models);
tensorflow/serving, server_core.cc and predict_util.cc (sentences).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from google.protobuf.message import DecodeError

from deployments.sagemaker.model_server import prediction_messages
from deployments.sagemaker.model_server.status import FailedPrecondition
from deployments.tensorflow.backend import TensorFlowBackend
from deployments.tensorflow.signature import Signature
from rayserve_app.errors import InvalidRequest, LoadError
from rayserve_app.inference.backend import DEFAULT_SIGNATURE
from rayserve_app.protocols.tensorflow_serving import rest
from rayserve_app.types import Array, Metadata


class ServedModel:
    """One version of one model."""

    def __init__(self, name: str, directory: Path, *, compute_threads: int = 0) -> None:
        self.name = name
        self.version = int(directory.name)
        self.signature_defs: Mapping[str, bytes] = {}
        """The serialised `tensorflow.SignatureDef` of each signature, once it is loaded."""
        self._directory = directory
        self._compute_threads = compute_threads
        self._backend: TensorFlowBackend | None = None
        self._signatures: Mapping[str, Signature] = {}

    def load(self) -> None:
        """Read the SavedModel.

        Raises:
            LoadError: it cannot be used.
        """
        self.signature_defs = _read_signature_defs(self._directory)
        names = [name for name in self.signature_defs if not name.startswith("__")]
        if not names:
            raise LoadError(f"The SavedModel in `{self._directory}` has no signatures")
        backend = TensorFlowBackend(
            path=str(self._directory),
            signature=DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in names else names[0],
            compute_threads=self._compute_threads,
        )
        backend.load()
        self._backend = backend
        (self._signatures,) = backend.versions().values()

    def metadata(self, signature: str) -> Metadata:
        """Describe the inputs and outputs of a signature."""
        return self._find(signature).metadata()

    def predict(
        self, inputs: Mapping[str, Array], *, signature: str, outputs: Sequence[str] = ()
    ) -> dict[str, Array]:
        """Run a signature on whole tensors, in one call.

        Args:
            inputs: by name, each with its batch axis in front.
            outputs: which of the outputs to return; empty for all.
        Raises:
            ServingError: the inputs are not the signature's, or the model failed on them.
        """
        found = self._find(signature)
        metadata = found.metadata()
        _check_inputs(inputs, [spec.name for spec in metadata.inputs])
        _check_outputs(outputs, [spec.name for spec in metadata.outputs])
        answers = found.run(inputs)
        return {name: answers[name] for name in outputs or answers}

    def close(self) -> None:
        if self._backend is not None:
            self._backend.close()

    def _find(self, signature: str) -> Signature:
        if signature not in self._signatures:
            raise FailedPrecondition(f'Serving signature key "{signature}" not found.')
        return self._signatures[signature]


class ModelServer:
    """Every `<model>/<version>/saved_model.pb` below a package's directory."""

    def __init__(self, directory: Path, *, compute_threads: int = 0) -> None:
        self._directory = directory
        self._models: dict[str, dict[int, ServedModel]] = {}
        for version in find_versions(directory):
            # A package that is itself the model is called as the container's directory is.
            name = "model" if version.parent == directory else version.parent.name
            model = ServedModel(name, version, compute_threads=compute_threads)
            self._models.setdefault(name, {})[model.version] = model

    @property
    def default_name(self) -> str:
        """The model that is meant where none is named (serve.py)."""
        named = os.environ.get("SAGEMAKER_TFS_DEFAULT_MODEL_NAME", "None")
        return named if named != "None" else next(iter(self._models), "None")

    def load(self) -> None:
        """Read all versions of all models.

        Raises:
            LoadError: there is none, or one cannot be used.
        """
        if not self._models:
            raise LoadError(
                f"No SavedModel below `{self._directory}`",
                expected="`<model>/<number>/saved_model.pb`",
            )
        for versions in self._models.values():
            for model in versions.values():
                model.load()

    def find(self, name: str, version: int | None = None, label: str | None = None) -> ServedModel:
        """Return a version of a model, the latest one if None.

        Args:
            label: another name of a version. The container's configuration of TensorFlow Serving
                gives none (tfs_utils.py), so that there is no version of that label.

        Raises:
            ServingError: there is no such model or version.
        """
        if label:
            raise rest.no_label(label)
        versions = self._models.get(name, {})
        if versions and version is None:
            return versions[max(versions)]
        if version not in versions:
            raise rest.no_model(name) if version is None else rest.no_version(name, str(version))
        return versions[version]

    def versions(self, name: str) -> list[ServedModel]:
        """Return all versions of a model, the latest one first.

        Raises:
            ModelNotFound: there is no such model.
        """
        self.find(name)
        return [self._models[name][number] for number in sorted(self._models[name], reverse=True)]

    def close(self) -> None:
        for versions in self._models.values():
            for model in versions.values():
                model.close()


def find_versions(directory: Path) -> list[Path]:
    """Return the directories with a number for a name that hold a SavedModel."""
    found = (path.parent for path in sorted(directory.rglob("saved_model.pb")))
    return [path for path in found if path != directory and path.name.isdecimal()]


def _read_signature_defs(directory: Path) -> dict[str, bytes]:
    """Read what `tf.saved_model.load` does not tell: the definitions as they were saved."""
    file = directory / "saved_model.pb"
    try:
        saved_model = prediction_messages.SavedModel.FromString(file.read_bytes())
        return dict(saved_model.meta_graphs[0].signature_def)
    except (DecodeError, IndexError) as exc:
        raise LoadError(f"`{file}` is not a SavedModel", got=str(exc)) from exc


def _check_inputs(inputs: Mapping[str, Array], known: Sequence[str]) -> None:
    if inputs.keys() == set(known):
        return
    extra = inputs.keys() - set(known)
    missing = set(known) - inputs.keys()
    raise InvalidRequest(
        f"input size does not match signature: {len(inputs)}!={len(known)}"
        f" len({_set(inputs)}) != len({_set(known)}). Sent extra: {_set(extra)}."
        f" Missing but required: {_set(missing)}."
    )


def _check_outputs(outputs: Sequence[str], known: Sequence[str]) -> None:
    for index, name in enumerate(outputs):
        if name not in known:
            raise InvalidRequest(
                f"output tensor alias not found in signature: {name}"
                f" Outputs expected to be in the set {_set(known)}."
            )
        if name in outputs[:index]:
            raise InvalidRequest(f"duplicate output tensor alias: {name}")


def _set(names: Iterable[str]) -> str:
    return f"{{{','.join(sorted(names))}}}"
