"""Checks of a backbone's own keys, shared by the families."""

from collections.abc import Iterable

from nnvit.errors import ConfigError, did_you_mean


def one_of(key: str, value: str, choices: Iterable[str]) -> None:
    """Raises ConfigError that lists the values of `model.backbone_args.KEY` and names the nearest."""
    choices = list(choices)
    if value not in choices:
        raise ConfigError(
            f"model.backbone_args.{key}='{value}' is not known; use one of {', '.join(choices)}."
            + did_you_mean(value, choices)
        )
