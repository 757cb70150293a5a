"""`python -m cluster.cli` is `tandem`."""

from cluster.cli.main import main

main()
