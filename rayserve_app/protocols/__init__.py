"""The protocols that a model speaks under its prefix; a further one is a module and a line here.

A protocol is the envelope around a payload: pure `parse` and `render` functions above, thin routes
below. It knows codecs, models and errors, but no backend and no deployment.
"""

from __future__ import annotations

from typing import Final

PROTOCOLS: Final = {
    "clipper": "rayserve_app.protocols.clipper:Clipper",
    "sagemaker": "rayserve_app.protocols.sagemaker:SageMaker",
}
