"""The time that one request spent in each stage."""

from __future__ import annotations

from time import perf_counter

from rayserve_app.metrics.recorder import Inferences, Recorder


class Timing:
    """Seconds per stage of one request; `predict` of a request that was split over several
    batches is the longest of them, `batch_items` the largest."""

    __slots__ = (
        "batch_items",
        "batch_wait",
        "decode",
        "decode_work",
        "encode",
        "inferences",
        "predict",
        "predicted_at",
        "queue",
        "started_at",
    )

    def __init__(self) -> None:
        self.started_at = perf_counter()
        self.inferences: Inferences | None = None
        """Among which the request is counted; None until it is at the model."""
        self.queue = 0.0
        self.decode = 0.0
        self.decode_work = 0.0
        """Of all threads together."""
        self.batch_wait = 0.0
        self.predict = 0.0
        self.encode = 0.0
        self.batch_items = 0
        """Items in the batch, those of other requests too; 0 if there was none."""
        self.predicted_at = 0.0
        """When the results were there, by `time.perf_counter`; 0 until then."""

    def count(self, items: int) -> None:
        """Count a request whose results are there, with its time until now; writing them is still
        to come."""
        assert self.inferences is not None
        self.inferences.add(
            items,
            total_s=perf_counter() - self.started_at,
            queue_s=self.queue + self.batch_wait,
            input_s=self.decode,
            infer_s=self.predict,
        )

    def record(self, recorder: Recorder) -> None:
        """Add this request to the replica's counters; a stage that it had no part in is none."""
        for name, histogram in recorder.stage_seconds.items():
            if seconds := getattr(self, name):
                histogram.observe(seconds)

    def header(self) -> str:
        """Render `Server-Timing` (W3C Server Timing): durations in milliseconds, and the batch's
        size as the description of `predict`."""
        items = self.batch_items
        batch = f';desc="{items} item{"s" if items > 1 else ""}"' if items else ""
        return (
            f"queue;dur={self.queue * 1e3:.3f}, decode;dur={self.decode * 1e3:.3f}, "
            f"batch_wait;dur={self.batch_wait * 1e3:.3f}, "
            f"predict;dur={self.predict * 1e3:.3f}{batch}, encode;dur={self.encode * 1e3:.3f}"
        )
