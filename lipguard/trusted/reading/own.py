"""Layers of a user's own, of which one thing is said."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from numbers import Real

import torch
from torch import Tensor, nn

from lipguard.errors import ConfigError, InvalidNetworkError
from lipguard.trusted import layers
from lipguard.trusted.layers import Shape
from lipguard.trusted.reading.builder import Builder, Kind, Ref
from lipguard.trusted.reading.moving import moved, reshaped
from lipguard.trusted.reading.table import TABLE

# Of what samples show of a registered layer: the relative error that they may have, and roundings beside it. Entries of
# a matrix that is read are counted with all that the samples would not show.
_SAMPLED, _ULPS, _OWN_MATRIX_ULPS = 2.0**-36, 8 * 2.0**-53, 2**18
_SCALES = (2.0**-20, 1.0, 2.0**20, 2.0**40, 2.0**60)  # of samples of an affine layer: the largest see behind a shift
_EXPONENTS = (600, 300, 100, 60, 30, 0)  # of what unit vectors are multiplied by
_COLUMNS = 256  # of a matrix, read at once


def register(
    module: type[nn.Module], *, slope: tuple[float, float] | None = None, group: int | None = None, affine: bool = False
) -> None:
    """Make layers of your own known. Say exactly one thing about them:

    Args:
        module: the class; its subclasses count as long as they inherit `forward`.
        slope: element-wise, with every difference quotient in this closed interval.
        group: of channels (axis 1), so many neighbours at a time: f(u) - f(v) is nowhere longer than u - v, as for
            sorting (MaxMin has groups of 2) and Householder reflections. The shape stays as it is.
        affine: f(x) = A x + c, for each sample. A is read off by unit vectors: n forward passes, and n m numbers.

    What is said is taken on trust, and tried on samples whenever such a layer is met; a bound is wrong if it is wrong.

    Raises:
        ConfigError: not exactly one property is given, or it makes no sense, or the class is known already.
    """
    given = [slope is not None, group is not None, affine]
    if not (isinstance(module, type) and issubclass(module, nn.Module)):
        raise ConfigError(f"Expected a subclass of torch.nn.Module, but got {module!r}.")
    if sum(given) != 1:
        raise ConfigError("Expected exactly one of slope=(low, high), group=n and affine=True.")
    if module in TABLE.modules:
        raise ConfigError(f"{module.__name__} is known already.")
    if slope is not None:
        if not _is_interval(slope):
            raise ConfigError(f"Expected slope=(low, high) with finite numbers in order, but got {slope!r}.")
        low, high = slope
        rule = partial(_own_activation, slope=(float(low), float(high)))
    elif group is not None:
        if isinstance(group, bool) or not isinstance(group, int) or group < 1:
            raise ConfigError(f"Expected group to be a positive integer, but got {group!r}.")
        rule = partial(_own_group, size=group)
    else:
        rule = partial(_own_affine)
    TABLE.own[module] = Kind(rule, module, lambda m: {"module": m})


def _is_interval(slope: object) -> bool:
    if not isinstance(slope, Sequence) or len(slope) != 2:
        return False
    return all(isinstance(end, Real) and math.isfinite(end) for end in slope) and bool(slope[0] <= slope[1])


def _own_activation(builder: Builder, x: Ref, module: nn.Module, slope: tuple[float, float]) -> Ref:
    """An activation with these slopes, tried on pairs of samples, of which some entries stay as they are."""
    module, name = copy.deepcopy(module).double().eval(), type(module).__name__
    u, v = _samples(x.shape)
    with torch.no_grad():
        fu, fv = _called(builder, module, u), _called(builder, module, v)
        mixed = torch.rand(u.shape, generator=torch.Generator().manual_seed(1)) < 0.5
        changed = _called(builder, module, torch.where(mixed, u, v))
    if fu.shape != u.shape:
        raise _disproved(builder, name, "element-wise")
    a, b, lost = u - v, fu - fv, _ULPS * (fu.abs() + fv.abs())
    ends = torch.stack([slope[0] * a, slope[1] * a])
    # What rounding of the pair moves, and of the answers; a slope is tried by what is left.
    slack = _SAMPLED * ends.abs().amax(0) + max(map(abs, slope)) * _ULPS * (u.abs() + v.abs()) + lost
    within = (b >= ends.amin(0) - slack) & (b <= ends.amax(0) + slack)
    alone = (changed - torch.where(mixed, fu, fv)).abs() <= _SAMPLED * b.abs() + lost
    if not bool((within & alone).all()):
        raise _disproved(builder, name, f"element-wise with slopes in {slope}")
    note = f"{name} as registered: element-wise, slopes in [{slope[0]:g}, {slope[1]:g}]"
    return builder.emit(layers.Activation(name, *slope, module, note=note), x)


def _own_group(builder: Builder, x: Ref, module: nn.Module, size: int) -> Ref:
    """Groups of channels as the last axis, where the module acts as an activation of whole groups; and back."""
    module, name = copy.deepcopy(module).double().eval(), type(module).__name__
    if x.shape[0] % size:
        raise InvalidNetworkError(f"{builder.path}: {x.shape[0]} channels do not fall into groups of {size}.")

    def apart(v: Tensor) -> Tensor:  # the group as the last axis
        return v.reshape(len(v), -1, size, *v.shape[2:]).movedim(2, -1)

    u, v = _samples(x.shape)
    here = torch.rand(apart(u).shape[:-1], generator=torch.Generator().manual_seed(1)) < 0.5
    back = apart(torch.arange(math.prod(x.shape)).reshape(1, *x.shape)).flatten().argsort()
    kept = here[..., None].expand_as(apart(u)).flatten(1)[:, back].reshape(u.shape)
    with torch.no_grad():
        fu = _called(builder, module, u)
        for other in (v, torch.where(kept, u, v)):  # of which some groups stay as they are
            fv = _called(builder, module, other)
            if fv.shape != u.shape:
                raise _disproved(builder, name, f"no longer than its input in groups of {size}")
            question, answer = apart(u - other).norm(dim=-1), apart(fu - fv).norm(dim=-1)
            lost = _ULPS * sum(apart(value).norm(dim=-1) for value in (u, other, fu, fv))
            if not bool((answer <= question * (1 + _SAMPLED) + lost).all()):
                raise _disproved(builder, name, f"no longer than its input in groups of {size}")
    gathered = moved(builder, x, apart)
    whole = partial(_in_groups, module=module, shape=x.shape, size=size)
    note = f"{name} as registered: no longer than its input in groups of {size}"
    found = builder.emit(layers.Activation(name, -1.0, 1.0, whole, size, note=note), gathered)
    return moved(builder, found, lambda w: w.movedim(-1, 2).reshape(len(w), *x.shape))


def _in_groups(x: Tensor, module: nn.Module, shape: Shape, size: int) -> Tensor:
    answer: Tensor = module(x.movedim(-1, 2).reshape(len(x), *shape))
    return answer.reshape(len(x), -1, size, *shape[1:]).movedim(2, -1)


def _own_affine(builder: Builder, x: Ref, module: nn.Module) -> Ref:
    """f(x) = A x + c: A is read, tried, and counted with the error that the trial allows."""
    module, name = copy.deepcopy(module).double().eval(), type(module).__name__
    with torch.no_grad():
        shift = _called(builder, module, torch.zeros(1, *x.shape, dtype=torch.float64))[0]
        constant = builder.constant(shift.flatten(), "shift")
        matrix = _matrix(builder, module, x.shape, shift)
        if matrix.isfinite().all() and not _is_affine(builder, module, x.shape, matrix):
            raise _disproved(builder, name, "affine")
    weight = builder.constant(matrix, "matrix")
    assert weight is not None
    flat = reshaped(builder, x, lambda v: v.flatten(1))
    note = f"{name} as registered: affine, with the matrix that it computes"
    y = builder.emit(layers.Linear(weight, constant, _OWN_MATRIX_ULPS, note), flat)
    return reshaped(builder, y, lambda v: v.reshape(len(v), *shift.shape))


def _matrix(builder: Builder, module: nn.Module, shape: Shape, shift: Tensor) -> Tensor:
    """A of f(x) = A x + c as a module computes it, shape (m, n), without the digits that c takes.

    From unit vectors times a power of two, as large as may be, beside which the shift is nothing; or from derivatives,
    which know nothing of a shift, where they are what the unit vectors show.
    """
    n, large = math.prod(shape), math.inf
    units = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
    for exponent in _EXPONENTS:
        large = 2.0**exponent
        answers = torch.cat([module(large * part) for part in torch.split(units, _COLUMNS)]).double().flatten(1).T
        if bool(answers.isfinite().all()):
            break
    else:
        raise InvalidNetworkError(
            f"{builder.path}: {type(module).__name__} was registered as affine, and is not finite for unit vectors. "
            "Mend it, or register what holds."
        )
    constant = shift.flatten()[:, None]
    read = (answers - constant) / large  # column by column
    lost = _ULPS * (answers.abs() + constant.abs()) / large
    derived = _derivative(module, shape, shift.numel())
    if derived is not None and bool(((derived - read).abs() <= _SAMPLED * read.abs() + lost).all()):
        return derived
    largest = read.abs().amax(1, keepdim=True)
    if not bool(((lost <= _SAMPLED * largest) | (largest == 0)).all()):
        raise InvalidNetworkError(
            f"{builder.path}: the matrix of {type(module).__name__} cannot be read behind a shift of up to "
            f"{float(shift.abs().max()):.3g}. Add the shift in a layer of its own."
        )
    return read


def _derivative(module: nn.Module, shape: Shape, outputs: int) -> Tensor | None:
    """The derivative at zero by automatic differentiation, shape (outputs, n); None where there is none."""
    rows = []
    try:
        for part in torch.split(torch.eye(outputs, dtype=torch.float64), _COLUMNS):
            with torch.enable_grad():
                x = torch.zeros(len(part), *shape, dtype=torch.float64, requires_grad=True)
                y = module(x)
                rows.append(torch.autograd.grad(y, x, part.reshape(y.shape))[0].flatten(1))
    except Exception:  # a backward pass of the user's own may raise anything
        return None
    return torch.cat(rows)


def _is_affine(builder: Builder, module: nn.Module, shape: Shape, matrix: Tensor) -> bool:
    """Whether differences of samples are those of the matrix, near and far, but for the rounding of the answers."""
    sizes = matrix.abs()
    for scale in _SCALES:
        u, v = (scale * w for w in _samples(shape))
        fu, fv = _called(builder, module, u), _called(builder, module, v)
        a = (u - v).flatten(1)
        expected, size = a @ matrix.T, a.abs() @ sizes.T
        # An entry that cancels is as good as the largest; beside it, rounding of the pair and of the answers.
        allowed = _SAMPLED * size + 2**-46 * size.amax(1, keepdim=True)
        allowed += _ULPS * ((u.abs() + v.abs()).flatten(1) @ sizes.T + fu.abs().flatten(1) + fv.abs().flatten(1))
        if not bool(((fu - fv).flatten(1) - expected).abs().le(allowed).all()):
            return False
    return True


def _called(builder: Builder, module: nn.Module, x: Tensor) -> Tensor:
    """What a registered module makes of samples.

    Raises:
        InvalidNetworkError: something that is no tensor of as many samples, or not finite.
    """
    y = module(x)
    if not isinstance(y, Tensor) or y.shape[:1] != x.shape[:1] or not bool(torch.isfinite(y).all()):
        raise InvalidNetworkError(
            f"{builder.path}: {type(module).__name__}, which was registered, gives no finite tensor of as many samples "
            "as it is given. Return one."
        )
    return y.double()


def _disproved(builder: Builder, name: str, said: str) -> InvalidNetworkError:
    return InvalidNetworkError(
        f"{builder.path}: {name} was registered as {said}, and samples show that it is not. Register what holds."
    )


def _samples(shape: Shape) -> tuple[Tensor, Tensor]:
    """Pairs of points, near and far from each other, and from zero."""
    generator = torch.Generator().manual_seed(0)
    count = max(8, 20_000 // math.prod(shape))
    u, d = torch.randn(2, count, *shape, generator=generator, dtype=torch.float64)
    spread, size = torch.rand(2, count, *(1 for _ in shape), generator=generator, dtype=torch.float64)
    size = 3 * torch.where(size < 0.5, 1.0, 2.0 ** (-60 * (size - 0.5)))  # half of them at the usual scale
    return size * u, size * (u + 10 ** (4 * spread - 3) * d / 3)
