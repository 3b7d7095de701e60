"""Pictures of the suite: a sheet of all environments, and a video of each scripted expert on unseen tasks.

python scripts/suite_pictures.py                      # docs/images/suite.png and docs/envs/NAME.png
python scripts/suite_pictures.py --videos push track  # videos/expert-NAME.mp4
"""

from __future__ import annotations

import argparse
from pathlib import Path

import envs
from metarl.env import EnvSpec
from metarl.errors import MetarlError
from metarl.expert import Expert
from metarl.record import record, snapshot

ROOT = Path(__file__).parents[1]
SHOWN_AT_S = 1.0
"""Seconds of an episode before a picture is taken."""
COLUMNS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", help="environments by name; default: all with a body")
    parser.add_argument("--videos", nargs="*", metavar="NAME", help="record their experts; no name: all that have one")
    parser.add_argument("--num-tasks", type=int, default=3, help="panels of a video")
    parser.add_argument("--split", default="extrapolation", help="of the tasks in a video, where there is such a split")
    arguments = parser.parse_args()
    try:
        if arguments.videos is None:
            draw_sheets(arguments.envs)
        else:
            names = arguments.videos or [name for name in envs.OWN if envs.make_spec(name).expert is not None]
            for name in names:
                film_expert(envs.make_spec(name), arguments.split, arguments.num_tasks)
    except MetarlError as error:
        parser.exit(2, f"suite_pictures: {error}\n")


def draw_sheets(names: list[str] | None) -> None:
    """One picture of each environment by itself; all together where none was asked for by name."""
    specs = [spec for spec in map(envs.make_spec, names or envs.OWN) if spec.physics or spec.drawing]
    for spec in specs:
        page = ROOT / "docs" / "envs" / f"{spec.name}.png"
        page.parent.mkdir(parents=True, exist_ok=True)
        print(snapshot([spec], page, num_steps=steps_before(spec), frame_width=480, frame_height=360))
    if names is None:
        sheet = ROOT / "docs" / "images" / "suite.png"
        print(snapshot(specs, sheet, num_steps=25, columns=COLUMNS, frame_width=240, frame_height=180))


def steps_before(spec: EnvSpec) -> int:
    body = spec.physics or spec.drawing
    assert body is not None
    return max(1, round(SHOWN_AT_S / body.control_dt_s))


def film_expert(spec: EnvSpec, split: str, num_tasks: int) -> None:
    tasks = spec.tasks.split(split if split in spec.tasks.splits() else "test", num_tasks)
    path = ROOT / "videos" / f"expert-{spec.name}.mp4"
    print(record(Expert(), spec, tasks, 1, path, title=f"{spec.name}: scripted expert").path)


if __name__ == "__main__":
    main()
