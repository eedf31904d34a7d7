"""Networks as people save them, in every format."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import skimage.data

from deployments.torch.backend import TorchBackend, TorchSettings
from rayserve_app.settings.model import parse_settings

torch = pytest.importorskip("torch")
Settings = dict[str, Any]


class Convolution(torch.nn.Module):
    """(N, 3, H, W) to (N, 4) scores, for images of any size."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, channels, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(channels)
        self.dense = torch.nn.Linear(channels, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.norm(self.conv(image)))
        return self.dense(features.mean([2, 3]))


class Mixture(torch.nn.Module):
    """Two arguments, of which one is an integer, and two results by name."""

    def forward(self, x: torch.Tensor, factor: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scaled": x * factor[:, None], "factor": factor}


class Couple(NamedTuple):
    low: torch.Tensor
    high: torch.Tensor


class Pair(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.amin(1), x.amax(1)


class NamedPair(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Couple:
        return Couple(x.amin(1), x.amax(1))


class Choosy(torch.nn.Module):
    """Fails on a batch that holds a negative number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (x < 0).any():
            raise RuntimeError("negative\nsecond line")
        return 2 * x


class Optional(torch.nn.Module):
    def forward(self, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return x if bias is None else x + bias


class Whole(torch.nn.Module):
    """An answer without the batch axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


class Constant(torch.nn.Module):
    """Answers its own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))

    def forward(self, x: torch.Tensor) -> torch.nn.Parameter:
        return self.weight


class Strange(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Any:
        return {"text": "no tensor"}


class Double(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class Threshold(torch.nn.Module):
    def forward(self, x: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
        return x >= least


class Outer(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b.sum()


class Sum(torch.nn.Module):
    def forward(self, parts: list[torch.Tensor]) -> torch.Tensor:
        return parts[0] + parts[1]


def fail() -> Any:
    raise ZeroDivisionError("no such layer")


def not_a_module() -> dict[str, Any]:
    return {}


def trained(module: torch.nn.Module) -> torch.nn.Module:
    """Return the module with weights and statistics that are not those of a new one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(0.5 * torch.rand(tensor.shape) + 0.1)
    return module.eval()


CONVOLUTION = trained(Convolution())
PHOTO = skimage.data.astronaut()[::16, ::16].transpose(2, 0, 1).astype(np.float32) / 255
PHOTOS = [PHOTO, PHOTO[:, ::-1].copy(), 1 - PHOTO]


def by_hand(module: torch.nn.Module, items: list[np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return module(torch.tensor(np.stack(items))).numpy()


def create_backend(path: Path, **settings: Any) -> TorchBackend:
    model = {"path": str(path), "input": {"type": "tensor"}} | settings
    return TorchBackend(parse_settings(TorchSettings, {"model": model}))


def load(path: Path, **settings: Any) -> TorchBackend:
    backend = create_backend(path, **settings)
    backend.load()
    return backend


def factory(name: str, **arguments: Any) -> Settings:
    return {"module": f"{__name__}:{name}", "arguments": arguments}


def exported(path: Path, module: torch.nn.Module, *args: Any, **options: Any) -> Path:
    torch.export.save(torch.export.export(module.eval(), args, **options), path)
    return path


BATCH = torch.export.Dim("batch")


def save_scripted(path: Path) -> Settings:
    torch.jit.script(CONVOLUTION).save(path / "model.pt")
    return {}


def save_traced(path: Path) -> Settings:
    torch.jit.trace(CONVOLUTION, torch.zeros(2, *PHOTO.shape)).save(path / "model.ts")
    return {}


def save_exported(path: Path) -> Settings:
    exported(
        path / "model.pt2",
        CONVOLUTION,
        torch.zeros(2, *PHOTO.shape),
        dynamic_shapes={"image": {0: BATCH}},
    )
    return {"trusted": True}


def save_exported_automatically(path: Path) -> Settings:
    """Its batch axis is from 2 on, as PyTorch says it, and yet takes one item."""
    shapes = {"image": {0: torch.export.Dim.AUTO}}
    exported(path / "model.pt2", CONVOLUTION, torch.zeros(2, *PHOTO.shape), dynamic_shapes=shapes)
    return {"trusted": True}


def save_exported_for_two(path: Path) -> Settings:
    exported(path / "model.pt2", CONVOLUTION, torch.zeros(2, *PHOTO.shape))
    return {"trusted": True}


def save_state_dict(path: Path) -> Settings:
    torch.save(CONVOLUTION.state_dict(), path / "model.pth")
    return factory("Convolution")


def save_old_state_dict(path: Path) -> Settings:
    weights = CONVOLUTION.state_dict()
    torch.save(weights, path / "model.pth", _use_new_zipfile_serialization=False)
    return factory("Convolution", channels=8)


def save_checkpoint(path: Path) -> Settings:
    torch.save({"epoch": 3, "state_dict": CONVOLUTION.state_dict()}, path / "model.pt")
    return factory("Convolution")


def save_safetensors(path: Path) -> Settings:
    from safetensors.torch import save_file

    save_file(CONVOLUTION.state_dict(), path / "model.safetensors")
    return factory("Convolution")


def save_module(path: Path) -> Settings:
    torch.save(CONVOLUTION, path / "model.pt")
    return {"trusted": True}


FORMATS = [
    save_scripted,
    save_traced,
    save_exported,
    save_exported_automatically,
    save_exported_for_two,
    save_state_dict,
    save_old_state_dict,
    save_checkpoint,
    save_safetensors,
    save_module,
]


def save_weights(path: Path, module: torch.nn.Module | None = None) -> Path:
    file = path / "model.pth"
    torch.save({} if module is None else module.state_dict(), file)
    return file


def save_mixture(path: Path, kind: str) -> Settings:
    if kind == "torchscript":
        torch.jit.script(Mixture()).save(path / "model.pt")
        return {}
    if kind == "state_dict":
        save_weights(path)
        return factory("Mixture")
    inputs = {"x": torch.zeros(2, 2), "factor": torch.zeros(2, dtype=torch.int64)}
    shapes = {"x": {0: BATCH}, "factor": {0: BATCH}}
    if kind == "export by name":
        exported(path / "model.pt2", Mixture(), kwargs=inputs, dynamic_shapes=shapes)
    else:
        exported(path / "model.pt2", Mixture(), *inputs.values(), dynamic_shapes=shapes)
    return {"trusted": True}
