"""The errors that lipguard raises on purpose. Bad input never yields a number."""


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
