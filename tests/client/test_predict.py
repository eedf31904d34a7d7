"""Predictions of real photographs through a real server, by both clients."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import skimage.data
from PIL import Image

from rayserve_app.client import Client
from rayserve_app.errors import (
    ConfigurationError,
    InvalidRequest,
    ModelNotFound,
    NotAcceptable,
    PredictError,
    RequestTooLarge,
)
from rayserve_app.inference.model import Model
from rayserve_app.types import Metadata, Reply, TensorSpec
from tests.client import Connect, served
from tests.protocols import create_model

PHOTO = skimage.data.astronaut()[::4, ::4]
CAT = skimage.data.chelsea()[::4, ::4]

PACKED = {"type": "image", "codec": "packed_jpeg", "size": [32, 32]}
IMAGE = {"type": "image"}


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def means(items: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {"mean": np.stack([item.mean((0, 1)) for item in items]).astype(np.float32)}


def mean_of(pixels: np.ndarray) -> np.ndarray:
    return pixels.mean((0, 1)).astype(np.float32)


def spec(name: str, *shape: int, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, (-1, *shape))


MEAN = Metadata("function", outputs=(spec("mean", 3),))


def mean_model(**settings: Any) -> Model:
    return create_model(means, metadata=MEAN, **({"input": IMAGE} | settings))


def shades(count: int) -> list[np.ndarray]:
    """Return photographs that are told apart by their means."""
    return [CAT // 4 + shade for shade in range(count)]


@pytest.mark.parametrize("form", ["path", "str", "bytes", "bytearray", "memoryview", "array"])
def test_one_image_has_its_bare_result(connect: Connect, tmp_path: Path, form: str) -> None:
    path = tmp_path / "astronaut.png"
    path.write_bytes(data := encode(PHOTO))
    image: Any = {
        "path": path,
        "str": os.fspath(path),
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "array": PHOTO,
    }[form]
    with served(mean_model()) as server:
        result = connect(server.url).predict(image)
    assert (result.shape, result.dtype) == ((3,), np.float32)
    np.testing.assert_array_equal(result, mean_of(PHOTO))


def test_a_model_of_packed_streams_gives_one_image_its_bare_result(connect: Connect) -> None:
    with served(mean_model(input=PACKED)) as server:
        result = connect(server.url).predict(encode(PHOTO[:32, :32]))
        (request,) = server.watched.predictions
    np.testing.assert_array_equal(result, mean_of(PHOTO[:32, :32]))
    assert request.headers["content-type"] == "application/x-packed-jpeg"


def test_many_images_travel_as_packed_streams_and_come_back_in_order(connect: Connect) -> None:
    pixels = [each[:32, :32] for each in shades(100)]
    model = mean_model(input=PACKED, batching={"max_batch_size": 5})
    with served(model) as server:
        result = connect(server.url).predict([encode(each) for each in pixels])
        requests = server.watched.predictions
    np.testing.assert_array_equal(result, [mean_of(each) for each in pixels])
    assert len(requests) == 5
    assert {each.headers["content-type"] for each in requests} == {"application/x-packed-jpeg"}
    assert {each.headers["accept"] for each in requests} == {"application/x-npy"}


def test_a_list_of_one_has_a_batch_axis(connect: Connect) -> None:
    for declared in (IMAGE, PACKED | {"size": list(PHOTO.shape[:2])}):
        with served(mean_model(input=declared)) as server:
            result = connect(server.url).predict([encode(PHOTO)])
        np.testing.assert_array_equal(result, mean_of(PHOTO)[None])


def test_images_go_one_by_one_where_no_stream_is_known(connect: Connect) -> None:
    pixels = shades(9)
    with served(mean_model()) as server:
        result = connect(server.url).predict([encode(each) for each in pixels])
        assert len(server.watched.predictions) == 9
    np.testing.assert_array_equal(result, [mean_of(each) for each in pixels])


def test_arrays_of_one_shape_travel_as_one_array(connect: Connect) -> None:
    pixels = shades(12)
    with served(mean_model()) as server:
        client = connect(server.url)
        result = client.predict(pixels)
        assert len(server.watched.predictions) == 1
        np.testing.assert_array_equal(client.predict(np.stack(pixels)), result)
    np.testing.assert_array_equal(result, [mean_of(each) for each in pixels])


def test_a_model_of_streams_takes_arrays_paths_and_bytes_in_one_list(
    connect: Connect, tmp_path: Path
) -> None:
    path = tmp_path / "cat.webp"
    Image.fromarray(CAT).resize((32, 32)).save(path, lossless=True)
    small = np.asarray(Image.open(path))
    with served(mean_model(input=PACKED)) as server:
        result = connect(server.url).predict([path, small, encode(small, "BMP")])
    np.testing.assert_array_equal(result, [mean_of(small)] * 3)


def test_the_name_may_stand_beside_the_servers_url(connect: Connect) -> None:
    with served(mean_model()) as server:
        client = connect(server.url.removesuffix("m"), model="m")
        np.testing.assert_array_equal(client.predict(PHOTO), mean_of(PHOTO))


@pytest.mark.parametrize("url", ["http://h/m", "http://h/m/", "http://h/a%20b%2Fc/m?key=1"])
def test_a_url_is_kept_as_it_is_written(url: str) -> None:
    sent: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(str(request.url))
        return httpx.Response(404)

    http = httpx.Client(transport=httpx.MockTransport(answer))
    with pytest.raises(ModelNotFound):
        Client(url, http_client=http).describe()
    assert sent == [url.replace("m/", "m")]


def test_several_outputs_of_known_shapes_are_told_apart(connect: Connect) -> None:
    outputs = (spec("mean", 3), spec("size", 2, dtype="int32"), spec("sum", dtype="float64"))

    def describe_images(items: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        return means(items) | {
            "size": np.array([item.shape[:2] for item in items], np.int32),
            "sum": np.array([item.sum(dtype=float) for item in items]),
        }

    model = create_model(describe_images, metadata=Metadata("f", outputs=outputs), input=IMAGE)
    with served(model) as server:
        client = connect(server.url)
        one, two = client.predict(PHOTO), client.predict([PHOTO, PHOTO // 2])
        assert server.watched.predictions[0].headers["accept"] == "application/x-npy"
    assert {name: (each.dtype, each.shape) for name, each in one.items()} == {
        "mean": (np.float32, (3,)),
        "size": (np.int32, (2,)),
        "sum": (np.float64, ()),
    }
    assert one["sum"] == PHOTO.sum()
    assert two["size"].tolist() == [[128, 128]] * 2
    np.testing.assert_array_equal(two["mean"], [mean_of(PHOTO), mean_of(PHOTO // 2)])


def test_several_outputs_of_unknown_shapes_come_whole_too(connect: Connect) -> None:
    outputs = (spec("rows", -1), spec("mean", 3))

    def describe_images(items: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        rows = np.stack([item.mean((1, 2)) for item in items]).astype(np.float32)
        return means(items) | {"rows": rows}

    model = create_model(describe_images, metadata=Metadata("f", outputs=outputs), input=PACKED)
    small = PHOTO[:32, :32]
    with served(model) as server:
        client = connect(server.url)
        result = client.predict([small] * 3)
        assert len(server.watched.predictions) == 1
    assert {name: (each.dtype, each.shape) for name, each in result.items()} == {
        "rows": (np.float32, (3, 32)),
        "mean": (np.float32, (3, 3)),
    }
    np.testing.assert_array_equal(result["rows"][2], small.mean((1, 2)).astype(np.float32))


def test_objects_come_as_they_are(connect: Connect) -> None:
    def describe_images(items: Sequence[np.ndarray]) -> list[Any]:
        return [{"width": item.shape[1], "label": "cat"} for item in items]

    with served(create_model(describe_images, input=IMAGE)) as server:
        client = connect(server.url)
        assert client.predict(PHOTO) == {"width": 128, "label": "cat"}
        assert client.predict([PHOTO, CAT]) == [
            {"width": 128, "label": "cat"},
            {"width": 113, "label": "cat"},
        ]
        with pytest.raises(NotAcceptable):
            client.predict(PHOTO, form="npy")


def test_the_caller_may_ask_for_the_other_form(connect: Connect) -> None:
    def sums(items: Sequence[np.ndarray]) -> list[Any]:
        return [item.sum((0, 1)) for item in items]

    with served(create_model(sums, input=IMAGE)) as server:
        client = connect(server.url)
        plain, array = client.predict(PHOTO), client.predict(PHOTO, form="npy")
    assert plain == PHOTO.sum((0, 1)).tolist()
    np.testing.assert_array_equal(array, plain)


def test_results_may_be_changed_in_place(connect: Connect) -> None:
    with served(mean_model()) as server:
        result = connect(server.url).predict([PHOTO])
    result -= result
    assert not result.any()


def test_bytes_come_one_by_one(connect: Connect) -> None:
    def thumbnails(items: Sequence[np.ndarray]) -> list[Any]:
        return [encode(item[::8, ::8]) for item in items]

    model = create_model(thumbnails, input=IMAGE, output={"codec": "raw"})
    with served(model) as server:
        result = connect(server.url).predict([PHOTO, CAT])
    assert result == [encode(PHOTO[::8, ::8]), encode(CAT[::8, ::8])]


def test_results_of_unlike_shapes_make_a_list(connect: Connect) -> None:
    def rows(items: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        return {"rows": np.stack([item.mean((1, 2)) for item in items])}

    metadata = Metadata("f", outputs=(spec("rows", -1, dtype="float64"),))
    with served(
        create_model(rows, metadata=metadata, input=IMAGE, batching={"max_batch_size": 1})
    ) as server:
        result = connect(server.url).predict([PHOTO, CAT])
    assert [each.shape for each in result] == [(128,), (75,)]
    np.testing.assert_array_equal(result[1], CAT.mean((1, 2)))


def doubled(items: Sequence[Any]) -> dict[str, np.ndarray]:
    return {"doubled": 2 * np.stack(items)}


TENSOR = {"type": "tensor", "dtype": "float32", "shape": [2]}
DOUBLED = Metadata("f", (spec("x", 2),), (spec("doubled", 2),))


def test_a_model_of_arrays_takes_one_or_many(connect: Connect, tmp_path: Path) -> None:
    one = np.array([1.5, -2], np.float32)
    np.save(tmp_path / "one.npy", one)
    model = create_model(doubled, metadata=DOUBLED, input=TENSOR, limits={"max_items": 7})
    with served(model) as server:
        client = connect(server.url)
        np.testing.assert_array_equal(client.predict(one), 2 * one)
        np.testing.assert_array_equal(client.predict(tmp_path / "one.npy"), 2 * one)
        server.watched.requests.clear()
        many = np.arange(40, dtype=np.float32).reshape(20, 2)
        np.testing.assert_array_equal(client.predict(many), 2 * many)
        np.testing.assert_array_equal(client.predict(list(many)), 2 * many)
        assert len(server.watched.predictions) == 2 * 3


def test_a_model_of_several_inputs_takes_mappings(connect: Connect) -> None:
    def added(items: Sequence[Any]) -> dict[str, np.ndarray]:
        return {"sum": np.stack([item["a"] + item["b"] for item in items])}

    metadata = Metadata("f", (spec("a", 2), spec("b", 2)), (spec("sum", 2),))
    with served(create_model(added, metadata=metadata, input={"type": "tensors"})) as server:
        item = {"a": np.array([1, 2], np.float32), "b": [0.5, 0.25]}
        result = connect(server.url).predict([item, item])
    np.testing.assert_array_equal(result, [[1.5, 2.25]] * 2)


def test_a_model_of_strings_takes_the_string_itself(connect: Connect) -> None:
    model = create_model(lambda items: [item.upper() for item in items], input={"type": "string"})
    with served(model) as server:
        assert connect(server.url).predict(["a/b.jpg", "ä"]) == ["A/B.JPG", "Ä"]


def test_a_model_of_whole_requests_sees_the_callers_content_type(connect: Connect) -> None:
    def reply(items: Sequence[Any]) -> list[Any]:
        told = {"type": items[0].content_type, "size": len(items[0].body)}
        return [Reply(json.dumps(told), "application/json")]

    with served(create_model(reply, input={"type": "request"})) as server:
        client = connect(server.url)
        data = encode(PHOTO, "JPEG")
        assert client.predict(data, content_type="application/x-image") == {
            "type": "application/x-image",
            "size": len(data),
        }
        assert client.predict(PHOTO)["type"] == "application/x-npy"
    with served(mean_model()) as server, pytest.raises(InvalidRequest, match="one content type"):
        connect(server.url).predict(data, content_type="image/jpeg")


@pytest.mark.parametrize(
    ("limits", "requests"),
    [
        ({"max_items": 3}, 4),
        ({"max_body_mb": 0.009}, 5),
        ({"max_request_pixels": 2 * 32 * 32}, 5),
    ],
)
def test_a_list_is_cut_within_the_models_limits(
    connect: Connect, limits: dict[str, float], requests: int
) -> None:
    rng = np.random.default_rng(4)
    noise = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(10)]
    assert all(3072 < len(encode(each)) < 3200 for each in noise)
    with served(mean_model(input=PACKED, limits=limits)) as server:
        result = connect(server.url).predict([encode(each) for each in noise])
        assert len(server.watched.predictions) == requests
    np.testing.assert_array_equal(result, [mean_of(each) for each in noise])


def test_the_caller_may_want_fewer_items_in_a_request(connect: Connect) -> None:
    with served(mean_model(input=PACKED)) as server:
        connect(server.url, max_items=2).predict([PHOTO] * 6)
        assert len(server.watched.predictions) == 3


def test_progress_is_told_item_by_item(connect: Connect) -> None:
    seen: list[tuple[int, int]] = []
    with served(mean_model(input=PACKED, limits={"max_items": 4})) as server:
        connect(server.url, concurrency=1).predict(
            [PHOTO] * 10, progress=lambda done, total: seen.append((done, total))
        )
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_no_list_is_read_ahead_of_what_is_under_way(connect: Connect, tmp_path: Path) -> None:
    """The last file appears only when the first images are done."""
    paths = [tmp_path / f"{number}.png" for number in range(12)]
    for path in paths[:-1]:
        path.write_bytes(encode(PHOTO))

    def progress(done: int, total: int) -> None:
        paths[-1].write_bytes(encode(CAT))

    with served(mean_model()) as server:
        result = connect(server.url, concurrency=2).predict(iter(paths), progress=progress)
    np.testing.assert_array_equal(result[-1], mean_of(CAT))


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([PHOTO, "none.png"], r"cannot be read: .*none.png.* - at `images\[1\]`"),
        ([b""], r"No bytes.* - at `images\[0\]`"),
        (b"", "No bytes: expected an image, got an empty file or value$"),
        ([PHOTO.astype(np.float32)], r"Not pixels: expected uint8 \(H, W, 3\).* `images\[0\]`"),
        ([PHOTO, 5], r"Not an image: expected a path.* got int - at `images\[1\]`"),
        ([], "No images"),
        (5, "Not images: .* got int"),
        ("\0", "cannot be read"),
    ],
)
def test_what_cannot_be_sent_is_refused_here(connect: Connect, images: Any, sentence: str) -> None:
    with served(mean_model(input=PACKED)) as server:
        with pytest.raises(InvalidRequest, match=sentence):
            connect(server.url).predict(images)
        assert not server.watched.predictions


def test_an_image_larger_than_a_body_is_refused_here(connect: Connect) -> None:
    with (
        served(mean_model(limits={"max_body_mb": 0.001})) as server,
        pytest.raises(RequestTooLarge, match=r"at most 1000 bytes.* - at `images\[0\]`"),
    ):
        connect(server.url).predict([encode(PHOTO)])


def test_the_server_says_in_its_own_words_what_is_wrong(connect: Connect) -> None:
    with served(mean_model()) as server:
        with pytest.raises(InvalidRequest, match="not an image, or its header is damaged") as told:
            connect(server.url).predict(b"GIF of no size")
        assert told.value.__notes__ == [f"POST {server.url}/invocations, 1 attempt"]


def test_an_error_says_which_images_it_is_about(connect: Connect) -> None:
    pictures = [encode(PHOTO)] * 6
    pictures[4] = pictures[4][:1000]
    with served(mean_model(input=PACKED, limits={"max_items": 3})) as server:
        with pytest.raises(InvalidRequest, match=r"\[1\]") as streamed:
            connect(server.url).predict(pictures)
        assert streamed.value.path == "images[3:6]"
    with served(mean_model()) as server:
        with pytest.raises(InvalidRequest) as single:
            connect(server.url).predict(pictures)
        assert single.value.path == "images[4]"


def test_a_failing_model_is_told_and_not_asked_again(connect: Connect) -> None:
    def fail(_: Sequence[Any]) -> Any:
        raise ValueError("no such cat")

    with served(create_model(fail, input=IMAGE, warm_up=False)) as server:
        with pytest.raises(PredictError):
            connect(server.url).predict(PHOTO)
        assert len(server.watched.predictions) == 1


def test_the_model_is_asked_once_what_it_is(connect: Connect) -> None:
    with served(mean_model()) as server:
        client = connect(server.url)
        for _ in range(2):
            client.predict(PHOTO)
        described = [each for each in server.watched.requests if each.method == "GET"]
        assert [each.path for each in described] == ["/m"]
        assert client.describe()["limits"]["max_items"] == 1000


def test_a_path_where_nothing_is_is_no_model(connect: Connect) -> None:
    with served(mean_model()) as server, pytest.raises(ModelNotFound, match="No such path"):
        connect(server.url, model="other").predict(PHOTO)


def test_a_model_without_the_protocol_is_told(connect: Connect) -> None:
    with (
        served(mean_model(protocols=["clipper"])) as server,
        pytest.raises(ConfigurationError, match=r"expected sagemaker.*args\.model\.protocols"),
    ):
        connect(server.url).predict(PHOTO)


def test_several_outputs_are_told_apart_where_the_model_says_nothing(connect: Connect) -> None:
    def two(items: Sequence[Any]) -> dict[str, np.ndarray]:
        return {name: np.full((len(items), 3), shade) for shade, name in enumerate(("ä", "b"))}

    model = create_model(two, input=PACKED, output={"codec": "npy"})
    with served(model) as server:
        client = connect(server.url)
        many, one = client.predict([PHOTO, PHOTO]), client.predict(PHOTO)
        assert client.predict(PHOTO, form="json") == {"ä": [0, 0, 0], "b": [1, 1, 1]}
    assert {name: each.tolist() for name, each in many.items()} == {
        "ä": [[0, 0, 0]] * 2,
        "b": [[1, 1, 1]] * 2,
    }
    assert one["b"].tolist() == [1, 1, 1]
