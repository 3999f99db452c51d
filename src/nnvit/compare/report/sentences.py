"""The sentences of the report: the methods to paste with their citations, and what the figures cannot show."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pandas as pd

from nnvit.compare.audit.fairness import Audit
from nnvit.compare.inputs.costs import ArmCost
from nnvit.compare.options import Options
from nnvit.compare.stats.analysis import Comparison


@dataclass(frozen=True, kw_only=True)
class _Citation:
    """A cited paper: bibtex is its entry in references.bib, text the same for a list of references."""

    bibtex: str
    text: str


def _citations() -> dict[str, _Citation]:
    """Key -> citation, from references.bib, whose entries have the fields author, title, note, year and url."""
    source = (files(__package__) / "references.bib").read_text(encoding="utf-8")
    found = {}
    for bibtex, key in re.findall(r"(@misc\{(\w+),\n.*?\n\})", source, flags=re.DOTALL):
        field = dict(re.findall(r"^  (\w+) = \{+(.*?)\}+,$", bibtex, flags=re.MULTILINE))
        names = field["author"].replace(" and others", ", et al").replace(" and ", "; ").rstrip(".")
        text = f"{names}. {field['title']}. {field['note']}, {field['year']}. {field['url']}"
        found[key] = _Citation(bibtex=bibtex, text=text)
    return found


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the sentences depend on.

    cases: over all data sets. folds: the least of any data set. runs: the least number of trainings per fold of any arm.
    metrics: keys that have values. missed: structures that an arm did not find at all, over arms, runs, cases and labels.
    empty: pairs of case and label with an empty reference. unknown: titles of audit rows that some arm does not record.
    left_out: cases without a value of the main metric in some arm.
    """

    arms: Sequence[str]
    datasets: Sequence[str]
    cases: int
    folds: int
    runs: int
    metrics: Sequence[str]
    resamples: int
    human: bool
    options: Options
    missed: int
    empty: int
    unknown: Sequence[str]
    devices: Sequence[str]
    left_out: int

    @classmethod
    def of(
        cls,
        comparison: Comparison,
        cases: pd.DataFrame,
        audit: Audit,
        cost: Sequence[ArmCost],
        options: Options,
    ) -> "Facts":
        """Collects them from a comparison."""
        results = comparison.datasets.values()
        blocks = [comparison.main_block(dataset) for dataset in comparison.datasets]
        references = cases.drop_duplicates(["dataset", "case", "label"])
        return cls(
            arms=comparison.arms,
            datasets=list(comparison.datasets),
            cases=sum(found.n_cases for found in results),
            folds=min(len({name for arm in found.folds.values() for name in arm} - {""}) for found in results),
            runs=min(len(runs) for found in results for runs in found.runs.values()),
            metrics=[metric.key for metric in comparison.metrics],
            resamples=int(comparison.settings["resamples"]),
            human=any(block.human for block in blocks),
            options=options,
            missed=int(cases["missed"].sum()),
            empty=int((references["n_ref"] == 0).sum()),
            unknown=[row.title for row in audit.rows if row.status == "unknown"],
            devices=sorted({row.device for row in cost if row.device}),
            left_out=sum(block.left_out for block in blocks),
        )


def methods(facts: Facts) -> tuple[list[str], list[_Citation]]:
    """Returns paragraphs with numbered citations, and the citations in the order of the numbers."""
    known = _citations()
    cited: list[_Citation] = []

    def cite(*keys: str) -> str:
        for key in keys:
            if known[key] not in cited:
                cited.append(known[key])
        return "[" + ", ".join(str(cited.index(known[key]) + 1) for key in keys) + "]"

    paragraphs = [_protocol(facts, cite), _metrics(facts, cite), _tests(facts, cite)]
    if len(facts.datasets) > 1:
        test = "Friedman's test" if len(facts.arms) > 2 else "the exact sign test"
        paragraphs.append(
            f"Over the {len(facts.datasets)} data sets, arms were compared by their average ranks with {test} and "
            f"the Nemenyi critical difference at 5% {cite('demsar2006comparisons')}."
        )
    return paragraphs, cited


def _protocol(facts: Facts, cite: Any) -> str:
    trainings = f"{_several(facts.folds, 'fold')}, {_several(facts.runs, 'training')} per fold and arm"
    return (
        f"We compared {len(facts.arms)} arms ({', '.join(facts.arms)}) on {', '.join(facts.datasets)} "
        f"({_several(facts.cases, 'case')}; {trainings}) within nnU-Net {cite('isensee2021nnunet')}, following the "
        f"recommendations of nnU-Net Revisited {cite('isensee2024revisited')}. Whether data, splits, preprocessing, schedule, "
        "augmentation, loss and inference were equal was read from the runs' own records before any score was computed."
    )


def _metrics(facts: Facts, cite: Any) -> str:
    tolerance, unit = facts.options.nsd_tolerance_mm, facts.options.spacing_unit
    at = "" if tolerance is None else f" at a tolerance of {tolerance:g} {unit}"
    text = (
        f"Metrics follow Metrics Reloaded {cite('maierhein2024metrics')}: Dice and IoU for overlap, the normalised surface "
        f"distance (NSD{at}; {cite('nikolov2021surface')}) and the 95th percentile of the Hausdorff distance (HD95) for the "
        "boundary, each on cases with a non-empty reference only; where the reference is empty, the volume of false positives "
        "is reported."
    )
    if facts.options.hd95_rule:
        text += f" HD95 is {facts.options.hd95_rule}."
    if "cldice" in facts.metrics:
        text += f" Tubular structures were also scored by clDice {cite('shit2021cldice')}."
    return text


def _tests(facts: Facts, cite: Any) -> str:
    text = (
        f"Means are reported with 95% BCa bootstrap intervals over cases ({facts.resamples:,} resamples; "
        f"{cite('efron1987bca')}). That trained models differ is claimed where the interval of the mean paired difference "
        f"excludes zero and the Wilcoxon signed-rank test {cite('wilcoxon1945ranking')}, with zeros treated after Pratt "
        f"{cite('pratt1959zeros')} and p values corrected after Holm {cite('holm1979multiple')}, is below 5%"
    )
    if len(facts.arms) > 2:
        text += f", after Friedman's test over all arms {cite('friedman1937ranks')}"
    text += (
        f"; effect sizes are matched-pairs rank-biserial correlations {cite('kerby2014simple')}. That one method is better "
        "than another is claimed only where a paired t test over the folds agrees with it and each fold was trained at least "
        f"three times; the corrected resampled t test {cite('nadeau2003inference')} and a hierarchical bootstrap over folds and "
        "cases are reported beside it. Ranks are those of the means, with their spread over bootstrap samples of the cases "
        f"{cite('wiesenfarth2021ranking')}."
    )
    return text


def limits(facts: Facts) -> list[str]:
    """Returns what this report cannot say, most important first; only what holds for these data."""
    return [text for holds, text in (*_of_runs(facts), *_of_scope(facts), *_of_records(facts)) if holds]


def _of_runs(facts: Facts) -> list[tuple[bool, str]]:
    """(holds, text) on few folds, seeds and cases."""
    freedom = f"{facts.folds - 1} degree{'s' * (facts.folds != 2)} of freedom"
    return [
        (
            facts.folds < 2,
            "There is one fold, or none that is known, so training noise is unseen: nothing is said about methods, only about "
            "these trained models.",
        ),
        (
            2 <= facts.folds < 5,
            f"{facts.folds} folds are a small sample: a fold-level test with {freedom} finds large differences only.",
        ),
        (
            facts.runs < 3,
            f"Each fold was trained {_times(facts.runs)} in at least one arm; a headline claim takes three seeds.",
        ),
        (
            facts.cases < 100,
            f"{_several(facts.cases, 'case')} are few: intervals are wide and may cover less than they say.",
        ),
    ]


def _of_scope(facts: Facts) -> list[tuple[bool, str]]:
    """(holds, text) on what no comparison of this kind shows."""
    return [
        (
            True,
            "Where no difference is shown, equality isn't shown either: an interval tells how large a difference may still be.",
        ),
        (
            True,
            "The scores are of cases from the same source as the training data. Other scanners, centres or patients may rank "
            "the arms differently.",
        ),
        (len(facts.datasets) == 1, "One data set can't carry a claim about architectures in general."),
        (
            True,
            "Cases are taken as independent. Both eyes, or several scans, of one patient are not: intervals over cases are "
            "then too narrow.",
        ),
        (
            True,
            "P values are corrected over pairs of arms, not over metrics and classes: what is said of other metrics than the "
            "headline's, and of single classes, is description.",
        ),
        (True, "Overlap and surface distance are not clinical benefit. What an error costs depends on the use."),
    ]


def _of_records(facts: Facts) -> list[tuple[bool, str]]:
    """(holds, text) on what is missing in these data and records."""
    return [
        (
            bool(facts.unknown),
            f"The records of some arms don't tell: {', '.join(facts.unknown)}. That they are equal is not known.",
        ),
        (
            facts.missed > 0,
            f"{_several(facts.missed, 'structure')} missed altogether (counted over arms, runs, cases and classes): HD95 is a "
            "stated worst value there, not a measurement.",
        ),
        (
            facts.left_out > 0,
            f"{_several(facts.left_out, 'case')} without a value of the main metric in every arm: left out of its mean, in all "
            "arms alike.",
        ),
        (
            facts.empty > 0,
            f"{_several(facts.empty, 'pair')} of case and class with an empty reference: overlap isn't defined there, and only "
            "false-positive volumes are compared.",
        ),
        (
            not facts.human,
            "No second observer was given, so it is open how much of the remaining error is disagreement about the reference.",
        ),
        (
            len(facts.devices) > 1,
            f"The records name different devices ({', '.join(facts.devices)}); times and memory can't be compared across them.",
        ),
    ]


def _several(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")
