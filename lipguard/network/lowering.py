"""The table of supported operations: one row per kind, each lowered to the layer values of `layers`.

A rule has the signature of the functional form; a module's row says how to call it. A rule receives a `Ref` for every
argument that depends on the network's input, and plain values or constant tensors for the rest.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipguard.errors import InvalidNetworkError, UnsupportedLayerError
from lipguard.network import layers
from lipguard.network.graph import Node
from lipguard.network.layers import Layer, Shape

Pair = int | tuple[int, int]
# Probe batches have this size: an operation that mixes the batch axis with others shows by its shape.
BATCH = 3


@dataclass(frozen=True)
class Ref:
    """A value that depends on the network's input: the node that makes it, and its shape without the batch axis."""

    index: int
    shape: Shape


@dataclass
class Builder:
    """Collects nodes; rules call `emit`."""

    nodes: list[Node] = field(default_factory=list)
    path: str = "input"

    def emit(self, layer: Layer, *inputs: Ref) -> Ref:
        """Append a node and return a reference to its value."""
        shape = tuple(layer.forward(*(torch.zeros(1, *ref.shape, dtype=torch.float64) for ref in inputs)).shape[1:])
        return self._append(layer, tuple(ref.index for ref in inputs), shape)

    def input(self, shape: Shape) -> Ref:
        """Append the input node."""
        return self._append(layers.Input(), (), shape)

    def _append(self, layer: Layer, inputs: tuple[int, ...], shape: Shape) -> Ref:
        if 0 in shape:
            raise InvalidNetworkError(f"{self.path}: its output has the shape {shape}, which holds no entries.")
        self.nodes.append(Node(self.path, layer, inputs, shape))
        return Ref(len(self.nodes) - 1, shape)

    def unsupported(self, kind: str, advice: str) -> UnsupportedLayerError:
        """The error to raise for the operation in hand."""
        return UnsupportedLayerError(self.path, kind, advice)

    def constant(self, value: Tensor | None, what: str) -> Tensor | None:
        """A weight as the float64 value that it holds.

        Raises:
            InvalidNetworkError: it is not finite.
        """
        if value is None:
            return None
        if not isinstance(value, Tensor) or value.is_complex():
            raise self.unsupported(
                f"a {what} of type {type(value).__name__}", "Only real constant weights can be read."
            )
        value = value.detach().to("cpu", torch.float64).clone()
        if not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise InvalidNetworkError(
                f"{self.path}: {bad} of {value.numel()} entries of its {what} are NaN or infinite."
            )
        return value


Rule = Callable[..., Ref]


@dataclass(frozen=True)
class Kind:
    """One row of the table.

    Attributes:
        rule: lowers the operation; called as rule(builder, *args, **kwargs).
        module: the module class, if there is one; a subclass counts only while it inherits `forward`.
        arguments: the keyword arguments that a module calls the rule with, besides its input.
        functions: functions and tensor methods of the same meaning (methods by name).
    """

    rule: Rule
    module: type[nn.Module] | None = None
    arguments: Callable[[Any], Mapping[str, Any]] = lambda module: {}
    functions: tuple[Callable[..., Any] | str, ...] = ()


def _pair(value: Pair) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else tuple(value) * (2 if len(value) == 1 else 1)
    return int(first), int(second)


def _spatial(builder: Builder, x: Ref, what: str) -> None:
    if len(x.shape) != 3:
        raise InvalidNetworkError(
            f"{builder.path}: {what} expects samples of shape (channels, rows, columns), but got {x.shape}. "
            "input_shape is the shape of one sample, without the batch axis."
        )


def _conv2d(
    builder: Builder, x: Ref, weight: Tensor, bias: Tensor | None = None, stride: Pair = 1, padding: Pair | str = 0,
    dilation: Pair = 1, groups: int = 1,
) -> Ref:  # fmt: skip
    _spatial(builder, x, "a 2-d convolution")
    kernel, spacing = weight.shape[2:], _pair(dilation)
    if padding == "same":  # as torch does it: the odd one goes to the right and the bottom
        total = [d * (k - 1) for d, k in zip(spacing, kernel, strict=True)]
        sides = (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)
    else:
        rows, columns = (0, 0) if padding == "valid" else _pair(padding)  # type: ignore[arg-type]
        sides = (columns, columns, rows, rows)
    layer = layers.Conv2d(
        builder.constant(weight, "weight"),  # type: ignore[arg-type]
        builder.constant(bias, "bias"), _pair(stride), sides, spacing, groups,
    )  # fmt: skip
    return builder.emit(layer, x)


def _conv2d_module(module: nn.Conv2d) -> Mapping[str, Any]:
    return {
        "weight": module.weight, "bias": module.bias, "stride": module.stride, "padding": module.padding,
        "dilation": module.dilation, "groups": module.groups,
    }  # fmt: skip


def _conv2d_layer(builder: Builder, x: Ref, padding_mode: str, **arguments: Any) -> Ref:
    if padding_mode != "zeros":
        raise builder.unsupported(f"Conv2d with padding_mode={padding_mode!r}", "Use padding_mode='zeros'.")
    return _conv2d(builder, x, **arguments)


def _linear(builder: Builder, x: Ref, weight: Tensor, bias: Tensor | None = None) -> Ref:
    return builder.emit(
        layers.Linear(builder.constant(weight, "weight"), builder.constant(bias, "bias")),  # type: ignore[arg-type]
        x,
    )


def _batch_norm(
    builder: Builder, x: Ref, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Ref:  # fmt: skip
    if training or running_mean is None or running_var is None:
        raise InvalidNetworkError(
            f"{builder.path}: batch norm that uses the statistics of the batch makes samples depend on each other. "
            "Call model.eval(), and keep track_running_stats=True."
        )
    mean, var = builder.constant(running_mean, "running mean"), builder.constant(running_var, "running variance")
    assert mean is not None
    assert var is not None
    if (var + eps <= 0).any():
        raise InvalidNetworkError(f"{builder.path}: the running variance has negative entries.")
    gain = torch.ones_like(var) if weight is None else builder.constant(weight, "weight")
    shift = torch.zeros_like(var) if bias is None else builder.constant(bias, "bias")
    assert gain is not None
    assert shift is not None
    shape = (-1, *(1 for _ in x.shape[1:]))
    scale = gain / torch.sqrt(var + eps)  # three roundings, and one for eps as the float that it is
    return builder.emit(layers.Scale(scale.reshape(shape), (shift - mean * scale).reshape(shape), weight_ulps=4), x)


def _batch_norm_module(module: nn.BatchNorm2d) -> Mapping[str, Any]:
    return {
        "running_mean": module.running_mean, "running_var": module.running_var, "weight": module.weight,
        "bias": module.bias, "training": module.training, "eps": module.eps,
    }  # fmt: skip


def _avg_pool2d(
    builder: Builder, x: Ref, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Ref:  # fmt: skip
    _spatial(builder, x, "a 2-d pooling")
    kernel = _pair(kernel_size)
    step = kernel if not stride else _pair(stride)
    rows, columns = _pair(padding)
    if ceil_mode and any(
        (n + 2 * p - k) % s for n, p, k, s in zip(x.shape[1:], (rows, columns), kernel, step, strict=True)
    ):
        raise builder.unsupported("average pooling with ceil_mode=True", "Use ceil_mode=False, or pad the input.")
    sides = (columns, columns, rows, rows)
    varying = (rows or columns) and not count_include_pad and divisor_override is None
    divisor = 1 if varying else divisor_override or kernel[0] * kernel[1]
    weight = torch.full((x.shape[0], 1, *kernel), 1 / divisor, dtype=torch.float64)
    y = builder.emit(layers.Conv2d(weight, None, step, sides, (1, 1), x.shape[0], weight_ulps=1), x)
    if not varying:
        return y
    inside = torch.ones(1, 1, *x.shape[1:], dtype=torch.float64)
    count = layers.Conv2d(torch.ones(1, 1, *kernel, dtype=torch.float64), None, step, sides).linear(inside)[0]
    return builder.emit(layers.Scale(1 / count, weight_ulps=1), y)


def _avg_pool2d_module(module: nn.AvgPool2d) -> Mapping[str, Any]:
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    return {name: getattr(module, name) for name in names}


def _adaptive_avg_pool2d(builder: Builder, x: Ref, output_size: int | tuple[int | None, int | None]) -> Ref:
    _spatial(builder, x, "a 2-d pooling")
    wanted = (output_size, output_size) if isinstance(output_size, int) or output_size is None else tuple(output_size)
    size = [n if want is None else want for n, want in zip(x.shape[1:], wanted, strict=True)]
    if any(n % m for n, m in zip(x.shape[1:], size, strict=True)):
        raise builder.unsupported(
            f"adaptive average pooling from {x.shape[1:]} to {tuple(size)}",
            "It is plain pooling, and supported, only where the output size divides the input size.",
        )
    return _avg_pool2d(builder, x, (x.shape[1] // size[0], x.shape[2] // size[1]))


def _pad(builder: Builder, x: Ref, pad: tuple[int, ...], mode: str = "constant", value: float | None = None) -> Ref:
    if mode != "constant" or value not in (None, 0):
        raise builder.unsupported(f"padding with mode={mode!r}, value={value!r}", "Pad with zeros.")
    if len(pad) > 2 * len(x.shape):
        raise builder.unsupported(f"padding by {tuple(pad)}, which pads the batch axis", "Pad the other axes only.")
    return builder.emit(layers.Pad(tuple(pad)), x)


def _reshaped(builder: Builder, x: Ref, reshape: Callable[[Tensor], Tensor]) -> Ref:
    """Any operation that only renames the axes of one sample."""
    index = torch.arange(BATCH * torch.Size(x.shape).numel()).reshape(BATCH, *x.shape)
    result = reshape(index)
    if result.shape[:1] != (BATCH,) or not torch.equal(result.reshape(BATCH, -1), index.reshape(BATCH, -1)):
        raise InvalidNetworkError(
            f"{builder.path}: reshaping a batch of {x.shape} to {tuple(result.shape)} mixes the batch axis with "
            "others. Keep the first axis as it is."
        )
    shape = tuple(result.shape[1:])
    return x if shape == x.shape else builder.emit(layers.Reshape(shape), x)


def _flatten(builder: Builder, x: Ref, start_dim: int = 0, end_dim: int = -1) -> Ref:
    return _reshaped(builder, x, lambda v: v.flatten(start_dim, end_dim))


def _reshape(builder: Builder, x: Ref, *shape: Any) -> Ref:
    return _reshaped(builder, x, lambda v: v.reshape(*shape))


def _identity(builder: Builder, x: Ref, *_: Any, **__: Any) -> Ref:
    return x


def _dropout(builder: Builder, x: Ref, p: float = 0.5, training: bool = True, inplace: bool = False) -> Ref:
    if training and p > 0:
        raise InvalidNetworkError(f"{builder.path}: dropout in training mode is random. Call model.eval().")
    return x


def _add(builder: Builder, x: Ref, y: Ref, *, alpha: float = 1) -> Ref:
    if not (isinstance(x, Ref) and isinstance(y, Ref)):
        raise builder.unsupported("adding a constant", "Use the bias of the layer before it.")
    if x.shape != y.shape or alpha != 1:
        raise builder.unsupported(f"adding shapes {x.shape} and {y.shape} with alpha={alpha}", "Add equal shapes.")
    return builder.emit(layers.Add(), x, y)


def _relu(builder: Builder, x: Ref, inplace: bool = False) -> Ref:
    return builder.emit(layers.relu(), x)


def _leaky_relu(builder: Builder, x: Ref, negative_slope: float = 0.01, inplace: bool = False) -> Ref:
    return builder.emit(layers.leaky_relu(negative_slope), x)


def _tanh(builder: Builder, x: Ref) -> Ref:
    return builder.emit(layers.tanh(), x)


def _sigmoid(builder: Builder, x: Ref) -> Ref:
    return builder.emit(layers.sigmoid(), x)


def _elu(builder: Builder, x: Ref, alpha: float = 1.0, inplace: bool = False) -> Ref:
    return builder.emit(layers.elu(alpha), x)


KINDS: tuple[Kind, ...] = (
    Kind(_conv2d_layer, nn.Conv2d, lambda m: {"padding_mode": m.padding_mode, **_conv2d_module(m)}),
    Kind(_conv2d, functions=(F.conv2d, torch.conv2d)),
    Kind(_linear, nn.Linear, lambda m: {"weight": m.weight, "bias": m.bias}, (F.linear,)),
    Kind(_batch_norm, nn.BatchNorm1d, _batch_norm_module, (F.batch_norm,)),
    Kind(_batch_norm, nn.BatchNorm2d, _batch_norm_module),
    Kind(_avg_pool2d, nn.AvgPool2d, _avg_pool2d_module, (F.avg_pool2d,)),
    Kind(
        _adaptive_avg_pool2d, nn.AdaptiveAvgPool2d, lambda m: {"output_size": m.output_size}, (F.adaptive_avg_pool2d,)
    ),
    Kind(_pad, nn.ZeroPad2d, lambda m: {"pad": m.padding}, (F.pad,)),
    Kind(_flatten, nn.Flatten, lambda m: {"start_dim": m.start_dim, "end_dim": m.end_dim}, (torch.flatten, "flatten")),
    Kind(_reshape, functions=(torch.reshape, "reshape", "view")),
    Kind(_identity, nn.Identity, functions=("contiguous", "clone")),
    *(
        Kind(_dropout, module, lambda m: {"p": m.p, "training": m.training}, functions)
        for module, functions in ((nn.Dropout, (F.dropout,)), (nn.Dropout2d, (F.dropout2d,)))
    ),
    Kind(_add, functions=(operator.add, operator.iadd, torch.add, "add", "add_")),
    Kind(_relu, nn.ReLU, functions=(F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_")),
    Kind(_leaky_relu, nn.LeakyReLU, lambda m: {"negative_slope": m.negative_slope}, (F.leaky_relu,)),
    Kind(_tanh, nn.Tanh, functions=(torch.tanh, F.tanh, "tanh", "tanh_")),
    Kind(_sigmoid, nn.Sigmoid, functions=(torch.sigmoid, F.sigmoid, "sigmoid", "sigmoid_")),
    Kind(_elu, nn.ELU, lambda m: {"alpha": m.alpha}, (F.elu,)),
)

_MODULES = {kind.module: kind for kind in KINDS if kind.module is not None}
_FUNCTIONS = {function: kind for kind in KINDS for function in kind.functions}


def module_kind(module: nn.Module) -> Kind | None:
    """The row of a module: its class, or the base class whose `forward` it inherits unchanged."""
    for cls in type(module).__mro__:
        if cls in _MODULES:
            kept = type(module).forward is cls.forward
            if issubclass(cls, nn.Conv2d):
                kept = kept and type(module)._conv_forward is cls._conv_forward  # type: ignore[attr-defined]
            return _MODULES[cls] if kept else None
    return None


def function_kind(target: Callable[..., Any] | str) -> Kind | None:
    """The row of a function, or of a tensor method by its name."""
    return _FUNCTIONS.get(target)


def supported() -> str:
    """The supported modules, for error messages."""
    return ", ".join(sorted({cls.__name__ for cls in _MODULES}))
