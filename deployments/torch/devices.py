"""Where a PyTorch model runs, and how arrays get there and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from deployments.torch.files import first_line
from rayserve_app.errors import LoadError, MissingDependency
from rayserve_app.inference.batch_arrays import stack
from rayserve_app.types import Array

T = TypeVar("T")


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
        """Return arrays of one shape and type as one tensor, stacked along a new axis 0: (N, …)."""
        ...

    def fetch(self, tensors: Mapping[str, Any]) -> dict[str, Array]:
        """Return tensors as arrays of the same shapes, once they are computed."""
        ...


def import_torch() -> Any:
    """Return the package.

    Raises:
        MissingDependency: it is not installed.
        LoadError: it is, and fails.
    """
    try:
        import torch
    except ImportError as exc:
        if exc.name == "torch":
            raise MissingDependency(
                "The model needs PyTorch", remedy='pip install "rayserve-app[torch]"'
            ) from exc
        raise LoadError(
            "PyTorch is installed, but does not import",
            got=f"{type(exc).__name__}: {first_line(exc)}",
        ) from exc
    return torch


def set_threads(torch: Any, count: int) -> None:
    """Set the threads of this process: `count` for one operation, one for operations side by side,
    as batches run in threads of ours."""
    torch.set_num_threads(count)
    with suppress(RuntimeError):  # can be set once only, before the first operation
        torch.set_num_interop_threads(1)


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
        stacked = stack(list(arrays))
        if not stacked.flags.writeable:
            stacked = stacked.copy()  # PyTorch has no read-only tensors
        return self._torch.from_numpy(stacked)

    def fetch(self, tensors: Mapping[str, Any]) -> dict[str, Array]:
        return {name: tensor.numpy() for name, tensor in tensors.items()}


class Pool(Generic[T]):
    """Lends what only one batch may use at a time, and makes more only if none is free."""

    def __init__(self, create: Callable[[], T]) -> None:
        self._create = create
        self._free: list[T] = []

    @contextmanager
    def lend(self) -> Iterator[T]:
        """Return a context in which nobody else has the same. May be called from any thread."""
        try:
            lent = self._free.pop()
        except IndexError:
            lent = self._create()
        try:
            yield lent
        finally:
            self._free.append(lent)


class Cuda:
    """Copies through page-locked memory, in a stream of each batch's own: so with several
    `max_concurrent_batches`, one batch is copied while another computes.

    PyTorch's allocators keep page-locked and device memory for the next batch of the same stream,
    and give none of it away before the stream is done with it. So a stream serves whichever thread
    comes next, rather than a thread its own: what warm-up has allocated, batches use.
    """

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._streams: Pool[Any] = Pool(lambda: torch.cuda.Stream(self.device))

    def synchronize(self) -> None:
        self._torch.cuda.synchronize(self.device)

    @contextmanager
    def stream(self) -> Iterator[None]:
        with self._streams.lend() as stream, self._torch.cuda.stream(stream):
            yield

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
        self._torch.cuda.current_stream(self.device).synchronize()
        return {name: tensor.numpy() for name, tensor in staged.items()}
