"""The comparison: audit, metrics, statistics, report. Reads files only; neither torch nor nnunetv2 is imported."""
