"""`nnvit compare`: audit, scores, statistics and report of several arms, from their results folders alone."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnvit.errors import CompareError, did_you_mean

from .audit.fairness import Audit, audit, check_masks
from .inputs import references as data
from .inputs.arms import Arm, find_arms
from .inputs.costs import costs
from .scores.metrics import COLUMNS, HD95_RULE, LOWER_IS_BETTER, METRICS, Labels
from .scores.scoring import Job, Scores, score_all

if TYPE_CHECKING:
    import pandas as pd

CACHE = "scores_cache.json"
HUMAN = "human"


@dataclass(frozen=True, kw_only=True)
class Result:
    """out: the folder of everything that was written. cases: one row per arm, run, fold, case and label."""

    out: Path
    headline: str
    audit: Audit
    cases: "pd.DataFrame"
    stats: dict[str, Any]
    cost: list[dict[str, Any]]
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
    and recipes that differ in their seed alone, are one arm. baseline: the arm that the others are held against.
    human: a second observer's masks. reference: the reference masks, where nnU-Net's folders are not at hand.
    tubular: labels that get clDice. nsd_tolerance: mm; by default the longest edge of a voxel. allow: keys of the audit
    whose difference is declared. metric: what the headline is about. processes: None takes the cores there are.

    The second run of a comparison scores only what has changed. Scripts need `if __name__ == "__main__":`, since the
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
    asked = {
        "configuration": found[0].runs[0].configuration,
        "baseline": baseline,
        "metric": metric,
        "allow": list(allow),
    }
    fairness = audit(found, allow=allow, baseline=baseline)
    fairness.refuse()
    work = _Work(found, given["reference"], given["human"], tubular, nsd_tolerance)
    scored = _score(work, found, fairness, out, processes=processes, quiet=quiet)
    _say(fairness.lines(), quiet)
    return _write(out, found, fairness, work, scored, work.options(**asked), given["images"], quiet)


def examine(
    arms: Sequence[str | Path],
    *,
    dataset: str | int | Sequence[str | int] | None = None,
    configuration: str = "2d",
    folds: Sequence[str | int] | None = None,
    baseline: str | None = None,
    reference: Path | str | None = None,
    allow: Sequence[str] = (),
    out: Path | str = "comparison",
) -> Audit:
    """The audit alone, with what the masks tell; arguments as `compare`'s. It refuses nothing."""
    found = find_arms(arms, datasets=_words(dataset), configuration=configuration, folds=_words(folds) or None)
    fairness = audit(found, allow=allow, baseline=_baseline(baseline, found))
    work = _Work(found, _paths(reference=reference)["reference"], None, (), None)
    _score(work, found, fairness, Path(out), processes=None, quiet=True, refuse=False)
    return fairness


def _score(
    work: "_Work",
    arms: list[Arm],
    fairness: Audit,
    out: Path,
    *,
    processes: int | None,
    quiet: bool,
    refuse: bool = True,
) -> list[Scores]:
    """The scores of all jobs; what the masks tell is added to the audit, which may refuse to go on."""
    fairness.notes += work.notes
    out.mkdir(parents=True, exist_ok=True)
    scored = score_all(work.jobs, cache=out / CACHE, processes=processes, quiet=quiet)
    of_mask = {job.prediction: scores for job, scores in zip(work.jobs, scored, strict=True)}
    check_masks(fairness, arms, of_mask, work.labels)
    if refuse:
        fairness.refuse()
    return scored


class _Work:
    """What is scored against what: references, labels and tolerances of each data set, and the jobs in order."""

    def __init__(
        self,
        arms: list[Arm],
        reference: Path | None,
        human: Path | None,
        tubular: Sequence[str],
        tolerance: float | None,
    ) -> None:
        self.datasets = list(dict.fromkeys(run.dataset for arm in arms for run in arm.runs))
        several = len(self.datasets) > 1
        self.labels: dict[str, Labels] = {}
        self.tolerance: dict[str, float] = {}
        self.references: dict[str, dict[str, Path]] = {}
        self.notes: list[str] = []
        self.jobs: list[Job] = []
        self.places: list[dict[str, str]] = []
        self.human = human
        for name in self.datasets:
            self._prepare(arms, name, reference, tubular, tolerance, several=several)
            self._add_arms(arms, name)
            if human is not None:
                self._add_human(human / name if several and (human / name).is_dir() else human, name)

    def _prepare(
        self,
        arms: list[Arm],
        name: str,
        reference: Path | None,
        tubular: Sequence[str],
        tolerance: float | None,
        *,
        several: bool,
    ) -> None:
        shared = set.intersection(*(set(run.predictions()) for arm in arms for run in arm.runs if run.dataset == name))
        found = data.references_of(arms, name, reference, several=several)
        self.references[name] = {case: path for case, path in found.items() if case in shared}
        if not shared:
            raise CompareError(f"{name}: there is no case that all arms have.")
        self.labels[name] = data.labels_of(arms, name, self.references[name], tubular)
        self.tolerance[name], notes = data.tolerance_for(list(self.references[name].values()), tolerance)
        self.notes += notes

    def _add_arms(self, arms: list[Arm], name: str) -> None:
        for arm in arms:
            for run in arm.runs:
                for fold in run.folds if run.dataset == name else ():
                    for case, path in fold.predictions.items():
                        self._add(name, case, path, arm=arm.name, run=run.name, fold=fold.name)

    def _add_human(self, folder: Path, name: str) -> None:
        drawn = data.human_masks(folder, self.references[name])
        for case, path in drawn.items():
            self._add(name, case, path, arm=HUMAN, run="", fold="", lenient=True)
        left = len(self.references[name]) - len(drawn)
        if left:
            self.notes.append(f"{name}: the second observer has no mask of {left} of the cases.")

    def _add(
        self, dataset: str, case: str, path: Path, *, arm: str, run: str, fold: str, lenient: bool = False
    ) -> None:
        reference = self.references[dataset].get(case)
        if reference is None:  # left out by --allow cases
            return
        labels, tolerance = self.labels[dataset], self.tolerance[dataset]
        self.jobs.append(Job(reference=reference, prediction=path, labels=labels, tolerance=tolerance, lenient=lenient))
        self.places.append({"dataset": dataset, "arm": arm, "run": run, "fold": fold, "case": case})

    def tables(self, scored: list[Scores]) -> "tuple[pd.DataFrame, pd.DataFrame | None]":
        """The rows of the arms, and those of the second observer."""
        import pandas as pd

        rows: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
        for job, place, scores in zip(self.jobs, self.places, scored, strict=True):
            rows[job.lenient] += [
                place | {"label": label} | {key: columns[key] for key in COLUMNS if key in columns}
                for label, columns in scores.items()
            ]
        of_arms, of_human = (pd.DataFrame(rows[human], columns=list(COLUMNS)) for human in (False, True))
        return of_arms, of_human if self.human is not None else None

    def masks(self, arms: list[Arm]) -> tuple[dict[str, Path], dict[str, dict[str, Path]]]:
        """References, and of each arm its first run's masks; cases of several data sets are called DATASET/CASE."""

        def called(dataset: str, case: str) -> str:
            return f"{dataset}/{case}" if len(self.datasets) > 1 else case

        references = {called(name, case): path for name, held in self.references.items() for case, path in held.items()}
        predictions: dict[str, dict[str, Path]] = {arm.name: {} for arm in arms}
        for job, place in reversed(list(zip(self.jobs, self.places, strict=True))):
            if place["arm"] in predictions and not job.lenient:
                predictions[place["arm"]][called(place["dataset"], place["case"])] = job.prediction
        return references, predictions

    def options(self, **more: Any) -> dict[str, Any]:
        """What was asked for and what it came to, as plain data for the report and stats.json."""
        first = self.labels[self.datasets[0]]
        folds = list(dict.fromkeys(place["fold"] for place in self.places if place["fold"]))
        return more | {
            "dataset": ", ".join(self.datasets),
            "datasets": self.datasets,
            "folds": folds,
            "human": self.human is not None,
            "tubular": list(first.tubular),
            "nsd_tolerance_mm": self.tolerance[self.datasets[0]],
            "nsd_tolerance_mm_of": self.tolerance,
            "hd95_rule": HD95_RULE,
            "labels": {name: values[0] if len(values) == 1 else list(values) for name, values in first.values.items()},
            "ignore_label": first.ignore,
            "spacing_unit": "px" if self._in_pixels() else "mm",
            "version": version("nnvit"),
            "date": datetime.now(UTC).date().isoformat(),
            "command": data.without_home(" ".join(sys.argv)) if Path(sys.argv[0]).stem == "nnvit" else "",
        }

    def _in_pixels(self) -> bool:
        from .inputs.mask_files import NATURAL

        return all(path.suffix.lower() in NATURAL for held in self.references.values() for path in held.values())


def _write(
    out: Path,
    arms: list[Arm],
    fairness: Audit,
    work: _Work,
    scored: list[Scores],
    options: dict[str, Any],
    images: Path | None,
    quiet: bool,
) -> Result:
    from . import report
    from .stats import analysis

    cases, observer = work.tables(scored)
    cases.to_csv(out / "cases.csv", index=False)
    if observer is not None:
        observer.to_csv(out / "cases_human.csv", index=False)
    _say(["statistics …"], quiet)
    stats = analysis.analyse(cases, options["baseline"], options["metric"], observer)
    judged, cost = fairness.to_dict(), costs(arms)
    headline = analysis.headline(stats | {"spacing_unit": options["spacing_unit"]}, judged)
    everything = stats | {"headline": headline, "audit": judged, "cost": cost, "options": options}
    data.write_json(out / "stats.json", everything)
    references, predictions = work.masks(arms)
    _say(["report …"], quiet)
    page = report.write(
        out,
        cases=cases,
        stats=stats,
        audit=judged,
        cost=cost,
        arms=arms,
        options=options,
        images=images,
        references=references,
        predictions=predictions,
    )
    return Result(out=out, headline=headline, audit=fairness, cases=cases, stats=everything, cost=cost, report=page)


def _check(metric: str, *, images: Path | None) -> None:
    known = (*METRICS, *sorted(LOWER_IS_BETTER - set(METRICS)))
    if metric not in known:
        raise CompareError(
            f"--metric {metric} is not measured; use one of {', '.join(known)}.{did_you_mean(metric, known)}"
        )
    if images is not None and not images.is_dir():
        raise CompareError(f"--images {images} is not a folder; give the folder of the images, for the overlays.")


def _unnamed(dataset: Any, reference: Path | None) -> str:
    """What to call the data set of arms that name none: as it was asked for, else as the folder of the references."""
    words = _words(dataset)
    if len(words) == 1 or reference is None:
        return words[0] if len(words) == 1 else "data"
    folder = reference.resolve()
    return folder.parent.name if folder.name.startswith(("labels", "gt_")) else folder.name


def _baseline(given: str | None, arms: list[Arm]) -> str | None:
    """The name of the arm that `given` means, by its name or its folder. Raises CompareError, for a single arm too."""
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
    """A value, several, or none, as texts."""
    if given is None:
        return []
    return [str(word) for word in given] if isinstance(given, list | tuple) else [str(given)]


def _paths(**given: Path | str | None) -> dict[str, Path | None]:
    return {name: None if path is None else Path(path).expanduser() for name, path in given.items()}


def _say(lines: list[str], quiet: bool) -> None:
    if not quiet:
        print("\n".join(lines), flush=True)
