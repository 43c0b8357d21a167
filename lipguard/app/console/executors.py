"""What certifies several checkpoints, other than processes of this machine."""

from __future__ import annotations

from concurrent.futures import Executor

from lipguard.errors import ConfigError


def dask(address: str, timeout: float = 30.0) -> Executor:
    """The executor of a Dask cluster whose scheduler is at `address`.

    Raises:
        ConfigError: the package distributed is not installed, or no scheduler answers within `timeout` seconds.
    """
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise ConfigError('executor=dask needs distributed: pip install "lipguard[cluster]".') from error
    try:
        client = Client(address, timeout=timeout)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"No Dask scheduler answers at executor.address={address}: {error}") from error
    executor: Executor = client.get_executor()  # type: ignore[no-untyped-call]
    return executor
