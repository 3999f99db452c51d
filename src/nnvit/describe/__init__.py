"""Makes the text of `nnvit list`, `nnvit show` and `nnvit estimate`."""

from .components import listing
from .finished_run import account
from .network import show
from .shipped_recipes import recipes_markdown
from .training_needs import needs

__all__ = ["account", "listing", "needs", "recipes_markdown", "show"]
