"""An order of elimination as a value: whoever found it, it is checked where it is used.

A multifrontal factorisation (Duff and Reid, ACM TOMS 9, 1983) works through a tree of small dense matrices, its fronts.
A front eliminates some variables and hands what it changes about the later ones to its parent.
"""

from __future__ import annotations

from dataclasses import dataclass

from lipguard.trusted.layers import Indices


class NoOrderError(Exception):
    """No order of elimination was found: the time for it was over, or the matrix fills up."""


class FillsUpError(NoOrderError):
    """Nor will one be found with more time: the matrix is too full, or fills up."""


@dataclass(frozen=True)
class Front:
    """A dense matrix of the variables `start` to `stop`, which it eliminates, and of later ones that they meet.

    Attributes:
        start, stop: in the order of elimination.
        later: ranges of other variables, ascending and apart.
        children: indices of earlier fronts, ascending, whose changes this one takes up.
        side: 0 or 1, other than its children's: of the two stacks that changes wait on.
    """

    start: int
    stop: int
    later: tuple[tuple[int, int], ...]
    children: tuple[int, ...]
    side: int

    @property
    def pivots(self) -> int:
        """Number of variables that it eliminates."""
        return self.stop - self.start

    @property
    def rest(self) -> int:
        """Number of the later variables."""
        return sum(stop - start for start, stop in self.later)


@dataclass(frozen=True, eq=False)
class Elimination:
    """An order of elimination with its fronts, children before parents.

    Attributes:
        order: the variable that is eliminated k-th, shape (variables,).
        fronts: in the order of work, which is that of `order`.
        stacks: entries that wait on each of the two stacks, at most.
    """

    order: Indices
    fronts: tuple[Front, ...]
    stacks: tuple[int, int]

    @property
    def largest(self) -> int:
        """Rows of the largest front."""
        return max(front.pivots + front.rest for front in self.fronts)

    @property
    def bytes(self) -> float:
        """Of the stacks and of the largest front."""
        return 8.0 * (sum(self.stacks) + 2 * max((f.pivots + f.rest) * f.pivots for f in self.fronts))
