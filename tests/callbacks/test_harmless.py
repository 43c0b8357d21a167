"""Whatever goes wrong costs what was attempted, and nothing else; what is to end a training does."""

from __future__ import annotations

import pytest

from lipguard.callbacks.harmless import attempted, harmless
from lipguard.callbacks.messages import Messages


class Odd(BaseException):
    """As extensions raise, that are written in other languages."""


def failing(error: BaseException) -> int:
    raise error


def test_what_succeeds_is_returned() -> None:
    assert attempted(lambda reason: -1, divmod, 7, 2) == (3, 1)


@pytest.mark.parametrize("error", [RuntimeError("on fire"), MemoryError(), StopIteration(), Odd("panic")], ids=repr)
def test_what_fails_is_told_in_words(error: BaseException) -> None:
    assert attempted(lambda reason: reason, failing, error) == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()], ids=repr)
def test_what_ends_a_training_is_passed_on(error: BaseException) -> None:
    with pytest.raises(type(error)):
        attempted(lambda reason: reason, failing, error)


def test_a_hook_warns_once() -> None:
    class Hooked:
        _messages = Messages("Hooked")

        @harmless
        def on_fire(self) -> None:
            raise ValueError("hot")

    hooked = Hooked()
    with pytest.warns(UserWarning, match=r"Hooked: on_fire failed, training goes on\. ValueError: hot"):
        hooked.on_fire()
    hooked.on_fire()  # a second warning would be an error here
