"""``python -m parallelkit.hub``: see app.py."""

from parallelkit.hub.app import main

main()
