"""`python -m gemsbench.cli`."""

from gemsbench.cli import main

main()
