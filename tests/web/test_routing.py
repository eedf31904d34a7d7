"""Routing by exact paths and by patterns."""

from __future__ import annotations

from rayserve_app.web.routing import Router


def router() -> Router[str]:
    made: Router[str] = Router()
    made.add("GET", "/v1/models/{model}", "status")
    made.add("GET", "/v1/models/{model}/versions/{version}", "status of a version")
    made.add("POST", "/v1/models/{model}:predict", "predict")
    made.add("POST", "/predict", "clipper")
    made.add("POST", "/predict", "cluster serving")
    made.add("GET", "/v1/models/all", "all")
    return made


def test_a_path_leads_to_all_who_claim_it_in_order() -> None:
    assert router().find("/predict") == {"POST": [("clipper", {}), ("cluster serving", {})]}


def test_a_pattern_gives_the_values_of_its_parameters() -> None:
    found = router().find("/v1/models/resnet.v2-a/versions/3")
    assert found == {"GET": [("status of a version", {"model": "resnet.v2-a", "version": "3"})]}


def test_the_longer_literal_parts_a_segment() -> None:
    found = router().find("/v1/models/m:predict")
    assert found["POST"] == [("predict", {"model": "m"})]


def test_an_exact_path_hides_patterns() -> None:
    assert router().find("/v1/models/all") == {"GET": [("all", {})]}


def test_nobody_claims_other_paths() -> None:
    for path in ("/", "/v1/models/", "/v1/models/a/b", "/predict/", "/v1/models/a/versions/"):
        assert router().find(path) == {}
