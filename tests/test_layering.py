"""The imports hold the layers of the design: what is below never imports what is above."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "nnvit"
ALLOWED = {
    "errors": set(),
    "types": set(),
    "schema": {"errors"},
    "registry": {"errors"},
    "backbones": {"errors", "types"},
    "necks": {"errors", "types"},
    "heads": {"errors", "types", "schema"},
    "lora": {"errors"},
    "weights": {"errors", "types", "registry"},
    "config": {"errors", "schema", "registry"},
    "optim": {"schema"},
    "architecture": {"registry", "schema"},
    "model": {"errors", "types", "schema", "registry", "lora", "config", "architecture", "weights"},
    "frozen": {"model"},
    "cost": {"schema", "model", "frozen"},
    "estimate": {"errors", "schema", "architecture", "model", "cost", "optim", "frozen"},
    "overview": {"errors", "estimate", "schema", "registry", "config", "architecture", "model", "cost"},
    "fetch": {"errors", "schema", "registry", "config", "model", "weights"},
    "data": {"errors"},
    "nnunet": {
        "errors",
        "schema",
        "config",
        "architecture",
        "optim",
        "model",
        "weights",
        "cost",
        "data",
        "lora",
        "frozen",
        "estimate",
    },
    "compare": {"errors"},
}


def _imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports, relative ones made absolute."""
    package = ["nnvit", *path.relative_to(SOURCE).parts[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def _layers(path: Path) -> set[str]:
    known = {p.stem for p in SOURCE.iterdir()}
    parts = [name.split(".") for name in _imports(path) if name.startswith("nnvit.")]
    return {part[1] for part in parts if part[1] in known}


def test_every_part_of_the_package_has_its_layer() -> None:
    above_all = {"cli", "demo", "__init__", "__main__"}
    parts = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert parts - above_all == ALLOWED.keys()


@pytest.mark.parametrize("layer", sorted(ALLOWED))
def test_a_layer_imports_only_what_lies_below(layer: str) -> None:
    files = list((SOURCE / layer).rglob("*.py")) or [SOURCE / f"{layer}.py"]
    for path in files:
        assert _layers(path) - {layer} <= ALLOWED[layer], path


def test_only_the_nnunet_package_imports_nnunetv2() -> None:
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
