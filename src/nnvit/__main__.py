"""`python -m nnvit`: the command, where its entry point is not on the path."""

from .cli import main

main()
