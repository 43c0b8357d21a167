"""Calls of what moves entries, and of products with constants, that are read as layers of other names."""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F

from helpers.module_examples import FLAT, IMAGE, LONG


def _of_transposed(x: Any) -> Any:
    """What attention does: the batch is the second axis, and the first again."""
    q, k, v = x.reshape(len(x), 2, 3, 1).permute(2, 0, 1, 3)
    return q - 2 * k + torch.relu(v)


MOVING: dict[Any, list[tuple[tuple[int, ...], Any]]] = {
    getattr: [
        (IMAGE, lambda m, x: x.mT),
        (FLAT, lambda m, x: x.T.T),
        (IMAGE, lambda m, x: x.max(1).values.data),
    ],
    torch.swapdims: [(IMAGE, lambda m, x: torch.swapdims(x, 0, 1).swapdims(1, 0))],
    "swapdims": [(FLAT, lambda m, x: _of_transposed(x).swapdims(1, 2))],
    torch.moveaxis: [(IMAGE, lambda m, x: torch.moveaxis(x, 1, -1))],
    "moveaxis": [(IMAGE, lambda m, x: x.moveaxis(-1, 1))],
    "expand": [
        (FLAT, lambda m, x: x[:, :, None].expand(-1, 6, 2)),
        (FLAT, lambda m, x: x[:, None].expand(len(x), 3, 6)),
    ],
    "repeat": [(FLAT, lambda m, x: x.repeat(1, 3)), (IMAGE, lambda m, x: x.repeat(1, 2, 1, 1))],
    torch.tile: [(FLAT, lambda m, x: torch.tile(x, (1, 2)))],
    "tile": [(IMAGE, lambda m, x: x.tile(2))],
    torch.broadcast_to: [(FLAT, lambda m, x: torch.broadcast_to(x[:, None], (len(x), 2, 6)))],
    "broadcast_to": [(FLAT, lambda m, x: x[:, :, None].broadcast_to((len(x), 6, 2)))],
    torch.index_select: [(IMAGE, lambda m, x: torch.index_select(x, 2, torch.tensor([4, 0, 0])))],
    "index_select": [(FLAT, lambda m, x: x.index_select(1, torch.tensor([5, 1])))],
    torch.gather: [(FLAT, lambda m, x: torch.gather(x, 1, torch.tensor([[3, 3, 0]]).expand(len(x), -1)))],
    "gather": [(FLAT, lambda m, x: x.gather(1, torch.tensor([[2, 1]]).repeat(len(x), 1)))],
    torch.take_along_dim: [(FLAT, lambda m, x: torch.take_along_dim(x, torch.tensor([[0, 4]]), 1))],
    "take_along_dim": [(FLAT, lambda m, x: x.take_along_dim(torch.tensor([[1, 1, 2]]), dim=1))],
    torch.rot90: [(IMAGE, lambda m, x: torch.rot90(x, 1, (2, 3)))],
    "rot90": [(IMAGE, lambda m, x: x.rot90(3, [1, 2]))],
    torch.select: [(IMAGE, lambda m, x: torch.select(x, 1, -1))],
    "select": [(IMAGE, lambda m, x: x.select(3, 2))],
    "unfold": [(IMAGE, lambda m, x: x.unfold(2, 3, 2))],
    F.unfold: [(IMAGE, lambda m, x: F.unfold(x, 2, padding=(0, 1)))],
    "expand_as": [
        (IMAGE, lambda m, x: x.mean((2, 3), keepdim=True).expand_as(x)),
        (FLAT, lambda m, x: torch.relu(x) + torch.ones(1, 6).expand_as(x)),
        (FLAT, lambda m, x: x[:, None].expand_as(m.matrix[:3].repeat(len(x), 1, 1))),
    ],
    "view_as": [(FLAT, lambda m, x: torch.relu(x).view(-1, 2, 3).view_as(x))],
    "reshape_as": [(FLAT, lambda m, x: torch.relu(x).reshape_as(x[:, :, None]))],
    torch.tensor_split: [(FLAT, lambda m, x: torch.tensor_split(x, 4, 1)[0])],
    "tensor_split": [(IMAGE, lambda m, x: x.transpose(0, 1).tensor_split(2)[1].transpose(0, 1))],
}

CONTRACTIONS: dict[Any, list[tuple[tuple[int, ...], Any]]] = {
    operator.matmul: [
        (LONG, lambda m, x: x @ m.matrix),
        (LONG, lambda m, x: m.matrix[:, :3] @ x),
        (LONG, lambda m, x: x @ m.bias),
        (LONG, lambda m, x: torch.tanh(x) @ torch.sin(x).transpose(1, 2)),
    ],
    torch.matmul: [
        ((2, 5, 4), lambda m, x: torch.matmul(x, m.tokens)),
        ((2, 5, 4), lambda m, x: torch.matmul(m.kernel[:2, :, :, 0], x[:, :, :3])),
        ((1, 3, 4), lambda m, x: torch.matmul(x, m.tokens)),
        ((2, 3, 4), lambda m, x: torch.matmul(torch.relu(x), m.tokens[None, :1])),
        (IMAGE, lambda m, x: torch.matmul(torch.tanh(x), x.sigmoid().transpose(-1, -2))),
    ],
    torch.mm: [((4,), lambda m, x: torch.mm(x, m.matrix))],
    torch.bmm: [
        (LONG, lambda m, x: torch.bmm(x, m.matrix.expand(len(x), 4, 6))),
        (LONG, lambda m, x: torch.bmm(x.tanh(), x.tanh().transpose(1, 2))),
    ],
    "matmul": [
        (LONG, lambda m, x: x.matmul(m.matrix)),
        (LONG, lambda m, x: x.cos().matmul(x.sin().transpose(1, 2))),
    ],
    "mm": [((4,), lambda m, x: x.mm(m.matrix))],
    "bmm": [
        (LONG, lambda m, x: m.matrix[None, :, :3].repeat(len(x), 1, 1).bmm(x)),
        (LONG, lambda m, x: x.tanh().bmm(x.tanh().transpose(1, 2))),
    ],
    torch.addmm: [
        ((4,), lambda m, x: torch.addmm(m.mean, x, m.matrix, beta=0.5, alpha=2)),
        (FLAT, lambda m, x: torch.addmm(x, m.bias.expand(len(x), 4), m.matrix)),
    ],
    torch.baddbmm: [(LONG, lambda m, x: torch.baddbmm(m.mean, x, m.matrix.expand(len(x), 4, 6), beta=0))],
    "addmm": [((4,), lambda m, x: (x @ m.matrix).addmm(torch.relu(x), m.matrix))],
    "baddbmm": [
        (LONG, lambda m, x: x.baddbmm(x, m.matrix[:, :4].expand(len(x), 4, 4))),
        ((3, 3), lambda m, x: x.baddbmm(x.tanh(), x.sin())),
    ],
    torch.einsum: [
        ((4,), lambda m, x: torch.einsum("bi,io->bo", x, m.matrix)),
        (LONG, lambda m, x: torch.einsum("oi,...i->...o", m.matrix.T, x)),
        (LONG, lambda m, x: torch.einsum("bti,ts->bsi", x, m.matrix[:3])),
        ((2, 5, 4), lambda m, x: torch.einsum("bhtd,hde->bhte", x, m.tokens)),
        ((5, 2, 4), lambda m, x: torch.einsum("bthd,hde->be", x, m.tokens)),
        (FLAT, lambda m, x: torch.einsum("bi,oi,oj->bj", x, m.matrix, m.matrix)),
        (FLAT, lambda m, x: torch.einsum("bi,j", x, m.bias)),
        (FLAT, lambda m, x: torch.einsum("bi,i->bi", [x, m.mean])),
        ((2, 5, 4), lambda m, x: torch.einsum("bhid,bhjd->bhij", x.tanh(), x.sin())),
        ((2, 3, 4), lambda m, x: torch.einsum("bhij,bjhd->bihd", x.tanh(), x.sin().permute(0, 3, 1, 2))),
        (LONG, lambda m, x: torch.einsum("bti,btj->bji", x.tanh(), x.sin())),
        (LONG, lambda m, x: torch.einsum("bti,bi->bt", x.tanh(), x.sin().sum(1))),
        (LONG, lambda m, x: torch.einsum("bti,bs->bsi", x.tanh(), x.sin()[:, :, 0])),
        (FLAT, lambda m, x: torch.einsum("bi,bi->bi", x.tanh(), x.cos())),
    ],
    torch.tensordot: [
        (LONG, lambda m, x: torch.tensordot(x, m.matrix, 1)),
        (LONG, lambda m, x: torch.tensordot(x, m.tokens, dims=([2, 1], [1, 2]))),
    ],
    torch.inner: [(FLAT, lambda m, x: torch.inner(x, m.matrix)), (LONG, lambda m, x: torch.inner(x, m.bias))],
    "inner": [(FLAT, lambda m, x: x.inner(m.matrix))],
}
