"""What costs a training nothing but time, whatever happens in it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from lipguard.callbacks.messages import Messages

# What ends a training is meant to: Lightning handles an interrupt, and a scheduler's signal is an exit.
PASSED_ON = (KeyboardInterrupt, SystemExit, GeneratorExit)
_log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")
Lost = TypeVar("Lost")


def attempted(lost: Callable[[str], Lost], act: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | Lost:
    """What `act` returns. Whatever goes wrong in it costs that, and nothing else.

    Args:
        lost: told the reason in words; what it returns takes the place of what was lost.
        act: called with all other arguments.
    """
    try:
        return act(*args, **kwargs)
    except PASSED_ON:
        raise
    except BaseException as error:  # also what is derived from no Exception, as panics of extensions are
        _log.debug("%s failed", getattr(act, "__qualname__", act), exc_info=True)
        return lost(in_words(error))


def in_words(error: BaseException) -> str:
    """The reason that messages, and the status of a row, give."""
    return f"{type(error).__name__}: {error}"


class _Speaks(Protocol):
    _messages: Messages


Hook = TypeVar("Hook", bound=Callable[..., Any])


def harmless(hook: Hook) -> Hook:
    """A hook of a monitor in which no error ends the training: a warning names it, once."""

    @functools.wraps(hook)
    def call(self: _Speaks, *args: Any, **kwargs: Any) -> Any:
        def lost(reason: str) -> None:
            self._messages.warn(f"{hook.__name__} failed, training goes on. {reason}")

        return attempted(lost, hook, self, *args, **kwargs)

    return call  # type: ignore[return-value]
