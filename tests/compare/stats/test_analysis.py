"""`analyse` as a whole: its figures equal the libraries' own, it is plain JSON, and sparse data do not break it."""

import json
import time
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from proofs.simulation import World
from scipy import stats

from nnvit.compare.scores.metrics import METRICS as DECLARED
from nnvit.compare.stats.analysis import SCHEMA, Comparison, _Block, analyse
from nnvit.compare.stats.verdict import ArmPair
from nnvit.errors import CompareError

ARMS = ["segformer", "vit", "unet"]
METRICS = [metric.key for metric in DECLARED if not metric.on_empty]
LOWER_IS_BETTER = {metric.key for metric in DECLARED if metric.lower_is_better}


def _cases(n: int = 40, folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Three arms, the first with three seeds, two labels of which the second is empty in every fourth case, all metrics."""
    rng = np.random.default_rng(seed)
    rows = []
    for arm, level in zip(ARMS, (0.85, 0.82, 0.8), strict=True):
        for run in ["0", "1", "2"] if arm == "segformer" else [""]:
            for i in range(n):
                for label in ("organ", "lesion"):
                    empty = label == "lesion" and i % 4 == 0
                    row: dict[str, Any] = {"dataset": "D", "arm": arm, "run": run, "fold": str(i % folds)}
                    row |= {"case": f"c{i:03d}", "label": label, "n_ref": 0 if empty else 100}
                    score = np.clip(level + rng.normal(0, 0.04), 0, 1)
                    row |= {
                        metric: np.nan if empty else 30 * (1 - score) if metric == "hd95_mm" else score
                        for metric in METRICS
                    }
                    rows.append(row | {"fp_volume_mm3": float(rng.poisson(3)) if empty else np.nan})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def cases() -> pd.DataFrame:
    return _cases()


@pytest.fixture(scope="module")
def found(cases: pd.DataFrame) -> Comparison:
    return analyse(cases, "unet", num_bootstrap=999)


def _values(cases: pd.DataFrame, arm: str, metric: str, label: str) -> np.ndarray:
    rows = cases[(cases["arm"] == arm) & (cases["label"] == label)].dropna(subset=metric)
    return rows.groupby("case")[metric].mean().to_numpy()


def _block(found: Comparison, metric: str = "dice", label: str = "mean") -> _Block:
    (results,) = found.datasets.values()
    return results.metrics[metric][label]


def _pair(block: _Block, a: str, b: str) -> ArmPair:
    return next(pair for pair in block.pairs if (pair.a, pair.b) == (a, b))


def test_it_is_plain_json_with_a_version(found: Comparison) -> None:
    plain = found.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["schema"] == SCHEMA == 1
    assert list(plain) == [
        "schema", "arms", "baseline", "metric", "lower_is_better", "settings", "datasets", "across_datasets"
    ]  # fmt: skip


def test_every_metric_and_label_has_a_block(found: Comparison) -> None:
    metrics = found.datasets["D"].metrics
    assert list(metrics) == [*METRICS, "fp_volume_mm3"]
    assert all(list(blocks) == ["mean", "organ", "lesion"] for blocks in metrics.values())
    assert {name for name, blocks in metrics.items() if blocks["mean"].lower_is_better} == LOWER_IS_BETTER


@pytest.mark.parametrize("label", ["organ", "lesion"])
@pytest.mark.parametrize("metric", ["dice", "hd95_mm"])
def test_its_figures_are_numpys_and_scipys(cases: pd.DataFrame, found: Comparison, metric: str, label: str) -> None:
    block = _block(found, metric, label)
    a, b = (_values(cases, arm, metric, label) for arm in ("segformer", "unet"))
    arm, pair = block.arms["segformer"], _pair(block, "segformer", "unet")
    assert (arm.mean, arm.sd, arm.n) == pytest.approx((a.mean(), a.std(ddof=1), len(a)))
    bounds = stats.bootstrap(
        (a - b,), np.mean, method="BCa", n_resamples=999, rng=np.random.default_rng(0)
    ).confidence_interval
    assert [pair.interval.low, pair.interval.high] == pytest.approx([bounds.low, bounds.high], rel=1e-9)
    theirs = stats.wilcoxon(a, b, zero_method="pratt")
    assert (pair.wilcoxon.statistic, pair.wilcoxon.p) == pytest.approx((theirs.statistic, theirs.pvalue))
    omnibus = stats.friedmanchisquare(*(_values(cases, arm, metric, label) for arm in ARMS))
    assert (block.friedman.statistic, block.friedman.p) == pytest.approx((omnibus.statistic, omnibus.pvalue))


def test_empty_references_are_left_out_and_counted(found: Comparison) -> None:
    assert (_block(found, label="lesion").n, _block(found, label="lesion").left_out) == (30, 10)
    assert (_block(found, label="mean").n, _block(found, label="mean").left_out) == (40, 0)
    assert (_block(found, "fp_volume_mm3", "lesion").n, _block(found, "fp_volume_mm3", "organ").n) == (10, 0)


def test_the_runs_of_an_arm_are_averaged_and_shown(cases: pd.DataFrame, found: Comparison) -> None:
    arm = _block(found, label="organ").arms["segformer"]
    rows = cases[(cases["arm"] == "segformer") & (cases["label"] == "organ")]
    by_run = rows.groupby("run")["dice"].mean()
    assert arm.runs == pytest.approx(by_run.to_dict())
    assert arm.sd_of_runs == pytest.approx(by_run.std())
    assert _block(found).arms["vit"].sd_of_runs is None


def test_pairs_with_the_baseline_are_a_family_of_their_own(found: Comparison) -> None:
    pairs = _block(found).pairs
    assert [(pair.a, pair.b, pair.family) for pair in pairs] == [
        ("segformer", "vit", "every pair"),
        ("segformer", "unet", "against the baseline"),
        ("vit", "unet", "against the baseline"),
    ]
    assert pairs[0].wilcoxon.p_holm == pairs[0].wilcoxon.p
    smaller, larger = sorted((pair.method_layer.paired_t for pair in pairs[1:]), key=lambda test: test.p)
    assert smaller.p_holm == pytest.approx(2 * smaller.p)
    assert larger.p_holm == pytest.approx(max(larger.p, 2 * smaller.p))


def test_without_a_baseline_all_pairs_are_one_family(cases: pd.DataFrame) -> None:
    tests = [pair.wilcoxon for pair in _block(analyse(cases, num_bootstrap=99)).pairs]
    assert min(test.p_holm for test in tests) == pytest.approx(3 * min(test.p for test in tests))


def test_no_figure_depends_on_what_else_was_computed(cases: pd.DataFrame, found: Comparison) -> None:
    alone = analyse(cases.drop(columns=["iou", "hd95_mm", "fp_volume_mm3"]), "unet", num_bootstrap=999)
    assert _block(alone) == _block(found)


def test_cases_csv_read_back_gives_the_same(cases: pd.DataFrame, found: Comparison, tmp_path: Path) -> None:
    cases.to_csv(tmp_path / "cases.csv", index=False)
    again = analyse(pd.read_csv(tmp_path / "cases.csv"), "unet", num_bootstrap=999)
    wanted, seen = (_pair(_block(each), "segformer", "unet") for each in (found, again))
    assert seen.verdict == wanted.verdict
    assert seen.interval.low == pytest.approx(wanted.interval.low, rel=1e-12)


def test_lower_is_better_turns_the_verdict_and_not_the_difference(found: Comparison) -> None:
    dice, distance = (_pair(_block(found, metric, "organ"), "segformer", "unet") for metric in ("dice", "hd95_mm"))
    assert dice.difference > 0 > distance.difference
    assert dice.verdict.better == distance.verdict.better == "segformer"
    first = [next(arm for arm in _block(found, m).ranks.arms if arm.rank == 1).arm for m in ("dice", "hd95_mm")]
    assert first == ["segformer", "segformer"]


def test_the_observers_line_is_on_the_same_cases(cases: pd.DataFrame) -> None:
    human = cases[(cases["arm"] == "vit") & (cases["case"] < "c030")].assign(arm="human", run="", fold="")
    found = analyse(cases, human=human, num_bootstrap=999)
    seen, scores = _block(found, label="organ").human, _values(human, "human", "dice", "organ")
    assert (seen.mean, seen.n, seen.reason) == (pytest.approx(scores.mean()), 30, None)
    theirs = stats.bootstrap((scores,), np.mean, method="BCa", n_resamples=999, rng=np.random.default_rng(0))
    assert seen.interval.low == pytest.approx(theirs.confidence_interval.low, rel=1e-9)
    assert seen.arms_on_same_cases["vit"] == pytest.approx(scores.mean())
    assert _block(found).human.n == 30


def test_an_observer_of_other_cases_says_so(cases: pd.DataFrame) -> None:
    human = cases[cases["arm"] == "vit"].assign(arm="human", case=lambda rows: "other_" + rows["case"])
    seen = _block(analyse(cases, human=human, num_bootstrap=99)).human
    assert (seen.mean, seen.n, seen.reason) == (
        None,
        0,
        "not computable: the observer has none of these cases",
    )


def test_several_data_sets_have_ranks_over_them(cases: pd.DataFrame) -> None:
    both = pd.concat([cases, _cases(seed=1).assign(dataset="E")])
    found = analyse(both, num_bootstrap=99)
    across = found.across_datasets["dice"]
    assert (across.datasets, across.n) == (["D", "E"], 2)
    mean = found.main_block("E").arms["vit"].mean
    assert next(row for row in across.arms if row.arm == "vit").means[1] == pytest.approx(mean)
    json.dumps(found.to_dict(), allow_nan=False)


def test_unknown_baseline_and_metric_are_errors(cases: pd.DataFrame) -> None:
    with pytest.raises(CompareError, match="baseline 'u' is none of the arms"):
        analyse(cases, "u")
    with pytest.raises(CompareError, match=r"no metric 'auc'; it has \['dice'"):
        analyse(cases, metric="auc")


@pytest.mark.parametrize(("n", "folds"), [(1, 1), (2, 1), (2, 2), (3, 3), (4, 2), (8, 2), (13, 5)])
def test_few_cases_and_folds_are_no_trouble(n: int, folds: int) -> None:
    found = analyse(_cases(n, folds), "unet", num_bootstrap=99)
    json.dumps(found.to_dict(), allow_nan=False)
    block = _block(found, label="organ")
    pair = block.pairs[0]
    assert block.notes == [f"{n} case{'s' * (n > 1)}: BCa intervals of fewer than 100 cases are too narrow"]
    assert (pair.interval.low is None) == (n < 3)
    assert (pair.wilcoxon.p is None) == (n < 2)
    assert (pair.method_layer.paired_t.p is None) == (folds < 2)
    assert n > 1 or pair.verdict.level == "not shown"


def _made(change: str) -> pd.DataFrame:
    cases = _cases(12)
    match change:
        case "identical arms":
            twin = cases[cases["arm"] == "vit"]
            return pd.concat([twin.assign(arm=arm) for arm in ARMS])
        case "one value":
            return cases.assign(**{metric: cases[metric].where(cases[metric].isna(), 0.5) for metric in METRICS})
        case "a constant apart":
            twin = cases[cases["arm"] == "vit"]
            return pd.concat([twin.assign(arm=arm, dice=twin["dice"] + 0.25 * i) for i, arm in enumerate(ARMS)])
        case "all empty":
            return cases.assign(**dict.fromkeys(METRICS, np.nan))
        case "one seldom label":
            return cases.assign(dice=cases["dice"].where((cases["label"] == "organ") | (cases["case"] == "c001")))
    raise AssertionError(change)


@pytest.mark.parametrize("change", ["identical arms", "one value", "a constant apart", "all empty", "one seldom label"])
def test_degenerate_scores_are_no_trouble_and_claim_nothing(change: str) -> None:
    found = analyse(_made(change), "unet", num_bootstrap=99)
    json.dumps(found.to_dict(), allow_nan=False)
    levels = {pair.verdict.level for pair in _block(found).pairs}
    assert "better" not in levels


def test_identical_arms_say_that_every_difference_is_zero() -> None:
    block = _block(analyse(_made("identical arms"), num_bootstrap=99))
    assert block.friedman.reason == "not computable: all arms are equal on every case"
    for pair in block.pairs:
        assert pair.verdict.cases.text == "no difference can be claimed: not computable: every difference is zero"
        assert pair.method_layer.paired_t.reason == "not computable: every fold has the same difference"


def test_the_order_of_the_arms_changes_no_claim(cases: pd.DataFrame) -> None:
    claims = set()
    for order in permutations(ARMS):
        shuffled = pd.concat([cases.loc[cases["arm"] == arm, :"dice"] for arm in order])
        pairs = _block(analyse(shuffled, num_bootstrap=499)).pairs
        claims.add(frozenset((frozenset((p.a, p.b)), p.verdict.level, p.verdict.better) for p in pairs))
    assert len(claims) == 1


def test_300_cases_of_four_arms_take_seconds() -> None:
    world = World(arms=4, runs=3)
    cases = world.frame(world.scores(1, np.random.default_rng(0))[0])
    start = time.process_time()
    analyse(cases)
    assert time.process_time() - start < 20
