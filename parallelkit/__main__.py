"""``python -m parallelkit``: the same as the ``parallelkit`` command."""

from parallelkit.cli import main

if __name__ == "__main__":
    main()
