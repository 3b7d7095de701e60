"""Write docs/envs/: a page for each environment, made from its docstrings and task parameters, and a table of all.

python scripts/env_docs.py          # write
python scripts/env_docs.py --check  # exit 1 if a page is not what the code says
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from importlib import import_module
from pathlib import Path

import envs
from metarl.env import EnvSpec
from metarl.listing import ranges
from metarl.tasks import Parameter
from metarl.types import Continuous

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "envs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    pages = all_pages()
    if arguments.check:
        stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
        stale += [path for path in FOLDER.glob("*.md") if path not in pages]
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not up to date: run scripts/env_docs.py")
        sys.exit(bool(stale))
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path in FOLDER.glob("*.md"):
        if path not in pages:
            path.unlink()
    for path, text in pages.items():
        path.write_text(text)
    print(f"{len(pages)} pages in {FOLDER.relative_to(ROOT)}")


def all_pages() -> dict[Path, str]:
    """Every page with its text."""
    specs = {name: envs.make_spec(name) for name in envs.OWN}
    pages = {FOLDER / f"{name}.md": page(spec) for name, spec in specs.items()}
    return {FOLDER / "README.md": index(list(specs.values())), **pages}


def index(specs: list[EnvSpec]) -> str:
    rows = [
        f"| [{spec.name}]({spec.name}.md) | {spec.description} | {spec.obs_dim} / {actions(spec)} | {spec.horizon} "
        f"| {len(spec.tasks.parameters)} | {', '.join(spec.tasks.splits()[3:]) or '-'} |"
        for spec in specs
    ]
    head = "| environment | what differs | observations / actions | steps | parameters | splits beside train, test |"
    lines = ["# Environments", "", "Made from the code by `scripts/env_docs.py`.", "", head, "|" + "---|" * 6, *rows]
    return "\n".join(lines) + "\n"


def page(spec: EnvSpec) -> str:
    module, function = envs.ENVIRONMENTS[spec.name].split(":")
    factory = getattr(import_module(module), function)
    picture = [f"![{spec.name}]({spec.name}.png)", ""] if spec.physics or spec.drawing else []
    time = f", {spec.physics.control_dt_s * 1000:g} ms each" if spec.physics else ""
    facts = [
        f"- {spec.obs_dim} observations, {actions(spec)} actions, {spec.horizon} steps{time}",
        f"- splits: {', '.join(spec.tasks.splits())}",
    ]
    if spec.metrics is not None:
        facts.append(f"- metrics: {', '.join(spec.metrics.names)}")
    if spec.signals is not None:
        facts.append(f"- signals for learned losses: {', '.join(spec.signals.names) or 'none'}")
    video = f"videos/expert-{spec.name}.mp4"
    on_film = f", [on film](../../{video})" if (ROOT / video).exists() else ""
    facts.append(f"- scripted expert: {'yes' if spec.expert is not None else 'no'}{on_film}")
    source = f"`{module.replace('.', '/')}.py`"
    return "\n".join(
        [
            f"# {spec.name}",
            "",
            f"{spec.description[:1].upper()}{spec.description[1:]}.",
            "",
            *picture,
            *facts,
            "",
            f"`metarl train rl2 --env {spec.name} --out runs/{spec.name}`",
            "",
            "## Task parameters",
            "",
            "| name | unit | train | held out | |",
            "|---|---|---|---|---|",
            *map(parameter_row, spec.tasks.parameters),
            "",
            f"## Specification, from {source}",
            "",
            *code_block(import_module(module).__doc__),
            *code_block(factory.__doc__),
            *(
                line
                for name in named_by(module)
                for line in (f"### {name}", "", *code_block(import_module(name).__doc__))
            ),
        ]
    )


def named_by(module: str) -> list[str]:
    """The modules beside this one that its sheet refers to, as `arm_env` or car.py, and those that theirs refer to.

    Modules of other environments have pages of their own and are left out.
    """
    pages = {factory.split(":")[0] for factory in envs.ENVIRONMENTS.values()}
    package, found = module.rpartition(".")[0], [module]
    for name in found:  # grows on the way
        words = re.findall(r"`(\w+)`|\b(\w+)\.py\b", import_module(name).__doc__ or "")
        for word in map("".join, words):
            other = f"{package}.{word}"
            if other not in (*found, *pages) and (ROOT / f"{other.replace('.', '/')}.py").exists():
                found.append(other)
    return found[1:]


def parameter_row(parameter: Parameter) -> str:
    train, *held_out = ranges(parameter.distribution).items()
    shape = f" ({'x'.join(map(str, parameter.shape))})" if parameter.shape else ""
    outside = "; ".join(f"{split} {values}" for split, values in held_out) or "-"
    return f"| `{parameter.name}`{shape} | {parameter.unit} | {train[1]} | {outside} | {parameter.description} |"


def actions(spec: EnvSpec) -> str:
    space = spec.action_space
    return str(space.dim) if isinstance(space, Continuous) else f"{space.num_actions} discrete"


def code_block(docstring: str | None) -> list[str]:
    text = inspect.cleandoc(docstring or "")
    return ["```text", *(line.rstrip() for line in text.splitlines()), "```", ""] if text else []


if __name__ == "__main__":
    main()
