"""Makes the text of `nnvit list`, `nnvit show` and `nnvit estimate`."""

from .components import listing
from .finished_run import account
from .network_needs import needs, show

__all__ = ["account", "listing", "needs", "show"]
