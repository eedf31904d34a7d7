"""What a model's YAML may say of TensorFlow Serving's REST API."""

from __future__ import annotations

from pydantic import Field

from rayserve_app.settings.section import Section


class TensorFlowServingSettings(Section):
    """TF Serving's REST API."""

    version_labels: dict[str, str] = Field(default_factory=dict)
    """Versions by label, as `/v1/models/{model}/labels/{label}` names them."""
