"""`python -m metarl` is the `metarl` command."""

from metarl.cli import main

if __name__ == "__main__":
    main()
