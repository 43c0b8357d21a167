"""Networks that were exported: programs of `torch.export`, and ONNX files."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lipguard.errors import ConfigError


def _batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, training: bool, momentum: float,
    eps: float, cudnn: bool,
) -> Tensor:  # fmt: skip
    return F.batch_norm(x, mean, variance, weight, bias, training, momentum, eps)


# Operations whose arguments stand in another order than in the function that people call.
_OTHERS: dict[str, Callable[..., Any]] = {"batch_norm": _batch_norm, "getitem": operator.getitem}
_LIBRARIES = (F, torch, Tensor)


def of_program(path: Path) -> nn.Module:
    """The network of a program that `torch.export.save` wrote.

    Raises:
        ConfigError: it cannot be read, or calls what has no function of torch.
    """
    try:
        program = torch.export.load(path)
        module = program.module()
    except Exception as error:  # whatever torch's reader meets
        raise ConfigError(f"{path}: it is no program of torch.export, or is damaged ({_line(error)}).") from error
    assert isinstance(module, fx.GraphModule)
    return with_functions(module, path)


def with_functions(module: fx.GraphModule, path: Path) -> nn.Module:
    """The network with torch's functions in place of the operations of its library.

    Raises:
        ConfigError: an operation has none.
    """
    for node in list(module.graph.nodes):
        if node.op == "call_module" and node.target.startswith("_guards"):  # what was assumed of shapes
            module.graph.erase_node(node)
        elif node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            name = node.target.overloadpacket.__name__
            if name.startswith("_assert") or name == "sym_constrain_range_for_size":
                module.graph.erase_node(node)
            else:
                node.target = _function(name.removesuffix("_") if name.endswith("_") else name, path)
    module.graph.eliminate_dead_code()
    plain = fx.Graph()
    plain.set_codegen(fx.graph.CodeGen())
    renamed: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        renamed[node] = plain.node_copy(node, renamed.__getitem__)
    _one_output(plain)
    return fx.GraphModule(module, plain).eval()


def _one_output(graph: fx.Graph) -> None:
    """A tuple of one output is that output."""
    for node in graph.nodes:
        if node.op == "output" and isinstance(node.args[0], (tuple, list)) and len(node.args[0]) == 1:
            node.args = (node.args[0][0],)


def _function(name: str, path: Path) -> Callable[..., Any]:
    if name in _OTHERS:
        return _OTHERS[name]
    for place in _LIBRARIES:
        found: Callable[..., Any] | None = getattr(place, name, None)
        if found is not None:
            return found
    raise ConfigError(f"{path}: the operation {name} has no function of torch. Certify the module itself.")


def of_onnx(path: Path) -> nn.Module:
    """The network of an ONNX file, by onnx2torch.

    Raises:
        ConfigError: the converter is not installed, or cannot read the file.
    """
    try:
        converter = importlib.import_module("onnx2torch")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'{path}: ONNX files need a converter. Install it with pip install "lipguard[onnx]".'
        ) from error
    try:
        found = converter.convert(str(path))
    except Exception as error:  # whatever the converter meets
        raise ConfigError(f"{path}: onnx2torch cannot read it ({_line(error)}).") from error
    assert isinstance(found, nn.Module)
    return found.eval()


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
