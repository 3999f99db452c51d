"""`nnvit list`: the backbones, sizes, heads, necks and recipes that there are."""

from enum import StrEnum
from typing import Annotated

from typer import Argument, Option

from nnvit.errors import ConfigError

from .options import new_app

app = new_app()


_Listed = StrEnum("_Listed", "BACKBONES SIZES HEADS NECKS RECIPES")


@app.command("list", epilog="Examples: nnvit list | nnvit list sizes | nnvit list recipes --markdown")
def _list(
    kind: Annotated[
        _Listed | None, Argument(metavar="[" + "|".join(_Listed) + "]", help="By default all of them.")
    ] = None,
    markdown: Annotated[
        bool, Option("--markdown", help="Recipes as the page src/nnvit/recipe/shipped/README.md.")
    ] = False,
) -> None:
    """List backbones and their sizes, heads and necks with their keys, and shipped recipes."""
    from nnvit import describe

    if markdown and kind not in (None, _Listed.RECIPES):
        raise ConfigError(f"--markdown prints the page of recipes; `nnvit list {kind} --markdown` has none.")
    if markdown:
        print(describe.recipes_markdown(), end="")
        return
    for i, listed in enumerate([kind] if kind else _Listed):
        print(("\n" if i else "") + "\n".join(describe.listing(listed)))
