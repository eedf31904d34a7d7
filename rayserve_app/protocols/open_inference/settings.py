"""What a model's YAML may say of the Open Inference Protocol."""

from __future__ import annotations

from typing import Literal

from rayserve_app.settings.section import Section


class OpenInferenceSettings(Section):
    """The Open Inference Protocol v2."""

    model_control: Literal["none", "explicit"] = "none"
    """`explicit` lets clients load and unload the model in the replica that they reach, as Triton's
    `--model-control-mode` does: for applications of one replica. `none` refuses it."""
