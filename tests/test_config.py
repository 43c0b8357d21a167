import pytest

from lipguard import DCPConfig
from lipguard.errors import ConfigError


@pytest.mark.parametrize("name", ["partition", "solver", "merge", "proof"])
def test_an_unknown_choice_lists_the_choices(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"Expected {name} to be one of '.*', but got 'typo'"):
        DCPConfig(**{name: "typo"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_block_size", 1), ("max_block_size", 10.5), ("max_block_size", True), ("max_seconds", 0),
        ("max_seconds", "60"), ("max_seconds", float("inf")), ("tolerance", -1e-3), ("tolerance", 1),
        ("tolerance", float("nan")), ("seed", -1), ("workers", 0), ("max_iterations", 0), ("partition_factors", (1,)),
        ("partition_factors", (0, 2)), ("partition_factors", (2, 2, 2)),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        DCPConfig(**{name: value})


def test_an_unknown_option_lists_the_options() -> None:
    with pytest.raises(ConfigError, match=r"Unknown option typo\. Expected one of: .*max_block_size"):
        DCPConfig.from_dict({"typo": 1})


def test_settings_survive_plain_values() -> None:
    config = DCPConfig(partition="tiles", partition_factors=[3, 2], max_seconds=5.0)  # type: ignore[arg-type]
    assert config.partition_factors == (3, 2)
    assert DCPConfig.from_dict(config.to_dict()) == config


def test_the_paper_preset_is_the_method_as_published() -> None:
    config = DCPConfig.paper(max_block_size=400)
    assert (config.solver, config.partition, config.merge, config.max_block_size) == ("scs", "tiles", "sum", 400)
