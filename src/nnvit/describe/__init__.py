"""What there is to choose from, and what a recipe amounts to: the text behind `nnvit list`, `nnvit show` and `nnvit estimate`."""

from .components import listing
from .finished_run import account
from .network import show
from .shipped_recipes import recipes_markdown
from .training_needs import needs

__all__ = ["account", "listing", "needs", "recipes_markdown", "show"]
