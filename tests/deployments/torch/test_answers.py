"""What modules answer beside a tensor: None among outputs, and a detector's result per image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
import pytest

from deployments.torch.backend import TorchBackend, TorchSettings
from rayserve_app.app import create_app
from rayserve_app.errors import PredictError
from rayserve_app.inference.model import Model
from rayserve_app.settings.model import parse_settings
from tests.protocols import call

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

Detections = list[dict[str, torch.Tensor]]


class InceptionOutputs(NamedTuple):
    """As torchvision's, whose auxiliary logits are None except in training."""

    logits: torch.Tensor
    aux_logits: Optional[torch.Tensor]  # noqa: UP045  # TorchScript reads it


class Inception(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> InceptionOutputs:
        aux: Optional[torch.Tensor] = None  # noqa: UP045
        if self.training:
            aux = x.amin(1)
        return InceptionOutputs(x.amax(1), aux)


class Second(torch.nn.Module):
    """A plain tuple whose first part is None."""

    def forward(self, x: torch.Tensor) -> tuple[Optional[torch.Tensor], torch.Tensor]:  # noqa: UP045
        aux: Optional[torch.Tensor] = None  # noqa: UP045
        return aux, x.amax(1)


class Nothing(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return {"aux": None}


class Mixed(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return {"scores": x, "state": (x, x), "name": "mixed"}


def found(image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a box for each pixel of the first channel that is over a half."""
    places = torch.nonzero(image[0] > 0.5)
    scores = image[0][image[0] > 0.5]
    boxes = torch.cat([places, places + 1], 1).to(torch.float32)
    return {"boxes": boxes, "labels": places[:, 0] + 1, "scores": scores}


class Detector(torch.nn.Module):
    """As torchvision's: a list of images of any sizes in, a mapping for each out."""

    def forward(
        self,
        images: list[torch.Tensor],
        targets: Optional[Detections] = None,  # noqa: UP045
    ) -> Detections:
        return [found(image) for image in images]


class ScriptedDetector(torch.nn.Module):
    """As torchvision's once scripted: the losses come first, and are empty."""

    def forward(
        self,
        images: list[torch.Tensor],
        targets: Optional[Detections] = None,  # noqa: UP045
    ) -> tuple[dict[str, torch.Tensor], Detections]:
        losses: dict[str, torch.Tensor] = {}
        return losses, [found(image) for image in images]


class BatchDetector(torch.nn.Module):
    """Takes images as one tensor, and answers the boxes of each: as many as there are."""

    def forward(self, x: torch.Tensor) -> Any:
        return [found(image)["boxes"] for image in x]


class Unannotated(torch.nn.Module):
    """Takes a list alone, which nothing says."""

    def forward(self, images):  # type: ignore[no-untyped-def]
        assert isinstance(images, list)
        return [found(image) for image in images]


IMAGES = [
    np.array([[[0.0, 0.9], [0.6, 0.1]]], np.float32),
    np.array([[[0.1, 0.2], [0.3, 0.4]]], np.float32),
    np.array([[[0.7, 0.0, 0.8]]], np.float32),
]


def expected(image: np.ndarray) -> dict[str, Any]:
    """What `found` says, by numpy."""
    rows, columns = np.nonzero(image[0] > 0.5)
    boxes = np.stack([rows, columns, rows + 1, columns + 1], 1)
    return {
        "boxes": boxes.astype(float).tolist(),
        "labels": (rows + 1).tolist(),
        "scores": image[0][image[0] > 0.5].astype(float).tolist(),
    }


def plain(result: Any) -> Any:
    return {name: array.tolist() for name, array in result.items()}


def load(path: Path, module: Any, *, is_scripted: bool = True, **settings: Any) -> TorchBackend:
    file = path / "model.pt"
    if is_scripted:
        torch.jit.script(module.eval()).save(file)
    else:
        torch.save(module.eval(), file)
        settings["trusted"] = True
    model = {"path": str(file), "input": {"type": "tensor"}} | settings
    backend = TorchBackend(parse_settings(TorchSettings, {"model": model}))
    backend.load()
    return backend


@pytest.mark.parametrize("is_scripted", [True, False])
@pytest.mark.parametrize(
    ("module", "names", "expected_names"),
    [
        (Inception(), [], ["logits"]),
        (Inception(), ["logits"], ["logits"]),
        (Second(), [], ["output_1"]),
        (Second(), ["output_1"], ["output_1"]),
    ],
)
def test_what_is_none_is_no_output(
    tmp_path: Path, module: Any, names: list[str], expected_names: list[str], is_scripted: bool
) -> None:
    backend = load(tmp_path, module, is_scripted=is_scripted, output={"outputs": names})
    outputs = backend.predict([np.array([1.0, 3.0]), np.array([7.0, 2.0])])
    assert isinstance(outputs, dict)
    assert {name: array.tolist() for name, array in outputs.items()} == {expected_names[0]: [3, 7]}


def test_an_exported_program_may_answer_none_as_well(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch")
    # Archives hold no named tuples unless their types are registered.
    program = torch.export.export(
        Second().eval(), (torch.zeros(2, 2),), dynamic_shapes={"x": {0: batch}}
    )
    torch.export.save(program, tmp_path / "model.pt2")
    model = {"path": str(tmp_path), "input": {"type": "tensor"}, "trusted": True}
    backend = TorchBackend(parse_settings(TorchSettings, {"model": model}))
    backend.load()
    assert [spec.name for spec in backend.metadata().outputs] == ["output_1"]
    outputs = backend.predict([np.array([1.0, 3.0])])
    assert isinstance(outputs, dict)
    assert outputs["output_1"].tolist() == [3]


@pytest.mark.parametrize(
    ("module", "names", "sentence"),
    [
        (Inception(), ["aux_logits"], "no such output: expected one of logits, got aux_logits"),
        (Nothing(), [], "none that can be sent: .* got nothing but None"),
        (Mixed(), [], r"got tuple as `state`.*`output\.outputs: \[scores\]` answers the tensors"),
    ],
)
def test_an_answer_that_is_not_there_is_told(
    tmp_path: Path, module: Any, names: list[str], sentence: str
) -> None:
    backend = load(tmp_path, module, is_scripted=False, output={"outputs": names})
    with pytest.raises(PredictError, match=sentence):
        backend.predict([np.array([1.0, 3.0])])


def test_what_the_remedy_says_helps(tmp_path: Path) -> None:
    backend = load(tmp_path, Mixed(), is_scripted=False, output={"outputs": ["scores"]})
    assert backend.predict([np.array([1.0])])["scores"].tolist() == [[1]]  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("module", "is_scripted"),
    [(Detector(), True), (Detector(), False), (ScriptedDetector(), True)],
)
@pytest.mark.parametrize("count", [1, 3])
def test_a_detector_answers_a_mapping_for_each_image(
    tmp_path: Path, module: Any, is_scripted: bool, count: int
) -> None:
    backend = load(tmp_path, module, is_scripted=is_scripted)
    images = IMAGES[:count]
    assert len({backend.bucket(image) for image in images}) == 1  # of any size in one batch
    results = backend.predict(images)
    assert isinstance(results, list)
    assert [plain(result) for result in results] == [expected(image) for image in images]
    assert results[0]["boxes"].shape == (2, 4)
    named = backend.predict([{"images": image} for image in images])
    assert isinstance(named, list)
    assert [plain(result) for result in named] == [expected(image) for image in images]


def test_a_detectors_outputs_can_be_chosen(tmp_path: Path) -> None:
    backend = load(tmp_path, Detector(), output={"outputs": ["scores", "boxes"]})
    (result,) = backend.predict(IMAGES[:1])
    assert list(result) == ["scores", "boxes"]
    backend = load(tmp_path, Detector(), output={"outputs": ["masks"]})
    with pytest.raises(PredictError, match="expected one of boxes, labels, scores, got masks"):
        backend.predict(IMAGES)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_half_precision_is_float32_in_a_result(tmp_path: Path, precision: str) -> None:
    (result,) = load(tmp_path, Detector(), precision=precision).predict(IMAGES[:1])
    assert result["scores"].dtype == np.float32
    np.testing.assert_allclose(result["scores"], [0.9, 0.6], rtol=0.01)


def test_what_the_module_does_not_say_is_set(tmp_path: Path) -> None:
    backend = load(tmp_path, Unannotated(), is_scripted=False, batch_as="list")
    results = backend.predict(IMAGES)
    assert isinstance(results, list)
    assert [plain(result) for result in results] == [expected(image) for image in IMAGES]
    with pytest.raises(PredictError, match=r"lacks the batch axis.*`results_as: items`"):
        load(tmp_path, BatchDetector(), is_scripted=False).predict(IMAGES[:2])
    backend = load(tmp_path, BatchDetector(), is_scripted=False, results_as="items")
    results = backend.predict(IMAGES[:2])
    assert (
        [each.tolist() for each in results]
        == [  # type: ignore[union-attr]
            expected(image)["boxes"] for image in IMAGES[:2]
        ]
    )


def test_classes_need_scores(tmp_path: Path) -> None:
    backend = load(tmp_path, Detector(), classes={"labels": ["a", "b"]})
    with pytest.raises(PredictError, match=r"no table of scores.*args\.model\.classes"):
        backend.predict(IMAGES)


async def test_a_detector_is_served_to_images_of_all_sizes(tmp_path: Path) -> None:
    import cv2

    file = tmp_path / "model.pt"
    torch.jit.script(ScriptedDetector().eval()).save(file)
    image = {"type": "image", "layout": "CHW", "scale": 1 / 255}
    settings = parse_settings(TorchSettings, {"model": {"path": str(file), "input": image}})
    model = Model(settings, TorchBackend(settings), name="m")
    model.load()
    model.warm_up()
    app = create_app(model)
    try:
        for height, width in ((4, 6), (5, 3)):
            pixels = np.zeros((height, width, 3), np.uint8)
            pixels[1, 2] = 255
            png = cv2.imencode(".png", pixels)[1].tobytes()
            reply = await call(
                app, "POST", "/invocations", content=png, headers={"content-type": "image/png"}
            )
            assert reply.status_code == 200
            answer = {"boxes": [[1.0, 2.0, 2.0, 3.0]], "labels": [2], "scores": [1.0]}
            assert json.loads(reply.content) == answer
    finally:
        model.close()
