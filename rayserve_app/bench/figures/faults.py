"""What one fault costs: each process between clients and models is killed once, and one model is
updated, under a steady load of several protocols, straight to the models and through the gateway.

Requests in flight at the victim are lost; nobody else's are. A refusal in the protocol's own words
is not lost, but counted. The gap is the longest time without a good answer of the model that the
fault meets, or of any, on the way that is worse off. It is looked at for five times
`Effort.seconds` from each fault on, once, whatever the rounds.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Final, NamedTuple

from rayserve_app.bench import pictures
from rayserve_app.bench.envelopes import all_envelopes
from rayserve_app.bench.figure import Bound, Effort, Figure, MeasurementFailed, Row, at_most
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Target
from rayserve_app.bench.steady_load import Asked, Outcomes, SteadyLoad

VICTIM: Final = "image-example"
OTHERS: Final = ("digits", "resnet-embedding")
GATEWAY: Final = "gateway"
"""Of `configs/app.yaml`."""

RATE_PER_S: Final = 20.0
"""On each way."""

BEFORE_S: Final = 2.0
SECONDS_FACTOR: Final = 5


class Fault(NamedTuple):
    """What happens, and what it may cost."""

    name: str
    title: str
    """Of the process that is killed, or none."""
    most_lost: int
    """Those that may be in flight at the victim."""
    gap: Bound | None
    """In seconds; none where Serve has to start a replica."""
    models: tuple[str, ...] = (VICTIM, *OTHERS)
    """Whose answers are looked at for the gap."""


FAULTS: Final = (
    Fault("replica", f"ray::ServeReplica:{VICTIM}:", 2, None, (VICTIM,)),
    Fault("gateway", f"ray::ServeReplica:{GATEWAY}:", 2, None),
    Fault("HAProxy", "haproxy", 4, at_most(2)),
    Fault("HAProxy's manager", "ray::HAProxyManager", 0, at_most(2)),
    Fault("proxy actor", "ray::ProxyActor", 0, at_most(0.5)),
    Fault("controller", "ray::ServeController", 0, at_most(0.5)),
    Fault("update of one model", "", 0, at_most(0.2), (VICTIM,)),
)


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    rows: list[Row] = []
    with instance.running():
        await meet(instance, None, 0.0, BEFORE_S)  # warm
        for fault in FAULTS:
            rows += await meet(instance, fault, BEFORE_S, SECONDS_FACTOR * effort.seconds)
    return rows


async def meet(
    instance: Instance, fault: Fault | None, before_s: float, after_s: float
) -> list[Row]:
    """Let a fault happen under load; return what it cost."""
    direct, gateway = (SteadyLoad(requests(instance, way), RATE_PER_S) for way in (True, False))
    async with direct, gateway:
        await asyncio.sleep(before_s)
        times = [perf_counter()]
        if fault is not None:
            await asyncio.to_thread(_strike, instance, fault)
        await asyncio.sleep(after_s)
        times.append(perf_counter())
    ways = {"direct": direct.outcomes, "gateway": gateway.outcomes}
    since = {way: outcomes.since(times[0]) for way, outcomes in ways.items()}
    return [] if fault is None else rows_of(fault, times, since)


def _strike(instance: Instance, fault: Fault) -> None:
    if not fault.title:
        instance.apply([_updated(each) for each in instance.applications])
        return
    found = instance.processes_named(fault.title)
    if not found:
        raise MeasurementFailed(f"There is no process {fault.title!r}")
    found[-1].kill()


def _updated(application: dict[str, object]) -> dict[str, object]:
    """Return the application as it is, or the victim with another share of the processor."""
    if application["name"] != VICTIM:
        return application
    changed = {"name": "Model", "ray_actor_options": {"num_cpus": 0.19}}
    return {**application, "deployments": [changed]}


def requests(instance: Instance, is_direct: bool) -> list[Asked]:
    """Return those of one way, each protocol's in turn."""
    declared = {each["name"]: each["args"].get("model") for each in instance.applications}
    small, large = pictures.png(pictures.SMALL_SIDE), pictures.jpeg(pictures.SIDE)

    def ask(model: str, path: str, body: bytes, content_type: str) -> Asked:
        url = instance.url(f"/{model}{path}" if is_direct else path)
        deadline_s = declared[model]["deadline"]["latency_ms"] / 1e3
        return Asked(model, deadline_s, Target.post(url, body, content_type))

    prefix = instance.url(f"/{VICTIM}" if is_direct else "")
    victims = [
        ask(VICTIM, "", b"", "")._replace(target=envelope.target(prefix))
        for envelope in all_envelopes(small, "image/png", VICTIM)
        if is_direct or VICTIM in envelope.path
    ]
    others: list[Asked] = []
    for path in ("/models/{}/invoke", "/endpoints/{}/invocations"):
        victims.append(ask(VICTIM, path.format(VICTIM), small, "image/png"))
        embedding = "resnet-embedding"
        others.append(ask(embedding, path.format(embedding), large, "image/jpeg"))
    text = b'{"instances": [{"b64": "%s"}]}' % b64encode(small)
    others.append(ask("digits", "/v1/models/digits:predict", text, "application/json"))
    return spread(victims, others)


def spread(many: Sequence[Asked], few: Sequence[Asked]) -> list[Asked]:
    """Return both in one order, the few at even distances: the time from one of the many to the
    next is a gap that no fault has made."""
    places = [
        ((number + 0.5) / len(asked), each)
        for asked in (many, few)
        for number, each in enumerate(asked)
    ]
    return [each for _, each in sorted(places, key=lambda place: place[0])]


def rows_of(fault: Fault, times: Sequence[float], ways: Mapping[str, Outcomes]) -> list[Row]:
    """Return what the fault cost: the requests that were lost, and the longest gap."""
    since, until = times
    everything = Outcomes(each for outcomes in ways.values() for each in outcomes)
    details = everything.statuses
    gaps: dict[str, float] = {}
    for way, outcomes in ways.items():
        details[f"{way}_lost"] = outcomes.lost
        details[f"{way}_refused"] = outcomes.refused
        details[f"{way}_late_s"] = outcomes.latest_s
        gaps[f"{way}_s"] = outcomes.of(fault.models).longest_gap_s(since, until)
    lost, unit = [float(everything.lost)], f"of {len(everything)}"
    return [
        Row(f"{fault.name}, lost", lost, unit, at_most(fault.most_lost), {}, details),
        Row(f"{fault.name}, gap", [max(gaps.values())], "s", fault.gap, {}, gaps),
    ]


FIGURE: Final = Figure(
    (VICTIM, "image-example-string", "yolov3", "deep_image_model", *OTHERS, GATEWAY),
    measure,
    starts_itself=True,
)
