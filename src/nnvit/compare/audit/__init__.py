"""The fairness audit: what must be equal between arms, what differs by design, what is unknown."""
