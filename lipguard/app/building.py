"""Objects from configuration nodes, with errors that say which setting was wrong."""

from __future__ import annotations

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from lipguard.config import DCPConfig
from lipguard.errors import ConfigError, LipguardError
from lipguard.trusted.regions.region import Box


def build(node: DictConfig, **arguments: Any) -> Any:
    """Instantiate the node's ``_target_``.

    Raises:
        LipguardError: what the target itself raised.
        ConfigError: the target refused its settings, or needs a package that is not installed.
    """
    try:
        return instantiate(node, **arguments)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key} has no value. Give one with {error.full_key}=VALUE.") from error
    except InstantiationException as error:
        raise _translated(error) from error


def build_all(nodes: DictConfig | None) -> list[Any]:
    """Instantiate every node of a group that has several, in their order; an empty group has none."""
    return [build(node) for node in (nodes or {}).values() if isinstance(node, DictConfig)]


def dcp_config(node: DictConfig) -> DCPConfig:
    """The settings of a certification; unlike `build`, it lists the options that exist when one does not.

    Raises:
        ConfigError: an option is unknown or has a value that it cannot have.
    """
    settings = OmegaConf.to_container(node, resolve=True)
    assert isinstance(settings, dict)
    return certification(**{str(key): value for key, value in settings.items() if not str(key).startswith("_")})


def certification(penalty: float = 0.0, **settings: Any) -> DCPConfig:
    """The settings of a certification, from a group that also has the penalty of a training.

    Raises:
        ConfigError: an option is unknown or has a value that it cannot have.
    """
    return DCPConfig.from_dict(settings)


def box(values: object) -> Box | None:
    """The domain of ``domain=[LOW,HIGH]``; None for all inputs.

    Raises:
        ConfigError: it is not two numbers, in order.
    """
    if values is None:
        return None
    if not isinstance(values, (list, ListConfig)) or len(values) != 2:
        raise ConfigError(f"Expected domain=[LOW,HIGH] with two numbers, but got {values!r}.")
    return Box(*values)


def _translated(error: InstantiationException) -> LipguardError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LipguardError):
            return cause
        if isinstance(cause, MisconfigurationException):
            return ConfigError(str(cause))
        if isinstance(cause, ModuleNotFoundError):
            return ConfigError(f'{" ".join(str(cause).split())} Install it with pip install "lipguard[app]".')
        cause = cause.__cause__
    return ConfigError(" ".join(str(error).split()))
