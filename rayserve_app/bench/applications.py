"""The applications that the figures measure: some as a Serve YAML declares them, some of the
bench's own. A run starts only what its figures need."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from rayserve_app.bench import cuda
from rayserve_app.bench.models import HEADS, MAX_IMAGES, TEXTURE_SIDE
from rayserve_app.bench.networks import SIDE
from rayserve_app.bench.subjects import CUDA, CUDA_FLOATS, Subject
from rayserve_app.errors import ConfigurationError
from rayserve_app.operations.serve_yaml import read_document
from rayserve_app.process.cores import available_cores

TWICE: Final = "{}-twice"
"""The name of a declared application with two replicas."""

GATEWAY: Final = "image-gateway"
"""One replica of a gateway, at the server's root, whose default model is `image-example`."""

NUM_CPUS: Final = 0.02
"""For placement only: with the YAML's own, all must fit on one core."""


def build_config(
    names: Collection[str], declared_in: Path, port: int, models: Path
) -> dict[str, Any]:
    """Return a Serve configuration with these applications, on a port of this machine alone.

    Args:
        declared_in: the Serve YAML that declares what is not the bench's own.
        models: the folder of what networks.py builds.
    Raises:
        ConfigurationError: neither declares an application of that name, or the YAML is none of
            Serve's.
    """
    config = read_document(declared_in)
    known = {each.get("name"): each for each in config.get("applications") or ()}
    known |= {twice["name"]: twice for twice in map(_twice, list(known.values()))}
    known |= {each["name"]: each for each in _own_applications(models)}
    missing = sorted(set(names) - known.keys())
    if missing:
        raise ConfigurationError(
            f"{declared_in} has no application {missing[0]!r}, which the figures measure",
            got=", ".join(map(str, known)),
        )
    return {
        **config,
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [known[name] for name in sorted(names)],
    }


def _twice(application: dict[str, Any]) -> dict[str, Any]:
    name = TWICE.format(application.get("name"))
    deployments = [
        {
            **each,
            "num_replicas": 2,
            "ray_actor_options": {**(each.get("ray_actor_options") or {}), "num_cpus": NUM_CPUS},
        }
        for each in application.get("deployments") or ()
    ]
    return {**application, "name": name, "route_prefix": f"/{name}", "deployments": deployments}


def _own_applications(models: Path) -> list[dict[str, Any]]:
    sleep = "rayserve_app.bench.models:sleep_50_ms"
    return [
        _closure("slot-first", sleep, {"type": "bytes"}, _batching("slot_first", wait_s=0.0)),
        _closure("serve-batch", sleep, {"type": "bytes"}, _batching("serve_batch", wait_s=0.05)),
        *_large_answers(),
        _colors(),
        _slow_neighbour(),
        *_overloaded(),
        *_framework_applications(models),
        _gateway(),
        _application("minimal", "rayserve_app.bench.peers.minimal_ingress:app", "Minimal"),
        _application("large", "rayserve_app.bench.peers.large_answer:app", "Large"),
        _application("bare", "rayserve_app.bench.peers.bare_replica:app", "Bare"),
    ]


def _large_answers() -> list[dict[str, Any]]:
    """Return two models of large answers: one to be timed, for it takes no time itself, and one
    whose memory counts: that has taken none before its first request."""
    image = {"type": "image", "codec": "packed_jpeg", "size": [512, 512], "scale": 1 / 255}
    others = {
        "output": {"codec": "npy", "outputs": list(HEADS)},
        "batching": {"max_batch_size": MAX_IMAGES},
    }
    models = "rayserve_app.bench.models"
    return [
        _closure("constant-heads", f"{models}:constant_heads", image, others),
        _closure("fresh-heads", f"{models}:fresh_heads", image, {**others, "warm_up": False}),
    ]


def _framework_applications(models: Path) -> list[dict[str, Any]]:
    """Return models that take over 20 ms per image, one for each framework but MXNet."""
    image = {"type": "image", "size": [SIDE, SIDE], "scale": 1 / 255}
    texture = {**image, "size": [TEXTURE_SIDE, TEXTURE_SIDE]}
    batches = {"batching": {"max_batch_size": 8}}
    module = {"module": "rayserve_app.bench.networks:create_network"}
    chw = {**image, "layout": "CHW"}
    # A batch on each core, so that none waits for a core that decodes another's images.
    side_by_side = {
        "batching": {"max_batch_size": 8, "max_concurrent_batches": available_cores()},
        "threads": {"compute": 1},
    }
    torch = _file_model("torch-network", "torch", models, chw, {**module, **side_by_side})
    return [
        _closure("texture", "rayserve_app.bench.models:band_energies", texture, batches),
        _file_model("tensorflow-network", "tensorflow", models, image, batches),
        _on_cpu(torch),
        _cuda(CUDA, models, chw, module, on_device=True),
        _cuda(CUDA_FLOATS, models, chw, module, on_device=False),
        _file_model("texture-package", "sagemaker", models, {"type": "request"}, {}),
    ]


def _on_cpu(application: dict[str, Any]) -> dict[str, Any]:
    """Keep a model from the GPU of a machine that has one."""
    if cuda.device_name() is None:
        return application
    return _with_options(application, runtime_env={"env_vars": {"CUDA_VISIBLE_DEVICES": ""}})


def _cuda(
    subject: Subject,
    models: Path,
    image: dict[str, Any],
    module: dict[str, Any],
    *,
    on_device: bool,
) -> dict[str, Any]:
    """Return PyTorch's network on a GPU that two share, of which one is measured at a time: one
    batch goes there while another runs."""
    batches = {"max_batch_size": subject.batch_size, "max_concurrent_batches": 2}
    others = {**module, "batching": batches, "normalize_on_device": on_device}
    application = _file_model(subject.application, "torch", models, image, others)
    return _with_options(application, num_gpus=0.5)


def _with_options(application: dict[str, Any], **options: Any) -> dict[str, Any]:
    (deployment,) = application["deployments"]
    all_options = {**deployment["ray_actor_options"], **options}
    return {**application, "deployments": [{**deployment, "ray_actor_options": all_options}]}


def _colors() -> dict[str, Any]:
    """Return a model that takes no time, so that images are decoded, whole, as fast as they can
    be: at a reduced size a large one would be cheaper than its pixels."""
    image = {"type": "image", "size": [TEXTURE_SIDE, TEXTURE_SIDE], "reduced_decode": "never"}
    function = "rayserve_app.bench.models:corner_colors"
    return _closure("corner-colors", function, image, {"batching": {"max_batch_size": 8}})


def _slow_neighbour() -> dict[str, Any]:
    """Return a model that computes on one core at most."""
    image = {"type": "image", "size": [TEXTURE_SIDE, TEXTURE_SIDE], "scale": 1 / 255}
    others = {"batching": {"max_batch_size": 8}, "threads": {"compute": 1, "decode": 1}}
    function = "rayserve_app.bench.models:band_energies"
    return _closure("slow-texture", function, image, others)


def _overloaded() -> list[dict[str, Any]]:
    """Return models to be asked for more than they can: two with unlike deadlines whose batches
    take 200 ms, and one whose images take long to decode, or hardly any time."""
    models = "rayserve_app.bench.models"
    batches = {"batching": {"max_batch_size": 8}}
    image = {"type": "image", "size": [TEXTURE_SIDE, TEXTURE_SIDE]}
    one_thread = {"threads": {"decode": 1}, "deadline": {"latency_ms": 3000}}
    return [
        _closure(
            name,
            f"{models}:sleep_200_ms",
            {"type": "bytes"},
            {**batches, "deadline": {"latency_ms": latency_ms}},
        )
        for name, latency_ms in (("hasty", 1500), ("patient", 6000))
    ] + [_closure("unlike-images", f"{models}:corner_colors", image, {**batches, **one_thread})]


def _file_model(
    name: str, backend: str, models: Path, inputs: dict[str, Any], others: dict[str, Any]
) -> dict[str, Any]:
    application = _application(name, f"deployments.{backend}:build", "Model")
    model = {"path": str(models / name), "input": inputs, **others}
    return {**application, "args": {"model": model}}


def _gateway() -> dict[str, Any]:
    application = _application(GATEWAY, "deployments.gateway:build", "Gateway")
    gateway = {"default_model": "image-example"}
    return {**application, "route_prefix": "/", "args": {"gateway": gateway}}


def _batching(mode: str, *, wait_s: float) -> dict[str, Any]:
    batching = {"mode": mode, "max_batch_size": 32, "batch_wait_timeout_s": wait_s}
    return {"batching": batching}


def _closure(
    name: str, function: str, inputs: dict[str, Any], others: dict[str, Any]
) -> dict[str, Any]:
    application = _application(name, "deployments.closure:build", "Model")
    return {**application, "args": {"model": {"function": function, "input": inputs, **others}}}


def _application(name: str, import_path: str, deployment: str) -> dict[str, Any]:
    return {
        "name": name,
        "route_prefix": f"/{name}",
        "import_path": import_path,
        "deployments": [{"name": deployment, "ray_actor_options": {"num_cpus": NUM_CPUS}}],
    }
