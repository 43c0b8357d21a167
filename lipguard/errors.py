"""The errors that lipguard raises on purpose. Bad input never yields a number."""

from __future__ import annotations

_SHOWN = 60  # characters of a value; a longer one is told by its type


class LipguardError(Exception):
    """Base class: `except LipguardError` catches everything below and nothing else."""


class UnsupportedLayerError(LipguardError):
    """The network contains an operation that has no row in the table of layer kinds.

    Args:
        path: where the operation is, e.g. ``features.3`` or ``forward (function gelu)``.
        kind: what it is, e.g. ``torch.nn.LSTM``.
        advice: what the user can do about it.
    """

    def __init__(self, path: str, kind: str, advice: str) -> None:
        super().__init__(f"{path}: {kind} is not supported. {advice}")
        self.path, self.kind, self.advice = path, kind, advice


class InvalidNetworkError(LipguardError):
    """The network, or the input shape given for it, has no well-defined Lipschitz constant to bound."""


class CertificateError(LipguardError):
    """A certificate was refused: it does not prove its bound for this network, or cannot be read."""


class ConfigError(LipguardError, ValueError):
    """A setting has a value that lipguard does not know or cannot honour."""


def expect(name: str, value: object, kinds: type | tuple[type, ...], said: str) -> None:
    """Refuse an argument of another type.

    Args:
        name: of the argument.
        value: what was given.
        kinds: the types that it may have.
        said: these in words, such as "a DCPConfig or None".

    Raises:
        ConfigError: the value is of none of them.
    """
    if not isinstance(value, kinds):
        raise ConfigError(f"Expected {name} to be {said}, but got {shown(value)}.")


def shown(value: object) -> str:
    """A value for a message of one line."""
    text = repr(value)
    return text if len(text) <= _SHOWN and "\n" not in text else f"one of type {type(value).__name__}"
