"""Metrics of one label of one case, and the scoring of all masks."""
