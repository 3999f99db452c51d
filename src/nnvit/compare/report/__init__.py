"""The report of a comparison: one self-contained page, its figures as svg and pdf, and tables for a paper.

`report.html` holds everything that it shows, asks the network for nothing and may be mailed. Every text that comes from
outside (names of arms, cases, labels, folders) is escaped; a content security policy lets no script run but the page's own.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from nnvit.compare.inputs.arms import Arm
from nnvit.compare.inputs.references import without_home
from nnvit.compare.stats.analysis import headline

from . import figure_style, pictures, sentences, table_rows
from . import overlays as pictures_of_cases
from . import wording as names
from .page_facts import Facts, facts_of
from .paper_tables import latex_tables
from .pictures import Picture

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


def write(
    out: Path,
    *,
    cases: pd.DataFrame,
    stats: Mapping[str, Any],
    audit: Mapping[str, Any],
    cost: Sequence[Mapping[str, Any]],
    arms: Sequence[Arm],
    options: Mapping[str, Any],
    images: Path | None,
    references: Mapping[str, Path],
    predictions: Mapping[str, Mapping[str, Path]],
) -> Path:
    """Writes report.html, figures/*.svg and *.pdf, and tables/*.tex into `out`; returns the page.

    cases: one row per arm, run, fold, case and label. stats: of `statistics.analyse`. audit: of `Audit.to_dict`. cost: of
    `cost.costs`. options: of `compare`, as stats.json holds them. references, predictions: masks by case, for the overlays;
    by DATASET/CASE where there are several data sets. images: their folder; None for overlays on the reference alone.

    Raises CompareError for a mask or an image that can't be read.
    """
    stats = dict(stats) | {"spacing_unit": options.get("spacing_unit", "mm")}
    drawn = pictures.pictures(stats, cases, cost)
    for folder in ("figures", "tables"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for picture in drawn.values():
        figure_style.save(picture.figure, out / "figures", picture.name)
    facts = facts_of(stats, cases, audit, cost, options)
    tables = latex_tables(stats, audit, cost)
    for name, text in tables.items():
        (out / "tables" / f"{name}.tex").write_text(text, encoding="utf-8")
    _, cited = sentences.methods(facts)
    (out / "tables" / "references.bib").write_text("\n".join(reference.bibtex for reference in cited), encoding="utf-8")
    shown = pictures_of_cases.overlays(cases, references, predictions, images, options.get("ignore_label"))
    context = (
        _opening(stats, audit, options, facts)
        | _numbers(stats, cases, audit, cost)
        | _figures(drawn)
        | _overlays(shown, stats)
        | _closing(facts, arms, options, drawn, tables)
    )
    page = out / "report.html"
    page.write_text(_render(context), encoding="utf-8")
    return page


def _render(context: Mapping[str, Any]) -> str:
    """The page; autoescape is on, and a name that the template has and the context lacks is an error."""
    folder = files(__package__)
    script = (folder / "page.js").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["breakable"] = _breakable
    template = environment.from_string((folder / "page.html.j2").read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    css = (folder / "page.css").read_text(encoding="utf-8")
    return template.render(context, css=Markup(css), script=Markup(script), script_hash=f"sha256-{digest}") + "\n"


def _opening(
    stats: Mapping[str, Any], audit: Mapping[str, Any], options: Mapping[str, Any], facts: Facts
) -> dict[str, Any]:
    kind, text = VERDICTS[audit["verdict"]]
    scope = [
        ", ".join(facts.datasets),
        *([str(options["configuration"])] if options.get("configuration") else []),
        f"{len(facts.arms)} arms",
        f"n = {facts.cases} case{'s' * (facts.cases != 1)}",
        f"{facts.folds or 'no'} fold{'s' * (facts.folds != 1)}",
        f"{table_rows.trainings(stats)} per fold",
    ]
    return {
        "title": options.get("title") or f"Comparison on {', '.join(facts.datasets)}: {', '.join(facts.arms)}",
        "headline": _parted(headline(stats, dict(audit)), facts.arms),
        "scope": " · ".join(scope),
        "audit": audit,
        "verdict_class": kind,
        "claimable": kind != "not",
        "verdict_text": text,
        "version": options.get("version", ""),
        "date": options.get("date", ""),
        "contents": [
            ("answer", "Claims"),
            ("scores", "Scores"),
            ("differences", "Differences"),
            ("cost", "Cost"),
            ("every-case", "Every case"),
            ("audit", "Audit"),
            ("limits", "What it cannot say"),
            ("methods", "Methods"),
            ("files", "Files"),
        ],
    }


def _parted(sentence: str, arms: Sequence[str]) -> tuple[str, str]:
    """The claim with its reserve, and the figures that it rests on, for two sizes of type; capital unless an arm opens it."""
    sentence = re.sub(r"(?<![\w.-])-(?=\d)", "−", sentence)
    if not sentence.startswith(tuple(arms)):
        sentence = sentence[0].upper() + sentence[1:]
    at = min((found.start() for found in re.finditer(r"(?<=:) | (?=\()", sentence)), default=len(sentence))
    return sentence[:at], sentence[at + 1 :]


def _breakable(text: str) -> Markup:
    """Escaped, with places to break a long name after its separators."""
    return Markup(re.sub(r"(?<=[_/.])(?=\w)", "<wbr>", str(escape(text))))


def _numbers(
    stats: Mapping[str, Any], cases: pd.DataFrame, audit: Mapping[str, Any], cost: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    scores, pairs = table_rows.score_rows(stats), table_rows.pair_rows(stats)
    of_cases, data, left_out = table_rows.case_rows(cases, stats)
    labels = list(dict.fromkeys(row["label"] for row in scores))
    main = names.main_name(stats)
    return {
        "arms": stats["arms"],
        "datasets": list(stats["datasets"]),
        "many_datasets": len(stats["datasets"]) > 1,
        "many_labels": len(labels) > 1,
        "main_metric": main,
        "averaged": ", mean over classes" if len(labels) > 1 else "",
        "colours": {arm: i % len(figure_style.ARMS) for i, arm in enumerate(stats["arms"])},
        "metrics": [{"key": metric, "name": names.long_name(stats, metric)} for metric in names.metrics_shown(stats)],
        "claims": table_rows.claims(stats),
        "omnibus": table_rows.omnibus(stats),
        "human": table_rows.human_lines(stats),
        "scores": scores,
        "score_labels": labels,
        "pairs": pairs,
        "pair_metrics": sorted(dict.fromkeys(row["metric"] for row in pairs), key=lambda name: name != main) or [main],
        "case_rows": of_cases,
        "case_data": data,
        "cases_left_out": left_out,
        "case_labels": list(dict.fromkeys(row["label"] for row in of_cases)),
        "case_folds": sorted({row["fold"] for row in of_cases} - {""}),
        "cost": table_rows.cost_rows(cost),
        "cost_columns": [(name, unit) for _, name, unit, _, _ in table_rows.COST_COLUMNS],
        "cost_note": table_rows.cost_note(cost),
        "audit_rows": table_rows.audit_rows(audit, stats["arms"]),
    }


def _figures(drawn: Mapping[str, Picture]) -> dict[str, Any]:
    def of(prefix: str) -> list[dict[str, Any]]:
        return [_inline(picture) for name, picture in drawn.items() if name == prefix or name.startswith(f"{prefix}-")]

    hero, by_class = of("differences"), of("classes")
    return {
        "hero": hero[0] if hero else None,
        "by_class": by_class[0] if by_class else None,
        "strips": of("cases"),
        "rank_pictures": of("ranks") + of("critical"),
        "pareto": of("pareto"),
    }


def _inline(picture: Picture) -> dict[str, Any]:
    """The svg is matplotlib's own and escapes its text; its title is escaped by `inline`."""
    svg = Markup(figure_style.inline(picture.figure, picture.name, picture.title))
    return {"svg": svg, "caption": picture.caption, "label": picture.name.replace("-", " ")}


def _overlays(shown: Sequence[pictures_of_cases.Overlay], stats: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "overlays": [
            {
                name: getattr(overlay, name)
                for name in ("dataset", "case", "reasons", "width", "height", "image", "reference", "arms", "notes")
            }
            | {"dice": {arm: names.number(dice, 3) for arm, dice in overlay.scores.items()}}
            | _sides(overlay, stats["baseline"])
            for overlay in shown
        ],
        "first_run_only": any(
            len(runs) > 1 for results in stats["datasets"].values() for runs in results["runs"].values()
        ),
        "main_metric_of_pictures": "Dice",
        "colour": {
            "fp": pictures_of_cases.FALSE_POSITIVE,
            "fn": pictures_of_cases.FALSE_NEGATIVE,
            "confused": pictures_of_cases.CONFUSED,
            "prediction": pictures_of_cases.PREDICTION,
            "reference": pictures_of_cases.REFERENCE,
        },
    }


def _sides(overlay: pictures_of_cases.Overlay, baseline: str | None) -> dict[str, int]:
    """What the slider opens with: the baseline, or the worst arm of the case, against its best."""
    order = sorted(overlay.scores, key=lambda arm: overlay.scores[arm])
    left = baseline if baseline in overlay.scores else order[0]
    right = next((arm for arm in reversed(order) if arm != left), left)
    names = list(overlay.arms)
    return {"first": names.index(left), "second": names.index(right)}


def _closing(
    facts: Facts,
    arms: Sequence[Arm],
    options: Mapping[str, Any],
    drawn: Mapping[str, Picture],
    tables: Mapping[str, str],
) -> dict[str, Any]:
    paragraphs, cited = sentences.methods(facts)
    return {
        "methods": paragraphs,
        "references": cited,
        "limits": sentences.limits(facts),
        "command": without_home(str(options.get("command", ""))),
        "arm_paths": [(arm.name, without_home(str(arm.path))) for arm in arms],
        "files": [
            ("cases.csv", "every score: one row per arm, training, fold, case and class"),
            ("stats.json", "every statistic on this page, with its method's name; docs/statistics.md describes it"),
            ("figures/", f"{', '.join(drawn)}: each as svg and pdf"),
            ("tables/", f"{', '.join(tables)} for LaTeX (booktabs), and references.bib"),
        ],
    }
