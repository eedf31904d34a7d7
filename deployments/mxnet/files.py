"""MXNet's files: parameters of a Gluon network, and pairs of a symbol and its parameters.

Formats: apache/mxnet v1.9.1, src/ndarray/ndarray.cc (NDArray::Save), python/mxnet/gluon/block.py
(save_parameters, export), python/mxnet/model.py (save_checkpoint). Reading them runs nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, Final, NamedTuple

from deployments.model_files import PATH, kind_of
from deployments.mxnet.graph import reason, select, some, unknown
from rayserve_app.errors import ConfigurationError, LoadError
from rayserve_app.importing import import_from_string

LAYER: Final = "args.model.layer"

MAGIC: Final = (0x112).to_bytes(8, "little")
"""How a file of named arrays begins (src/ndarray/ndarray.cc, kMXAPINDArrayListMagic)."""

PARAMETERS_SUFFIX: Final = ".params"

SYMBOL_SUFFIX: Final = "-symbol.json"


class Network(NamedTuple):
    """What the files hold."""

    symbol: Any
    parameters: Mapping[str, Any]
    """Arrays by the names of the symbol's arguments, on the device."""


class Pair(NamedTuple):
    """The two files of one network."""

    symbol: Path
    parameters: Path


def find_pair(path: Path, *, prefix: str | None, epoch: int | None) -> Pair:
    """Return `PREFIX-symbol.json` and `PREFIX-0000.params` in a directory, or the pair to which
    either file belongs; without `epoch` that of the last one.

    Raises:
        LoadError: there is no pair, or a choice of several.
    """
    directory = path
    if path.is_file():
        directory = path.parent
        match = re.fullmatch(rf"(.+?)(?:{SYMBOL_SUFFIX}|-(\d{{4,}})\.params)", path.name)
        if match is None:
            raise LoadError(
                f"`{path}` is not part of an exported network",
                expected=f"a name as `net{SYMBOL_SUFFIX}` or `net-0000.params`",
                path=PATH,
                remedy="Parameters alone need `zoo` or `module`, which make the network.",
            )
        prefix = match[1]
        epoch = int(match[2]) if match[2] and epoch is None else epoch
    names = sorted(entry.name for entry in directory.iterdir())
    found = [name.removesuffix(SYMBOL_SUFFIX) for name in names if name.endswith(SYMBOL_SUFFIX)]
    if prefix is None and len(found) == 1:
        prefix = found[0]
    if prefix is None or prefix not in found:
        raise LoadError(
            f"No network to choose in `{directory}`",
            expected=f"`{prefix}{SYMBOL_SUFFIX}`" if prefix else f"one file of {SYMBOL_SUFFIX}",
            got=", ".join(names) or "nothing",
            path="args.model.prefix" if len(found) > 1 else PATH,
        )
    pattern = re.compile(rf"{re.escape(prefix)}-(\d{{4,}})\.params")
    epochs = {int(match[1]): name for name in names if (match := pattern.fullmatch(name))}
    if epoch is None and epochs:
        epoch = max(epochs)
    if epoch is None or epoch not in epochs:
        raise LoadError(
            f"No parameters for `{prefix}{SYMBOL_SUFFIX}` in `{directory}`",
            expected=f"`{prefix}-{epoch or 0:04}.params`",
            got=", ".join(names),
            path=PATH,
        )
    return Pair(directory / f"{prefix}{SYMBOL_SUFFIX}", directory / epochs[epoch])


def read_pair(mx: Any, pair: Pair, context: Any) -> Network:
    """Return the network of an exported pair.

    Raises:
        LoadError: a file is damaged or another program's, or the two do not belong together.
    """
    try:
        text = pair.symbol.read_text()
        json.loads(text)  # MXNet's reader does not tell of everything else that it is not JSON
        symbol = mx.sym.load_json(text)
    except (ValueError, mx.base.MXNetError) as exc:
        raise LoadError(
            f"`{pair.symbol}` is not an MXNet symbol file", got=reason(exc), path=PATH
        ) from exc
    arrays = _read_arrays(mx, pair.parameters, context)
    parameters = {name.removeprefix("arg:").removeprefix("aux:"): a for name, a in arrays.items()}
    if odd := sorted(parameters.keys() - set(symbol.list_inputs())):
        raise LoadError(
            f"`{pair.parameters}` holds another network's parameters",
            expected=f"those that `{pair.symbol.name}` names",
            got=some(odd),
            path=PATH,
        )
    return Network(symbol, parameters)


def read_block(mx: Any, path: Path, block: Any, context: Any) -> None:
    """Give a Gluon network the parameters of a file that `save_parameters` wrote.

    Raises:
        LoadError: the file is damaged or another program's, or holds another network's.
    """
    _read_arrays(mx, path, mx.cpu())
    try:
        block.load_parameters(str(path), ctx=context)
    except (AssertionError, mx.base.MXNetError, ValueError) as exc:
        # "Parameter 'x' is missing in file 'y', which contains parameters: ...", and the like.
        sentence = re.split(r", which contain|\. (?:Please|Set|For)", reason(exc))[0]
        raise LoadError(
            f"`{path}` holds another network's parameters", got=sentence, path=PATH
        ) from exc


def make_zoo_block(mx: Any, name: str, arguments: Mapping[str, Any]) -> Any:
    """Return a network of `mxnet.gluon.model_zoo.vision` without parameters.

    Raises:
        LoadError: there is none of that name, or it does not take the arguments.
    """
    zoo = mx.gluon.model_zoo.vision
    try:
        return zoo.get_model(name, pretrained=False, **arguments)
    except ValueError as exc:
        known = str(exc).partition("options are")[2].split()
        raise unknown(
            "MXNet's zoo has no such network", name, known, path="args.model.zoo"
        ) from exc
    except TypeError as exc:
        raise _bad_arguments(name, exc) from exc


def make_block(mx: Any, factory: str, arguments: Mapping[str, Any]) -> Any:
    """Return the network that `package.module:factory` makes.

    Raises:
        ConfigurationError: there is no such factory.
        LoadError: what it makes is no `gluon.HybridBlock`.
    """
    make: Callable[..., Any] = import_from_string(factory, path="args.model.module")
    try:
        block = make(**arguments)
    except TypeError as exc:
        raise _bad_arguments(factory, exc) from exc
    if not isinstance(block, mx.gluon.HybridBlock):
        raise LoadError(
            f"`{factory}` makes no network that can be traced",
            expected="a gluon.HybridBlock",
            got=type(block).__name__,
            path="args.model.module",
        )
    return block


def trace(mx: Any, block: Any, layer: str | None, context: Any) -> Network:
    """Return a Gluon network as a graph, which answers what the network or one of its inner blocks
    does.

    Args:
        layer: the inner block, as `features` or `features.4`: attributes, and numbers of a
            `HybridSequential`.
    Raises:
        LoadError: there is no such block, or it is not called.
    """
    answers: list[Any] = []
    target = block if layer is None else _find_inner(block, layer)
    hook = target.register_forward_hook(lambda _block, _inputs, output: answers.append(output))
    block(*(mx.sym.var(name) for name in _input_names(block)))
    hook.detach()
    if not answers:
        raise LoadError("The network does not call the block", got=f"`{layer}`", path=LAYER)
    answer = answers[-1]
    symbol = mx.sym.Group(answer) if isinstance(answer, list | tuple) else answer
    held = {each.name: each for each in block.collect_params().values()}
    return Network(
        symbol,
        {name: held[name].data(context) for name in symbol.list_inputs() if name in held},
    )


def cut(network: Network, layer: str) -> Network:
    """Return a network that answers one inner output instead."""
    return Network(select(network.symbol, layer, path=LAYER), network.parameters)


def _read_arrays(mx: Any, path: Path, context: Any) -> dict[str, Any]:
    """Return the named arrays of a `.params` file.

    MXNet's reader trusts lengths in the file, so that another program's is told apart first.
    """
    with path.open("rb") as file:
        head = file.read(len(MAGIC))
    if head != MAGIC:
        raise LoadError(
            f"`{path}` is not a file of MXNet parameters",
            got=kind_of(head),
            path=PATH,
        )
    try:
        arrays = mx.nd.load(str(path))
    except mx.base.MXNetError as exc:
        raise LoadError(f"`{path}` is damaged or cut short", got=reason(exc), path=PATH) from exc
    if arrays and not isinstance(arrays, dict):
        raise LoadError(f"The arrays in `{path}` have no names", path=PATH)
    return {name: array.as_in_context(context) for name, array in dict(arrays).items()}


def _find_inner(block: Any, layer: str) -> Any:
    inner, place = block, ""
    for name in layer.split("."):
        known: Mapping[str, Any] = inner._children
        if name not in known:
            where = f"Block `{place}`" if place else "The network"
            raise unknown(f"{where} has no such block", name, list(known), path=LAYER)
        inner, place = known[name], f"{place}.{name}" if place else name
    return inner


def _input_names(block: Any) -> list[str]:
    """Return what a network is called with: the arguments of its `hybrid_forward` that are not
    its parameters."""
    arguments = list(signature(block.hybrid_forward).parameters.values())[1:]
    names = [
        each.name
        for each in arguments
        if each.kind is Parameter.POSITIONAL_OR_KEYWORD
        and each.default is Parameter.empty
        and each.name not in block._reg_params
    ]
    return ["data"] if names == ["x"] else names


def _bad_arguments(what: str, exc: TypeError) -> ConfigurationError:
    return ConfigurationError(
        f"`{what}` does not take the arguments", got=str(exc), path="args.model.arguments"
    )
