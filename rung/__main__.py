"""`python -m rung` is the console script `rung`."""

from rung.cli import main

main()
