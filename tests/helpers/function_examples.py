"""Calls of every function and method that has a row in the table of supported operations, with an input's shape."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from helpers.comparison_examples import CASTS, COMPARISONS
from helpers.forward import Forward
from helpers.linear_examples import CONTRACTIONS, MOVING
from helpers.module_examples import FLAT, IMAGE, LINE, LONG, VOLUME

Call = Callable[[Any, Any], Any]


def _difference(first: Any, second: Any, third: Any) -> Any:
    return first - second + third


def _with_pairs_in_order(m: Any, x: Any) -> Any:
    found = torch.zeros_like(x)
    found[:, ::2], found[:, 1::2] = torch.maximum(x[:, ::2], x[:, 1::2]), torch.minimum(x[:, ::2], x[:, 1::2])
    return found


def _without_a_border(m: Any, x: Any) -> Any:
    y = m.same(x)
    y[:, :, 0] = 1.5
    y[:, 0, :, -1] = x.mean((1, 3))
    return y


def _in_place(function: Callable[..., Any]) -> Call:
    return lambda m, x: function(x.clone())


FUNCTIONS: dict[Any, list[tuple[tuple[int, ...], Call]]] = {
    F.conv2d: [
        (IMAGE, lambda m, x: F.conv2d(x, m.kernel, m.bias, (2, 1), (1, 2), (1, 2), 2)),
        (IMAGE, lambda m, x: F.conv2d(x, m.kernel, padding="same", groups=2)),
    ],
    torch.sin: [(FLAT, lambda m, x: torch.sin(30 * x))],
    "sin": [(FLAT, lambda m, x: x.sin())],
    torch.cos: [(FLAT, lambda m, x: torch.cat([torch.cos(x), torch.sin(x)], 1))],
    "cos": [(FLAT, lambda m, x: x.cos())],
    torch.asinh: [(FLAT, lambda m, x: torch.asinh(3 * x))],
    "asinh": [(FLAT, lambda m, x: x.asinh())],
    torch.erf: [(FLAT, lambda m, x: 0.5 * x * (1 + torch.erf(x / 2**0.5)))],
    "erf": [(FLAT, lambda m, x: x.erf())],
    torch.exp: [(FLAT, lambda m, x: torch.exp(torch.tanh(x))), (FLAT, lambda m, x: torch.exp(-3 * x**2))],
    "exp": [(FLAT, lambda m, x: (1 + x.exp()).log())],
    torch.expm1: [(FLAT, lambda m, x: torch.expm1(x.sigmoid()))],
    "expm1": [(FLAT, lambda m, x: x.tanh().expm1())],
    torch.log: [(FLAT, lambda m, x: torch.log(torch.sigmoid(x) + 0.5))],
    "log": [(FLAT, lambda m, x: (x.abs() + 1).log())],
    torch.log1p: [(FLAT, lambda m, x: torch.log1p(torch.exp(x)))],
    "log1p": [(FLAT, lambda m, x: x.relu().log1p())],
    torch.sqrt: [
        (FLAT, lambda m, x: torch.sqrt(1 + x**2)),
        (FLAT, lambda m, x: torch.sqrt(3 * x * x)),
        (IMAGE, lambda m, x: torch.sqrt((x**2).sum((1, 3), keepdim=True) + 0.1)),
        (IMAGE, lambda m, x: torch.sqrt((2 * x).square().mean(2) / 3)),
        (FLAT, lambda m, x: torch.sqrt(1 + x.sigmoid())),
    ],
    "sqrt": [(FLAT, lambda m, x: x.pow(2).sum(1, keepdim=True).sqrt())],
    torch.rsqrt: [
        (FLAT, lambda m, x: x * torch.rsqrt(2 + 3 * x**2)),
        (FLAT, lambda m, x: torch.rsqrt(1 + x.sigmoid())),
    ],
    "rsqrt": [(FLAT, lambda m, x: (1 + x.abs()).rsqrt())],
    torch.reciprocal: [
        (FLAT, lambda m, x: torch.reciprocal(1 + torch.exp(-x))),
        (FLAT, lambda m, x: torch.reciprocal(2 + 3 * x**2)),
    ],
    "reciprocal": [(FLAT, lambda m, x: (1 + x.abs()).reciprocal())],
    torch.square: [(FLAT, lambda m, x: torch.square(torch.tanh(x)))],
    "square": [(FLAT, lambda m, x: x.sigmoid().square())],
    torch.pow: [(FLAT, lambda m, x: torch.pow(torch.tanh(x), 3)), (FLAT, lambda m, x: torch.pow(1 + x.abs(), -1.5))],
    "pow": [(FLAT, lambda m, x: x.sigmoid().pow(2)), (FLAT, lambda m, x: (x.sigmoid() + 1).pow(torch.tensor(0.3)))],
    operator.pow: [(FLAT, lambda m, x: torch.tanh(x) ** 4), (FLAT, lambda m, x: (x**2 + 0.01) ** 0.5)],
    torch.logsumexp: [(IMAGE, lambda m, x: torch.logsumexp(x, (1, 2)))],
    "logsumexp": [(FLAT, lambda m, x: x.logsumexp(1, keepdim=True))],
    torch.norm: [(IMAGE, lambda m, x: torch.norm(x, dim=(2, 3))), (FLAT, lambda m, x: torch.norm(x, 1, 1, True))],
    "norm": [
        (IMAGE, lambda m, x: x.norm(dim=1)),
        (FLAT, lambda m, x: x.norm(p=3, dim=-1, keepdim=True)),
        (FLAT, lambda m, x: x.norm(float("inf"), 1, keepdim=True)),
        (FLAT, lambda m, x: x.norm(1.5, 1, keepdim=True)),
    ],
    torch.linalg.vector_norm: [(IMAGE, lambda m, x: torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True))],
    torch.linalg.norm: [(IMAGE, lambda m, x: torch.linalg.norm(x, dim=3))],
    F.normalize: [
        (FLAT, lambda m, x: F.normalize(x, dim=1, eps=0.5)),
        (IMAGE, lambda m, x: F.normalize(x)),
        (IMAGE, lambda m, x: F.normalize(torch.relu(x), 2.0, 2, 1.0)),
    ],
    F.softmax: [(IMAGE, lambda m, x: F.relu(F.softmax(x, dim=2)))],
    torch.softmax: [(FLAT, lambda m, x: torch.softmax(3 * x, -1)[:, 1:])],
    "softmax": [(FLAT, lambda m, x: x.softmax(1) - x)],
    F.log_softmax: [(FLAT, lambda m, x: F.log_softmax(x, 1).relu())],
    torch.log_softmax: [(IMAGE, lambda m, x: torch.log_softmax(x, 1)[:, :1])],
    "log_softmax": [(FLAT, lambda m, x: x.log_softmax(-1) / 2)],
    F.softmin: [(FLAT, lambda m, x: F.softmin(x, 1)[:, 2:])],
    F.layer_norm: [(IMAGE, lambda m, x: F.layer_norm(x, (5, 4), eps=0.01))],
    F.rms_norm: [(IMAGE, lambda m, x: F.rms_norm(x, (4,), m.kernel.flatten()[:4], 0.01))],
    F.group_norm: [(IMAGE, lambda m, x: F.group_norm(x, 2, m.kernel.flatten()[:2], eps=0.1))],
    F.instance_norm: [(IMAGE, lambda m, x: F.instance_norm(x, weight=m.kernel.flatten()[:2]))],
    F.glu: [(FLAT, lambda m, x: F.glu(torch.tanh(x), 1))],
    F.scaled_dot_product_attention: [
        (LONG, lambda m, x: F.scaled_dot_product_attention(x.tanh(), x.sin(), x.cos())),
        (LONG, lambda m, x: F.scaled_dot_product_attention(x.tanh(), x.sin(), x.cos(), is_causal=True)),
        (LONG, lambda m, x: F.scaled_dot_product_attention(x.tanh(), x.sin(), x.cos(), torch.eye(3).bool())),
        (IMAGE, lambda m, x: F.scaled_dot_product_attention(x.tanh(), x.sin()[:, :, :3], x.cos()[:, :, :3], scale=0.3)),
    ],
    F.conv1d: [(LONG, lambda m, x: F.conv1d(x, m.kernel[:3, :, 0], stride=2, padding=1, groups=3))],
    F.conv3d: [(VOLUME, lambda m, x: F.conv3d(x, m.kernel[:, :, None], padding=1, groups=2))],
    F.conv_transpose1d: [(LONG, lambda m, x: F.conv_transpose1d(x, m.kernel[:3, :, 0], stride=2))],
    F.conv_transpose2d: [(IMAGE, lambda m, x: F.conv_transpose2d(x, m.kernel[:2], None, 2, 1, 1))],
    F.pixel_shuffle: [((4, 2, 2), lambda m, x: F.pixel_shuffle(x, 2))],
    F.pixel_unshuffle: [((1, 4, 4), lambda m, x: F.pixel_unshuffle(x, 2))],
    F.channel_shuffle: [(IMAGE, lambda m, x: F.channel_shuffle(x, 2))],
    F.interpolate: [
        (IMAGE, lambda m, x: F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)),
        (IMAGE, lambda m, x: F.interpolate(x, (3, 2), mode="nearest-exact")),
        (IMAGE, lambda m, x: F.interpolate(x, (3, 2), mode="bilinear", antialias=True)),
        (IMAGE, lambda m, x: F.interpolate(x, (3, 2), mode="area")),
        (IMAGE, lambda m, x: F.interpolate(x, scale_factor=0.7, mode="bicubic", recompute_scale_factor=True)),
    ],
    torch.cat: [
        (IMAGE, lambda m, x: torch.cat([x, m.same(x), x], 1)),
        (IMAGE, lambda m, x: torch.cat((x, m.same(x)), dim=-1)),
        (FLAT, lambda m, x: torch.cat([x], 1)),
    ],
    torch.concatenate: [(FLAT, lambda m, x: torch.concatenate([x, m.mean.expand(len(x), 6)], 1))],
    torch.stack: [
        (FLAT, lambda m, x: torch.stack([x, torch.relu(x)], -1)),
        (IMAGE, lambda m, x: torch.stack([x, torch.ones_like(x), m.same(x)], 2)),
    ],
    operator.setitem: [(FLAT, _with_pairs_in_order), (IMAGE, _without_a_border)],
    torch.hstack: [(FLAT, lambda m, x: torch.hstack((x, torch.relu(x))))],
    torch.concat: [(IMAGE, lambda m, x: torch.concat([m.same(x), x], 2))],
    torch.var: [(LINE, lambda m, x: torch.sqrt(torch.var(x, 2) + 0.1))],
    "var": [
        (FLAT, lambda m, x: (x - x.mean(1, keepdim=True)) / (x.var(1, False, True) + 0.5) ** 0.5),
        (IMAGE, lambda m, x: (x.var((1, 3), correction=2) + 0.1).sqrt()),
    ],
    torch.std: [(LINE, lambda m, x: torch.std(x, 2))],
    "std": [(IMAGE, lambda m, x: x.std((1, 2), unbiased=False, keepdim=True))],
    torch.mean: [(IMAGE, lambda m, x: torch.mean(x, (1, 3)))],
    "mean": [
        (IMAGE, lambda m, x: x.mean((2, 3))),
        (FLAT, lambda m, x: x.mean(1, keepdim=True)),
        (FLAT, lambda m, x: x.mean(-1).unsqueeze(1)),
    ],
    torch.sum: [(IMAGE, lambda m, x: torch.sum(x, dim=2, keepdim=True))],
    "sum": [(IMAGE, lambda m, x: x.sum([-1, 1]))],
    operator.getitem: [
        (IMAGE, lambda m, x: x[:, 1:, ::2]),
        (IMAGE, lambda m, x: x[:, :, 1]),
        (IMAGE, lambda m, x: x[..., [2, 0, 2]]),
        (FLAT, lambda m, x: x[:, None]),
    ],
    torch.chunk: [(FLAT, lambda m, x: torch.chunk(x, 2, 1)[0] + torch.chunk(x, 2, 1)[1])],
    "chunk": [(FLAT, lambda m, x: _difference(*x.chunk(3, dim=1)))],
    torch.split: [(FLAT, lambda m, x: torch.split(x, 4, dim=1)[1])],
    "split": [(FLAT, lambda m, x: _difference(*x.split([2, 2, 2], 1)))],
    torch.unbind: [(IMAGE, lambda m, x: torch.unbind(x, 1)[1])],
    "unbind": [(IMAGE, lambda m, x: x.unbind(-1)[0])],
    torch.permute: [(IMAGE, lambda m, x: torch.permute(x, (0, 2, 3, 1)))],
    "permute": [(IMAGE, lambda m, x: x.permute(0, 3, 1, 2))],
    torch.transpose: [(IMAGE, lambda m, x: torch.transpose(x, 1, 2))],
    "transpose": [(IMAGE, lambda m, x: x.transpose(-1, -2).reshape(len(x), -1))],
    torch.flip: [(IMAGE, lambda m, x: torch.flip(x, (2,)))],
    "flip": [(IMAGE, lambda m, x: x.flip(1, 3))],
    torch.roll: [(IMAGE, lambda m, x: torch.roll(x, 1, 2))],
    "roll": [(IMAGE, lambda m, x: x.roll(2, 3))],
    torch.narrow: [(IMAGE, lambda m, x: torch.narrow(x, 2, 1, 3))],
    "narrow": [(IMAGE, lambda m, x: x.narrow(3, 0, 2))],
    torch.repeat_interleave: [(IMAGE, lambda m, x: torch.repeat_interleave(x, 2, 3))],
    "repeat_interleave": [(IMAGE, lambda m, x: x.repeat_interleave(3, dim=1))],
    torch.swapaxes: [(IMAGE, lambda m, x: torch.swapaxes(x, 2, 3))],
    "swapaxes": [(IMAGE, lambda m, x: x.swapaxes(1, 3))],
    torch.movedim: [(IMAGE, lambda m, x: torch.movedim(x, 1, 3))],
    "movedim": [(IMAGE, lambda m, x: x.movedim(-1, 1))],
    torch.squeeze: [((2, 1, 3), lambda m, x: torch.squeeze(x, 2))],
    "squeeze": [((2, 1, 3), lambda m, x: x.squeeze(2))],
    torch.unsqueeze: [(FLAT, lambda m, x: torch.unsqueeze(x, 1))],
    "unsqueeze": [(FLAT, lambda m, x: x.unsqueeze(-1))],
    "unflatten": [(FLAT, lambda m, x: x.unflatten(1, (3, 2)))],
    F.max_pool1d: [(LINE, lambda m, x: F.max_pool1d(x, 2))],
    F.max_pool2d: [(IMAGE, lambda m, x: F.max_pool2d(x, 3, stride=2, padding=1))],
    F.max_pool3d: [(VOLUME, lambda m, x: F.max_pool3d(x, 2))],
    torch.max_pool1d: [(LINE, lambda m, x: torch.max_pool1d(x, 2))],
    torch.max_pool2d: [(IMAGE, lambda m, x: torch.max_pool2d(x, 2))],
    torch.clamp: [(IMAGE, lambda m, x: torch.clamp(x, -0.3, 0.4))],
    torch.clip: [(IMAGE, lambda m, x: torch.clip(x, max=0.4))],
    "clamp": [(IMAGE, lambda m, x: x.clamp(min=0))],
    "clamp_": [(IMAGE, lambda m, x: (2 * x).clamp_(-1, 1))],
    "clip": [(IMAGE, lambda m, x: x.clip(0, 1))],
    F.adaptive_max_pool1d: [(LINE, lambda m, x: F.adaptive_max_pool1d(x, 4))],
    F.adaptive_max_pool3d: [(VOLUME, lambda m, x: F.adaptive_max_pool3d(x, (1, 2, 2)))],
    F.adaptive_avg_pool1d: [(LINE, lambda m, x: F.adaptive_avg_pool1d(x, 4))],
    F.adaptive_avg_pool3d: [(VOLUME, lambda m, x: F.adaptive_avg_pool3d(x, 1))],
    F.avg_pool1d: [(LINE, lambda m, x: F.avg_pool1d(x, 2))],
    F.avg_pool3d: [(VOLUME, lambda m, x: F.avg_pool3d(x, 2, padding=1, divisor_override=3))],
    F.conv_transpose3d: [(VOLUME, lambda m, x: F.conv_transpose3d(x, m.kernel[:2, :, :, :, None], stride=(1, 2, 1)))],
    F.adaptive_max_pool2d: [(IMAGE, lambda m, x: F.adaptive_max_pool2d(x, 1))],
    **MOVING,
    **CONTRACTIONS,
    **COMPARISONS,
    **CASTS,
    torch.lerp: [
        (IMAGE, lambda m, x: torch.lerp(x, m.same(x), 0.3)),
        (FLAT, lambda m, x: torch.lerp(x, m.mean, m.mean)),
    ],
    "lerp": [(FLAT, lambda m, x: torch.relu(x).lerp(x, -0.25))],
    "lerp_": [(FLAT, lambda m, x: torch.relu(x).lerp_(x, 2.0))],
    torch.cumsum: [(IMAGE, lambda m, x: torch.cumsum(x, -1)), (FLAT, lambda m, x: torch.cumsum(torch.relu(x), 1))],
    "cumsum": [(IMAGE, lambda m, x: x.cumsum(dim=1))],
    torch.diff: [(IMAGE, lambda m, x: torch.diff(x, dim=2)), (FLAT, lambda m, x: torch.diff(x, 2))],
    "diff": [(IMAGE, lambda m, x: x.diff())],
    torch.rsub: [(FLAT, lambda m, x: torch.rsub(x, m.mean, alpha=2))],
    "subtract": [(FLAT, lambda m, x: x.subtract(m.mean))],
    "multiply": [(FLAT, lambda m, x: x.multiply(m.mean))],
    torch.negative: [(FLAT, lambda m, x: torch.negative(x))],
    "neg_": [(FLAT, lambda m, x: x.clone().neg_())],
    torch.addcmul: [
        (FLAT, lambda m, x: torch.addcmul(m.mean, x, m.mean, value=0.5)),
        (FLAT, lambda m, x: torch.addcmul(x, m.mean, m.mean)),
    ],
    "addcmul": [(FLAT, lambda m, x: x.addcmul(m.mean, torch.relu(x)))],
    "addcmul_": [(FLAT, lambda m, x: torch.relu(x).addcmul_(x, m.mean, value=-2))],
    torch.addcdiv: [
        (FLAT, lambda m, x: torch.addcdiv(x, torch.relu(x), m.mean, value=2)),
        (FLAT, lambda m, x: torch.addcdiv(x, m.mean, m.mean + 5)),
    ],
    "addcdiv": [(FLAT, lambda m, x: x.addcdiv(torch.relu(x), m.mean))],
    "addcdiv_": [(FLAT, lambda m, x: torch.relu(x).addcdiv_(x, m.mean))],
    F.fold: [((8, 6), lambda m, x: F.fold(x, (3, 4), 2)), ((4, 9), lambda m, x: F.fold(x, 4, 2, 1, 1, 2))],
    operator.sub: [(IMAGE, lambda m, x: x - m.same(x)), (FLAT, lambda m, x: 1.5 - x), (FLAT, lambda m, x: x - 1)],
    operator.isub: [(IMAGE, lambda m, x: operator.isub(x.clone(), m.same(x)))],
    torch.sub: [(IMAGE, lambda m, x: torch.sub(m.same(x), x, alpha=0.5))],
    torch.subtract: [(IMAGE, lambda m, x: torch.subtract(m.same(x), x))],
    "sub": [(IMAGE, lambda m, x: x.sub(m.same(x)))],
    "sub_": [(IMAGE, lambda m, x: m.same(x).sub_(x))],
    operator.mul: [(FLAT, lambda m, x: 0.5 * x), (FLAT, lambda m, x: x * m.mean), (IMAGE, lambda m, x: x * 1)],
    operator.imul: [(FLAT, lambda m, x: operator.imul(x.clone(), 3))],
    torch.mul: [(FLAT, lambda m, x: torch.mul(x, m.mean))],
    torch.multiply: [(FLAT, lambda m, x: torch.multiply(x, 2.5))],
    "mul": [
        (FLAT, lambda m, x: x.mul(m.mean)),
        (FLAT, lambda m, x: torch.tanh(x).mul(torch.sigmoid(x.flip(1)))),
        (IMAGE, lambda m, x: torch.sin(x).mul(x.mean((2, 3), keepdim=True).sigmoid())),
        (FLAT, lambda m, x: x.mul(torch.tanh(F.softplus(x)))),
        (FLAT, lambda m, x: (x * F.relu6(x + 3)).mul(1 / 6) + x * torch.clamp(x + 3, 0, 6) + x * F.hardsigmoid(x)),
        (FLAT, lambda m, x: (2 * x - 1).mul(torch.sigmoid(x)) + x * torch.sigmoid(x - 2) + x * torch.sigmoid(0.3 * x)),
        (FLAT, lambda m, x: x.mul(torch.tanh(x)) - torch.tanh(2 * x) * x),
    ],
    "mul_": [(FLAT, lambda m, x: x.clone().mul_(-1.0))],
    operator.truediv: [
        (FLAT, lambda m, x: (x - 0.3) / 0.7),
        (FLAT, lambda m, x: x / (1 + x.abs())),
        (FLAT, lambda m, x: x / torch.sqrt(0.5 + 2 * x**2)),
        (FLAT, lambda m, x: torch.sin(x) / (2 + torch.cos(x))),
        (FLAT, lambda m, x: 3 / (1 + x.exp())),
    ],
    operator.itruediv: [(FLAT, lambda m, x: operator.itruediv(x.clone(), 3))],
    torch.div: [(FLAT, lambda m, x: torch.div(x, m.mean))],
    torch.true_divide: [(FLAT, lambda m, x: torch.true_divide(x, 4))],
    "div": [(FLAT, lambda m, x: x.div(m.mean))],
    "div_": [(FLAT, lambda m, x: x.clone().div_(0.1))],
    operator.neg: [(FLAT, lambda m, x: -x)],
    torch.neg: [(FLAT, lambda m, x: torch.neg(x))],
    "neg": [(FLAT, lambda m, x: x.neg())],
    F.prelu: [(FLAT, lambda m, x: F.prelu(x, m.mean)), (FLAT, lambda m, x: F.prelu(x, m.mean[:1]))],
    torch.abs: [(FLAT, lambda m, x: torch.abs(x))],
    operator.abs: [(FLAT, lambda m, x: abs(x))],
    "abs": [(FLAT, lambda m, x: x.abs())],
    F.gelu: [(FLAT, lambda m, x: F.gelu(x)), (FLAT, lambda m, x: F.gelu(x, approximate="tanh"))],
    F.silu: [(FLAT, lambda m, x: F.silu(x, inplace=True))],
    F.mish: [(FLAT, lambda m, x: F.mish(x))],
    F.hardswish: [(FLAT, lambda m, x: F.hardswish(x))],
    F.hardsigmoid: [(FLAT, lambda m, x: F.hardsigmoid(x))],
    F.hardtanh: [(FLAT, lambda m, x: F.hardtanh(x, -2.0, max_val=0.5))],
    F.relu6: [(FLAT, lambda m, x: F.relu6(x))],
    F.softplus: [(FLAT, lambda m, x: F.softplus(x, 2.0))],
    F.softsign: [(FLAT, lambda m, x: F.softsign(x))],
    F.logsigmoid: [(FLAT, lambda m, x: F.logsigmoid(x))],
    F.tanhshrink: [(FLAT, lambda m, x: F.tanhshrink(x))],
    F.softshrink: [(FLAT, lambda m, x: F.softshrink(x, 0.1))],
    F.selu: [(FLAT, lambda m, x: F.selu(x))],
    torch.selu: [(FLAT, lambda m, x: torch.selu(x))],
    F.celu: [(FLAT, lambda m, x: F.celu(x, 2.0))],
    F.dropout1d: [(LINE, lambda m, x: F.dropout1d(x, 0.3, m.training))],
    F.dropout3d: [(VOLUME, lambda m, x: F.dropout3d(x, 0.3, m.training))],
    F.alpha_dropout: [(FLAT, lambda m, x: F.alpha_dropout(x, 0.3, m.training))],
    F.linear: [(FLAT, lambda m, x: F.linear(x, m.matrix)), (FLAT, lambda m, x: F.linear(x, m.matrix, m.bias))],
    F.batch_norm: [
        (FLAT, lambda m, x: F.batch_norm(x, m.mean, m.mean.abs() + 0.1, m.mean, eps=0.01)),
        (FLAT, lambda m, x: F.batch_norm(x, m.mean, m.mean.abs(), None, m.mean, m.training, 0.1, 0.1)),
    ],
    F.avg_pool2d: [(IMAGE, lambda m, x: F.avg_pool2d(x, 3, 2, 1, False, False))],
    F.adaptive_avg_pool2d: [(IMAGE, lambda m, x: F.adaptive_avg_pool2d(x, (1, 2)))],
    F.pad: [
        (IMAGE, lambda m, x: F.pad(x, (1, 2))),
        (IMAGE, lambda m, x: F.pad(x, (0, 1, 2, 0, 1, 1), value=0.0)),
        (IMAGE, lambda m, x: F.pad(x, (1, 1, 2, 2), mode="reflect")),
        (FLAT, lambda m, x: F.pad(x, (1, 1), value=1.0)),
    ],
    torch.ravel: [(FLAT, lambda m, x: torch.ravel(x[:, 2]).unsqueeze(1))],
    "ravel": [(FLAT, lambda m, x: x[:, 2:3].ravel()[:, None])],
    torch.flatten: [(IMAGE, lambda m, x: torch.flatten(x, 1))],
    "flatten": [(IMAGE, lambda m, x: x.flatten(start_dim=1, end_dim=2))],
    torch.reshape: [(IMAGE, lambda m, x: torch.reshape(x, (x.shape[0], -1)))],
    "reshape": [(IMAGE, lambda m, x: x.reshape(-1, 4, 10)), (IMAGE, lambda m, x: x.reshape((len(x), 2, 20)))],
    "view": [(IMAGE, lambda m, x: x.view(x.size(0), -1)), (FLAT, lambda m, x: x.view(-1, 1, 2, 3))],
    torch.clone: [(IMAGE, lambda m, x: torch.clone(x))],
    "contiguous": [(IMAGE, lambda m, x: x.contiguous())],
    "clone": [(IMAGE, lambda m, x: x.clone())],
    F.dropout: [(IMAGE, lambda m, x: F.dropout(x, 0.3, m.training)), (IMAGE, lambda m, x: F.dropout(x, 0.0))],
    F.dropout2d: [(IMAGE, lambda m, x: F.dropout2d(x, training=m.training))],
    operator.add: [
        (IMAGE, lambda m, x: x + m.same(x)),
        (FLAT, lambda m, x: x + x),
        (FLAT, lambda m, x: 2.0 + x),
        (FLAT, lambda m, x: x + m.mean),
        (IMAGE, lambda m, x: x + 1),
    ],
    operator.iadd: [(IMAGE, lambda m, x: operator.iadd(x.clone(), m.same(x)))],
    torch.add: [(IMAGE, lambda m, x: torch.add(m.same(x), x)), (IMAGE, lambda m, x: torch.add(x, m.same(x), alpha=2))],
    "add": [(IMAGE, lambda m, x: x.add(m.same(x)))],
    "add_": [(IMAGE, lambda m, x: m.same(x).add_(x))],
    F.relu: [(IMAGE, lambda m, x: F.relu(x)), (IMAGE, lambda m, x: F.relu(x, inplace=True))],
    F.relu_: [(IMAGE, _in_place(F.relu_))],
    torch.relu: [(IMAGE, lambda m, x: torch.relu(x))],
    torch.relu_: [(IMAGE, _in_place(torch.relu_))],
    "relu": [(IMAGE, lambda m, x: x.relu())],
    "relu_": [(IMAGE, lambda m, x: x.relu_())],
    F.leaky_relu: [(IMAGE, lambda m, x: F.leaky_relu(x)), (IMAGE, lambda m, x: F.leaky_relu(x, negative_slope=-0.4))],
    torch.tanh: [(IMAGE, lambda m, x: torch.tanh(x))],
    F.tanh: [(IMAGE, lambda m, x: F.tanh(x))],
    "tanh": [(IMAGE, lambda m, x: x.tanh())],
    "tanh_": [(IMAGE, lambda m, x: x.tanh_())],
    torch.sigmoid: [(IMAGE, lambda m, x: torch.sigmoid(x))],
    F.sigmoid: [(IMAGE, lambda m, x: F.sigmoid(x))],
    "sigmoid": [(IMAGE, lambda m, x: x.sigmoid())],
    "sigmoid_": [(IMAGE, lambda m, x: x.sigmoid_())],
    F.elu: [(IMAGE, lambda m, x: F.elu(x, 1.7)), (IMAGE, lambda m, x: F.elu(x, alpha=-0.5, inplace=True))],
}


def functional(call: Call) -> nn.Module:
    """A module that makes the call, with the weights that calls name."""
    parameters = {"kernel": (4, 1, 3, 2), "matrix": (4, 6), "bias": (4,), "mean": (6,), "tokens": (2, 4, 3)}
    return Forward(
        call, same=nn.Conv2d(2, 2, 1), **{name: nn.Parameter(torch.zeros(shape)) for name, shape in parameters.items()}
    )
