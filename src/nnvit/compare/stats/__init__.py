"""Statistics of the scored cases: intervals, tests, ranks and verdicts."""
