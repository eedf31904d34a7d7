"""What a framework must offer to be served: load, predict, metadata, close.

A backend knows nothing of HTTP, codecs or replicas. It is built from settings alone, so that it
travels to a replica for free, and imports its framework only in `load`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Final

import numpy as np

from rayserve_app.types import Item, Metadata, Outputs

DEFAULT_SIGNATURE: Final = "serving_default"
"""What TensorFlow calls the signature of a model that has one, and its clients ask for."""


class Predictor(ABC):
    """What runs a batch: a model, or one of several signatures of one of its versions."""

    normalizes_images: bool = False
    """Whether `predict` itself applies `scale`, `mean` and `std` to images that are uint8, as all
    decoded ones then are. Asked after `load`."""

    @abstractmethod
    def predict(self, items: Sequence[Item]) -> Outputs:
        """Run one batch of items that share a `bucket`. Called in a thread of its own,
        unless the backend `is_instant`.

        Returns: N objects, or named arrays whose axis 0 is N, for N items in their order. An
            object that is an exception is that item's error.
        Raises:
            PredictError: the batch failed; a batch of several items is then tried in halves, so
                that one bad item fails alone.
        """

    def bucket(self, item: Item) -> Hashable:
        """Return a key that items must share to meet in one batch: the shapes and types of
        arrays; the same key for everything else."""
        if isinstance(item, np.ndarray):
            return (item.dtype.str, item.shape)
        if isinstance(item, dict):
            return tuple((name, self.bucket(value)) for name, value in item.items())
        return None

    def metadata(self) -> Metadata:
        """Describe what is loaded; before `load`, as much as is known then."""
        return Metadata(platform=type(self).__name__)


class Backend(Predictor):
    """One model of one framework; it predicts as its default version and signature do."""

    is_instant: bool = False
    """Whether `predict` takes microseconds and cannot hang: it then runs in the event loop, since
    a thread would cost more than the work."""

    @abstractmethod
    def load(self) -> None:
        """Import the framework and read the model.

        Raises:
            LoadError: the model cannot be used; the sentence says what was found.
            MissingDependency: the framework is not installed.
        """

    def versions(self) -> Mapping[str, Mapping[str, Predictor]]:
        """Return what is loaded by version and signature, the default ones first; nothing if it is
        one version of one signature, which the backend itself is."""
        return {}

    def close(self) -> None:
        """Release what `load` took. Called once, after the last `predict`."""
        return
