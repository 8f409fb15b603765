"""`python -m toolweave`."""

from toolweave.cli import main

main()
