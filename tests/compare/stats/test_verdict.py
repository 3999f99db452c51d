"""The verdict for every mix of evidence, and the sentence that states it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from proofs.simulation import World

from nnvit.compare.audit.fairness import Audit, AuditRow
from nnvit.compare.stats.analysis import Comparison, analyse
from nnvit.compare.stats.ranks import AcrossDatasets
from nnvit.compare.stats.verdict import _Verdict, cases_differ, methods_differ

NAN = float("nan")
FAIR = Audit()


def _audit(*statuses: str, notes: tuple[str, ...] = ()) -> Audit:
    """One row that must be equal per status; "unknown" rows are core ones."""
    rows = [AuditRow(key="", title="", equal_expected=True, values={}, status=status) for status in statuses]
    return Audit(rows=tuple(rows), notes=notes, core_unknown="unknown" in statuses)


@pytest.mark.parametrize(
    ("low", "high", "effect", "p", "p_friedman", "shown"),
    [
        (0.1, 0.2, 0.5, 0.01, 0.01, 1),
        (-0.2, -0.1, -0.5, 0.01, 0.01, -1),
        (-0.1, 0.2, 0.5, 0.01, 0.01, 0),  # the interval holds zero
        (0.1, 0.2, 0.5, 0.06, 0.01, 0),  # Wilcoxon's test finds no difference
        (0.1, 0.2, 0.5, 0.01, 0.06, 0),  # Friedman's test finds no difference
        (0.1, 0.2, -0.5, 0.01, 0.01, 0),  # most cases favour the other arm
        (NAN, NAN, 0.5, 0.01, 0.01, 0),
        (0.1, 0.2, NAN, NAN, 0.01, 0),
        (0.1, 0.2, 0.5, 0.01, NAN, 0),
    ],
)
def test_cases_differ_only_where_all_agree(
    low: float, high: float, effect: float, p: float, p_friedman: float, shown: int
) -> None:
    assert cases_differ(low, high, effect, p, p_friedman) == shown


@pytest.mark.parametrize(
    ("cases", "difference", "p", "shown"),
    [
        (1, 0.1, 0.01, 1),
        (-1, -0.1, 0.01, -1),
        (1, -0.1, 0.01, 0),
        (1, 0.1, 0.06, 0),
        (0, 0.1, 0.01, 0),
        (1, NAN, NAN, 0),
    ],
)
def test_methods_differ_only_where_the_folds_agree_with_the_cases(
    cases: int, difference: float, p: float, shown: int
) -> None:
    assert methods_differ(cases, difference, p) == shown


def _frame(gain: float, *, runs: int = 3, arms: int = 2, folds: int = 5, run_sd: float = 0.001) -> pd.DataFrame:
    world = World(gain=gain, runs=runs, arms=arms, folds=folds, cases=100, run_sd=run_sd)
    return world.frame(world.scores(1, np.random.default_rng(0))[0])


def _stats(gain: float, baseline: str | None = None, **world: Any) -> Comparison:
    return analyse(_frame(gain, **world), baseline, num_bootstrap=500)


def _verdict(stats: Comparison) -> _Verdict:
    return stats.main_block("simulated").pairs[0].verdict


def test_three_seeds_and_agreement_make_a_headline() -> None:
    stats = _stats(0.02)
    assert _verdict(stats).level == "better"
    said = stats.headline(FAIR)
    assert said.startswith("arm_0 is better than arm_1 on simulated: mean Dice 0.8")
    for part in (
        "a difference of +",
        "points (95% BCa interval +",
        "over 100 cases)",
        "fold-level t p",
        "5 folds, 3 trainings",
    ):
        assert part in said
    assert said.endswith(".")


def test_one_seed_is_ahead_but_never_better() -> None:
    stats = _stats(0.02, runs=1)
    verdict = _verdict(stats)
    assert (verdict.level, verdict.better) == ("ahead, too few seeds", "arm_0")
    assert not verdict.method.shown
    assert "so it is not claimed" in verdict.method.text
    said = stats.headline(FAIR)
    assert "arm_0 is ahead of arm_1" in said
    assert "to call it better takes 3 trainings per fold" in said


def test_one_fold_leaves_the_method_unclaimed() -> None:
    stats = _stats(0.02, folds=1)
    verdict = _verdict(stats)
    assert (verdict.level, verdict.method.shown) == ("models differ", False)
    reason = "with one fold, training noise cannot be seen (at least two folds are needed; five are usual)"
    assert verdict.method.text == f"it cannot be claimed that one method is better: {reason}"
    assert stats.headline(FAIR).endswith(f"; nothing can be said about the methods: {reason}.")
    assert "that it is the better method is not shown" in stats.headline(FAIR)


def test_folds_that_disagree_are_training_noise() -> None:
    stats = _stats(0.02, folds=2, run_sd=0.03)
    verdict = _verdict(stats)
    assert verdict.level == "models differ"
    assert "it may be training noise" in verdict.method.text


def test_no_difference_is_not_shown_and_names_the_arm_that_is_ahead_first() -> None:
    stats = _stats(0.0)
    assert _verdict(stats).level == "not shown"
    means = {arm: row.mean for arm, row in stats.main_block("simulated").arms.items()}
    ahead, behind = sorted(means, key=lambda arm: -means[arm])
    said = stats.headline(FAIR)
    assert said.startswith(f"it is not shown that {ahead} is better than {behind} on simulated: mean Dice")
    assert "a difference of +" in said


def test_the_headline_is_about_the_best_arm_against_the_baseline() -> None:
    stats = _stats(0.02, "arm_1", arms=4)
    pair = stats.main_block("simulated").leading_pair("arm_1")
    assert (pair.a, pair.b) == ("arm_0", "arm_1")
    assert stats.headline(FAIR).startswith("arm_0 is better than arm_1")


def test_a_baseline_that_wins_is_said_to() -> None:
    assert _stats(0.02, "arm_0").headline(FAIR).startswith("arm_0 is better than arm_1")


def test_arms_that_are_not_comparable_get_figures_and_no_claim() -> None:
    said = _stats(0.02).headline(_audit("different"))
    assert said.startswith(
        "no claim, because the audit finds the arms not comparable; as measured, arm_0 against arm_1 on"
    )
    assert "is better" not in said
    assert "95% BCa interval" in said


def test_declared_differences_are_said_after_the_claim() -> None:
    assert _stats(0.02).headline(_audit("declared")).endswith("; the audit's declared differences apply.")


@pytest.mark.parametrize(
    ("status", "reserve"),
    [
        ("declared", "the audit's declared differences apply."),
        ("unknown", "what the audit could not find out applies."),
    ],
)
def test_what_was_not_declared_is_not_called_so(status: str, reserve: str) -> None:
    told = _audit("equal", status)
    assert told.verdict == "fair with declared differences"
    assert _stats(0.02).headline(told).endswith(f"; {reserve}")


def test_notes_on_twins_are_repeated_and_others_are_not() -> None:
    notes = ("arm_0 has no random-init twin, so its gain may be its pretraining's.", "The machines differ.")
    said = _stats(0.02).headline(_audit(notes=notes))
    assert said.endswith("; the audit notes: arm_0 has no random-init twin, so its gain may be its pretraining's.")


def test_a_distance_is_better_when_it_is_lower() -> None:
    cases = _frame(-0.02).rename(columns={"dice": "hd95_mm"})
    stats = analyse(cases, metric="hd95_mm", num_bootstrap=500)
    assert stats.main_block("simulated").pairs[0].verdict.better == "arm_0"
    said = stats.headline(FAIR)
    assert said.startswith("arm_0 is better than arm_1 on simulated: mean HD95 0.7")
    assert "a difference of -0.02 mm (95% BCa interval -0.0" in said


def test_a_distance_in_pixels_is_said_in_pixels() -> None:
    cases = _frame(-0.02).rename(columns={"dice": "hd95_mm"})
    said = analyse(cases, metric="hd95_mm", num_bootstrap=99, spacing_unit="px").headline(FAIR)
    assert "a difference of -0.02 px (95% BCa interval" in said


def test_several_data_sets_are_answered_by_average_ranks() -> None:
    parts = [_frame(0.02).assign(dataset=f"set_{i}") for i in range(6)]
    said = analyse(pd.concat(parts), num_bootstrap=200).headline(FAIR)
    assert said.startswith("over 6 data sets arm_0 ranks above arm_1 by Dice (average ranks 1.00 and 2.00")
    assert "better than at least one other arm as a method on 6 of them" in said


def test_four_data_sets_are_too_few_to_rank_two_arms() -> None:
    """Average ranks differ by more than the critical difference, but the sign test's p cannot be below an eighth."""
    parts = [_frame(0.02, runs=1).assign(dataset=f"set_{i}") for i in range(4)]
    said = analyse(pd.concat(parts), num_bootstrap=99).headline(FAIR)
    assert said.startswith("over 4 data sets arm_0 is not shown to rank above arm_1 by Dice")
    assert "sign test p = 0.125, Nemenyi critical difference 0.98" in said


@pytest.mark.parametrize(
    ("p", "claim"), [(0.04, "ranks above"), (0.06, "is not shown to rank above"), (None, "is not")]
)
def test_three_arms_are_ranked_only_where_friedman_agrees(p: float | None, claim: str) -> None:
    across = AcrossDatasets.of(np.tile([0.9, 0.5, 0.1], (12, 1)), list("abc"), [str(i) for i in range(12)], False)
    across = replace(across, friedman=replace(across.friedman, p=p))
    one = _stats(0.0)
    stats = replace(one, datasets=dict.fromkeys("12", one.datasets["simulated"]), across_datasets={"dice": across})
    assert stats.headline(FAIR).startswith(f"over 12 data sets a {claim}")


def test_nothing_to_say_is_said() -> None:
    said = analyse(_frame(0.0).assign(dice=np.nan), num_bootstrap=200).headline(FAIR)
    assert said == "on simulated nothing can be said of Dice: no case has a value for every arm."
