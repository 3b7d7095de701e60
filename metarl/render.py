"""Draw frames of a MuJoCo model on a machine without a display, with whatever the machine has.

Which renderer is decided at the first frame, never at import: training does not need one, and with
`MUJOCO_GL=egl` but no libEGL even `import mujoco` fails. In order:

    1. what the user asked for in `MUJOCO_GL`,
    2. `egl` (Linux; fastest where there is a GPU driver or Mesa),
    3. `osmesa` (Linux; Mesa's software renderer),
    4. `glfw` where there is a display; MuJoCo's default on macOS and Windows,
    5. `warp`: mujoco_warp's ray tracer on the CPU, which comes with pip and needs no system library.

1 to 4 are tried in a subprocess first: a failed OpenGL context can abort the whole process, and after one
failure a second try in the same process does. The verdict is kept in the user's cache folder until
MuJoCo, the OpenGL libraries or the settings that matter change.

The ray tracer draws geoms, not sites, and no reflections: mark goals with geoms.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np

from metarl.canvas import Canvas, OpenGLCanvas, WarpCanvas
from metarl.errors import UnknownNameError
from metarl.render_probe import BACKENDS, Probe, choose_backend, import_mujoco, probe

if TYPE_CHECKING:
    import mujoco

__all__ = ["BACKENDS", "Probe", "Renderer", "choose_backend", "import_mujoco", "probe"]

_SHADOW_MAP_SIZE = 2048  # the default, 4096, is nearly the whole cost in software OpenGL; 1024 speckles the floor
_MULTISAMPLES = 4
_SLICES = 64  # of a cylinder; the default of 28 shows its corners
_NEAR_M = 0.05
_SHADOW_RANGE_M = 10.0
_DIRECTIONAL = 1  # mjtLightType


class Renderer:
    """Draws one model from one of its cameras.

    Args:
        model: what to draw; it is copied, not changed.
        width, height: size of a frame in pixels.
        backend: one of `BACKENDS`.
        camera: name of a camera of the model.

    Raises:
        UnknownNameError: no such backend or camera.
        RenderError: this machine cannot draw with this backend; the message says how to mend it.
    """

    def __init__(self, model: mujoco.MjModel, width: int, height: int, *, backend: str = "auto", camera: str = "video"):
        import mujoco

        cameras = [model.camera(i).name for i in range(model.ncam)]
        if camera not in cameras:
            raise UnknownNameError("camera", camera, cameras)
        self.backend = choose_backend(backend)
        self._model = _prepare(model, width, height)
        self._camera_id = cameras.index(camera)
        self._data = mujoco.MjData(self._model)
        mujoco.mj_forward(self._model, self._data)
        canvas = WarpCanvas if self.backend == "warp" else OpenGLCanvas
        self._canvas: Canvas = canvas(self.backend, self._model, self._data, self._camera_id, width, height)

    def draw(
        self, qpos: np.ndarray, mocap_pos: np.ndarray | None = None, mocap_quat: np.ndarray | None = None
    ) -> np.ndarray:
        """Draw one instant.

        Args:
            qpos: (nq,) joint positions.
            mocap_pos: (nmocap, 3) m; None keeps those of the last frame (at first: the model's).
            mocap_quat: (nmocap, 4), likewise.

        Returns:
            (height, width, 3) uint8, a new array.
        """
        import mujoco

        self._data.qpos[:] = qpos
        if mocap_pos is not None:
            self._data.mocap_pos[:] = mocap_pos
        if mocap_quat is not None:
            self._data.mocap_quat[:] = mocap_quat
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)  # tracking cameras and lights look at it
        mujoco.mj_camlight(self._model, self._data)
        mujoco.mj_tendon(self._model, self._data)
        _bring_suns_near(self._model, self._data, self._camera_id)
        return self._canvas.draw(self._data)

    def close(self) -> None:
        """Free the graphics memory; a closed renderer draws no more."""
        self._canvas.close()

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _prepare(model: mujoco.MjModel, width: int, height: int) -> mujoco.MjModel:
    """A copy of the model whose settings make frames quick and clean."""
    model = copy.copy(model)
    vis, extent = model.vis, model.stat.extent
    vis.quality.shadowsize, vis.quality.offsamples, vis.quality.numslices = _SHADOW_MAP_SIZE, _MULTISAMPLES, _SLICES
    vis.global_.offwidth, vis.global_.offheight = width, height
    # Both scale with the scene's extent: a long road would cut away what is near and blur the shadows.
    vis.map.znear = min(vis.map.znear, _NEAR_M / extent)
    vis.map.shadowclip = min(vis.map.shadowclip, _SHADOW_RANGE_M / extent)
    return model


def _bring_suns_near(model: mujoco.MjModel, data: mujoco.MjData, camera_id: int) -> None:
    """Centre the shadows of directional lights where the camera looks; their position means nothing else."""
    eye, forwards = data.cam_xpos[camera_id], -data.cam_xmat[camera_id].reshape(3, 3)[:, 2]
    to_ground_m = eye[2] / -forwards[2] if forwards[2] < 0 < eye[2] else np.inf
    center = eye + forwards * min(to_ground_m, _SHADOW_RANGE_M / 2)
    suns = model.light_type == _DIRECTIONAL
    data.light_xpos[suns] = center - data.light_xdir[suns] * _SHADOW_RANGE_M / 2
