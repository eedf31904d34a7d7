"""A model called in a loop, without a server: what its framework can do by itself.

Runs in the environment that the model's replicas run in:
`python -m rayserve_app.bench.framework_loop CONFIG APPLICATION BATCH_SIZE`. Each line that comes in
on standard input is a number of seconds to measure; the items per second go out.
"""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import yaml

from rayserve_app.backend import Backend
from rayserve_app.importing import import_from_string
from rayserve_app.model import Model


def load_model(config_path: Path, application: str) -> Model:
    """Return the loaded model that a Serve YAML declares under an application's name."""
    config = yaml.safe_load(config_path.read_text())
    (declared,) = (each for each in config["applications"] if each["name"] == application)
    built: Any = import_from_string(declared["import_path"])(declared["args"])
    # What Serve would hand to the replica's constructor.
    settings, create_backend = built._bound_deployment.init_args
    backend: Backend = create_backend()
    model = Model(settings, backend, name=application)
    model.load()
    return model


def items_per_second(model: Model, batch_size: int, seconds: float) -> float:
    """Predict one batch after another."""
    servable = model.select()
    height, width = model.settings.input.size or (1, 1)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    batch = [servable.inputs.preprocess(pixels)] * batch_size
    servable.predict(batch)
    count, started_at = 0, perf_counter()
    while perf_counter() - started_at < seconds:
        servable.predict(batch)
        count += batch_size
    return count / (perf_counter() - started_at)


def main() -> None:
    config_path, application, batch_size = sys.argv[1:]
    model = load_model(Path(config_path), application)
    for line in sys.stdin:
        rate = items_per_second(model, int(batch_size), float(line))
        sys.stdout.write(f"{rate}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
