"""Cholesky factorisation of a sparse matrix of which only its success matters: nothing is stored.

The multifrontal method (Duff and Reid, ACM TOMS 9, 1983): dense matrices along a tree, with the speed of dense
factorisations on all cores. The order of elimination and of summation is free, as Rump's theorem allows it
(`lipguard.trusted.proofs.cholesky`); nothing here relies on where the order comes from.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipguard.trusted.layers import Matrix
from lipguard.trusted.proofs.order import Elimination, Front
from lipguard.trusted.rounding import rounds_as_ieee

Array = NDArray[np.float64]
_LOG = logging.getLogger(__name__)
_CHUNK = 384  # columns that are added at a time: above the diagonal nothing needs to be
_NOTICED = 1e10  # operations from which on it is asked beforehand whether there is time for them
_SHARE_OF_DEVICE = 0.8  # of the memory that an accelerator has free


def factors(
    lower: Matrix, diagonal: Array, elimination: Elimination, deadline: float = math.inf,
    device: torch.device | str = "cpu",
) -> bool:  # fmt: skip
    """Whether the Cholesky factorisation of a symmetric matrix runs to completion.

    Args:
        lower: what is below the diagonal, sparse, shape (n, n).
        diagonal: shape (n,).
        elimination: an order of its variables with its fronts. One that does not fit the matrix raises an error.
        deadline: of `time.monotonic()`, at which it gives up.
        device: where the fronts are factored, if they fit and it rounds as IEEE 754 asks; else on the CPU.

    Raises:
        ValueError: the elimination does not cover the matrix.
        MemoryError: there is not enough.
    """
    _check(elimination, len(diagonal))
    columns, diagonal = _permuted(lower, elimination.order), diagonal[elimination.order]
    device = torch.device(device)
    if device.type != "cpu" and serves(elimination, device):
        try:
            return _factors(columns, diagonal, elimination, deadline, device)
        except RuntimeError as error:  # out of memory after all, or a driver that fails: no reason to give up
            _LOG.warning("The factorisation failed on %s (%s); it is done on the CPU.", device, error)
    return _factors(columns, diagonal, elimination, deadline, torch.device("cpu"))


def serves(elimination: Elimination, device: torch.device) -> bool:
    """Whether an accelerator can factor the fronts: in true double precision, in the memory that it has free."""
    if device.type != "cuda" or not rounds_as_ieee(device):
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return elimination.bytes <= _SHARE_OF_DEVICE * free


def _factors(columns: Matrix, diagonal: Array, elimination: Elimination, deadline: float, device: torch.device) -> bool:
    stacks = tuple(_Stack(entries, device) for entries in elimination.stacks)
    room = _room(max((front.pivots + front.rest) * front.pivots for front in elimination.fronts), device)
    local = np.zeros(len(diagonal), dtype=np.int64)
    clock = _Clock(elimination, deadline, device)
    for k, front in enumerate(elimination.fronts):
        if clock.is_late(front):
            return False
        p, r = front.pivots, front.rest
        own = room[: (p + r) * p].reshape(p + r, p).zero_()
        index = np.concatenate([np.arange(a, b) for a, b in ((front.start, front.stop), *front.later)])
        local[index] = np.arange(p + r)
        own.diagonal().copy_(torch.from_numpy(diagonal[front.start : front.stop]))
        _enter(columns, front, index, local, own)
        children = [(elimination.fronts[j], stacks[1 - front.side].pop(j)) for j in reversed(front.children)]
        placed = [(_pieces(child, front), changes) for child, changes in children]
        for pieces, changes in placed:
            _extend(own, [piece for piece in pieces if piece.to < p], pieces, changes, 0)
        pivots, failed = torch.linalg.cholesky_ex(own[:p])
        # A pivot that is not a number passes some implementations' test of its sign.
        if bool(failed) or not bool(pivots.diagonal().isfinite().all()):
            return False
        if not r:
            continue
        below = torch.linalg.solve_triangular(pivots, own[p:].T, upper=False)
        rest = stacks[front.side].push(k, r)
        for i in range(0, r, _CHUNK):
            torch.mm(below[:, i:].T, below[:, i : i + _CHUNK], out=rest[i:, i : i + _CHUNK]).neg_()
        for pieces, changes in placed:
            later = [piece for piece in pieces if piece.to >= p]
            _extend(rest, later, later, changes, p)
    if any(stack.waiting for stack in stacks):
        raise ValueError("A front has no parent that takes up what it leaves.")
    return True


class _Clock:
    """Whether a factorisation may be done by a deadline: if not at the speed of a product of matrices, it is not."""

    def __init__(self, elimination: Elimination, deadline: float, device: torch.device) -> None:
        self.deadline = deadline
        self.left = sum(map(_operations, elimination.fronts))
        self.seconds = 0.0  # of an operation; nothing where that does not matter
        if deadline < math.inf and self.left > _NOTICED and device.type == "cpu":
            probe = torch.ones(_CHUNK, _CHUNK, dtype=torch.float64)
            began = time.monotonic()
            torch.mm(probe, probe)
            self.seconds = (time.monotonic() - began) / (2.0 * _CHUNK**3)

    def is_late(self, front: Front) -> bool:
        """Whether the deadline will be over, told before each front."""
        needed, self.left = self.left, self.left - _operations(front)
        return time.monotonic() + needed * self.seconds > self.deadline


def _operations(front: Front) -> float:
    p, r = float(front.pivots), float(front.rest)
    return p**3 / 3 + p * p * r + p * r * r


def _check(elimination: Elimination, n: int) -> None:
    """That every variable is eliminated once; how the fronts hang together is seen while they are worked on."""
    if not np.array_equal(np.bincount(elimination.order, minlength=n), np.ones(n)):
        raise ValueError(f"The order of elimination is not one of {n} variables.")
    done = 0
    for front in elimination.fronts:
        edges = [*itertools.chain(*((front.start, front.stop), *front.later)), n]
        if front.start != done or any(one > other for one, other in itertools.pairwise(edges)):
            raise ValueError("The fronts do not eliminate every variable once, or are not in ascending order.")
        done = front.stop
    if done != n:
        raise ValueError("The fronts do not eliminate every variable.")


def _room(entries: int, device: torch.device) -> Tensor:
    """Room for some numbers; on the CPU they take memory only where they are written to."""
    if device.type == "cpu":
        return torch.from_numpy(np.zeros(entries))
    return torch.empty(entries, dtype=torch.float64, device=device)


class _Stack:
    """The changes that wait for the parents of their fronts: the last one in is the first one out."""

    def __init__(self, entries: int, device: torch.device) -> None:
        self._room = _room(entries, device)
        self._used = 0
        self.waiting: list[tuple[int, int]] = []

    def push(self, front: int, n: int) -> Tensor:
        """Room for the changes of a front, n by n."""
        self.waiting.append((front, n))
        self._used += n * n
        if self._used > len(self._room):
            raise ValueError("The stacks are too small for the fronts.")
        return self._top(n)

    def pop(self, front: int) -> Tensor:
        """The changes of a front, there until the next push."""
        last, n = self.waiting.pop() if self.waiting else (-1, 0)
        if last != front:
            raise ValueError("The fronts are not in the order of their tree.")
        top = self._top(n)
        self._used -= n * n
        return top

    def _top(self, n: int) -> Tensor:
        return self._room[self._used - n * n : self._used].reshape(n, n)


def _permuted(lower: Matrix, order: NDArray[np.int64]) -> Matrix:
    """What is below the diagonal in the order of elimination, by columns."""
    n = len(order)
    place = np.empty(n, dtype=np.int32)
    place[order] = np.arange(n, dtype=np.int32)
    one, other = np.repeat(place, np.diff(lower.indptr)), place[lower.indices]
    columns = np.minimum(one, other)
    rows = np.maximum(one, other, out=one)
    del other
    entries = sp.coo_array((lower.data, (rows, columns)), shape=(n, n))
    entries.has_canonical_format = True  # no place twice; the order within a column is free, and sorting takes time
    return entries.tocsc()


def _enter(columns: Matrix, front: Front, index: NDArray[np.int64], local: NDArray[np.int64], own: Tensor) -> None:
    """The matrix's own entries below the diagonal, in the columns that the front eliminates."""
    pointers = columns.indptr[front.start : front.stop + 1]
    rows = columns.indices[pointers[0] : pointers[-1]]
    places = local[rows]
    if not np.array_equal(np.take(index, places, mode="clip"), rows):
        raise ValueError("The matrix has an entry outside of its front.")
    places = places * front.pivots + np.repeat(np.arange(front.pivots), np.diff(pointers))
    data = torch.from_numpy(columns.data[pointers[0] : pointers[-1]])
    own.view(-1).index_copy_(0, torch.from_numpy(places).to(own.device), data.to(own.device))


class _Piece(NamedTuple):
    """Variables that stay together on their way from a child to its parent."""

    place: int  # in the child's changes
    to: int  # in the parent
    length: int


def _pieces(child: Front, front: Front) -> list[_Piece]:
    """Where the variables that a child left are in its parent, in ascending order."""
    ranges = ((front.start, front.stop), *front.later)
    pieces = []
    place, i, offset = 0, 0, 0
    for start, stop in child.later:
        while start < stop:
            while i < len(ranges) and ranges[i][1] <= start:
                offset += ranges[i][1] - ranges[i][0]
                i += 1
            if i == len(ranges) or ranges[i][0] > start:
                raise ValueError("A front leaves a variable that its parent does not know.")
            length = min(stop, ranges[i][1], start + _CHUNK) - start
            pieces.append(_Piece(place, offset + start - ranges[i][0], length))
            place, start = place + length, start + length
    return pieces


def _extend(into: Tensor, columns: Sequence[_Piece], rows: Sequence[_Piece], changes: Tensor, first: int) -> None:
    """Add what a child changes in some columns, on and below the diagonal; `into` begins at variable `first`."""
    if into.device.type == "cpu":  # numpy's views cost less, and there are many
        into, changes = into.numpy(), changes.numpy()  # type: ignore[assignment]
    for k, column in enumerate(columns):
        added = changes[:, column.place : column.place + column.length]
        target = into[:, column.to - first : column.to - first + column.length]
        j = k
        while j < len(rows):
            place, to, length = rows[j]
            j += 1
            while j < len(rows) and rows[j].to == to + length:
                length += rows[j].length
                j += 1
            target[to - first : to - first + length] += added[place : place + length]
