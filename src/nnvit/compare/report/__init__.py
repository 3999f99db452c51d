"""The report of a comparison: one self-contained page, its figures as svg and pdf, and tables for a paper.

`report.html` holds everything that it shows, requests nothing from the network and may be mailed. Every text that comes from
outside (names of arms, cases, labels, folders) is escaped; a content security policy allows no script but the page's own.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from nnvit.compare import Options
from nnvit.compare.audit.fairness import Audit
from nnvit.compare.inputs.arms import Arm, ArmCost
from nnvit.compare.stats.analysis import Comparison

from . import overlays
from .figure_style import ARMS, Picture
from .figures import pictures
from .result_tables import Tables
from .wording import without_home

VERDICTS = {
    "fair": ("fair", "All that should be equal is equal, as far as the records tell."),
    "fair with declared differences": (
        "declared",
        "Something that should be equal is not, or is not on record; each is listed.",
    ),
    "not comparable": (
        "not",
        "Something that should be equal is not: the figures below describe these runs and support no claim.",
    ),
}
"""Verdict of the audit -> class of the page, and what it means."""
CONTENTS = (
    ("answer", "Claims"),
    ("scores", "Scores"),
    ("differences", "Differences"),
    ("cost", "Cost"),
    ("every-case", "Every case"),
    ("audit", "Audit"),
    ("limits", "What it cannot say"),
    ("methods", "Methods"),
    ("files", "Files"),
)
"""Id and name of the sections that the page links to."""


def write(
    out: Path,
    *,
    cases: pd.DataFrame,
    comparison: Comparison,
    audit: Audit,
    cost: Sequence[ArmCost],
    arms: Sequence[Arm],
    options: Options,
    images: Path | None,
    references: Mapping[str, Path],
    predictions: Mapping[str, Mapping[str, Path]],
) -> Path:
    """Writes report.html, figures/*.svg and *.pdf, and tables/*.tex into `out`; returns the page.

    cases: one row per arm, run, fold, case and label. references, predictions: masks by case, for the overlays; by
    DATASET/CASE where there are several data sets. images: their folder; None for overlays on the reference alone.

    Raises CompareError for a mask or an image that can't be read.
    """
    tables = Tables(comparison, audit, cost, cases)
    drawn = pictures(comparison, tables.case_means[comparison.metric], cost)
    facts = _facts(comparison, cases, audit, cost, options)
    paragraphs, cited = _methods(facts)
    latex = tables.latex()
    for folder in ("figures", "tables"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for picture in drawn.values():
        picture.save(out / "figures")
    for name, text in latex.items():
        (out / "tables" / f"{name}.tex").write_text(text, encoding="utf-8")
    (out / "tables" / "references.bib").write_text("\n".join(paper["bibtex"] for paper in cited), encoding="utf-8")
    shown = overlays.overlays(cases, references, predictions, images, options.ignore_label)
    runs = [runs for results in comparison.datasets.values() for runs in results.runs.values()]
    context = {
        "comparison": comparison,
        "audit": audit,
        "options": options,
        "facts": facts,
        "tables": tables,
        "figures": partial(_figures, drawn),
        "overlays": [overlay.on_page(comparison.baseline) for overlay in shown],
        "first_run_only": any(len(names) > 1 for names in runs),
        "colour": overlays.COLOURS,
        "limits": _paragraphs("limits.txt.j2", facts),
        "methods": paragraphs,
        "references": cited,
        "command": without_home(options.command),
        "arm_paths": [(arm.name, without_home(str(arm.path))) for arm in arms],
        "files": [
            ("cases.csv", "every score: one row per arm, training, fold, case and class"),
            ("stats.json", "every statistic on this page, with its method's name; docs/statistics.md describes it"),
            ("figures/", f"{', '.join(drawn)}: each as svg and pdf"),
            ("tables/", f"{', '.join(latex)} for LaTeX (booktabs), and references.bib"),
        ],
    }
    page = out / "report.html"
    page.write_text(_render(context | _opening(comparison, audit, facts) | tables.page()), "utf-8")
    return page


def _template(name: str, **options: Any) -> Template:
    """One of this room's templates; a name that the context lacks is an error."""
    environment = Environment(undefined=StrictUndefined, **options)
    environment.filters["breakable"] = _breakable
    return environment.from_string((files(__package__) / name).read_text(encoding="utf-8"))


def _render(context: Mapping[str, Any]) -> str:
    css, script = ((files(__package__) / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _template("page.html.j2", autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return page.render(context, css=Markup(css), script=Markup(script), script_hash=f"sha256-{digest}") + "\n"


def _opening(comparison: Comparison, audit: Audit, facts: Mapping[str, Any]) -> dict[str, Any]:
    kind, text = VERDICTS[audit.verdict]
    datasets, configuration, folds = ", ".join(comparison.datasets), facts["options"].configuration, facts["folds"]
    scope = [
        datasets,
        *([configuration] if configuration else []),
        f"{len(comparison.arms)} arms",
        f"n = {_several(facts['cases'], 'case')}",
        f"{folds or 'no'} fold{'s' * (folds != 1)}",
        f"{facts['trainings']} per fold",
    ]
    return {
        "title": f"Comparison on {datasets}: {', '.join(comparison.arms)}",
        "headline": _parted(comparison.headline(audit), comparison.arms),
        "scope": " · ".join(scope),
        "verdict_class": kind,
        "claimable": kind != "not",
        "verdict_text": text,
        "contents": CONTENTS,
        "many_datasets": len(comparison.datasets) > 1,
        "colours": {arm: i % len(ARMS) for i, arm in enumerate(comparison.arms)},
    }


def _parted(sentence: str, arms: Sequence[str]) -> tuple[str, str]:
    """Splits the headline into the claim and its figures, for two sizes of type; a capital unless an arm opens it."""
    sentence = re.sub(r"(?<![\w.-])-(?=\d)", "−", sentence)
    if not sentence.startswith(tuple(arms)):
        sentence = sentence[0].upper() + sentence[1:]
    at = min((found.start() for found in re.finditer(r"(?<=:) | (?=\()", sentence)), default=len(sentence))
    return sentence[:at], sentence[at + 1 :]


def _breakable(text: str) -> Markup:
    """Escapes a long name and allows line breaks after its separators."""
    return Markup(re.sub(r"(?<=[_/.])(?=\w)", "<wbr>", str(escape(text))))


def _figures(drawn: Mapping[str, Picture], prefix: str) -> list[dict[str, Any]]:
    """The pictures of one kind; the svg is matplotlib's own and escapes its text, and `inline` escapes its title."""
    return [
        {"svg": Markup(picture.inline()), "caption": picture.caption, "label": name.replace("-", " ")}
        for name, picture in drawn.items()
        if name == prefix or name.startswith(f"{prefix}-")
    ]


def _facts(
    comparison: Comparison, cases: pd.DataFrame, audit: Audit, cost: Sequence[ArmCost], options: Options
) -> dict[str, Any]:
    """The facts that the sentences depend on, by the names that the templates use.

    cases: over all data sets. folds: the least of any data set. runs: the least number of trainings per fold of any arm.
    metrics: keys that have values. missed: structures that an arm did not find at all, over arms, runs, cases and labels.
    empty: pairs of case and label with an empty reference. unknown: titles of audit rows that some arm does not record.
    left_out: cases without a value of the main metric in some arm. trainings: per fold, `3 trainings` or `1 to 3 trainings`.
    """
    results = comparison.datasets.values()
    blocks = [comparison.main_block(dataset) for dataset in comparison.datasets]
    counts = [len(runs) for found in results for runs in found.runs.values()]
    least, most = min(counts), max(counts)
    references = cases.drop_duplicates(["dataset", "case", "label"])
    return {
        "arms": comparison.arms,
        "datasets": list(comparison.datasets),
        "cases": sum(found.n_cases for found in results),
        "folds": min(len({name for arm in found.folds.values() for name in arm} - {""}) for found in results),
        "runs": least,
        "metrics": [metric.key for metric in comparison.metrics],
        "resamples": int(comparison.settings["resamples"]),
        "human": any(block.human for block in blocks),
        "missed": int(cases["missed"].sum()),
        "empty": int((references["n_ref"] == 0).sum()),
        "unknown": [row.title for row in audit.rows if row.status == "unknown"],
        "devices": sorted({row.device for row in cost if row.device}),
        "left_out": sum(block.left_out for block in blocks),
        "trainings": f"{least} to {most} trainings" if least < most else _several(least, "training"),
        "options": options,
    }


def _methods(facts: Mapping[str, Any]) -> tuple[list[str], list[dict[str, str]]]:
    """The methods to paste, with numbered citations, and the citations in the order of the numbers."""
    known = _citations()
    cited: dict[str, dict[str, str]] = {}

    def cite(key: str) -> str:
        cited[key] = known[key]
        return f"[{list(cited).index(key) + 1}]"

    return _paragraphs("methods.txt.j2", facts, cite=cite), list(cited.values())


def _paragraphs(template: str, facts: Mapping[str, Any], **more: Any) -> list[str]:
    """The paragraphs of a template, without its line ends; the page escapes them."""
    text = _template(template).render(f=facts, o=facts["options"], several=_several, **more)
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]


def _several(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _citations() -> dict[str, dict[str, str]]:
    """Key -> bibtex (an entry of references.bib, with author, title, note, year and url) and text (for a list)."""
    source = (files(__package__) / "references.bib").read_text(encoding="utf-8")
    found = {}
    for bibtex, key in re.findall(r"(@misc\{(\w+),\n.*?\n\})", source, flags=re.DOTALL):
        field = dict(re.findall(r"^  (\w+) = \{+(.*?)\}+,$", bibtex, flags=re.MULTILINE))
        names = field["author"].replace(" and others", ", et al").replace(" and ", "; ").rstrip(".")
        text = f"{names}. {field['title']}. {field['note']}, {field['year']}. {field['url']}"
        found[key] = {"bibtex": bibtex, "text": text}
    return found
