"""Products of a value with a constant, on either side, or with another value: matmul, einsum and their kin."""

from __future__ import annotations

import math
import operator
import string
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipguard.trusted import layers
from lipguard.trusted.reading.arithmetic import add, multiply, total_of
from lipguard.trusted.reading.builder import Builder, Kind, Ref, Turned
from lipguard.trusted.reading.constants import expanded, one_sample, read, scaled
from lipguard.trusted.reading.matrices import of_two
from lipguard.trusted.reading.moving import moved, reshaped

_OF_VALUES = (
    "the product of two values that depend on the input",
    "Write it as products of two, the samples of one with those of the other.",
)


def contracted(builder: Builder, x: Ref, named: str, constant: Tensor, letters: str, kept: str) -> tuple[Ref, str]:
    """Entries of a value times those of a constant, summed over the axes that both have and nobody keeps.

    With K the axes that are summed over, D those that both have and keep, N those of the constant alone: a matrix
    (N, K) on the last axis; a factor where there are no K; one matrix for each of D, as a grouped convolution of taps
    of one, otherwise. Axes are permuted, and no weight is rounded.

    Args:
        builder: of the network.
        x: the value.
        named: a letter for each axis of a sample.
        constant: the other factor.
        letters: those of its axes.
        kept: letters that are wanted.

    Returns:
        (the product, its letters): all of `named` and `letters` but those summed over.
    """
    both = [c for c in named if c in letters]
    for c in both:  # one entry meets all
        n, m = x.shape[named.index(c)], constant.shape[letters.index(c)]
        if m == 1 != n:
            constant, letters = constant.squeeze(letters.index(c)), letters.replace(c, "")
        elif n == 1 != m:
            x = expanded(builder, x, tuple(m if own == c else size for own, size in zip(named, x.shape, strict=True)))
    size = dict(zip(named, x.shape, strict=True)) | dict(zip(letters, constant.shape, strict=True))
    summed = "".join(c for c in named if c in letters and c not in kept)
    joint = "".join(c for c in named if c in letters and c in kept)
    new, free = "".join(c for c in letters if c not in named), "".join(c for c in named if c not in letters)

    def count(axes: str) -> int:
        return math.prod(size[c] for c in axes)

    def sizes(axes: str) -> list[int]:
        return [size[c] for c in axes]

    if not summed:
        wide = reshaped(builder, x, lambda v: v.reshape(*v.shape, *(1 for _ in new)))
        factor = constant.permute(*(letters.index(c) for c in named + new if c in letters))
        factor = factor.reshape(*(size[c] if c in letters else 1 for c in named + new))
        return scaled(builder, wide, factor), named + new
    weight = constant.permute(*(letters.index(c) for c in joint + new + summed))
    order = (free + summed) if not joint else (joint + summed + free)
    turned = moved(builder, x, lambda v: v.permute(0, *(1 + named.index(c) for c in order)))
    if not joint:
        flat = reshaped(builder, turned, lambda v: v.reshape(len(v), *sizes(free), count(summed)))
        y = builder.emit(layers.Linear(weight.reshape(count(new), count(summed))), flat)
        return reshaped(builder, y, lambda v: v.reshape(len(v), *sizes(free + new))), free + new
    image = reshaped(builder, turned, lambda v: v.reshape(len(v), count(joint + summed), count(free), 1))
    taps = weight.reshape(count(joint + new), count(summed), 1, 1)
    y = builder.emit(layers.Conv2d(taps, groups=count(joint)), image)
    return reshaped(builder, y, lambda v: v.reshape(len(v), *sizes(joint + new + free))), joint + new + free


def einsum(builder: Builder, x: Ref, named: str, constants: Sequence[tuple[Tensor, str]], out: str) -> Ref:
    """A value contracted with constants, one after the other, to axes `out` of a sample."""
    for k, (constant, letters) in enumerate(constants):
        later = "".join(own for _, own in constants[k + 1 :])
        x, named = contracted(builder, x, named, constant, letters, out + later)
    over = [1 + named.index(c) for c in named if c not in out]
    if over:
        x, named = total_of(builder, x, over), "".join(c for c in named if c in out)
    return _arranged(builder, x, named, out)


def _einsum(builder: Builder, equation: str, *operands: Any) -> Ref:
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    if not isinstance(equation, str):
        raise builder.unsupported("einsum without an equation", "Write the axes as letters.")
    places = [k for k, operand in enumerate(operands) if isinstance(operand, Ref)]
    if len(places) != 1 and len(operands) != 2:
        raise builder.unsupported(*_OF_VALUES)
    terms, out = _letters(equation, [len(o.shape) + isinstance(o, Ref) for o in operands])
    x, named = operands[places[0]], terms[places[0]]
    batch = named[:1]
    if not out.startswith(batch) or any(len(set(term)) < len(term) for term in (*terms, out)):
        raise builder.unsupported(
            f"einsum({equation!r})", "The first axis of the value has to be the first of the result, every letter once."
        )
    if len(places) == 2:
        return _einsum_of_two(builder, operands, terms, out)
    constants = []
    for k, (operand, term) in enumerate(zip(operands, terms, strict=True)):
        if k == places[0]:
            continue
        constant = read(builder, operand)
        if batch in term:
            constant, term = one_sample(builder, constant.movedim(term.index(batch), 0)), term.replace(batch, "")
        constants.append((constant, term))
    return einsum(builder, x, named[1:], constants, out[1:])


def _einsum_of_two(builder: Builder, operands: Sequence[Ref], terms: Sequence[str], out: str) -> Ref:
    """Two values contracted: as a product of stacks of matrices, or entry by entry where nothing is summed over."""
    batch, own = out[:1], [term[1:] for term in terms]
    values, summed = list(operands), "".join(c for c in own[0] if c in own[1] and c not in out)
    for k in (0, 1):
        over = [1 + own[k].index(c) for c in own[k] if c not in own[1 - k] + out]
        if over:
            values[k], own[k] = total_of(builder, values[k], over), "".join(c for c in own[k] if c in own[1 - k] + out)
    sizes = [dict(zip(term, value.shape, strict=True)) for term, value in zip(own, values, strict=True)]
    if any(not term.startswith(batch) for term in terms) or any(sizes[1].get(c, n) != n for c, n in sizes[0].items()):
        raise builder.unsupported(*_OF_VALUES)
    size = sizes[0] | sizes[1]
    joint = "".join(c for c in own[0] if c in own[1] and c in out)
    rows, columns = ("".join(c for c in term if c not in joint + summed) for term in own)
    n, m, inner = (math.prod(size[c] for c in axes) for axes in (rows, columns, summed))
    stack = [size[c] for c in joint]
    one = _arranged(builder, values[0], own[0], joint + rows + summed, (*stack, n, inner))
    other = _arranged(builder, values[1], own[1], joint + summed + columns, (*stack, inner, m))
    found = of_two(builder, one, other) if summed else multiply(builder, one, other)
    made = joint + rows + columns
    apart = reshaped(builder, found, lambda v: v.reshape(len(v), *(size[c] for c in made)))
    return _arranged(builder, apart, made, out[1:])


def _arranged(builder: Builder, x: Ref, named: str, order: str, shape: Sequence[int] | None = None) -> Ref:
    """A value with its axes in another order, as a sample of another shape."""
    turned = moved(builder, x, lambda v: v.permute(0, *(1 + named.index(c) for c in order)))
    return turned if shape is None else reshaped(builder, turned, lambda v: v.reshape(len(v), *shape))


def _letters(equation: str, axes: Sequence[int]) -> tuple[list[str], str]:
    """The letters of every operand, and of the result, with some in place of dots and of what is left out."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    free = [c for c in string.ascii_letters if c not in equation]
    dots = [n - len(term.replace("...", "")) if "..." in term else 0 for n, term in zip(axes, terms, strict=True)]
    most = "".join(free[: max(dots, default=0)])
    filled = [term.replace("...", most[len(most) - n :]) for n, term in zip(dots, terms, strict=True)]
    if not arrow:
        once = sorted(c for c in set(left) - set(".,") if left.count(c) == 1)
        return filled, most + "".join(once)
    return filled, out.replace("...", most)


def _linear(builder: Builder, x: Ref, weight: Tensor, bias: Tensor | None = None) -> Any:
    if isinstance(weight, Tensor) and weight.dim() == 1:
        product = matmul(builder, x, weight)
        return product if bias is None else add(builder, product, bias)
    layer = layers.Linear(builder.constant(weight, "weight"), builder.constant(bias, "bias"))  # type: ignore[arg-type]
    return builder.append(layer, (x.index,), (*x.shape[:-1], len(weight)))


def matmul(builder: Builder, x: Any, y: Any) -> Any:
    """x @ y as torch has it: matrices on the last two axes, vectors, which are constants, on the last one."""
    if isinstance(x, Turned) or isinstance(y, Turned):
        return _matmul_turned(builder, x, y)
    if isinstance(x, Ref) and isinstance(y, Ref):
        return of_two(builder, x, y)
    if not (isinstance(x, Ref) or isinstance(y, Ref)):
        return torch.matmul(read(builder, x), read(builder, y))
    value, constant = (x, read(builder, y)) if isinstance(x, Ref) else (y, read(builder, x))
    axes, right = len(value.shape) + 1, isinstance(x, Ref)
    if constant.dim() == axes and axes > 2:
        constant = one_sample(builder, constant)
    if axes < 2 + (not right) or constant.dim() > max(2, axes - 1):
        raise builder.unsupported(
            f"a product of samples of shape {value.shape} and a constant of shape {tuple(constant.shape)}",
            "It mixes the batch axis with others.",
        )
    free = string.ascii_letters[: axes - 1]
    if right:
        named, columns = free, free[-1]
        term = columns + "z" if constant.dim() > 1 else columns
        result = free[:-1] + term[1:]
        outer = free[:-2]
    else:
        named, rows = free, free[-2]
        term = "z" + rows if constant.dim() > 1 else rows
        result = free[:-2] + term[:-1] + free[-1]
        outer = free[:-2]
    lead = constant.dim() - len(term)
    return einsum(builder, value, named, [(constant, outer[len(outer) - lead :] + term)], result)


def _matmul_turned(builder: Builder, x: Any, y: Any) -> Turned:
    """W @ x.T = (x @ W.T).T, for samples that are vectors."""
    plain = isinstance(x, Tensor) and x.dim() == 2 and isinstance(y, Turned) and y.axis == 1 == len(y.ref.shape)
    if not plain:
        raise builder.unsupported(f"a matrix product with {Turned.why[0]}", "Transpose the weight instead: x @ W.T.")
    return Turned(matmul(builder, y.ref, read(builder, x).T), 1)


def _inner(builder: Builder, x: Any, other: Any) -> Any:
    """The sum over the last axes of both: x @ other^T."""
    if not isinstance(x, Ref):
        x, other = other, x
    if isinstance(other, Ref):
        raise builder.unsupported(*_OF_VALUES)
    constant = read(builder, other)
    return matmul(builder, x, constant.T if constant.dim() == 2 else constant)


def _tensordot(builder: Builder, a: Any, b: Any, dims: Any = 2, out: None = None) -> Ref:
    """Over the last axes of one and the first of the other, or over those that are named."""
    if isinstance(a, Ref) == isinstance(b, Ref):
        raise builder.unsupported(*_OF_VALUES)
    ranks = [len(v.shape) + isinstance(v, Ref) for v in (a, b)]
    over = (
        (list(range(ranks[0] - dims, ranks[0])), list(range(dims)))
        if isinstance(dims, int)
        else tuple([d % rank for d in own] for own, rank in zip(dims, ranks, strict=True))
    )
    first, second = list(string.ascii_letters[: ranks[0]]), list(string.ascii_letters[ranks[0] : sum(ranks)])
    for i, j in zip(*over, strict=True):
        second[j] = first[i]
    kept = [c for i, c in enumerate(first) if i not in over[0]] + [c for j, c in enumerate(second) if j not in over[1]]
    return _einsum(builder, f"{''.join(first)},{''.join(second)}->{''.join(kept)}", a, b)


def _add_matmul(builder: Builder, input: Any, x: Any, y: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """beta input + alpha x @ y."""
    product = multiply(builder, matmul(builder, x, y), alpha)
    return product if beta == 0 else add(builder, product, input, alpha=beta)


KINDS: tuple[Kind, ...] = (
    Kind(_linear, nn.Linear, lambda m: {"weight": m.weight, "bias": m.bias}, (F.linear,)),
    Kind(
        matmul,
        functions=(
            operator.matmul,
            torch.matmul,
            torch.mm,
            torch.bmm,
            "matmul",
            "mm",
            "bmm",
        ),
        pending=(Turned,),
    ),
    Kind(_add_matmul, functions=(torch.addmm, torch.baddbmm, "addmm", "baddbmm")),
    Kind(_einsum, functions=(torch.einsum,)),
    Kind(_tensordot, functions=(torch.tensordot,)),
    Kind(_inner, functions=(torch.inner, "inner")),
)
