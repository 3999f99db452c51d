"""Prints the size and the order of the source tree: files, lines, functions, public names, import circles, repeated names.

    python tools/house.py                 # this checkout
    python tools/house.py ../before .     # two checkouts side by side
    python tools/house.py --json

A tree is a folder that holds src/nnvit. All figures but the last six are counted from the Python files there. How many
places must be touched to add a part is read from the code by a person: `PLACES` has the answers for the commit before the
reorganisation and for this checkout. CONTRIBUTING has an example of each part, which a test runs as it is written there.
"""

import argparse
import ast
import json
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

PARTS = ("head", "neck", "backbone family", "metric", "audit row", "command")
PLACES = {
    "96339db": {
        "head": ["1", "heads/NAME.py: the file name is the registry key"],
        "neck": ["1", "necks/NAME.py: the file name is the registry key"],
        "backbone family": [
            "3 to 5",
            "backbones/NAME.py, LAYOUTS in weights/layouts.py, TEXTS in weights/licences.py; for some families also KINDS in "
            "weights/describe.py and a reader of their files (weights/mit.py)",
        ],
        "metric": [
            "4 or more",
            "five tables and the row functions of compare/metrics.py, compare/report/words.py, compare/report/references.py, "
            "docs/compare.md; also page.html.j2 if less is better",
        ],
        "audit row": [
            "1 to 2",
            "FACTS in compare/facts.py; also compare/records.py if the value is in a file not read so far",
        ],
        "command": ["2", "cli/NAME.py, and its import and registration in cli/__init__.py"],
    },
    "this checkout": {
        "head": ["1", "heads/NAME.py: the file name is the registry key"],
        "neck": ["1", "necks/NAME.py: the file name is the registry key"],
        "backbone family": ["1", "backbones/NAME.py: sizes, taps, statistics, files, licences, layouts"],
        "metric": ["1", "an entry of METRICS in compare/scores/metrics.py (and its line in docs/compare.md)"],
        "audit row": ["1", "an entry of QUESTIONS in compare/audit/rows.py (and its line in docs/compare.md)"],
        "command": ["2", "cli/NAME.py, and its name in COMMANDS of cli/__init__.py"],
    },
}
ROLES = {"Args", "Config", "Family", "Head", "Neck"}
"""Class names by which the registry finds a component's parts: every component has its own."""
Graph = dict[str, set[str]]


def measure(tree: Path, places: dict[str, Any]) -> dict[str, Any]:
    """Returns every figure of the tree, by the name that the table gives it."""
    source = tree / "src" / "nnvit"
    if not source.is_dir():
        raise SystemExit(f"{tree} has no src/nnvit; give the root of a checkout of nnvit")
    parsed = {
        path.relative_to(source): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(source.rglob("*.py"))
    }
    file_lines = [len((source / path).read_text(encoding="utf-8").splitlines()) for path in parsed]
    public = [name for module in parsed.values() for name in _public_names(module)]
    found = _circles(_import_graph(parsed))
    return {
        "files": len(parsed),
        "lines of src": sum(file_lines),
        "lines of a file: median / p90 / max": _spread(file_lines),
        "lines of a function: median / p90 / max": _spread(
            [n for module in parsed.values() for n in _function_lines(module)]
        ),
        "public functions and classes": len(public),
        "public functions and classes per 1,000 lines": round(1000 * len(public) / sum(file_lines), 1),
        "files at the package's root": sum(len(path.parts) == 1 for path in parsed),
        "modules in import circles": sum(map(len, found)),
        "import circles": [", ".join(circle) for circle in found],
        "file names used in more than one room": _repeated(
            (path.name, path.parent) for path in parsed if path.stem != "__init__"
        ),
        "class names used more than once (except Args, Config, Family, Head, Neck)": _repeated(
            (node.name, (path, node.lineno))
            for path, module in parsed.items()
            for node in ast.walk(module)
            if isinstance(node, ast.ClassDef) and node.name not in ROLES
        ),
        **{
            f"places to add: {part}": dict(zip(("places", "why"), places.get(part, ["not counted", ""]), strict=True))
            for part in PARTS
        },
    }


def _public_names(module: ast.Module) -> list[str]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [node.name for node in module.body if isinstance(node, kinds) and not node.name.startswith("_")]


def _function_lines(module: ast.Module) -> Iterator[int]:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def _spread(lines: list[int]) -> str:
    ordered = sorted(lines)
    return f"{median(ordered):g} / {ordered[int(0.9 * len(ordered))]} / {ordered[-1]}"


def _repeated(found: Any) -> list[str]:
    places: dict[str, set[Any]] = defaultdict(set)
    for name, place in found:
        places[name].add(place)
    return sorted(name for name, where in places.items() if len(where) > 1)


def _import_graph(parsed: dict[Path, ast.Module]) -> Graph:
    """Returns the modules that each module imports, also inside functions and under TYPE_CHECKING.

    A package counts as imported only where a name of its own `__init__` is, not where it is the way to one of its modules.
    """
    modules = {
        ".".join(["nnvit", *(path.parent if path.stem == "__init__" else path.with_suffix("")).parts]): path
        for path in parsed
    }
    graph: Graph = {}
    for module, path in modules.items():
        targets = (name if name in modules else name.rpartition(".")[0] for name in _imports(path, parsed[path]))
        graph[module] = {target for target in targets if target in modules and target != module}
    return graph


def _imports(path: Path, module: ast.Module) -> Iterator[str]:
    package = ["nnvit", *path.parts[:-1]]
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield from (".".join([*base, *([node.module] if node.module else []), alias.name]) for alias in node.names)


def _circles(graph: Graph) -> list[list[str]]:
    """Returns the sets of modules that reach each other (strongly connected components of two or more), the largest first."""
    reach = {module: _reached(graph, module) for module in graph}
    circles = {
        tuple(sorted(m for m in reach[module] if module in reach[m])) for module in graph if module in reach[module]
    }
    return sorted(map(list, circles), key=lambda circle: (-len(circle), circle))


def _reached(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    ahead = list(graph[start])
    while ahead:
        module = ahead.pop()
        if module not in seen:
            seen.add(module)
            ahead += graph[module]
    return seen


def _commit(tree: Path) -> str:
    """Returns the short hash of the commit that is checked out in a tree, "" without git."""
    done = subprocess.run(["git", "-C", str(tree), "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip()


def _table(columns: dict[str, dict[str, Any]]) -> str:
    """Returns a Markdown table with one column per tree; below it the names and reasons behind the numbers."""
    rows = [f"| | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for name in next(iter(columns.values())):
        rows.append(f"| {name} | {' | '.join(_cell(figures[name]) for figures in columns.values())} |")
    for title, figures in columns.items():
        for name, value in figures.items():
            behind = value["why"] if isinstance(value, dict) else "; ".join(value) if isinstance(value, list) else ""
            rows += ["", f"{title}, {name}: {behind}"] if behind else []
    return "\n".join(rows)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return str(len(value))
    if isinstance(value, dict):
        return str(value["places"])
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="*", type=Path, default=[Path(__file__).parents[1]], help="one or two checkouts")
    parser.add_argument("--json", action="store_true", help="JSON instead of Markdown")
    options = parser.parse_args()
    columns = {}
    for tree in options.trees:
        here = tree.resolve() == Path(__file__).resolve().parents[1]
        places = PLACES.get("this checkout" if here else _commit(tree), {})
        columns[f"{tree.resolve().name} {_commit(tree)}".strip()] = measure(tree, places)
    print(json.dumps(columns, indent=2) if options.json else _table(columns))


if __name__ == "__main__":
    main()
