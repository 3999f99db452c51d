"""What there is to choose from, and what a recipe amounts to: the text behind `nnvit list`, `nnvit show` and `nnvit estimate`."""

from .account import account
from .components import listing
from .headers import recipes_markdown
from .needs import needs
from .show import cost_of, show

__all__ = ["account", "cost_of", "listing", "needs", "recipes_markdown", "show"]
