"""Divides the cases into training, validation and test; no group (such as a patient) is on both sides."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from nnvit.errors import DataError

from .pairing import Pair, refuse


@dataclass(frozen=True, kw_only=True)
class Division:
    """The cases to train, validate and test on."""

    training: list[Pair]
    """Validation cases included."""
    test: list[Pair]
    splits: list[dict[str, list[str]]]
    """{"train": cases, "val": cases} for each fold; empty if cases were not grouped: nnU-Net then splits at random."""
    num_groups: int | None
    """Number of groups among the training cases; None if cases were not grouped."""

    @classmethod
    def of(
        cls, pairs: list[Pair], group_by: str | None, num_folds: int, validate_on: str | None, hold_out: str | None
    ) -> "Division":
        """Divides the cases; arguments as in `nnvit.data.importer.import_dataset`.

        Raises DataError for a bad expression, images without a group, an expression that matches no group or every one,
        and more folds than groups.
        """
        groups = {pair.case: pair.stem for pair in pairs} if group_by is None else _group_cases(pairs, group_by)
        test = set() if hold_out is None else _matching(groups, hold_out, "--hold-out")
        training = {case: group for case, group in groups.items() if case not in test}
        if group_by is None:
            folds = []
        elif validate_on is not None:
            folds = [_matching(training, validate_on, "--validate-on")]
        else:
            folds = _balanced(training, num_folds)
        return cls(
            training=[pair for pair in pairs if pair.case not in test],
            test=[pair for pair in pairs if pair.case in test],
            splits=[{"train": sorted(set(training) - fold), "val": sorted(fold)} for fold in folds],
            num_groups=None if group_by is None else len(set(training.values())),
        )


def _group_cases(pairs: list[Pair], group_by: str) -> dict[str, str]:
    """Returns case -> group: the first capture group of `group_by` in the image's stem, else the whole match."""
    pattern = _compile(group_by, "--group-by")
    found = {pair.case: pattern.search(pair.stem) for pair in pairs}
    groups = {case: match.group(min(pattern.groups, 1)) for case, match in found.items() if match}
    lost = [pair.image.name for pair in pairs if not groups.get(pair.case)]
    refuse(
        f"--group-by '{group_by}' finds no group in {len(lost)} of {len(pairs)} images",
        lost,
        "Give an expression that finds the patient in every name, e.g. '^(p[0-9]+)'.",
    )
    return groups


def _balanced(groups: Mapping[str, str], num_folds: int) -> list[set[str]]:
    """Returns folds of nearly equal size. Raises DataError for more folds than groups."""
    members = defaultdict(set)
    for case, group in groups.items():
        members[group].add(case)
    if not 2 <= num_folds <= len(members):
        raise DataError(
            f"{num_folds} folds asked for with {len(members)} groups to train on; "
            "expected at least 2, and no more than there are groups: change --num-folds"
        )
    folds: list[set[str]] = [set() for _ in range(num_folds)]
    # The largest first into the emptiest fold: balanced, and the same whenever the names are the same.
    for group in sorted(members, key=lambda name: (-len(members[name]), name)):
        min(folds, key=len).update(members[group])
    return folds


def _matching(groups: Mapping[str, str], expression: str, option: str) -> set[str]:
    pattern = _compile(expression, option)
    cases = {case for case, group in groups.items() if pattern.fullmatch(group)}
    if not cases or len(cases) == len(groups):
        names = sorted(set(groups.values()))
        shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise DataError(
            f"{option} '{expression}' matches {'all' if cases else 'none'} of the {len(names)} groups ({shown}); "
            "expected some of them; it must match a group's whole name"
        )
    return cases


def _compile(expression: str, option: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        raise DataError(f"{option} '{expression}' is not a regular expression: {error}") from error
