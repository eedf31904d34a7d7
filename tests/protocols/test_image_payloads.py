"""One image in every form that clients send it in, to every protocol."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deployments.closure.backend import ClosureBackend, ClosureSettings
from rayserve_app.app import App, create_app
from rayserve_app.examples import image_size
from rayserve_app.inference.model import Model
from tests.protocols import call, create_model


def encoded(kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


PNG, JPEG = encoded("PNG"), encoded("JPEG")
TEXT = base64.b64encode(PNG).decode()
SIZE = [48, 32]


def sizes(items: Sequence[Any]) -> list[Any]:
    """Answer the size of encoded images, or of decoded ones."""
    return [
        [item.shape[1], item.shape[0]]
        if isinstance(item, np.ndarray)
        else [*Image.open(io.BytesIO(item["data"] if isinstance(item, dict) else item)).size]
        for item in items
    ]


def create_sizes(kind: str = "image", codec: str = "raw", **options: Any) -> App:
    return create_app(create_model(sizes, input={"type": kind, "codec": codec}, **options))


def create_example(**options: Any) -> App:
    """Return the first example: a closure of Clipper's that opens images itself."""
    settings = ClosureSettings.model_validate(
        {"name": "m", "function": f"{image_size.__name__}:size", "input": {"type": "bytes"}}
        | options
    )
    model = Model(settings, ClosureBackend(settings), name="m")
    model.load()
    model.warm_up()
    return create_app(model)


async def post(app: App, path: str, body: bytes | str, content_type: str | None) -> Any:
    headers = {} if content_type is None else {"content-type": content_type}
    return await call(app, "POST", path, content=body, headers=headers)


def status_of(response: Any) -> int:
    """Return the status; SageMaker's runtime API tells that of the container in the body."""
    if response.status_code != 424:
        return response.status_code
    return json.loads(response.text)["OriginalStatusCode"]


MODELS = [
    ("image", "raw"),
    ("image", "base64"),
    ("image", "json_metadata"),
    ("image", "packed_jpeg"),
    ("image", "tfrecord"),
    ("image", "recordio"),
    ("bytes", "raw"),
    ("bytes", "base64"),
    ("bytes", "json_metadata"),
    ("bytes", "packed_jpeg"),
    ("bytes", "tfrecord"),
    ("bytes", "recordio"),
]


@pytest.mark.parametrize(("kind", "codec"), MODELS)
async def test_other_names_for_images_and_octets(kind: str, codec: str) -> None:
    if (kind, codec) == ("image", "json_metadata"):
        pytest.skip("its items are mappings of arrays")
    app = create_sizes(kind, codec)
    for path in ("/invocations", "/endpoints/m/invocations", "/predictions/m"):
        for content_type in (
            "application/x-image",
            "binary/octet-stream",
            "Application/X-Image; a=b",
        ):
            response = await post(app, path, PNG, content_type)
            assert (response.status_code, response.json()) == (200, SIZE), (path, content_type)


async def test_octets_are_text_to_models_of_text() -> None:
    app = create_app(create_model(lambda items: list(items), input={"type": "string"}))
    assert (await post(app, "/invocations", "a", "binary/octet-stream")).json() == "a"


BASE64 = {
    "line breaks": base64.encodebytes(PNG).decode(),
    "line breaks of MIME": base64.encodebytes(PNG).decode().replace("\n", "\r\n"),
    "a final line end": TEXT + "\n",
    "a data URL": "data:image/png;base64," + TEXT,
    "a data URL in lines": "data:image/png;base64,\n" + base64.encodebytes(PNG).decode(),
}


@pytest.mark.parametrize("text", BASE64.values(), ids=list(BASE64))
@pytest.mark.parametrize(("kind", "codec"), MODELS)
async def test_text_is_base64_for_every_model_of_images(kind: str, codec: str, text: str) -> None:
    app = create_app(
        create_model(lambda items: ["ok"] * len(items), input={"type": kind, "codec": codec})
    )
    for body in (text, TEXT.rstrip("=")):
        response = await post(app, "/invocations", body, "text/plain; charset=us-ascii")
        assert (response.status_code, response.json()) == (200, "ok")


def clipper(text: str) -> tuple[str, Any]:
    return "/predict", {"input": text}


def clipper_batch(text: str) -> tuple[str, Any]:
    return "/predict", {"input_batch": [text]}


def container(text: str) -> tuple[str, Any]:
    return "/invocations", text


def container_list(text: str) -> tuple[str, Any]:
    return "/invocations", [text]


def metadata(text: str) -> tuple[str, Any]:
    return "/invocations", {"data": text, "format": "png"}


def tensorflow_rows(text: str) -> tuple[str, Any]:
    return "/v1/models/m:predict", {"instances": [{"b64": text}]}


def tensorflow_plain(text: str) -> tuple[str, Any]:
    return "/v1/models/m:predict", {"inputs": [text]}


def open_inference(text: str) -> tuple[str, Any]:
    tensor = {"name": "bytes", "datatype": "BYTES", "shape": [1], "data": [text]}
    return "/v2/models/m/infer", {"inputs": [tensor]}


def simple(text: str) -> tuple[str, Any]:
    return "/", {"data": {"images": [text]}}


def cluster(text: str) -> tuple[str, Any]:
    return "/predict", {"instances": [{"image": text}]}


JSON_WAYS = [
    clipper,
    clipper_batch,
    container,
    container_list,
    metadata,
    tensorflow_rows,
    tensorflow_plain,
    open_inference,
    simple,
    cluster,
]


@pytest.mark.parametrize("text", BASE64.values(), ids=list(BASE64))
@pytest.mark.parametrize("way", JSON_WAYS, ids=lambda way: way.__name__)
async def test_base64_in_json(way: Callable[[str], tuple[str, Any]], text: str) -> None:
    app = create_sizes("bytes")
    path, body = way(text)
    response = await post(app, path, json.dumps(body), "application/json")
    assert response.status_code == 200, response.text
    plain = await post(app, path, json.dumps(way(TEXT)[1]), "application/json")
    drop = ("query_id",)
    assert {k: v for k, v in _as_dict(response).items() if k not in drop} == {
        k: v for k, v in _as_dict(plain).items() if k not in drop
    }
    assert "48" in response.text


def _as_dict(response: Any) -> dict[str, Any]:
    value = response.json()
    return value if isinstance(value, dict) else {"value": value}


async def test_a_data_url_in_text_of_json_reaches_a_closure_as_base64() -> None:
    app = create_example(
        function=f"{image_size.__name__}:size_of_json",
        input={"type": "string", "codec": "json_metadata"},
    )
    text = json.dumps({"data": BASE64["a data URL"], "format": "png"})
    response = await post(app, "/predict", json.dumps({"input": text}), "application/json")
    assert response.json()["output"] == "(48, 32)"


# What clients send by mistake.

FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize("content_type", [FORM, "application/json", "text/plain", None])
@pytest.mark.parametrize("image", [PNG, JPEG], ids=["PNG", "JPEG"])
async def test_an_image_is_one_whatever_its_type_says(image: bytes, content_type: str) -> None:
    for app in (create_sizes("bytes"), create_sizes("image"), create_sizes("image", "packed_jpeg")):
        for path in ("/invocations", "/endpoints/m/invocations", "/predictions/m"):
            response = await post(app, path, image, content_type)
            assert (response.status_code, response.json()) == (200, SIZE), path


@pytest.mark.parametrize("path", ["/invocations", "/endpoints/m/invocations", "/predictions/m"])
async def test_another_type_for_an_image_is_refused_with_the_right_one(path: str) -> None:
    for content_type, image, name in (
        ("application/pdf", PNG, "The body is a PNG image: send it as image/png"),
        ("video/mp4", JPEG, "The body is a JPEG image: send it as image/jpeg"),
    ):
        response = await post(create_sizes("bytes"), path, image, content_type)
        assert status_of(response) == 415
        assert name in response.text
    numbers = create_app(create_model(lambda items: [1.0], input={"type": "doubles"}))
    response = await post(numbers, path, PNG, "image/png")
    assert "The body is a PNG image, which this model does not take" in response.text


@pytest.mark.parametrize("content_type", ["image/png", "application/json", FORM, "text/csv", None])
@pytest.mark.parametrize("path", ["/invocations", "/endpoints/m/invocations"])
async def test_an_empty_body_is_called_so(path: str, content_type: str | None) -> None:
    for kind in ("bytes", "image", "doubles"):
        app = create_app(create_model(lambda items: [1.0], input={"type": kind}))
        response = await post(app, path, b"", content_type)
        assert status_of(response) == 400
        assert "The body is empty: expected application/json or" in response.text


async def test_json_under_the_type_of_curls_forms_is_refused_with_what_to_do() -> None:
    for kind in ("bytes", "doubles"):
        app = create_app(create_model(lambda items: [1.0], input={"type": kind}))
        response = await post(app, "/invocations", b"[1.0]", FORM)
        assert response.status_code == 415
        assert "curl" in response.text
        assert "-H 'Content-Type: " in response.text


def as_curl_sends(data: bytes) -> bytes:
    """curl's manual, --data: carriage returns, newlines and null bytes are stripped out."""
    return data.translate(None, b"\r\n\0")


@pytest.mark.parametrize("content_type", [FORM, "image/jpeg", None])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
async def test_what_curls_d_has_left_of_a_file_is_recognised(
    kind: str, content_type: str | None
) -> None:
    body = as_curl_sends(encoded(kind))
    for app in (create_sizes("bytes"), create_sizes("image"), create_sizes("image", "packed_jpeg")):
        for path in ("/invocations", "/predictions/m"):
            response = await post(app, path, body, content_type)
            assert response.status_code == 400
            assert "--data-binary" in response.text


async def test_what_curls_d_has_left_of_a_packed_stream_is_recognised() -> None:
    stream = len(JPEG).to_bytes(4, "big") + JPEG
    response = await post(
        create_sizes("image", "packed_jpeg"), "/invocations", as_curl_sends(stream), "a/b"
    )
    assert response.status_code == 415
    response = await post(
        create_sizes("image", "packed_jpeg"),
        "/invocations",
        as_curl_sends(stream),
        "application/octet-stream",
    )
    assert response.status_code == 400
    assert "--data-binary" in response.text


@pytest.mark.parametrize("path", ["/v1/models/m:predict", "/v2/models/m/infer", "/predict"])
async def test_where_json_is_wanted_an_image_is_called_one(path: str) -> None:
    app = create_sizes(
        "bytes", protocols=["tensorflow_serving", "open_inference", "cluster_serving"]
    )
    response = await post(app, path, JPEG, "application/json")
    assert response.status_code == 400
    assert "It is a JPEG image" in response.text


@pytest.mark.parametrize(
    ("body", "content_type", "sentence"),
    [
        (JPEG, "image/jpeg", "as curl's -F sends them"),
        (JPEG, FORM, "as curl's -F sends them"),
        (b'{"data": {}}', FORM, "say what it is with -H 'Content-Type: "),
        (b"", None, "The body is empty"),
    ],
)
async def test_simple_tensorflow_serving_says_what_to_send(
    body: bytes, content_type: str | None, sentence: str
) -> None:
    app = create_sizes("bytes", protocols=["simple_tensorflow_serving"])
    response = await post(app, "/", body, content_type)
    assert response.status_code == 400
    assert response.json()["error"].startswith("Error, unsupported content type")
    assert sentence in response.json()["error"]


@pytest.mark.parametrize(
    "path", ["/predict", "/v1/models/m:predict", "/v2/models/m/infer", "/invocations", "/"]
)
async def test_an_empty_body_is_no_riddle_in_json(path: str) -> None:
    response = await post(create_sizes("bytes"), path, b"", "application/json")
    assert response.status_code == 400
    assert "empty" in response.text


# What is no image.

BAD = b"\x89PNG\r\n\x1a\n, but not a picture"
BAD_TEXT = base64.b64encode(BAD).decode()
NONSENSE = base64.b64encode(b"hello, world").decode()


@pytest.mark.parametrize(
    "bad", [BAD, b"hello, world", PNG[:20], encoded("BMP")[:30], b"BM" + bytes(99)]
)
@pytest.mark.parametrize("way", JSON_WAYS, ids=lambda way: way.__name__)
async def test_a_bad_image_is_400_to_the_first_example(
    way: Callable[[str], tuple[str, Any]], bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path, body = way(base64.b64encode(bad).decode())
    for app in (create_example(), create_example(instant=True)):
        response = await post(app, path, json.dumps(body), "application/json")
        assert status_of(response) == 400, response.text
        assert "image" in response.text
    assert not caplog.records


@pytest.mark.parametrize("path", ["/invocations", "/endpoints/m/invocations", "/predictions/m"])
async def test_a_bad_body_is_400_to_the_first_example(path: str) -> None:
    for bad in (BAD, b"hello, world", PNG[:20]):
        response = await post(create_example(), path, bad, "image/png")
        assert status_of(response) == 400, response.text


@pytest.mark.parametrize("create", [create_example, create_sizes])
@pytest.mark.parametrize("bad", [BAD_TEXT, NONSENSE])
async def test_one_bad_image_of_clippers_batch_fails_alone(
    create: Callable[[], App], bad: str
) -> None:
    body = json.dumps({"input_batch": [TEXT, bad, TEXT]})
    answers = (await post(create(), "/predict", body, None)).json()["batch_predictions"]
    assert [each["default"] for each in answers] == [False, True, False]
    assert "image" in answers[1]["default_explanation"]
    assert "48" in str(answers[0]["output"])
    assert "48" in str(answers[2]["output"])


@pytest.mark.parametrize("create", [create_example, create_sizes])
@pytest.mark.parametrize("bad", [BAD_TEXT, NONSENSE, "no base64!"])
async def test_one_bad_image_of_many_instances_fails_alone(
    create: Callable[[], App], bad: str
) -> None:
    body = json.dumps({"instances": [{"image": text} for text in (TEXT, bad, TEXT)]})
    predictions = (await post(create(), "/predict", body, None)).json()["predictions"]
    values = [json.loads(each)["value"] for each in predictions]
    assert [value == "NaN" for value in values] == [False, True, False]


async def test_one_bad_image_fails_alone_beside_answers_that_are_kept() -> None:
    app = create_sizes(cache={"max_mb": 1})
    await post(app, "/predict", json.dumps({"input": TEXT}), None)
    body = json.dumps({"input_batch": [TEXT, BAD_TEXT]})
    answers = (await post(app, "/predict", body, None)).json()["batch_predictions"]
    assert [each["default"] for each in answers] == [False, True]


async def test_a_batch_of_bad_images_alone_is_400() -> None:
    for app in (create_sizes(), create_example()):
        for body in (
            {"input_batch": [BAD_TEXT, NONSENSE]},
            {"instances": [{"image": BAD_TEXT}, {"image": NONSENSE}]},
        ):
            response = await post(app, "/predict", json.dumps(body), None)
            assert response.status_code == 400


async def test_nobody_is_told_of_anothers_bad_image() -> None:
    """However many are bad, each good one is answered."""
    texts = [BAD_TEXT if index % 5 else TEXT for index in range(60)]
    app = create_example(batching={"max_batch_size": 60})
    body = json.dumps({"input_batch": texts})
    answers = (await post(app, "/predict", body, None)).json()["batch_predictions"]
    assert [each["default"] for each in answers] == [text is BAD_TEXT for text in texts]


def opens_a_file_of_its_own(images: Sequence[Any]) -> list[Any]:
    with Image.open("no such file.png") as picture:
        return [picture.size for _ in images]


def resizes_wrongly(images: Sequence[Any]) -> list[Any]:
    return [Image.open(io.BytesIO(image)).resize((-1, 2)) for image in images]


def decodes(images: Sequence[Any]) -> list[Any]:
    return [Image.open(io.BytesIO(image)).convert("L").getpixel((0, 0)) for image in images]


@pytest.mark.parametrize(
    ("function", "image", "status"),
    [
        (opens_a_file_of_its_own, PNG, 500),
        (resizes_wrongly, PNG, 500),
        (decodes, PNG, 200),
        (decodes, PNG[:-90], 400),
        (decodes, PNG[:90] + b"????" + PNG[94:], 400),
        (decodes, b"P6 999999 999999 255 ", 400),
    ],
)
async def test_only_what_pillow_cannot_read_is_the_callers_fault(
    function: Callable[..., Any], image: bytes, status: int
) -> None:
    app = create_example(function=f"{__name__}:{function.__name__}")
    response = await post(app, "/invocations", image, "application/octet-stream")
    assert response.status_code == status, response.text


# Forms.


@pytest.mark.parametrize("path", ["/predictions/m", "/predict", "/"])
async def test_two_files_of_one_field_are_two_items(path: str) -> None:
    files = [("image", ("1.png", PNG, "image/png")), ("image", ("2.jpg", JPEG, "image/jpeg"))]
    protocols = ["simple_tensorflow_serving" if path == "/" else "multi_model_server"]
    for kind in ("image", "bytes"):
        app = create_sizes(kind, protocols=protocols)
        response = await call(app, "POST", path, files=files)
        assert response.status_code == 200, response.text
        found = response.json()
        assert (found["output"] if path == "/" else found) == [SIZE, SIZE]


async def test_of_files_of_one_field_the_bad_one_is_named() -> None:
    files = [("image", ("1.png", PNG, "image/png")), ("image", ("2.jpg", b"?", "application/pdf"))]
    response = await call(create_sizes(), "POST", "/predictions/m", files=files)
    assert response.status_code == 415
    assert "at `image[1]`" in response.text
    response = await call(
        create_sizes(limits={"max_items": 1}), "POST", "/predictions/m", files=files[:1] * 2
    )
    assert response.status_code == 413


async def test_a_query_and_a_field_of_one_name_are_two_items() -> None:
    app = create_app(create_model(list, input={"type": "string"}, protocols=["multi_model_server"]))
    response = await call(app, "POST", "/predict?data=a&data=b", data={"data": "c"})
    assert response.json() == ["a", "b", "c"]


# Arrays.


def means(items: Sequence[Any]) -> list[float]:
    return [float(np.mean(item["data"] if isinstance(item, dict) else item)) for item in items]


PHOTO = np.asarray(Image.open(io.BytesIO(PNG)))


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tensor_of(array: Any, datatype: str) -> dict[str, Any]:
    shape, data = array.shape, array.ravel().tolist()
    return {"inputs": [{"name": "image", "datatype": datatype, "shape": shape, "data": data}]}


ARRAY_WAYS: dict[str, Callable[[Any], tuple[str, Any, str]]] = {
    "npy": lambda array: ("/invocations", npy(array), "application/x-npy"),
    "nested": lambda array: ("/invocations", array.tolist(), "application/json"),
    "lines": lambda array: ("/invocations", array.tolist(), "application/jsonlines"),
    "runtime": lambda array: ("/endpoints/m/invocations", [array.tolist()], "application/json"),
    "clipper": lambda array: ("/predict", {"input": array.tolist()}, "application/json"),
    "rows": lambda array: (
        "/v1/models/m:predict",
        {"instances": [array.tolist()]},
        "application/json",
    ),
    "columns": lambda array: (
        "/v1/models/m:predict",
        {"inputs": [array.tolist()]},
        "application/json",
    ),
    "open inference": lambda array: (
        "/v2/models/m/infer",
        tensor_of(array[None], "UINT8" if array.dtype == np.uint8 else "FP32"),
        "application/json",
    ),
    "simple": lambda array: ("/", {"data": {"image": [array.tolist()]}}, "application/json"),
    "cluster": lambda array: (
        "/predict",
        {"instances": [{"image": array.tolist()}]},
        "application/json",
    ),
    "multi model server": lambda array: ("/predictions/m", npy(array), "application/x-npy"),
}


@pytest.mark.parametrize("way", ARRAY_WAYS.values(), ids=list(ARRAY_WAYS))
@pytest.mark.parametrize("codec", ["raw", "base64", "json_metadata", "packed_jpeg", "tfrecord"])
@pytest.mark.parametrize("kind", ["pixels", "own"])
async def test_arrays_have_one_answer_in_every_protocol_and_codec(
    codec: str, way: Callable[[Any], tuple[str, Any, str]], kind: str
) -> None:
    declared = {"type": "image", "codec": codec, "size": [16, 24], "scale": 1 / 255}
    app = create_app(create_model(means, input=declared))
    array = PHOTO if kind == "pixels" else np.linspace(0.1, 0.9, 16 * 24 * 3).reshape(16, 24, 3)
    expected = array.mean() / 255 if kind == "pixels" else array.mean()
    path, body, content_type = way(array)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = await post(app, path, content, content_type)
    assert response.status_code == 200, response.text
    (number,) = re.findall(r"0\.\d+", response.text)
    assert float(number) == pytest.approx(expected, abs=2e-3)


# Accept, where a page stands beside JSON.


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], "text/html"),
        (["application/json, text/html"], "application/json"),
        (["text/html;q=0.5, application/json"], "application/json"),
        (["application/json;q=0.5, text/html"], "text/html"),
        (["text/html;q=0, */*"], "application/json"),
        (["text/html", "application/json;q=0.5"], "text/html"),
        (["*/*"], "application/json"),
        ([], "application/json"),
    ],
)
async def test_a_model_shows_its_page_to_whom_prefers_html(lines: list[str], kind: str) -> None:
    app = create_sizes()
    response = await call(app, "GET", "", headers=[("accept", line) for line in lines])
    assert response.headers["content-type"].partition(";")[0] == kind
