"""What a model has counted, as Prometheus scrapes it.

Sources: Prometheus' text-based format 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats)
and OpenMetrics 1.0.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rayserve_app.metrics.recorder import Recorder
from rayserve_app.metrics.totals import METRICS, samples

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPEN: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

MEDIA_TYPES: Final = (TEXT, OPEN)

_FORMS: Final = {"text/plain": TEXT, "application/openmetrics-text": OPEN}

_JSON: Final = "application/json"

_OF_A_HISTOGRAM: Final = ("_bucket", "_sum", "_count")

_END: Final = "# EOF"


def wanted(accept: str | None) -> str | None:
    """Return the media type of the format that `Accept` asks for by name; None if it asks for none
    of them, or rather for JSON."""
    qualities = _qualities(accept or "")
    named = [name for name in qualities if name in (*_FORMS, _JSON) and qualities[name] > 0]
    best = max(named, key=lambda name: qualities[name], default=_JSON)  # the first of equals
    return _FORMS.get(best)


def write(recorder: Recorder, labels: Mapping[str, str], media_type: str) -> bytes:
    """Return a recorder's totals, each with these labels beside its own."""
    lines: list[str] = []
    known = ""
    for name, tags, total in samples(recorder):
        family = _family(name)
        if family != known:
            lines += _head(family, media_type)
            known = family
        written = ",".join(
            f'{key}="{_escaped(_value(key, text))}"' for key, text in {**labels, **tags}.items()
        )
        lines.append(f"{_sample_name(name)}{{{written}}} {total!r}")
    if media_type == OPEN:
        lines.append(_END)
    return ("\n".join(lines) + "\n").encode(errors="replace")


def merge(bodies: Sequence[bytes]) -> bytes:
    """Return what `write` has made for several models as one: a family's samples stand together."""
    families: dict[bytes, tuple[list[bytes], list[bytes]]] = {}
    end: list[bytes] = []
    for body in bodies:
        samples_of_family: list[bytes] = []
        for line in body.split(b"\n"):
            if line == _END.encode():
                end = [line]
            elif line.startswith(b"# "):
                head, samples_of_family = families.setdefault(line.split(b" ", 3)[2], ([], []))
                if line not in head:
                    head.append(line)
            elif line:
                samples_of_family.append(line)
    lines = [line for head, below in families.values() for line in (*head, *below)]
    return b"".join(line + b"\n" for line in (*lines, *end))


def _qualities(accept: str) -> dict[str, float]:
    """Return the best quality of each media type of `Accept` (RFC 9110, section 12.5.1)."""
    qualities: dict[str, float] = {}
    for part in accept.split(","):
        name, *parameters = (each.strip().lower() for each in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        qualities[name] = max(quality, qualities.get(name, 0.0))
    return qualities


def _family(name: str) -> str:
    """Return a metric's name without what a histogram's samples have behind it."""
    for suffix in _OF_A_HISTOGRAM:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name


def _sample_name(name: str) -> str:
    return name if name.endswith(_OF_A_HISTOGRAM) else f"{name}_total"


def _head(family: str, media_type: str) -> list[str]:
    is_histogram = family not in METRICS
    description = METRICS[f"{family}_sum" if is_histogram else family][0]
    # Of a counter, only OpenMetrics tells the family's name from the sample's.
    name = family if is_histogram or media_type == OPEN else _sample_name(family)
    kind = "histogram" if is_histogram else "counter"
    return [f"# HELP {name} {_escaped(description)}", f"# TYPE {name} {kind}"]


def _value(key: str, text: str) -> str:
    """Return a label's value; a bucket's bound as OpenMetrics writes numbers."""
    return repr(float(text)) if key == "le" and text != "+Inf" else text


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
