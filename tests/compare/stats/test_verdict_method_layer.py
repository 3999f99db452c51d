"""Tests over folds and trainings: which test applies, and when nothing can be claimed."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from proofs.simulation import World
from scipy import stats

from nnvit.compare.stats.analysis import analyse
from nnvit.compare.stats.verdict import ArmPair, _MethodLayer


def _cases(**world: Any) -> pd.DataFrame:
    made = World(cases=25, **world)
    return made.frame(made.scores(1, np.random.default_rng(0))[0])


def _pairs(cases: pd.DataFrame, baseline: str | None = None, num: int = 500) -> list[ArmPair]:
    return analyse(cases, baseline, num_bootstrap=num).main_block("simulated").pairs


def _layer(cases: pd.DataFrame) -> _MethodLayer:
    return _pairs(cases)[0].method_layer


def _by(cases: pd.DataFrame, keys: list[str]) -> Any:
    """Differences of the arms' means."""
    means = cases.groupby(["arm", *keys])["dice"].mean()
    return (means["arm_0"] - means["arm_1"]).to_numpy()


def test_seeds_of_one_split_are_averaged_before_the_folds_are_tested() -> None:
    cases = _cases(runs=3)
    layer = _layer(cases)
    theirs = stats.ttest_1samp(_by(cases, ["fold"]), 0)
    assert (layer.decides, layer.n_folds, layer.n_runs) == ("paired_t", 5, 3)
    assert (layer.paired_t.p, layer.paired_t.df) == pytest.approx((theirs.pvalue, 4))
    assert [row.n for row in layer.folds] == [5] * 5


def test_nadeau_bengio_takes_every_training() -> None:
    cases = _cases(runs=3)
    gaps, strict = _by(cases, ["run", "fold"]), _layer(cases).nadeau_bengio
    error = (gaps.var(ddof=1) * (1 / 15 + 1 / 4)) ** 0.5
    assert (strict.n, strict.statistic) == pytest.approx((15, gaps.mean() / error))


def test_an_arm_with_other_seeds_is_compared_by_its_mean_over_seeds() -> None:
    cases = _cases(runs=3)
    fewer = cases[(cases["arm"] == "arm_0") | (cases["run"] == "1")]
    layer = _layer(fewer)
    theirs = stats.ttest_1samp(_by(fewer, ["fold"]), 0)
    assert (layer.n_runs, layer.nadeau_bengio.n, layer.paired_t.p) == pytest.approx((1, 5, theirs.pvalue))
    assert layer.hierarchical.reason is None


def test_repeated_cross_validation_with_other_splits_is_decided_by_nadeau_bengio() -> None:
    cases = _cases(runs=2)
    cases.loc[cases["run"] == "1", "fold"] = cases["case"].str[-1].astype(int).mod(5).astype(str)
    layer = _layer(cases)
    assert layer.decides == "nadeau_bengio"
    assert (layer.nadeau_bengio.n, layer.nadeau_bengio.reason) == (10, None)
    assert layer.paired_t.reason == "not computable: the runs used different splits; Nadeau-Bengio decides"
    assert layer.hierarchical.reason == "not computable: the runs used different splits"
    assert {(row.run, row.fold) for row in layer.folds} == {(run, fold) for run in "01" for fold in "01234"}


def test_hierarchical_interval_is_wider_than_the_cases_own() -> None:
    cases = _cases(run_sd=0.05)
    pair = _pairs(cases, num=2000)[0]
    wide, narrow = pair.method_layer.hierarchical, pair.interval
    assert wide.low < pair.difference < wide.high
    assert wide.high - wide.low > narrow.high - narrow.low


def test_the_hierarchical_interval_of_a_pair_turns_round_with_it() -> None:
    cases = _cases(arms=3)
    plain, turned = (_pairs(cases, baseline) for baseline in (None, "arm_0"))
    one = next(pair for pair in plain if (pair.a, pair.b) == ("arm_0", "arm_2")).method_layer.hierarchical
    two = next(pair for pair in turned if (pair.a, pair.b) == ("arm_2", "arm_0")).method_layer.hierarchical
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda cases: cases.assign(fold=""), "with one fold, training noise cannot be seen"),
        (
            lambda cases: cases.assign(
                fold=cases["fold"].where(cases["arm"] == "arm_0", cases["fold"].str.replace("1", "2"))
            ),
            "the folds of the two arms hold different cases",
        ),
        (
            lambda cases: pd.concat([cases.assign(fold="0"), cases.assign(fold="1")]),
            "a case was scored in several folds, so the folds are not independent samples of cases",
        ),
    ],
)
def test_nothing_is_claimed_of_a_method_without_folds_of_its_own(change: Any, reason: str) -> None:
    layer = _layer(change(_cases()))
    assert reason in layer.reason
    for name in ("paired_t", "nadeau_bengio", "hierarchical"):
        assert getattr(layer, name).reason == layer.reason
    assert layer.folds == []


def test_arms_with_folds_are_still_compared_beside_one_without() -> None:
    cases = _cases(arms=3)
    cases.loc[cases["arm"] == "arm_2", "fold"] = ""
    pairs = _pairs(cases, num=200)
    assert [pair.method_layer.reason is None for pair in pairs] == [True, False, False]
