"""The REST API apart from who answers it: how a request is read, and what is said of one that asks
for what there is not.

It is mounted on one model of this server (service.py), whose documents SageMaker's paths take as
well, and on the SavedModels of a SageMaker package, for the package's own code
(deployments/sagemaker/model_server/prediction_rest.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TypeVar

from rayserve_app.codecs.tensorflow.document import instances_of, signature_name
from rayserve_app.codecs.tensorflow.examples import Features, read_examples
from rayserve_app.errors import InvalidRequest, ModelNotFound, VersionNotFound

VERBS: Final = ("predict", "classify", "regress")

MAX_VERSION: Final = 2**63 - 1

MAX_QUOTED: Final = 200
"""Characters of a path that an error repeats."""

AnswerT_co = TypeVar("AnswerT_co", covariant=True)


class Signature(Protocol[AnswerT_co]):
    """What answers requests, or makes of them what is to be run."""

    def predict_rows(self, instances: Sequence[Any]) -> AnswerT_co:
        """Take a predict request in row form, of at least one row."""

    def predict_columns(self, inputs: Any) -> AnswerT_co:
        """Take a predict request in columnar form."""

    def classify(self, examples: Sequence[Features]) -> AnswerT_co:
        """Take a classify request."""

    def regress(self, examples: Sequence[Features]) -> AnswerT_co:
        """Take a regress request."""


def take(
    verb: str,
    document: Mapping[str, Any],
    select: Callable[[str | None], Signature[AnswerT_co]],
) -> AnswerT_co:
    """Hand a request to the signature that it names.

    Args:
        verb: one of VERBS.
        select: returns the signature of a name, the default one for None.
    Raises:
        DecodeError: not such a request.
    """
    signature = select(signature_name(document))
    if verb == "classify":
        return signature.classify(read_examples(document))
    if verb == "regress":
        return signature.regress(read_examples(document))
    instances = instances_of(document)
    if instances is None:
        return signature.predict_columns(document["inputs"])
    return signature.predict_rows(instances)


def read_version(digits: str, request_line: str) -> str:
    """Return the number of a path's version, without zeros before it.

    Args:
        request_line: method and path, for the error.
    Raises:
        InvalidRequest: not a number, or too large a one.
    """
    if not re.fullmatch("[0-9]+", digits):
        raise malformed(request_line)
    digits = digits.lstrip("0") or "0"
    if len(digits) > len(str(MAX_VERSION)) or int(digits) > MAX_VERSION:
        raise InvalidRequest(f"Failed to convert version: {digits} to numeric.")
    return digits


# http_rest_api_handler.cc, server_core.cc.


def malformed(request_line: str) -> InvalidRequest:
    return InvalidRequest(f"Malformed request: {request_line}")


def no_name() -> InvalidRequest:
    return InvalidRequest("Missing model name in request.")


def no_model(name: str, remedy: str | None = None) -> ModelNotFound:
    return ModelNotFound(
        f"Servable not found for request: Latest({name[:MAX_QUOTED]})", remedy=remedy
    )


def no_version(name: str, version: str) -> VersionNotFound:
    return VersionNotFound(f"Servable not found for request: Specific({name}, {version})")


def no_label(label: str) -> InvalidRequest:
    return InvalidRequest(f"Unrecognized servable version label: {label}")


def no_signature(name: str | None) -> InvalidRequest:
    return InvalidRequest(f'Serving signature name: "{name}" not found in signature def')
