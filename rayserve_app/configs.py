"""A Serve YAML, checked before anything starts.

Serve drops keys that it does not know without a word, and finds out about the rest when replicas
fail to start. The values of Serve's own keys are left to Serve, which does refuse wrong ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml

from rayserve_app.cores import available_cores
from rayserve_app.errors import ConfigurationError
from rayserve_app.importing import import_from_string
from rayserve_app.server.settings import file_beside, serve_environment
from rayserve_app.settings import DeadlineSettings

Keys: TypeAlias = "Mapping[str, Keys | tuple[Keys] | None]"
"""What a section may hold: under each key a section, a list of sections, or (None) any value."""


def _values(names: str) -> dict[str, None]:
    return dict.fromkeys(names.split())


_LOGGING: Keys = _values(
    "encoding log_level logs_dir enable_access_log additional_log_standard_attrs"
)

_RUNTIME_ENV: Keys = _values(
    "conda config container env_vars excludes image_uri java_jars pip py_executable py_modules uv"
    " worker_process_setup_hook working_dir"
)

_AUTOSCALING: Keys = {
    **_values(
        "min_replicas initial_replicas max_replicas target_ongoing_requests metrics_interval_s"
        " look_back_period_s smoothing_factor upscale_smoothing_factor downscale_smoothing_factor"
        " upscaling_factor downscaling_factor downscale_delay_s downscale_to_zero_delay_s"
        " upscale_delay_s aggregation_function"
    ),
    "policy": _values("policy_function policy_kwargs"),
}

_DEPLOYMENT: Keys = {
    **_values(
        "name num_replicas max_ongoing_requests max_queued_requests user_config"
        " graceful_shutdown_wait_loop_s graceful_shutdown_timeout_s health_check_period_s"
        " health_check_timeout_s placement_group_bundles placement_group_strategy"
        " placement_group_bundle_label_selector max_replicas_per_node rolling_update_percentage"
        " max_surge_percent"
    ),
    "autoscaling_config": _AUTOSCALING,
    "backpressure_config": _values("status_code retry_after_s"),
    "deployment_actors": (_values("name actor_class init_args init_kwargs actor_options"),),
    "gang_scheduling_config": _values("gang_size gang_placement_strategy runtime_failure_policy"),
    "logging_config": _LOGGING,
    "ray_actor_options": {
        **_values(
            "num_cpus num_gpus memory resources accelerator_type label_selector fallback_strategy"
        ),
        "runtime_env": _RUNTIME_ENV,
    },
    "request_router_config": _values(
        "request_router_class request_router_kwargs request_routing_stats_period_s"
        " request_routing_stats_timeout_s initial_backoff_s backoff_multiplier max_backoff_s"
    ),
}

SERVE_KEYS: Keys = {
    **_values("proxy_location target_capacity"),
    "applications": (
        {
            **_values("name route_prefix import_path host port autoscaling_policy args"),
            **_values("external_scaler_enabled"),
            "deployments": (_DEPLOYMENT,),
            "logging_config": _LOGGING,
            "runtime_env": _RUNTIME_ENV,
        },
    ),
    "controller_options": _values("runtime_env"),
    "grpc_options": _values("port grpc_servicer_functions request_timeout_s enable_reflection"),
    "http_options": _values(
        "host port root_path request_timeout_s keep_alive_timeout_s ssl_keyfile ssl_certfile"
        " ssl_keyfile_password ssl_ca_certs"
    ),
    "logging_config": _LOGGING,
    "tracing_config": _values("enabled exporter_import_path sampling_ratio"),
}
"""All keys of Ray 2.60's `ServeDeploySchema`; a test compares the two."""

OWN_BUILDERS = "deployments."
"""Where the builders lie that read nothing but their argument; others may do anything."""

ANSWER_MARGIN_S = 5
"""HAProxy gives up so much later than the model, so that the model's own answer comes first."""


class Demand(NamedTuple):
    """What the replicas of one deployment ask for."""

    num_cpus: float
    num_gpus: float
    at_least: int
    at_start: int
    at_most: int


def read_document(path: Path) -> dict[str, Any]:
    """Read a Serve YAML."""
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read", got=str(error)) from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not YAML", got=" ".join(str(error).split())) from error
    return _section(document, "")


def check_files(
    paths: Sequence[Path], *, environment_file: Path | None = None, cores: float | None = None
) -> int:
    """Check Serve YAMLs, and say how each fares.

    Args:
        environment_file: variables of Serve's; for each YAML the `serve.env` beside it, if any.
    Returns: the exit status: 1 if one has a fault.
    """
    status = 0
    cores = available_cores() if cores is None else cores
    for path in paths:
        try:
            environment = serve_environment(environment_file or file_beside(path), os.environ)
            check(read_document(path), environment, cores=cores)
        except ConfigurationError as error:
            print(f"{path}: {error}", file=sys.stderr)
            status = 1
        else:
            print(f"{path}: no fault found")
    return status


def check(document: Mapping[str, Any], environment: Mapping[str, str], *, cores: float) -> None:
    """Check a Serve config for this environment and a machine, or a cluster, of so many cores.

    Raises: ConfigurationError: the first fault found, with the key's path.
    """
    check_keys(document, SERVE_KEYS)
    for application in document.get("applications") or ():
        if str(application.get("import_path")).startswith(OWN_BUILDERS):
            path = f"applications[{application.get('name', 'default')}]"
            _check_arguments(application, path)
            _check_deadline(application, environment, path)
    asked = sum(demand.num_cpus * demand.at_start for demand in demands(document))
    if asked > cores:
        raise ConfigurationError(
            "The replicas that start first can never all be placed",
            expected=f"at most {cores:g} CPUs in all",
            got=f"{asked:g}",
            path="applications",
            remedy="num_cpus is a share for placement, not a number of threads",
        )


def check_keys(value: object, known: Keys, path: str = "") -> None:
    """Refuse a key, at any depth, that Serve would drop."""
    for key, below in _section(value, path).items():
        at = f"{path}.{key}" if path else str(key)
        if key not in known:
            names = ", ".join(sorted(known))
            raise ConfigurationError(f"Unknown key {key!r}", path=at, remedy=f"Known: {names}")
        table = known[key]
        if below is None or table is None:
            continue
        if not isinstance(table, tuple):
            check_keys(below, table, at)
            continue
        if not isinstance(below, list):
            got = type(below).__name__
            raise ConfigurationError("Not a list", expected="a list", got=got, path=at)
        for index, item in enumerate(below):
            name = item.get("name", index) if isinstance(item, dict) else index
            check_keys(item, table[0], f"{at}[{name}]")


def demands(document: Mapping[str, Any]) -> Iterator[Demand]:
    """Yield what each deployment asks for; one that the YAML leaves out has Serve's defaults."""
    for application in document.get("applications") or ():
        for deployment in application.get("deployments") or [{}]:
            options = deployment.get("ray_actor_options") or {}
            yield Demand(
                _number(options, "num_cpus", 1),
                _number(options, "num_gpus", 0),
                *map(int, _replicas(deployment)),
            )


def _replicas(deployment: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return a deployment's number of replicas: at least, at the start, at most."""
    is_auto = deployment.get("num_replicas") == "auto"
    scaling = deployment.get("autoscaling_config")
    if scaling is None and not is_auto:
        return (_number(deployment, "num_replicas", 1),) * 3
    scaling = scaling or {}
    at_least = _number(scaling, "min_replicas", 1)
    at_start = _number(scaling, "initial_replicas", at_least)
    return at_least, at_start, _number(scaling, "max_replicas", 100 if is_auto else 1)


def _number(section: Mapping[str, Any], key: str, default: float) -> float:
    value = section.get(key)
    if value is None:
        return default
    if isinstance(value, int | float):
        return value
    raise ConfigurationError("Not a number", got=repr(value), path=key)


def _check_arguments(application: Mapping[str, Any], path: str) -> None:
    build = import_from_string(application["import_path"], path=f"{path}.import_path")
    try:
        build(application.get("args") or {})
    except ConfigurationError as error:
        raise error.at(path) from error.__cause__


def _check_deadline(
    application: Mapping[str, Any], environment: Mapping[str, str], path: str
) -> None:
    timeout_s = environment.get("RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S")
    model = (application.get("args") or {}).get("model")
    if not model or not timeout_s or environment.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
        return
    deadline = model.get("deadline", {})
    latency_ms = deadline.get("latency_ms", DeadlineSettings().latency_ms)
    most_ms = (float(timeout_s) - ANSWER_MARGIN_S) * 1000
    if latency_ms > most_ms:
        raise ConfigurationError(
            "HAProxy gives up before the model does",
            expected=f"at most {most_ms:g}",
            got=f"{latency_ms:g}",
            path=f"{path}.args.model.deadline.latency_ms",
            remedy="Or raise RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S",
        )


def _section(value: object, path: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    got = type(value).__name__
    raise ConfigurationError("Not a section", expected="a mapping", got=got, path=path)
