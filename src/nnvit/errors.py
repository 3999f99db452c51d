"""Errors that a user can act on. The command line prints them as one paragraph and exits with code 2."""

from collections.abc import Iterable
from difflib import get_close_matches


class NnvitError(Exception):
    """Something the user gave does not fit; the message says what was got, what was expected and what to do."""


class ConfigError(NnvitError):
    """A recipe, a key or a value in it."""


class WeightsError(NnvitError):
    """A weight file or checkpoint that is absent, foreign or incomplete."""


class DataError(NnvitError):
    """Images, masks or an nnU-Net data set."""


class PlansError(NnvitError):
    """A plans file, or a results folder that belongs to other plans."""


class CompareError(NnvitError):
    """Arms of a comparison that are absent, broken or do not belong together."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the nearest choice, or an empty string when none is near."""
    near = get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
