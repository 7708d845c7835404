"""``python -m parallelkit.node``: see app.py."""

from parallelkit.node.app import main

if __name__ == "__main__":
    main()
