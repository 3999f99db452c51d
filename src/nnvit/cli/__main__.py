"""`python -m nnvit.cli`."""

from . import main

main()
