"""The same as `metarl record`."""

import sys

from metarl.cli import main

if __name__ == "__main__":
    main(["record", *sys.argv[1:]])
