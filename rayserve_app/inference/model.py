"""A served model: input codecs, preprocessing, the batcher and a backend, without Ray or HTTP."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter, time
from typing import Any, Final, Protocol, TypeVar

from rayserve_app.errors import InvalidRequest, ModelNotReady, PredictError, ServingError
from rayserve_app.inference.admission import Admission, Work
from rayserve_app.inference.answer_cache import Answers
from rayserve_app.inference.backend import Backend
from rayserve_app.inference.batcher import Batcher, Result, Target, check_outputs
from rayserve_app.inference.decoding import decode
from rayserve_app.inference.item_content import work_of
from rayserve_app.inference.observed_outputs import ObservedOutputs
from rayserve_app.inference.servables import Servable, Versions, describe_metadata
from rayserve_app.inference.warm_up import blank_item
from rayserve_app.metrics.recorder import Recorder
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.payloads.items import Encoded
from rayserve_app.payloads.outputs import named_arrays
from rayserve_app.process.cores import available_cores
from rayserve_app.process.timing import Timing
from rayserve_app.process.workers import Workers
from rayserve_app.settings.model import ModelSettings
from rayserve_app.types import Item, Outputs, Row

logger = logging.getLogger(__name__)

T = TypeVar("T")

INLINE_BYTES: Final = 1 << 12
"""Work that is done at once in the event loop, as a length of JSON of short values, which take some
30 ns a byte to read. The way to a thread and back takes 30 to 100 µs."""

ITEM_BYTES: Final = 1 << 6
"""What it takes to look at one item, in the same measure."""


class BatchQueue(Protocol):
    """What a model asks of a batcher."""

    @property
    def is_stalled(self) -> bool: ...

    @property
    def is_free(self) -> bool: ...

    @property
    def shortest_s(self) -> float: ...

    def end_s(self, coming: int) -> float: ...

    async def submit(
        self, items: Sequence[Item], target: Target, *, timeout_s: float, timing: Timing
    ) -> list[Result]: ...

    def close(self) -> None: ...


class Model:
    """One model and all that happens between a payload's items and their results.

    `load`, then `warm_up`, then `predict` from one event loop, then `close`.
    """

    def __init__(
        self,
        settings: ModelSettings,
        backend: Backend,
        *,
        name: str,
        recorder: Recorder | None = None,
        batcher: BatchQueue | None = None,
    ) -> None:
        self.settings = settings
        self.name = name
        self.backend = backend
        self.recorder = recorder or Recorder()
        self.is_warm = False
        self.batcher: BatchQueue = batcher or Batcher(
            settings.batching,
            recorder=self.recorder,
            deadline_s=settings.deadline.latency_ms / 1e3,
            is_instant=backend.is_instant,
        )
        decode_threads = settings.threads.decode or available_cores()
        self._decoders = Workers(decode_threads, "decode")
        self._admission = Admission(name, settings, self.batcher, decode_threads)
        self._deadline_s = settings.deadline.latency_ms / 1e3
        self._serve(Versions(name, settings, backend))

    @property
    def is_stalled(self) -> bool:
        """Whether the model is taken to hang: it needs another replica."""
        return self.batcher.is_stalled

    def load(self) -> None:
        """Load the backend. Blocks.

        Raises:
            LoadError, MissingDependency: with the model's name as path.
        """
        try:
            self.backend.load()
        except ServingError as exc:
            raise exc.at(self.name) from exc
        self._serve(Versions(self.name, self.settings, self.backend))

    def warm_up(self) -> None:
        """Run blank batches of one and of `max_batch_size` items through every version and
        signature for which there are blank items, so that no request pays for what a framework
        does only once. Blocks."""
        if self.settings.warm_up:
            for servable in self.versions:
                self._warm_up(servable)
        self.is_warm = True

    def select(self, version: str | None = None, signature: str | None = None) -> Servable:
        """Return what reads and predicts the items for a version and a signature, each the default
        one if None.

        Raises:
            VersionNotFound, InvalidRequest: there is none; the sentence lists those that are.
        """
        return self.versions.select(version, signature)

    async def predict(
        self,
        items: Sequence[Encoded],
        *,
        servable: Servable | None = None,
        timing: Timing | None = None,
        apart: bool = False,
    ) -> list[Result]:
        """Return one result per item; what the model makes of one item never touches another.

        Args:
            servable: what `select` returned, whose `inputs` have read the items; the default one
                if None.
            apart: whether the caller can tell that some of the items are not what the model takes,
                and the results of the others.
        Raises:
            ModelNotReady, Overloaded: try again later.
            DecodeError: an item is not what the model takes, of items `apart` none is; the path
                says which.
            DeadlineExceeded: not all results were there in time.
        """
        timing = timing or Timing()
        servable = servable or self.versions.default
        timing.inferences = inferences = self.recorder.inferences[servable.version]
        inferences.last_ms = round(time() * 1e3)
        deadline_s = self._deadline_s
        try:
            if self._answers is not None and items and not servable.parts_requests:
                results = await self._recall(
                    self._answers, items, servable, timing, deadline_s, apart
                )
            else:
                results = await self._predict(items, servable, timing, deadline_s, apart=apart)
            if apart and results and all(isinstance(each, InvalidRequest) for each in results):
                assert isinstance(results[0], InvalidRequest)
                raise results[0].at("[0]") if len(results) > 1 else results[0]
        except ServingError:
            inferences.fail.add(perf_counter() - timing.started_at)
            raise
        if any(isinstance(result, ServingError) for result in results):
            inferences.fail.add(perf_counter() - timing.started_at)
        else:
            timing.count(len(results))
        return results

    async def offload(self, call: Callable[[], T], work_bytes: int) -> T:
        """Run a call in a decode thread if it has more than INLINE_BYTES of work, else at once:
        nothing that takes long may hold up the event loop, and a thread costs more than a small
        body. What only the call refers to is freed in the thread as well."""
        if work_bytes <= INLINE_BYTES:
            return call()
        done = self._decoders.run(call)
        del call
        return await done

    def check_admission(self) -> None:
        """Raise what any request would get now, before its body is read."""
        self.check_ready()
        if self._answers is None:  # which may know the answer
            self._admission.check()

    def check_ready(self) -> None:
        """Raise ModelNotReady unless predictions can be expected to succeed."""
        if not self.is_warm:
            raise ModelNotReady(f"Model {self.name!r} is warming up")
        if self.batcher.is_stalled:
            raise ModelNotReady(f"Model {self.name!r} hangs and is about to be replaced")

    def describe(self) -> dict[str, Any]:
        """Return what a client may want to know, as JSON values."""
        settings = self.settings
        default = self.versions.default
        return {
            "name": self.name,
            "version": default.version,
            "signature": default.signature,
            "platform": self.metadata.platform,
            "ready": self.is_warm and not self.is_stalled,
            "input": settings.input.model_dump(mode="json", exclude_defaults=True),
            "output": settings.output.model_dump(mode="json"),
            **describe_metadata(default.metadata),
            "versions": self.versions.describe(),
            "max_batch_size": settings.batching.max_batch_size,
            "deadline_ms": settings.deadline.latency_ms,
            "limits": settings.limits.model_dump(mode="json", exclude_none=True),
            "protocols": list(settings.protocols),
        }

    def close(self) -> None:
        """Stop the threads and release the backend."""
        self.batcher.close()
        self._decoders.close()
        self.backend.close()

    def _serve(self, versions: Versions) -> None:
        self.versions = versions
        self.observed_outputs = ObservedOutputs()
        self.inputs: Inputs = versions.default.inputs
        self.metadata = versions.default.metadata
        self._answers: Answers | None = None
        if (cache := self.settings.cache) is not None:
            self._answers = Answers(
                int(cache.max_mb * 1e6), recorder=self.recorder, workers=self._decoders
            )

    def _warm_up(self, servable: Servable) -> None:
        blank = blank_item(servable.inputs, servable.metadata)
        if blank is None:
            return
        try:
            for count in sorted({1, self.settings.batching.max_batch_size}):
                self._observe(servable, servable.predict([blank] * count), count)
        except Exception as exc:
            # An image may be refused for what it shows. Of what is no default, a request will tell.
            if servable is self.versions.default and not isinstance(blank, str | bytes):
                raise
            logger.info(
                "Model %r, version %s, signature %s: not warmed up: %s",
                self.name,
                servable.version,
                servable.signature,
                exc,
            )

    def _observe(self, servable: Servable, outputs: Outputs, count: int) -> None:
        """See what the outputs of a model are that does not say it itself. What is wrong with them
        a request will tell."""
        if servable.metadata.outputs:
            return
        with contextlib.suppress(PredictError, TypeError):
            row = check_outputs(outputs, count)[0]
            if isinstance(row, Row):
                columns = named_arrays([row])
                self.observed_outputs.add(servable, {name: [columns[name]] for name in columns})

    async def _recall(
        self,
        answers: Answers,
        items: Sequence[Encoded],
        servable: Servable,
        timing: Timing,
        timeout_s: float,
        apart: bool,
    ) -> list[Result]:
        """Predict only what there is no answer to."""
        self.check_ready()
        servable.inputs.check_count(len(items))

        async def ask(places: Sequence[int], left_s: float) -> list[Result]:
            unknown = [items[place] for place in places]
            return await self._predict(
                unknown, servable, timing, left_s, places if len(items) > 1 else None, apart
            )

        scope = (servable.version, servable.signature)
        try:
            return await answers.predict(items, scope, ask, timeout_s=timeout_s, timing=timing)
        finally:
            timing.predicted_at = perf_counter()

    async def _predict(
        self,
        items: Sequence[Encoded],
        servable: Servable,
        timing: Timing,
        timeout_s: float,
        places: Sequence[int] | None = None,
        apart: bool = False,
    ) -> list[Result]:
        """Decode items, submit them and await their results.

        Args:
            places: where the items stand in their request, if they are not the whole of it.
        """
        started_at = perf_counter()
        inputs = servable.inputs
        target = servable.of_one_request() if servable.parts_requests else servable
        self.check_ready()
        inputs.check_count(len(items))
        if not items:
            return []
        step = len(items) * ITEM_BYTES
        if step <= INLINE_BYTES:
            work = work_of(inputs, items)
        else:
            work = await self.offload(partial(work_of, inputs, items), step)
        self._admission.begin(work, timeout_s)
        try:
            ready: Sequence[Any] = items
            if inputs.needs_decoding:
                await self.offload(partial(inputs.check_pixels, items), step)
                left_s = timeout_s - (perf_counter() - started_at)
                ready = await self._decode(items, inputs, work, timing, left_s, places, apart)
            left_s = max(0.0, timeout_s - (perf_counter() - started_at))
            submit = partial(self.batcher.submit, timeout_s=left_s, timing=timing)
            if not apart or not any(isinstance(item, ServingError) for item in ready):
                return await submit(ready, target)
            sound = [item for item in ready if not isinstance(item, ServingError)]
            results = iter(await submit(sound, target))
            return [item if isinstance(item, ServingError) else next(results) for item in ready]
        finally:
            timing.predicted_at = perf_counter()
            self._admission.end(work)

    async def _decode(
        self,
        items: Sequence[Encoded],
        inputs: Inputs,
        work: Work,
        timing: Timing,
        timeout_s: float,
        places: Sequence[int] | None,
        apart: bool,
    ) -> list[Item | InvalidRequest]:
        expected_s = self._admission.begin_decoding(work)
        try:
            return await decode(
                items,
                inputs,
                self._decoders,
                timeout_s=max(0.0, timeout_s),
                timing=timing,
                places=places,
                apart=apart,
            )
        finally:
            self._admission.end_decoding(work, expected_s, timing.decode_work)
