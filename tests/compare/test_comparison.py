"""The whole comparison, from folders to files, as the command and as the function."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from nnvit.cli import app
from nnvit.compare.comparison import COLUMNS, Result, compare
from nnvit.compare.stats.analysis import analyse
from nnvit.errors import CompareError

from .planted import (
    CASES,
    PLANS,
    Study,
    change_json,
    copy_study,
    examine,
    predicted_mask,
    recipe,
    reference_mask,
    write_json,
    write_png,
)

HEAVY = ("torch", "nnunetv2", "timm", "transformers", "batchgenerators")


def models(study: Study) -> list[Path]:
    return sorted(study.results.iterdir())


def human(study: Study) -> Path:
    """A second observer who drew all cases but the last."""
    folder = study.root / "human"
    folder.mkdir()
    for number, case in enumerate(CASES[:-1]):
        write_png(folder / f"{case}_2nd.png", predicted_mask(reference_mask(number), seed=number, noise=1))
    return folder


@pytest.fixture(scope="module")
def whole(template: Study, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Two arms, one of them with three seeds, and a second observer."""
    study = copy_study(template, tmp_path_factory.mktemp("whole"))
    for seed in (1, 2):
        study.nnvit(f"vit_s{seed}", recipe(name=f"vit_s{seed}", training={"seed": seed}), noise=seed + 2)
    return compare(
        models(study),
        baseline="nnUNetTrainer",
        human=human(study),
        tubular=["vessel"],
        out=study.root / "out",
        quiet=True,
    )


def test_every_arm_run_fold_case_and_label_has_a_row(whole: Result) -> None:
    cases = whole.cases
    assert list(cases.columns) == list(COLUMNS)
    assert len(cases) == (1 + 3) * 12 * 2
    assert cases.groupby(["arm", "run"], sort=False).size().to_dict() == {
        ("nnUNetTrainer", ""): 24,
        ("vit", "0"): 24,
        ("vit", "1"): 24,
        ("vit", "2"): 24,
    }
    empty = cases[cases["n_ref"] == 0]
    assert set(empty["case"]) == {CASES[0]}
    assert empty["dice"].isna().all()
    assert empty["fp_volume_mm3"].notna().all()
    assert cases.loc[cases["label"] == "vessel", "cldice"].notna().sum() == 4 * 11
    assert cases.loc[cases["label"] == "disc", "cldice"].isna().all()


def test_all_files_are_written(whole: Result) -> None:
    assert whole.report == whole.out / "report.html"
    assert whole.report.stat().st_size > 10_000
    assert list((whole.out / "figures").glob("*.svg"))
    assert list((whole.out / "tables").glob("*.tex"))
    table = pd.read_csv(whole.out / "cases.csv", keep_default_na=False, dtype=str)
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == len(whole.cases)


def test_stats_json_is_valid_json_and_holds_everything(whole: Result) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    content = json.loads((whole.out / "stats.json").read_text(), parse_constant=refuse)
    assert content == json.loads(json.dumps(whole.stats))
    assert content["schema"] >= 1
    assert content["audit"]["verdict"] == "fair"
    assert [cost["arm"] for cost in content["cost"]] == ["nnUNetTrainer", "vit"]
    assert content["headline"] == whole.headline
    asked = content["options"]
    assert (asked["baseline"], asked["folds"], asked["tubular"], asked["human"]) == (
        "nnUNetTrainer",
        ["0", "1"],
        ["vessel"],
        True,
    )
    assert asked["labels"] == {"disc": 1, "vessel": 2}
    assert asked["spacing_unit"] == "px"


def test_the_second_observer_is_a_table_of_its_own(whole: Result) -> None:
    table = pd.read_csv(whole.out / "cases_human.csv")
    assert sorted(table["case"].unique()) == CASES[:-1]
    assert "human" not in set(whole.cases["arm"])
    assert any("the second observer has no mask of 1 of the cases" in note for note in whole.audit.notes)


@pytest.mark.slow
def test_a_whole_comparison_imports_neither_torch_nor_nnunet(template: Study, tmp_path: Path) -> None:
    """Runs in a process of its own, given masks alone: no environment variable, no results next to them."""
    for name, noise in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        for number, case in enumerate(CASES):
            write_png(tmp_path / name / f"{case}.png", predicted_mask(reference_mask(number), seed=number, noise=noise))
    code = (
        "import sys, nnvit.compare.comparison as c\n"
        f"loaded = [name for name in {HEAVY} if name in sys.modules]\n"
        "c.compare(['a', 'b'], reference=sys.argv[1], allow=['recorded'], out='out', quiet=True)\n"
        f"print('heavy:', loaded, [name for name in {HEAVY} if name in sys.modules])"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("nnUNet")}
    words = [sys.executable, "-c", code, str(template.references)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "heavy: [] []" in done.stdout
    assert (tmp_path / "out" / "report.html").is_file()
    assert set(pd.read_csv(tmp_path / "out" / "cases.csv")["dataset"]) == {PLANS["dataset_name"]}


def test_the_command_prints_the_audit_the_answer_and_where_the_report_lies(study: Study, tmp_path: Path) -> None:
    words = [
        "compare",
        "nnUNetTrainer",
        "vit",
        "-d",
        "777",
        "-f",
        "0,1",
        "--allow",
        "patch_size",
        "--metric",
        "hd95_mm",
        "--out",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "audit: fair" in done.output
    assert " px (95% BCa interval" in " ".join(done.output.split())
    assert f"report: {tmp_path / 'out' / 'report.html'}" in done.output


def test_help_names_every_flag() -> None:
    text = CliRunner().invoke(app, ["compare", "--help"]).output
    flags = ["--dataset", "--configuration", "--folds", "--baseline", "--human", "--reference", "--images", "--tubular",
             "--nsd-tolerance", "--allow", "--out"]  # fmt: skip
    assert [flag for flag in flags if flag not in text] == []
    assert "Example" in text


# --- what --allow does to the cases ------------------------------------------------------------------------------------


def rows(study: Study, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Result, dict[str, Any]]:
    """A comparison whose statistics and report are left out; and what the report would have been given."""
    from nnvit.compare import report
    from nnvit.compare.stats import analysis

    given: dict[str, Any] = {}

    def write(out: Path, **parts: Any) -> Path:
        given.update(parts)
        return out / "report.html"

    class Nothing:
        def to_dict(self) -> dict[str, Any]:
            return {"schema": 1}

        def headline(self, _: Any) -> str:
            return ""

    monkeypatch.setattr(analysis, "analyse", lambda *_, **__: Nothing())
    monkeypatch.setattr(report, "write", write)
    return compare(settings.pop("arms", models(study)), out=study.root / "out", quiet=True, **settings), given


def test_different_case_sets_stop_the_comparison(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = models(study)[0] / "fold_0"
    (folder / "validation" / "case_03.png").unlink()
    study.evaluate(folder)
    with pytest.raises(CompareError, match="nnUNetTrainer lacks case_03"):
        rows(study, monkeypatch)
    result, _ = rows(study, monkeypatch, allow=["cases", "predictions"])
    assert sorted(result.cases["case"].unique()) == [case for case in CASES if case != "case_03"]
    assert result.audit.verdict == "fair with declared differences"


def test_different_labels_stop_and_declared_ones_leave_the_common(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {"background": 0, "disc": 1, "cup": 2}
    change_json(models(study)[0] / "dataset.json", lambda content: content.update(labels=labels))
    with pytest.raises(CompareError, match="the arms differ in their labels"):
        rows(study, monkeypatch)
    result, _ = rows(study, monkeypatch, allow=["labels"])
    assert set(result.cases["label"]) == {"disc"}


def repeated(study: Study, *split_anew: str) -> None:
    """Two arms with two runs each; those of `split_anew` hold two of the cases in the other fold."""
    shutil.rmtree(models(study)[0])
    shutil.rmtree(models(study)[0])
    for number, name in enumerate(("one_s0", "one_s1", "two_s0", "two_s1")):
        content = recipe(name=name, model={"weights": "random"}, training={"seed": int(name[-1])})
        folder = study.nnvit(name, content, noise=1 + number % 3, recipe_hash=name[:2].encode().hex() * 16)
        if name not in split_anew:
            continue
        for case, fold, other in (("case_01", 0, 1), ("case_07", 1, 0)):
            mask = f"validation/{case}.png"
            shutil.move(folder / f"fold_{fold}" / mask, folder / f"fold_{other}" / mask)
        for fold in (0, 1):
            study.evaluate(folder / f"fold_{fold}")
            change_json(folder / f"fold_{fold}" / "nnvit_run.json", lambda run: run.update(split_hash="f" * 64))


def test_repeated_cross_validation_may_have_another_split_in_each_run(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same folds in all arms: Nadeau and Bengio's test decides then."""
    repeated(study, "one_s1", "two_s1")
    result, _ = rows(study, monkeypatch)
    assert result.audit.verdict == "fair"
    (splits,) = (row for row in result.audit.rows if row.key == "splits")
    assert splits.status == "equal"
    assert "run 1 fold 0: ffffffff" in splits.values["one"]
    found = analyse(result.cases, num_bootstrap=99).main_block(PLANS["dataset_name"])
    assert found.pairs[0].method_layer.decides == "nadeau_bengio"


@pytest.mark.parametrize("split_anew", [("one_s1",), ("one_s0", "two_s1")])
def test_another_split_in_a_run_of_one_arm_stops_the_comparison(
    study: Study, monkeypatch: pytest.MonkeyPatch, split_anew: tuple[str, ...]
) -> None:
    repeated(study, *split_anew)
    with pytest.raises(CompareError, match="case_01, case_07 lie in different folds of the arms") as stop:
        rows(study, monkeypatch)
    assert "the arms differ in their split" in str(stop.value)


def test_stats_json_does_not_say_whose_machine_it_was(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["/home/somebody/env/bin/nnvit", "compare", "unet=/home/somebody/results/unet/masks", "vit", "-f", "0,1"]
    monkeypatch.setattr("sys.argv", words)
    rows(study, monkeypatch)
    asked = json.loads((study.root / "out" / "stats.json").read_text())["options"]
    assert asked["command"] == "…/bin/nnvit compare unet=…/unet/masks vit -f 0,1"


def test_regions_are_scored_as_well_as_labels(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = {"background": 0, "all": [1, 2], "vessel": [2]}
    for model in models(study):
        change_json(model / "dataset.json", lambda content: content.update(labels=labels, regions_class_order=[1, 2]))
    result, _ = rows(study, monkeypatch, allow=["predictions"])
    sums = result.cases.groupby("label")["n_ref"].sum()
    disc = sum(int((reference_mask(number) == 1).sum()) for number in range(12))
    assert sums["all"] == sums["vessel"] + 2 * disc  # two arms


def test_arms_on_several_data_sets(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    other = study.results.parent / "Dataset778_Other"
    shutil.copytree(study.results, other)
    write_png(other / "x.png", np.zeros((4, 4)))  # what else lies about
    shutil.copytree(study.references, study.references.parents[1] / "Dataset778_Other" / "gt_segmentations")
    for model in other.glob("*__2d"):
        change_json(model / "plans.json", lambda plans: plans.update(dataset_name=other.name))
    result, given = rows(study, monkeypatch, arms=["nnUNetTrainer", "vit"], dataset=["777", "778"])
    counts = result.cases.groupby(["dataset", "arm"]).size()
    assert counts.to_dict() == {
        (name, arm): 24 for name in (PLANS["dataset_name"], other.name) for arm in ("nnUNetTrainer", "vit")
    }
    assert len(given["references"]) == len(given["predictions"]["vit"]) == 24
    assert f"{other.name}/case_03" in given["references"]


def test_an_arm_may_be_called_human(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = [f"human={models(study)[0]}", models(study)[1]]
    result, _ = rows(study, monkeypatch, arms=arms, human=human(study))
    assert result.cases.groupby("arm").size().to_dict() == {"human": 24, "vit": 24}


def test_the_report_gets_the_masks_of_the_first_run(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    study.nnvit("vit_s1", recipe(name="vit_s1", training={"seed": 1}), noise=4)
    _, given = rows(study, monkeypatch)
    assert sorted(given["references"]) == CASES
    assert "vit_s0" in str(given["predictions"]["vit"]["case_00"])
    assert {arm.name for arm in given["arms"]} == {"nnUNetTrainer", "vit"}


def test_results_alone_are_enough_with_the_references(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results that were copied to another machine, where the paths in summary.json lead nowhere."""
    monkeypatch.delenv("nnUNet_results")
    monkeypatch.delenv("nnUNet_preprocessed")
    for summary in study.results.rglob("summary.json"):
        text = summary.read_text().replace("/gt_segmentations/", "/no/")
        summary.write_text(text)
    found = examine(models(study), reference=study.references, out=tmp_path / "out")
    assert found.verdict == "fair"


def test_a_validation_folder_may_hold_what_is_no_mask(study: Study, tmp_path: Path) -> None:
    """`--npz` leaves probabilities and properties beside the masks."""
    for fold in models(study)[0].glob("fold_*"):
        (fold / "validation" / "case_00.npz").write_bytes(b"probabilities")
        (fold / "validation" / "case_00.pkl").write_bytes(b"properties")
        write_json(fold / "validation" / "postprocessing.json", {})
    assert examine(models(study), out=tmp_path / "out").verdict == "fair"
