"""Operations that move, repeat or drop entries, rename axes, or do nothing."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipguard.errors import InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.reading.builder import BATCH, Builder, Kind, Ref, Rule


def _pad(builder: Builder, x: Ref, pad: tuple[int, ...], mode: str = "constant", value: float | None = None) -> Ref:
    if mode != "constant":
        return moved(builder, x, lambda v: F.pad(v, tuple(pad), mode=mode))
    if value not in (None, 0):
        padded = builder.emit(layers.Pad(tuple(pad)), x)
        outside = F.pad(torch.zeros(1, *x.shape, dtype=torch.float64), tuple(pad), value=float(value))
        return builder.emit(layers.Scale(torch.ones(1, dtype=torch.float64), outside[0]), padded)
    if len(pad) > 2 * len(x.shape):
        raise builder.unsupported(f"padding by {tuple(pad)}, which pads the batch axis", "Pad the other axes only.")
    return builder.emit(layers.Pad(tuple(pad)), x)


def reshaped(builder: Builder, x: Ref, reshape: Callable[[Tensor], Tensor]) -> Ref:
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
    return reshaped(builder, x, lambda v: v.flatten(start_dim, end_dim))


def _reshape(builder: Builder, x: Ref, *shape: Any) -> Ref:
    return reshaped(builder, x, lambda v: v.reshape(*shape))


def moved(builder: Builder, x: Ref, move: Callable[[Tensor], Tensor]) -> Ref:
    """Any operation that moves, repeats or drops the entries of each sample, or puts zeros between them."""
    n = math.prod(x.shape)
    numbers = torch.arange(1, n + 1, dtype=torch.float64).reshape(x.shape)
    result = move(torch.stack([numbers + b * n for b in range(BATCH)]))
    samples = [torch.where(sample != 0, sample - b * n, 0) for b, sample in enumerate(result)]
    index = samples[0].long() - 1
    alike = len(result) == BATCH and all(torch.equal(sample, samples[0]) for sample in samples)
    if not (alike and bool((index >= -1).all()) and bool((index < n).all())):
        raise InvalidNetworkError(f"{builder.path}: it mixes the batch axis with others. Keep the first axis as it is.")
    if index.shape == x.shape and torch.equal(index.flatten(), torch.arange(n)):
        return x
    return builder.emit(layers.Pick(index), x)


def _moves(name: str) -> Rule:
    """The rule of a tensor method that moves entries."""

    def rule(builder: Builder, x: Ref, *args: Any, **kwargs: Any) -> Ref:
        return moved(builder, x, lambda v: getattr(v, name)(*args, **kwargs))

    return rule


def _getitem(builder: Builder, x: Ref | list[Ref], key: Any) -> Ref:
    return x[key] if isinstance(x, list) else moved(builder, x, lambda v: v[key])


def _parts(name: str) -> Rule:
    """The rule of a tensor method that returns several pieces."""

    def rule(builder: Builder, x: Ref, *args: Any, **kwargs: Any) -> list[Ref]:
        count = len(getattr(torch.zeros(BATCH, *x.shape), name)(*args, **kwargs))
        return [moved(builder, x, lambda v, k=k: getattr(v, name)(*args, **kwargs)[k]) for k in range(count)]  # type: ignore[misc]

    return rule


def _pixel_shuffle(builder: Builder, x: Ref, upscale_factor: int) -> Ref:
    return moved(builder, x, lambda v: F.pixel_shuffle(v, upscale_factor))


def _pixel_unshuffle(builder: Builder, x: Ref, downscale_factor: int) -> Ref:
    return moved(builder, x, lambda v: F.pixel_unshuffle(v, downscale_factor))


def _channel_shuffle(builder: Builder, x: Ref, groups: int) -> Ref:
    return moved(builder, x, lambda v: v.reshape(len(v), groups, -1, *v.shape[2:]).transpose(1, 2).reshape(v.shape))


def _cat(builder: Builder, tensors: Sequence[Any], dim: int = 0, axis: int | None = None) -> Ref:
    dim = dim if axis is None else axis
    axes = len(next(x for x in tensors if isinstance(x, Ref)).shape) + 1
    dim = dim + axes if dim < 0 else dim
    if dim == 0:
        raise InvalidNetworkError(f"{builder.path}: it concatenates along the batch axis.")
    if len(tensors) == 1:
        return tensors[0]  # type: ignore[no-any-return]
    parts = [x if isinstance(x, Ref) else _of_one_sample(builder, x) for x in tensors]
    lengths = [x.shape[dim - 1] for x in parts]
    placed, shift = [], torch.zeros((), dtype=torch.float64)
    for k, x in enumerate(parts):
        pad = layers.Pad((*(0 for _ in range(2 * (axes - 1 - dim))), sum(lengths[:k]), sum(lengths[k + 1 :])))
        if isinstance(x, Ref):
            placed.append(builder.emit(pad, x))
        else:
            shift = shift + pad.linear(x[None])[0]
    total = builder.emit(layers.Add(), *placed) if len(placed) > 1 else placed[0]
    if len(placed) == len(parts):
        return total
    return builder.emit(layers.Scale(torch.ones(1, dtype=torch.float64), shift), total)


def _of_one_sample(builder: Builder, value: Any) -> Tensor:
    constant = builder.constant(value, "constant")
    if constant is None or not bool((constant == constant[:1]).all()):
        raise builder.unsupported(
            "concatenation with a constant that is not the same for all samples", "Give one of one sample."
        )
    return constant[0]


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
    Kind(_cat, functions=(torch.cat, torch.concat)),
    Kind(_getitem, functions=(operator.getitem,)),
    *(
        Kind(_moves(name), functions=(*(getattr(torch, name) for _ in range(hasattr(torch, name))), name))
        for name in ("permute", "transpose", "flip", "roll", "narrow", "repeat_interleave", "swapaxes", "movedim")
    ),
    *(Kind(_parts(name), functions=(getattr(torch, name), name)) for name in ("chunk", "split", "unbind")),
    Kind(
        lambda builder, x, *args, **kwargs: reshaped(builder, x, lambda v: v.squeeze(*args, **kwargs)),
        functions=(torch.squeeze, "squeeze"),
    ),
    Kind(
        lambda builder, x, *args, **kwargs: reshaped(builder, x, lambda v: v.unsqueeze(*args, **kwargs)),
        functions=(torch.unsqueeze, "unsqueeze"),
    ),
    Kind(
        lambda builder, x, dim, sizes: reshaped(builder, x, lambda v: torch.unflatten(v, dim, sizes)),
        nn.Unflatten,
        lambda m: {"dim": m.dim, "sizes": m.unflattened_size},
        ("unflatten",),
    ),
    Kind(_flatten, nn.Flatten, lambda m: {"start_dim": m.start_dim, "end_dim": m.end_dim}, (torch.flatten, "flatten")),
    Kind(_reshape, functions=(torch.reshape, "reshape", "view")),
    Kind(_identity, nn.Identity, functions=("contiguous", "clone")),
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
