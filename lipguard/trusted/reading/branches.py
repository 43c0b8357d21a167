"""Branches on values: a network is read where each of them ends in the same function, or in an error that is raised.

`assert torch.isfinite(x).all()` is such a branch, and so is one that only warns. What a forward does on the other side
is found by going there: it is traced again with the other answer, and with every answer that is asked for behind it.
An error counts where the user's code raises it by itself, when it is traced as when it is run.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lipguard.errors import InvalidNetworkError, LipguardError
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.frames import is_of_a_user, line_in_forward

_MOST_WAYS = 64  # ways through a forward
_SIZES = (1, 2, 4)  # of batches in which a way is tried: others than the one that is traced
_SAME = 1e-9  # relative
_Raised: TypeAlias = tuple[type, str, int]  # an error, and where it was raised


@dataclass
class Answers:
    """What is answered where code asks whether a value is true.

    Attributes:
        forced: the first answers; behind them the example's own.
        given: all answers so far.
        places: where they were asked for, in the model.
        lines: and in the code.
    """

    forced: tuple[bool, ...] = ()
    given: list[bool] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def to(self, place: str, own: bool) -> bool:
        """The next answer, the example's own unless another is forced."""
        k = len(self.given)
        self.given.append(self.forced[k] if k < len(self.forced) else own)
        self.places.append(place)
        self.lines.append(line_in_forward())
        return self.given[k]

    def others(self) -> Iterator[tuple[bool, ...]]:
        """The ways that part from this one behind the forced answers."""
        for k in range(len(self.forced), len(self.given)):
            yield (*self.given[:k], not self.given[k])


class _Answering(TorchFunctionMode):
    """Gives answers to code that runs, wherever they were asked for when it was traced.

    Attributes:
        left: lines and answers that were not asked for yet.
    """

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self.left = list(zip(answers.lines, answers.given, strict=True))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__bool__ and self.left and self.left[0][0] == line_in_forward():
            return self.left.pop(0)[1]
        return func(*args, **(kwargs or {}))


def read_on_all_branches(read: Callable[[Answers], Network], run: Callable[[int], Tensor]) -> Network:
    """The one network that `read` finds, whatever the answers.

    Args:
        read, run: as for `agrees`.

    Raises:
        InvalidNetworkError: it finds several; or as `read`, for the example's own answers.
        UnsupportedLayerError: as `read`.
    """
    first = Answers()
    network = read(first)
    ways = list(first.others())
    for count, forced in enumerate(ways, 1):  # which grow meanwhile
        answers = Answers(forced)
        if count > _MOST_WAYS or not agrees(read, run, answers, network):
            raise control_flow(first.places[min(len(forced), len(first.places)) - 1])
        ways += answers.others()
    return network


def control_flow(place: str, said: str = "a value decides what is computed") -> InvalidNetworkError:
    """The error to raise for code that computes something else for other values."""
    return InvalidNetworkError(
        f"{place}: its control flow depends on data ({said}). A network with branches on values is not one composition "
        "of layers. Use torch.where for what depends on a value, and shapes where shapes are meant."
    )


class Named(Protocol):
    """What a digest tells from everything that does something else."""

    @property
    def digest(self) -> str:
        """In words."""


def agrees(read: Callable[[Answers], Named], run: Callable[[int], Tensor], answers: Answers, network: Named) -> bool:
    """Whether a way ends in the same network, or in an error that the code raises, in batches of any size.

    Args:
        read: traces the code.
        run: runs it on a batch of so many samples, the same ones every time.
        answers: the way.
        network: what the example's own answers make.
    """
    raised = None
    try:
        found = read(answers)
    except LipguardError as error:
        raised = _raised(error.__cause__)
        if raised is None:
            return False
    else:
        if found.digest != network.digest:
            return False
    return len(answers.given) >= len(answers.forced) and all(_runs(run, answers, raised, size) for size in _SIZES)


def _runs(run: Callable[[int], Tensor], answers: Answers, raised: _Raised | None, size: int) -> bool:
    """Whether code that runs does on this way what it did when it was traced."""
    expected = run(size)
    answering = _Answering(answers)
    try:
        with answering:
            found = run(size)
    except Exception as error:  # whatever the user's forward raises
        return raised is not None and not answering.left and _raised(error) == raised
    same = found.shape == expected.shape and torch.allclose(found, expected, rtol=_SAME, atol=0.0, equal_nan=True)
    return raised is None and not answering.left and same


def _raised(error: BaseException | None) -> _Raised | None:
    """What a user's code raised itself, and where: by `raise`, `assert`, or a division of numbers by zero."""
    trace = None if error is None else error.__traceback__
    if trace is None:
        return None
    while trace.tb_next is not None:
        trace = trace.tb_next
    if not is_of_a_user(trace.tb_frame):
        return None
    itself = isinstance(error, ZeroDivisionError) or _instruction(trace) == "RAISE_VARARGS"
    return (type(error), trace.tb_frame.f_code.co_filename, trace.tb_lineno) if itself else None


def _instruction(trace: types.TracebackType) -> str:
    return dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]]
