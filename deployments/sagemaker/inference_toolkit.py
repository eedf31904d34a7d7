"""The contract of the SageMaker inference toolkit: `model_fn`, `input_fn`, `predict_fn`,
`output_fn`, or `transform_fn`, found in the user's module and called by the number of parameters.

Source: aws/sagemaker-inference-toolkit 1.10.1, transformer.py and default_inference_handler.py.
Two differences: `.npy` bodies that hold pickled objects are refused, and a response has no reason
phrase of its own, because ASGI carries none.
"""

from __future__ import annotations

import inspect
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

from deployments.sagemaker import toolkit_formats as formats
from deployments.sagemaker.toolkit_context import Context, read_manifest
from deployments.sagemaker.user_code import import_remedy
from rayserve_app.codecs import form
from rayserve_app.errors import InvalidRequest, LoadError
from rayserve_app.media_types import media_type
from rayserve_app.types import Buffer, FailedInvocation, Invocation, Reply

Function = Callable[..., Any]

FUNCTIONS: Final = (
    "model_fn",
    "transform_fn",
    "input_fn",
    "predict_fn",
    "output_fn",
    "pre_model_fn",
    "model_warmup_fn",
)


class Defaults(NamedTuple):
    """What stands in for functions that the user's module lacks."""

    model_fn: Function | None
    choose: Callable[[Any], tuple[Function, Function | None, Function]]
    """Return `input_fn`, `predict_fn` and `output_fn` for what `model_fn` returned."""


BODY: Final = "body"

GENERIC: Final = Defaults(None, lambda _: (formats.decode, None, formats.encode_accepted))


class InferenceToolkit:
    """A package's functions and its loaded model.

    Unlike upstream, which loads the model at the first request, a package that cannot work fails
    before it is ready.
    """

    def __init__(self, module: ModuleType, model_dir: Path, defaults: Defaults) -> None:
        """Load the model: `pre_model_fn`, `model_fn`, `model_warmup_fn`.

        Raises:
            LoadError: a function is missing, or raised; the sentence says which.
        """
        self._file = module.__file__ or module.__name__
        self._functions: dict[str, Function] = {
            name: function for name in FUNCTIONS if (function := getattr(module, name, None))
        }
        self._model_dir = model_dir
        self._manifest = read_manifest(model_dir)
        self._check_combination()
        self._model: Any = None
        self._model = self._load(defaults)
        self._set_defaults(defaults)

    def invoke(self, invocation: Invocation) -> Reply:
        """Answer one request; of a form, the field `body` is the data.

        Raises:
            InvalidRequest: a form without that field.
            FailedInvocation: a function raised; the reply is the message and the traceback as text,
                with 500 or with the status that the error brings along.
        """
        accept = invocation.accept
        if not accept or accept == "*/*":
            accept = os.environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT", formats.JSON)
        context = Context(self._model_dir, self._manifest, invocation)
        data = bytearray(_input(invocation))
        try:
            body = data.decode() if invocation.content_type in formats.UTF8_TYPES else data
            arguments = (self._model, body, invocation.content_type, accept)
            if "transform_fn" in self._functions:
                result = self._call("transform_fn", context, *arguments)
            else:
                result = self._transform(context, *arguments)
            if isinstance(result, tuple):
                result, accept = result[:2]
            context.set_response_content_type(0, accept)
            return context.reply(_body(result))
        except Exception as exc:
            raise failure(exc, context) from exc
        finally:
            context.metrics.emit()

    def close(self) -> None:
        self._model = None

    def _transform(
        self, context: Context, model: Any, body: bytearray | str, content_type: Any, accept: str
    ) -> Any:
        if _takes_model(self._functions["input_fn"]):
            # The MXNet container of 2018 handed the model to `input_fn`, and its documentation
            # still has that parameter (sagemaker-mxnet-inference-toolkit,
            # mxnet_module_transformer.py).
            data = self._functions["input_fn"](body, content_type, model)
        else:
            data = self._call("input_fn", context, body, content_type)
        prediction = self._call("predict_fn", context, data, model)
        return self._call("output_fn", context, prediction, accept)

    def _call(self, name: str, context: Context, *arguments: Any) -> Any:
        """Call a function with the context if it has one parameter more (transformer.py,
        _run_handler_function)."""
        function = self._functions[name]
        count = len(inspect.signature(function).parameters)
        if count == len(arguments):
            return function(*arguments)
        if count == len(arguments) + 1:
            return function(*arguments, context)
        raise TypeError(f"{name} takes {count} arguments but {len(arguments)} were given.")

    def _check_combination(self) -> None:
        others = {"input_fn", "predict_fn", "output_fn"} & self._functions.keys()
        if "transform_fn" in self._functions and others:
            raise LoadError(
                f"`{self._file}` has functions that exclude each other",
                expected="transform_fn, or input_fn, predict_fn and output_fn",
                got=f"transform_fn and {', '.join(sorted(others))}",
            )

    def _load(self, defaults: Defaults) -> Any:
        if defaults.model_fn is not None:
            self._functions.setdefault("model_fn", defaults.model_fn)
        if "model_fn" not in self._functions:
            raise self._missing("model_fn(model_dir)")
        directory = str(self._model_dir)
        if "pre_model_fn" in self._functions:
            self._run_at_load("pre_model_fn", directory)
        model = self._run_at_load("model_fn", directory)
        if "model_warmup_fn" in self._functions:
            self._run_at_load("model_warmup_fn", directory, model)
        return model

    def _run_at_load(self, name: str, *arguments: Any) -> Any:
        try:
            return self._call(name, Context(self._model_dir, self._manifest), *arguments)
        except Exception as exc:
            raise LoadError(
                f"`{name}` of `{self._file}` failed",
                got=f"{type(exc).__name__}: {exc}",
                remedy=import_remedy(exc, Path(self._file).parent),
            ) from exc

    def _set_defaults(self, defaults: Defaults) -> None:
        if "transform_fn" in self._functions:
            return
        input_fn, predict_fn, output_fn = defaults.choose(self._model)
        self._functions.setdefault("input_fn", input_fn)
        self._functions.setdefault("output_fn", output_fn)
        if predict_fn is not None:
            self._functions.setdefault("predict_fn", predict_fn)
        if "predict_fn" not in self._functions:
            raise self._missing("predict_fn(data, model), or transform_fn")

    def _missing(self, expected: str) -> LoadError:
        found = [name for name in FUNCTIONS if name in self._functions]
        return LoadError(
            f"`{self._file}` lacks a function",
            expected=expected,
            got=", ".join(found) or "none of the toolkit's",
        )


def failure(exc: Exception, context: Context) -> FailedInvocation:
    """Return what the toolkit answers to an exception (transformer.py, handle_error); headers that
    were set before it are sent as well."""
    status, message = 500, str(exc) or "Invalid Request"
    if any(kind.__name__ == "BaseInferenceToolkitError" for kind in type(exc).__mro__):
        status, message = int(getattr(exc, "status_code", 500)), str(getattr(exc, "message", exc))
    context.set_response_status(status)
    reply = context.reply(f"{message}\n{traceback.format_exc()}")
    return FailedInvocation(f"The user code failed: {_first_line(exc)}", reply)


def _input(invocation: Invocation) -> Buffer:
    """Return what Multi Model Server, which runs the toolkit, hands over as the input `body`: the
    field of a form, of another request the body."""
    if invocation.is_field or not form.is_form(media_type(invocation.content_type)):
        return invocation.body
    fields = form.parse(invocation.body, invocation.content_type)
    found = [field.data for field in fields if field.name == BODY]
    if not found:
        raise InvalidRequest(
            "The form has no field `body`, which is what the package's code takes",
            expected=f"`{BODY}`",
            got=", ".join(repr(field.name[:50]) for field in fields[:10]) or "no fields",
            remedy="For another body send its own Content-Type: curl says that it is a form.",
        )
    return found[-1]


def _takes_model(function: Function) -> bool:
    return "model" in inspect.signature(function).parameters


def _body(result: Any) -> bytes | str:
    """Return a result as the model server sends it: bytes and text as they are, anything else as
    JSON (multi-model-server, otf_message_handler.py)."""
    if isinstance(result, bytes | str):
        return result
    if isinstance(result, bytearray):
        return bytes(result)
    return json.dumps(result, indent=2)


def _first_line(exc: Exception) -> str:
    lines = str(exc).splitlines()
    return f"{type(exc).__name__}: {lines[0] if lines else ''}"
