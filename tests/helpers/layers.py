"""Random layer values for hypothesis, with geometry that no torch module offers, such as padding below zero."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor

from lipguard.trusted.layers import Conv2d, Layer, Linear, Pad, Pick, Reshape, Scale

Shape = tuple[int, ...]


def normal(draw: DrawFn, *shape: int) -> Tensor:
    """Standard normal numbers, float64, from a drawn seed."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@st.composite
def convolutions(draw: DrawFn, smallest: int = 1) -> tuple[Conv2d, Shape]:
    """A convolution with its own geometry on every side, and an input shape, at least `smallest` wide, that it fits."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 3))
    kernel, stride, dilation = ((draw(st.integers(1, 3)), draw(st.integers(1, 3))) for _ in range(3))
    padding = (draw(sides), draw(sides), draw(sides), draw(sides))
    sizes = []
    for axis, before, after in ((0, *padding[2:]), (1, *padding[:2])):
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        cropped = max(-before, 0) + max(-after, 0)  # torch crops before it pads
        sizes.append(max(smallest, reach - before - after, cropped + 1) + draw(st.integers(0, 4)))
    weight = normal(draw, outputs, inputs // groups, *kernel)
    return Conv2d(weight, None, stride, padding, dilation, groups), (inputs, *sizes)


sides = st.integers(-1, 3)


@st.composite
def layers(draw: DrawFn) -> tuple[Layer, Shape]:
    """A layer of any other kind that has a matrix and one input, and a shape that it fits."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    kind = draw(st.sampled_from([Linear, Scale, Pad, Reshape, Pick]))
    if kind is Pick:
        size = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
        entries = st.integers(-1, math.prod(shape) - 1)
        index = draw(st.lists(entries, min_size=math.prod(size), max_size=math.prod(size)))
        return Pick(torch.tensor(index).reshape(size)), shape
    if kind is Linear:
        return Linear(normal(draw, draw(st.integers(1, 4)), shape[-1])), shape
    if kind is Scale:
        scale = tuple(draw(st.sampled_from([1, n])) for n in shape)
        return Scale(normal(draw, *scale[draw(st.integers(0, len(shape))) :])), shape
    if kind is Pad:
        padding: list[int] = []
        for n in shape[: -draw(st.integers(1, len(shape))) - 1 : -1]:  # from the last axis on
            before = draw(st.integers(-n, 2))
            padding += [before, draw(st.integers(1 - n - min(before, 0), 2)) if before > -n else 1]
        return Pad(tuple(padding)), shape
    return Reshape(tuple(draw(st.permutations(list(shape)))) if draw(st.booleans()) else (math.prod(shape),)), shape
