"""What stands under `args` in the YAML, and how a mistake in it is told."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from rayserve_app.errors import ConfigurationError
from rayserve_app.settings.model import ModelSettings, parse_settings
from rayserve_app.settings.protocols import PROTOCOLS
from rayserve_app.settings.section import Section

IMAGE = {"input": {"type": "image"}}


def fault_of(model: Any) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as info:
        parse_settings(ModelSettings, {"model": model})
    return info.value


def test_the_yaml_of_the_design_is_read_as_it_stands() -> None:
    args = yaml.safe_load(
        """
        model:
          input: {type: image, codec: packed_jpeg, size: [512, 512], color: RGB,
                  scale: 0.00392156862745098}
          output: {codec: npy, outputs: [conv2d_58, conv2d_66, conv2d_74]}
          batching: {max_batch_size: 10, batch_wait_timeout_s: 0.0, max_concurrent_batches: 1}
          limits: {max_body_mb: 64, max_pixels: 50_000_000, body_timeout_s: 10,
                   min_body_rate_kb_s: 1}
          threads: {decode: 2, compute: 2}
          deadline: {latency_ms: 3000, default_output: null}
        """
    )
    settings = parse_settings(ModelSettings, args)
    assert settings.input.size == (512, 512)
    assert settings.input.scale == 1 / 255
    assert settings.output.outputs == ("conv2d_58", "conv2d_66", "conv2d_74")
    assert settings.limits.max_pixels == 50_000_000
    assert settings.deadline.latency_ms == 3000
    assert settings.deadline.default_output is None


def test_all_but_the_inputs_type_has_a_default() -> None:
    settings = parse_settings(ModelSettings, {"model": IMAGE})
    assert settings.name is None
    assert settings.version == "1"
    assert (settings.threads.decode, settings.threads.compute) == (None, None)
    assert settings.protocols == tuple(PROTOCOLS)


@pytest.mark.parametrize(
    ("section", "path", "known"),
    [
        ({"inptu": {}}, "args.model.inptu", "name, version, input, output, batching"),
        ({"limits": {"max_pixel": 1}}, "args.model.limits.max_pixel", "max_body_mb, max_items"),
        ({"input": {"type": "image", "kodec": 1}}, "args.model.input.kodec", "codec, color"),
        ({"deadline": {"latency_s": 1}}, "args.model.deadline.latency_s", "latency_ms"),
    ],
)
def test_an_unknown_key_is_told_with_its_path_and_the_known(
    section: dict[str, Any], path: str, known: str
) -> None:
    fault = fault_of(IMAGE | section)
    assert fault.problem == f"Unknown key {path.rpartition('.')[2]!r}"
    assert fault.path == path
    assert fault.remedy is not None
    assert set(known.split(", ")) <= set(fault.remedy.removeprefix("Known: ").split(", "))


WITH_SETTINGS = (
    "cluster_serving, open_inference, sagemaker, simple_tensorflow_serving, tensorflow_serving"
)


@pytest.mark.parametrize(
    ("declared", "sentence"),
    [
        ({"clipper": {}}, f"Unknown key 'clipper' - at `{{}}.clipper`. Known: {WITH_SETTINGS}"),
        ({"grpc": {}}, f"Unknown key 'grpc' - at `{{}}.grpc`. Known: {WITH_SETTINGS}"),
        (
            {"open_inference": {"model_controll": "none"}},
            "Unknown key 'model_controll' - at `{}.open_inference.model_controll`. "
            "Known: model_control",
        ),
        (
            {"sagemaker": {"async_input": ["/a", "b"]}},
            "Neither `s3://bucket/prefix` or `gs://bucket/prefix`, nor a directory's absolute path:"
            " got 'b' - at `{}.sagemaker.async_input[1]`",
        ),
        (
            {"simple_tensorflow_serving": {"username": "a"}},
            "'username' and 'password_variable' go together: got {{'username': 'a'}}"
            " - at `{}.simple_tensorflow_serving`",
        ),
    ],
)
def test_a_mistake_in_a_protocols_settings_is_told(declared: Any, sentence: str) -> None:
    fault = fault_of(IMAGE | {"protocol_settings": declared})
    assert str(fault) == sentence.format("args.model.protocol_settings")


def test_a_subclass_knows_its_own_keys() -> None:
    class Nested(Section):
        depth: int = 1

    class Special(ModelSettings):
        nested: Nested = Nested()

    with pytest.raises(ConfigurationError, match=r"'deep' - at `args.model.nested.deep`. .* depth"):
        parse_settings(Special, {"model": IMAGE | {"nested": {"deep": 2}}})


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ({}, "Missing key 'input' - at `args.model.input`"),
        ({"input": {}}, "Missing key 'type' - at `args.model.input.type`"),
    ],
)
def test_a_missing_key_is_told(model: dict[str, Any], sentence: str) -> None:
    assert str(fault_of(model)) == sentence


@pytest.mark.parametrize(
    ("section", "path", "got"),
    [
        ({"batching": {"max_batch_size": "many"}}, "args.model.batching.max_batch_size", "'many'"),
        ({"batching": {"max_batch_size": 0}}, "args.model.batching.max_batch_size", "0"),
        ({"limits": {"max_pixels": 1.5}}, "args.model.limits.max_pixels", "1.5"),
        ({"limits": {"body_timeout_s": 0}}, "args.model.limits.body_timeout_s", "0"),
        ({"deadline": {"latency_ms": 60_001}}, "args.model.deadline.latency_ms", "60001"),
        ({"output": {"codec": "pickle"}}, "args.model.output.codec", "'pickle'"),
        ({"output": []}, "args.model.output", "[]"),
        ({"name": "a b"}, "args.model.name", "'a b'"),
        ({"input": {"type": "video"}}, "args.model.input.type", "'video'"),
        ({"input": {"type": "image", "size": [5, 0]}}, "args.model.input.size[1]", "0"),
        ({"input": {"type": "image", "mean": [1, "a", 1]}}, "args.model.input.mean[1]", "'a'"),
    ],
)
def test_a_wrong_value_is_told_with_its_path(section: dict[str, Any], path: str, got: str) -> None:
    fault = fault_of(IMAGE | section)
    assert (fault.path, fault.got) == (path, got)


def test_a_wrong_choice_is_told_with_the_choices() -> None:
    assert "'RGB', 'BGR' or 'gray'" in str(fault_of({"input": {"type": "image", "color": "red"}}))


CODECS = {
    "bytes": {"raw", "base64", "json_metadata", "packed_jpeg", "tfrecord", "recordio"},
    "image": {"raw", "base64", "json_metadata", "packed_jpeg", "tfrecord", "recordio"},
    "string": {"raw", "base64", "base64_urlsafe", "json_metadata"},
    "integers": {"raw"},
    "floats": {"raw"},
    "doubles": {"raw"},
    "tensor": {"raw"},
    "tensors": {"raw"},
}


@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("codec", sorted(set.union(*CODECS.values())))
def test_a_codec_goes_with_the_types_that_it_carries(kind: str, codec: str) -> None:
    model = {"input": {"type": kind, "codec": codec}}
    if codec in CODECS[kind]:
        assert parse_settings(ModelSettings, {"model": model}).input.codec == codec
    else:
        fault = fault_of(model)
        assert fault.problem.startswith(f"codec '{codec}' does not carry type '{kind}'; known: ")
        assert set(fault.problem.partition("known: ")[2].split(", ")) == CODECS[kind]
        assert fault.path == "args.model.input"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"type": "bytes", "size": [1, 1]}, "'size' is for type 'image', not 'bytes'"),
        ({"type": "tensor", "scale": 0.5}, "'scale' is for type 'image'"),
        ({"type": "image", "size": [1, 1], "resize": "short_side_crop"}, "go together"),
        ({"type": "image", "size": [1, 1], "short_side": 3}, "go together"),
        ({"type": "image", "resize": "short_side_crop", "short_side": 3}, "needs 'size'"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(
    settings: dict[str, Any], sentence: str
) -> None:
    assert sentence in str(fault_of({"input": settings}))


@pytest.mark.parametrize("args", [{}, {"Model": IMAGE}, {"model": IMAGE, "x": 1, 2: 3}])
def test_args_hold_one_key(args: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"expected `model`, got \[.*\] - at `args`$"):
        parse_settings(ModelSettings, args)


@pytest.mark.parametrize("model", [None, [], "yolo"])
def test_a_model_is_a_mapping(model: Any) -> None:
    assert fault_of(model).path == "args.model"


@pytest.mark.parametrize(
    ("batch", "limits", "most"),
    [
        (10, {}, 1000),  # as many as one request may carry
        (10, {"max_items": 50}, 320),  # 32 full batches
        (10, {"max_items": 50, "max_queued_items": 7}, 7),
    ],
)
def test_how_many_items_may_wait(batch: int, limits: dict[str, int], most: int) -> None:
    model = IMAGE | {"batching": {"max_batch_size": batch}, "limits": limits}
    assert parse_settings(ModelSettings, {"model": model}).max_queued_items == most
