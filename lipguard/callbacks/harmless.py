"""Hooks that cost a training nothing but time, whatever happens in them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

# What ends a training is meant to: Lightning handles an interrupt, and a scheduler's signal is an exit.
PASSED_ON = (KeyboardInterrupt, SystemExit, GeneratorExit)
_log = logging.getLogger(__name__)
Hook = TypeVar("Hook", bound=Callable[..., Any])


def harmless(hook: Hook) -> Hook:
    """A hook of a monitor in which no error ends the training: a warning names it, once."""

    @functools.wraps(hook)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return hook(self, *args, **kwargs)
        except PASSED_ON:
            raise
        except BaseException as error:  # also what is derived from no Exception, as panics of extensions are
            _log.debug("%s failed", hook.__name__, exc_info=True)
            self._warn(f"{hook.__name__} failed, training goes on. {type(error).__name__}: {error}")
        return None

    return call  # type: ignore[return-value]
