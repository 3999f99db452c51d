"""The report's tables for a paper, in LaTeX."""

from collections.abc import Mapping, Sequence
from typing import Any

from nnvit.compare.stats.analysis import Comparison

from .table_rows import COST_COLUMNS, Tables
from .wording import Cell

_ESCAPES = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$", "³": r"$^3$", "→": r"$\rightarrow$",
    "τ": r"$\tau$", "…": r"\ldots{}", "–": "--", "—": "---", "\u2009": r"\,", "\u00a0": "~",
})  # fmt: skip


def latex_tables(comparison: Comparison, tables: Tables, verdict: str) -> dict[str, str]:
    """Returns name -> LaTeX with booktabs rules and everything escaped; verdict: of the audit."""
    metrics, main = comparison.metrics, comparison.main
    several = len(comparison.datasets) > 1
    ahead = ["data set"] if several else []

    def lead(row: Mapping[str, Any]) -> list[str]:
        return [row["dataset"]] if several else []

    scores = [
        [
            *lead(row),
            row["label"],
            row["arm"],
            str(row["n"]),
            *(_tex(row["cells"].get(metric.key)) for metric in metrics),
        ]
        for row in tables.scores
    ]
    pairs = [
        [*lead(row), row["label"], row["a"], row["b"], str(row["n"]), _tex(row["difference"]), row["p_holm"].text,
         row["fold_t"].text, row["nadeau_bengio"].text, row["level"]]
        for row in tables.pairs
        if row["main"]
    ]  # fmt: skip
    _, unit = main.scale_in(comparison.spacing_unit)
    columns = [f"{name} ({unit_})" for _, name, unit_, _, _ in COST_COLUMNS]
    lines = "l" * len(ahead)
    return {
        "scores": _table(
            [*ahead, "class", "arm", "n", *(metric.title_in(comparison.spacing_unit) for metric in metrics)],
            scores,
            caption="Mean over n cases with its 95% BCa bootstrap interval.",
            label="tab:scores",
            align=f"{lines}llr{'l' * len(metrics)}",
        ),
        "differences": _table(
            [*ahead, "class", "A", "B", "n", f"A − B ({unit})", "Wilcoxon p", "fold t p", "Nadeau–Bengio p", "verdict"],
            pairs,
            caption=f"Paired differences in {main.name} with 95% BCa bootstrap intervals over n cases; p values after Holm.",
            label="tab:differences",
            align=f"{lines}lllrlrrrl",
        ),
        "cost": _table(
            ["arm", *columns],
            [[row["arm"], *(cell.text for cell in row["cells"])] for row in tables.cost],
            caption="What each arm costs, as its records tell.",
            label="tab:cost",
            align=f"l{'r' * len(columns)}",
        ),
        "audit": _table(
            ["what", "state", *comparison.arms],
            [[row["key"], row["status"], *row["told"]] for row in tables.audit],
            caption=f"Audit of the arms: {verdict}.",
            label="tab:audit",
            align=f"ll{'l' * len(comparison.arms)}",
        ),
    }


def _tex(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    return f"{cell.text} [{cell.interval}]" if cell.interval else cell.text


def _escape(text: str) -> str:
    """Escapes any text for LaTeX; line ends become spaces. (pandas escapes ten signs, and none beyond ASCII.)"""
    return text.replace("\n", " ").translate(_ESCAPES)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, label: str, align: str) -> str:
    """A booktabs table; `align` has one of l, r, c for each column."""
    lines = [" & ".join(map(_escape, row)) + r" \\" for row in (header, *rows)]
    body = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(caption)}}}",
        rf"\label{{{label}}}",
        rf"\begin{{tabular}}{{@{{}}{align}@{{}}}}",
        r"\toprule",
        lines[0],
        r"\midrule",
        *lines[1:],
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(["% \\usepackage{booktabs}", *body, ""])
