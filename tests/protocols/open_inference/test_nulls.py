"""Fields that are null are absent: KServe's SDK writes every field that it knows.

Bodies: kserve 0.21.0, kserve/protocol/infer_type.py, `InferRequest.to_dict` and
`InferInput.to_dict`, and kserve/protocol/rest/v2_datamodels.py, whose models pydantic dumps with
`None` where nothing was set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.protocols.open_inference.messages import arrays, create_echo, infer, post

DATA = [1.0, 2.0, 3.0, 4.0]
ANSWER = {"OUTPUT0": [DATA], "SUM": [10.0]}


def kserve_input(**changes: Any) -> dict[str, Any]:
    """Return `InferInput("INPUT0", [1, 4], "FP32", data).to_dict()`."""
    fields = {"name": "INPUT0", "shape": [1, 4], "datatype": "FP32", "data": DATA}
    return fields | {"parameters": None} | changes


def kserve_request(**changes: Any) -> dict[str, Any]:
    """Return `InferRequest("m", [input]).to_dict()`."""
    fields = {"id": None, "model_name": "m", "inputs": [kserve_input()], "parameters": None}
    return fields | {"from_grpc": False} | changes


REQUESTS: dict[str, Any] = {
    "as KServe's SDK writes it": kserve_request(),
    "outputs": kserve_request(outputs=None),
    "parameters of an output": kserve_request(
        outputs=[{"name": "OUTPUT0", "parameters": None}, {"name": "SUM", "parameters": None}]
    ),
    "a parameter": kserve_request(parameters={"binary_data_output": None, "priority": None}),
    "a reserved parameter": kserve_request(parameters={"triton_x": None}),
    "a parameter of an input": kserve_request(
        inputs=[
            kserve_input(parameters={"binary_data_size": None, "shared_memory_region": None}),
        ]
    ),
    "a parameter of an output": kserve_request(
        outputs=[
            {"name": name, "parameters": {"classification": None, "binary_data": None}}
            for name in ("OUTPUT0", "SUM")
        ]
    ),
}


@pytest.mark.parametrize("document", REQUESTS.values(), ids=REQUESTS)
async def test_a_null_field_of_a_request_is_absent(document: Any) -> None:
    response = await infer(create_echo(), document)
    assert arrays(response) == ANSWER
    assert "id" not in response.json()


async def test_null_data_beside_binary_data_is_absent() -> None:
    document = kserve_request(inputs=[kserve_input(data=None, parameters={"binary_data_size": 16})])
    response = await infer(create_echo(), document, np.array(DATA, "<f4").tobytes())
    assert arrays(response) == ANSWER


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (kserve_request(inputs=None), "Unable to parse 'inputs'"),
        (kserve_request(inputs=[kserve_input(data=None)]), "no field is set"),
        (kserve_request(inputs=[kserve_input(name=None)]), "Unable to parse 'name'"),
        (kserve_request(inputs=[kserve_input(shape=None)]), "Unable to parse 'shape'"),
        (kserve_request(inputs=[kserve_input(datatype=None)]), "Unknown datatype"),
        (kserve_request(inputs=[None]), "Unable to parse 'inputs'"),
    ],
)
async def test_a_null_where_something_is_needed_is_refused_as_if_it_lacked(
    document: Any, sentence: str
) -> None:
    response = await infer(create_echo(), document)
    assert response.status_code == 400
    assert sentence in response.json()["error"]


async def test_null_fields_of_the_repository_are_absent() -> None:
    app = create_echo()
    response = await post(app, "/v2/repository/index", {"ready": None})
    assert [entry["state"] for entry in response.json()] == ["READY"]
    for parameters in (None, {"config": None}):
        response = await post(app, "/v2/repository/models/m/load", {"parameters": parameters})
        assert response.status_code == 200
