"""The tables of a comparison for a paper, in LaTeX."""

from collections.abc import Mapping, Sequence
from typing import Any

from .result_tables import COST_COLUMNS, Tables

_ESCAPES = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$", "³": r"$^3$", "→": r"$\rightarrow$",
    "τ": r"$\tau$", "…": r"\ldots{}", "–": "--", "—": "---", "\u2009": r"\,", "\u00a0": "~",
})  # fmt: skip


def latex_tables(tables: Tables) -> dict[str, str]:
    """Returns name -> LaTeX with booktabs rules and everything escaped."""
    comparison = tables.comparison
    metrics, main, unit = comparison.metrics, comparison.main, comparison.spacing_unit
    ahead = {"data set": "dataset"} if len(comparison.datasets) > 1 else {}
    lines = "l" * len(ahead)

    def rows(found: Sequence[Mapping[str, Any]], *keys: str) -> list[list[str]]:
        return [[_text(row[key]) for key in (*ahead.values(), *keys)] for row in found]

    scores = [row | {metric.key: row["cells"].get(metric.key) for metric in metrics} for row in tables.scores]
    difference = f"A − B ({main.scale_in(unit)[1]})"
    tests = ("Wilcoxon p", "fold t p", "Nadeau–Bengio p", "verdict")
    columns = [f"{name} ({unit_})" for _, name, unit_, _, _ in COST_COLUMNS]
    return {
        "scores": _latex_table(
            [*ahead, "class", "arm", "n", *(metric.title_in(unit) for metric in metrics)],
            rows(scores, "label", "arm", "n", *(metric.key for metric in metrics)),
            caption="Mean over n cases with its 95% BCa bootstrap interval.",
            label="tab:scores",
            align=f"{lines}llr{'l' * len(metrics)}",
        ),
        "differences": _latex_table(
            [*ahead, "class", "A", "B", "n", difference, *tests],
            rows(
                [row for row in tables.pairs if row["main"]],
                *("label", "a", "b", "n", "difference", "p_holm", "fold_t", "nadeau_bengio", "level"),
            ),
            caption=f"Paired differences in {main.name} with 95% BCa bootstrap intervals over n cases; "
            "p values after Holm.",
            label="tab:differences",
            align=f"{lines}lllrlrrrl",
        ),
        "cost": _latex_table(
            ["arm", *columns],
            [[row["arm"], *map(_text, row["cells"])] for row in tables.cost],
            caption="What each arm costs, as its records tell.",
            label="tab:cost",
            align=f"l{'r' * len(columns)}",
        ),
        "audit": _latex_table(
            ["what", "state", *comparison.arms],
            [[row["key"], row["status"], *row["told"]] for row in tables.audit],
            caption=f"Audit of the arms: {tables.verdict}.",
            label="tab:audit",
            align=f"ll{'l' * len(comparison.arms)}",
        ),
    }


def _text(cell: Any) -> str:
    return "–" if cell is None else str(cell)


def _escape(text: str) -> str:
    """Escapes any text for LaTeX; line ends become spaces. (pandas escapes ten signs, and none beyond ASCII.)"""
    return text.replace("\n", " ").translate(_ESCAPES)


def _latex_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str, label: str, align: str) -> str:
    """A booktabs table with everything escaped; `align` has one of l, r, c for each column."""
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
