"""What a run is made of: pictures, applications, figures, rounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rayserve_app.bench import pictures
from rayserve_app.bench.applications import build_config
from rayserve_app.bench.figures import FIGURES
from rayserve_app.bench.framework_loop import load_model, measure
from rayserve_app.bench.rounds import interleave
from rayserve_app.bench.runner import choose
from rayserve_app.codecs import image
from rayserve_app.errors import ConfigurationError

APP_YAML = Path(__file__).parents[2] / "configs" / "app.yaml"
MODELS = Path("nowhere")
"""Where a test needs no models built."""


async def test_two_things_are_measured_in_turn() -> None:
    called = []

    async def first() -> float:
        called.append("A")
        return 2.0

    async def second() -> float:
        called.append("B")
        return 4.0

    assert await interleave(3, first, second) == [(2.0, 4.0)] * 3
    assert "".join(called) == "ABABAB"


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
    figures = [each for each in FIGURES.values() if not each.starts_itself]
    names = {name for figure in figures for name in figure.applications}
    if not is_shared:
        names = {*FIGURES["faults"].applications}
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
    assert [figure.name for figure in choose(["yolov3", "memory"])] == ["memory", "yolov3"]
    assert choose([]) == list(FIGURES.values())
    with pytest.raises(ConfigurationError, match=r"expected start or .*, got 'speed'"):
        choose(["speed"])
