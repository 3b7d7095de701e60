"""The order of imports and the things that library code never does, read from the source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 450

LAYERS = [
    {"metarl.types", "metarl.errors", "metarl.seeding", "metarl.files"},
    {"metarl.tasks", "metarl.physics"},
    {"metarl.env"},
    {"metarl.rollout", "metarl.nets", "metarl.rl", "metarl.losses"},
    {"metarl.learners"},
    {"metarl.config"},
    {"metarl.evaluate", "metarl.record"},
    {"metarl.train"},
    {"metarl.commands"},
    {"metarl.cli"},
]
"""Landmarks from the bottom up: none reaches one above it, however many modules lie between."""

ENVS_MAY_IMPORT = {"envs", "metarl.env", "metarl.errors", "metarl.tasks", "metarl.types", "metarl.worlds"}

GYMNASIUM = {
    "gym_adapter",
    "gym_registration",
    "process_env",
    "process_worker",
    "sb3_adapter",
    "trial_env",
    "baselines",
}
STABLE_BASELINES = {"sb3_adapter", "baselines"}

UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml"}


@cache
def sources() -> dict[str, ast.Module]:
    """Every module of both packages by its dotted name."""
    trees = {}
    for package in ("metarl", "envs"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            trees[name] = ast.parse(path.read_text(), str(path))
    return trees


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def nodes(tree: ast.AST, lazy: bool = True) -> Iterator[ast.AST]:
    """All nodes that run, without those for the type checker; `lazy`: also those inside functions."""
    for child in ast.iter_child_nodes(tree):
        if is_type_checking(child) or (not lazy and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)):
            continue
        yield child
        yield from nodes(child, lazy)


def imports(tree: ast.Module, lazy: bool = True) -> set[str]:
    """Dotted names of the imported modules; `from a import b` is a.b where that is a module, else a."""
    found = set()
    for node in nodes(tree, lazy):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in line {node.lineno}: write the whole name"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in sources() else node.module or "" for name in whole}
    return found


def is_within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def ours(name: str) -> bool:
    return is_within(name, {"metarl", "envs"})


def reachable(start: str) -> set[str]:
    """All modules of ours that a module imports, directly or through others."""
    seen, todo = set(), [start]
    while todo:
        for name in imports(sources()[todo.pop()]):
            # The package itself registers environments with gymnasium; whoever asks it for its version does not.
            if name in sources() and name != "metarl" and name not in seen:
                seen.add(name)
                todo.append(name)
    return seen


def test_the_source_is_found():
    assert {"metarl.env", "metarl.learners.rl2", "envs", "envs.toy.bandit"} <= sources().keys()
    assert "metarl.types" in imports(sources()["metarl.env"])
    assert "metarl.physics" in reachable("metarl.learners.rl2")


def test_imports_have_no_cycle():
    graph = {name: {i for i in imports(tree, lazy=False) if i in sources()} for name, tree in sources().items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("level", range(len(LAYERS)))
def test_no_layer_reaches_one_above_it(level):
    above = set().union(*LAYERS[level + 1 :])
    for name in sources():
        if is_within(name, LAYERS[level]):
            too_high = {reached for reached in reachable(name) if is_within(reached, above)}
            assert not too_high, f"{name} reaches {sorted(too_high)}"


@pytest.mark.parametrize("package", ["metarl.nets", "metarl.rl"])
def test_networks_and_rl_functions_know_the_types_only(package):
    allowed = {package, "metarl.types", "metarl.errors"}
    for name, tree in sources().items():
        if is_within(name, {package}):
            other = {i for i in imports(tree) if ours(i) and not is_within(i, allowed)}
            assert not other, f"{name} imports {sorted(other)}"


def test_an_environment_sees_neither_engine_nor_learner():
    for name, tree in sources().items():
        if name.startswith("envs"):
            other = {i for i in imports(tree) if ours(i) and not is_within(i, ENVS_MAY_IMPORT)}
            assert not other, f"{name} imports {sorted(other)}"


def test_a_learner_imports_neither_physics_nor_an_environment():
    for name, tree in sources().items():
        if is_within(name, {"metarl.learners"}):
            other = {i for i in imports(tree) if is_within(i, {"metarl.physics", "envs", "mujoco", "mujoco_warp"})}
            assert not other, f"{name} imports {sorted(other)}"


@pytest.mark.parametrize(
    ("libraries", "adapters"),
    [({"gymnasium"}, GYMNASIUM), ({"stable_baselines3", "sb3_contrib"}, STABLE_BASELINES)],
)
def test_only_the_adapters_import_the_libraries_they_adapt(libraries, adapters):
    for name, tree in sources().items():
        used = {i for i in imports(tree) if is_within(i, libraries)}
        assert not used or name in {f"metarl.{adapter}" for adapter in adapters}, f"{name} imports {sorted(used)}"


def test_library_code_never_runs_what_it_reads():
    for name, tree in sources().items():
        unpicklers = {i for i in imports(tree) if i.partition(".")[0] in UNPICKLERS}
        assert not unpicklers, f"{name} imports {sorted(unpicklers)}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "compile", "__import__", "torch.load"), f"{name}:{node.lineno}"
                assert not any(k.arg in ("allow_pickle", "weights_only") for k in node.keywords), (
                    f"{name}:{node.lineno}"
                )


def test_the_library_prints_nothing():
    for name, tree in sources().items():
        if name == "metarl.cli":
            continue
        for node in ast.walk(tree):
            is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            assert not is_print, f"{name}:{node.lineno} prints; log it or return it"


def test_no_error_is_swallowed():
    for name, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                caught = "" if node.type is None else ast.unparse(node.type)
                raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
                bare = caught in ("", "BaseException")
                assert raises or not bare, f"{name}:{node.lineno} catches everything and goes on"


def test_modules_are_short():
    for name in sources():
        path = ROOT.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        length = len(path.read_text().splitlines())
        assert length <= MAX_LINES, f"{path.relative_to(ROOT)} has {length} lines, at most {MAX_LINES}: split it"


@pytest.mark.parametrize("module", ["metarl", "metarl.cli", "metarl.errors", "envs"])
def test_importing_is_light(module):
    heavy = ("torch", "mujoco", "mujoco_warp", "warp", "matplotlib", "scipy", "stable_baselines3", "tensorboard", "av")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.strip() == "[]", result.stdout + result.stderr
