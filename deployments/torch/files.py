"""PyTorch's files, and how each becomes a module that can be called.

State dicts are read with `weights_only`, so that they and safetensors run nothing. TorchScript is
a program, but of PyTorch's own operators, which its own reader unpickles. A pickled module runs
whatever its writer put there, and so can a torch.export archive: `torch.export.load` of 2.13
unpickles weights, constants and sample inputs that ask for it, and evaluates symbolic sizes.
"""

from __future__ import annotations

import re
import textwrap
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from deployments.model_files import PATH, kind_of
from rayserve_app.errors import ConfigurationError, LoadError, MissingDependency
from rayserve_app.importing import import_from_string
from rayserve_app.settings.model import InputSettings

Format: TypeAlias = Literal["torchscript", "export", "state_dict", "safetensors", "pickle"]

RUNS_CODE: Final[tuple[Format, ...]] = ("export", "pickle")

SUFFIXES: Final = (".pt", ".pth", ".pt2", ".ts", ".safetensors")

MODULE: Final = "args.model.module"

MODULE_REMEDY: Final = "`module: package.module:factory`, which makes the module that they are for"

LEGACY_MAGIC: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files begin that `torch.save` wrote before it wrote zip files (torch/serialization.py)."""

SCRIPT_ERROR: Final = re.compile(r"(?:builtins\.)?(\w*(?:Error|Exception): .*)")

SHAPE_ERROR: Final = re.compile(r"shape|size|dimension|channels|\dD ")
"""What operators say of operands that do not fit: their errors have no type of their own."""


def detect_format(path: Path, *, is_whole: bool = False) -> Format:
    """Return a file's format by its contents.

    Args:
        is_whole: what it is that looks alike: a whole pickled module, or a state dict.
    Raises:
        LoadError: it is not PyTorch's, or is cut.
    """
    with path.open("rb") as file:
        head = file.read(len(LEGACY_MAGIC))
    pickled: Format = "pickle" if is_whole else "state_dict"
    if head.startswith(b"PK\3\4"):
        return _detect_archive(path, pickled)
    # https://github.com/huggingface/safetensors#format: the JSON header's length, then itself.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size:
        return "safetensors"
    if head == LEGACY_MAGIC:
        return pickled
    raise LoadError(
        f"`{path}` is not a PyTorch or safetensors file",
        got=kind_of(head),
        path=PATH,
    )


def _detect_archive(path: Path, pickled: Format) -> Format:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as exc:
        raise LoadError(f"`{path}` is cut or damaged", got=str(exc), path=PATH) from exc
    # All lie in one directory of the archive, of any name.
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return "torchscript"
    if "archive_format" in inner or "serialized_exported_program.json" in {*names, *inner}:
        return "export"
    if "data.pkl" in inner:
        return pickled
    raise LoadError(
        f"`{path}` is not a PyTorch archive",
        got=f"a zip file of {textwrap.shorten(', '.join(names), 80) or 'nothing'}",
        remedy="Keras: deployments.tensorflow.backend serves what `model.export(path)` writes."
        if {"config.json", "metadata.json"} <= set(names)
        else None,
        path=PATH,
    )


def check_trust(path: Path, format: Format, *, trusted: bool) -> None:
    """Raise LoadError for a file that can run code, unless it is trusted."""
    if format in RUNS_CODE and not trusted:
        raise LoadError(
            f"Reading `{path}` can run code that its writer put there",
            got=f"format {format}",
            remedy="If you trust whoever wrote it, set `trusted: true`; weights alone, as "
            "safetensors or a state dict, need no trust.",
            path=PATH,
        )


def load_torchscript(torch: Any, path: Path, device: Any) -> Any:
    """Return a ScriptModule."""
    return _read(path, "TorchScript", lambda: torch.jit.load(str(path), map_location=device).eval())


def load_program(torch: Any, path: Path, device: Any) -> Any:
    """Return an ExportedProgram. Can run what its writer put there."""
    program = _read(path, "torch.export", lambda: torch.export.load(str(path)))
    if device.type == "cpu":
        return program
    return torch.export.passes.move_to_device_pass(program, device)


def load_pickle(torch: Any, path: Path, device: Any) -> Any:
    """Return a whole pickled module. Runs what its writer put there."""
    module = _read(
        path, "pickle", lambda: torch.load(path, map_location=device, weights_only=False)
    )
    if not isinstance(module, torch.nn.Module):
        raise LoadError(
            f"`{path}` holds no module",
            expected="a torch.nn.Module",
            got=type(module).__name__,
            remedy=f"Weights need {MODULE_REMEDY}" if isinstance(module, Mapping) else None,
            path=PATH,
        )
    return module.eval()


def load_weights(
    torch: Any,
    path: Path,
    format: Format,
    factory: str | None,
    arguments: Mapping[str, Any],
    *,
    trusted: bool = False,
) -> Any:
    """Return the module that `factory`, an import string, makes, with the file's weights.

    Args:
        trusted: whether a state dict may run what its writer put there.
    Raises:
        LoadError: the module cannot be made, or the weights do not fit it.
    """
    is_state_dict = format != "safetensors"
    if factory is None:
        if is_state_dict:
            _read_state_dict(torch, path)  # which says so if it is more than that
        raise LoadError(f"`{path}` holds weights alone", expected=MODULE_REMEDY, path=MODULE)
    module = _create(torch, factory, arguments)
    if is_state_dict:
        weights = _read_state_dict(torch, path, trusted=trusted)
    else:
        weights = _read_safetensors(path)
    try:
        module.load_state_dict(weights)
    except RuntimeError as exc:
        faults = [textwrap.shorten(line, 300) for line in str(exc).splitlines()[1:]]
        raise LoadError(
            f"The weights in `{path}` do not fit `{factory}`", got=" ".join(faults), path=PATH
        ) from exc
    return module.eval()


def _create(torch: Any, factory: str, arguments: Mapping[str, Any]) -> Any:
    try:
        module = import_from_string(factory, path=MODULE)(**arguments)
    except ConfigurationError:
        raise
    except Exception as exc:
        raise LoadError(
            f"`{factory}` makes no module",
            got=f"{type(exc).__name__}: {first_line(exc)}",
            path=MODULE,
        ) from exc
    if not isinstance(module, torch.nn.Module):
        raise LoadError(
            f"`{factory}` makes no module",
            expected="a torch.nn.Module",
            got=type(module).__name__,
            path=MODULE,
        )
    return module


def _read_state_dict(torch: Any, path: Path, *, trusted: bool = False) -> Mapping[str, Any]:
    try:
        weights = torch.load(path, map_location="cpu", weights_only=not trusted)
    except Exception as exc:
        # The message of PyTorch advises to trust the file, at length.
        is_refused = "weights_only" in str(exc).lower()
        raise LoadError(
            f"`{path}` holds more than weights"
            if is_refused
            else f"The state dict in `{path}` cannot be read",
            got=f"{type(exc).__name__}: {first_line(exc)}",
            remedy="Save `module.state_dict()`; or, if you trust whoever wrote it, set "
            "`trusted: true`, and no `module` for a whole module."
            if is_refused
            else None,
            path=PATH,
        ) from exc
    if isinstance(weights, Mapping):
        weights = weights.get("state_dict", weights)  # as training frameworks save it
    if not isinstance(weights, Mapping):
        raise LoadError(
            f"`{path}` holds no state dict",
            expected="a mapping of names to tensors",
            got=type(weights).__name__,
            remedy="A whole module needs no `module`."
            if isinstance(weights, torch.nn.Module)
            else None,
            path=PATH,
        )
    return weights


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    try:
        from safetensors.torch import load_file
    except ImportError as exc:
        raise MissingDependency(
            "The model needs safetensors", remedy='pip install "rayserve-app[torch]"'
        ) from exc
    weights: Mapping[str, Any] = _read(path, "safetensors", lambda: load_file(path))
    return weights


def _read(path: Path, kind: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as exc:  # each reader raises in its own manner
        raise LoadError(
            f"`{path}` cannot be read as {kind}",
            got=f"{type(exc).__name__}: {first_line(exc)}",
            path=PATH,
        ) from exc


def first_line(exc: BaseException) -> str:
    """Return the line that says what went wrong: TorchScript's errors begin with where it did."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    if lines and "TorchScript" in lines[0]:
        causes = filter(None, map(SCRIPT_ERROR.match, lines))
        lines = [cause[1] for cause in causes] or lines
    return lines[0] if lines else type(exc).__name__


def remedy_of(exc: BaseException, declared: InputSettings) -> str | None:
    """Return what makes a wrong shape the client's fault, where nothing says which is right."""
    is_open = declared.type == "tensor" and declared.shape is None
    if not is_open or SHAPE_ERROR.search(first_line(exc)) is None:
        return None
    return "If the input has a wrong shape: set `input.shape`, and such requests are refused"
