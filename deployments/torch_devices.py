"""Where a PyTorch model runs, and how arrays get there and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import local
from typing import Any, Protocol

import numpy as np

from rayserve_app import buffers
from rayserve_app.types import Array


class Device(Protocol):
    """A device for one module; used from the threads that predict."""

    device: Any
    """The torch.device."""

    def synchronize(self) -> None:
        """Wait until what was begun in any thread is done."""
        ...

    def stream(self) -> AbstractContextManager[Any]:
        """Return the context in which one batch goes there, runs, and comes back."""
        ...

    def send(self, arrays: Sequence[Array]) -> Any:
        """Return arrays of one shape and type as one tensor, stacked along a new axis 0."""
        ...

    def fetch(self, tensors: Mapping[str, Any]) -> dict[str, Array]:
        """Return tensors as arrays, once they are computed."""
        ...


def choose_device(torch: Any) -> Device:
    """Return the GPU that Serve gave this replica, else the CPU."""
    return Cuda(torch) if torch.cuda.is_available() else Cpu(torch)


class Cpu:
    """Shares memory with numpy: tensors are the items' own memory where they can be."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self.device = torch.device("cpu")

    def synchronize(self) -> None:
        return

    def stream(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def send(self, arrays: Sequence[Array]) -> Any:
        stacked = buffers.stack(list(arrays))
        if not stacked.flags.writeable:
            stacked = stacked.copy()  # PyTorch has no read-only tensors
        return self._torch.from_numpy(stacked)

    def fetch(self, tensors: Mapping[str, Any]) -> dict[str, Array]:
        return {name: tensor.numpy() for name, tensor in tensors.items()}


class Cuda:
    """Copies through page-locked memory, in a stream of each thread's own: so with several
    `max_concurrent_batches`, one batch is copied while another computes.

    PyTorch's allocators keep page-locked and device memory for the next batch, and give none of it
    away before a stream is done with it.
    """

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._threads = local()
        self.device = torch.device("cuda", torch.cuda.current_device())

    def synchronize(self) -> None:
        self._torch.cuda.synchronize(self.device)

    def stream(self) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self._torch.cuda.stream(self._own_stream())
        return context

    def send(self, arrays: Sequence[Array]) -> Any:
        shape = (len(arrays), *arrays[0].shape)
        dtype = self._torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
        staged = self._torch.empty(shape, dtype=dtype, pin_memory=True)
        np.stack(arrays, out=staged.numpy())
        return staged.to(self.device, non_blocking=True)

    def fetch(self, tensors: Mapping[str, Any]) -> dict[str, Array]:
        staged = {
            name: self._torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            for name, tensor in tensors.items()
        }
        for name, tensor in tensors.items():
            staged[name].copy_(tensor, non_blocking=True)
        self._own_stream().synchronize()
        return {name: tensor.numpy() for name, tensor in staged.items()}

    def _own_stream(self) -> Any:
        if not hasattr(self._threads, "stream"):
            self._threads.stream = self._torch.cuda.Stream(self.device)
        return self._threads.stream
