"""`nnvit compare`: audit, scores, statistics and report of several arms, from their results folders alone."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnvit.errors import CompareError, did_you_mean
from nnvit.records.json_files import write_json

from . import Options
from .audit.fairness import Audit
from .inputs.arms import Arm, ArmCost
from .inputs.mask_files import NATURAL
from .inputs.references import GroundTruth
from .scores.metrics import HD95_RULE, METRICS
from .scores.scoring import Scores, ScoringJob

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("dataset", "arm", "run", "fold", "case", "label", "n_ref", "n_pred", *(m.key for m in METRICS), "missed")
"""Columns of cases.csv; the first six say which mask and label a row is about."""


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
    out, reference, human, images = Path(out), _path(reference), _path(human), _path(images)
    _check(metric, images)
    found = Arm.find(
        arms,
        datasets=_words(dataset),
        configuration=configuration,
        folds=_words(folds) or None,
        unnamed=_unnamed(_words(dataset), reference),
    )
    baseline = _baseline(baseline, found)
    fairness = Audit.of(found, allow=allow, baseline=baseline)
    fairness.refuse()
    masks = _Masks(found, reference=reference, human=human, tubular=tubular, tolerance=nsd_tolerance)
    masks.score(fairness, out, processes=processes, quiet=quiet)
    fairness.refuse()
    _say(fairness.lines(), quiet)
    configuration = found[0].runs[0].configuration
    options = replace(masks.options(), configuration=configuration, baseline=baseline, metric=metric, allow=list(allow))
    return _write(out, masks, fairness, options, images, quiet)


class _Masks:
    """The masks of all arms and of the second observer, the ground truth of each data set, and the scores."""

    def __init__(
        self,
        arms: list[Arm],
        *,
        reference: Path | None = None,
        human: Path | None = None,
        tubular: Sequence[str] = (),
        tolerance: float | None = None,
    ) -> None:
        self.arms, self.human = arms, human
        self.truth: dict[str, GroundTruth] = {}
        self.notes: list[str] = []
        self.jobs: list[ScoringJob] = []
        self.scores: list[Scores] = []
        datasets = list(dict.fromkeys(run.dataset for arm in arms for run in arm.runs))

        def own(folder: Path | None, name: str) -> Path | None:
            """The part of a folder that is about one data set, where there are several."""
            return folder / name if folder and len(datasets) > 1 and (folder / name).is_dir() else folder

        for name in datasets:
            runs = [run for arm in arms for run in arm.runs if run.dataset == name]
            truth = GroundTruth.of(runs, given=own(reference, name), tubular=tubular, tolerance=tolerance)
            self.truth[name] = truth
            self.notes += truth.notes
            for arm in arms:
                for fold in (fold for run in arm.runs if run.dataset == name for fold in run.folds):
                    self._add(name, fold.predictions, arm=arm.name, run=fold.run.name, fold=fold.name)
            if folder := own(human, name):
                drawn = truth.second_observer(folder)
                self._add(name, drawn, arm="human", run="", fold="", lenient=True)
                if left := len(truth.references) - len(drawn):
                    self.notes.append(f"{name}: the second observer has no mask of {left} of the cases.")

    def _add(self, dataset: str, masks: dict[str, Path], *, lenient: bool = False, **place: str) -> None:
        truth = self.truth[dataset]
        self.jobs += [
            ScoringJob(
                reference=truth.references[case],
                prediction=path,
                labels=truth.labels,
                tolerance=truth.tolerance,
                lenient=lenient,
                place={"dataset": dataset, **place, "case": case},
            )
            for case, path in masks.items()
            if case in truth.references  # others are left out by --allow cases
        ]

    def score(self, fairness: Audit, out: Path, *, processes: int | None, quiet: bool) -> None:
        """Scores all masks, and adds to the audit what they tell."""
        out.mkdir(parents=True, exist_ok=True)
        self.scores = ScoringJob.score_all(self.jobs, cache=out / "scores_cache.json", processes=processes, quiet=quiet)
        of_mask = {job.prediction: scores for job, scores in zip(self.jobs, self.scores, strict=True)}
        labels = {name: truth.labels for name, truth in self.truth.items()}
        fairness.notes += self.notes
        fairness.check_masks(self.arms, of_mask, labels)

    def tables(self) -> "tuple[pd.DataFrame, pd.DataFrame | None]":
        """Returns the rows of the arms, and those of the second observer."""
        import pandas as pd

        rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
        for job, scores in zip(self.jobs, self.scores, strict=True):
            rows[job.lenient] += [job.place | {"label": label} | row for label, row in scores.items()]
        of_arms, of_human = (pd.DataFrame(rows[human], columns=list(COLUMNS)) for human in (False, True))
        return of_arms, of_human if self.human is not None else None

    def files(self) -> tuple[dict[str, Path], dict[str, dict[str, Path]]]:
        """Returns the references, and the masks of each arm's first run; cases of several data sets are DATASET/CASE."""
        references: dict[str, Path] = {}
        predictions: dict[str, dict[str, Path]] = {arm.name: {} for arm in self.arms}
        for job in self.jobs:
            case = f"{job.place['dataset']}/{job.place['case']}" if len(self.truth) > 1 else job.place["case"]
            references[case] = job.reference
            if not job.lenient:
                predictions[job.place["arm"]].setdefault(case, job.prediction)
        return references, predictions

    def options(self) -> Options:
        """Returns what the options of the ground truth came to."""
        first, *_ = self.truth.values()
        endings = {path.suffix.lower() for truth in self.truth.values() for path in truth.references.values()}
        values = first.labels.values.items()
        return Options(
            dataset=", ".join(self.truth),
            datasets=list(self.truth),
            folds=list(dict.fromkeys(job.place["fold"] for job in self.jobs if job.place["fold"])),
            human=self.human is not None,
            tubular=list(first.labels.tubular),
            nsd_tolerance_mm=first.tolerance,
            nsd_tolerance_mm_of={name: truth.tolerance for name, truth in self.truth.items()},
            hd95_rule=HD95_RULE,
            labels={name: held[0] if len(held) == 1 else list(held) for name, held in values},
            ignore_label=first.labels.ignore,
            spacing_unit="px" if endings <= set(NATURAL) else "mm",
            version=version("nnvit"),
            date=datetime.now(UTC).date().isoformat(),
        )


def _write(out: Path, masks: _Masks, fairness: Audit, options: Options, images: Path | None, quiet: bool) -> Result:
    from . import report
    from .report.wording import without_home
    from .stats import analysis

    if Path(sys.argv[0]).stem == "nnvit":
        options = replace(options, command=without_home(" ".join(sys.argv)))
    cost = ArmCost.of_all(masks.arms)
    cases, observer = masks.tables()
    cases.to_csv(out / "cases.csv", index=False)
    if observer is not None:
        observer.to_csv(out / "cases_human.csv", index=False)
    _say(["statistics …"], quiet)
    comparison = analysis.analyse(cases, options.baseline, options.metric, observer, spacing_unit=options.spacing_unit)
    answer = comparison.headline(fairness)
    stats = comparison.to_dict() | {
        "headline": answer,
        "audit": fairness.to_dict(),
        "cost": [asdict(row) for row in cost],
        "options": asdict(options),
    }
    write_json(out / "stats.json", stats, indent=2, allow_nan=False)
    references, predictions = masks.files()
    _say(["report …"], quiet)
    page = report.write(
        out,
        cases=cases,
        comparison=comparison,
        audit=fairness,
        cost=cost,
        arms=masks.arms,
        options=options,
        images=images,
        references=references,
        predictions=predictions,
    )
    return Result(out=out, headline=answer, audit=fairness, cases=cases, stats=stats, cost=cost, report=page)


def _check(metric: str, images: Path | None) -> None:
    known = [each.key for each in METRICS]
    if metric not in known:
        raise CompareError(
            f"--metric {metric} is not measured; use one of {', '.join(known)}.{did_you_mean(metric, known)}"
        )
    if images is not None and not images.is_dir():
        raise CompareError(f"--images {images} is not a folder; give the folder of the images, for the overlays.")


def _unnamed(datasets: list[str], reference: Path | None) -> str:
    """The name of the data set where no arm states one: that of --dataset, else of the folder of the references."""
    if len(datasets) == 1 or reference is None:
        return datasets[0] if len(datasets) == 1 else "data"
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


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given).expanduser()


def _say(lines: list[str], quiet: bool) -> None:
    if not quiet:
        print("\n".join(lines), flush=True)
