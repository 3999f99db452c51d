"""Runs every benchmark of this folder, one after the other, each in its own process; then writes one table and one picture.

    python bench/table.py [--only NAME …] [--keep]

Writes results/<name>.json for each, and from all of these files the table in docs/performance.md and docs/bench.svg. --keep skips
benchmarks that have results of this commit, so that an interrupted run continues.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import BF16_FAST, RESULTS, commit

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "bench.svg"
PAGE = HERE.parent / "docs" / "performance.md"
BEGIN, END = "<!-- bench -->\n", "<!-- /bench -->"
BENCHES = ("segformer_head", "step", "predict", "disk", "memory", "estimate")


def run(name: str) -> None:
    """Prints the command and runs it; a benchmark that fails stops the rest."""
    print(f"\n$ python bench/{name}.py", flush=True)
    subprocess.run([sys.executable, "-W", "ignore", str(HERE / f"{name}.py")], check=True)


def results() -> dict[str, dict[str, Any]]:
    """Returns the results of all benchmarks that have any."""
    paths = {name: RESULTS / f"{name}.json" for name in BENCHES}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}


def markdown(found: dict[str, dict[str, Any]]) -> str:
    """Returns the machines, a table with one row per comparison, and the notes."""
    lines = ["| work | ours | compared with | ratio | target | |", "|---|---:|---:|---:|---:|---|"]
    for content in found.values():
        for row in content["rows"]:
            verdict = VERDICTS[standing(row, content["machine"])]
            asked = f"{row['bar']:.3g}" if row["bar"] is not None else "–"
            values = [f"{_short(row[key])} {row['unit']}" for key in ("ours", "theirs")]
            cells = [row["work"], values[0], f"{row['reference']} {values[1]}", f"{row['ratio']:.2f}", asked, verdict]
            lines.append(f"| {' | '.join(cells)} |")
    notes = [f"- {row['work']}: {'; '.join(filter(None, (row['agreement'], row['note'])))}." for row in _noted(found)]
    return "\n".join([*_machines(found), "", *lines, "", *notes]) + "\n"


def standing(row: dict[str, Any], machine: dict[str, Any]) -> str:
    """Returns "", "reached", "missed", or "slow" if the target was missed on a machine that it is not meant for."""
    if row["reached"] is None:
        return ""
    if row["reached"]:
        return "reached"
    return "slow" if row.get("bf16") and machine["bf16_over_fp32"] < BF16_FAST else "missed"


VERDICTS = {
    "": "",
    "reached": "reached",
    "missed": "**not reached**",
    "slow": f"not reached; target for machines with bf16 {BF16_FAST} times as fast as fp32",
}
COLOURS = {"reached": "#2a7f9e", "missed": "#c8793a", "slow": "#8d949c"}


def write_into_page(table: str) -> None:
    """Writes the table between the page's two marker comments."""
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(before + BEGIN + table + END + rest.split(END)[1])


def _noted(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for content in found.values() for row in content["rows"] if row["agreement"] or row["note"]]


def _machines(found: dict[str, dict[str, Any]]) -> list[str]:
    lines = []
    for name, content in found.items():
        here = content["machine"]
        gemm = " and ".join(f"{speed} in {dtype}" for dtype, speed in here["gemm_gflops"].items())
        lines.append(
            f"- `{name}`: {here['cores']} cores of {here['gpu'] or here['cpu']}, matrix products {gemm} GFLOP/s "
            f"(bf16 {here['bf16_over_fp32']} times fp32), load {here['load_before']:.1f} before, commit {here['commit'][:12]}"
        )
    return lines


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= 10 * size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def picture(found: dict[str, dict[str, Any]]) -> None:
    """Draws the ratios as bars, with the target as a line."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [
        row | {"colour": COLOURS[standing(row, content["machine"])]}
        for content in found.values()
        for row in content["rows"]
        if row["bar"] is not None
    ][::-1]
    figure, axis = pyplot.subplots(figsize=(10, 0.45 * len(rows) + 1.2), layout="constrained")
    places = range(len(rows))
    axis.barh(places, [row["ratio"] for row in rows], color=[row["colour"] for row in rows])
    for place, row in zip(places, rows, strict=True):
        axis.plot([row["bar"]] * 2, [place - 0.4, place + 0.4], color="black", linewidth=2)
        axis.annotate(f"  {row['ratio']:.2f}", (max(row["ratio"], row["bar"]), place), va="center", fontsize=8)
    axis.set_yticks(places, [row["work"] for row in rows], fontsize=8)
    axis.set_xscale("log")
    axis.set_xlabel(
        "ratio to the code compared with; black line: target\n"
        "blue: reached; orange: not reached\ngrey: not reached, target for machines with faster bf16"
    )
    axis.set_xlim(right=2 * max(row["ratio"] for row in rows))
    figure.savefig(PICTURE)


def main() -> None:
    """Runs the benchmarks asked for, then writes table and picture from all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=BENCHES, default=BENCHES, metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--keep", action="store_true", help="skip benchmarks with results of this commit")
    arguments = parser.parse_args()
    known = {name: content["machine"]["commit"] for name, content in results().items()}
    for name in arguments.only:
        if not (arguments.keep and known.get(name) == commit()):
            run(name)
    found = results()
    write_into_page(markdown(found))
    picture(found)
    print(f"\n{markdown(found)}\n{PICTURE}")


if __name__ == "__main__":
    main()
