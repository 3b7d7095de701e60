"""Meta-World's benchmarks as task distributions, run by worker processes; see `envs.metaworld.benchmarks`.

Here are only the names of their classes, without anything being imported.
"""

from typing import NamedTuple


class Split(NamedTuple):
    """The classes of a benchmark, in the order in which the package draws their goals."""

    train: tuple[str, ...]
    test: tuple[str, ...]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CLASSES = _names("""
    assembly basketball bin-picking box-close button-press-topdown button-press-topdown-wall button-press
    button-press-wall coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-lock door-open
    door-unlock hand-insert drawer-close drawer-open faucet-open faucet-close hammer handle-press-side handle-press
    handle-pull-side handle-pull lever-pull pick-place-wall pick-out-of-hole pick-place plate-slide plate-slide-side
    plate-slide-back plate-slide-back-side peg-insert-side peg-unplug-side soccer stick-push stick-pull push push-wall
    push-back reach reach-wall shelf-place sweep-into sweep window-open window-close
""")
"""The 50 classes, in the package's order."""

ML10 = Split(
    train=_names("""
        reach push pick-place door-open drawer-close button-press-topdown peg-insert-side window-open sweep basketball
    """),
    test=_names("drawer-open door-close shelf-place sweep-into lever-pull"),
)
ML45 = Split(
    train=_names("""
        assembly basketball button-press-topdown button-press-topdown-wall button-press button-press-wall
        coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-open drawer-close drawer-open
        faucet-open faucet-close hammer handle-press-side handle-press handle-pull-side handle-pull lever-pull
        pick-place-wall pick-out-of-hole push-back pick-place plate-slide plate-slide-side plate-slide-back
        plate-slide-back-side peg-insert-side peg-unplug-side soccer stick-push stick-pull push-wall push reach-wall
        reach shelf-place sweep-into sweep window-open window-close
    """),
    test=_names("bin-picking box-close hand-insert door-lock door-unlock"),
)
