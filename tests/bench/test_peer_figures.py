"""What is made of the numbers of our server and of the others'."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayserve_app.bench.figures.figure import MeasurementFailed
from rayserve_app.bench.figures.slow_neighbour import Round
from rayserve_app.bench.load import PERCENTILES, Load
from rayserve_app.bench.peer_figures import PEER_FIGURES
from rayserve_app.bench.peer_figures.batching import batching_rows
from rayserve_app.bench.peer_figures.comparison import (
    Turn,
    are_alike,
    rate_rows,
)
from rayserve_app.bench.peer_figures.image_size import size_rows
from rayserve_app.bench.peer_figures.mixed_sizes import mixed_rows
from rayserve_app.bench.peer_figures.packed_stream import time_rows
from rayserve_app.bench.peer_figures.slow_neighbour import neighbour_rows
from rayserve_app.bench.peer_subjects import (
    networks,
)
from rayserve_app.bench.report import Bound
from rayserve_app.bench.runner import choose
from rayserve_app.errors import ConfigurationError

NETWORKS = networks(Path("/models/network.safetensors"))


def test_answers_are_alike_however_numbers_are_nested() -> None:
    assert are_alike([[0.1, 2]], [0.1000001, 2])
    assert not are_alike([0.1, 2], [0.2, 2])
    assert not are_alike([1, 2], [1, 2, 3])
    assert are_alike(b"npy", bytearray(b"npy"))
    assert not are_alike(b"npy", b"np")


def turns(*rates: int) -> list[Turn]:
    return [Turn(Load([0.002] * rate, 0, 0, 1.0, 0.0), 1.5) for rate in rates]


def test_our_rate_is_compared_with_the_best_of_each_round() -> None:
    measured = {
        "ours": turns(80, 40, 40),
        "A": turns(10, 20, 10),
        "B": turns(20, 10, 10),
        "C": turns(5, 5, 5),
        "handler": turns(40, 40, 40),
    }
    rows = {
        row.case: row
        for row in size_rows("PNG, c=16", measured, Bound("at least", 3), handler="handler")
    }
    apis, everything = rows["PNG, c=16, the best model API"], rows["PNG, c=16, the best of all"]
    assert (apis.measured, apis.target, apis.is_reached) == (4, Bound("at least", 3), True)
    assert (everything.measured, everything.target) == (1, None)
    assert apis.details == {"our_per_s": 40, **{f"our_{name}": 2 for name in PERCENTILES}}
    assert rows["PNG, c=16, C"].measured == 8
    assert rows["PNG, c=16, C"].target is None
    assert rows["PNG, c=16, C"].details["its_cores"] == 1.5


def test_without_a_handler_there_is_no_best_of_all() -> None:
    rows = size_rows("PNG", {"ours": turns(80), "A": turns(10)}, None, handler="handler")
    assert [row.case for row in rows] == ["PNG, the best model API", "PNG, A"]


def test_rates_are_compared_round_by_round() -> None:
    (row,) = rate_rows("peers-cnn", "c=32", {"ours": turns(40, 60), "A": turns(20, 20)})
    assert (row.figure, row.case, row.measured, row.unit) == ("peers-cnn", "c=32, A", 2.5, "x")
    assert (row.details["our_per_s"], row.details["its_per_s"]) == (50, 20)
    assert {*row.loads} == {"ours", "A"}


def test_mixed_sizes_are_compared_with_ours_and_with_one_size() -> None:
    mixed = {"ours": turns(90, 90), "A": turns(30, 45)}
    same = {"ours": turns(100, 100), "A": turns(60, 60)}
    rows = {row.case: (row.measured, row.unit) for row in mixed_rows(mixed, same)}
    assert rows == {
        "JPEGs of 128 to 1024 px, A": (2.5, "x"),
        "JPEGs of 128 to 1024 px, ours alone": (0.9, "x all 512 px"),
        "JPEGs of 128 to 1024 px, A alone": (0.625, "x all 512 px"),
    }


def test_times_are_theirs_over_ours() -> None:
    (row,) = time_rows("54.8 MB out", {"ours": [0.05, 0.04], "A": [0.2, 0.04]})
    assert (row.case, row.measured) == ("54.8 MB out, A", 2.5)
    assert row.details == pytest.approx({"our_ms": 45, "its_ms": 120})


def neighbours(alone_s: float, beside_s: float, slow_errors: int = 0) -> Round:
    loads = [Load([seconds] * 10, 0, 0, 1.0, 0.0) for seconds in (alone_s, beside_s)]
    return Round(*loads, Load([0.1] * 10, slow_errors, 0, 1.0, 0.0), 0.5, 1.5)


def test_what_a_slow_neighbour_adds_is_told_for_each_server() -> None:
    rounds = {"ours": [neighbours(0.002, 0.003)] * 2, "A": [neighbours(0.004, 0.012, 1)] * 2}
    rows = {row.case: row for row in neighbour_rows(rounds)}
    case = "100/s beside 15/s, p99"
    assert rows[f"{case}, ours alone"].measured == 1.5
    assert rows[f"{case}, A alone"].measured == 3
    assert rows[f"{case}, A alone"].details["slow_errors"] == 2
    assert rows[f"{case}, A"].measured == 4
    assert {row.target for row in rows.values()} == {None}


def test_a_server_that_loses_requests_to_the_fast_model_has_no_figure() -> None:
    lost = neighbours(0.002, 0.003)._replace(beside=Load([], 1, 0, 1.0, 0.0))
    with pytest.raises(MeasurementFailed, match="A: 1 requests were not answered 200"):
        neighbour_rows({"ours": [neighbours(0.002, 0.003)], "A": [lost]})


def test_only_our_own_batcher_has_targets() -> None:
    loads = [Load([0.08] * 398, 1, 1, 1.0, 0.0)] * 3
    rows = list(batching_rows(400, {"ours": loads, "serve_batch": loads, "BentoML": loads}))
    assert [row.case for row in rows[:6:2]] == [
        "400/s, ours",
        "400/s, serve_batch",
        "400/s, BentoML",
    ]
    ratios = {row.case: row.measured for row in rows[6:]}
    assert ratios == {"400/s, ours to serve_batch": 1, "400/s, ours to BentoML": 1}
    served, p50, *_ = rows
    assert (served.measured, p50.measured) == (398, 80)
    assert served.details == {"errors": 3, "unanswered": 3}
    assert {row.target for row in rows} == {None}


def test_the_figures_can_be_chosen_by_name() -> None:
    assert [each.name for each in choose(["peers-batching"], PEER_FIGURES)] == ["peers-batching"]
    with pytest.raises(ConfigurationError, match="peers-image-size or peers-cnn"):
        choose(["gateway"], PEER_FIGURES)
