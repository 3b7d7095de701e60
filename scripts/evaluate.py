"""The same as `metarl evaluate`."""

import sys

from metarl.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
