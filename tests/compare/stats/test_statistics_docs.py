"""docs/statistics.md says what the code does: its table is the proof's, and its keys are those of stats.json."""

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from proofs.simulation import World

from nnvit.compare.stats.analysis import analyse

REPOSITORY = Path(__file__).parents[3]
DOCS = (REPOSITORY / "docs" / "statistics.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def rates() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((REPOSITORY / "proofs" / "verdict_rates.json").read_text(encoding="utf-8"))
    return found


def test_the_table_is_the_proofs(rates: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "proofs")  # as for every script, its folder
    tables = runpy.run_path(str(REPOSITORY / "proofs" / "verdict_rates.py"))["tables"]
    assert DOCS.split("--table -->\n")[1].split("\n<!-- end")[0] == tables(rates)
    assert rates["commit"][:7] in DOCS


def test_the_proof_reaches_the_bars(rates: dict[str, Any]) -> None:
    worlds = {name: row["rates"] for name, row in rates["worlds"].items()}
    for name in ("no difference, 1 seed", "no difference, 3 seeds", "no difference, 3 seeds, 4 arms"):
        assert worlds[name]["method"]["high"] <= 0.07, name
    assert worlds["analysed, no difference, 3 seeds"]["headline"]["high"] <= 0.07
    assert worlds["1 point, 3 seeds"]["method"]["low"] >= 0.8
    assert worlds["analysed, 1 point, 3 seeds"]["headline"]["rate"] >= 0.8
    for kind in ("normal", "skewed"):
        assert 0.93 <= worlds[f"intervals, 300 cases, {kind}"]["covered"]["rate"] <= 0.97


def _keys(value: Any, *without: str) -> set[str]:
    """Returns the keys of nested dicts and lists, except within `without`, whose keys are names such as those of arms."""
    if isinstance(value, list):
        return set().union(*(_keys(item) for item in value))
    if not isinstance(value, dict):
        return set()
    return set(value).union(*(_keys(inner) for key, inner in value.items() if key not in without))


def test_every_key_is_in_the_docs() -> None:
    world = World(arms=3, cases=30)
    cases = world.frame(world.scores(1, np.random.default_rng(0))[0])
    human = cases[cases["arm"] == "arm_0"]
    found = analyse(
        pd.concat([cases, cases.assign(dataset="second")]), "arm_0", human=human, num_bootstrap=99
    ).to_dict()
    dataset, across = found["datasets"]["second"], found["across_datasets"]["dice"]
    block = dataset["metrics"]["dice"]["mean"]
    keys = _keys(found, "datasets", "across_datasets") | _keys(dataset, "metrics", "runs", "folds") | _keys(across)
    keys |= (
        _keys(block, "arms", "human")
        | _keys(block["arms"]["arm_0"], "runs")
        | _keys(block["human"], "arms_on_same_cases")
    )
    assert {
        key for key in keys if f"`{key}`" not in DOCS and f".{key}`" not in DOCS and f"`{key}." not in DOCS
    } == set()
