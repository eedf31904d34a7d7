"""What may stand in a Serve YAML: Serve's keys, and the values that our commands read.

Serve drops keys that it does not know without a word. The other values are Serve's to refuse
(deployments/serve_schema.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import yaml

from rayserve_app.errors import ConfigurationError
from rayserve_app.settings.section import shown

OWN_BUILDERS: Final = "deployments."
"""Where the builders lie that read nothing but their argument; others may do anything."""

MOST: Final = 2**31 - 1
"""The largest count, which Serve's messages hold in 32 bits."""


class Kind(NamedTuple):
    """The values of a key that our commands read."""

    words: str
    holds: Callable[[Any], bool]


Keys: TypeAlias = "Mapping[str, Keys | tuple[Keys] | Kind | None]"
"""What a section may hold: under each key a section, a list of sections, a value of a kind, or any
value (None). What is null is left out."""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def _is_share(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and isfinite(value) and 0 <= value <= MOST)


_TEXT = Kind("text", lambda value: isinstance(value, str))
_WHOLE = Kind("a whole number of at least 0", _is_whole)
_SHARE = Kind("a number of at least 0", _is_share)
_REPLICAS = Kind("a whole number, or `auto`", lambda value: value == "auto" or _is_whole(value))
_PORT = Kind("a number from 1 to 65535", lambda value: _is_whole(value) and 0 < value < 65536)
_LIST = Kind("a list", lambda value: isinstance(value, list))
_SECTION = Kind("a mapping", lambda value: isinstance(value, dict))


def _values(names: str, kind: Kind | None = None) -> dict[str, Kind | None]:
    return dict.fromkeys(names.split(), kind)


_LOGGING: Keys = _values(
    "encoding log_level logs_dir enable_access_log additional_log_standard_attrs"
)

_RUNTIME_ENV: Keys = _values(
    "conda config container env_vars excludes image_uri java_jars pip py_executable py_modules uv"
    " worker_process_setup_hook working_dir"
)

_AUTOSCALING: Keys = {
    **_values("min_replicas initial_replicas max_replicas", _WHOLE),
    **_values(
        "target_ongoing_requests metrics_interval_s look_back_period_s"
        " smoothing_factor upscale_smoothing_factor downscale_smoothing_factor"
        " upscaling_factor downscaling_factor downscale_delay_s downscale_to_zero_delay_s"
        " upscale_delay_s aggregation_function"
    ),
    "policy": _values("policy_function policy_kwargs"),
}

_DEPLOYMENT: Keys = {
    **_values("name", _TEXT),
    **_values("num_replicas", _REPLICAS),
    **_values("max_surge_percent", _WHOLE),
    **_values(
        "max_ongoing_requests max_queued_requests user_config"
        " graceful_shutdown_wait_loop_s graceful_shutdown_timeout_s health_check_period_s"
        " health_check_timeout_s placement_group_bundles placement_group_strategy"
        " placement_group_bundle_label_selector max_replicas_per_node rolling_update_percentage"
    ),
    "autoscaling_config": _AUTOSCALING,
    "backpressure_config": _values("status_code retry_after_s"),
    "deployment_actors": (_values("name actor_class init_args init_kwargs actor_options"),),
    "gang_scheduling_config": _values("gang_size gang_placement_strategy runtime_failure_policy"),
    "logging_config": _LOGGING,
    "ray_actor_options": {
        **_values("num_cpus num_gpus", _SHARE),
        **_values("memory resources accelerator_type label_selector fallback_strategy"),
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
            **_values("name route_prefix import_path", _TEXT),
            **_values("args", _SECTION),
            **_values("host port autoscaling_policy external_scaler_enabled"),
            "deployments": (_DEPLOYMENT,),
            "logging_config": _LOGGING,
            "runtime_env": _RUNTIME_ENV,
        },
    ),
    "controller_options": _values("runtime_env"),
    "grpc_options": {
        **_values("port", _PORT),
        **_values("grpc_servicer_functions", _LIST),
        **_values("request_timeout_s enable_reflection"),
    },
    "http_options": {
        **_values("host", _TEXT),
        **_values("port", _PORT),
        **_values(
            "root_path request_timeout_s keep_alive_timeout_s ssl_keyfile ssl_certfile"
            " ssl_keyfile_password ssl_ca_certs"
        ),
    },
    "logging_config": _LOGGING,
    "tracing_config": _values("enabled exporter_import_path sampling_ratio"),
}
"""All keys of Ray 2.60's `ServeDeploySchema`; a test compares the two."""


def read_document(path: Path) -> dict[str, Any]:
    """Read a Serve YAML, and check its keys and what our commands read of it.

    Raises:
        ConfigurationError: the first fault found, with the key's path.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read", got=str(error)) from error
    except Exception as error:
        # PyYAML lets pass what Python says of a number, a date or a depth that there cannot be.
        got = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(f"{path} is not YAML", got=got) from error
    _refuse_circles(document, (), set())
    check_keys(document, SERVE_KEYS)
    return section(document)


def applications_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the applications' sections, of which there must be one."""
    applications: list[dict[str, Any]] = document.get("applications") or []
    if not applications:
        raise ConfigurationError(
            "The YAML has no applications", expected="a list of at least one", path="applications"
        )
    return applications


def check_keys(value: object, known: Keys, path: str = "") -> None:
    """Refuse a key, at any depth, that Serve would drop, and values of another kind."""
    for key, below in section(value, path).items():
        at = f"{path}.{key}" if path else str(key)
        if key not in known:
            names = ", ".join(sorted(known))
            raise ConfigurationError(f"Unknown key {shown(key)}", path=at, remedy=f"Known: {names}")
        table = known[key]
        if below is None or table is None:
            continue
        if isinstance(table, Kind):
            if not table.holds(below):
                raise ConfigurationError(
                    "Wrong value", expected=table.words, got=shown(below), path=at
                )
        elif isinstance(table, tuple):
            if not isinstance(below, list):
                got = type(below).__name__
                raise ConfigurationError("Not a list", expected="a list", got=got, path=at)
            for index, item in enumerate(below):
                check_keys(item, table[0], f"{at}[{name_of(item, index)}]")
        else:
            check_keys(below, table, at)


def name_of(item: object, index: int) -> str:
    """Return what stands for an item of a list in a path: its name, if it has one."""
    name = item.get("name") if isinstance(item, dict) else None
    return name if isinstance(name, str) else str(index)


def section(value: object, path: str = "") -> dict[str, Any]:
    """Return a value that must be a mapping."""
    if isinstance(value, dict):
        return value
    got = type(value).__name__
    raise ConfigurationError("Not a section", expected="a mapping", got=got, path=path)


def _refuse_circles(value: object, above: tuple[int, ...], seen: set[int]) -> None:
    """Refuse a collection that holds itself, as an anchor and its alias can make it."""
    if not isinstance(value, dict | list):
        return
    if id(value) in above:
        raise ConfigurationError("A part of the YAML holds itself", remedy="Look for its `*alias`")
    if id(value) not in seen:
        seen.add(id(value))
        for below in value.values() if isinstance(value, dict) else value:
            _refuse_circles(below, (*above, id(value)), seen)
