"""Files of weights are read with a cache of its own for each test, as in tests/weights."""

from tests.weights.conftest import own_cache

__all__ = ["own_cache"]
