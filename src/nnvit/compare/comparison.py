"""`nnvit compare`: audit, scores, statistics and report of several arms, from their results folders alone."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnvit.errors import CompareError, did_you_mean
from nnvit.records.json_files import write_json

from .audit.fairness import Audit, audit, check_masks
from .inputs.arms import Arm, find_arms
from .inputs.costs import ArmCost, costs
from .inputs.mask_files import NATURAL
from .inputs.references import GroundTruth, ground_truth, human_masks
from .inputs.training_records import ArmRecords, read_records
from .options import Options
from .scores.metrics import HD95_RULE, METRICS, columns
from .scores.scoring import Scores, ScoringJob, score_all

if TYPE_CHECKING:
    import pandas as pd

CACHE = "scores_cache.json"
HUMAN = "human"


@dataclass(frozen=True, kw_only=True)
class Result:
    """The outcome of `compare`. out: the folder of all files. cases: one row per arm, run, fold, case and label.

    stats: the content of stats.json. report: the page.
    """

    out: Path
    headline: str
    audit: Audit
    cases: "pd.DataFrame"
    stats: dict[str, Any]
    cost: list[ArmCost]
    report: Path


def compare(
    arms: Sequence[str | Path],
    *,
    dataset: str | int | Sequence[str | int] | None = None,
    configuration: str = "2d",
    folds: Sequence[str | int] | None = None,
    baseline: str | None = None,
    human: Path | str | None = None,
    reference: Path | str | None = None,
    images: Path | str | None = None,
    tubular: Sequence[str] = (),
    nsd_tolerance: float | None = None,
    allow: Sequence[str] = (),
    out: Path | str = "comparison",
    metric: str = "dice",
    processes: int | None = None,
    quiet: bool = False,
) -> Result:
    """Compares arms and writes report.html, cases.csv, stats.json, figures and tables to `out`.

    arms: results folders, folders of masks, names under nnUNet_results/<dataset>, or NAME=any of them; runs of one NAME,
    and recipes that differ in their seed alone, are one arm. baseline: the arm that the others are compared with.
    human: a second observer's masks. reference: the reference masks, where nnU-Net's folders are not available.
    tubular: labels that get clDice. nsd_tolerance: mm; by default the longest edge of a voxel. allow: keys of the audit
    whose difference is declared. metric: the one that the headline is about. processes: None means one per core.

    The second run of a comparison scores only what has changed. Scripts need `if __name__ == "__main__":`, because the
    masks are scored in other processes. Raises CompareError for what cannot be read or cannot be compared.
    """
    out, given = Path(out), _paths(human=human, reference=reference, images=images)
    _check(metric, images=given["images"])
    found = find_arms(
        arms,
        datasets=_words(dataset),
        configuration=configuration,
        folds=_words(folds) or None,
        unnamed=_unnamed(dataset, given["reference"]),
    )
    baseline = _baseline(baseline, found)
    records = read_records(found)
    fairness = audit(found, records, allow=allow, baseline=baseline)
    fairness.refuse()
    masks = _Masks(found, records, given["reference"], given["human"], tubular, nsd_tolerance)
    scored, fairness = masks.score(fairness, records, out, processes=processes, quiet=quiet)
    fairness.refuse()
    _say(fairness.lines(), quiet)
    options = masks.options(
        Options(configuration=found[0].runs[0].configuration, baseline=baseline, metric=metric, allow=list(allow))
    )
    return _write(out, found, fairness, masks, scored, costs(records), options, given["images"], quiet)


class _Masks:
    """The masks of all arms and of the second observer, and the ground truth of each data set that they are scored against."""

    def __init__(
        self,
        arms: list[Arm],
        records: Mapping[str, ArmRecords],
        reference: Path | None,
        human: Path | None,
        tubular: Sequence[str],
        tolerance: float | None,
    ) -> None:
        datasets = list(dict.fromkeys(run.dataset for arm in arms for run in arm.runs))
        several = len(datasets) > 1
        self.truth: dict[str, GroundTruth] = {}
        self.notes: list[str] = []
        self.jobs: list[ScoringJob] = []
        self.places: list[dict[str, str]] = []
        self.human = human
        for name in datasets:
            self.truth[name] = ground_truth(
                arms, records, name, given=reference, several=several, tubular=tubular, tolerance=tolerance
            )
            self.notes += self.truth[name].notes
            self._add_arms(arms, name)
            if human is not None:
                self._add_human(human / name if several and (human / name).is_dir() else human, name)

    def _add_arms(self, arms: list[Arm], name: str) -> None:
        for arm in arms:
            for run in arm.runs:
                for fold in run.folds if run.dataset == name else ():
                    for case, path in fold.predictions.items():
                        self._add(name, case, path, arm=arm.name, run=run.name, fold=fold.name)

    def _add_human(self, folder: Path, name: str) -> None:
        drawn = human_masks(folder, self.truth[name].references)
        for case, path in drawn.items():
            self._add(name, case, path, arm=HUMAN, run="", fold="", lenient=True)
        left = len(self.truth[name].references) - len(drawn)
        if left:
            self.notes.append(f"{name}: the second observer has no mask of {left} of the cases.")

    def _add(
        self, dataset: str, case: str, path: Path, *, arm: str, run: str, fold: str, lenient: bool = False
    ) -> None:
        truth = self.truth[dataset]
        reference = truth.references.get(case)
        if reference is None:  # left out by --allow cases
            return
        job = ScoringJob(
            reference=reference, prediction=path, labels=truth.labels, tolerance=truth.tolerance, lenient=lenient
        )
        self.jobs.append(job)
        self.places.append({"dataset": dataset, "arm": arm, "run": run, "fold": fold, "case": case})

    def score(
        self, found: Audit, records: Mapping[str, ArmRecords], out: Path, *, processes: int | None, quiet: bool
    ) -> tuple[list[Scores], Audit]:
        """Returns the scores of all jobs, and the audit with what the masks tell."""
        out.mkdir(parents=True, exist_ok=True)
        scored = score_all(self.jobs, cache=out / CACHE, processes=processes, quiet=quiet)
        of_mask = {job.prediction: scores for job, scores in zip(self.jobs, scored, strict=True)}
        labels = {name: truth.labels for name, truth in self.truth.items()}
        return scored, check_masks(found.noted(self.notes), records, of_mask, labels)

    def tables(self, scored: list[Scores]) -> "tuple[pd.DataFrame, pd.DataFrame | None]":
        """Returns the rows of the arms, and those of the second observer."""
        import pandas as pd

        names = columns()
        rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
        for job, place, scores in zip(self.jobs, self.places, scored, strict=True):
            rows[job.lenient] += [
                place | {"label": label} | {key: row[key] for key in names if key in row}
                for label, row in scores.items()
            ]
        of_arms, of_human = (pd.DataFrame(rows[human], columns=names) for human in (False, True))
        return of_arms, of_human if self.human is not None else None

    def files(self, arms: list[Arm]) -> tuple[dict[str, Path], dict[str, dict[str, Path]]]:
        """Returns the references, and the masks of each arm's first run; cases of several data sets are DATASET/CASE."""

        def full(dataset: str, case: str) -> str:
            return f"{dataset}/{case}" if len(self.truth) > 1 else case

        references = {full(name, case): path for name, t in self.truth.items() for case, path in t.references.items()}
        predictions: dict[str, dict[str, Path]] = {arm.name: {} for arm in arms}
        for job, place in reversed(list(zip(self.jobs, self.places, strict=True))):
            if place["arm"] in predictions and not job.lenient:
                predictions[place["arm"]][full(place["dataset"], place["case"])] = job.prediction
        return references, predictions

    def options(self, asked: Options) -> Options:
        """Returns the options with what they came to."""
        first, *_ = self.truth.values()
        values = first.labels.values.items()
        photographs = all(
            path.suffix.lower() in NATURAL for truth in self.truth.values() for path in truth.references.values()
        )
        return replace(
            asked,
            dataset=", ".join(self.truth),
            datasets=list(self.truth),
            folds=list(dict.fromkeys(place["fold"] for place in self.places if place["fold"])),
            human=self.human is not None,
            tubular=list(first.labels.tubular),
            nsd_tolerance_mm=first.tolerance,
            nsd_tolerance_mm_of={name: truth.tolerance for name, truth in self.truth.items()},
            hd95_rule=HD95_RULE,
            labels={name: held[0] if len(held) == 1 else list(held) for name, held in values},
            ignore_label=first.labels.ignore,
            spacing_unit="px" if photographs else "mm",
            version=version("nnvit"),
            date=datetime.now(UTC).date().isoformat(),
        )


def _write(
    out: Path,
    arms: list[Arm],
    fairness: Audit,
    masks: _Masks,
    scored: list[Scores],
    cost: list[ArmCost],
    options: Options,
    images: Path | None,
    quiet: bool,
) -> Result:
    from . import report
    from .report.wording import without_home
    from .stats import analysis
    from .stats.headline import headline

    if Path(sys.argv[0]).stem == "nnvit":
        options = replace(options, command=without_home(" ".join(sys.argv)))
    cases, observer = masks.tables(scored)
    cases.to_csv(out / "cases.csv", index=False)
    if observer is not None:
        observer.to_csv(out / "cases_human.csv", index=False)
    _say(["statistics …"], quiet)
    comparison = analysis.analyse(cases, options.baseline, options.metric, observer, spacing_unit=options.spacing_unit)
    answer = headline(comparison, fairness)
    stats = comparison.to_dict() | {
        "headline": answer,
        "audit": fairness.to_dict(),
        "cost": [row.to_dict() for row in cost],
        "options": options.to_dict(),
    }
    write_json(out / "stats.json", stats, indent=2, allow_nan=False)
    references, predictions = masks.files(arms)
    _say(["report …"], quiet)
    page = report.write(
        out,
        cases=cases,
        comparison=comparison,
        audit=fairness,
        cost=cost,
        arms=arms,
        options=options,
        images=images,
        references=references,
        predictions=predictions,
    )
    return Result(out=out, headline=answer, audit=fairness, cases=cases, stats=stats, cost=cost, report=page)


def _check(metric: str, *, images: Path | None) -> None:
    known = [each.key for each in METRICS]
    if metric not in known:
        raise CompareError(
            f"--metric {metric} is not measured; use one of {', '.join(known)}.{did_you_mean(metric, known)}"
        )
    if images is not None and not images.is_dir():
        raise CompareError(f"--images {images} is not a folder; give the folder of the images, for the overlays.")


def _unnamed(dataset: Any, reference: Path | None) -> str:
    """The name of the data set where no arm states one: that of --dataset, else of the folder of the references."""
    words = _words(dataset)
    if len(words) == 1 or reference is None:
        return words[0] if len(words) == 1 else "data"
    folder = reference.resolve()
    return folder.parent.name if folder.name.startswith(("labels", "gt_")) else folder.name


def _baseline(given: str | None, arms: list[Arm]) -> str | None:
    """The name of the arm that `given` names or whose folder it is. Raises CompareError if there is none, or only one arm."""
    if len(arms) < 2:
        raise CompareError(
            f"a comparison needs two arms, got one: {', '.join(arm.name for arm in arms)}. Give another results folder; seeds "
            "of one recipe are runs of one arm."
        )
    if given is None:
        return None
    for arm in arms:
        if given in (arm.name, str(arm.path), arm.path.name, arm.path.name.rpartition("__")[0]):
            return arm.name
    names = [arm.name for arm in arms]
    raise CompareError(
        f"--baseline {given} is none of the arms, which are {', '.join(names)}.{did_you_mean(given, names)}"
    )


def _words(given: Any) -> list[str]:
    """One value, several or none, as a list of texts."""
    if given is None:
        return []
    return [str(word) for word in given] if isinstance(given, list | tuple) else [str(given)]


def _paths(**given: Path | str | None) -> dict[str, Path | None]:
    return {name: None if path is None else Path(path).expanduser() for name, path in given.items()}


def _say(lines: list[str], quiet: bool) -> None:
    if not quiet:
        print("\n".join(lines), flush=True)
