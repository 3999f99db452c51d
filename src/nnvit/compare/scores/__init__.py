"""The metrics, one declaration each, and the scoring of all masks."""
