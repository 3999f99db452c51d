"""Divides the cases into training, validation and test; no group (such as a patient) is on both sides."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from nnvit.errors import DataError

from .pairing import Pair, refuse, stem_of

_Split = dict[str, list[str]]
"""One fold in nnU-Net's form: {"train": cases, "val": cases}."""


@dataclass(frozen=True, kw_only=True)
class Division:
    """The cases to train, validate and test on."""

    training: list[Pair]
    """Validation cases included."""
    test: list[Pair]
    splits: list[_Split]
    """One per fold; empty if cases were not grouped: nnU-Net then splits them at random."""
    num_groups: int | None
    """Number of groups among the training cases; None if cases were not grouped."""


def divide(
    pairs: list[Pair], group_by: str | None, num_folds: int, validate_on: str | None, hold_out: str | None
) -> Division:
    """Divides the cases; arguments as in `nnvit.data.importer.import_dataset`.

    Raises:
        DataError: a bad expression, images without a group, an expression that matches no group or every one,
            or more folds than groups.
    """
    groups = _group_cases(pairs, group_by)
    test = set() if hold_out is None else _matching(groups, hold_out, "--hold-out")
    training = {case: group for case, group in groups.items() if case not in test}
    return Division(
        training=[pair for pair in pairs if pair.case not in test],
        test=[pair for pair in pairs if pair.case in test],
        splits=[] if group_by is None else _make_splits(training, num_folds, validate_on),
        num_groups=None if group_by is None else len(set(training.values())),
    )


def _group_cases(pairs: list[Pair], group_by: str | None) -> dict[str, str]:
    """Returns case -> group: the first capture group of `group_by` in the image's stem, else the whole match.

    Without `group_by` every case is its own group, named by the image's stem.

    Raises:
        DataError: a bad expression, or images in which it finds nothing.
    """
    if group_by is None:
        return {pair.case: stem_of(pair.image) for pair in pairs}
    pattern = _compile(group_by, "--group-by")
    found = {pair: pattern.search(stem_of(pair.image)) for pair in pairs}
    groups = {
        pair.case: (match.group(1) if pattern.groups else match.group()) or "" for pair, match in found.items() if match
    }
    lost = [pair.image.name for pair in pairs if not groups.get(pair.case)]
    refuse(
        f"--group-by '{group_by}' finds no group in {len(lost)} of {len(pairs)} images",
        lost,
        "Give an expression that finds the patient in every name, e.g. '^(p[0-9]+)'.",
    )
    return groups


def _make_splits(groups: Mapping[str, str], num_folds: int, validate_on: str | None) -> list[_Split]:
    """Returns folds of nearly equal size, or the one split that validates on the groups matching `validate_on`.

    Raises:
        DataError: more folds than groups, or `validate_on` matches no group or all of them.
    """
    if validate_on is not None:
        return [_split(groups, _matching(groups, validate_on, "--validate-on"))]
    sizes = Counter(groups.values())
    if not 2 <= num_folds <= len(sizes):
        raise DataError(
            f"{num_folds} folds asked for with {len(sizes)} groups to train on; "
            "expected at least 2, and no more than there are groups: change --num-folds"
        )
    folds: list[set[str]] = [set() for _ in range(num_folds)]
    members = defaultdict(set)
    for case, group in groups.items():
        members[group].add(case)
    # The largest first into the emptiest fold: balanced, and the same whenever the names are the same.
    for group, _ in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        min(folds, key=len).update(members[group])
    return [_split(groups, fold) for fold in folds]


def _split(groups: Mapping[str, str], val: set[str]) -> _Split:
    return {"train": sorted(set(groups) - val), "val": sorted(val)}


def _matching(groups: Mapping[str, str], expression: str, option: str) -> set[str]:
    pattern = _compile(expression, option)
    cases = {case for case, group in groups.items() if pattern.fullmatch(group)}
    if not cases or len(cases) == len(groups):
        names = sorted(set(groups.values()))
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        amount = "all" if cases else "none"
        raise DataError(
            f"{option} '{expression}' matches {amount} of the {len(names)} groups ({shown}); "
            "expected some of them; it must match a group's whole name"
        )
    return cases


def _compile(expression: str, option: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        raise DataError(f"{option} '{expression}' is not a regular expression: {error}") from error
