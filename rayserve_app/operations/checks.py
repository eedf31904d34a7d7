"""A Serve YAML, checked before anything starts: Serve finds out when replicas fail to start."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, NamedTuple

from rayserve_app.errors import ConfigurationError
from rayserve_app.importing import import_from_string
from rayserve_app.operations.serve_yaml import (
    OWN_BUILDERS,
    SERVE_KEYS,
    applications_of,
    check_keys,
    name_of,
    read_document,
)
from rayserve_app.operations.server.settings import (
    LONGEST_ANSWER,
    file_beside,
    longest_answer_s,
    require_ray,
    serve_environment,
)
from rayserve_app.process.cores import available_cores
from rayserve_app.settings.model import MAX_SURGE_PERCENT, DeadlineSettings

CHECK_VALUES: Final = "deployments.serve_schema:check_values"
"""What refuses the values that Serve would; `deployments/` alone knows Ray."""

ANSWER_MARGIN_S: Final = 5
"""HAProxy gives up so much later than the model, so that the model's own answer comes first."""


class Demand(NamedTuple):
    """What the replicas of one deployment ask for."""

    application: str
    num_cpus: Fraction
    num_gpus: Fraction
    at_least: int
    at_start: int
    at_most: int
    max_surge_percent: int

    def surge(self, replicas: int) -> int:
        """Return how many more than so many replicas there are during an update.

        Source: ray/serve/_private/deployment_state.py, `_surge_replicas_to_start`.
        """
        return -(-self.max_surge_percent * replicas // 100)


def check_files(
    paths: Sequence[Path],
    *,
    environment_file: Path | None = None,
    cores: Fraction | None = None,
    gpus: Fraction | None = None,
) -> int:
    """Check Serve YAMLs, and say how each fares.

    Args:
        environment_file: variables of Serve's; for each YAML the `serve.env` beside it, if any.
    Returns: the exit status: 1 if one has a fault.
    """
    require_ray()
    status = 0
    cores = Fraction(available_cores()) if cores is None else cores
    for path in paths:
        try:
            environment = serve_environment(environment_file or file_beside(path), os.environ)
            document = read_document(path)
            check(document, environment, cores=cores, gpus=gpus)
        except ConfigurationError as error:
            print(f"{path}: {error}", file=sys.stderr)
            status = 1
        else:
            print(f"{path}: no fault found")
            if hint := hint_of_updates(document, cores, gpus):
                print(f"{path}: {hint}", file=sys.stderr)
    return status


def check(
    document: Mapping[str, Any],
    environment: Mapping[str, str],
    *,
    cores: Fraction,
    gpus: Fraction | None = None,
) -> None:
    """Check a Serve config for this environment and a machine, or a cluster, of so many cores, and
    of so many GPUs if that is known.

    Raises: ConfigurationError: the first fault found, with the key's path.
    """
    check_keys(document, SERVE_KEYS)
    import_from_string(CHECK_VALUES)(document)
    for index, application in enumerate(applications_of(document)):
        if _is_own(application):
            path = f"applications[{name_of(application, index)}]"
            _check_arguments(application, path)
            _check_deadline(application, environment, path)
    for resource in _resources(cores, gpus):
        asked = resource.asked_by(demands(document))
        if asked > resource.there:
            raise ConfigurationError(
                "The replicas that start first can never all be placed",
                expected=f"at most {float(resource.there):g} {resource.words} in all",
                got=f"{float(asked):g}",
                path="applications",
                remedy=f"{resource.key} is a share for placement, not a number of threads",
            )


def hint_of_updates(
    document: Mapping[str, Any], cores: Fraction, gpus: Fraction | None = None
) -> str | None:
    """Return what is to be known of updates that would wait for ever for room, or None where there
    is room: Serve starts the new replica first, and says little while it waits."""
    for resource in _resources(cores, gpus):
        left = resource.there - resource.asked_by(demands(document))
        extra = [
            (resource.of(each) * each.surge(each.at_start), each.application)
            for each in demands(document)
        ]
        waiting = dict.fromkeys(name for asked, name in extra if asked > left)
        if waiting:
            return (
                f"there is no room to update {', '.join(waiting)}: new replicas start beside the"
                " old ones, which serve on, and would wait for ever for up to"
                f" {float(max(extra)[0]):g} {resource.words}, of which {float(left):g} are"
                f" left. Lower {resource.key}, or set max_surge_percent to 0, which stops old"
                " replicas first"
            )
    return None


class _Resource(NamedTuple):
    """What replicas share, and how much of it there is."""

    key: str
    words: str
    there: Fraction

    def of(self, demand: Demand) -> Fraction:
        """Return what one replica asks for."""
        return demand.num_cpus if self.key == "num_cpus" else demand.num_gpus

    def asked_by(self, asking: Iterable[Demand]) -> Fraction:
        """Return what the replicas ask for that start first."""
        return sum((self.of(each) * each.at_start for each in asking), Fraction())


def _resources(cores: Fraction, gpus: Fraction | None) -> list[_Resource]:
    found = [_Resource("num_cpus", "CPUs", cores)]
    return found if gpus is None else [*found, _Resource("num_gpus", "GPUs", gpus)]


def _is_own(application: Mapping[str, Any]) -> bool:
    return (application.get("import_path") or "").startswith(OWN_BUILDERS)


def demands(document: Mapping[str, Any]) -> Iterator[Demand]:
    """Yield what each deployment of a config, whose keys have been checked, asks for; one that the
    YAML leaves out has Serve's defaults."""
    for index, application in enumerate(document.get("applications") or ()):
        usual_surge = MAX_SURGE_PERCENT if _is_own(application) else 0
        for deployment in application.get("deployments") or [{}]:
            options = deployment.get("ray_actor_options") or {}
            yield Demand(
                name_of(application, index),
                _share(options, "num_cpus", 1),
                _share(options, "num_gpus", 0),
                *_replicas(deployment),
                _count(deployment, "max_surge_percent", usual_surge),
            )


def _replicas(deployment: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return a deployment's number of replicas: at least, at the start, at most."""
    is_auto = deployment.get("num_replicas") == "auto"
    scaling = deployment.get("autoscaling_config")
    if scaling is None and not is_auto:
        return (_count(deployment, "num_replicas", 1),) * 3
    scaling = scaling or {}
    at_least = _count(scaling, "min_replicas", 1)
    at_start = _count(scaling, "initial_replicas", at_least)
    return at_least, at_start, _count(scaling, "max_replicas", 100 if is_auto else 1)


def _count(section: Mapping[str, Any], key: str, default: int) -> int:
    value: int | None = section.get(key)
    return default if value is None else value


def _share(section: Mapping[str, Any], key: str, default: int) -> Fraction:
    """Return a share as it is written: three floats of 0.1 are more than 0.3."""
    value = section.get(key)
    return Fraction(default if value is None else str(value))


def _check_arguments(application: Mapping[str, Any], path: str) -> None:
    import_path = application["import_path"]
    try:
        build = import_from_string(import_path, path="import_path")
        build(application.get("args") or {})
    except ConfigurationError as error:
        raise error.at(path) from error.__cause__
    except Exception as error:
        raise ConfigurationError(
            f"{import_path} builds no application",
            got=f"{type(error).__name__}: {error}",
            path=f"{path}.import_path",
        ) from error


def _check_deadline(
    application: Mapping[str, Any], environment: Mapping[str, str], path: str
) -> None:
    model = (application.get("args") or {}).get("model")
    if not model or environment.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
        return
    timeout_s = longest_answer_s(environment)
    if timeout_s is None:
        return
    latency_ms = DeadlineSettings.model_validate(model.get("deadline", {})).latency_ms
    most_ms = (timeout_s - ANSWER_MARGIN_S) * 1000
    if latency_ms > most_ms:
        raise ConfigurationError(
            "HAProxy gives up before the model does",
            expected=f"at most {most_ms:g}",
            got=f"{latency_ms:g}",
            path=f"{path}.args.model.deadline.latency_ms",
            remedy=f"Or raise {LONGEST_ANSWER}",
        )
