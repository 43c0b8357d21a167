"""From a torch module to a `Network`, in order of execution."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lipguard.errors import InvalidNetworkError
from lipguard.trusted.layers import Shape
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.builder import BATCH
from lipguard.trusted.reading.ending import logits_of
from lipguard.trusted.reading.faithful import check_against_model, normal_batch
from lipguard.trusted.reading.lowering import lowered
from lipguard.trusted.reading.private import PrivateCopy, random_states_kept
from lipguard.trusted.reading.tracer import Tracer, traced_graph
from lipguard.trusted.rounding import subnormal_numbers

_MOST_ENTRIES = 2**27  # of a sample; a certificate file may name any shape


def trace(model: nn.Module, input_shape: Sequence[int], *, probabilities: bool = False) -> Network:
    """Read `model` as a function of one tensor of shape (batch, *input_shape), in the mode that it is in.

    Of a classifier that ends with a softmax, or its logarithm, it is the network of the logits; its notes say so. With
    `probabilities` it is the whole model.

    It is read in a private copy, in double precision where it runs there. The graph is the order of execution. Every
    operation is run once on a random batch, so that shapes are known while tracing, and the finished network is
    compared with the model on others.

    Raises:
        UnsupportedLayerError: an operation that acts on the input has no row in the table.
        InvalidNetworkError: weights that are not finite, behaviour of training mode, control flow that depends on
            data, state that the model changes when it is called, an input shape that does not fit, an output that is
            not one tensor.
    """
    shape = checked_shape(input_shape)
    checked_module(model)
    first = first_tensor(model)
    double = first.dtype == torch.float64 and first.device.type == "cpu"
    with undisturbed(first.device):
        model = PrivateCopy(model).module  # all others are made of it: the model may be in training on another thread
        try:
            network = _read(model, shape, torch.zeros(0, dtype=torch.float64))
        except InvalidNetworkError:
            if double:
                raise
            network = _read(model, shape, first)  # of a precision and on a device that its code insists on
    return network if probabilities else logits_of(network)


def _read(model: nn.Module, shape: Shape, like: Tensor) -> Network:
    """The network of the model, run in the precision and on the device of a tensor."""
    dtype = torch.float64 if like.dtype == torch.float64 else None
    device = like.device if dtype is not None else None
    tracer = Tracer(normal_batch(BATCH, shape).to(like.device, like.dtype))
    network = lowered(traced_graph(PrivateCopy(model, dtype, device).module, tracer), tracer, shape)
    check_against_model(network, PrivateCopy(model, dtype, device).module, like)
    return network


def first_tensor(model: nn.Module) -> Tensor:
    """The first tensor of floats that the model holds; every one of them holds numbers.

    Raises:
        InvalidNetworkError: one does not.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, tensor in tensors.items():
        if is_lazy(tensor) or tensor.is_meta:
            raise InvalidNetworkError(
                f"{name}: it holds no numbers yet. Run a batch through the model, or load its weights."
            )
    return next((t for t in tensors.values() if t.is_floating_point()), torch.zeros(0, dtype=torch.float64))


_ONE_AT_A_TIME = threading.RLock()  # torch.fx patches torch.nn.Module while it traces


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Run a module's code with nothing recorded, and give all random states back."""
    with (
        _ONE_AT_A_TIME, random_states_kept(device), subnormal_numbers(), torch.inference_mode(False), torch.no_grad(),
        torch.autocast("cpu", enabled=False), torch.autocast(device.type, enabled=False),
    ):  # fmt: skip
        yield


def checked_module(model: object) -> None:
    """Refuse what is no module.

    Raises:
        InvalidNetworkError: it is something else.
    """
    if not isinstance(model, nn.Module):
        raise InvalidNetworkError(f"Expected a torch.nn.Module, but got {type(model).__name__}.")


def checked_shape(input_shape: Sequence[int]) -> Shape:
    """The shape of one sample, as a tuple.

    Raises:
        InvalidNetworkError: it holds something else than positive integers, or names too many entries.
    """
    try:
        shape = tuple(input_shape)
    except TypeError as error:
        raise InvalidNetworkError(
            f"Expected input_shape as a tuple such as (1, 28, 28), but got {input_shape!r}."
        ) from error
    if not shape or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape):
        raise InvalidNetworkError(
            "Expected input_shape to hold positive integers, the shape of one sample without the batch axis, "
            f"but got {shape}."
        )
    if math.prod(shape) > _MOST_ENTRIES:
        raise InvalidNetworkError(
            f"Expected input_shape to have at most {_MOST_ENTRIES} entries, but {shape} has {math.prod(shape)}."
        )
    return shape
