"""What there is to choose from, and what a recipe amounts to: the text behind `nnvit list` and `nnvit show`."""

from .account import account
from .components import listing
from .headers import recipes_markdown
from .show import measure, show

__all__ = ["account", "listing", "measure", "recipes_markdown", "show"]
