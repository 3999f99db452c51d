"""Fairness: what should be equal between arms, what differs by design, what is unknown."""
