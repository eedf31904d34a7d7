"""Closures: what the function receives, what it may return, how it is found."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from deployments.closure.backend import ClosureBackend, ClosureSettings
from rayserve_app.errors import ConfigurationError, LoadError, PredictError
from rayserve_app.inference.batcher import run_batch
from rayserve_app.payloads.inputs import Inputs
from rayserve_app.settings.model import LimitSettings, parse_settings
from rayserve_app.types import Row

seen: list[Any] = []


def keep(inputs: Any) -> list[int]:
    """Remember the batch."""
    seen.append(inputs)
    return [0] * len(inputs)


def sizes(inputs: Any) -> list[int]:
    return [len(each) for each in inputs]


not_a_function = "a string"


def create_backend(function: str | Callable[..., Any], **inputs: Any) -> ClosureBackend:
    """Return a loaded backend; a function is loaded as its name or from a file."""
    name = function if isinstance(function, str) else function.__name__
    import_string = name if ":" in name else f"{__name__}:{name}"
    model = {"function": import_string, "input": {"type": "string"} | inputs}
    backend = ClosureBackend(parse_settings(ClosureSettings, {"model": model}))
    backend.load()
    return backend


def received(values: Sequence[Any], **inputs: Any) -> Any:
    """Return the batch that a function gets for these JSON values."""
    backend = create_backend(keep, **inputs)
    reader = Inputs(backend._settings.input, LimitSettings())
    items = [item for value in values for item in reader.from_json_item(value, path="")]
    seen.clear()
    backend.predict([reader.decode(item) for item in items])
    return seen.pop()


PIXEL = (  # 1 x 1, blue, as Pillow writes it
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYPgPAAEDAQAIicLsAAAAAElFTkSuQmCC"
)


def test_bytes_of_equal_length_are_a_writable_int8_matrix() -> None:
    batch = received(["AP8B", "AgMA"], type="bytes")  # 00 ff 01, 02 03 00
    np.testing.assert_array_equal(batch, np.array([[0, -1, 1], [2, 3, 0]], np.int8), strict=True)
    assert batch.flags.writeable
    assert io.BytesIO(batch[0]).getvalue() == b"\0\xff\1"


def test_bytes_of_unlike_length_are_an_array_of_read_only_arrays() -> None:
    batch = received(["AP8B", "Ag==", ""], type="bytes")
    assert (batch.dtype, batch.shape) == (object, (3,))
    assert [row.dtype for row in batch] == [np.int8] * 3
    assert [io.BytesIO(row).getvalue() for row in batch] == [b"\0\xff\1", b"\2", b""]
    assert not any(row.flags.writeable for row in batch)


def test_a_batch_of_one_is_a_matrix() -> None:
    assert received(["AP8B"], type="bytes").shape == (1, 3)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("integers", "int32"), ("floats", "float32"), ("doubles", "float64")]
)
def test_vectors_are_a_matrix_or_an_array_of_arrays(kind: str, dtype: str) -> None:
    batch = received([[1, 2], [3, 4]], type=kind)
    np.testing.assert_array_equal(batch, np.array([[1, 2], [3, 4]], dtype), strict=True)
    assert batch.flags.writeable
    batch = received([[1], [2, 3], []], type=kind)
    assert (batch.dtype, batch.shape) == (object, (3,))
    assert [(row.dtype, row.tolist()) for row in batch] == [
        (dtype, [1]),
        (dtype, [2, 3]),
        (dtype, []),
    ]


@pytest.mark.parametrize(
    ("strings_as", "expected"),
    [("str", ["a", "größe", ""]), ("bytes", [b"a", "größe".encode(), b""])],
)
def test_strings_are_text_or_the_bytes_that_clipper_hands_over(
    strings_as: str, expected: list[Any]
) -> None:
    batch = received(["a", "größe", ""], type="string", strings_as=strings_as)
    assert (batch.dtype, batch.shape) == (object, (3,))
    assert list(batch) == expected


def test_json_with_metadata_is_text_that_the_function_parses() -> None:
    values = [{"data": PIXEL, "format": "png"}, json.dumps({"data": PIXEL})]
    batch = received(values, type="string", codec="json_metadata")
    assert [json.loads(text) for text in batch] == [
        {"data": PIXEL, "format": "png"},
        {"data": PIXEL},
    ]


def test_bytes_with_metadata_are_mappings() -> None:
    batch = received(
        [{"data": "YQ==", "x": 1}, {"b64": "Yg=="}], type="bytes", codec="json_metadata"
    )
    assert batch == [{"data": b"a", "x": 1}, {"data": b"b"}]


def test_images_are_one_array() -> None:
    batch = received([PIXEL, PIXEL], type="image")
    np.testing.assert_array_equal(batch, np.array([[[[0, 0, 255]]]] * 2, np.uint8), strict=True)


def test_tensors_are_one_array_for_each_name() -> None:
    batch = received([{"a": [1, 2], "b": 3}, {"a": [4, 5], "b": 6}], type="tensors")
    assert {name: array.tolist() for name, array in batch.items()} == {
        "a": [[1, 2], [4, 5]],
        "b": [3, 6],
    }


@pytest.mark.parametrize(
    ("kind", "meet"),
    [("bytes", True), ("integers", True), ("string", True), ("tensor", False), ("image", False)],
)
def test_only_what_clipper_has_meets_at_any_length(kind: str, meet: bool) -> None:
    backend = create_backend(keep, type=kind)
    assert (backend.bucket(np.zeros(2)) == backend.bucket(np.zeros(3))) is meet


def returns(answer: Any) -> Any:
    """Return the results of a function that gives this answer, as texts."""
    backend = create_backend(keep)
    backend._function = lambda inputs: answer
    return [
        result.value if isinstance(result, Row) else result
        for result in run_batch(backend.predict, ["a", "b"])
    ]


@pytest.mark.parametrize(
    "answer",
    [
        [1, 2],
        (1, 2),
        np.array([1, 2]),
        (number for number in (1, 2)),
        map(int, "12"),
        {1: 0, 2: 0}.keys(),
    ],
)
def test_any_iterable_of_one_result_for_each_input_will_do(answer: Any) -> None:
    assert returns(answer) == [1, 2]


def test_a_mapping_is_named_outputs() -> None:
    assert returns({"a": [1, 2], "b": np.array([[3], [4]])}) == [
        {"a": 1, "b": np.array([3])},
        {"a": 2, "b": np.array([4])},
    ]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ([1], "expected 2, one per item of the batch, got 1"),
        ([1, 2, 3], "expected 2, one per item of the batch, got 3"),
        ({"a": [1, 2], "b": [1]}, "from output 'b': expected 2, one per item of the batch, got 1"),
        ({"a": 5}, "expected one per item, got int64 () - at `a`"),
        (np.array(5), "TypeError"),
    ],
)
def test_another_number_of_results_is_an_error(answer: Any, sentence: str) -> None:
    errors = returns(answer)
    assert len(errors) == 2
    for error in errors:
        assert isinstance(error, PredictError)
        assert sentence in str(error)


@pytest.mark.parametrize("answer", [None, 5, "ab", b"ab"])
def test_what_is_no_list_is_an_error(answer: Any) -> None:
    for error in returns(answer):
        assert "expected one result per item" in str(error)
        assert f"got {type(answer).__name__}" in str(error)


def load(**model: Any) -> ClosureBackend:
    settings = parse_settings(ClosureSettings, {"model": {"input": {"type": "string"}} | model})
    backend = ClosureBackend(settings)
    backend.load()
    return backend


@pytest.mark.parametrize(
    "string", ["no_such_module:f", f"{__name__}:no_such_function", "no import string"]
)
def test_a_function_that_is_missing_is_told_by_its_setting(string: str) -> None:
    with pytest.raises(ConfigurationError, match=r"- at `args.model.function`"):
        load(function=string)


def test_a_module_that_fails_to_import_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "closure_of_missing.py").write_text("import no_such_dependency")
    with pytest.raises(LoadError, match="ModuleNotFoundError: No module named 'no_such_dep"):
        load(function="closure_of_missing:f")


def test_what_is_no_function_is_told() -> None:
    with pytest.raises(LoadError, match="Not a function: got str"):
        load(function=f"{__name__}:not_a_function")


def test_a_closure_that_cloudpickle_wrote_is_loaded(tmp_path: Path) -> None:
    factor = 3
    file = tmp_path / "func.pkl"
    # Protocol 2 is what clipper_admin writes.
    file.write_bytes(cloudpickle.dumps(lambda inputs: [len(x) * factor for x in inputs], 2))
    assert load(pickle=str(file), trusted=True).predict(["a", "bc"]) == [3, 6]


def test_a_file_of_code_needs_trust() -> None:
    with pytest.raises(ConfigurationError, match="needs 'trusted: true'"):
        load(pickle="func.pkl")


@pytest.mark.parametrize("model", [{}, {"function": "a:b", "pickle": "c", "trusted": True}])
def test_a_closure_is_named_once(model: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected one of 'function' and 'pickle'"):
        load(**model)


def test_a_file_that_is_no_closure_is_told(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"No such file or directory: /.*func.pkl - at `.*pickle`"):
        load(pickle=str(tmp_path / "func.pkl"), trusted=True)
    (tmp_path / "func.pkl").write_bytes(b"no pickle")
    with pytest.raises(
        LoadError, match=r"is not a closure that loads here: .* - at `args.model.pickl"
    ):
        load(pickle=str(tmp_path / "func.pkl"), trusted=True)
    (tmp_path / "func.pkl").write_bytes(cloudpickle.dumps([1]))
    with pytest.raises(LoadError, match="Not a function: got list"):
        load(pickle=str(tmp_path / "func.pkl"), trusted=True)


def test_a_file_of_another_content_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "func.pkl"
    file.write_bytes(cloudpickle.dumps(sizes))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert load(pickle=str(file), trusted=True, sha256=digest).predict(["ab"]) == [2]
    with pytest.raises(LoadError, match=r"mismatch .*: expected f{64}, got .* - at `.*pickle`"):
        load(pickle=str(file), trusted=True, sha256="f" * 64)
    with pytest.raises(ConfigurationError, match="'sha256' is for 'pickle'"):
        load(function="m:f", sha256="f" * 64)


def test_a_closure_does_not_come_from_just_anywhere() -> None:
    with pytest.raises(
        ConfigurationError, match=r"no scheme that is known.*at `args.model.pickle`"
    ):
        load(pickle="ftp://host/func.pkl", trusted=True)


def test_packages_that_are_there_already_need_no_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSERVE_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "uv", None)
    wanted = ["requests", "pyyaml>=5", "opencv-python", "numpy"]
    backend = load(function=f"{__name__}:sizes", packages=wanted, requirements="strict")
    assert list(backend.predict(["abc"])) == [3]


def test_packages_that_cannot_be_installed_are_told_by_their_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSERVE_CACHE", str(tmp_path))
    with pytest.raises(LoadError, match=r"no-such-package-of-ours.* - at `args.model.packages`"):
        load(function=f"{__name__}:sizes", packages=["no-such-package-of-ours==9"])


def test_a_closure_is_loaded_and_released() -> None:
    backend = create_backend(sizes)
    assert backend.predict(["a", "bc"]) == [1, 2]
    assert backend.metadata().platform == "python-closure"
    backend.close()
    with pytest.raises(PredictError, match="not loaded"):
        backend.predict(["a"])


def test_a_closure_says_that_it_is_instant() -> None:
    settings = {"function": "m:f", "input": {"type": "bytes"}}
    assert not ClosureBackend(ClosureSettings.model_validate(settings)).is_instant
    assert ClosureBackend(ClosureSettings.model_validate(settings | {"instant": True})).is_instant


@pytest.mark.parametrize("data", [b"abc", bytearray(b"abc"), memoryview(b"abc")])
def test_one_item_is_a_batch_that_a_function_may_write_to(data: Any) -> None:
    backend = create_backend(keep, type="bytes")
    seen.clear()
    backend.predict([data])
    assert seen[0].tolist() == [[97, 98, 99]]
    seen[0][0, 0] = 0
    assert bytes(data) == b"abc" or isinstance(data, bytearray)
