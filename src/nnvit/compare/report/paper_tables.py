"""The report's tables for a paper."""

from collections.abc import Mapping, Sequence
from typing import Any

from . import latex, table_rows, wording


def latex_tables(
    stats: Mapping[str, Any], audit: Mapping[str, Any], cost: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Name -> LaTeX."""
    metrics = wording.metrics_shown(stats)
    several = len(stats["datasets"]) > 1
    ahead = ["data set"] if several else []

    def lead(row: Mapping[str, Any]) -> list[str]:
        return [row["dataset"]] if several else []

    scores = [
        [*lead(row), row["label"], row["arm"], str(row["n"]), *(_tex(row["cells"].get(metric)) for metric in metrics)]
        for row in table_rows.score_rows(stats)
    ]
    pairs = [
        [*lead(row), row["label"], row["a"], row["b"], str(row["n"]), _tex(row["difference"]), row["p_holm"].text,
         row["fold_t"].text, row["nadeau_bengio"].text, row["level"]]
        for row in table_rows.pair_rows(stats)
        if row["main"]
    ]  # fmt: skip
    main, (_, unit) = wording.main_name(stats), wording.scale_of(stats, stats["metric"])
    columns = [f"{name} ({unit_})" for _, name, unit_, _, _ in table_rows.COST_COLUMNS]
    lines = "l" * len(ahead)
    return {
        "scores": latex.table(
            [*ahead, "class", "arm", "n", *(wording.long_name(stats, metric) for metric in metrics)],
            scores,
            caption="Mean over n cases with its 95% BCa bootstrap interval.",
            label="tab:scores",
            align=f"{lines}llr{'l' * len(metrics)}",
        ),
        "differences": latex.table(
            [*ahead, "class", "A", "B", "n", f"A − B ({unit})", "Wilcoxon p", "fold t p", "Nadeau–Bengio p", "verdict"],
            pairs,
            caption=f"Paired differences in {main} with 95% BCa bootstrap intervals over n cases; p values after Holm.",
            label="tab:differences",
            align=f"{lines}lllrlrrrl",
        ),
        "cost": latex.table(
            ["arm", *columns],
            [[row["arm"], *(cell.text for cell in row["cells"])] for row in table_rows.cost_rows(cost)],
            caption="What each arm costs, as its records tell.",
            label="tab:cost",
            align=f"l{'r' * len(columns)}",
        ),
        "audit": latex.table(
            ["what", "state", *stats["arms"]],
            [[row["key"], row["status"], *row["told"]] for row in table_rows.audit_rows(audit, stats["arms"])],
            caption=f"Audit of the arms: {audit['verdict']}.",
            label="tab:audit",
            align=f"ll{'l' * len(stats['arms'])}",
        ),
    }


def _tex(cell: wording.Cell | None) -> str:
    if cell is None:
        return "–"
    return f"{cell.text} [{cell.interval}]" if cell.interval else cell.text
