"""Panels side by side, with text and bars, and the file they are written to. Knows nothing of physics."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from metarl.errors import RenderError

Color = tuple[int, int, int]

_BACKGROUND: Color = (18, 20, 25)
_PANEL: Color = (30, 33, 40)
_TEXT: Color = (236, 238, 242)
_MUTED: Color = (158, 165, 178)
_DONE: Color = (86, 148, 235)
_RUNNING: Color = (247, 182, 68)
_SUCCESS: Color = (72, 200, 118)

_GAP = 8
_PADDING = 8
_LINE = 18
_BARS_HEIGHT = 44
_MANY_ITEMS = 8
_MAX_BAR_WIDTH = 72
_TITLE_SIZE, _TEXT_SIZE, _NUMBER_SIZE = 15, 13, 11
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PanelState:
    """What one panel shows at one instant.

    Attributes:
        frame: (height, width, 3) uint8, the picture.
        status: up to three short texts under it: left, middle, right.
        returns: return of each episode so far, the running one last.
        is_success: draw a green frame around the picture.
    """

    frame: np.ndarray
    status: tuple[str, ...]
    returns: Sequence[float]
    is_success: bool = False


class Mosaic:
    """A grid of panels: heading, picture, status line, one bar per episode.

    Args:
        headings: for each panel the items of its heading; they are wrapped to the panel's width.
        frame_width, frame_height: size of each picture in pixels.
        num_episodes: K, slots for bars; 0 leaves the status line and the bars away.
        return_range: the least and the greatest return, so that bars compare across panels.
        title: a line over everything.
        columns: panels per row; None: up to three in a row, four as 2 x 2.
    """

    def __init__(
        self,
        headings: Sequence[Sequence[str]],
        frame_width: int,
        frame_height: int,
        *,
        num_episodes: int = 0,
        return_range: tuple[float, float] = (0.0, 1.0),
        title: str = "",
        columns: int | None = None,
    ):
        count = len(headings)
        self._columns = columns or (count if count <= 3 else math.ceil(math.sqrt(count)))
        self._frame_width, self._frame_height = frame_width, frame_height
        self._num_episodes = num_episodes
        self._low, self._high = min(0.0, return_range[0]), max(0.0, return_range[1])
        is_long = any(len(items) > _MANY_ITEMS for items in headings)
        text_size, line_height = (_NUMBER_SIZE, _LINE - 3) if is_long else (_TEXT_SIZE, _LINE)
        lines = [wrap(items, frame_width - 2 * _PADDING, text_size) for items in headings]
        self._heading_height = line_height * max(map(len, lines), default=0) + (_PADDING if any(lines) else 0)
        status_height = _LINE + _BARS_HEIGHT + _PADDING if num_episodes else 0
        self._panel_height = self._heading_height + frame_height + status_height
        self._top = _LINE + 2 * _PADDING if title else _GAP
        rows = math.ceil(count / self._columns)
        self.width = _even(_GAP + self._columns * (frame_width + _GAP))
        self.height = _even(self._top + rows * (self._panel_height + _GAP))
        self._canvas = Image.new("RGB", (self.width, self.height), _BACKGROUND)
        pen = ImageDraw.Draw(self._canvas)
        if title:
            fitted = _shorten(title, self.width - 2 * _GAP, _TITLE_SIZE)
            pen.text((_GAP, _PADDING), fitted, _TEXT, _font(_TITLE_SIZE))
        for index, panel_lines in enumerate(lines):
            x, y = self._corner(index)
            pen.rectangle((x, y, x + frame_width - 1, y + self._panel_height - 1), _PANEL)
            for row, line in enumerate(panel_lines):
                pen.text((x + _PADDING, y + 4 + row * line_height), line, _TEXT, _font(text_size))

    def draw(self, panels: Sequence[PanelState]) -> np.ndarray:
        """Draw one instant of all panels; returns (height, width, 3) uint8."""
        image = self._canvas.copy()
        pen = ImageDraw.Draw(image)
        for index, panel in enumerate(panels):
            x, y = self._corner(index)
            y += self._heading_height
            image.paste(Image.fromarray(panel.frame), (x, y))
            if panel.is_success:
                pen.rectangle((x, y, x + self._frame_width - 1, y + self._frame_height - 1), outline=_SUCCESS, width=4)
            if self._num_episodes:
                self._draw_status(pen, x, y + self._frame_height, panel)
        return np.asarray(image)

    def _corner(self, index: int) -> tuple[int, int]:
        row, column = divmod(index, self._columns)
        return _GAP + column * (self._frame_width + _GAP), self._top + row * (self._panel_height + _GAP)

    def _draw_status(self, pen: ImageDraw.ImageDraw, x: int, y: int, panel: PanelState) -> None:
        left, right = x + _PADDING, x + self._frame_width - _PADDING
        places = ((left, "la"), ((left + right) // 2, "ma"), (right, "ra"))
        for text, (at, anchor) in zip(panel.status, places, strict=False):
            pen.text((at, y + 3), text, _SUCCESS if panel.is_success else _TEXT, _font(_TEXT_SIZE), anchor)
        self._draw_bars(pen, left, right, y + _LINE + 4, panel.returns)

    def _draw_bars(self, pen: ImageDraw.ImageDraw, left: int, right: int, top: int, returns: Sequence[float]) -> None:
        """One bar per episode from the zero line, with its number where there is room."""
        slot = (right - left) / self._num_episodes
        inner_top, inner_height = top + _NUMBER_SIZE + 3, _BARS_HEIGHT - _NUMBER_SIZE - 5
        scale = inner_height / ((self._high - self._low) or 1.0)
        zero = inner_top + self._high * scale
        decimals = return_decimals((self._low, self._high))
        for episode in range(self._num_episodes):
            middle, half = left + (episode + 0.5) * slot, min(slot / 2 - 2, _MAX_BAR_WIDTH / 2)
            x0, x1 = middle - half, middle + half
            if episode >= len(returns):
                pen.line((x0, zero, x1, zero), _MUTED, 1)
                continue
            value = returns[episode]
            is_running = episode == len(returns) - 1
            end = zero - min(max(value, self._low), self._high) * scale
            pen.rectangle((x0, min(zero, end), x1, max(zero, end)), _RUNNING if is_running else _DONE)
            number = f"{value:.{decimals}f}"
            if _width(number, _NUMBER_SIZE) < slot:
                pen.text((middle, top - 1), number, _TEXT if is_running else _MUTED, _font(_NUMBER_SIZE), "ma")


class VideoWriter:
    """Streams frames into an H.264 mp4, or an animated WebP where PyAV is missing.

    The file appears under its name only when it is whole: until then it is NAME.tmp, which is removed
    if anything goes wrong. Use as a context manager.

    Args:
        path: where to write; an existing file is replaced. The suffix is set to that of the format.
        fps: frames per second.

    Raises:
        RenderError: it cannot be written, with the reason.
    """

    def __init__(self, path: str | Path, fps: Fraction):
        self.num_frames = 0
        self._fps = fps
        self._container: Any = None
        self._stream: Any = None
        self._images: list[Image.Image] = []
        try:
            import av
        except ImportError:
            self._av: Any = None
            _log.warning("PyAV is missing: writing an animated WebP; for mp4: pip install av")
        else:
            self._av = av
        self.path = Path(path).with_suffix(".mp4" if self._av else ".webp")
        self._draft = self.path.with_name(self.path.name + ".tmp")

    def __enter__(self) -> VideoWriter:
        with self._clean_failure():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._av:
                options = {"movflags": "+faststart"}
                self._container = self._av.open(str(self._draft), "w", format="mp4", options=options)
            else:
                self._draft.touch()
        return self

    def add(self, frame: np.ndarray) -> None:
        """Append a frame, (height, width, 3) uint8; width and height even, the same for all frames."""
        with self._clean_failure():
            if self._av is None:
                self._images.append(Image.fromarray(frame))
            else:
                if self._stream is None:
                    self._stream = self._start_stream(frame)
                picture = self._av.VideoFrame.from_ndarray(frame, format="rgb24")
                self._container.mux(self._stream.encode(picture))
        self.num_frames += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None or self.num_frames == 0:
            self._discard()
            return
        with self._clean_failure():
            if self._av is None:
                first, *rest = self._images
                duration_ms = round(1000 / self._fps)
                options = {"save_all": True, "append_images": rest, "duration": duration_ms, "loop": 0, "quality": 80}
                first.save(self._draft, format="WEBP", **options)
            else:
                self._container.mux(self._stream.encode(None))
                self._container.close()
                self._container = None
            with open(self._draft, "rb") as file:
                os.fsync(file.fileno())
            self._draft.replace(self.path)

    def _start_stream(self, frame: np.ndarray) -> Any:
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            raise RenderError(f"H.264 needs an even width and height, got frames of {width} x {height}.")
        quality = {"crf": "23", "preset": "veryfast"}
        stream = self._container.add_stream("libx264", rate=self._fps, options=quality)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        return stream

    @contextlib.contextmanager
    def _clean_failure(self) -> Any:
        """Turn a failed write into one clear error that leaves nothing behind."""
        failures = (OSError, ValueError) if self._av is None else (OSError, ValueError, self._av.FFmpegError)
        try:
            yield
        except failures as error:
            self._discard()
            reason = getattr(error, "strerror", None) or error
            raise RenderError(
                f"could not write {self.path}: {reason}. Nothing was left behind; make room or choose another folder."
            ) from error
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        # Closing writes the trailer and may fail for the reason that brought us here.
        with contextlib.suppress(Exception):
            if self._container is not None:
                self._container.close()
        self._container = None
        with contextlib.suppress(OSError):
            self._draft.unlink(missing_ok=True)


def write_png(path: str | Path, image: np.ndarray) -> Path:
    """Write a picture, (height, width, 3) uint8, under its name only when it is whole.

    Raises:
        RenderError: it cannot be written.
    """
    target = Path(path).with_suffix(".png")
    draft = target.with_name(target.name + ".tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(draft, format="PNG", optimize=True)
        draft.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise RenderError(f"could not write {target}: {error.strerror or error}.") from error
    return target


def return_decimals(return_range: tuple[float, float]) -> int:
    """Decimals that show returns of this range with three to four digits."""
    largest = max(abs(return_range[0]), abs(return_range[1]))
    return 2 if largest < 10 else 1 if largest < 1000 else 0


def wrap(items: Sequence[str], width: int, size: int) -> list[str]:
    """Fill lines of at most `width` pixels with items, never breaking one unless it is alone too wide."""
    lines: list[str] = []
    for item in items:
        joined = f"{lines[-1]}   {item}" if lines else item
        if lines and _width(joined, size) <= width:
            lines[-1] = joined
        else:
            lines.append(_shorten(item, width, size))
    return lines


def _shorten(text: str, width: int, size: int) -> str:
    if _width(text, size) <= width:
        return text
    while text and _width(text + "…", size) > width:
        text = text[:-1]
    return text + "…"


def _width(text: str, size: int) -> float:
    return _font(size).getlength(text)


@lru_cache
def _font(size: int) -> Any:
    """DejaVu Sans out of matplotlib's files (no need to import it), for units such as µ and ²."""
    package = find_spec("matplotlib")
    for folder in (package and package.submodule_search_locations) or []:
        file = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


def _even(number: int) -> int:
    return number + number % 2
