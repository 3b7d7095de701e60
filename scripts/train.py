"""The same as `metarl train`."""

import sys

from metarl.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
