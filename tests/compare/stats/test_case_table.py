"""Pairing: the same cases in every arm, or an error that lists them."""

import numpy as np
import pandas as pd
import pytest
from proofs.simulation import World

from nnvit.compare.stats.case_table import Cube
from nnvit.errors import CompareError

SMALL = World(cases=6, folds=2)


@pytest.fixture
def cases() -> pd.DataFrame:
    """Two arms, six cases, two folds, one label."""
    return SMALL.frame(SMALL.scores(1, np.random.default_rng(0))[0])


def _with_label(cases: pd.DataFrame, label: str) -> pd.DataFrame:
    return pd.concat([cases, cases.assign(label=label, dice=cases["dice"] / 2)], ignore_index=True)


def test_rows_in_any_order_give_the_same_cube(cases: pd.DataFrame) -> None:
    shuffled = cases.sample(frac=1, random_state=0)
    order = ["arm_0", "arm_1"]
    (one,), (other,) = Cube.of_table(cases, ["dice"]), Cube.of_table(shuffled, ["dice"])
    for arm in order:
        np.testing.assert_array_equal(one.values["dice"][arm], other.values["dice"][arm])
        np.testing.assert_array_equal(one.folds[arm], other.folds[arm])
    assert one.values["dice"]["arm_0"][0, 3, 0] == cases["dice"][3]


def test_a_missing_case_is_named_with_its_arm(cases: pd.DataFrame) -> None:
    with pytest.raises(CompareError, match=r"arm 'arm_1', run '0' lacks 1: case_0005 \(object\)"):
        Cube.of_table(cases.iloc[:-1], ["dice"])


def test_a_missing_label_is_named(cases: pd.DataFrame) -> None:
    both = _with_label(cases, "lesion")
    with pytest.raises(CompareError, match=r"arm 'arm_0', run '0' lacks 6: case_0000 \(lesion\)"):
        Cube.of_table(both[(both["arm"] != "arm_0") | (both["label"] != "lesion")], ["dice"])


def test_a_run_that_lacks_a_fold_is_named() -> None:
    world = World(cases=6, folds=2, runs=2)
    cases = world.frame(world.scores(1, np.random.default_rng(0))[0])
    with pytest.raises(CompareError, match="arm 'arm_0', run '1' lacks 3: case_0003"):
        Cube.of_table(cases[~((cases["arm"] == "arm_0") & (cases["run"] == "1") & (cases["fold"] == "1"))], ["dice"])


def test_an_arm_that_lacks_a_data_set_is_named(cases: pd.DataFrame) -> None:
    other = cases[cases["arm"] == "arm_0"].assign(dataset="second")
    with pytest.raises(
        CompareError, match=r"second: the arms do not have the same cases.*arm 'arm_1' has no case at all"
    ):
        Cube.of_table(pd.concat([cases, other]), ["dice"])


def test_a_case_scored_twice_is_an_error(cases: pd.DataFrame) -> None:
    with pytest.raises(CompareError, match="'case_0000', label 'object' twice in fold '0'"):
        Cube.of_table(pd.concat([cases, cases.iloc[:1]]), ["dice"])


@pytest.mark.parametrize(("rows", "message"), [(slice(0), "no arm has a scored case"), (slice(6), "two arms or more")])
def test_nothing_to_compare_is_an_error(cases: pd.DataFrame, rows: slice, message: str) -> None:
    with pytest.raises(CompareError, match=message):
        Cube.of_table(cases.iloc[rows], ["dice"])


def test_a_lacking_column_is_named(cases: pd.DataFrame) -> None:
    with pytest.raises(CompareError, match=r"lacks the columns \['fold'\]"):
        Cube.of_table(cases.drop(columns="fold"), ["dice"])


def test_a_value_missing_in_one_arm_is_left_out_of_all(cases: pd.DataFrame) -> None:
    cases.loc[(cases["arm"] == "arm_1") & (cases["case"] == "case_0002"), "dice"] = np.nan
    values, keep = Cube.of_table(cases, ["dice"])[0].block("dice", "object")
    assert keep.tolist() == [True, True, False, True, True, True]
    assert {arm: array.shape for arm, array in values.items()} == {"arm_0": (1, 5), "arm_1": (1, 5)}


def test_the_mean_over_labels_skips_an_empty_one_in_every_arm(cases: pd.DataFrame) -> None:
    both = _with_label(cases, "lesion")
    both.loc[(both["arm"] == "arm_1") & (both["label"] == "lesion") & (both["case"] == "case_0002"), "dice"] = np.nan
    values, keep = Cube.of_table(both, ["dice"])[0].block("dice", "mean")
    assert keep.all()
    whole = cases.loc[cases["arm"] == "arm_0", "dice"].to_numpy()
    np.testing.assert_allclose(values["arm_0"][0], whole * [0.75, 0.75, 1, 0.75, 0.75, 0.75])


def test_a_case_without_any_value_is_left_out_of_the_mean(cases: pd.DataFrame) -> None:
    both = _with_label(cases, "lesion")
    both.loc[both["case"] == "case_0000", "dice"] = np.nan
    _, keep = Cube.of_table(both, ["dice"])[0].block("dice", "mean")
    assert keep.tolist() == [False] + [True] * 5


def test_a_test_set_that_every_fold_predicted_has_the_folds_as_runs(cases: pd.DataFrame) -> None:
    other_fold = cases.assign(fold="9", dice=0.5)
    (cube,) = Cube.of_table(pd.concat([cases.assign(fold="0"), other_fold]), ["dice"])
    assert cube.crossed
    assert cube.runs["arm_0"] == ["0/0", "0/9"]
    assert set(cube.folds["arm_0"].ravel()) == {""}


def test_runs_stand_in_the_order_of_their_numbers(cases: pd.DataFrame) -> None:
    twice = pd.concat([cases.assign(run="10"), cases.assign(run="2")])
    assert Cube.of_table(twice, ["dice"])[0].runs["arm_0"] == ["2", "10"]
