"""TensorFlow: SavedModels and Keras files, in one version or several."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from deployments.replica.application import Application, build_application
from deployments.tensorflow import keras_file, numbered_versions, saved_model
from deployments.tensorflow.numbered_versions import Choice
from deployments.tensorflow.sentences import first_line, listed
from deployments.tensorflow.signature import Signature
from rayserve_app.artifacts.sources import fetch
from rayserve_app.errors import LoadError, MissingDependency, PredictError, ServingError
from rayserve_app.inference.backend import DEFAULT_SIGNATURE, Backend
from rayserve_app.process.cores import available_cores
from rayserve_app.settings.model import FileSettings, parse_settings
from rayserve_app.types import Array, Item, Metadata

logger = logging.getLogger(__name__)

_LEVELS: Final = 2
"""How deep below `path` a model may lie: SageMaker's older archives hold `export/Servo/1`."""


class TensorFlowSettings(FileSettings):
    """A SavedModel or a Keras file, or numbered directories of either.

    `path` is a SavedModel's directory, a `.keras` file, a directory with one such file, or one with
    versions as TensorFlow Serving lays them out: `path/1`, `path/2`, and so on. The only one of
    these may lie deeper, as in an archive of `name/1` or `export/Servo/1`. `version` names a model
    without a number. `output.outputs` is what `signature` answers; other signatures answer the same
    if they have it, else all.
    """

    signature: str = DEFAULT_SIGNATURE
    """The signature that answers requests which name none."""
    versions: Choice = "latest"
    """Which numbered versions to serve: `latest`, `all`, or a list of numbers. The newest of them
    answers requests which name none."""
    trusted: bool = False
    """Allows a Keras file to run code of its own: `Lambda` layers, and custom objects, whose
    modules must be importable in the replica."""


def build(args: dict[str, Any]) -> Application:
    """Return the application of a TensorFlow model; `args` is the YAML's, with one key, `model`."""
    settings = parse_settings(TensorFlowSettings, args)
    create_backend = partial(
        TensorFlowBackend,
        path=settings.path,
        sha256=settings.sha256,
        version=settings.version,
        versions=settings.versions,
        signature=settings.signature,
        outputs=settings.output.outputs,
        compute_threads=settings.threads.compute or 0,
        trusted=settings.trusted,
    )
    return build_application(settings, create_backend)


class TensorFlowBackend(Backend):
    """The versions of a model, each with all of its signatures."""

    def __init__(
        self,
        *,
        path: str,
        sha256: str | None = None,
        version: str = "1",
        versions: Choice = "latest",
        signature: str = DEFAULT_SIGNATURE,
        outputs: tuple[str, ...] = (),
        compute_threads: int = 0,
        trusted: bool = False,
    ) -> None:
        """Keep the settings, which are TensorFlowSettings' but for these.

        Args:
            version: the name of a model that lies in no numbered directory.
            outputs: what `signature` answers, in this order; empty for all.
            compute_threads: TensorFlow's threads in this process; 0 for as many as it may use
                cores.
        """
        self.path = path
        self.sha256 = sha256
        self.version = version
        self.choice = versions
        self.signature = signature
        self.outputs = outputs
        self.compute_threads = compute_threads
        self.trusted = trusted
        self._tf: Any = None
        self._versions: dict[str, dict[str, Signature]] = {}

    def load(self) -> None:
        path = _find_base(fetch(self.path, sha256=self.sha256))
        alone = _find_model(path)
        if alone is not None and not isinstance(self.choice, str):
            raise LoadError(
                "There are no numbered versions", got=f"one model, `{alone}`", path="versions"
            )
        numbered = {} if alone else self._find_versions(path)
        self._tf = _import()
        _configure(self._tf, self.compute_threads or available_cores())
        if alone is not None:
            self._versions = {self.version: self._load(alone)}
        for version, file in numbered.items():
            try:
                self._versions[version] = self._load(file)
            except ServingError as exc:
                raise exc.at(f"versions[{version}]") from exc.__cause__

    def versions(self) -> Mapping[str, Mapping[str, Signature]]:
        return self._versions

    def predict(self, items: Sequence[Item]) -> dict[str, Array]:
        return self._default().predict(items)

    def metadata(self) -> Metadata:
        """Describe the default signature; an input or output of unknown rank has the shape ()."""
        return self._default().metadata() if self._versions else Metadata("tensorflow")

    def close(self) -> None:
        self._versions = {}

    def _default(self) -> Signature:
        if not self._versions:
            raise PredictError("The model is not loaded")
        return next(iter(next(iter(self._versions.values())).values()))

    def _find_versions(self, path: Path) -> dict[str, Path]:
        """Return the SavedModel's directory or the Keras file of each version to be served."""
        models = _find_numbered(path)
        if not models:
            raise _nothing_to_load(path)
        return numbered_versions.choose(models, self.choice)

    def _load(self, path: Path) -> dict[str, Signature]:
        """Return the signatures of one version, the default one first."""
        if path.is_file():
            functions = keras_file.load(self._tf, path, trusted=self.trusted)
        else:
            functions = saved_model.load(self._tf, path)
        default = self.signature
        if default not in functions:
            raise LoadError(
                "Unknown signature",
                expected=listed(functions, "one of "),
                got=f"`{default}`",
                path="signature",
            )
        signatures = {
            default: Signature(self._tf, default, functions.pop(default), outputs=self.outputs)
        }
        for name, function in functions.items():
            own = self.outputs if set(self.outputs) <= set(function.outputs) else ()
            try:
                signatures[name] = Signature(self._tf, name, function, outputs=own)
            except LoadError as exc:
                logger.warning("Signature `%s` of `%s` is not served: %s", name, path, exc)
        return signatures


def _find_model(path: Path) -> Path | None:
    """Return the SavedModel's directory or the Keras file that a path is or holds."""
    if path.is_file():
        return path if path.suffix == keras_file.SUFFIX else None
    if saved_model.is_saved_model(path):
        return path
    files = _keras_files(path)
    return files[0] if len(files) == 1 else None


def _keras_files(directory: Path) -> list[Path]:
    files = directory.glob(f"*{keras_file.SUFFIX}")
    return sorted(entry for entry in files if entry.is_file())


def _find_numbered(path: Path) -> dict[int, Path]:
    """Return the models in numbered directories, the newest first; some may hold none."""
    directories = numbered_versions.find(path) if path.is_dir() else {}
    models = {number: _find_model(each) for number, each in directories.items()}
    return {number: model for number, model in models.items() if model is not None}


def _find_base(path: Path) -> Path:
    """Return the path if a model or numbered ones lie there, else the only place below it where
    they do; the path again if there is none.

    Raises:
        LoadError: there are several.
    """
    bases = _find_bases(path, _LEVELS)
    if len(bases) > 1:
        raise LoadError(
            f"Several models lie below `{path}`",
            expected="one",
            got=listed([str(each.relative_to(path)) for each in bases]),
            path="path",
            remedy="Name one of them.",
        )
    return bases[0] if bases else path


def _find_bases(path: Path, levels: int) -> list[Path]:
    if _find_model(path) is not None or _find_numbered(path):
        return [path]
    if not path.is_dir():
        return []
    if files := _keras_files(path):
        return files
    if not levels:
        return []
    folders = [each for each in sorted(path.iterdir()) if each.is_dir() and each.name[0] != "."]
    return [base for folder in folders for base in _find_bases(folder, levels - 1)]


def _nothing_to_load(path: Path) -> LoadError:
    problem = f"Nothing to load from `{path}`"
    if path.is_file():
        return LoadError(
            problem,
            expected="a SavedModel's directory or a `.keras` file",
            got="another file",
            remedy="Keras: `model.save('name.keras')`.",
        )
    return LoadError(
        problem,
        expected="`saved_model.pb`, one `.keras` file, or numbered directories of either",
        got=listed(sorted(entry.name for entry in path.iterdir())),
    )


def _import() -> Any:
    # Its C++ part reads this once, when it is imported, and writes pages without it.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # TensorFlow imports Keras, which chooses its framework then.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    try:
        import tensorflow
    except ImportError as exc:
        if exc.name == "tensorflow":
            raise MissingDependency(
                "The model needs TensorFlow",
                remedy='pip install "rayserve-app[tensorflow]"',
            ) from exc
        raise LoadError(
            "TensorFlow is installed, but does not import",
            got=f"{type(exc).__name__}: {first_line(exc)}",
        ) from exc
    return tensorflow


def _configure(tf: Any, threads: int) -> None:
    """Set what holds for the whole process and only before TensorFlow's first operation.

    Another model of the process may have been there before: then its settings stay.
    """
    try:
        for gpu in tf.config.list_physical_devices("GPU"):
            # Without this the first replica takes all of a GPU that several share.
            tf.config.experimental.set_memory_growth(gpu, True)
        if threads:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        running = tf.config.threading.get_intra_op_parallelism_threads()
        if threads not in (0, running):
            logger.warning(
                "TensorFlow runs in this process with %s threads already; %s have no effect",
                running or "its own choice of",
                threads,
            )
