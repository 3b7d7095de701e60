"""The `metarl` command: `train`, `evaluate`, `compare`, `record`, `explain`, `list`, `doctor`.

Nothing heavy is imported before a command is known, so that `metarl --help` answers at once.
Exit codes: 0 done, 2 bad input (one clear line), 1 a failure that is not the user's, 128 + n stopped by signal n.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

from metarl.errors import MetarlError, UnknownNameError

COMMANDS = {
    "train": "meta-train an algorithm on an environment's task distribution, or on the classes of a data set",
    "evaluate": "let a trained run adapt to unseen tasks, and say how well",
    "compare": "put runs on one picture, by the environment steps they spend on a new task",
    "record": "write a video of a trained run adapting to unseen tasks",
    "explain": "show what a learned loss learned: pictures, numbers and a formula",
    "list": "environments with their task parameters, algorithms, data sets, few-shot learners, presets",
    "doctor": "what this machine can do (devices, engines, renderers, video), and how to get the rest",
}

_EXAMPLES = """\
examples:
  metarl train rl2 --env reach-planar --out runs/reach
  metarl evaluate runs/reach --split test --episodes 3
  metarl record runs/reach --num-tasks 4 --out videos/reach.mp4
  metarl train protonet --data omniglot --out runs/omniglot
  metarl evaluate runs/omniglot --ways 5 20 --shots 1 5
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        sys.exit(0)
    if arguments[0] in ("-V", "--version"):
        from metarl import __version__

        print(f"metarl {__version__}")
        sys.exit(0)
    try:
        sys.exit(_run(arguments[0], arguments[1:]))
    except MetarlError as error:
        print(f"metarl {arguments[0]}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (MemoryError, RuntimeError) as error:  # torch raises the latter, on the CPU and on a GPU
        if not isinstance(error, MemoryError) and not re.search("out of memory|can't allocate memory", str(error)):
            raise
        advice = "Take fewer --num-worlds or --num-tasks, or a smaller --hidden-dim."
        print(f"metarl {arguments[0]}: out of memory. {advice}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output left, as `head` does; Python would complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _run(command: str, arguments: list[str]) -> int:
    if command not in COMMANDS:
        raise UnknownNameError("command", command, COMMANDS)
    from metarl import commands
    from metarl.render_probe import import_mujoco

    import_mujoco()
    return {
        "train": commands.train,
        "evaluate": commands.evaluate,
        "compare": commands.compare,
        "record": commands.record,
        "explain": commands.explain,
        "list": commands.list_names,
        "doctor": commands.doctor,
    }[command](arguments)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {description}" for name, description in COMMANDS.items()]
    return "\n".join(
        [
            "usage: metarl COMMAND [OPTIONS]    (metarl COMMAND --help for its options)",
            "",
            "Meta-reinforcement learning for robots: train agents that learn to adapt.",
            "",
            *lines,
            "",
            _EXAMPLES,
        ]
    ).rstrip()


if __name__ == "__main__":
    main()
