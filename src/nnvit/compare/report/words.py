"""What the report says in sentences: the methods to paste, their references, and what the figures cannot show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A paper; `where` is the journal with volume and pages, or the proceedings."""

    key: str
    authors: str
    """In BibTeX's form, joined by `and`."""
    title: str
    where: str
    year: int
    link: str

    @property
    def text(self) -> str:
        """As a reference list has it."""
        names = self.authors.replace(" and others", ", et al").replace(" and ", "; ")
        return f"{names.rstrip('.')}. {self.title}. {self.where}, {self.year}. {self.link}"

    @property
    def bibtex(self) -> str:
        """One entry."""
        fields = {
            "author": self.authors,
            "title": f"{{{self.title}}}",
            "note": self.where,
            "year": self.year,
            "url": self.link,
        }
        body = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
        return f"@misc{{{self.key},\n{body}}}"


REFERENCES = {
    reference.key: reference
    for reference in (
        Reference(
            key="isensee2021nnunet",
            authors="Isensee, Fabian and Jaeger, Paul F. and Kohl, Simon A. A. and Petersen, Jens and Maier-Hein, Klaus H.",
            title="nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
            where="Nature Methods 18, 203–211",
            year=2021,
            link="https://doi.org/10.1038/s41592-020-01008-z",
        ),
        Reference(
            key="isensee2024revisited",
            authors="Isensee, Fabian and Wald, Tassilo and Ulrich, Constantin and others",
            title="nnU-Net Revisited: A Call for Rigorous Validation in 3D Medical Image Segmentation",
            where="MICCAI",
            year=2024,
            link="https://arxiv.org/abs/2404.09556",
        ),
        Reference(
            key="maierhein2024metrics",
            authors="Maier-Hein, Lena and Reinke, Annika and others",
            title="Metrics reloaded: recommendations for image analysis validation",
            where="Nature Methods 21, 195–212",
            year=2024,
            link="https://doi.org/10.1038/s41592-023-02151-z",
        ),
        Reference(
            key="nikolov2021surface",
            authors="Nikolov, Stanislav and Blackwell, Sam and others",
            title="Clinically Applicable Segmentation of Head and Neck Anatomy for Radiotherapy: Deep Learning Algorithm "
            "Development and Validation Study",
            where="Journal of Medical Internet Research 23(7), e26151",
            year=2021,
            link="https://doi.org/10.2196/26151",
        ),
        Reference(
            key="shit2021cldice",
            authors="Shit, Suprosanna and Paetzold, Johannes C. and Sekuboyina, Anjany and others",
            title="clDice: a Novel Topology-Preserving Loss Function for Tubular Structure Segmentation",
            where="CVPR, 16560–16569",
            year=2021,
            link="https://arxiv.org/abs/2003.07311",
        ),
        Reference(
            key="efron1987bca",
            authors="Efron, Bradley",
            title="Better Bootstrap Confidence Intervals",
            where="Journal of the American Statistical Association 82(397), 171–185",
            year=1987,
            link="https://doi.org/10.1080/01621459.1987.10478410",
        ),
        Reference(
            key="friedman1937ranks",
            authors="Friedman, Milton",
            title="The Use of Ranks to Avoid the Assumption of Normality Implicit in the Analysis of Variance",
            where="Journal of the American Statistical Association 32(200), 675–701",
            year=1937,
            link="https://doi.org/10.1080/01621459.1937.10503522",
        ),
        Reference(
            key="wilcoxon1945ranking",
            authors="Wilcoxon, Frank",
            title="Individual Comparisons by Ranking Methods",
            where="Biometrics Bulletin 1(6), 80–83",
            year=1945,
            link="https://doi.org/10.2307/3001968",
        ),
        Reference(
            key="pratt1959zeros",
            authors="Pratt, John W.",
            title="Remarks on Zeros and Ties in the Wilcoxon Signed Rank Procedures",
            where="Journal of the American Statistical Association 54(287), 655–667",
            year=1959,
            link="https://doi.org/10.1080/01621459.1959.10501526",
        ),
        Reference(
            key="holm1979multiple",
            authors="Holm, Sture",
            title="A Simple Sequentially Rejective Multiple Test Procedure",
            where="Scandinavian Journal of Statistics 6(2), 65–70",
            year=1979,
            link="https://www.jstor.org/stable/4615733",
        ),
        Reference(
            key="kerby2014simple",
            authors="Kerby, Dave S.",
            title="The Simple Difference Formula: An Approach to Teaching Nonparametric Correlation",
            where="Comprehensive Psychology 3, 11.IT.3.1",
            year=2014,
            link="https://doi.org/10.2466/11.IT.3.1",
        ),
        Reference(
            key="nadeau2003inference",
            authors="Nadeau, Claude and Bengio, Yoshua",
            title="Inference for the Generalization Error",
            where="Machine Learning 52, 239–281",
            year=2003,
            link="https://doi.org/10.1023/A:1024068626366",
        ),
        Reference(
            key="wiesenfarth2021ranking",
            authors="Wiesenfarth, Manuel and Reinke, Annika and Landman, Bennett A. and others",
            title="Methods and open-source toolkit for analyzing and visualizing challenge results",
            where="Scientific Reports 11, 2369",
            year=2021,
            link="https://doi.org/10.1038/s41598-021-82017-6",
        ),
        Reference(
            key="demsar2006comparisons",
            authors="Demšar, Janez",
            title="Statistical Comparisons of Classifiers over Multiple Data Sets",
            where="Journal of Machine Learning Research 7, 1–30",
            year=2006,
            link="https://www.jmlr.org/papers/v7/demsar06a.html",
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the sentences depend on."""

    arms: Sequence[str]
    datasets: Sequence[str]
    cases: int
    folds: int
    runs: int
    """Least number of trainings per fold of any arm."""
    metrics: Sequence[str]
    """Columns that have values."""
    resamples: int
    human: bool
    options: Mapping[str, Any]
    missed: int
    """Structures that an arm did not find at all, over arms, runs, cases and labels."""
    empty: int
    """Pairs of case and label with an empty reference."""
    unknown: Sequence[str]
    """Rows of the audit that some arm does not tell."""
    devices: Sequence[str]
    left_out: int
    """Cases that the main metric's mean leaves out: a value is missing in some arm."""


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
        paragraphs.append(
            f"Over the {len(facts.datasets)} data sets, arms were compared by their average ranks with Friedman's test and "
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
