"""The certified Lipschitz bound as a torchmetrics metric: `lipguard.certify` behind a thin stateful class."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lipguard.certifying.certify import certify
from lipguard.certifying.request import checked_config
from lipguard.config import DCPConfig
from lipguard.errors import ConfigError
from lipguard.trusted.network.digest import described
from lipguard.trusted.reading.choice import Key, Reading

if TYPE_CHECKING:
    from lipguard.certifying.warm_start import WarmStart


class LipschitzBound(Metric):
    r"""A certified upper bound on the global :math:`\ell_2` Lipschitz constant of a network in eval mode.

    .. math:: \|f(x) - f(y)\|_2 \le L \, \|x - y\|_2 \quad \text{for all } x, y

    The value is the bound of the network at the **last** update: it neither averages over updates nor keeps a
    historical maximum. The multipliers of one update are the start of the next one, so a network that trains is
    bounded faster than a new one. Across processes the largest bound is reported.

    As input to ``forward`` and ``update`` the metric accepts the following input:

    - ``model`` (:class:`~torch.nn.Module`): the network. It is measured as it is in eval mode, and keeps its
      own; no reference to it is kept, so the metric may be an attribute of the network that it measures.

    As output of ``forward`` and ``compute`` the metric returns the following output:

    - ``bound`` (:class:`~torch.Tensor`): a float64 scalar, rounded upward; infinite before the first update.

    Args:
        input_shape: shape of one input, without the batch axis, e.g. ``(1, 28, 28)``.
        config: how the network is partitioned, solved and proved; the default settings if None.
        output, input, fixed: which function of the network, as for `lipguard.certify`.
        kwargs: additional keyword arguments of :class:`torchmetrics.Metric`.

    Raises:
        ConfigError:
            If ``input_shape`` is not a sequence of positive integers or ``config`` is no ``DCPConfig``.
        UnsupportedLayerError:
            On ``update``, if the network has an operation that lipguard does not know.
        InvalidNetworkError:
            On ``update``, if the network has no bound on inputs of this shape (NaN weights, wrong shape, ...).

    Example:
        >>> import torch
        >>> from lipguard.metrics import LipschitzBound
        >>> model = torch.nn.Linear(2, 2)
        >>> _ = model.weight.data.copy_(torch.diag(torch.tensor([3.0, 1.0])))
        >>> metric = LipschitzBound(input_shape=(2,))
        >>> metric.update(model)
        >>> metric.compute()
        tensor(3.0000, dtype=torch.float64)
    """

    is_differentiable: bool = False
    higher_is_better: bool = False
    full_state_update: bool = False
    plot_lower_bound: float = 0.0

    def __init__(
        self,
        input_shape: Sequence[int],
        config: DCPConfig | None = None,
        *,
        output: Key | None = None,
        input: Key | None = None,
        fixed: Mapping[Key, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.config = checked_config(config)
        self.input_shape = _checked_shape(input_shape)
        self.reading = Reading(output, input, {} if fixed is None else fixed)
        self._warm_start: WarmStart | None = None  # the next update starts from its plan and multipliers
        # MetricCollection merges metrics whose first states look equal: the name tells configurations apart.
        choice = (output, input, described(dict(self.reading.fixed), True))
        own = () if choice == (None, None, described({}, True)) else choice
        settings = repr((self.input_shape, sorted(self.config.to_dict().items()), *own))
        self._state_name = f"bound_{hashlib.sha256(settings.encode()).hexdigest()[:12]}"
        self.add_state(self._state_name, torch.tensor(math.inf, dtype=torch.float64), dist_reduce_fx="max")

    def update(self, model: nn.Module) -> None:
        """Bound ``model`` as it is now, in eval mode.

        Args:
            model: the network; only its bound, plan and multipliers are remembered.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"Expected model to be a torch.nn.Module, but got {type(model).__name__}.")
        self._store(math.inf)  # an update that fails must not leave the bound of other weights behind
        own = self.reading
        report = certify(
            model, self.input_shape, self.config, warm_start=self._warm_start, output=own.output, input=own.input,
            fixed=own.fixed,
        )  # fmt: skip
        self._warm_start = report.warm_start
        self._store(report.bound)

    def compute(self) -> Tensor:
        """The bound of the last update; the largest one where processes differ."""
        bound: Tensor = getattr(self, self._state_name)
        return bound

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Bound the network and return the value of this process.

        torchmetrics' own ``forward`` would merge the new state with the one before, which for this metric would be a
        maximum over history, or solve everything twice.
        """
        self.update(*args, **kwargs)
        bound = self.compute() if self.dist_sync_on_step else getattr(self, self._state_name).clone()
        self._forward_cache = bound  # type: ignore[assignment]  # where Lightning's log finds it
        return bound

    def _store(self, bound: float) -> None:
        setattr(self, self._state_name, torch.tensor(bound, dtype=torch.float64, device=self.device))

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot a single or multiple values from the metric.

        Args:
            val: a result of ``forward`` or ``compute``, or a list of them; ``compute`` is called if None.
            ax: a matplotlib axis to add the plot to.

        Returns:
            Figure and Axes object.
        """
        return self._plot(val, ax)


def _checked_shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if not shape or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise ConfigError(
            f"Expected input_shape to be the shape of one input without the batch axis, such as (1, 28, 28), "
            f"but got {input_shape!r}."
        )
    return shape
