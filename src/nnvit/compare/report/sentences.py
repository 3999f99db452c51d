"""What the report says in sentences: the methods to paste, and what the figures cannot show."""

from typing import Any

from .citations import REFERENCES, Reference
from .page_facts import Facts


def methods(facts: Facts) -> tuple[list[str], list[Reference]]:
    """Paragraphs with numbered citations, and the references in the order of the numbers."""
    cited: list[Reference] = []

    def cite(*keys: str) -> str:
        for key in keys:
            if REFERENCES[key] not in cited:
                cited.append(REFERENCES[key])
        return "[" + ", ".join(str(cited.index(REFERENCES[key]) + 1) for key in keys) + "]"

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
    tolerance = facts.options.get("nsd_tolerance_mm")
    unit = facts.options.get("spacing_unit", "mm")
    at = f" at a tolerance of {tolerance:g} {unit}" if isinstance(tolerance, (int, float)) else ""
    text = (
        f"Metrics follow Metrics Reloaded {cite('maierhein2024metrics')}: Dice and IoU for overlap, the normalised surface "
        f"distance (NSD{at}; {cite('nikolov2021surface')}) and the 95th percentile of the Hausdorff distance (HD95) for the "
        "boundary, each on cases with a non-empty reference only; where the reference is empty, the volume of false positives "
        "is reported."
    )
    if facts.options.get("hd95_rule"):
        text += f" HD95 is {facts.options['hd95_rule']}."
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
    """What this report cannot say, most important first; only what holds for these data."""
    return [text for holds, text in (*_of_runs(facts), *_of_scope(facts), *_of_records(facts)) if holds]


def _of_runs(facts: Facts) -> list[tuple[bool, str]]:
    """What few folds, seeds and cases leave open; each with whether it holds."""
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
    """What no comparison of this kind shows."""
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
    """What is missing in these data and records."""
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
