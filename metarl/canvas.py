"""What draws a frame: MuJoCo's OpenGL renderer, or mujoco_warp's ray tracer."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import numpy as np

from metarl.errors import RenderError

if TYPE_CHECKING:
    import mujoco

_GL_MODULES = {
    "egl": "mujoco.egl",
    "osmesa": "mujoco.osmesa",
    "glfw": "mujoco.glfw",
    "default": "mujoco.gl_context",  # MuJoCo's own choice, on macOS and Windows
}


class Canvas(Protocol):
    """Draws one model from one camera, both fixed when it is made."""

    def draw(self, data: mujoco.MjData) -> np.ndarray:
        """Draw the poses in `data`; returns a new (height, width, 3) uint8 array."""
        ...

    def close(self) -> None:
        """Free the graphics memory."""
        ...


class OpenGLCanvas:
    """MuJoCo's own renderer in an OpenGL context of our choice.

    `mujoco.Renderer` takes the context that `MUJOCO_GL` named when mujoco was imported; this one is
    chosen later.
    """

    def __init__(
        self, backend: str, model: mujoco.MjModel, data: mujoco.MjData, camera_id: int, width: int, height: int
    ):
        import mujoco

        self._mujoco = mujoco
        self._model = model
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._option = mujoco.MjvOption()
        self._option.sitegroup[:] = 0  # the ray tracer has no sites, so no picture shows them
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = camera_id
        self._scene = mujoco.MjvScene(model, maxgeom=max(1000, 4 * model.ngeom))
        try:
            self._gl = import_module(_GL_MODULES[backend]).GLContext(width, height)
            self._gl.make_current()
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except (ImportError, AttributeError, RuntimeError, OSError, mujoco.FatalError) as error:
            raise RenderError(f"the render backend {backend!r} cannot draw in this process: {error}") from error
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)

    def name(self) -> str:
        """The OpenGL driver's name for itself."""
        gl = import_module("OpenGL.GL") if "OpenGL" in sys.modules else None
        return gl.glGetString(gl.GL_RENDERER).decode() if gl else "unknown"

    def draw(self, data: mujoco.MjData) -> np.ndarray:
        mujoco = self._mujoco
        self._gl.make_current()
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
        frame = np.empty((self._rect.height, self._rect.width, 3), dtype=np.uint8)
        mujoco.mjr_render(self._rect, self._scene, self._context)
        mujoco.mjr_readPixels(frame, None, self._rect, self._context)
        return np.ascontiguousarray(frame[::-1])  # OpenGL counts rows from below

    def close(self) -> None:
        self._gl.make_current()
        self._context.free()
        self._gl.free()


class WarpCanvas:
    """mujoco_warp's ray tracer on the CPU. MuJoCo computes the poses, so that only drawing has to be supported."""

    _POSES = ("geom_xpos", "geom_xmat", "cam_xpos", "cam_xmat", "light_xpos", "light_xdir")

    def __init__(
        self, backend: str, model: mujoco.MjModel, data: mujoco.MjData, camera_id: int, width: int, height: int
    ):
        import mujoco_warp
        import warp as wp

        wp.config.log_level = max(wp.config.log_level, wp.LOG_WARNING)  # a line per kernel otherwise
        self._wp, self._renderer = wp, mujoco_warp
        with wp.ScopedDevice("cpu"):
            try:
                self._model = mujoco_warp.put_model(model)
            except NotImplementedError as error:
                raise RenderError(f"the render backend {backend!r} cannot draw this model: {error}") from error
            self._data = mujoco_warp.put_data(model, data)
            self._context = mujoco_warp.create_render_context(
                model,
                cam_res=(width, height),
                cam_active=[camera_id],
                render_rgb=True,
                render_depth=False,
                render_seg=False,
                use_shadows=True,
                render_skybox=True,
            )
            self._pixels = wp.zeros((1, height, width), dtype=wp.vec3)

    def draw(self, data: mujoco.MjData) -> np.ndarray:
        with self._wp.ScopedDevice("cpu"):
            for name in self._POSES:
                target = getattr(self._data, name)
                target.assign(getattr(data, name).reshape(target.numpy().shape))
            self._renderer.refit_bvh(self._model, self._data, self._context)
            self._renderer.render(self._model, self._data, self._context)
            self._renderer.get_rgb(self._context, 0, self._pixels)
            # On the CPU `numpy()` is a view that the next frame overwrites; scaling copies it.
            return (self._pixels.numpy()[0].clip(0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)

    def close(self) -> None:
        del self._context, self._pixels
