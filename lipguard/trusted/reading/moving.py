"""Operations that move, repeat or drop entries, rename axes, or do nothing."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.reading.builder import BATCH, Builder, Kind, Padded, Pending, Ref, Rule, Turned, attributes
from lipguard.trusted.reading.folding import Folded, folded


def _pad(
    builder: Builder, x: Ref, pad: tuple[int, ...], mode: str = "constant", value: float | None = None
) -> Ref | Padded:
    if mode != "constant":
        return moved(builder, x, lambda v: F.pad(v, tuple(pad), mode=mode))
    if value == -math.inf and min(pad) >= 0:
        return Padded(x, tuple(pad))
    if value not in (None, 0):
        if not math.isfinite(float(value)):
            raise builder.unsupported(f"padding with {value}", "Pad with a number.")
        padded = builder.emit(layers.Pad(tuple(pad)), x)
        outside = F.pad(torch.zeros(1, *x.shape, dtype=torch.float64), tuple(pad), value=float(value))
        return builder.emit(layers.Scale(torch.ones(1, dtype=torch.float64), outside[0]), padded)
    if len(pad) > 2 * len(x.shape):
        raise builder.unsupported(f"padding by {tuple(pad)}, which pads the batch axis", "Pad the other axes only.")
    return builder.emit(layers.Pad(tuple(pad)), x)


def reshaped(builder: Builder, x: Ref, reshape: Callable[[Tensor], Tensor]) -> Ref:
    """Any operation that only renames the axes of one sample."""
    found = _refolded(builder, x, reshape)
    if isinstance(found, Folded):
        raise InvalidNetworkError(f"{builder.path}: it mixes the batch axis with others. Keep the first axis as it is.")
    return found


def _refolded(builder: Builder, x: Ref, reshape: Callable[[Tensor], Tensor]) -> Ref | Folded:
    """The same, where the first axis may be that of the batch and others, or be left by others.

    Raises:
        InvalidNetworkError: entries of several samples meet, or change places.
    """
    index = torch.arange(builder.batch * math.prod(x.shape)).reshape(builder.batch, *x.shape)
    result = reshape(index)
    first = len(result) if result.dim() else 0
    if first == 0 or first % BATCH or not torch.equal(result.flatten(), index.flatten()):
        raise InvalidNetworkError(
            f"{builder.path}: reshaping a batch of {x.shape} to {tuple(result.shape)} mixes the batch axis with "
            "others. Keep the first axis as it is."
        )
    shape = tuple(result.shape[1:])
    if first != builder.batch:
        return folded(builder, x, shape)
    return x if shape == x.shape else builder.emit(layers.Reshape(shape), x)


def _flatten(builder: Builder, x: Ref, start_dim: int = 0, end_dim: int = -1) -> Ref | Folded:
    return _refolded(builder, x, lambda v: v.flatten(start_dim, end_dim))


def _reshape(builder: Builder, x: Ref, *shape: Any) -> Ref | Folded:
    return _refolded(builder, x, lambda v: v.reshape(*shape))


def moved(builder: Builder, x: Ref, move: Callable[[Tensor], Tensor]) -> Ref:
    """Any operation that moves, repeats or drops the entries of each sample, or puts zeros between them.

    Raises:
        InvalidNetworkError: the batch axis is not the first one then.
    """
    found = _turned(builder, x, move)
    if isinstance(found, Turned):
        raise InvalidNetworkError(f"{builder.path}: it mixes the batch axis with others. Keep the first axis as it is.")
    return found


def _turned(builder: Builder, value: Ref | Turned, move: Callable[[Tensor], Tensor]) -> Ref | Turned:
    """The same wherever the batch axis is, and is then.

    Raises:
        InvalidNetworkError: it is no axis of its own any more.
    """
    x, axis = (value.ref, value.axis) if isinstance(value, Turned) else (value, 0)
    n = math.prod(x.shape)
    numbers = torch.arange(1, n + 1, dtype=torch.float64).reshape(x.shape)
    result = move(torch.stack([numbers + b * n for b in range(builder.batch)], axis))
    place = _batch_axis(result, n, builder.batch)
    if place is None:
        raise InvalidNetworkError(f"{builder.path}: it mixes the batch axis with others. Keep the first axis as it is.")
    index = result.select(place, 0).long() - 1
    if index.shape == x.shape and torch.equal(index.flatten(), torch.arange(n)):
        ref = x
    else:
        ref = builder.emit(layers.Pick(index), x)
    return Turned(ref, place) if place else ref


def _batch_axis(result: Tensor, n: int, batch: int) -> int | None:
    """The axis along which the samples of a batch are, whose entries are numbered from b n + 1 on; 0 for a zero."""
    for place in (k for k, length in enumerate(result.shape) if length == batch):
        parts = result.movedim(place, 0)
        before = torch.arange(batch).reshape(-1, *(1 for _ in parts.shape[1:])) * n
        samples = torch.where(parts != 0, parts - before, 0)
        inside = bool((samples[0] >= 0).all()) and bool((samples[0] <= n).all())
        if inside and bool((samples == samples[:1]).all()):
            return place
    return None


def _moves(name: str) -> Rule:
    """The rule of a tensor method that moves entries."""

    def rule(builder: Builder, x: Ref | Turned, *args: Any, **kwargs: Any) -> Ref | Turned:
        return _turned(builder, x, lambda v: getattr(v, name)(*args, **kwargs))

    return rule


def _getitem(builder: Builder, x: Ref | Turned | list[Any], key: Any) -> Any:
    if isinstance(x, list):
        return x[key]
    if not isinstance(x, (Ref, Turned)):
        raise builder.unsupported(f"a part of {x.why[0]}", x.why[1])
    return _turned(builder, x, lambda v: v[key])


_TURNED = {"T": lambda v: v.permute(*range(v.dim())[::-1]), "mT": lambda v: v.mT}


def _attribute(builder: Builder, x: Any, name: str) -> Any:
    """What is read of a value as an attribute: itself turned, or a part of what an operation returns."""
    if isinstance(x, list) and name in ("values", "indices"):
        return x[name == "indices"]
    if name in _TURNED and isinstance(x, (Ref, Turned)):
        return _turned(builder, x, _TURNED[name])
    if name == "data" and isinstance(x, Ref):
        return x
    raise builder.unsupported(f"attribute {name}", "Use what computes with values.")


def _like(builder: Builder, x: Ref, other: Tensor) -> Ref:
    """As large as another value."""
    return moved(builder, x, lambda v: v.expand(other.shape))


def _shaped_like(builder: Builder, x: Ref, other: Tensor) -> Ref | Folded:
    return _refolded(builder, x, lambda v: v.reshape(other.shape))


def _unfold(builder: Builder, x: Ref, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Ref:
    return moved(builder, x, lambda v: F.unfold(v, kernel_size, dilation, padding, stride))


def _parts(name: str) -> Rule:
    """The rule of a tensor method that returns several pieces."""

    def rule(builder: Builder, x: Ref | Turned, *args: Any, **kwargs: Any) -> list[Ref | Turned]:
        shape = list((x.ref if isinstance(x, Turned) else x).shape)
        shape.insert(x.axis if isinstance(x, Turned) else 0, builder.batch)
        count = len(getattr(torch.zeros(shape), name)(*args, **kwargs))
        return [_turned(builder, x, lambda v, k=k: getattr(v, name)(*args, **kwargs)[k]) for k in range(count)]  # type: ignore[misc]

    return rule


def _pixel_shuffle(builder: Builder, x: Ref, upscale_factor: int) -> Ref:
    return moved(builder, x, lambda v: F.pixel_shuffle(v, upscale_factor))


def _pixel_unshuffle(builder: Builder, x: Ref, downscale_factor: int) -> Ref:
    return moved(builder, x, lambda v: F.pixel_unshuffle(v, downscale_factor))


def _channel_shuffle(builder: Builder, x: Ref, groups: int) -> Ref:
    return moved(builder, x, lambda v: v.reshape(len(v), groups, -1, *v.shape[2:]).transpose(1, 2).reshape(v.shape))


def _identity(builder: Builder, x: Ref, *_: Any, **__: Any) -> Ref:
    return x


def _dropout(builder: Builder, x: Ref, p: float = 0.5, training: bool = True, inplace: bool = False) -> Ref:
    if training and p > 0:
        raise InvalidNetworkError(f"{builder.path}: dropout in training mode is random. Pass training=self.training.")
    return x


KINDS: tuple[Kind, ...] = (
    *(
        Kind(_pad, module, lambda m: {"pad": m.padding}, functions)
        for module, functions in ((nn.ZeroPad1d, (F.pad,)), (nn.ZeroPad2d, ()), (nn.ZeroPad3d, ()))
    ),
    *(
        Kind(_pad, module, lambda m: {"pad": m.padding, "value": m.value})
        for module in (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
    ),
    *(
        Kind(_pad, module, lambda m, mode=mode: {"pad": m.padding, "mode": mode})  # type: ignore[misc]
        for mode, modules in (
            ("reflect", (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d)),
            ("replicate", (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d)),
            ("circular", (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d)),
        )
        for module in modules
    ),
    Kind(_pixel_shuffle, nn.PixelShuffle, lambda m: {"upscale_factor": m.upscale_factor}, (F.pixel_shuffle,)),
    Kind(_pixel_unshuffle, nn.PixelUnshuffle, lambda m: {"downscale_factor": m.downscale_factor}, (F.pixel_unshuffle,)),
    Kind(_channel_shuffle, nn.ChannelShuffle, lambda m: {"groups": m.groups}, (F.channel_shuffle,)),
    Kind(_getitem, functions=(operator.getitem,), pending=(Pending,)),
    Kind(_attribute, functions=(getattr,), pending=(Pending,)),
    *(
        Kind(
            _moves(name),
            functions=(*(getattr(torch, name) for _ in range(hasattr(torch, name))), name),
            pending=(Turned,),
        )
        for name in (
            "permute",
            "transpose",
            "flip",
            "roll",
            "narrow",
            "repeat_interleave",
            "swapaxes",
            "movedim",
            "swapdims",
            "moveaxis",
            "expand",
            "repeat",
            "tile",
            "broadcast_to",
            "index_select",
            "gather",
            "take_along_dim",
            "rot90",
            "select",
        )
    ),
    Kind(_moves("unfold"), functions=("unfold",)),
    Kind(_unfold, nn.Unfold, attributes("kernel_size", "dilation", "padding", "stride"), (F.unfold,)),
    Kind(_like, functions=("expand_as",)),
    Kind(_shaped_like, functions=("view_as", "reshape_as")),
    *(
        Kind(_parts(name), functions=(getattr(torch, name), name), pending=(Turned,))
        for name in ("chunk", "split", "unbind", "tensor_split")
    ),
    Kind(
        lambda builder, x, *args, **kwargs: _refolded(builder, x, lambda v: v.squeeze(*args, **kwargs)),
        functions=(torch.squeeze, "squeeze"),
    ),
    Kind(
        lambda builder, x, *args, **kwargs: _refolded(builder, x, lambda v: v.unsqueeze(*args, **kwargs)),
        functions=(torch.unsqueeze, "unsqueeze"),
    ),
    Kind(
        lambda builder, x, dim, sizes: _refolded(builder, x, lambda v: torch.unflatten(v, dim, sizes)),
        nn.Unflatten,
        lambda m: {"dim": m.dim, "sizes": m.unflattened_size},
        ("unflatten",),
    ),
    Kind(_flatten, nn.Flatten, lambda m: {"start_dim": m.start_dim, "end_dim": m.end_dim}, (torch.flatten, "flatten")),
    Kind(lambda builder, x: _flatten(builder, x), functions=(torch.ravel, "ravel")),
    Kind(_reshape, functions=(torch.reshape, "reshape", "view")),
    Kind(
        _identity,
        nn.Identity,
        functions=("contiguous", "clone", torch.clone, "detach", torch.detach, "cpu"),
    ),
    *(
        Kind(_dropout, module, lambda m: {"p": m.p, "training": m.training}, functions)
        for module, functions in (
            (nn.Dropout, (F.dropout,)),
            (nn.Dropout1d, (F.dropout1d,)),
            (nn.Dropout2d, (F.dropout2d,)),
            (nn.Dropout3d, (F.dropout3d,)),
            (nn.AlphaDropout, (F.alpha_dropout,)),
        )
    ),
)
