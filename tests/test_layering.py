"""The imports hold the layers of the design: what is below never imports what is above, and nothing imports in circles."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "nnvit"
ALLOWED = {
    "errors": set(),
    "types": {"errors"},
    "registry": {"errors"},
    "records": {"errors"},
    "recipe": {"errors", "registry", "records"},
    "backbones": {"errors", "types"},
    "necks": {"errors", "types"},
    "heads": {"errors", "types", "recipe"},
    "weights": {"errors", "types", "registry", "records", "recipe"},
    "model": {"errors", "types", "registry", "records", "recipe", "weights"},
    "data": {"errors", "records"},
    "estimate": {"errors", "recipe", "model"},
    "describe": {"errors", "registry", "records", "recipe", "model", "estimate"},
    "nnunet": {"errors", "types", "registry", "records", "recipe", "model", "weights", "data", "estimate"},
    "compare": {"errors", "records"},
}
"""The rooms that each room may import besides itself; `cli`, above all, may import everything."""
NNUNET_ORDER = (
    "paths", "checkpoint_file", "progress", "plan", "model_folder", "predict", "train", "crossval", "share"
)  # fmt: skip
"""The rooms inside `nnunet`: each imports only those before it."""
ABOVE_ALL = {"cli", "__init__", "__main__"}


def _module(path: Path) -> str:
    parts = ["nnvit", *path.relative_to(SOURCE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): path for path in SOURCE.rglob("*.py") if "shim" not in path.parts}


def _imports(path: Path, *, inside_functions: bool = True) -> set[str]:
    """Dotted names of everything a file imports, relative ones made absolute; those under `TYPE_CHECKING` too."""
    package = ["nnvit", *path.relative_to(SOURCE).parts[:-1]]
    found: set[str] = set()
    for node in _walk(ast.parse(path.read_text(encoding="utf-8")), inside_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def _walk(tree: ast.AST, inside_functions: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        yield node
        if inside_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(node, inside_functions)


def _rooms(path: Path) -> set[str]:
    known = {p.stem for p in SOURCE.iterdir()}
    parts = [name.split(".") for name in _imports(path) if name.startswith("nnvit.")]
    return {part[1] for part in parts if part[1] in known}


def _graph() -> dict[str, set[str]]:
    """Returns the modules of nnvit that each one imports, without packages that only lead to a module of their own."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        graph[module] = set()
        for name in _imports(path):
            target = name if name in MODULES else name.rpartition(".")[0]
            if target in MODULES and target != module:
                graph[module].add(target)
    return graph


def _circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle of imports, [] where there is none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module in done:
            return []
        for target in sorted(graph[module]):
            if circle := visit(target, [*path, module]):
                return circle
        done.add(module)
        return []

    for module in sorted(graph):
        if circle := visit(module, []):
            return circle
    return []


def test_every_part_of_the_package_has_its_layer() -> None:
    parts = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert parts - ABOVE_ALL == ALLOWED.keys()


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_a_room_imports_only_what_lies_below(room: str) -> None:
    files = list((SOURCE / room).rglob("*.py")) or [SOURCE / f"{room}.py"]
    for path in files:
        assert _rooms(path) - {room} <= ALLOWED[room], path


def test_the_order_names_every_room_inside_nnunet() -> None:
    parts = {p.stem for p in (SOURCE / "nnunet").iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert parts - {"__init__"} == set(NNUNET_ORDER)


@pytest.mark.parametrize("room", NNUNET_ORDER)
def test_a_room_inside_nnunet_imports_only_those_before_it(room: str) -> None:
    home = SOURCE / "nnunet"
    allowed = {*NNUNET_ORDER[: NNUNET_ORDER.index(room) + 1]}
    for path in list((home / room).rglob("*.py")) or [home / f"{room}.py"]:
        names = [name.split(".") for name in _imports(path)]
        inside = {parts[2] for parts in names if parts[:2] == ["nnvit", "nnunet"] and len(parts) > 2}
        assert inside <= allowed, path


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert _circle(_graph()) == []


def test_a_circle_would_be_found() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"]


def test_only_the_nnunet_room_imports_nnunetv2() -> None:
    outside = [path for path in SOURCE.rglob("*.py") if "nnunet" not in path.relative_to(SOURCE).parts]
    assert outside
    for path in outside:
        assert not [name for name in _imports(path) if name.split(".")[0] in ("nnunetv2", "batchgenerators")], path


def test_importing_nnvit_and_its_help_load_no_torch() -> None:
    code = (
        "import sys, atexit, nnvit.cli; sys.argv = ['nnvit', '--help']; heavy = {'torch', 'nnunetv2', 'timm', 'transformers'};"
        "atexit.register(lambda: print('heavy:', sorted(heavy & sys.modules.keys()))); nnvit.cli.main()"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "Usage:" in printed
    assert "heavy: []" in printed
