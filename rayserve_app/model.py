"""A served model: input codecs, preprocessing, the batcher and a backend, without Ray or HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, Final, Protocol, TypeVar

from rayserve_app.answers import Answers
from rayserve_app.backend import Backend
from rayserve_app.batching import Batcher, Result, Target
from rayserve_app.blanks import blank_item
from rayserve_app.content import items_bytes
from rayserve_app.cores import available_cores
from rayserve_app.decoding import decode
from rayserve_app.encoded_inputs import Encoded
from rayserve_app.errors import (
    ModelNotReady,
    Overloaded,
    ServingError,
)
from rayserve_app.inputs import Inputs
from rayserve_app.recorder import Recorder
from rayserve_app.settings import ModelSettings
from rayserve_app.timing import Timing
from rayserve_app.types import Item
from rayserve_app.versions import Servable, Versions, describe_metadata
from rayserve_app.workers import Workers

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
        self._decoders = Workers(settings.threads.decode or available_cores(), "decode")
        self._pending_items = 0
        self._pending_bytes = 0
        self._most_bytes = int(settings.limits.max_queued_mb * 1e6)
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
    ) -> list[Result]:
        """Return one result per item; what the model makes of one item never touches another.

        Args:
            servable: what `select` returned, whose `inputs` have read the items; the default one
                if None.
        Raises:
            ModelNotReady, Overloaded: try again later.
            DecodeError: an item is not what the model takes; the path says which.
            DeadlineExceeded: not all results were there in time.
        """
        timing = timing or Timing()
        servable = servable or self.versions.default
        timeout_s = self.settings.deadline.latency_ms / 1e3
        if self._answers is not None and items and not servable.is_apart:
            return await self._recall(self._answers, items, servable, timing, timeout_s)
        return await self._predict(items, servable, timing, timeout_s)

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
        self._admit(0)

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
                servable.predict([blank] * count)
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

    async def _recall(
        self,
        answers: Answers,
        items: Sequence[Encoded],
        servable: Servable,
        timing: Timing,
        timeout_s: float,
    ) -> list[Result]:
        """Predict only what there is no answer to."""
        self.check_ready()
        servable.inputs.check_count(len(items))

        async def ask(places: Sequence[int], left_s: float) -> list[Result]:
            unknown = [items[place] for place in places]
            return await self._predict(
                unknown, servable, timing, left_s, places if len(items) > 1 else None
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
    ) -> list[Result]:
        """Decode items, submit them and await their results.

        Args:
            places: where the items stand in their request, if they are not the whole of it.
        """
        started_at = perf_counter()
        inputs = servable.inputs
        target = servable.apart() if servable.is_apart else servable
        work = len(items) * ITEM_BYTES
        if work <= INLINE_BYTES:
            size = items_bytes(inputs, items)
        else:
            size = await self.offload(partial(items_bytes, inputs, items), work)
        self._admit(len(items), size)
        if not items:
            return []
        self._pending_items += len(items)
        self._pending_bytes += size
        try:
            if not inputs.needs_decoding:
                return await self.batcher.submit(
                    items,  # type: ignore[arg-type]  # nothing is encoded that needs no decoding
                    target,
                    timeout_s=timeout_s,
                    timing=timing,
                )
            await self.offload(partial(inputs.check_pixels, items), work)
            left_s = max(0.0, timeout_s - (perf_counter() - started_at))
            decoded = await decode(
                items, inputs, self._decoders, timeout_s=left_s, timing=timing, places=places
            )
            left_s = max(0.0, timeout_s - (perf_counter() - started_at))
            return await self.batcher.submit(decoded, target, timeout_s=left_s, timing=timing)
        finally:
            timing.predicted_at = perf_counter()
            self._pending_items -= len(items)
            self._pending_bytes -= size

    def _admit(self, count: int, size: int = 0) -> None:
        self.check_ready()
        self.inputs.check_count(count)
        most = self.settings.max_queued_items
        if self._pending_items + max(count, 1) > most:
            raise Overloaded(
                f"The queue of model {self.name!r} is full: {self._pending_items} of {most} items"
            )
        if self._pending_bytes and self._pending_bytes + max(size, 1) > self._most_bytes:
            raise Overloaded(
                f"The queue of model {self.name!r} is full: {self._pending_bytes / 1e6:g} of"
                f" {self.settings.limits.max_queued_mb:g} MB"
            )
