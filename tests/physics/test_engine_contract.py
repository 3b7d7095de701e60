"""The contract of `Engine`, held against both engines. The worlds are those of bench.py."""

from __future__ import annotations

import resource

import mujoco
import numpy as np
import pytest
import torch

from metarl.errors import EngineError
from metarl.physics import Engine
from tests.physics.bench import (
    CART_MASS_KG,
    DATA_FIELDS,
    DT_S,
    GRAVITY,
    NUM_SUBSTEPS,
    NUM_WORLDS,
    XML,
    make_engine,
    make_model,
    make_physics,
    per_world,
    set_parameters,
    snapshot,
)

NAN = float("nan")


def put(
    engine: Engine, name: str, column: int | tuple[int, ...], value: float | torch.Tensor, world: int | None = None
):
    """Write one number of a state field in all worlds or in one."""
    whole = engine.data(name).clone()
    columns = column if isinstance(column, tuple) else (column,)
    whole[(slice(None) if world is None else world, *columns)] = value
    engine.write(name, whole)


def run(engine: Engine, num_steps: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Steps with random controls; what every field was after each."""
    generator = torch.Generator().manual_seed(seed)
    history = []
    for _ in range(num_steps):
        engine.write("ctrl", torch.rand(engine.num_worlds, 2, generator=generator) * 2 - 1)
        engine.step()
        history.append(snapshot(engine))
    return history


def start_moving(engine: Engine) -> None:
    """The puck slides towards the wall, which stands elsewhere in each world; the pole falls."""
    engine.reset()
    put(engine, "qvel", 0, 1.5)
    put(engine, "qpos", 3, 0.3)
    put(engine, "mocap_pos", (0, 0), torch.linspace(0.1, 0.5, engine.num_worlds))
    engine.forward()


# --- arrays ---------------------------------------------------------------------------------------


def test_all_arrays_belong_to_the_instant_of_qpos_after_a_step(engine: Engine) -> None:
    start_moving(engine)
    run(engine, 3)
    data = mujoco.MjData(engine.model)
    for world in range(NUM_WORLDS):
        for name in ("qpos", "qvel", "mocap_pos", "mocap_quat"):
            getattr(data, name)[:] = engine.data(name)[world].numpy()
        mujoco.mj_forward(engine.model, data)
        for name in ("xpos", "xmat", "site_xpos", "site_xmat", "geom_xpos"):
            np.testing.assert_allclose(engine.data(name)[world], getattr(data, name), atol=2e-6, err_msg=name)
        position_and_velocity = slice(0, 4)
        np.testing.assert_allclose(
            engine.data("sensordata")[world, position_and_velocity], data.sensordata[position_and_velocity], atol=2e-6
        )


def test_acceleration_sensors_are_one_substep_old_and_never_blank(engine: Engine) -> None:
    for _ in range(20):
        engine.step()
    accelerometer, touch = engine.data("sensordata")[:, 4:7], engine.data("sensordata")[:, 7]
    # The pole stands up, so that its tip feels gravity upwards; the floor carries the puck's weight.
    torch.testing.assert_close(accelerometer, torch.tensor([0.0, 0.0, GRAVITY]).expand(6, 3), atol=1e-3, rtol=0)
    torch.testing.assert_close(touch, torch.full((6,), 1.0 * GRAVITY), atol=0.1, rtol=0)


def test_contact_forces_are_those_of_the_last_step_and_zero_after_a_reset(engine: Engine) -> None:
    puck, upwards = engine.model.body("puck").id, 5  # torque before force
    assert bool((engine.data("cfrc_ext") == 0).all())
    for _ in range(20):
        engine.step()
    torch.testing.assert_close(
        engine.data("cfrc_ext")[:, puck, upwards], torch.full((6,), 1.0 * GRAVITY), atol=0.1, rtol=0
    )
    mask = torch.tensor([True, False] * 3)
    before = engine.data("cfrc_ext").clone()
    engine.reset(mask)
    engine.forward()
    assert bool((engine.data("cfrc_ext")[mask] == 0).all())
    assert torch.equal(engine.data("cfrc_ext")[~mask], before[~mask])


def test_fields_have_mujocos_shapes_and_float32(engine: Engine) -> None:
    data = mujoco.MjData(engine.model)
    for name in (*DATA_FIELDS, "act", "mocap_pos", "mocap_quat", "time", "cvel", "xipos", "geom_xmat"):
        field = engine.data(name)
        assert field.dtype == torch.float32, name
        assert tuple(field.shape) == (NUM_WORLDS, *np.shape(getattr(data, name))), name


def test_a_field_asked_for_late_is_current_at_once(engine: Engine) -> None:
    start_moving(engine)
    engine.step()
    np.testing.assert_allclose(engine.data("xipos")[:, 1, 0], engine.data("qpos")[:, 0], atol=1e-6)


def test_a_field_is_always_the_same_tensor(engine: Engine) -> None:
    qpos, failed, before = engine.data("qpos"), engine.failed, engine.data("qpos").clone()
    put(engine, "qvel", 0, 1.0)
    engine.step()
    assert engine.data("qpos").data_ptr() == qpos.data_ptr()
    assert engine.failed is failed
    assert not torch.equal(qpos, before)


def test_a_written_state_field_reads_back_at_once(engine: Engine) -> None:
    put(engine, "qpos", 2, torch.arange(6.0))
    assert engine.data("qpos")[:, 2].tolist() == [0, 1, 2, 3, 4, 5]


def test_forward_computes_positions_without_advancing_time(engine: Engine) -> None:
    put(engine, "qpos", 2, torch.arange(6.0))
    engine.forward()
    cart = engine.model.body("cart").id
    torch.testing.assert_close(engine.data("xpos")[:, cart, 0], torch.arange(6.0))
    assert engine.data("time").tolist() == [0.0] * 6


def test_a_step_sees_what_was_written_without_a_forward_between(engine: Engine) -> None:
    ends = []
    for has_forward in (False, True):
        start_moving(engine)
        run(engine, 2)
        put(engine, "qpos", 3, 1.0)
        put(engine, "mocap_pos", (0, 0), 0.7)
        if has_forward:
            engine.forward()
        engine.step()
        ends.append(snapshot(engine))
    for name in DATA_FIELDS:
        torch.testing.assert_close(ends[0][name], ends[1][name], atol=1e-5, rtol=0, msg=name)


# --- what differs between worlds ------------------------------------------------------------------


def test_acceleration_is_force_over_the_mass_of_each_world(engine: Engine) -> None:
    pole = engine.model.body("pole").id
    cart = engine.model.body("cart").id
    mass = per_world(engine, "body_mass")
    inertia = per_world(engine, "body_inertia")
    mass[:, cart] = CART_MASS_KG * torch.tensor([0.5, 1, 2, 4, 8, 16])
    mass[:, pole] = 1e-6  # the cart alone
    inertia[:, pole] *= 1e-5
    engine.set_model_field("body_mass", mass)
    engine.set_model_field("body_inertia", inertia)
    engine.set_const()
    engine.reset()
    engine.write("ctrl", torch.tensor([[1.0, 0.0]]).expand(6, 2))
    engine.step()
    force_n = 10.0
    expected = force_n / mass[:, cart] * DT_S * NUM_SUBSTEPS
    torch.testing.assert_close(engine.data("qvel")[:, 2], expected, atol=0, rtol=1e-3)


def test_controls_arrive_after_the_delay_of_each_world(engine: Engine) -> None:
    delay = per_world(engine, "actuator_delay")
    delay[:, 0] = DT_S * torch.arange(6)
    engine.set_model_field("actuator_delay", delay)
    engine.reset()
    engine.write("ctrl", torch.tensor([[1.0, 0.0]]).expand(6, 2))
    engine.step()
    speed = engine.data("qvel")[:, 2]
    num_pushed = (speed / speed[0] * NUM_SUBSTEPS).round()
    assert num_pushed.tolist() == [4, 3, 2, 1, 0, 0]


def test_friction_is_that_of_the_geom_with_priority(engine: Engine) -> None:
    """Without priority="1" on the puck, the floor's friction of 1 would win in every world."""
    puck = engine.model.geom("puck").id
    friction = per_world(engine, "geom_friction")
    friction[:, puck, 0] = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    engine.set_model_field("geom_friction", friction)
    engine.reset()
    put(engine, "mocap_pos", (0, 0), 1000.0)
    force_n, weight_n = 4.4, 1.0 * GRAVITY
    put(engine, "qfrc_applied", 0, force_n)
    for _ in range(50):
        engine.step()
    slides = engine.data("qpos")[:, 0] > 0.1
    assert slides.tolist() == (force_n > friction[:, puck, 0] * weight_n).tolist() == [True] * 4 + [False] * 2


def test_a_fixture_on_a_mocap_body_stands_elsewhere_in_each_world(engine: Engine) -> None:
    put(engine, "qvel", 0, 3.0)
    positions = torch.tensor([0.15, 0.2, 0.25, 0.3, 0.35, 0.4])
    put(engine, "mocap_pos", (0, 0), positions)
    engine.forward()
    wall, door = engine.model.geom("wall").id, engine.model.body("door").id
    torch.testing.assert_close(engine.data("geom_xpos")[:, wall, 0], positions)
    torch.testing.assert_close(engine.data("xpos")[:, door, 0], positions)
    reached = engine.data("qpos")[:, 0].clone()
    for _ in range(15):
        engine.step()
        reached = torch.maximum(reached, engine.data("qpos")[:, 0])
    touching = positions - 0.05 - 0.02  # half the puck, the radius of the wall
    torch.testing.assert_close(reached, touching, atol=0.02, rtol=0)


def test_wind_blows_in_each_world_even_if_the_compiled_model_has_no_fluid(engine: Engine) -> None:
    assert engine.model.opt.density == 0
    engine.set_model_field("opt.density", torch.full((6,), 1.2))
    wind = per_world(engine, "opt.wind")
    wind[:, 0] = torch.tensor([0.0, 5, 10, 20, -5, -10])
    engine.set_model_field("opt.wind", wind)
    engine.reset()
    engine.step()
    speed = engine.data("qvel")[:, 2]
    assert speed[0].abs() < 1e-6
    assert speed[1] > 1e-4
    # Drag grows with the square of the wind.
    torch.testing.assert_close(speed / speed[1], torch.tensor([0.0, 1, 4, 16, -1, -4]), atol=0.02, rtol=0.02)


def test_the_same_tasks_in_another_order_give_the_same_worlds_in_that_order(engine: Engine) -> None:
    scale, order = torch.linspace(0.5, 2, 6), torch.tensor([3, 0, 5, 1, 4, 2])
    ends = []
    for permuted in (torch.arange(6), order):
        for name in ("body_mass", "body_inertia", "actuator_gainprm"):
            value = per_world(engine, name)
            value *= scale[permuted].reshape(6, *[1] * (value.ndim - 1))
            engine.set_model_field(name, value)
        engine.set_const()
        engine.reset()
        for _ in range(5):
            engine.write("ctrl", torch.ones(6, 2))
            engine.step()
        ends.append(engine.data("qpos").clone())
    assert torch.equal(ends[0][order], ends[1])


# --- reset ----------------------------------------------------------------------------------------


def test_a_masked_reset_touches_only_the_worlds_of_the_mask(engine: Engine) -> None:
    start_moving(engine)
    run(engine, 3)
    before = {name: engine.data(name).clone() for name in ("qpos", "qvel", "ctrl", "act", "mocap_pos", "time")}
    mask = torch.tensor([True, False, False, True, False, True])
    engine.reset(mask)
    for name, value in before.items():
        assert torch.equal(engine.data(name)[~mask], value[~mask]), name
    assert engine.data("qpos")[mask].abs().max() == 0
    assert engine.data("qvel")[mask].abs().max() == 0
    assert engine.data("act")[mask].abs().max() == 0
    assert engine.data("time")[mask].abs().max() == 0
    assert engine.data("mocap_pos")[mask, 0].tolist() == [[1.0, 0.0, pytest.approx(0.1)]] * 3


def test_a_masked_reset_does_not_change_how_the_other_worlds_go_on(engine: Engine) -> None:
    mask = torch.tensor([True, False, True, False, False, False])
    ends = []
    for is_interrupted in (False, True):
        start_moving(engine)
        run(engine, 2, seed=1)
        if is_interrupted:
            engine.reset(mask)
            engine.forward()
        ends.append(run(engine, 3, seed=2)[-1])
    for name in DATA_FIELDS:
        assert torch.equal(ends[0][name][~mask], ends[1][name][~mask]), name


def test_an_episode_after_a_reset_repeats_the_one_before(engine: Engine) -> None:
    set_parameters(engine, torch.linspace(0.5, 2, 6))
    ends = []
    for _ in range(2):
        start_moving(engine)
        ends.append(run(engine, 10)[-1])
    for name in DATA_FIELDS:
        assert torch.equal(ends[0][name], ends[1][name]), name


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("qpos", 3, NAN),
        ("qpos", 0, float("inf")),
        ("qvel", 2, NAN),
        ("act", 0, NAN),
        ("mocap_pos", (0, 1), NAN),
        ("qfrc_applied", 2, NAN),
        ("xfrc_applied", (1, 0), 1e30),
    ],
)
def test_a_bad_number_fails_its_world_and_leaves_the_others_bit_identical(
    engine: Engine, name: str, column: int | tuple[int, ...], value: float
) -> None:
    start_moving(engine)
    sound = run(engine, 4)[-1]
    start_moving(engine)
    put(engine, name, column, value, world=2)
    with_failure = run(engine, 4)[-1]
    assert engine.failed.tolist() == [False, False, True, False, False, False]
    others = ~engine.failed
    for field in DATA_FIELDS:
        assert torch.equal(with_failure[field][others], sound[field][others]), field
        assert torch.isfinite(with_failure[field]).all(), field


@pytest.mark.parametrize("bad", [NAN, 1e20])
def test_a_bad_control_fails_its_world_and_leaves_the_others_bit_identical(engine: Engine, bad: float) -> None:
    ends = []
    for control_of_one in (0.5, bad):
        start_moving(engine)
        for _ in range(4):
            control = torch.full((6, 2), 0.5)
            control[4] = control_of_one
            engine.write("ctrl", control)
            engine.step()
        ends.append(snapshot(engine))
    assert engine.failed.tolist() == [False] * 4 + [True, False]
    for field in DATA_FIELDS:
        assert torch.equal(ends[0][field][~engine.failed], ends[1][field][~engine.failed]), field
        assert torch.isfinite(ends[1][field]).all(), field


def test_a_failed_world_stays_failed_until_it_is_reset(engine: Engine) -> None:
    put(engine, "qpos", 0, NAN, world=1)
    put(engine, "qvel", 0, NAN, world=3)
    engine.step()
    for _ in range(3):
        engine.step()
        assert engine.failed.tolist() == [False, True, False, True, False, False]
    engine.reset(torch.tensor([False, True, False, False, False, False]))
    assert engine.failed.tolist() == [False, False, False, True, False, False]
    engine.step()
    assert engine.failed.tolist() == [False, False, False, True, False, False]
    engine.reset()
    engine.step()
    assert not engine.failed.any()


def test_forward_flags_a_bad_state_too_and_leaves_finite_arrays(engine: Engine) -> None:
    put(engine, "qpos", 3, NAN, world=0)
    engine.forward()
    assert engine.failed.tolist() == [True] + [False] * 5
    assert all(torch.isfinite(value).all() for value in snapshot(engine).values())


def test_a_fixture_at_nan_fails_its_world_even_if_nothing_moves_because_of_it() -> None:
    free = 'contype="0" conaffinity="0"'
    xml = f"""<mujoco><worldbody><body mocap="true"><geom size=".1" {free}/></body>
      <body><joint type="slide"/><geom size=".1" {free}/></body></worldbody></mujoco>"""
    engine = make_engine("batch", 3, make_physics(make_model(xml), data_fields=("qpos",), model_fields=()))
    put(engine, "mocap_pos", (0, 0), NAN, world=1)
    engine.step()
    assert engine.failed.tolist() == [False, True, False]
    assert torch.isfinite(engine.data("mocap_pos")).all()


def test_a_diverging_world_fails_alone(engine: Engine) -> None:
    """A gain so absurd that the cart reaches numbers beyond 1e10 within a few steps."""
    ends = []
    for gain_of_last in (10.0, -1e12):
        gain = per_world(engine, "actuator_gainprm")
        gain[5, 0, 0] = gain_of_last
        engine.set_model_field("actuator_gainprm", gain)
        start_moving(engine)
        ends.append(run(engine, 6)[-1])
    assert engine.failed.tolist() == [False] * 5 + [True]
    for field in DATA_FIELDS:
        assert torch.equal(ends[0][field][:5], ends[1][field][:5]), field
        assert torch.isfinite(ends[1][field]).all(), field


def test_nan_in_a_model_field_is_refused(engine: Engine) -> None:
    mass = per_world(engine, "body_mass")
    mass[3, 1] = NAN
    with pytest.raises(EngineError, match=r"'body_mass' is NaN in worlds \[3\]"):
        engine.set_model_field("body_mass", mass)


# --- errors ---------------------------------------------------------------------------------------


def test_unknown_and_misused_fields_are_named(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"unknown data field 'qpso'. Did you mean 'qpos'"):
        engine.data("qpso")
    with pytest.raises(EngineError, match=r"unknown state field 'xpos'. Did you mean .*'qpos'.* Available: act, ctrl"):
        engine.write("xpos", engine.data("xpos"))
    with pytest.raises(EngineError, match=r"'dof_damping'.*Available: actuator_delay"):
        engine.set_model_field("dof_damping", per_world(engine, "dof_damping"))
    with pytest.raises(EngineError, match=r"unknown model field 'body_mas'. Did you mean 'body_mass'"):
        engine.default_model_field("body_mas")


def test_values_of_another_shape_are_refused_rather_than_broadcast(engine: Engine) -> None:
    with pytest.raises(EngineError, match=r"'qpos' must have shape \(6, 5\), got \(5,\)"):
        engine.write("qpos", torch.zeros(5))
    with pytest.raises(EngineError, match=r"'opt.wind' must have shape \(6, 3\), got \(3,\)"):
        engine.set_model_field("opt.wind", torch.zeros(3))
    with pytest.raises(EngineError, match=r"reset mask must have shape \(6,\), got \(5,\)"):
        engine.reset(torch.zeros(5, dtype=torch.bool))


def test_moving_a_static_geom_is_refused_because_warp_would_leave_it_in_place() -> None:
    for kind in ("batch", "warp"):
        engine = make_engine(kind, 2, make_physics(model_fields=("geom_pos", "body_pos")))
        position = per_world(engine, "geom_pos")
        position[:, engine.model.geom("puck").id, 1] = 0.01
        engine.set_model_field("geom_pos", position)
        position[1, engine.model.geom("floor").id, 2] = -0.1
        with pytest.raises(EngineError, match=r"'geom_pos' moves static .*'floor'.*mocap"):
            engine.set_model_field("geom_pos", position)


@pytest.mark.parametrize("kind", ["batch", "warp"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("geom_contype", "'geom_contype' cannot differ between worlds"),
        ("body_parentid", "'body_parentid' cannot differ between worlds"),
        ("opt.iterations", "'opt.iterations' cannot differ between worlds"),
        ("wind", "is an option: name it 'opt.wind'"),
        ("body_mas", "unknown model field 'body_mas'. Did you mean 'body_mass'"),
    ],
)
def test_a_model_field_that_cannot_differ_between_worlds_fails_at_construction(
    kind: str, name: str, message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        make_engine(kind, 2, make_physics(model_fields=(name,)))


def test_default_model_field_is_the_compiled_value(engine: Engine) -> None:
    mass = engine.default_model_field("body_mass")
    assert mass[engine.model.body("cart").id] == CART_MASS_KG
    assert mass.dtype == torch.float32
    assert tuple(engine.default_model_field("opt.gravity").shape) == (3,)
    assert tuple(engine.default_model_field("opt.density").shape) == ()


# --- the two engines agree ------------------------------------------------------------------------


def test_engines_agree_over_100_substeps_with_parameters_delays_and_contacts(
    both_engines: tuple[Engine, Engine],
) -> None:
    histories = []
    for engine in both_engines:
        set_parameters(engine, torch.linspace(0.5, 2, 6))
        start_moving(engine)
        history = run(engine, 13)
        engine.reset(torch.tensor([True, False, False, True, False, False]))
        engine.forward()
        histories.append(history + run(engine, 12, seed=1))
        assert not engine.failed.any()
    assert len(histories[0]) * NUM_SUBSTEPS == 100
    for on_batch, on_warp in zip(*histories, strict=True):
        for name in DATA_FIELDS:
            tolerance = 5e-2 if name in ("sensordata", "cfrc_ext") else 2e-5  # contact forces are stiff
            torch.testing.assert_close(on_batch[name], on_warp[name], atol=tolerance, rtol=1e-4, msg=name)


def test_set_const_gives_each_world_the_same_constants_on_both_engines(both_engines: tuple[Engine, Engine]) -> None:
    on_batch, on_warp = both_engines
    for engine in both_engines:
        set_parameters(engine, torch.linspace(0.5, 2, 6))
    for name in ("body_subtreemass", "body_invweight0", "dof_invweight0", "actuator_acc0"):
        exact = on_batch._batch.expanded(name)  # type: ignore[attr-defined]
        value = getattr(on_warp._model, name).numpy()  # type: ignore[attr-defined]
        assert value.shape[0] == NUM_WORLDS
        assert exact.std(0).max() > 0
        np.testing.assert_allclose(value, exact, rtol=1e-5, err_msg=name)


def test_set_const_of_the_compiled_values_gives_the_compiled_constants(engine: Engine) -> None:
    """A body that cannot rotate has no rotational inverse weight; one that slides has 1 / mass."""
    source = (
        engine._batch.expanded("body_invweight0")  # type: ignore[attr-defined]
        if hasattr(engine, "_batch")
        else engine._model.body_invweight0.numpy()  # type: ignore[attr-defined]
    )
    assert engine.model.body_invweight0[engine.model.body("puck").id].tolist() == [1.0, 0.0]
    for world in range(NUM_WORLDS):
        np.testing.assert_allclose(source[world], engine.model.body_invweight0, rtol=1e-5)


# --- the CPU engine -------------------------------------------------------------------------------


def test_the_cpu_engine_is_bit_identical_at_one_and_two_threads() -> None:
    from metarl.physics.batch_engine import BatchEngine

    ends = []
    for num_threads in (1, 2):
        engine = BatchEngine(make_physics(), 16, num_threads)
        set_parameters(engine, torch.linspace(0.5, 2, 16))
        start_moving(engine)
        put(engine, "qvel", 1, NAN, world=7)
        ends.append(run(engine, 20)[-1])
        assert engine.failed.nonzero().flatten().tolist() == [7]
    for name in DATA_FIELDS:
        assert torch.equal(ends[0][name], ends[1][name]), name


def test_what_is_read_does_not_change_what_happens() -> None:
    """The CPU engine shares memory between worlds, and skips kinematics, where the fields asked for allow it."""
    of_position = tuple(name for name in DATA_FIELDS if name != "sensordata")
    ends = []
    for data_fields in (("qpos", "qvel"), of_position, (*of_position, "cvel"), DATA_FIELDS):
        engine = make_engine("batch", NUM_WORLDS, make_physics(data_fields=data_fields))
        set_parameters(engine, torch.linspace(0.5, 2, 6))
        for name in data_fields:
            engine.data(name)
        start_moving(engine)
        put(engine, "qvel", 0, NAN, world=4)
        generator = torch.Generator().manual_seed(0)
        for _ in range(10):
            engine.write("ctrl", torch.rand(NUM_WORLDS, 2, generator=generator) * 2 - 1)
            engine.step()
        ends.append(engine)
    for engine in ends[:3]:
        for name in ("qpos", "qvel", "xpos", "site_xmat", "cvel"):
            assert torch.equal(engine.data(name), ends[3].data(name)), name
        assert engine.failed.tolist() == ends[3].failed.tolist() == [False] * 4 + [True, False]


def test_a_field_that_needs_the_forces_of_a_step_must_be_named_beforehand() -> None:
    engine = make_engine("batch", 2, make_physics(data_fields=("qpos",)))
    with pytest.raises(EngineError, match=r"'actuator_force' must be named in Physics.data_fields"):
        engine.data("actuator_force")
    engine = make_engine("batch", 2, make_physics(data_fields=("qpos", "actuator_force")))
    engine.write("ctrl", torch.tensor([[1.0, 0.0], [0.5, 0.0]]))
    engine.step()
    assert engine.data("actuator_force")[:, 0].tolist() == [10.0, 5.0]


def test_mujocos_warnings_are_logged_and_not_written_to_the_current_folder(
    tmp_path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    engine = make_engine("batch", 2)
    put(engine, "qpos", 0, NAN, world=1)
    engine.step()
    assert "huge value in QPOS" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_warning_handler_of_the_user_is_left_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    handler = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(messages.append)
    try:
        engine = make_engine("batch", 2)
        put(engine, "qvel", 0, NAN, world=0)
        engine.step()
    finally:
        mujoco.set_mju_user_warning(handler)
    assert any("QVEL" in message for message in messages)


def test_an_arena_without_room_for_the_contacts_fails_its_world() -> None:
    xml = XML.replace("<worldbody>", '<size memory="2K"/><worldbody>', 1)
    engine = make_engine("batch", 3, make_physics(make_model(xml), model_fields=()))
    engine.reset()
    put(engine, "qpos", 1, torch.tensor([1.0, 0.0, 1.0]))  # two pucks fly, one lies on the floor
    engine.forward()
    engine.step()
    assert engine.failed.tolist() == [False, True, False]


def test_an_impossible_mass_is_an_error_that_names_its_world() -> None:
    engine = make_engine("batch", 3)
    mass = per_world(engine, "body_mass")
    mass[1, engine.model.body("puck").id] = 0.0
    engine.set_model_field("body_mass", mass)
    with pytest.raises(EngineError, match=r"model fields of worlds \[1\] are impossible"):
        engine.set_const()


def test_memory_stays_flat_over_2000_resets(engine: Engine) -> None:
    mask = torch.tensor([True, False, True, False, True, False])

    def reset_often(num_resets: int) -> None:
        for i in range(num_resets // 2):
            if i % 20 == 0:
                engine.set_const()
            engine.reset()
            put(engine, "qpos", 0, 0.1)
            engine.forward()
            engine.reset(mask)
            engine.forward()

    reset_often(200)
    before = _resident_bytes()
    reset_often(2000)
    assert _resident_bytes() - before < 4 * 2**20


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


# --- the engine of mujoco_warp --------------------------------------------------------------------


def test_the_portable_model_fields_are_those_of_both_engines() -> None:
    import dataclasses

    import mujoco_warp as mjw
    from mujoco import batch

    from metarl.physics.fields import DERIVED_FIELDS, MODEL_FIELDS

    def batched(record: type) -> set[str]:
        return {f.name for f in dataclasses.fields(record) if (getattr(f.type, "shape", None) or ("",))[0] == "*"}

    on_warp = batched(mjw.Model) | {f"opt.{name}" for name in batched(mjw.Option)}
    structure = {"actuator_history", "actuator_historyadr", "sensor_history", "sensor_historyadr"}
    assert on_warp - MODEL_FIELDS == structure | {"opt.impratio_invsqrt"}
    assert MODEL_FIELDS - on_warp == set()
    assert MODEL_FIELDS <= batch.MODEL_FIELDS
    assert set(DERIVED_FIELDS) <= MODEL_FIELDS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"integrator": mujoco.mjtIntegrator.mjINT_RK4}, "RK4"),
        ({"solver": mujoco.mjtSolver.mjSOL_PGS}, "PGS"),
        ({"disableflags": mujoco.mjtDisableBit.mjDSBL_AUTORESET}, "AUTORESET"),
    ],
)
def test_a_model_that_mujoco_warp_cannot_run_is_refused_with_the_feature_named(
    change: dict[str, int], message: str
) -> None:
    model = make_model()
    for name, value in change.items():
        setattr(model.opt, name, value)
    with pytest.raises(EngineError, match=message):
        make_engine("warp", 2, make_physics(model))


def test_a_full_constraint_buffer_fails_its_world_alone() -> None:
    """Eight rows are enough for a puck that slides freely, not for its contacts with floor and wall."""
    ends = []
    for is_high in (True, False):
        engine = make_engine("warp", NUM_WORLDS, make_physics(max_constraints=8))
        put(engine, "qpos", 1, 1.0)
        if not is_high:
            put(engine, "qpos", 1, 0.0, world=2)
        engine.forward()
        ends.append(run(engine, 2)[-1])
    assert engine.failed.tolist() == [False, False, True, False, False, False]
    others = ~engine.failed
    for name in DATA_FIELDS:
        assert torch.equal(ends[0][name][others], ends[1][name][others]), name


def test_a_full_pool_of_contacts_is_not_silent() -> None:
    engine = make_engine("warp", NUM_WORLDS, make_physics(max_contacts=1))
    engine.forward()
    engine.step()
    # Six pucks make four contacts each, the pool has room for six: whoever lost one is flagged.
    assert 4 <= int(engine.failed.sum()) <= 6


@pytest.mark.slow
def test_the_warp_engine_repeats_bit_for_bit_when_asked_to_be_deterministic() -> None:
    from metarl.physics.warp_engine import WarpEngine

    ends = []
    for _ in range(2):
        engine = WarpEngine(make_physics(), NUM_WORLDS, torch.device("cpu"), deterministic=True)
        start_moving(engine)
        ends.append(run(engine, 10)[-1])
    for name in DATA_FIELDS:
        assert torch.equal(ends[0][name], ends[1][name]), name
