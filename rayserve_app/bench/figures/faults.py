"""What one fault costs: each process between clients and models is killed once, and one model is
updated, under a steady load of several protocols, straight to the models and through the gateway.

Requests in flight at the victim are lost; nobody else's are. A refusal in the protocol's own words
is not lost, but counted. The gap is the longest time without a good answer of the model that the
fault meets, or of any, on the way that is worse off. It lasts `SECONDS_FACTOR * Effort.seconds`
from each fault on, once, whatever the rounds.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Final, NamedTuple, TypeAlias

from rayserve_app.bench import pictures
from rayserve_app.bench.envelopes import all_envelopes
from rayserve_app.bench.figures.figure import Figure, MeasurementFailed
from rayserve_app.bench.instance import Instance
from rayserve_app.bench.load import Target
from rayserve_app.bench.report import Bound, Row
from rayserve_app.bench.rounds import Effort
from rayserve_app.bench.steady_load import Asked, Outcomes, SteadyLoad

NAME: Final = "faults"
VICTIM: Final = "image-example"
OTHERS: Final = ("digits", "resnet-embedding")
GATEWAY: Final = "gateway"
"""Of `configs/app.yaml`."""

WAYS: Final = ("direct", "gateway")

RATE_PER_S: Final = 20.0
"""On each way."""

BEFORE_S: Final = 2.0
SECONDS_FACTOR: Final = 5


Times: TypeAlias = tuple[float, float]


class Fault(NamedTuple):
    """What happens, and what it may cost."""

    name: str
    title: str
    """Of the process that is killed, or none."""
    most_lost: int
    """Those that may be in flight at the victim."""
    most_gap_s: float | None
    models: tuple[str, ...] = (VICTIM, *OTHERS)
    """Whose answers are looked at for the gap."""


FAULTS: Final = (
    Fault("replica", f"ray::ServeReplica:{VICTIM}:", 2, None, (VICTIM,)),
    Fault("gateway", f"ray::ServeReplica:{GATEWAY}:", 2, None),
    Fault("HAProxy", "haproxy", 4, 2.0),
    Fault("HAProxy's manager", "ray::HAProxyManager", 0, 2.0),
    Fault("proxy actor", "ray::ProxyActor", 0, 0.5),
    Fault("controller", "ray::ServeController", 0, 0.5),
    Fault("update of one model", "", 0, 0.2, (VICTIM,)),
)
"""What has no bound for its gap waits for Serve to start a replica."""


async def measure(instance: Instance, effort: Effort) -> list[Row]:
    rows: list[Row] = []
    with instance:
        await meet(instance, lambda: None, 0.0, BEFORE_S)  # warm
        for fault in FAULTS:
            strike = striking(instance, fault)
            outcomes = await meet(instance, strike, BEFORE_S, SECONDS_FACTOR * effort.seconds)
            rows += rows_of(fault, *outcomes)
    return rows


def striking(instance: Instance, fault: Fault) -> Callable[[], None]:
    """Return what lets the fault happen."""

    def kill() -> None:
        found = instance.processes_named(fault.title)
        if not found:
            raise MeasurementFailed(f"There is no process {fault.title!r}")
        found[-1].kill()

    def update() -> None:
        instance.apply([_updated(each) for each in instance.applications])

    return kill if fault.title else update


def _updated(application: dict[str, object]) -> dict[str, object]:
    """Return the application as it is, or the victim with another share of the processor."""
    if application["name"] != VICTIM:
        return application
    changed = {"name": "Model", "ray_actor_options": {"num_cpus": 0.19}}
    return {**application, "deployments": [changed]}


async def meet(
    instance: Instance, strike: Callable[[], None], before_s: float, after_s: float
) -> tuple[Times, dict[str, Outcomes]]:
    """Return when the fault happened and until when its effects were looked at, and what became of
    the requests by their ways."""
    loads = {way: SteadyLoad(requests(instance, way), RATE_PER_S) for way in WAYS}
    async with AsyncExitStack() as stack:
        for load in loads.values():
            await stack.enter_async_context(load)
        await asyncio.sleep(before_s)
        moment = perf_counter()
        await asyncio.to_thread(strike)
        await asyncio.sleep(after_s)
        times = moment, perf_counter()
    return times, {way: load.outcomes.since(moment) for way, load in loads.items()}


def requests(instance: Instance, way: str) -> Sequence[Asked]:
    """Return those of one way, each protocol's in turn."""
    declared = {
        each["name"]: each["args"]["model"]
        for each in instance.applications[:]
        if "model" in each["args"]
    }
    small, large = pictures.png(pictures.SMALL_SIDE), pictures.jpeg(pictures.SIDE)

    def ask(model: str, target: Target) -> Asked:
        return Asked(model, declared[model]["deadline"]["latency_ms"] / 1e3, target)

    prefix = f"/{VICTIM}" if way == "direct" else ""
    victims = [
        ask(VICTIM, envelope.target(instance.url(prefix)))
        for envelope in all_envelopes(small, "image/png", VICTIM)
        if prefix or VICTIM in envelope.path
    ]
    others: list[Asked] = []
    paths = {"invoke": "models/{}/invoke", "endpoint": "endpoints/{}/invocations"}
    for model, image, kind, of_model in (
        (VICTIM, small, "png", victims),
        ("resnet-embedding", large, "jpeg", others),
    ):
        for path in paths.values():
            place = f"/{model}" if prefix else ""
            url = instance.url(f"{place}/{path.format(model)}")
            of_model.append(ask(model, Target.post(url, image, f"image/{kind}")))
    text = b'{"instances": [{"b64": "%s"}]}' % b64encode(small)
    place = "/digits" if prefix else ""
    url = instance.url(f"{place}/v1/models/digits:predict")
    others.append(ask("digits", Target.post(url, text, "application/json")))
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


def rows_of(fault: Fault, times: Times, outcomes: dict[str, Outcomes]) -> list[Row]:
    """Return what the fault cost: the requests that were lost, and the longest gap."""
    everything = Outcomes(each for of_way in outcomes.values() for each in of_way)
    gaps = {way: of.of(fault.models).longest_gap_s(*times) for way, of in outcomes.items()}
    others = [
        of.of({model}).longest_gap_s(*times)
        for of in outcomes.values()
        for model in (VICTIM, *OTHERS)
        if model not in fault.models
    ]
    counts = {f"{way}_lost": of.lost for way, of in outcomes.items()}
    counts |= {f"{way}_refused": of.refused for way, of in outcomes.items()}
    late = {f"{way}_late_s": of.latest_s for way, of in outcomes.items()}
    lost = Row(
        NAME,
        f"{fault.name}, lost",
        everything.lost,
        f"of {len(everything)}",
        Bound("at most", fault.most_lost),
        {**counts, **everything.statuses, **late},
    )
    details = {f"{way}_s": gap for way, gap in gaps.items()}
    details |= {"others_s": max(others)} if others else {}
    bound = None if fault.most_gap_s is None else Bound("at most", fault.most_gap_s)
    return [lost, Row(NAME, f"{fault.name}, gap", max(gaps.values()), "s", bound, details)]


FIGURE: Final = Figure(
    NAME,
    (VICTIM, "image-example-string", "yolov3", "deep_image_model", *OTHERS, GATEWAY),
    measure,
    starts_itself=True,
)
