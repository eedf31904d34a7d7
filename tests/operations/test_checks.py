"""The files in `configs/`, and what `rayserve-app check` refuses."""

from __future__ import annotations

import contextlib
import copy
import typing
from collections.abc import Iterator
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from ray.runtime_env import RuntimeEnv
from ray.serve.schema import ServeDeploySchema

from rayserve_app.cli import main
from rayserve_app.errors import ConfigurationError
from rayserve_app.operations.checks import Demand, check, demands, hint_of_updates
from rayserve_app.operations.kubernetes import manifest, render
from rayserve_app.operations.serve_yaml import SERVE_KEYS, Kind, check_keys, read_document
from rayserve_app.operations.server.settings import read_config, serve_variables

CONFIGS = Path(__file__).parents[2] / "configs"
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


def gpus_of(demand: Demand, replicas: int) -> int:
    """GPUs that so many replicas take: a share does not span two."""
    share = demand.num_gpus
    return ceil(replicas / (1 // share)) if 0 < share < 1 else ceil(share) * replicas


@ANY_CONFIG
def test_all_replicas_and_one_more_of_the_largest_fit(path: Path) -> None:
    """Two cores; or where there are GPUs, the workers of the manifest: as many as there are with
    the fewest replicas and one worker more, and the most that there may be with the most."""
    document = read_document(path)
    asked = list(demands(document))
    service = render(document, ENVIRONMENT, "image")
    for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        gpus = int(limits.get("nvidia.com/gpu", 0))
        fewest = [demand.at_least for demand in asked]
        most = [demand.at_most for demand in asked]
        one_more = group["minReplicas"] + bool(gpus)
        for workers, counts in ((one_more, fewest), (group["maxReplicas"], most)):
            cores = int(limits["cpu"]) * workers if gpus else 2
            for updated in range(len(asked)):
                running = [
                    (demand, count + (index == updated))
                    for index, (demand, count) in enumerate(zip(asked, counts, strict=True))
                ]
                assert sum(demand.num_cpus * count for demand, count in running) <= cores
                assert sum(gpus_of(demand, count) for demand, count in running) <= gpus * workers


@ANY_CONFIG
def test_every_deployment_of_a_config_has_room_for_its_update(path: Path) -> None:
    assert hint_of_updates(read_document(path), Fraction(2)) is None


def test_gpu_config_names_the_gpus_that_it_needs() -> None:
    head = (CONFIGS / "gpu.yaml").read_text().split("http_options")[0]
    service = render(read_document(CONFIGS / "gpu.yaml"), ENVIRONMENT, "image")
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    words = {3: "three", 7: "seven"}
    assert f"at least {words[group['minReplicas'] + 1]} GPUs" in head
    assert words[group["maxReplicas"]] in head


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


def names_of(table: Any) -> Any:
    """Return a table without the kinds of its values."""
    if isinstance(table, tuple) and not isinstance(table, Kind):
        return (names_of(table[0]),)
    return (
        {key: names_of(below) for key, below in table.items()} if isinstance(table, dict) else None
    )


def test_known_keys_are_those_of_the_installed_serve() -> None:
    runtime_env = {key: None for key in RuntimeEnv.known_fields if not key.startswith("_")}
    expected = keys_of(ServeDeploySchema)
    application = expected["applications"][0]
    application["runtime_env"] = runtime_env
    application["deployments"][0]["ray_actor_options"]["runtime_env"] = runtime_env
    assert expected == names_of(SERVE_KEYS)


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
    config["applications"].append({"name": "b", "route_prefix": "/b", "import_path": "b:app"})
    with pytest.raises(ConfigurationError, match=rf"got {asked + 1:g} "):
        check(config, ENVIRONMENT, cores=asked + 0.9)


@pytest.mark.parametrize(
    "deployment",
    [{"num_replicas": "many"}, {"autoscaling_config": {"min_replicas": "2"}}],
)
def test_number_that_is_none_is_refused(deployment: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="Wrong value: expected a whole number"):
        check(example(applications__0__deployments=[deployment]), ENVIRONMENT, cores=1)


def test_shares_are_added_as_they_are_written() -> None:
    """As floats, three of 0.1 are 0.30000000000000004."""
    config = example(**{f"{DEPLOYMENT}__num_replicas": 3})
    config["applications"][0]["deployments"][0]["ray_actor_options"]["num_cpus"] = 0.1
    check(config, ENVIRONMENT, cores=Fraction("0.3"))
    with pytest.raises(ConfigurationError, match=r"at most 0\.29 CPUs in all, got 0\.3"):
        check(config, ENVIRONMENT, cores=Fraction("0.29"))


@pytest.mark.parametrize(
    ("deployment", "cores", "needed"),
    [
        ({}, "1.9", "up to 1 CPUs, of which 0.9 are left"),
        ({}, "2", None),
        ({"ray_actor_options": {"num_cpus": 0.1}}, "0.2", None),
        (
            {"ray_actor_options": {"num_cpus": 0.1}},
            "0.19",
            "up to 0.1 CPUs, of which 0.09 are left",
        ),
        ({"max_surge_percent": 0}, "1", None),
        ({"num_replicas": 4}, "5", None),
        ({"num_replicas": 4, "max_surge_percent": 26}, "5", "up to 2 CPUs, of which 1 are left"),
        ({"num_replicas": 4, "max_surge_percent": 26}, "6", None),
        ({"autoscaling_config": {"min_replicas": 0}}, "0", None),
    ],
)
def test_updates_that_would_wait_for_ever_are_told(
    deployment: dict[str, Any], cores: str, needed: str | None
) -> None:
    config = example(applications__0__deployments=[{"name": "Model", **deployment}])
    hint = hint_of_updates(config, Fraction(cores))
    if needed is None:
        assert hint is None
    else:
        assert hint is not None
        assert hint.startswith("there is no room to update a: ")
        assert needed in hint
    others = example(applications__0__import_path="a:b")
    assert hint_of_updates(others, Fraction(1)) is None


def test_gpus_are_looked_at_where_they_are_counted() -> None:
    config = read_document(CONFIGS / "gpu.yaml")
    assert hint_of_updates(config, Fraction(2)) is None
    assert hint_of_updates(config, Fraction(2), Fraction(3)) is None
    check(config, ENVIRONMENT, cores=Fraction(2), gpus=Fraction(2))
    hint = hint_of_updates(config, Fraction(2), Fraction(2))
    assert hint is not None
    assert hint.startswith("there is no room to update yolov3: ")
    assert "up to 1 GPUs, of which 0.75 are left. Lower num_gpus" in hint
    with pytest.raises(ConfigurationError, match=r"at most 1 GPUs in all, got 1\.25"):
        check(config, ENVIRONMENT, cores=Fraction(2), gpus=Fraction(1))


def test_command_tells_of_updates_without_room_and_is_content(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "a.yaml"
    config.write_text(yaml.safe_dump(example()))
    assert main(["check", "--cores", "0.9", str(config)]) == 0
    output = capsys.readouterr()
    assert output.out == f"{config}: no fault found\n"
    assert output.err.startswith(f"{config}: there is no room to update a: ")
    assert main(["check", "--cores", "1", "--gpus", "0", str(config)]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "1/0", "1/2", "1e3", "x", "", "\u0661"])
def test_amounts_are_decimals(text: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["check", "--cores", text, "app.yaml"])


@pytest.mark.parametrize(
    "import_path", ["deployments.closures:build", "deployments.closure.backend:make"]
)
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


FAULTS = [
    ("http_options__port", "8000", "http_options.port"),
    ("http_options__port", 65536, "http_options.port"),
    ("http_options__port", True, "http_options.port"),
    ("http_options__host", 8000, "http_options.host"),
    ("http_options", [], "http_options"),
    ("grpc_options__port", "x", "grpc_options.port"),
    ("grpc_options__grpc_servicer_functions", "a.b", "grpc_options.grpc_servicer_functions"),
    ("applications", 5, "applications"),
    ("applications", [], "applications"),
    ("applications__0", None, "applications[0]"),
    ("applications__0__name", ["a"], "applications[0].name"),
    ("applications__0__args", 5, "applications[a].args"),
    ("applications__0__import_path", 5, "applications[a].import_path"),
    ("applications__0__route_prefix", {}, "applications[a].route_prefix"),
    ("applications__0__deployments", {"Model": 1}, "applications[a].deployments"),
    (f"{DEPLOYMENT}__name", 7, "applications[a].deployments[0].name"),
    (f"{DEPLOYMENT}__num_replicas", 1.5, "applications[a].deployments[Model].num_replicas"),
    (f"{DEPLOYMENT}__num_replicas", -1, "applications[a].deployments[Model].num_replicas"),
    (
        f"{DEPLOYMENT}__max_surge_percent",
        "1",
        "applications[a].deployments[Model].max_surge_percent",
    ),
    *(
        (
            f"{DEPLOYMENT}__ray_actor_options__num_cpus",
            value,
            "applications[a].deployments[Model].ray_actor_options.num_cpus",
        )
        for value in ("many", "0.5", [1], float("nan"), float("inf"), -1, 10**400, True)
    ),
]


@pytest.mark.parametrize(("key", "value", "path"), FAULTS)
def test_value_of_another_kind_is_refused_by_every_command_with_its_path(
    tmp_path: Path, key: str, value: Any, path: str
) -> None:
    file = tmp_path / "app.yaml"
    config = example(http_options={}, grpc_options={})
    file.write_text(yaml.safe_dump(with_value(config, key, value)))
    for command in COMMANDS:
        with pytest.raises(ConfigurationError) as caught:
            command(file)
        assert caught.value.path == path


@pytest.mark.parametrize(
    ("key", "value", "path"),
    [
        (f"{DEPLOYMENT}__max_surge_percent", 101, "deployments[Model].max_surge_percent"),
        (f"{DEPLOYMENT}__num_replicas", 0, "deployments[Model].num_replicas"),
        (
            f"{DEPLOYMENT}__health_check_period_s",
            "soon",
            "deployments[Model].health_check_period_s",
        ),
        ("applications__0__args__model__limits", {"max_items": "x"}, "args.model.limits.max_items"),
        ("applications__0__args__model__input__size", 5, "args.model.input.size"),
        ("applications__0__import_path", "deployments.replica.application:load", "import_path"),
        ("applications__0__import_path", "deployments.closure.backend:__doc__", "import_path"),
    ],
)
def test_value_that_serve_or_a_builder_refuses_is_told_with_its_path(
    key: str, value: Any, path: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check(with_value(example(), key, value), ENVIRONMENT, cores=Fraction(1))
    assert caught.value.path == f"applications[a].{path}"


@pytest.mark.parametrize(
    "text",
    [
        "a: 2024-13-45",
        "a: !!int x",
        "a: !!timestamp x",
        "a: " + "9" * 5000,
        "[" * 500,
        "a: \0",
        "&a {applications: [*a]}",
        "applications: [{name: a, import_path: 'a:b', args: &a {b: [*a]}}]",
        "applications: [{name: a, import_path: 'a:b', num_replicas: 0x" + "f" * 5000 + "}]",
    ],
)
def test_text_that_is_no_config_is_refused_by_every_command(tmp_path: Path, text: str) -> None:
    file = tmp_path / "app.yaml"
    file.write_text(text)
    for command in COMMANDS:
        with pytest.raises(ConfigurationError):
            command(file)


def check_file(path: Path) -> None:
    check(read_document(path), ENVIRONMENT, cores=Fraction(2))


COMMANDS = [check_file, manifest, read_config]
"""What reads a YAML: `check`, `manifest`, `serve`."""


def with_value(config: Any, key: str, value: Any) -> Any:
    *sections, last = [int(name) if name.isdecimal() else name for name in key.split("__")]
    section = config = copy.deepcopy(config)
    for name in sections:
        section = section[name]
    section[last] = value
    return config


def places(value: Any, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the keys of a document at any depth, as `with_value` takes them."""
    below = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in below:
        yield "__".join([*above, str(key)])
        if isinstance(item, dict | list):
            yield from places(item, (*above, str(key)))


FULL = example(
    http_options={"host": "127.0.0.1", "port": 8000},
    grpc_options={"port": 9000, "grpc_servicer_functions": ["a:b"]},
    applications__0__route_prefix="/a",
    applications__0__deployments=[
        {
            "name": "Model",
            "num_replicas": "auto",
            "max_surge_percent": 1,
            "autoscaling_config": {"min_replicas": 1, "initial_replicas": 1, "max_replicas": 2},
            "ray_actor_options": {"num_cpus": 0.5, "num_gpus": 0},
        }
    ],
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.dates(),
    st.sampled_from(["8000", "auto", "/", "a:b", "deployments.closure:build", "models/x", 10**30]),
)

VALUES = st.recursive(
    SCALARS,
    lambda items: st.one_of(
        st.lists(items, max_size=3),
        st.dictionaries(st.one_of(SCALARS, st.sampled_from(["name", "model"])), items, max_size=3),
    ),
    max_leaves=6,
)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(key=st.sampled_from(sorted(places(FULL))), value=VALUES)
def test_any_value_at_any_place_is_taken_or_refused_in_a_sentence(
    tmp_path: Path, key: str, value: Any
) -> None:
    file = tmp_path / "app.yaml"
    file.write_text(yaml.safe_dump(with_value(FULL, key, value)))
    for command in COMMANDS:
        with contextlib.suppress(ConfigurationError):
            command(file)


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
