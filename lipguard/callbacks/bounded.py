"""Which network of a LightningModule is bounded: the module as its forward has it, or a part of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import nn

from lipguard.callbacks.harmless import attempted
from lipguard.callbacks.messages import Messages
from lipguard.callbacks.observed import Inputs, stored_module
from lipguard.callbacks.settings import MonitorSettings
from lipguard.errors import ConfigError
from lipguard.trusted.network.graph import Network
from lipguard.trusted.reading.choice import Reading
from lipguard.trusted.reading.trace import read_plainly


class Bounded:
    """The network that is bounded, the same one through a fit.

    Where nothing is said, it is what the LightningModule's own forward computes, from a tensor or from a batch that is
    a dict, or else the largest of its parts that can be read, which is told once.
    """

    def __init__(self, settings: MonitorSettings, inputs: Inputs, messages: Messages) -> None:
        self.settings, self._inputs, self._messages = settings, inputs, messages
        self._found: tuple[str, Reading] | None = None

    def begin(self) -> None:
        """A fit begins: its network may be another one."""
        self._found = None

    @property
    def reading(self) -> Reading:
        """Which function of it."""
        return self.settings.reading if self._found is None else self._found[1]

    def of(self, trainer: Any, module: nn.Module) -> nn.Module:
        """The network with the weights that a checkpoint stores."""
        return self.within(stored_module(trainer, module))

    def within(self, module: nn.Module) -> nn.Module:
        """The network, of a LightningModule or an average of it.

        Raises:
            ConfigError: it has no such part.
        """
        if self.settings.module is not None:
            return part_of(module, self.settings.module)
        if self._found is None and self._inputs.shape is not None:
            self._found = self._chosen(module, self._inputs.shape)
        return module if self._found is None else part_of(module, self._found[0])

    def _chosen(self, module: nn.Module, shape: tuple[int, ...]) -> tuple[str, Reading]:
        """The name of a part, and which function of it; all of the module where none can be read."""
        own, reasons = self.settings.reading, list[str]()
        for name, reading in self._candidates(module, own):
            found = attempted(lambda reason: reason, read_plainly, part_of(module, name), shape, reading)
            if isinstance(found, Network):
                if name:
                    self._messages.warn(
                        f"{type(module).__name__} itself cannot be read, bounds are of its part {name!r}, the largest "
                        f"that can be. {self._messages.name}(module=...) names another. {reasons[0]}"
                    )
                return name, reading
            reasons.append(found)
        return "", own

    def _candidates(self, module: nn.Module, own: Reading) -> Iterator[tuple[str, Reading]]:
        yield "", own
        if not own.is_plain or own.output is not None:
            return
        if self._inputs.key is not None:
            yield "", dataclasses.replace(own, input=self._inputs.key)
        sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in module.named_children()}
        yield from ((name, own) for name in sorted(sizes, key=lambda name: -sizes[name]) if sizes[name])


def part_of(module: nn.Module, name: str) -> nn.Module:
    """A part of a module by name, such as "critic" or "net.head"; the module itself for "".

    Raises:
        ConfigError: there is none.
    """
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        parts = ", ".join(own for own, _ in module.named_children()) or "none"
        raise ConfigError(f"Expected module to name a part of the network ({parts}), but got {name!r}.") from error
