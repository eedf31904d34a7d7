"""SageMaker's asynchronous invocations: accepted at once, answered in a file.

Source: botocore 1.43, sagemaker-runtime 2017-05-13, InvokeEndpointAsync. Inputs are read and
results written only where the YAML allows it (places.py). Invocations wait in the memory of the
replica that took them: one that ends takes them along, and its clients find neither result nor
failure.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Final, NamedTuple

from rayserve_app.errors import (
    BackendError,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ServingError,
    Unavailable,
    release,
)
from rayserve_app.inference.model import Model
from rayserve_app.process.timing import Timing
from rayserve_app.process.workers import Workers
from rayserve_app.protocols.sagemaker.invocation import Invoker
from rayserve_app.protocols.sagemaker.places import Place, open_place
from rayserve_app.protocols.sagemaker.settings import SageMakerSettings
from rayserve_app.settings.locations import split
from rayserve_app.types import Buffer
from rayserve_app.web.messages import Response

logger = logging.getLogger(__name__)

# The service model's own limits.
MAX_INLINE_BYTES: Final = 128_000
TTL_S: Final = range(60, 21_601)
TIMEOUT_S: Final = range(1, 3_601)
DEFAULT_TIMEOUT_S: Final = 900
PATH_EXTENSION: Final = re.compile(r"(?!s3:|https:)[a-zA-Z0-9!_.*'()/-]{1,512}")
FILENAME: Final = re.compile(r"(?!.*\..*\.)[a-zA-Z0-9][a-zA-Z0-9\-_.]{0,31}")


class NotStarted(InvalidRequest):
    """An invocation was given up before the model saw it."""


class Input(NamedTuple):
    """A file that the YAML allows to be read."""

    place: Place
    names: tuple[str, ...]

    def read(self, max_bytes: int) -> Buffer:
        return self.place.read(self.names, max_bytes)


class AsyncRequest(NamedTuple):
    """One accepted invocation."""

    inference_id: str
    source: Input | bytes
    output: tuple[str, ...]
    failure: tuple[str, ...]
    content_type: str | None
    accept: str | None
    custom_attributes: str | None
    headers: tuple[tuple[str, str], ...]
    expires_at: float
    """By `time.monotonic`: when it is given up unless it has begun."""
    timeout_s: float


class AsyncInvocations:
    """What one replica was asked to do later, and does."""

    def __init__(
        self,
        model: Model,
        output: str,
        render_failure: Callable[[Response | ServingError], Response],
    ) -> None:
        """
        Args:
            output: the place that takes results and failures.
            render_failure: returns what is written where an invocation failed, or where user code
                answered with another status than success.
        """
        settings = model.settings.of_protocol("sagemaker", SageMakerSettings)
        self._model = model
        self._render_failure = render_failure
        self._inputs = [open_place(each) for each in settings.async_input]
        self._output = open_place(output)
        self._most = settings.async_max_pending
        self._slots = asyncio.Semaphore(settings.async_concurrency)
        self._workers = Workers(settings.async_concurrency, "sagemaker-async")
        self._running: set[asyncio.Task[None]] = set()

    def find_input(self, location: str) -> Input:
        """Return the file of a location.

        Raises:
            InvalidRequest: the YAML allows none there.
        """
        for place in self._inputs:
            names = place.find(location)
            if names is not None:
                return Input(place, names)
        raise InvalidRequest(
            "InputLocation is nowhere from where this endpoint reads",
            got=repr(location),
            remedy="The model's `protocol_settings.sagemaker.async_input` says where it may.",
        )

    def submit(self, request: AsyncRequest) -> tuple[str, str]:
        """Take an invocation; return the locations of its result and of its failure.

        Raises:
            Overloaded: too many wait.
        """
        if len(self._running) >= self._most:
            raise Overloaded(f"{self._most} asynchronous invocations wait already")
        task = asyncio.get_running_loop().create_task(self._run(request))
        self._running.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._running.discard)
        return self._output.location(request.output), self._output.location(request.failure)

    async def _run(self, request: AsyncRequest) -> None:
        outcome: Response | ServingError
        try:
            outcome = await self._answer(request)
        except ServingError as exc:
            release(exc)
            outcome = exc
        except Exception:
            logger.exception("Asynchronous invocation %s failed", request.inference_id)
            outcome = BackendError("Internal error; the replica's log has the details")
        if isinstance(outcome, Response) and 200 <= outcome.status < 300:
            if await self._write(request, request.output, outcome):
                return
            outcome = BackendError("The result cannot be written")
        await self._write(request, request.failure, self._render_failure(outcome))

    async def _write(
        self, request: AsyncRequest, names: tuple[str, ...], response: Response
    ) -> bool:
        """Write one file; return whether that went well."""
        try:
            content_type = response.headers.get("content-type")
            await self._workers.run(
                partial(self._output.write, names, response.buffers, content_type)
            )
        except ServingError as exc:
            logger.warning("Asynchronous invocation %s: %s", request.inference_id, exc)
            return False
        return True

    async def _answer(self, request: AsyncRequest) -> Response:
        try:
            async with asyncio.timeout(request.expires_at - monotonic()):
                await self._slots.acquire()
        except TimeoutError as exc:
            raise NotStarted("The request expired before its turn came") from exc
        try:
            async with asyncio.timeout(request.timeout_s):
                return await self._invoke(request)
        except TimeoutError as exc:
            raise DeadlineExceeded(f"The invocation took over {request.timeout_s:g} s") from exc
        finally:
            self._slots.release()

    async def _invoke(self, request: AsyncRequest) -> Response:
        invoker = Invoker(
            self._model,
            content_type=request.content_type,
            accept=request.accept,
            custom_attributes=request.custom_attributes,
            headers=lambda: request.headers,
        )
        while True:
            try:
                self._model.check_admission()
                body = await self._read(request.source)
                return await invoker.answer(body, Timing())
            except Unavailable as exc:
                # It waits: that is what asynchronous invocations are for.
                if monotonic() + exc.retry_after_s > request.expires_at:
                    raise
                await asyncio.sleep(exc.retry_after_s)

    async def _read(self, source: Input | bytes) -> Buffer:
        if isinstance(source, bytes):
            return source
        most = int(self._model.settings.limits.max_body_mb * 1e6)
        try:
            return await self._workers.run(partial(source.read, most))
        except InvalidRequest as exc:
            raise NotStarted(str(exc)) from exc


def output_names(
    path_extension: str | None, filename: str | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return where below the output place a result and a failure go.

    Names that clients do not choose are random, since an InferenceId may come twice.

    Raises:
        InvalidRequest: not such a path or name.
    """
    folder: Sequence[str] = ()
    if path_extension is not None:
        if not PATH_EXTENSION.fullmatch(path_extension):
            raise InvalidRequest("Not an S3OutputPathExtension", got=repr(path_extension[:600]))
        folder = split(path_extension.strip("/"))
    if filename is not None and not FILENAME.fullmatch(filename):
        raise InvalidRequest("Not a Filename", got=repr(filename[:100]))
    stem = filename or uuid.uuid4().hex
    result = filename or f"{stem}.out"
    return (*folder, result), (*folder, f"{stem}-error.out")
