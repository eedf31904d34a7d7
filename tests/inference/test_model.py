"""A served model without HTTP: readiness, admission, decoding, deadlines, timing."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import pickle
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rayserve_app.codecs.json_metadata import EncodedImage
from rayserve_app.errors import (
    DeadlineExceeded,
    DecodeError,
    InvalidRequest,
    LoadError,
    ModelNotReady,
    Overloaded,
    PredictError,
    RequestTooLarge,
    ServingError,
    VersionNotFound,
)
from rayserve_app.inference import batcher
from rayserve_app.inference.backend import Predictor
from rayserve_app.inference.model import Model
from rayserve_app.process.timing import Timing
from rayserve_app.settings.model import ModelSettings
from rayserve_app.types import Metadata, TensorSpec
from tests.protocols import FunctionBackend, create_model

STRING = {"type": "string"}


def echo(items: Sequence[Any]) -> list[Any]:
    return list(items)


def png(color: tuple[int, int, int]) -> EncodedImage:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), color).save(file, "PNG")
    return EncodedImage(file.getvalue(), {})


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


async def values(model: Model, *items: Any) -> list[Any]:
    return [result.value for result in await model.predict(items)]


async def test_results_are_in_the_order_of_the_items() -> None:
    model = create_model(echo, input=STRING, batching={"max_batch_size": 2})
    assert await values(model, "a", "b", "c") == ["a", "b", "c"]
    model.close()


async def test_images_are_decoded_and_preprocessed() -> None:
    model = create_model(
        lambda images: {"mean": np.stack(images).mean(axis=(1, 2))},
        input={"type": "image", "scale": 0.5, "color": "BGR"},
    )
    red, blue = await values(model, png((200, 0, 0)), png((0, 0, 100)))
    np.testing.assert_allclose(red["mean"], [0, 0, 100])
    np.testing.assert_allclose(blue["mean"], [50, 0, 0])


@pytest.mark.parametrize("kind", ["string", "image"])
async def test_no_items_have_no_results_and_leave_no_trace(kind: str) -> None:
    model = create_model(echo, input={"type": kind})
    timing = Timing()
    assert await model.predict([], timing=timing) == []
    assert timing.header().count("dur=0.000") == 5


async def test_a_model_is_not_ready_until_it_is_warm() -> None:
    model = create_model(echo, input=STRING, is_warm=False)
    with pytest.raises(ModelNotReady, match="Model 'm' is warming up"):
        await model.predict(["a"])
    assert model.describe()["ready"] is False
    model.warm_up()
    assert await values(model, "a") == ["a"]
    assert model.describe()["ready"] is True


FLAT = TensorSpec("x", "float32", (-1, 3))
OPEN = TensorSpec("x", "float32", (-1, -1))
UNKNOWN = TensorSpec("x", "float32", ())
COUNT = TensorSpec("n", "int64", (-1,))
TEXT = TensorSpec("t", "string", (-1,))


@pytest.mark.parametrize(
    ("settings", "specs", "shape", "dtype"),
    [
        ({"type": "image", "size": [4, 6]}, (), (4, 6, 3), "uint8"),
        ({"type": "image", "size": [4, 6], "layout": "CHW", "scale": 2}, (), (3, 4, 6), "float32"),
        ({"type": "image", "size": [4, 6], "color": "gray"}, (), (4, 6, 1), "uint8"),
        ({"type": "tensor"}, (FLAT,), (3,), "float32"),
    ],
)
def test_warming_up_runs_the_smallest_and_the_largest_batch(
    settings: dict[str, Any], specs: tuple[TensorSpec, ...], shape: tuple[int, ...], dtype: str
) -> None:
    batches: list[Sequence[Any]] = []
    create_model(
        batches.append,
        metadata=Metadata("test", inputs=specs),
        input=settings,
        batching={"max_batch_size": 8},
    )
    assert [len(batch) for batch in batches] == [1, 8]
    for item in (item for batch in batches for item in batch):
        assert (item.shape, item.dtype) == (shape, dtype)
        assert not item.any()


class Normalizing(FunctionBackend):
    normalizes_images = True


async def test_a_backend_that_normalises_gets_pixels_and_floats_in_batches_of_their_own() -> None:
    batches: list[list[Any]] = []

    def note(items: Sequence[Any]) -> list[int]:
        batches.append(list(items))
        return [0] * len(items)

    declared = {"type": "image", "size": [3, 4], "scale": 0.5}
    settings = ModelSettings.model_validate({"input": declared})
    model = Model(settings, Normalizing(note), name="m")
    model.warm_up()
    assert {(item.dtype, item.shape) for items in batches for item in items} == {
        (np.dtype(np.uint8), (3, 4, 3))
    }
    batches.clear()
    floats = model.inputs.from_object(np.full((3, 4, 3), 0.25), path="")
    await values(model, png((2, 4, 6)), floats, png((8, 10, 12)))
    pixels, (own,) = sorted(batches, key=len, reverse=True)
    np.testing.assert_array_equal([image[0, 0] for image in pixels], [[2, 4, 6], [8, 10, 12]])
    np.testing.assert_array_equal(own, np.full((3, 4, 3), 0.25, np.float32), strict=True)


def test_warming_up_names_the_tensors() -> None:
    batches: list[Sequence[Any]] = []
    create_model(
        batches.append,
        metadata=Metadata("test", inputs=(FLAT, COUNT)),
        input={"type": "tensors"},
        batching={"max_batch_size": 1},
    )
    ((item,),) = batches
    assert {name: (array.shape, array.dtype.name) for name, array in item.items()} == {
        "x": ((3,), "float32"),
        "n": ((), "int64"),
    }


@pytest.mark.parametrize(
    ("settings", "specs", "warm_up"),
    [
        (STRING, (), True),
        ({"type": "bytes"}, (), True),
        ({"type": "image"}, (), True),
        ({"type": "tensor"}, (), True),
        ({"type": "tensor"}, (OPEN,), True),
        ({"type": "tensor"}, (UNKNOWN,), True),
        ({"type": "tensor"}, (TEXT,), True),
        ({"type": "tensors"}, (FLAT, OPEN), True),
        ({"type": "tensor"}, (FLAT,), False),
    ],
)
def test_there_is_nothing_to_run_without_a_known_shape_or_the_wish(
    settings: dict[str, Any], specs: tuple[TensorSpec, ...], warm_up: bool
) -> None:
    batches: list[Sequence[Any]] = []
    metadata = Metadata("test", inputs=specs)
    model = create_model(batches.append, metadata=metadata, input=settings, warm_up=warm_up)
    assert model.is_warm
    assert not batches


def test_a_model_that_fails_while_it_warms_up_is_never_ready() -> None:
    model = create_model(
        lambda images: 1 / 0, input={"type": "image", "size": [1, 1]}, is_warm=False
    )
    with pytest.raises(ZeroDivisionError):
        model.warm_up()
    with pytest.raises(ModelNotReady):
        model.check_ready()


async def test_a_model_that_hangs_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "HANG_FLOOR_S", 0.5)
    gate = threading.Event()
    model = create_model(
        lambda items: gate.wait(20) and list(items),
        input=STRING,
        deadline={"latency_ms": 20},
        batching={"max_batch_size": 1},
    )
    for _ in range(3):
        with pytest.raises(DeadlineExceeded, match="no result within its deadline"):
            await model.predict(["a"])
    await until(lambda: model.is_stalled)
    with pytest.raises(ModelNotReady, match="Model 'm' hangs and is about to be replaced"):
        await model.predict(["a"])
    gate.set()
    await until(lambda: not model.is_stalled)
    assert await values(model, "b") == ["b"]


async def test_a_full_queue_refuses_and_empties() -> None:
    gate = threading.Event()
    model = create_model(
        lambda items: gate.wait(20) and list(items),
        input=STRING,
        batching={"max_batch_size": 1},
        limits={"max_queued_items": 3},
    )
    pending = [asyncio.ensure_future(model.predict(items)) for items in (["a", "b"], ["c"])]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="queue of model 'm' is full: 3 of 3 items"):
        await model.predict(["d"])
    pending[1].cancel()
    await asyncio.sleep(0)
    pending.append(asyncio.ensure_future(model.predict(["e"])))
    gate.set()
    assert [result.value for result in await pending[0]] == ["a", "b"]
    assert [result.value for result in await pending[2]] == ["e"]


async def test_a_queue_full_of_bytes_refuses_and_empties() -> None:
    gate = threading.Event()
    model = create_model(
        lambda items: gate.wait(20) and list(items),
        input={"type": "bytes"},
        limits={"max_queued_mb": 0.002},
    )
    pending = asyncio.ensure_future(model.predict([bytes(900), memoryview(bytes(900))]))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match=r"queue of model 'm' is full: 0.0018 of 0.002 MB"):
        await model.predict([bytes(201)])
    small = asyncio.ensure_future(model.predict([bytes(200)]))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        model.check_admission()
    gate.set()
    assert [len(results) for results in await asyncio.gather(pending, small)] == [2, 1]
    assert len(await values(model, bytes(5000))) == 1  # alone, it is taken though it is larger


async def test_images_count_in_the_queue_at_the_size_that_the_model_takes() -> None:
    gate = threading.Event()
    model = create_model(
        lambda items: gate.wait(20) and [0] * len(items),
        input={"type": "image", "size": [100, 100], "scale": 1.0},
        limits={"max_queued_mb": 0.25},
        warm_up=False,
    )
    pending = asyncio.ensure_future(model.predict([png((0, 0, 0)), png((0, 0, 1))]))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded, match=r"0\.24 of 0\.25 MB"):
        await model.predict([png((0, 0, 2))])
    gate.set()
    assert len(await pending) == 2


async def test_a_request_of_too_many_items_is_refused() -> None:
    model = create_model(echo, input=STRING, limits={"max_items": 2})
    with pytest.raises(RequestTooLarge, match="expected at most 2, got 3"):
        await model.predict(["a"] * 3)


async def test_an_image_that_cannot_be_decoded_is_told_by_its_place() -> None:
    model = create_model(echo, input={"type": "image"})
    with pytest.raises(DecodeError, match="not an image") as info:
        await model.predict([png((0, 0, 0)), EncodedImage(b"no image", {})])
    assert info.value.path == "[1]"
    with pytest.raises(DecodeError) as info:
        await model.predict([EncodedImage(b"no image", {})])
    assert info.value.path == ""
    assert len(await values(model, png((0, 0, 0)))) == 1


async def test_the_deadline_holds_for_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[Sequence[Any]] = []
    model = create_model(
        batches.append, input={"type": "image"}, deadline={"latency_ms": 50}, threads={"decode": 1}
    )
    gate = threading.Event()
    decoded: list[Any] = []
    monkeypatch.setattr(
        model.inputs, "decode", lambda item, out: decoded.append(item) or gate.wait(20)
    )
    with pytest.raises(DeadlineExceeded, match="Decoding took longer than the deadline of 50 ms"):
        await model.predict([png((0, 0, 0)), png((0, 0, 0))])
    gate.set()
    await asyncio.sleep(0.05)
    assert len(decoded) == 1  # the second was never begun
    assert not batches


async def test_what_decoding_took_is_missing_from_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = create_model(list, input={"type": "image"}, deadline={"latency_ms": 20_000})
    monkeypatch.setattr(model.inputs, "decode", lambda item, out: time.sleep(0.2) or 0)
    given: list[float] = []

    async def submit(*_: Any, timeout_s: float, **__: Any) -> list[Any]:
        given.append(timeout_s)
        return []

    monkeypatch.setattr(model.batcher, "submit", submit)
    await model.predict([png((0, 0, 0))])
    assert 0 < given[0] <= 19.8


async def test_the_time_of_each_stage_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model(
        lambda items: time.sleep(0.05) or list(items),
        input={"type": "image"},
        threads={"decode": 1},
    )
    monkeypatch.setattr(model.inputs, "decode", lambda item, out: time.sleep(0.03) or 0)
    timing = Timing()
    before = time.perf_counter()
    await model.predict([png((0, 0, 0))] * 2, timing=timing)
    after = time.perf_counter()
    assert timing.decode >= 0.06  # two images, one after the other
    assert timing.predict >= 0.05
    assert timing.queue >= 0
    assert timing.batch_wait >= 0
    assert before < timing.predicted_at <= after
    stages = timing.queue + timing.decode + timing.batch_wait + timing.predict
    assert stages <= timing.predicted_at - before + 0.001


async def test_a_model_that_fails_on_an_item_fails_on_no_other() -> None:
    def parse(items: Sequence[str]) -> list[int]:
        return [int(item) for item in items]

    one, error, three = await create_model(parse, input=STRING).predict(["1", "two", "3"])
    assert (one.value, three.value) == (1, 3)
    assert isinstance(error, PredictError)
    assert "ValueError: invalid literal" in str(error)


@pytest.mark.parametrize("answer", [None, 5, {"a": np.array(5)}, {"a": None}])
async def test_an_answer_that_is_none_is_an_error_at_once(answer: Any) -> None:
    model = create_model(lambda items: answer, input=STRING, deadline={"latency_ms": 5000})
    async with asyncio.timeout(2):
        results = await model.predict(["a", "b"])
    assert all(isinstance(result, PredictError) for result in results)


@pytest.mark.parametrize("error", [StopIteration, SystemExit, asyncio.CancelledError])
async def test_whatever_a_model_raises_is_an_error_at_once(error: type[BaseException]) -> None:
    def fail(items: Sequence[Any]) -> Any:
        raise error

    async with asyncio.timeout(2):
        (result,) = await create_model(fail, input=STRING).predict(["a"])
    assert error.__name__ in str(result)


class Recorded(Predictor):
    """Answers each batch with its own name, and remembers the batches."""

    def __init__(self, name: str, *specs: TensorSpec) -> None:
        self.name = name
        self.specs = specs
        self.batches: list[list[Any]] = []

    def predict(self, items: Sequence[Any]) -> list[str]:
        self.batches.append(list(items))
        return [self.name] * len(items)

    def metadata(self) -> Metadata:
        return Metadata("test", inputs=self.specs)


class Versioned(FunctionBackend):
    """A backend of several versions."""

    def __init__(self, versions: Mapping[str, Mapping[str, Recorded]]) -> None:
        super().__init__(echo)
        self._versions = versions

    def versions(self) -> Mapping[str, Mapping[str, Recorded]]:
        return self._versions


def create_versioned(
    versions: Mapping[str, Mapping[str, Recorded]], *, input: Any = STRING, **settings: Any
) -> Model:
    declared = ModelSettings.model_validate({"input": input, **settings})
    model = Model(declared, Versioned(versions), name="m")
    model.load()
    model.warm_up()
    return model


def test_a_model_of_one_version_and_signature_is_asked_for_by_their_names_or_none() -> None:
    model = create_model(echo, input=STRING, version="2")
    names: list[tuple[str | None, str | None]]
    names = [(None, None), ("2", None), (None, "serving_default"), ("2", "serving_default")]
    for version, signature in names:
        assert model.select(version, signature).inputs is model.inputs
    with pytest.raises(
        VersionNotFound, match="Model 'm' has no such version: expected '2', got '1'"
    ):
        model.select("1")
    sentence = "Model 'm' has no such signature: expected 'serving_default', got 'images'"
    with pytest.raises(InvalidRequest, match=sentence):
        model.select("2", "images")


async def test_a_request_picks_a_version_and_a_signature() -> None:
    names = ("b", "a")
    model = create_versioned({n: {s: Recorded(f"{n}{s}") for s in names} for n in ("3", "1")})
    for version, signature, expected in [
        (None, None, "3b"),
        ("1", None, "1b"),
        (None, "a", "3a"),
        ("1", "a", "1a"),
    ]:
        (row,) = await model.predict(["x"], servable=model.select(version, signature))
        assert row.value == expected
    with pytest.raises(VersionNotFound, match="expected one of '3', '1', got ''"):
        model.select("")
    with pytest.raises(InvalidRequest, match="expected one of 'b', 'a', got 'c'"):
        model.select("1", "c")


async def test_items_of_two_versions_or_signatures_never_meet_in_a_batch() -> None:
    gate = threading.Event()

    class Gated(Recorded):
        def predict(self, items: Sequence[Any]) -> list[str]:
            gate.wait(20)
            return super().predict(items)

    loaded = {version: {name: Gated(version + name) for name in "ab"} for version in "21"}
    model = create_versioned(loaded, batching={"max_batch_size": 16})
    asked = [
        (version, name, f"{version}{name}{turn}")
        for turn in range(4)
        for version in "12"
        for name in "ab"
    ]
    pending = [
        asyncio.ensure_future(model.predict([item], servable=model.select(version, name)))
        for version, name, item in asked
    ]
    await asyncio.sleep(0.05)
    gate.set()
    for (version, name, _), results in zip(asked, await asyncio.gather(*pending), strict=True):
        assert [row.value for row in results] == [version + name]
    for version, predictors in loaded.items():
        for name, predictor in predictors.items():
            items = [item for batch in predictor.batches for item in batch]
            assert items == [f"{version}{name}{turn}" for turn in range(4)]
    assert (
        max(len(batch) for each in loaded.values() for p in each.values() for batch in p.batches)
        > 1
    )


async def test_each_signature_reads_its_own_inputs() -> None:
    both = {"one": Recorded("one", FLAT), "two": Recorded("two", COUNT, FLAT)}
    older = {"one": Recorded("old", COUNT)}
    settings = {"type": "tensor", "dtype": "float64"}
    model = create_versioned({"2": both, "1": older}, input=settings, warm_up=False)

    def read(value: Any, *names: str | None) -> Any:
        return model.select(*names).inputs.from_json(value).items[0]

    assert read([1, 2, 3]).dtype == np.float64
    item = read({"n": 4, "x": [1, 2, 3]}, None, "two")
    assert (item["n"].dtype, item["x"].dtype) == (np.int64, np.float32)
    assert read(4, "1").shape == ()
    with pytest.raises(InvalidRequest, match="Wrong input names"):
        read({"x": [1, 2, 3]}, "2", "two")


def test_all_versions_and_signatures_are_warmed_up() -> None:
    loaded = {version: {name: Recorded(name, FLAT) for name in "ab"} for version in "21"}
    create_versioned(loaded, input={"type": "tensor"}, batching={"max_batch_size": 8})
    for predictors in loaded.values():
        for predictor in predictors.values():
            assert [len(batch) for batch in predictor.batches] == [1, 8]


def test_a_signature_that_is_no_default_may_fail_while_it_warms_up() -> None:
    class Broken(Recorded):
        def predict(self, items: Sequence[Any]) -> list[str]:
            raise PredictError("lost")

    loaded = {"1": {"a": Recorded("a", FLAT), "b": Broken("b", FLAT)}}
    assert create_versioned(loaded, input={"type": "tensor"}).is_warm
    with pytest.raises(PredictError, match="lost"):
        create_versioned({"1": {"b": Broken("b", FLAT)}}, input={"type": "tensor"})


@pytest.mark.parametrize(
    ("settings", "decoded"),
    [
        ({"type": "bytes"}, bytes),
        ({"type": "bytes", "codec": "packed_jpeg"}, bytes),
        ({"type": "string", "codec": "base64"}, base64.b64decode),
        ({"type": "string", "codec": "base64_urlsafe"}, base64.urlsafe_b64decode),
        (
            {"type": "string", "codec": "json_metadata"},
            lambda text: base64.b64decode(json.loads(text)["data"]),
        ),
    ],
)
def test_a_model_that_decodes_images_itself_is_warmed_up_with_a_black_one(
    settings: dict[str, Any], decoded: Callable[[Any], bytes]
) -> None:
    batches: list[Sequence[Any]] = []
    metadata = Metadata("test", inputs=(TEXT,))
    create_model(batches.append, metadata=metadata, input=settings, batching={"max_batch_size": 4})
    assert [len(batch) for batch in batches] == [1, 4]
    image = Image.open(io.BytesIO(decoded(batches[0][0])))
    assert (image.size, image.mode) == ((8, 8), "RGB")
    assert image.getextrema() == ((0, 0),) * 3


def test_a_model_may_refuse_the_black_image() -> None:
    def refuse(items: Sequence[Any]) -> Any:
        raise InvalidRequest("too dark")

    metadata = Metadata("test", inputs=(TEXT,))
    assert create_model(refuse, metadata=metadata, input={"type": "bytes"}).is_warm


def test_a_model_describes_itself_in_json() -> None:
    specs = (FLAT, COUNT)
    model = create_model(
        echo,
        metadata=Metadata("test", inputs=specs, outputs=specs[:1]),
        input={"type": "tensors"},
        deadline={"latency_ms": 250, "default_output": {"reason": [1.5, None]}},
        protocols=["clipper"],
    )
    described = json.loads(json.dumps(model.describe()))
    assert described["name"] == "m"
    assert (described["version"], described["signature"]) == ("1", "serving_default")
    assert described["platform"] == "test"
    assert described["ready"] is True
    assert described["input"] == {"type": "tensors"}
    assert described["inputs"] == [
        {"name": "x", "datatype": "float32", "shape": [-1, 3]},
        {"name": "n", "datatype": "int64", "shape": [-1]},
    ]
    assert described["outputs"] == [{"name": "x", "datatype": "float32", "shape": [-1, 3]}]
    assert described["versions"] == {
        "1": {"serving_default": {key: described[key] for key in ("inputs", "outputs")}}
    }
    assert described["deadline_ms"] == 250
    assert described["limits"]["max_pixels"] == 50_000_000
    assert described["protocols"] == ["clipper"]


def test_a_fault_in_loading_names_the_model() -> None:
    class Broken(FunctionBackend):
        def load(self) -> None:
            raise LoadError("No such file", path="saved_model.pb")

    model = Model(ModelSettings.model_validate({"input": STRING}), Broken(echo), name="yolo")
    with pytest.raises(LoadError, match=r"No such file - at `yolo.saved_model.pb`"):
        model.load()


async def test_closing_releases_the_backend() -> None:
    closed: list[bool] = []

    class Backend(FunctionBackend):
        def close(self) -> None:
            closed.append(True)

    model = Model(ModelSettings.model_validate({"input": STRING}), Backend(echo), name="m")
    model.close()
    assert closed == [True]


async def test_errors_of_predictions_cross_processes() -> None:
    (error,) = await create_model(lambda items: 1 / 0, input=STRING).predict(["a"])
    assert isinstance(error, ServingError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


async def test_equal_items_are_predicted_once_where_the_model_has_a_cache() -> None:
    batches: list[Sequence[Any]] = []

    def means(images: Sequence[Any]) -> Any:
        batches.append(images)
        return {"mean": np.stack(images).mean(axis=(1, 2))}

    model = create_model(means, input={"type": "image"}, cache={"max_mb": 1})
    first, second = await values(model, png((3, 0, 0)), png((0, 5, 0)))
    timing = Timing()
    results = await model.predict([png((0, 5, 0)), png((3, 0, 0))], timing=timing)
    for result, expected in zip(results, (second, first), strict=True):
        np.testing.assert_array_equal(result.value["mean"], expected["mean"])
    assert len(batches) == 1
    assert timing.predicted_at > 0
    assert timing.header().count("dur=0.000") == 5
    assert model.recorder.cached_items == {"miss": 2, "hit": 2}


async def test_nothing_is_remembered_without_a_cache() -> None:
    batches: list[Sequence[Any]] = []
    model = create_model(lambda items: batches.append(items) or list(items), input=STRING)
    for _ in range(2):
        assert await values(model, "a") == ["a"]
    assert len(batches) == 2
    assert not model.recorder.cached_items


async def test_each_version_has_its_own_answers() -> None:
    model = create_versioned(
        {name: {"s": Recorded(name)} for name in ("2", "1")}, cache={"max_mb": 1}
    )
    for version in ("2", "1", "2", "1"):
        (row,) = await model.predict(["x"], servable=model.select(version))
        assert row.value == version
    model.load()
    (row,) = await model.predict(["x"])
    assert model.recorder.cached_items == {"miss": 3, "hit": 2}  # what is loaded may be another


async def test_a_cached_model_still_tells_which_item_is_bad() -> None:
    model = create_model(
        lambda items: [0] * len(items), input={"type": "image"}, cache={"max_mb": 1}
    )
    good, bad = png((0, 0, 0)), EncodedImage(b"no image", {})
    await model.predict([good])
    for items, path in [([good, bad], "[1]"), ([good, png((1, 1, 1)), bad], "[2]"), ([bad], "")]:
        with pytest.raises(DecodeError) as info:
            await model.predict(items)
        assert info.value.path == path


async def test_a_full_queue_still_answers_what_is_known() -> None:
    gate = threading.Event()
    gate.set()
    model = create_model(
        lambda items: gate.wait(20) and list(items),
        input=STRING,
        cache={"max_mb": 1},
        limits={"max_queued_items": 1},
    )
    await model.predict(["known"])
    gate.clear()
    pending = asyncio.ensure_future(model.predict(["a"]))
    await asyncio.sleep(0.01)
    assert await values(model, "known") == ["known"]
    with pytest.raises(Overloaded):
        await model.predict(["b"])
    gate.set()
    await pending


async def test_a_cached_model_refuses_what_any_other_refuses() -> None:
    model = create_model(
        echo, input=STRING, cache={"max_mb": 1}, limits={"max_items": 2}, is_warm=False
    )
    with pytest.raises(ModelNotReady):
        await model.predict(["a"])
    model.warm_up()
    with pytest.raises(RequestTooLarge):
        await model.predict(["a"] * 3)
    assert await model.predict([]) == []
