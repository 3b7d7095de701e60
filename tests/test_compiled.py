import pytest
import torch

import envs
from metarl.compiled import compile_spec
from metarl.env import BatchedEnv
from metarl.errors import ConfigError, DeviceError
from metarl.worlds import ProcessSpec


def test_a_machine_that_cannot_compile_is_told_what_is_missing(monkeypatch):
    def no_compiler(function, **_):
        def fail(*_):
            raise RuntimeError("raised:\nno g++ found\nand much more")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(DeviceError, match=r"does not work here \(raised: no g\+\+ found\).*--compile-env"):
        compile_spec(envs.make_spec("bandit"))


def test_environments_of_processes_have_nothing_to_compile():
    bandit = envs.make_spec("bandit")
    spec = ProcessSpec("theirs", bandit.tasks, 1, bandit.action_space, 10, factory=dict)
    with pytest.raises(ConfigError, match="theirs runs in worker processes"):
        compile_spec(spec)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reach-planar", "track", "payload"])  # the last two share functions
def test_a_compiled_environment_is_the_same_to_rounding(name):
    spec = envs.make_spec(name)
    plain, compiled = (BatchedEnv(s, 8, num_threads=1) for s in (spec, compile_spec(spec)))
    first = plain.reset()
    torch.testing.assert_close(compiled.reset(), first, rtol=1e-5, atol=1e-6)
    action = torch.full((8, spec.action_space.input_dim), 0.5)
    for _ in range(20):
        expected, actual = plain.step(action), compiled.step(action)
        for field in ("obs", "reward", "terminated", "valid"):
            ours, theirs = getattr(actual, field), getattr(expected, field)
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (expected.obs - first).abs().amax() > 1e-3
