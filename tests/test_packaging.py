"""The package data of pyproject.toml: every file that is no module of a package is shipped, and no pattern is left over."""

import tomllib

from .conftest import REPOSITORY

SOURCE = REPOSITORY / "src"
DATA = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]


def test_every_file_of_the_source_is_shipped() -> None:
    files = {path for path in SOURCE.glob("nnvit/**/*") if path.is_file() and path.suffix != ".pyc"}
    modules = {path for path in files if path.suffix == ".py" and (path.parent / "__init__.py").is_file()}
    shipped = set()
    for package, patterns in DATA.items():
        for pattern in patterns:
            found = set(SOURCE.joinpath(*package.split(".")).glob(pattern))
            assert found, f"package-data of {package}: {pattern} matches no file"
            shipped |= found
    assert files - modules == {path for path in shipped if path.is_file()} - modules
