"""Calls of what compares values, and of what changes their type."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F

from helpers.module_examples import FLAT, IMAGE, LINE


def _halves(x: Any) -> Any:
    return x.chunk(2, 1)


def _max_min(x: Any) -> Any:
    a, b = _halves(x)
    return torch.cat([torch.maximum(a, b), torch.minimum(b, a)], 1)


COMPARISONS: dict[Any, list[tuple[tuple[int, ...], Any]]] = {
    torch.maximum: [
        (IMAGE, lambda m, x: torch.maximum(x, m.same(x))),
        (FLAT, lambda m, x: torch.maximum(x, m.mean) + 0.2 * torch.minimum(m.mean, x)),
        (FLAT, lambda m, x: torch.maximum(0.2 * x, x)),
        (IMAGE, lambda m, x: _max_min(x)),
    ],
    torch.fmax: [(FLAT, lambda m, x: torch.fmax(x, 0.2 * x))],
    "fmax": [(IMAGE, lambda m, x: x.fmax(m.same(x)))],
    torch.fmin: [(IMAGE, lambda m, x: torch.fmin(x, m.same(x)))],
    "fmin": [(FLAT, lambda m, x: x.fmin(torch.ones_like(x)))],
    "maximum": [(FLAT, lambda m, x: x.maximum(torch.zeros_like(x)))],
    torch.minimum: [
        (IMAGE, lambda m, x: torch.minimum(x, m.same(x)) - torch.maximum(m.same(x), x)),
        (FLAT, lambda m, x: torch.minimum(x, -2 * x + m.mean)),
    ],
    "minimum": [(FLAT, lambda m, x: x[:, :1].minimum(m.mean))],
    torch.max: [
        (LINE, lambda m, x: torch.max(x, 2)[0]),
        (FLAT, lambda m, x: torch.max(x, torch.zeros_like(x)) + 0.2 * torch.min(x, torch.zeros_like(x))),
    ],
    "max": [(LINE, lambda m, x: x.max(dim=-1, keepdim=True).values), (IMAGE, lambda m, x: x - x.max(1, True)[0])],
    torch.min: [(IMAGE, lambda m, x: torch.min(x, dim=1, keepdim=True)[0])],
    "min": [(LINE, lambda m, x: x.min(2)[0])],
    torch.amax: [(IMAGE, lambda m, x: torch.amax(x, (2, 3)))],
    "amax": [((1, 130), lambda m, x: x.amax(2, keepdim=True)), (IMAGE, lambda m, x: x.amax(1))],
    torch.amin: [(IMAGE, lambda m, x: torch.amin(x, dim=(1, 3), keepdim=True))],
    "amin": [(LINE, lambda m, x: x.amin(-1))],
    operator.gt: [(FLAT, lambda m, x: x * (x > 0)), (FLAT, lambda m, x: torch.where(x > 0, x, x / 5))],
    operator.ge: [(FLAT, lambda m, x: torch.where(x >= m.mean, x, 2 * x - m.mean))],
    torch.gt: [(FLAT, lambda m, x: torch.where(torch.gt(x, torch.relu(x) - m.mean), x, torch.relu(x) - m.mean))],
    torch.ge: [(FLAT, lambda m, x: torch.where(torch.ge(x, 1), torch.ones_like(x), x))],
    torch.greater: [(FLAT, lambda m, x: torch.where(torch.greater(x, 0), x, m.mean * x))],
    "gt": [(FLAT, lambda m, x: x * x.gt(0).type_as(x) + 0.1 * x * x.le(0))],
    "ge": [(FLAT, lambda m, x: (1 - x.ge(0).to(x.dtype)) * x)],
    operator.lt: [(FLAT, lambda m, x: torch.where(x < 1, x, 1 + 0.1 * (x - 1)))],
    operator.le: [(FLAT, lambda m, x: (x <= 0) * -x)],
    torch.lt: [(FLAT, lambda m, x: torch.where(torch.lt(-2 * x, 0), x, 3 * x))],
    torch.le: [(FLAT, lambda m, x: torch.where(torch.le(x, torch.relu(x)), x, torch.relu(x)))],
    torch.less: [(FLAT, lambda m, x: torch.where(torch.less(x, 0), 0.0, x))],
    "lt": [(FLAT, lambda m, x: x.masked_fill(x.lt(0), 0.0))],
    "le": [(FLAT, lambda m, x: torch.where(x.le(0.25), 0.25, x))],
    torch.where: [
        (FLAT, lambda m, x: torch.where(x > 0, x, 0.2 * x)),
        (FLAT, lambda m, x: torch.where(m.mean > 0, x, torch.relu(x))),
        (FLAT, lambda m, x: torch.where(m.mean > 0, m.mean, x)),
    ],
    torch.masked_fill: [(FLAT, lambda m, x: torch.masked_fill(x, m.mean > 0, 3.0))],
    "masked_fill": [(FLAT, lambda m, x: x.masked_fill(x > 1, 1.0))],
    "masked_fill_": [(FLAT, lambda m, x: torch.relu(x).masked_fill_(m.mean < 0, 0.0))],
    F.threshold: [(FLAT, lambda m, x: F.threshold(x, -0.5, -0.5))],
    torch.threshold: [(FLAT, lambda m, x: torch.threshold(x, 0, 0))],
    operator.invert: [(FLAT, lambda m, x: x * ~(x > 0) + 2 * x * (x > 0))],
    torch.logical_not: [(FLAT, lambda m, x: torch.where(torch.logical_not(x > 0), -x, x))],
    "logical_not": [(FLAT, lambda m, x: x * (x > 0).logical_not())],
    torch.sort: [(FLAT, lambda m, x: torch.sort(x)[0]), (IMAGE, lambda m, x: torch.sort(x, 2, True).values)],
    "sort": [
        (FLAT, lambda m, x: x.reshape(len(x), -1, 2).sort(2).values.reshape(x.shape)),
        (LINE, lambda m, x: x.sort(dim=1, descending=True)[0]),
    ],
    torch.topk: [(LINE, lambda m, x: torch.topk(x, 3)[0])],
    "topk": [(IMAGE, lambda m, x: x.topk(2, 2, largest=False).values)],
    torch.kthvalue: [(LINE, lambda m, x: torch.kthvalue(x, 2)[0])],
    "kthvalue": [(LINE, lambda m, x: x.kthvalue(1, 2, True).values)],
    torch.median: [(LINE, lambda m, x: torch.median(x, 2)[0])],
    "median": [(IMAGE, lambda m, x: x.median(dim=3, keepdim=True).values)],
}  # fmt: skip

CASTS: dict[Any, list[tuple[tuple[int, ...], Any]]] = {
    "to": [(FLAT, lambda m, x: torch.ones(6, dtype=torch.int64).to(x) * x.to(torch.float64).to(x.device, x.dtype))],
    "type_as": [(FLAT, lambda m, x: torch.relu(x).type_as(x)), (FLAT, lambda m, x: x + torch.ones(6).type_as(x))],
    "type": [(FLAT, lambda m, x: x.type(torch.float64)), (FLAT, lambda m, x: x.type("torch.DoubleTensor"))],
    "float": [(FLAT, lambda m, x: x * (x > 0).float())],
    "double": [(FLAT, lambda m, x: x.double())],
    "int": [(FLAT, lambda m, x: x * (x > 0).int())],
    "long": [(FLAT, lambda m, x: x * (x > 0).long())],
    "bool": [(FLAT, lambda m, x: torch.where((x > 0).bool(), x, -x))],
    "detach": [(FLAT, lambda m, x: x.detach())],
    torch.detach: [(FLAT, lambda m, x: torch.detach(x))],
    "cpu": [(FLAT, lambda m, x: x.cpu())],
}
