"""Exported programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rayserve_app.errors import (
    LoadError,
    ShapeMismatch,
)
from rayserve_app.types import TensorSpec
from tests.deployments.torch.networks import (
    BATCH,
    CONVOLUTION,
    Double,
    Outer,
    Sum,
    Threshold,
    by_hand,
    exported,
    load,
    save_exported,
    save_mixture,
    torch,
)


class TestExportedPrograms:
    def test_know_their_inputs_and_outputs(self, tmp_path: Path) -> None:
        backend = load(tmp_path, **save_exported(tmp_path))
        metadata = backend.metadata()
        assert metadata.platform == "pytorch"
        assert metadata.inputs == (TensorSpec("image", "float32", (-1, 3, 32, 32)),)
        assert metadata.outputs == (TensorSpec("output", "float32", (-1, 4)),)

    def test_know_their_names_and_types(self, tmp_path: Path) -> None:
        backend = load(tmp_path, **save_mixture(tmp_path, "export by name"))
        assert backend.metadata().inputs == (
            TensorSpec("x", "float32", (-1, 2)),
            TensorSpec("factor", "int64", (-1,)),
        )
        assert set(backend.metadata().outputs) == {
            TensorSpec("scaled", "float32", (-1, 2)),
            TensorSpec("factor", "int64", (-1,)),
        }

    @pytest.mark.parametrize(
        ("item", "sentence"),
        [
            (np.zeros((3, 8, 8)), r"expected float32 \(3, 32, 32\), got float64 \(3, 8, 8\)"),
            (np.zeros((32, 32)), r"got float64 \(32, 32\) - at `image`"),
            (np.zeros((3, 32, 32), np.complex64), "got complex64"),
        ],
    )
    def test_refuse_what_does_not_fit(self, tmp_path: Path, item: Any, sentence: str) -> None:
        backend = load(tmp_path, **save_exported(tmp_path))
        with pytest.raises(ShapeMismatch, match=sentence):
            backend.predict([item])

    def test_take_integers_for_floats(self, tmp_path: Path) -> None:
        backend = load(tmp_path, **save_exported(tmp_path))
        outputs = backend.predict([np.ones((3, 32, 32), np.int64)])
        expected = by_hand(CONVOLUTION, [np.ones((3, 32, 32), np.float32)])
        np.testing.assert_allclose(outputs["output"], expected, rtol=1e-5)  # type: ignore[call-overload]

    @pytest.mark.parametrize("count", [1, 3, 4, 5, 9])
    def test_of_a_range_of_items_run_in_pieces_of_it(self, tmp_path: Path, count: int) -> None:
        few = torch.export.Dim("few", min=3, max=4)
        path = exported(
            tmp_path / "model.pt2", Double(), torch.zeros(4, 2), dynamic_shapes=({0: few},)
        )
        items = [np.array([number, 1], np.float32) for number in range(count)]
        outputs = load(path, trusted=True).predict(items)
        np.testing.assert_array_equal(outputs["output"], 2 * np.stack(items))  # type: ignore[call-overload]

    def test_with_a_scalar_run_item_by_item(self, tmp_path: Path) -> None:
        path = exported(
            tmp_path / "model.pt2",
            Threshold(),
            torch.zeros(1, 2),
            torch.tensor(0.0),
        )
        x = np.array([1, 2], np.float32)
        outputs = load(path, trusted=True).predict(
            [{"x": x, "least": 2.0}, {"x": x, "least": np.array(0.5)}]
        )
        np.testing.assert_array_equal(outputs["output"], [[False, True], [True, True]])  # type: ignore[call-overload]

    def test_of_unlike_numbers_of_items_cannot_be_batched(self, tmp_path: Path) -> None:
        path = exported(tmp_path / "model.pt2", Outer(), torch.zeros(2, 1), torch.zeros(3, 1))
        with pytest.raises(LoadError, match=r"cannot be batched: .* got a \(2, 1\), b \(3, 1\)"):
            load(path, trusted=True)

    def test_that_take_more_than_tensors_are_refused(self, tmp_path: Path) -> None:
        path = exported(tmp_path / "model.pt2", Sum(), [torch.zeros(2), torch.zeros(2)])
        with pytest.raises(LoadError, match="takes more than tensors"):
            load(path, trusted=True)

    def test_keep_their_precision(self, tmp_path: Path) -> None:
        with pytest.raises(LoadError, match=r"fixed: .* got bfloat16 - at `args.model.precision`"):
            load(tmp_path, **save_exported(tmp_path), precision="bfloat16")

    def test_of_half_precision_take_and_answer_float32(self, tmp_path: Path) -> None:
        zeros = torch.zeros(2, 2, dtype=torch.bfloat16)
        path = exported(tmp_path / "model.pt2", Double(), zeros, dynamic_shapes=({0: BATCH},))
        backend = load(path, trusted=True)
        assert backend.metadata().inputs == (TensorSpec("x", "float32", (-1, 2)),)
        outputs = backend.predict([np.array([1, 2], np.float32)])
        np.testing.assert_array_equal(  # type: ignore[call-overload]
            outputs["output"], np.float32([[2, 4]]), strict=True
        )
