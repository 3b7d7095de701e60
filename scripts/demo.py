"""The demo: meta-train RL² on a planar arm with hidden goals, see it adapt on unseen tasks, record it.

The two reference policies (one without memory, one that is told the task) train beside it on the second core.
Runs that are there already are gone on with, so a demo that was interrupted continues.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ENV = "reach-planar"
RUNS = Path("runs/demo")
VIDEO = Path("videos/demo-reach-planar.mp4")
METARL = [sys.executable, "-m", "metarl.cli"]


def main() -> None:
    started = time.monotonic()
    references = subprocess.Popen([sys.executable, __file__, "references"])
    try:
        train("rl2")
        if references.wait():
            sys.exit(references.returncode)
    finally:
        if references.poll() is None:
            references.terminate()
            references.wait()
    print(f"\nTrained in {(time.monotonic() - started) / 60:.1f} minutes. Adapting to 64 unseen tasks:\n", flush=True)
    compared = [str(RUNS / "domain-randomised"), str(RUNS / "oracle")]
    run(["evaluate", str(RUNS / "rl2"), "--num-tasks", "64", "--compare", *compared])
    run(["record", str(RUNS / "rl2"), "--num-tasks", "4", "--out", str(VIDEO)])
    print(f"\nLook at {RUNS}/rl2/evaluation.png and {VIDEO}.")


def train(algorithm: str, *options: str) -> None:
    out = RUNS / algorithm
    resume = ["--resume"] if (out / "checkpoints").is_dir() else []
    run(["train", algorithm, "--env", ENV, "--out", str(out), "--physics-threads", "1", *resume, *options])


def run(arguments: list[str]) -> None:
    print(f"$ metarl {' '.join(arguments)}", flush=True)
    code = subprocess.run([*METARL, *arguments]).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    if sys.argv[1:] == ["references"]:
        train("domain-randomised")
        train("oracle")
    else:
        main()
