"""What a run is made of: pictures, applications, figures, rounds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import yaml

from rayserve_app.bench import pictures
from rayserve_app.bench.applications import build_config
from rayserve_app.bench.figure import take_turns
from rayserve_app.bench.figures import find_figures
from rayserve_app.bench.framework_loop import load_model, measure
from rayserve_app.bench.runner import choose
from rayserve_app.codecs import image
from rayserve_app.errors import ConfigurationError

APP_YAML = Path(__file__).parents[2] / "configs" / "app.yaml"
MODELS = Path("nowhere")
"""Where a test needs no models built."""


async def test_what_is_compared_takes_turns() -> None:
    called: list[str] = []

    async def measure(name: str, number: int) -> str:
        called.append(name)
        return f"{name}{number}"

    measures = {name: partial(measure, name) for name in "ABC"}
    turns = await take_turns(2, measures)
    assert turns == {"A": ["A0", "A1"], "B": ["B0", "B1"], "C": ["C0", "C1"]}
    assert "".join(called) == "ABCABC"


def test_pictures_have_the_stated_sizes() -> None:
    assert len(pictures.png(68)) == pytest.approx(10_000, rel=0.05)
    assert len(pictures.jpeg(512)) == pytest.approx(130_000, rel=0.05)
    assert pictures.jpeg(512, 1) == pictures.jpeg(512, 1) != pictures.jpeg(512, 2)
    assert image.decode(pictures.png(68), max_pixels=10**6).shape == (68, 68, 3)


def test_config_takes_models_from_the_yaml_and_peers_from_the_bench() -> None:
    config = build_config({"yolov3", "minimal"}, APP_YAML, 1234, MODELS)
    assert config["http_options"] == {"host": "127.0.0.1", "port": 1234}
    minimal, yolov3 = config["applications"]
    assert minimal["route_prefix"] == "/minimal"
    assert yolov3 in yaml.safe_load(APP_YAML.read_text())["applications"]


@pytest.mark.parametrize("is_shared", [True, False])
def test_applications_that_run_together_fit_on_two_cores(is_shared: bool) -> None:
    figures = [each for each in find_figures().values() if not each.starts_itself]
    names = {name for figure in figures for name in figure.applications}
    if not is_shared:
        names = {*find_figures()["faults"].applications}
    applications = build_config(names, APP_YAML, 1234, MODELS)["applications"]
    shares = [
        deployment["ray_actor_options"]["num_cpus"] * deployment.get("num_replicas", 1)
        for application in applications
        for deployment in application["deployments"]
    ]
    assert len(shares) == len(names)
    assert round(sum(shares), 6) <= 1.5


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("applications: 5", "applications"),
        ("applications: [{name: [a]}]", "applications[0].name"),
        ("applications: [5]", "applications[0]"),
        ("- a", ""),
        ("a: 2024-13-45", ""),
    ],
)
def test_a_config_that_is_none_is_refused_with_the_keys_path(
    tmp_path: Path, text: str, path: str
) -> None:
    file = tmp_path / "app.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        build_config({"yolov3"}, file, 1234, MODELS)
    assert caught.value.path == path


def test_a_declared_application_can_be_had_with_two_replicas() -> None:
    declared = yaml.safe_load(APP_YAML.read_text())["applications"]
    (once,) = (each for each in declared if each["name"] == "resnet-embedding")
    (twice,) = build_config({"resnet-embedding-twice"}, APP_YAML, 1234, MODELS)["applications"]
    assert twice["args"] == once["args"]
    assert twice["route_prefix"] == "/resnet-embedding-twice"
    (deployment,) = twice["deployments"]
    assert deployment["num_replicas"] == 2
    runtime_env = once["deployments"][0]["ray_actor_options"]["runtime_env"]
    assert deployment["ray_actor_options"]["runtime_env"] == runtime_env


def test_a_loop_counts_the_items_of_a_declared_model(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text(
        "applications: [{name: mean, import_path: 'deployments.closure:build', args: {model: "
        "{function: 'tests.serve.closures:mean_colors', input: {type: image, size: [8, 8]}}}}]"
    )
    model = load_model(path, "mean")
    pace = measure(model, 4, seconds=0.05)
    model.close()
    assert pace.per_s > 100
    assert pace.per_s == pytest.approx(4 / (pace.p50_ms / 1e3), rel=0.9)


def test_an_application_that_is_not_declared_is_told(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("applications: []")
    with pytest.raises(ConfigurationError, match=r"app\.yaml has no application 'yolov3'"):
        build_config({"yolov3"}, path, 1234, MODELS)


def test_figures_are_chosen_by_name_in_their_own_order() -> None:
    figures = find_figures()
    assert [*choose(["gateway", "batching"], figures)] == ["batching", "gateway"]
    assert choose([], figures) == figures
    with pytest.raises(ConfigurationError, match=r"expected batching or .*, got 'speed'"):
        choose(["speed"], figures)


def test_the_gateway_stands_at_the_root_before_the_model() -> None:
    names = find_figures()["gateway"].applications
    model, own = build_config(names, APP_YAML, 1234, MODELS)["applications"]
    assert own["route_prefix"] == "/"
    assert own["args"] == {"gateway": {"default_model": model["name"]}}


@pytest.mark.parametrize("name", ["constant-heads", "texture", "unlike-images", "slow-texture"])
def test_the_benchs_own_models_are_declared_as_a_users_are(name: str, tmp_path: Path) -> None:
    config = build_config({name}, APP_YAML, 1234, MODELS)
    path = tmp_path / "app.yaml"
    path.write_text(yaml.safe_dump(config))
    model = load_model(path, name)
    model.close()
