"""What the servers of others compute: what ours does."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from rayserve_app.bench import pictures
from rayserve_app.bench.models import HEADS_BYTES, band_energies, corner_colors
from rayserve_app.bench.networks import SIDE, WEIGHTS_VARIABLE, build_torch, create_network
from rayserve_app.bench.peers import jobs
from rayserve_app.codecs import image, packed_jpeg
from rayserve_app.payloads.preprocessing import resize


def test_the_jobs_are_those_of_our_own_models() -> None:
    """As our server decodes and preprocesses them, by its own modules."""
    jpeg = pictures.jpeg(300)
    pixels = resize(image.decode(jpeg, max_pixels=10**6), (224, 224))[None]
    assert jobs.image_size(jpeg) == (300, 300)
    assert jobs.corner_color(jpeg) == corner_colors(pixels)[0]
    expected = band_energies(pixels.astype(np.float32) / 255)[0]
    assert np.allclose(jobs.texture(jpeg), expected, 1e-4)


def test_the_large_answer_is_of_all_heads() -> None:
    answer = jobs.Heads()(packed_jpeg.encode([pictures.jpeg(512, seed) for seed in range(10)]))
    array = np.load(BytesIO(answer))
    assert (array.dtype, array.nbytes) == (np.float32, HEADS_BYTES)


def test_the_network_is_the_one_that_we_serve(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    build_torch(tmp_path)
    (weights,) = tmp_path.iterdir()
    threads = torch.get_num_threads()
    found = jobs.Network(1, {WEIGHTS_VARIABLE: str(weights)}).predict_jpegs([pictures.jpeg(300)])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    pixels = resize(image.decode(pictures.jpeg(300), max_pixels=10**6), (SIDE, SIDE))
    with torch.inference_mode():
        expected = create_network()(torch.tensor(pixels.transpose(2, 0, 1)[None] / 255).float())
    assert np.allclose(found, expected.numpy(), 1e-3, 1e-5)
