"""The files in `configs/`, and what `rayserve-app check` refuses."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from ray.runtime_env import RuntimeEnv
from ray.serve.schema import ServeDeploySchema

from rayserve_app.cli import main
from rayserve_app.configs import SERVE_KEYS, check, check_keys, demands, read_document
from rayserve_app.errors import ConfigurationError
from rayserve_app.server.settings import serve_variables

CONFIGS = Path(__file__).parents[1] / "configs"
ENVIRONMENT = serve_variables(None)

ANY_CONFIG = pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)


@ANY_CONFIG
def test_config_is_one_of_serves(path: Path) -> None:
    ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))


@ANY_CONFIG
def test_config_passes_the_check(path: Path) -> None:
    check(read_document(path), ENVIRONMENT, cores=2)


@ANY_CONFIG
def test_config_listens_on_this_machine_alone(path: Path) -> None:
    assert read_document(path)["http_options"]["host"] == "127.0.0.1"


def test_replicas_of_the_example_models_fit_on_two_cores() -> None:
    asked = demands(read_document(CONFIGS / "app.yaml"))
    assert round(sum(demand.num_cpus * demand.at_most for demand in asked), 6) <= 1.5


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from models_in(argument)


def keys_of(model: type[BaseModel]) -> dict[str, Any]:
    """The table of a pydantic model, as `SERVE_KEYS` writes it."""
    keys: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        below = next(models_in(field.annotation), None)
        table = None if below is None else keys_of(below)
        is_list = "List[" in str(field.annotation)
        keys[name] = (table,) if table and is_list else table
    return keys


def test_known_keys_are_those_of_the_installed_serve() -> None:
    runtime_env = {key: None for key in RuntimeEnv.known_fields if not key.startswith("_")}
    expected = keys_of(ServeDeploySchema)
    application = expected["applications"][0]
    application["runtime_env"] = runtime_env
    application["deployments"][0]["ray_actor_options"]["runtime_env"] = runtime_env
    assert expected == SERVE_KEYS


def example(**changes: Any) -> dict[str, Any]:
    """A config with one model; changes are made at `section__section__key`, lists by index."""
    model: dict[str, Any] = {"function": "math:sqrt", "input": {"type": "floats"}}
    config: dict[str, Any] = {
        "applications": [
            {
                "name": "a",
                "import_path": "deployments.closure:build",
                "args": {"model": model},
                "deployments": [{"name": "Model", "ray_actor_options": {"num_cpus": 0.5}}],
            }
        ]
    }
    for path, value in changes.items():
        *sections, key = path.split("__")
        section: Any = config
        for name in sections:
            section = section[int(name) if name.isdecimal() else name]
        section[key] = value
    return config


def test_example_has_no_fault() -> None:
    check(example(), ENVIRONMENT, cores=1)


DEPLOYMENT = "applications__0__deployments__0"


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("aplications", "aplications"),
        ("applications__0__route", "applications[a].route"),
        (
            f"{DEPLOYMENT}__max_ongoing_request",
            "applications[a].deployments[Model].max_ongoing_request",
        ),
        (
            f"{DEPLOYMENT}__ray_actor_options__num_cpu",
            "applications[a].deployments[Model].ray_actor_options.num_cpu",
        ),
        ("applications__0__args__model__batch", "applications[a].args.model.batch"),
        ("applications__0__args__models", "applications[a].args"),
    ],
)
def test_key_that_is_not_known_is_refused_with_its_path(key: str, path: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check(example(**{key: 77}), ENVIRONMENT, cores=1)
    assert caught.value.path == path


def test_unknown_key_is_told_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_keys({"http_options": {"hots": "127.0.0.1"}}, SERVE_KEYS)
    assert str(caught.value) == (
        "Unknown key 'hots' - at `http_options.hots`. Known: host, keep_alive_timeout_s, port,"
        " request_timeout_s, root_path, ssl_ca_certs, ssl_certfile, ssl_keyfile,"
        " ssl_keyfile_password"
    )


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"applications": {"name": "a"}}, "applications"),
        ({"applications": ["a"]}, "applications[0]"),
        ({"http_options": 8000}, "http_options"),
    ],
)
def test_section_of_another_form_is_refused(document: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_keys(document, SERVE_KEYS)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("deployment", "asked"),
    [
        ({}, 1),
        ({"num_replicas": 3}, 3),
        ({"num_replicas": "auto"}, 1),
        ({"num_replicas": 2, "ray_actor_options": {"num_cpus": 0.25}}, 0.5),
        ({"autoscaling_config": {"min_replicas": 2, "max_replicas": 9}}, 2),
        ({"autoscaling_config": {"min_replicas": 0, "initial_replicas": 4}}, 4),
        ({"autoscaling_config": {"min_replicas": 0}}, 0),
    ],
)
def test_more_cpus_than_there_are_is_refused(deployment: dict[str, Any], asked: float) -> None:
    config = example(applications__0__deployments=[{"name": "Model", **deployment}])
    check(config, ENVIRONMENT, cores=asked)
    config["applications"].append({"name": "b", "import_path": "b:app"})
    with pytest.raises(ConfigurationError, match=rf"got {asked + 1:g} "):
        check(config, ENVIRONMENT, cores=asked + 0.9)


@pytest.mark.parametrize(
    "deployment",
    [{"num_replicas": "many"}, {"autoscaling_config": {"min_replicas": "2"}}],
)
def test_number_that_is_none_is_refused(deployment: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Not a number"):
        check(example(applications__0__deployments=[deployment]), ENVIRONMENT, cores=1)


@pytest.mark.parametrize("import_path", ["deployments.closures:build", "deployments.closure:make"])
def test_builder_that_is_not_there_is_refused(import_path: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check(example(applications__0__import_path=import_path), ENVIRONMENT, cores=1)
    assert caught.value.path == "applications[a].import_path"


def test_builders_of_others_are_left_alone() -> None:
    config = example(applications__0__import_path="a:b", applications__0__args={"model": "x"})
    check(config, ENVIRONMENT, cores=1)


def test_deadline_that_haproxy_does_not_wait_for_is_refused() -> None:
    config = example(applications__0__args__model__deadline={"latency_ms": 20_000})
    environment = {**ENVIRONMENT, "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "25"}
    check(config, environment, cores=1)
    environment["RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"] = "24"
    with pytest.raises(ConfigurationError, match="at most 19000, got 20000") as caught:
        check(config, environment, cores=1)
    assert caught.value.path == "applications[a].args.model.deadline.latency_ms"
    with pytest.raises(ConfigurationError, match="at most 19000, got 30000"):
        check(example(), environment, cores=1)
    check(config, {**environment, "RAY_SERVE_ENABLE_HA_PROXY": "0"}, cores=1)


def test_command_names_each_file_and_its_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(yaml.safe_dump(example()))
    bad.write_text(yaml.safe_dump(example(proxy="x")))
    assert main(["check", "--cores", "1", str(bad), str(good)]) == 1
    output = capsys.readouterr()
    assert output.out == f"{good}: no fault found\n"
    assert output.err.startswith(f"{bad}: Unknown key 'proxy' - at `proxy`. Known: applications, ")
    assert main(["check", "--cores", "1", str(good)]) == 0


@pytest.mark.parametrize("option", [False, True], ids=["beside", "named"])
def test_variables_of_the_users_count_for_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: bool
) -> None:
    config, file = tmp_path / "app.yaml", tmp_path / ("mine.env" if option else "serve.env")
    config.write_text(yaml.safe_dump(example()))
    arguments = ["check", "--cores", "1", *(["--environment", str(file)] if option else [])]
    file.write_text("RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S=34\n")
    assert main([*arguments, str(config)]) == 1
    assert "HAProxy gives up before the model does" in capsys.readouterr().err
    file.write_text("RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S=35\n")
    assert main([*arguments, str(config)]) == 0


def test_command_goes_on_after_what_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent, good = tmp_path / "absent.yaml", tmp_path / "good.yaml"
    good.write_text(yaml.safe_dump(example()))
    assert main(["check", "--cores", "1", str(absent), str(good)]) == 1
    output = capsys.readouterr()
    assert output.err.startswith(f"{absent}: {absent} cannot be read")
    assert output.out == f"{good}: no fault found\n"
