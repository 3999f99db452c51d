"""The words of the report: numbers, paths, the methods to paste with their citations, and what the figures cannot show."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined

from nnvit.compare import Options
from nnvit.compare.audit.fairness import Audit
from nnvit.compare.inputs.arms import ArmCost
from nnvit.compare.stats.analysis import Comparison


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """Returns fixed decimals with a true minus; a dash where there is no value."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{round(value, digits) + 0.0:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def p_value(p: float | None) -> str:
    """Returns p with two significant digits, never zero."""
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def without_home(text: str) -> str:
    """Shortens absolute paths to their last two parts: a page that is mailed need not say whose machine it was."""
    return re.sub(r"(?<![\w.…])/(?:[^/\s=]+/)+(?=[^/\s]+/[^/\s]+)", "…/", text)


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
    """The facts that the sentences depend on.

    cases: over all data sets. folds: the least of any data set. runs: the least number of trainings per fold of any arm.
    metrics: keys that have values. missed: structures that an arm did not find at all, over arms, runs, cases and labels.
    empty: pairs of case and label with an empty reference. unknown: titles of audit rows that some arm does not record.
    left_out: cases without a value of the main metric in some arm. trainings: per fold, `3 trainings` or `1 to 3 trainings`.
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
    trainings: str = ""

    @classmethod
    def of(
        cls, comparison: Comparison, cases: pd.DataFrame, audit: Audit, cost: Sequence[ArmCost], options: Options
    ) -> "Facts":
        """Collects them from a comparison."""
        results = comparison.datasets.values()
        blocks = [comparison.main_block(dataset) for dataset in comparison.datasets]
        counts = [len(runs) for found in results for runs in found.runs.values()]
        references = cases.drop_duplicates(["dataset", "case", "label"])
        return cls(
            arms=comparison.arms,
            datasets=list(comparison.datasets),
            cases=sum(found.n_cases for found in results),
            folds=min(len({name for arm in found.folds.values() for name in arm} - {""}) for found in results),
            runs=min(counts),
            metrics=[metric.key for metric in comparison.metrics],
            resamples=int(comparison.settings["resamples"]),
            human=any(block.human for block in blocks),
            options=options,
            missed=int(cases["missed"].sum()),
            empty=int((references["n_ref"] == 0).sum()),
            unknown=[row.title for row in audit.rows if row.status == "unknown"],
            devices=sorted({row.device for row in cost if row.device}),
            left_out=sum(block.left_out for block in blocks),
            trainings=f"{min(counts)} to {max(counts)} trainings"
            if min(counts) < max(counts)
            else _several(min(counts), "training"),
        )

    def methods(self) -> tuple[list[str], list[_Citation]]:
        """Returns paragraphs with numbered citations, and the citations in the order of the numbers."""
        known = _citations()
        cited: list[_Citation] = []

        def cite(key: str) -> str:
            if known[key] not in cited:
                cited.append(known[key])
            return f"[{cited.index(known[key]) + 1}]"

        return self._filled("methods.txt.j2", cite=cite), cited

    def limits(self) -> list[str]:
        """Returns what this report cannot say, most important first; only what holds for these data."""
        return self._filled("limits.txt.j2")

    def _filled(self, template: str, **more: Any) -> list[str]:
        """The paragraphs of a template, without its line ends; the page escapes them."""
        source = (files(__package__) / template).read_text(encoding="utf-8")
        environment = Environment(undefined=StrictUndefined)
        text = environment.from_string(source).render(f=self, o=self.options, several=_several, **more)
        return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def _several(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"
