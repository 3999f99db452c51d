"""Prints how often the verdicts of `nnvit compare` are wrong and how often a true gain is found: the table of docs/statistics.md.

    python proofs/verdict_rates.py [--num 10000] [--out proofs/verdict_rates.json] [--fresh | --table]

Each world is simulated in parts of 1,000 comparisons, part i with seed i, and written as soon as it is done, so the script
can be stopped and started at will; a file that other sources made is begun anew only with --fresh. `analysed`
worlds go through `analyse` and `headline` themselves, table and sentence included; the others through the same decisions on
arrays. Prints the JSON that it writes, or with --table only the rows of docs/statistics.md, from what is there.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from simulation import World, hierarchical_claims, rate, verdicts

from nnvit.compare.audit.fairness import Audit
from nnvit.compare.stats.analysis import analyse

HERE = Path(__file__).parent
PART, RESAMPLES = 1000, 1000
MODULES = ("bootstrap", "paired_tests", "ranks", "analysis", "case_table", "verdict")
SOURCES = ["proofs/simulation.py", *(f"src/nnvit/compare/stats/{name}.py" for name in MODULES)]
WORLDS = {
    "no difference, 1 seed": World(),
    "no difference, 3 seeds": World(runs=3),
    "no difference, 3 seeds, case scores new in every run": World(runs=3, shared=0.0),
    "no difference, 3 seeds, skewed scores": World(runs=3, skewed=True),
    "no difference, 3 seeds, 4 arms": World(runs=3, arms=4),
    "no difference, 3 seeds, 4 arms, a baseline": World(runs=3, arms=4, baseline=True),
    "no difference, 3 seeds, 2 folds": World(runs=3, folds=2),
    "no difference, 3 seeds, folds correlated 0.1": World(runs=3, overlap=0.1),
    "no difference, 3 seeds, folds correlated 0.2": World(runs=3, overlap=0.2),
    "no difference, 3 seeds, folds correlated 0.3": World(runs=3, overlap=0.3),
    "no difference, 1 seed, run SD 0.35": World(run_sd=0.005 / 2**0.5),
    "1 point, 3 seeds": World(runs=3, gain=0.01),
    "1 point, 3 seeds, case scores new in every run": World(runs=3, gain=0.01, shared=0.0),
    "1 point, 1 seed": World(gain=0.01),
    "1 point, 3 seeds, 4 arms": World(runs=3, gain=0.01, arms=4),
    "1 point, 3 seeds, 4 arms, a baseline": World(runs=3, gain=0.01, arms=4, baseline=True),
    "1 point, 3 seeds, 2 folds": World(runs=3, gain=0.01, folds=2),
    **{
        f"intervals, {n} cases, {'skewed' if skewed else 'normal'}": World(run_sd=0.0, cases=n, skewed=skewed)
        for n in (10, 20, 60, 100, 300)
        for skewed in (False, True)
    },
}
HIERARCHICAL = {"hierarchical, no difference, 1 seed": World(), "hierarchical, no difference, 3 seeds": World(runs=3)}
ANALYSED = {
    "analysed, no difference, 3 seeds": World(runs=3),
    "analysed, 1 point, 3 seeds": World(runs=3, gain=0.01),
}


def on_arrays(world: World, part: int) -> dict[str, int]:
    """Hits in one part: any wrong claim where nothing differs, the right claim of the first pair where the first arm gains."""
    seen = verdicts(world, world.scores(PART, np.random.default_rng(part)), RESAMPLES)
    claims = {name: getattr(seen, name) for name in ("wilcoxon", "cases", "method", "fold_t", "nadeau_bengio")}
    first = (seen.low[:, 0] <= world.gain) & (seen.high[:, 0] >= world.gain)
    return {name: _hits(claim, world) for name, claim in claims.items()} | {"covered": int(first.sum())}


def _hits(claim: np.ndarray, world: World) -> int:
    return int((claim[:, 0] == 1).sum() if world.gain else claim.any(axis=1).sum())


def by_hierarchy(world: World, part: int) -> dict[str, int]:
    """Counts intervals that exclude zero."""
    scores = world.scores(PART, np.random.default_rng(part))
    return {"hierarchical": int((hierarchical_claims(world, scores, RESAMPLES, seed=part) != 0).sum())}


def by_analyse(world: World, part: int) -> dict[str, int]:
    """Counts sentences that call an arm better (the right one, if there is one)."""
    said = 0
    for scores in world.scores(PART, np.random.default_rng(part)):
        sentence = analyse(world.frame(scores), num_bootstrap=RESAMPLES).headline(Audit())
        said += sentence.startswith("arm_0 is better than") or (
            not world.gain and sentence.startswith("arm_1 is better than")
        )
    return {"headline": said}


def tables(found: dict[str, Any]) -> str:
    """Both tables of docs/statistics.md, in Markdown."""
    lines = [
        "| world | comparisons | Wilcoxon alone | first layer | **both: “A is better”** | fold t alone | Nadeau–Bengio alone |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    names = ("wilcoxon", "cases", "method", "fold_t", "nadeau_bengio")
    for world in (name for name in WORLDS if not name.startswith("intervals")):
        rates = found["worlds"][world]["rates"]
        cells = [_percent(rates[name], bold=name == "method") for name in names]
        lines.append(f"| {world} | {rates['method']['n']:,} | {' | '.join(cells)} |")
    for world, key in [(name, "hierarchical") for name in HIERARCHICAL] + [(name, "headline") for name in ANALYSED]:
        seen = found["worlds"][world]["rates"][key]
        cells = ["", "", _percent(seen, bold=True), "", ""]
        lines.append(f"| {world} | {seen['n']:,} | {' | '.join(cells)} |")
    lines += ["", "| cases | coverage, normal scores | coverage, skewed scores |", "| ---: | ---: | ---: |"]
    for n in (10, 20, 60, 100, 300):
        both = (found["worlds"][f"intervals, {n} cases, {kind}"]["rates"]["covered"] for kind in ("normal", "skewed"))
        lines.append(f"| {n} | " + " | ".join(_percent(seen) for seen in both) + " |")
    return "\n".join(lines)


def _percent(seen: dict[str, float], bold: bool = False) -> str:
    """`4.4% (4.0 to 4.8)`."""
    rate, low, high = (100 * seen[key] for key in ("rate", "low", "high"))
    mark = "**" * bold
    return f"{mark}{rate:.1f}%{mark} ({low:.1f} to {high:.1f})"


def main() -> None:
    """Continues where it stopped, and prints the results so far."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=10_000, help="comparisons of each world; 2,000 of `analysed` ones")
    parser.add_argument("--out", type=Path, default=HERE / "verdict_rates.json")
    parser.add_argument("--fresh", action="store_true", help="throw away what is there")
    parser.add_argument("--table", action="store_true", help="print the tables of --out and simulate nothing")
    args = parser.parse_args()
    if args.table:
        print(tables(json.loads(args.out.read_text(encoding="utf-8"))))
        return
    found = _load(args.out, args.fresh)
    tasks = [(name, world, on_arrays, args.num) for name, world in WORLDS.items()]
    tasks += [(name, world, by_hierarchy, args.num) for name, world in HIERARCHICAL.items()]
    tasks += [(name, world, by_analyse, min(2 * PART, args.num)) for name, world in ANALYSED.items()]
    parts = [(name, world, count, part) for name, world, count, num in tasks for part in range(-(-num // PART))]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("simulating", total=len(parts))
        for name, world, count, part in parts:
            progress.update(bar, description=name)
            _do(found, name, world, count, part, args.out)
            progress.advance(bar)
    json.dump(found, sys.stdout, indent=2)
    print()


def _do(
    found: dict[str, Any], name: str, world: World, count: Callable[[World, int], dict[str, int]], part: int, out: Path
) -> None:
    """Simulates one part, unless it is done already."""
    row = found["worlds"].setdefault(name, {"parts": 0, "hits": {}})
    if part < row["parts"]:
        return
    hits = count(world, part)
    row["hits"] = {key: row["hits"].get(key, 0) + value for key, value in hits.items()}
    row["parts"] = part + 1
    row["rates"] = {key: rate(value, row["parts"] * PART) for key, value in row["hits"].items()}
    out.with_suffix(".part").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    out.with_suffix(".part").replace(out)


def _load(out: Path, fresh: bool) -> dict[str, Any]:
    """Reads what was simulated before, if it was with these very sources."""
    if _git("status", "--porcelain", "--", *SOURCES):
        sys.exit("The sources of the statistics have changes that are not committed; commit them, then run this again.")
    digest = hashlib.sha256(b"".join((HERE.parent / name).read_bytes() for name in SOURCES)).hexdigest()
    if out.exists() and not fresh:
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        if found["sources"] != digest:
            sys.exit(
                f"{out} is of commit {found['commit'][:7]}, and the statistics changed since; --fresh begins anew."
            )
        return found
    machine = f"{os.cpu_count()} cores, {platform.machine()}, no GPU used, Python {platform.python_version()}"
    return {
        "commit": _git("log", "-1", "--format=%H", "--", *SOURCES),
        "sources": digest,
        "machine": f"{machine}, numpy {np.__version__}",
        "part": PART,
        "resamples": RESAMPLES,
        "worlds": {},
    }


def _git(*command: str) -> str:
    return subprocess.run(["git", *command], cwd=HERE.parent, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
