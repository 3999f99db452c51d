"""Trained models as they are passed on: export, install, conversion of other people's checkpoints."""
