"""The applications that the figures measure: some as a Serve YAML declares them, some of the
bench's own, applications.yaml. A run starts only what its figures need."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from string import Template
from typing import Any, Final

import yaml

from rayserve_app.errors import ConfigurationError
from rayserve_app.operations.serve_yaml import read_document
from rayserve_app.process.cores import available_cores

OWN: Final = Path(__file__).with_name("applications.yaml")

TWICE: Final = "{}-twice"
"""The name of a declared application with two replicas."""

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
        ConfigurationError: neither declares an application of that name, or the YAML is not one of
            Serve's.
    """
    config = read_document(declared_in)
    declared = config.get("applications") or ()
    own = Template(OWN.read_text()).substitute(models=models, cores=available_cores())
    known = {each.get("name"): each for each in (*declared, *map(_twice, declared))}
    known |= {each["name"]: _placed(each) for each in yaml.safe_load(own)["applications"]}
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


def _placed(application: dict[str, Any]) -> dict[str, Any]:
    deployment = {"name": "Model", "ray_actor_options": {"num_cpus": NUM_CPUS}}
    usual = {"route_prefix": f"/{application['name']}", "deployments": [deployment]}
    return usual | application


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
