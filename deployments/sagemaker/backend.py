"""SageMaker model packages as they are: `model.tar.gz` with a model and `code/`.

Source: Amazon SageMaker developer guide, "Deploy models for inference"; the contracts themselves
are in inference_toolkit.py and serving_container.py. What code reads at fixed places of the
container (`/opt/ml/model`, ports 8501 and 9000) is elsewhere here: it has to take the paths and
ports that its functions are given.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Final, Literal, Protocol

from pydantic import Field

from deployments.replica.application import Application, build_application
from deployments.sagemaker.inference_toolkit import FUNCTIONS, GENERIC, Defaults, InferenceToolkit
from deployments.sagemaker.model_server.model_server import ModelServer, find_versions
from deployments.sagemaker.mxnet_toolkit import mxnet_defaults
from deployments.sagemaker.plain_container import PlainContainer
from deployments.sagemaker.serving_container import ServingContainer
from deployments.sagemaker.user_code import UserCode
from rayserve_app.artifacts import packages
from rayserve_app.artifacts.requirements import Strictness
from rayserve_app.artifacts.sources import fetch
from rayserve_app.errors import InvalidRequest, LoadError, PredictError
from rayserve_app.inference.backend import Backend
from rayserve_app.settings.model import (
    BatchingSettings,
    FileSettings,
    InputSettings,
    parse_settings,
)
from rayserve_app.types import FailedInvocation, Invocation, Item, Metadata, Reply

Contract = Literal["toolkit", "tensorflow"]

HANDLERS: Final = ("handler", "input_handler", "output_handler")


class OneByOne(BatchingSettings):
    """User code takes one request at a time. `max_concurrent_batches` is how many run at once, in
    threads, as `SAGEMAKER_GUNICORN_THREADS` is in the TensorFlow container."""

    max_batch_size: Annotated[int, Field(gt=0, le=1)] = 1


class WholeRequest(InputSettings):
    """User code reads bodies and headers itself."""

    type: Literal["request"]


class SageMakerSettings(FileSettings):
    """A model package; `path` is its `model.tar.gz`, or the directory that it unpacks to."""

    contract: Contract | None = None
    """Which container's functions the code has: `toolkit` (`model_fn` and its like: MXNet, PyTorch,
    scikit-learn, Hugging Face), `tensorflow` (`handler`, or a SavedModel alone). Read off the
    package if not set."""
    framework: Literal["none", "mxnet"] = "none"
    """Whose default functions stand in for those that a `toolkit` package lacks."""
    environment: dict[str, str] = Field(default_factory=dict)
    """The environment of the model's definition: `SAGEMAKER_PROGRAM` and what user code reads."""
    requirements: Strictness = "lenient"
    """Whether a version in `code/requirements.txt` that no index has for this Python may be another
    one, with a warning."""
    input: WholeRequest = WholeRequest(type="request")
    batching: OneByOne = OneByOne()


class Container(Protocol):
    """What a contract makes of a package."""

    def invoke(self, invocation: Invocation) -> Reply: ...

    def close(self) -> None: ...


def build(args: dict[str, Any]) -> Application:
    """Return the application of a model package; `args` is the YAML's, with one key, `model`."""
    settings = parse_settings(SageMakerSettings, args)
    return build_application(settings, partial(SageMakerBackend, settings))


class SageMakerBackend(Backend):
    """Runs a package's own code, one request at a time."""

    def __init__(self, settings: SageMakerSettings) -> None:
        self._settings = settings
        self._code: UserCode | None = None
        self._server: ModelServer | None = None
        self._container: Container | None = None

    def load(self) -> None:
        directory = fetch(self._settings.path, sha256=self._settings.sha256)
        if not directory.is_dir():
            raise LoadError(f"`{directory}` is not a model package", expected="a `model.tar.gz`")
        try:
            self._container = self._start(directory.resolve())
        except BaseException:
            self.close()
            raise

    def predict(self, items: Sequence[Item]) -> list[Reply | FailedInvocation | InvalidRequest]:
        if self._container is None:
            raise PredictError("The package is not loaded")
        return [_invoke(self._container, item) for item in items]

    def metadata(self) -> Metadata:
        return Metadata(platform="sagemaker")

    def close(self) -> None:
        for part in (self._container, self._server, self._code):
            if part is not None:
                part.close()
        self._container = self._server = self._code = None

    def _start(self, directory: Path) -> Container:
        self._code = UserCode(
            [directory / "code", directory / "code/lib"], self._settings.environment
        )
        self._code.open()
        program = self._find_program(directory / "code")
        if program is None:
            self._check_plain(directory)
            return PlainContainer(self._serve(directory))
        _install_requirements(directory / "code", self._settings.requirements)
        # Before the code, which may import the framework itself.
        defaults = self._defaults()
        module = self._code.load(program)
        if self._contract_of(module) == "tensorflow":
            return ServingContainer(self._serve(directory), module)
        return InferenceToolkit(module, directory, defaults)

    def _find_program(self, code: Path) -> str | None:
        """Return the name of the package's program; None if it has no code."""
        program = os.environ.get("SAGEMAKER_PROGRAM", "inference.py")
        if (code / program).is_file():
            return program
        programs = sorted(each.name for each in code.glob("*.py")) if code.is_dir() else []
        if programs or "SAGEMAKER_PROGRAM" in self._settings.environment:
            raise LoadError(
                f"The package's code has no `{program}`",
                got=", ".join(programs) or "no program",
                path=str(code),
                remedy="Name it in `environment: {SAGEMAKER_PROGRAM: ...}`.",
            )
        return None

    def _serve(self, directory: Path) -> ModelServer:
        self._server = ModelServer(directory, compute_threads=self._settings.threads.compute or 0)
        self._server.load()
        return self._server

    def _defaults(self) -> Defaults:
        if self._settings.framework == "mxnet":
            return mxnet_defaults(threads=self._settings.threads.compute or 0)
        return GENERIC

    def _contract_of(self, module: ModuleType) -> Contract:
        if self._settings.contract is not None:
            return self._settings.contract
        if any(hasattr(module, name) for name in HANDLERS):
            return "tensorflow"
        if any(hasattr(module, name) for name in FUNCTIONS):
            return "toolkit"
        raise LoadError(
            f"`{module.__file__}` has none of the functions of a SageMaker container",
            expected=f"{', '.join(FUNCTIONS)}, or {', '.join(HANDLERS)}",
        )

    def _check_plain(self, directory: Path) -> None:
        if self._settings.contract != "toolkit" and find_versions(directory):
            return
        found = sorted(each.name for each in directory.iterdir())
        raise LoadError(
            f"`{directory}` is not a model package",
            expected="`code/inference.py`, or a SavedModel in `<model>/<number>/`",
            got=", ".join(found) or "an empty directory",
            remedy="`code/` and the model stand at the archive's root.",
        )


def _install_requirements(code: Path, strictness: Strictness) -> None:
    requirements = code / "requirements.txt"
    # serve.py: what the package brings along in lib/ stands for its requirements.
    if requirements.is_file() and not (code / "lib").is_dir():
        installed = packages.install((), requirements_file=requirements, strictness=strictness)
        packages.activate(installed)


def _invoke(container: Container, item: Item) -> Reply | FailedInvocation | InvalidRequest:
    if not isinstance(item, Invocation):
        raise PredictError("Not a request", expected="Invocation", got=type(item).__name__)
    try:
        return container.invoke(item)
    except (FailedInvocation, InvalidRequest) as exc:
        return exc
