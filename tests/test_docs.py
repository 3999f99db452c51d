"""The pages of the documentation: every link, path and module that they name exists, and the README stays short."""

import re
from pathlib import Path

import pytest

from .conftest import REPOSITORY

README, CONTRIBUTING = REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"
PAGES = [README, CONTRIBUTING, *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("examples/**/README.md")]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"(?<![\w./…$<-])(?:src|docs|examples|bench|proofs|tests|tools)/[\w./-]*\w")
MODULE = re.compile(r"\bnnvit(?:\.[A-Za-z_]\w*)+\b")


def _id(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _defines(path: Path, name: str) -> bool:
    """True if a package or module has a part of this name."""
    if path.is_dir():
        return any(part.stem == name for part in path.iterdir()) or _defines(path / "__init__.py", name)
    return path.is_file() and re.search(rf"\b{name}\b", path.read_text(encoding="utf-8")) is not None


def _module_exists(dotted: str) -> bool:
    """Follows `nnvit.room.module.name` through folders and files; what comes after a name in a file is an attribute of it."""
    path = REPOSITORY / "src" / "nnvit"
    for name in dotted.split(".")[1:]:
        if not _defines(path, name):
            return False
        inner = path / name if (path / name).is_dir() else path / f"{name}.py"
        if not inner.exists():
            return True
        path = inner
    return True


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in LINK.findall(text):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{_id(page)} links to {link}, which does not exist"
        assert not anchor or anchor in _anchors(target), f"{_id(page)} links to {link}, which has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    text = re.sub(r"\]\([^)\s]+\)", "]", page.read_text(encoding="utf-8"))
    for name in set(FILE.findall(text)):
        path = REPOSITORY / name
        # CONTRIBUTING shows files that its reader is about to write: their folder has to exist
        there = path.exists() or (page == CONTRIBUTING and path.parent.is_dir())
        assert there, f"{_id(page)} names {name}, which does not exist"


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_every_module_that_a_page_names_exists(page: Path) -> None:
    for dotted in set(MODULE.findall(page.read_text(encoding="utf-8"))):
        assert _module_exists(dotted), f"{_id(page)} names {dotted}, which src/nnvit does not have"


@pytest.mark.parametrize(
    ("dotted", "exists"),
    [
        ("nnvit.model.create_backbone", True),
        ("nnvit.errors.ConfigError", True),
        ("nnvit.heads.segformer.Head.forward", True),
        ("nnvit.modle", False),
        ("nnvit.model.create_backbones", False),
    ],
)
def test_a_module_that_does_not_exist_would_be_found(dotted: str, exists: bool) -> None:
    assert _module_exists(dotted) is exists


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 110
