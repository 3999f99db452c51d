"""The share of right verdicts on simulated comparisons whose truth is known. Seed 0, as for everything else.

proofs/verdict_rates.py repeats this with ten times as many, and docs/statistics.md has its table.
"""

from functools import cache

import numpy as np
import pytest
from proofs.simulation import Verdicts, World, hierarchical_claims, rate, verdicts

from nnvit.compare.stats.analysis import analyse

NUM = 2000


@cache
def _simulated(world: World) -> Verdicts:
    return verdicts(world, world.scores(NUM, np.random.default_rng(0)), resamples=1000)


def _wrong(world: World) -> dict[str, float]:
    """The share of comparisons in which some arm was called better, though none is."""
    return rate(int(_simulated(world).method.any(axis=1).sum()), NUM)


@pytest.mark.parametrize("world", [World(), World(runs=3), World(arms=4), World(folds=2, runs=3), World(skewed=True)])
def test_better_is_rarely_said_where_nothing_differs(world: World) -> None:
    assert _wrong(world)["high"] <= 0.07


def test_the_cases_alone_would_be_wrong_far_more_often() -> None:
    claims = _simulated(World()).wilcoxon
    assert rate(int((claims != 0).sum()), NUM)["low"] > 0.2


def test_a_gain_of_one_point_is_found_with_three_seeds() -> None:
    found = _simulated(World(runs=3, gain=0.01)).method[:, 0]
    assert rate(int((found == 1).sum()), NUM)["rate"] >= 0.8


def test_nadeau_bengio_is_the_stricter_one() -> None:
    world = World(runs=3, gain=0.01)
    assert (_simulated(world).nadeau_bengio == 1).mean() < (_simulated(world).method == 1).mean()
    assert (_simulated(World()).nadeau_bengio != 0).mean() < 0.03


def test_nadeau_bengio_holds_where_overlapping_training_sets_mislead_the_folds() -> None:
    seen = _simulated(World(runs=3, overlap=0.2))
    assert rate(int((seen.fold_t != 0).sum()), NUM)["low"] > 0.07
    assert rate(int((seen.nadeau_bengio != 0).sum()), NUM)["high"] <= 0.07


@pytest.mark.parametrize("skewed", [False, True])
def test_bca_intervals_cover(skewed: bool) -> None:
    seen = _simulated(World(run_sd=0, gain=0.01, skewed=skewed))
    assert 0.93 <= ((seen.low <= 0.01) & (seen.high >= 0.01)).mean() <= 0.97


def test_the_hierarchical_bootstrap_is_near_its_level() -> None:
    world = World()
    claims = hierarchical_claims(world, world.scores(400, np.random.default_rng(0)), resamples=400)
    assert 0.03 <= (claims != 0).mean() <= 0.15


@pytest.mark.parametrize(
    "world",
    [
        World(runs=3, gain=0.004),
        World(arms=3, cases=61, gain=0.008),
        World(arms=3, cases=61, gain=0.008, baseline=True),
    ],
)
def test_analyse_decides_as_the_simulation_does(world: World) -> None:
    scores = world.scores(12, np.random.default_rng(0))
    simulated = verdicts(world, scores, resamples=500)
    names = {arm: f"arm_{arm}" for arm in range(world.arms)}
    for i, one in enumerate(scores):
        stats = analyse(world.frame(one), "arm_1" if world.baseline else None, num_bootstrap=500)
        block = stats.main_block("simulated")
        pairs = [pair for pair in block.pairs if not world.baseline or pair.b == "arm_1"]
        for j, ((a, b), pair) in enumerate(zip(world.pairs(), pairs, strict=True)):
            assert (pair.a, pair.b) == (names[a], names[b])
            assert pair.interval.low == pytest.approx(simulated.low[i, j], abs=1e-12)
            better = {1: names[a], -1: names[b], 0: None}
            assert pair.verdict.better == better[int(simulated.cases[i, j])]
            claimed = pair.verdict.level in ("better", "ahead, too few seeds")
            assert claimed == bool(simulated.method[i, j])
            strict = pair.method_layer.nadeau_bengio.p_holm
            assert (strict < 0.05) == bool(simulated.nadeau_bengio[i, j])


def test_the_worlds_have_the_noise_that_they_name() -> None:
    world = World(cases=100, runs=2, run_sd=0.005, gain=0.01)
    scores = world.scores(3000, np.random.default_rng(0))
    gap = scores[:, 0, 0] - scores[:, 1, 0]
    assert gap.mean() == pytest.approx(0.01, abs=3e-4)
    quiet = World(run_sd=0).scores(400, np.random.default_rng(0))
    assert (quiet[:, 0] - quiet[:, 1]).std() == pytest.approx(0.03, rel=0.01)
    shift = (scores[:, 0, 0] - scores[:, 0, 1]).reshape(3000, 5, 20)
    assert shift.std(axis=2).max() < 1e-12
    assert shift[..., 0].std() == pytest.approx(0.005 * 2**0.5, rel=0.02)


def test_an_exact_interval_of_a_rate() -> None:
    found = rate(5, 100)  # Clopper & Pearson's 1.64% to 11.28%
    assert (found["rate"], round(found["low"], 4), round(found["high"], 4)) == (0.05, 0.0164, 0.1128)
