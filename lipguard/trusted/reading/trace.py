"""From a torch module to a `Network`, in order of execution."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lipguard.errors import InvalidNetworkError, LipguardError, UnsupportedLayerError
from lipguard.trusted.layers import Shape
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.branches import Answers, read_on_all_branches
from lipguard.trusted.reading.builder import BATCH, Builder
from lipguard.trusted.reading.choice import PLAIN, Key, OneFunction, Reading
from lipguard.trusted.reading.ending import logits_of
from lipguard.trusted.reading.faithful import check_against_model, normal_batch
from lipguard.trusted.reading.lowering import lowered
from lipguard.trusted.reading.private import PrivateCopy, in_eval_mode, random_states_kept
from lipguard.trusted.reading.proxies import nothing_printed
from lipguard.trusted.reading.tracer import Tracer, traced_graph
from lipguard.trusted.reading.wrappers import nothing_compiled
from lipguard.trusted.rounding import subnormal_numbers

_MOST_ENTRIES = 2**27  # of a sample; a certificate file may name any shape
_POINTER = "(`lipguard.check` lists everything that is in the way.)"


def trace(
    model: nn.Module, input_shape: Sequence[int], *, output: Key | None = None, input: Key | None = None,
    fixed: Mapping[Key, Any] | None = None,
) -> Network:  # fmt: skip
    """Read `model` as a function of one tensor of shape (batch, *input_shape), in eval mode.

    Of a classifier that ends with a softmax, or its logarithm, it is the network of the logits; its notes say so. With
    output="probabilities" it is the whole model.

    It is read in a private copy, in double precision where it runs there. The graph is the order of execution. Every
    operation is run once on a random batch, so that shapes are known while tracing, and the finished network is
    compared with the model on others.

    Args:
        model: a torch module, in whatever mode; it keeps it. Wrappers that change nothing are looked through.
        input_shape: of one sample.
        output, input, fixed: which function of the module is read; see `Reading`.

    Raises:
        UnsupportedLayerError: an operation that acts on the input has no row in the table.
        InvalidNetworkError: weights that are not finite, behaviour of training mode, control flow that depends on
            data, state that the model changes when it is called, an input shape that does not fit, an output that is
            not one tensor.
        ConfigError: the model has no such input or output.
    """
    return read(model, input_shape, Reading(output, input, {} if fixed is None else fixed))


def read(model: nn.Module, input_shape: Sequence[int], reading: Reading = PLAIN) -> Network:
    """`trace`, of a function that is given as a value.

    Raises:
        UnsupportedLayerError, InvalidNetworkError, ConfigError: as `trace`.
    """
    try:
        return read_plainly(model, input_shape, reading)
    except (UnsupportedLayerError, InvalidNetworkError) as error:
        error.args = (f"{error} {_POINTER}",) if isinstance(model, nn.Module) else error.args
        raise


def read_plainly(model: nn.Module, input_shape: Sequence[int], reading: Reading = PLAIN) -> Network:
    """`read`, with errors that name nothing else.

    Raises:
        UnsupportedLayerError, InvalidNetworkError, ConfigError: as `trace`.
    """
    shape = checked_shape(input_shape)
    checked_module(model)
    first = first_tensor(model)
    with undisturbed(first.device):
        model = in_eval_mode(model)  # all others are made of it: the model may be in training on another thread
        refusal: LipguardError | None = None
        for like, chosen in ways(first, reading):
            try:
                network = _read(OneFunction(model, chosen), shape, like)
                return network if reading.final == "probabilities" else logits_of(network)
            except InvalidNetworkError as error:
                refusal = error if chosen is reading or refusal is None else refusal
        assert refusal is not None
        hint = OneFunction(model, reading).hint
        refusal.args = (f"{refusal} {hint}",) if hint else refusal.args
        raise refusal


def ways(first: Tensor, reading: Reading) -> Iterator[tuple[Tensor, Reading]]:
    """In which precision and on which device a function is run, and how its fixed arguments are passed, in turn."""
    readings = (reading, reading.with_batch_axes()) if reading.fixed else (reading,)
    for own in readings:
        yield torch.zeros(0, dtype=torch.float64), own
    if first.dtype != torch.float64 or first.device.type != "cpu":
        for own in readings:
            yield first, own  # of a precision and on a device that its code insists on


def _read(function: OneFunction, shape: Shape, like: Tensor) -> Network:
    """The network of a function, run in the precision and on the device of a tensor."""
    dtype = torch.float64 if like.dtype == torch.float64 else None
    device = like.device if dtype is not None else None
    example = normal_batch(BATCH, shape).to(like.device, like.dtype)

    def copied() -> OneFunction:
        found = PrivateCopy(function, dtype, device).module
        assert isinstance(found, OneFunction)
        return found

    def found(answers: Answers) -> Network:
        tracer, private = Tracer(example, answers=answers), copied()
        builder = Builder(private=frozenset(map(id, private.parameters())))
        return lowered(traced_graph(private, tracer), tracer, shape, builder)

    def run(size: int) -> Tensor:
        output: Tensor = copied()(normal_batch(size, shape).to(like.device, like.dtype))
        return output

    network = read_on_all_branches(found, run)
    check_against_model(network, copied(), like)
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
        torch.autocast("cpu", enabled=False), torch.autocast(device.type, enabled=False), nothing_compiled(),
        nothing_printed(),
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
