"""Decodes the images of one request side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import chain
from time import perf_counter
from typing import Final, NamedTuple

import numpy as np

from rayserve_app.errors import DeadlineExceeded, InvalidRequest, ServingError, release
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.payloads.items import Encoded
from rayserve_app.process.timing import Timing
from rayserve_app.process.workers import Workers
from rayserve_app.types import Array, Item

MOST_JOBS: Final = 64
"""Jobs for which one request's images are handed to the decode threads, several in each if they are
more."""


async def decode(
    items: Sequence[Encoded],
    inputs: Inputs,
    workers: Workers,
    *,
    timeout_s: float,
    timing: Timing,
    places: Sequence[int] | None = None,
    apart: bool = False,
) -> list[Item | InvalidRequest]:
    """Return a request's images decoded, each to a part of one batch if there are several.

    Args:
        apart: whether one that cannot be decoded stands there as its error.
        timing: gets the seconds until the first begins, from then on, and of all threads.
        places: where the items stand in their request, if they are not the whole of it.
    Raises:
        DecodeError: of several images, the path says which; not of images `apart`.
        DeadlineExceeded: it took longer than `timeout_s`.
    """
    if places is None and len(items) > 1:
        places = range(len(items))
    asked_at = perf_counter()
    spaces = _item_spaces(inputs, len(items))
    size = -(-len(items) // MOST_JOBS)
    jobs = [
        workers.run(
            partial(_decode, inputs, items[start : start + size], spaces[start : start + size])
        )
        for start in range(0, len(items), size)
    ]
    try:
        async with asyncio.timeout(timeout_s):
            done = await asyncio.gather(*jobs)
    except TimeoutError as exc:
        raise DeadlineExceeded(
            f"Decoding took longer than the deadline of {timeout_s * 1e3:.0f} ms"
        ) from exc
    timing.decode_work = sum(each.seconds for each in done)
    decoded: list[Item | InvalidRequest] = []
    for index, outcome in enumerate(chain.from_iterable(each.outcomes for each in done)):
        if isinstance(outcome, InvalidRequest) and apart:
            decoded.append(outcome)
        elif isinstance(outcome, ServingError) and places is not None:
            raise outcome.at(f"[{places[index]}]") from outcome.__cause__
        elif isinstance(outcome, Exception):
            raise outcome
        else:
            decoded.append(outcome)
    first_start = min(each.started_at for each in done)
    timing.queue = first_start - asked_at
    timing.decode = perf_counter() - first_start
    return decoded


def _item_spaces(inputs: Inputs, count: int) -> Sequence[Array | None]:
    """Return where to decode each item to: side by side, so that they are a batch already."""
    preprocess = inputs.preprocess
    if count == 1 or preprocess.shape is None:
        return [None] * count
    return list(np.empty((count, *preprocess.shape), preprocess.dtype))


class _Decoded(NamedTuple):
    """What some images were decoded to, or why not; when that began, and how long it took."""

    outcomes: list[Item | Exception]
    started_at: float
    seconds: float


def _decode(inputs: Inputs, items: Sequence[Encoded], spaces: Sequence[Array | None]) -> _Decoded:
    started_at = perf_counter()
    pairs = zip(items, spaces, strict=True)
    outcomes = [_outcome(inputs, item, space) for item, space in pairs]
    return _Decoded(outcomes, started_at, perf_counter() - started_at)


def _outcome(inputs: Inputs, item: Encoded, space: Array | None) -> Item | Exception:
    try:
        return inputs.decode(item, space)
    except ServingError as exc:
        release(exc)
        return exc
    except Exception as exc:
        return exc
