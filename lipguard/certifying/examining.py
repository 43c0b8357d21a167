"""Reading that goes on behind what cannot be read, to find everything that is in the way. No bound rests on it."""

from __future__ import annotations

import bisect
import operator
import re
import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from lipguard.errors import InvalidNetworkError, LipguardError, UnsupportedLayerError
from lipguard.trusted import layers
from lipguard.trusted.layers import Shape
from lipguard.trusted.network.graph import Node
from lipguard.trusted.reading.branches import Answers, agrees, control_flow
from lipguard.trusted.reading.builder import BATCH, Builder, Ref
from lipguard.trusted.reading.choice import OneFunction, Reading
from lipguard.trusted.reading.faithful import normal_batch
from lipguard.trusted.reading.folding import Folded, folded
from lipguard.trusted.reading.frames import line_in_forward, line_of
from lipguard.trusted.reading.lowering import lowered
from lipguard.trusted.reading.private import PrivateCopy, in_eval_mode
from lipguard.trusted.reading.trace import first_tensor, undisturbed, ways
from lipguard.trusted.reading.tracer import Tracer, traced_graph

_MOST_BRANCHES = 16  # that are gone into
PLACEHOLDER = "placeholder"  # the note of a node that stands for what cannot be read
_LAST = sys.maxsize
_ELSE = "Change this line, or give a part of the model that does without it."


@dataclass(frozen=True)
class Finding:
    """One thing that is in the way of a bound.

    Attributes:
        path: of the module, or "forward" with the function; "the model itself" for what concerns all of it.
        line: FILE:NUMBER of the code that called it; "" where torch calls one layer after the other by itself.
        reason: why it cannot be read.
        remedy: the smallest change that mends it.
    """

    path: str
    line: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.path} ({self.line})" if self.line else self.path
        return f"{where}: {self.reason} {self.remedy}"


@dataclass(eq=False)
class Examined:
    """What one way of reading a model shows.

    Attributes:
        findings: in order of execution.
        nodes: what was read, with placeholders.
        complete: whether the whole of forward was seen.
        asked: the places at which code asked whether a value is true.
    """

    findings: list[Finding] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    complete: bool = False
    asked: list[int] = field(default_factory=list)
    _places: list[int] = field(default_factory=list)

    def note(self, place: int, finding: Finding) -> None:
        """Enter a finding at its place, the number of operations before it."""
        k = bisect.bisect_right(self._places, place)
        self._places.insert(k, place)
        self.findings.insert(k, finding)


@dataclass(frozen=True)
class _Written:
    """What tells one way through a forward from another, whether it can be read or not."""

    digest: str


def examine(model: nn.Module, shape: Shape, reading: Reading) -> Examined:
    """All that is in the way of reading a model.

    Raises:
        ConfigError: the model has no such input or output.
        InvalidNetworkError: it needs other arguments, or holds no numbers.
    """
    first = first_tensor(model)
    best: Examined | None = None
    with undisturbed(first.device):
        private = in_eval_mode(model)
        for like, chosen in ways(first, reading):
            found = _examined(OneFunction(private, chosen), shape, like)
            if best is None or (found.complete, len(found.nodes)) > (best.complete, len(best.nodes)):
                best = found
            if found.complete:
                break
    assert best is not None
    return best


def finding_of(error: BaseException, line: str = "") -> Finding:
    """An error in its parts."""
    path, text = "the model itself", " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnsupportedLayerError):
        path = error.path
        text = text.removeprefix(f"{path}: ")
    else:
        before, colon, behind = text.partition(": ")
        if colon and re.fullmatch(r"the model itself|forward|[\w.]+( \((function|method|attribute) \w+\))?", before):
            path, text = before, behind
    reason, remedy = _parted(text)
    return Finding(path, line, reason, remedy)


def _parted(text: str) -> tuple[str, str]:
    """What is wrong, and what to do: messages end with that."""
    sentences = re.split(r"(?<=[.)])\s+(?=[A-Z])", text)
    if len(sentences) < 2:
        return text.rstrip(".") + ".", _ELSE
    return " ".join(sentences[:-1]), sentences[-1]


def _examined(function: OneFunction, shape: Shape, like: Tensor) -> Examined:
    dtype = torch.float64 if like.dtype == torch.float64 else None
    device = like.device if dtype is not None else None
    example = normal_batch(BATCH, shape).to(like.device, like.dtype)

    def read(answers: Answers, into: Examined) -> Any:
        copied = PrivateCopy(function, dtype, device).module
        assert isinstance(copied, OneFunction)
        tracer = _Examiner(example, answers, into)
        builder = _Tolerant(into)
        try:
            graph = traced_graph(copied, tracer)
        except LipguardError:
            _read_begun(tracer, builder, shape)
            raise
        try:
            lowered(graph, tracer, shape, builder)
        except InvalidNetworkError as error:  # there is no one output
            into.note(_LAST, finding_of(error))
        return _Written(_written(graph))

    found, answers = Examined(), Answers()
    try:
        whole = read(answers, found)
        found.complete = True
    except LipguardError as error:
        found.note(_LAST, finding_of(error, line_of(error.__cause__) or line_of(error)))
        return found

    def run(size: int) -> Any:
        given = PrivateCopy(function, dtype, device).module(normal_batch(size, shape).to(like.device, like.dtype))
        return given[0] if isinstance(given, tuple) else given

    for k, forced in enumerate(list(answers.others())[:_MOST_BRANCHES]):
        if not agrees(lambda own: read(own, Examined()), run, Answers(forced), whole):
            found.note(found.asked[k], finding_of(control_flow(answers.places[k]), answers.lines[k]))
    return found


def _written(graph: fx.Graph) -> str:
    """The operations that the output is made of, in words."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in needed or node.op == "output":
            needed.update([node, *node.all_input_nodes])
    number = {node: k for k, node in enumerate(own for own in graph.nodes if own in needed)}
    return repr([(node.op, str(node.target), fx.map_arg((node.args, node.kwargs), number.get)) for node in number])


def _read_begun(tracer: Tracer, builder: Builder, shape: Shape) -> None:
    """Read what was traced until code stopped."""
    values = [node for node in tracer.graph.nodes if isinstance(node.meta.get("value"), Tensor)]
    if not values:
        return
    tracer.graph.output(values[-1])
    try:
        lowered(tracer.graph, tracer, shape, builder)
    except LipguardError:  # what is there may be no network
        return


class _Examiner(Tracer):
    """Gives numbers to code that asks for them, and takes that down."""

    def __init__(self, example: Tensor, answers: Answers, into: Examined) -> None:
        super().__init__(example, answers=answers)
        self._into = into

    def to_bool(self, obj: fx.Proxy) -> bool:
        before = len(self.answers.given)
        answer = super().to_bool(obj)
        if len(self.answers.given) > before:
            self._into.asked.append(len(self.graph.nodes))
        return answer

    def number(self, node: fx.Node) -> Any:
        try:
            return super().number(node)
        except fx.proxy.TraceError as error:
            found = finding_of(control_flow(self.path or "forward", str(error)), line_in_forward())
            self._into.note(len(self.graph.nodes), found)
            return node.meta["value"]


class _Tolerant(Builder):
    """Puts a placeholder of the shape that was seen in the place of what cannot be read."""

    def __init__(self, into: Examined) -> None:
        super().__init__(into.nodes)
        self._into, self._opaque = into, set[fx.Node]()

    def refused(self, error: LipguardError, node: fx.Node | None = None) -> Any:
        if node is None:
            self._into.note(_LAST, finding_of(error))
            return None
        known = not any(
            _whole(own) in self._opaque and not _has_batches(own.meta["value"]) for own in node.all_input_nodes
        )
        if known:  # what is made of a value without a batch axis is no finding of its own
            self._into.note(list(node.graph.nodes).index(node), finding_of(error, node.meta["line"]))
        if not known or not _has_batches(node.meta["value"]):
            self._opaque.add(node)
        return self._placeholder(node.meta["value"])

    def _placeholder(self, value: Any) -> Ref | Folded | list[Any]:
        if isinstance(value, (tuple, list)):
            return [self._placeholder(part) for part in value]
        shape = tuple(value.shape[1:]) if isinstance(value, Tensor) else ()
        parts, rest = divmod(value.shape[0], BATCH) if isinstance(value, Tensor) and value.dim() else (1, 0)
        whole = (parts, *shape) if parts > 1 and not rest else shape
        self.note = PLACEHOLDER
        found = self.append(layers.Pick(torch.zeros(whole, dtype=torch.int64)), (0,), whole)
        return found if whole is shape else folded(self, found, shape)


def _whole(node: fx.Node) -> fx.Node:
    """What a node is a part of."""
    while node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        node = node.args[0]
    return node


def _has_batches(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_has_batches, value))
    return isinstance(value, Tensor) and value.shape[:1] == (BATCH,)
