"""What stands under `args` in the YAML: the declaration of one model.

Unknown keys are refused with the key's path and the known ones. Settings open no files and import
no framework. Units ride in the names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    field_validator,
    model_validator,
)

from rayserve_app.settings.codecs import CODECS
from rayserve_app.settings.protocols import PROTOCOLS, CorsSettings, ProtocolNames, ProtocolSettings
from rayserve_app.settings.section import Section, SectionT, parse_section

InputType = Literal[
    "bytes", "string", "integers", "floats", "doubles", "image", "tensor", "tensors", "request"
]
OutputCodec = Literal["json", "csv", "npy", "raw"]
Interpolation = Literal["area", "nearest", "linear", "cubic", "lanczos"]

MAX_SURGE_PERCENT = 1
"""Of a deployment's replicas, rounded up, unless the YAML says otherwise: so many new ones start,
and are warm, before as many old ones drain. With Serve's default, 0, the one replica of a model
ends before the next one starts."""

LONGEST_DEADLINE_MS = 60_000
"""`RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S` in server/serve.env is this plus 5 s."""


Triple = tuple[float, float, float]


def _check_checksum(value: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ValueError("Not a SHA-256 checksum of 64 hex digits")
    return value.lower()


Checksum = Annotated[str, AfterValidator(_check_checksum)]
"""SHA-256 as `sha256sum` writes it."""


class InputSettings(Section):
    """What one item is, and the form in which clients send it."""

    type: InputType
    """`bytes`, `string`, `integers`, `floats` and `doubles` are Clipper's; `image` is decoded to
    pixels; `tensor` is one array; `tensors` a mapping of input name to array; `request` a whole
    body with its headers, for user code that reads them itself."""
    codec: str = "raw"
    """The form of one payload, one of settings/codecs.py: `raw`, `base64`, `base64_urlsafe`,
    `json_metadata`; or a stream of many images, `packed_jpeg`, `tfrecord` or `recordio`, in whose
    place a bare image is taken too."""
    strings_as: Literal["str", "bytes"] = "str"
    """How a closure receives strings: upstream Clipper on Python 3 hands over bytes."""
    size: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = None
    """Height and width in pixels that images are brought to."""
    resize: Literal["stretch", "short_side_crop"] = "stretch"
    """`stretch` resizes both sides; `short_side_crop` resizes the short side to `short_side` and
    cuts `size` from the centre."""
    short_side: Annotated[int, Field(gt=0)] | None = None
    interpolation: Interpolation = "area"
    """`area` averages where an image shrinks and is bilinear where it grows; the others are
    OpenCV's, whichever way. MXNet's own image functions are `cubic` by default."""
    reduced_decode: Literal["auto", "always", "never"] = "auto"
    """Whether a JPEG is decoded at a half, a quarter or an eighth of its size where that is at
    least twice the size that it is resized to: large photographs in a quarter of the time. `auto`
    does where `interpolation` is `area`: pixels of photographs differ by 0.5 of 255 on average, by
    2.5 at worst. `always` does for every interpolation, `never` for none."""
    color: Literal["RGB", "BGR", "gray"] = "RGB"
    layout: Literal["HWC", "CHW"] = "HWC"
    scale: float | None = None
    """Factor on the pixels 0..255; with it, or `mean` or `std`, pixels become float32."""
    mean: Triple | None = None
    """Subtracted per channel after `scale`."""
    std: Triple | None = None
    """Divides each channel after `mean`."""
    dtype: str | None = None
    """The tensor's numpy type, where the model does not say it itself."""
    shape: tuple[int, ...] | None = None
    """One item's shape without the batch axis, -1 for any, where the model does not say it."""

    @model_validator(mode="after")
    def _fits_type(self) -> Self:
        known = [name for name, each in CODECS.items() if self.type in each.types]
        if self.codec not in known:
            raise ValueError(
                f"codec {self.codec!r} does not carry type {self.type!r}; known: {', '.join(known)}"
            )
        pixels = ("size", "short_side", "scale", "mean", "std")
        if self.type != "image" and (
            given := [key for key in pixels if getattr(self, key) is not None]
        ):
            raise ValueError(f"{given[0]!r} is for type 'image', not {self.type!r}")
        if self.interpolation != "area" and self.size is None:
            raise ValueError("'interpolation' needs 'size'")
        if self.reduced_decode == "always" and self.size is None:
            raise ValueError("'reduced_decode' needs 'size'")
        if (self.resize == "short_side_crop") != (self.short_side is not None):
            raise ValueError("'resize: short_side_crop' and 'short_side' go together")
        if self.short_side is not None and self.size is None:
            raise ValueError("'short_side' needs 'size', which is cut from the centre")
        return self


class OutputSettings(Section):
    """How results are written where the client does not ask for a form."""

    codec: OutputCodec = "json"
    outputs: tuple[str, ...] = ()
    """Which of the model's outputs, in this order; all of them if empty."""


class BatchingSettings(Section):
    """How items become batches: `@serve.batch`'s own settings, counted in items, and one more."""

    mode: Literal["slot_first", "serve_batch"] = "slot_first"
    """`slot_first` takes the execution slot, then drains the queue; `serve_batch` is Ray's own
    batcher, `@serve.batch`."""
    max_batch_size: Annotated[int, Field(gt=0, le=4096)] = 10
    """Fewer where so many would take over 0.15 of the deadline, and smaller batches hardly cost
    more for each item."""
    batch_wait_timeout_s: Annotated[float, Field(ge=0, le=10)] = 0.0
    """How long a batch that is not full waits for more items, from its first item's arrival."""
    max_concurrent_batches: Annotated[int, Field(gt=0, le=64)] = 1
    """Batches that run at one time. On a GPU, 2 let one be copied while another computes, for the
    device memory of both; what waits is then parted into smaller batches, unless it is more than
    two full ones."""
    target_latency_ms: Annotated[float, Field(gt=0, le=LONGEST_DEADLINE_MS)] | None = None
    """Longest time that a batch is to take. The size that keeps it is learned, for each shape of
    items by itself, from one item up and never above `max_batch_size`. A request waits at most for
    the batch that runs when it comes and then for its own, as long as the load can be kept up
    with."""

    @model_validator(mode="after")
    def _learns_only_its_own_size(self) -> Self:
        if self.target_latency_ms is not None and self.mode != "slot_first":
            raise ValueError("'target_latency_ms' needs 'mode: slot_first'")
        return self


class LimitSettings(Section):
    """What a client may ask of a replica. Checked before any work is done."""

    max_body_mb: Annotated[float, Field(gt=0, le=1024)] = 64
    max_buffered_mb: Annotated[float, Field(gt=0)] = 1024
    """Bodies of all requests that a replica holds at one time."""
    max_pixels: Annotated[int, Field(gt=0)] = 50_000_000
    """Width times height of one image, read from its header before decoding."""
    max_request_pixels: Annotated[int, Field(gt=0)] = 100_000_000
    """Pixels of all images of one request together, at the size at which the model takes them."""
    max_items: Annotated[int, Field(gt=0)] = 1000
    """Items of one request."""
    max_queued_items: Annotated[int, Field(gt=0)] | None = None
    """Items waiting in a replica; 32 full batches, and at least `max_items`, if not set."""
    max_queued_mb: Annotated[float, Field(gt=0)] = 1024
    """Items waiting in a replica or being predicted, at the size at which the model takes them; a
    request that is larger is taken when nothing else waits."""
    body_timeout_s: Annotated[float, Field(gt=0)] = 10
    """Longest pause within a body; after it, `min_body_rate_kb_s` holds as well."""
    min_body_rate_kb_s: Annotated[float, Field(ge=0)] = 1


class ThreadSettings(Section):
    """Threads of one replica; as many as its process may use cores where not set."""

    decode: Annotated[int, Field(gt=0)] | None = None
    compute: Annotated[int, Field(gt=0)] | None = None


class DeadlineSettings(Section):
    """How long a caller waits, and what it gets then."""

    latency_ms: Annotated[float, Field(gt=0, le=LONGEST_DEADLINE_MS)] = 30_000
    default_output: Any = None
    """Clipper's answer to a late or failed prediction; a string is parsed as JSON if it is JSON."""

    @field_validator("default_output")
    @classmethod
    def _is_json(cls, value: Any) -> Any:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as exc:
            raise ValueError(f"not a JSON value: {exc}") from exc
        return value


class CacheSettings(Section):
    """Answers that are kept for equal items, for models whose answer depends on the item alone."""

    max_mb: Annotated[float, Field(gt=0)]
    """Answers that a replica keeps; those that were not asked for longest go first."""


class ModelSettings(Section):
    """One model of any framework, which may have keys of its own beside these."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    """The application's name if not set."""
    version: Annotated[str, Field(min_length=1)] = "1"
    input: InputSettings
    output: OutputSettings = OutputSettings()
    batching: BatchingSettings = BatchingSettings()
    limits: LimitSettings = LimitSettings()
    threads: ThreadSettings = ThreadSettings()
    deadline: DeadlineSettings = DeadlineSettings()
    cache: CacheSettings | None = None
    """Off if not set."""
    protocols: ProtocolNames = Field(default_factory=lambda: tuple(PROTOCOLS))
    """The protocols spoken under the model's prefix. Where two claim one path, the first answers,
    and the next one what that declines."""
    protocol_settings: ProtocolSettings = Field(default_factory=dict)
    """What a protocol lets one set, by its name."""
    cors: CorsSettings | None = None
    """Pages from elsewhere that a browser lets call the model, all of its protocols; none if not
    set. What comes through a gateway goes by the gateway's own."""
    warm_up: bool = True
    """Run the model on blank items of the smallest and the largest batch before it is ready;
    models whose input has no known shape have nothing to run."""

    @model_validator(mode="after")
    def _aims_within_the_deadline(self) -> Self:
        target_ms, latency_ms = self.batching.target_latency_ms, self.deadline.latency_ms
        if target_ms is not None and target_ms > latency_ms:
            raise ValueError(
                f"'batching.target_latency_ms' of {target_ms:g} is above"
                f" 'deadline.latency_ms' of {latency_ms:g}"
            )
        return self

    def of_protocol(self, name: str, settings_type: type[SectionT]) -> SectionT:
        """Return the settings of a protocol; their defaults where the YAML has none."""
        section = self.protocol_settings.get(name)
        return section if isinstance(section, settings_type) else settings_type()

    @property
    def max_queued_items(self) -> int:
        """Items that may wait in one replica."""
        most = self.limits.max_queued_items
        return most or max(32 * self.batching.max_batch_size, self.limits.max_items)


class FileSettings(ModelSettings):
    """A model that lies in files."""

    path: Annotated[str, Field(min_length=1)]
    """A directory, a file or an archive (`.tar`, `.tar.gz`, `.tgz`, `.zip`) on the replica's
    machine, a relative one below its working directory; or one at `s3://`, `gs://` or
    `https://`. rayserve_app/artifacts/sources.py says how each is read."""
    sha256: Checksum | None = None
    """Of the file or the archive; another content is not loaded."""


SettingsT = TypeVar("SettingsT", bound=ModelSettings)


def parse_settings(settings_type: type[SettingsT], args: Mapping[str, Any]) -> SettingsT:
    """Validate what stands under `args` in the YAML: one key, `model`.

    Raises:
        ConfigurationError: the first fault found, with the key's path.
    """
    return parse_section(settings_type, args, "model")
