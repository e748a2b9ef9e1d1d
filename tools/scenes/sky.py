"""The sky: its colours, clouds, stars and moon, and far hills or a skyline along the horizon."""

import cv2
import numpy as np

from tools.scenes.canvas import Floats, Surface, circle
from tools.scenes.stage import Stage


def paint_sky(stage: Stage) -> None:
    """Paint the whole image as sky, then far hills or a skyline along the horizon."""
    canvas, weather, camera = stage.canvas, stage.weather, stage.camera
    h, w = canvas.parts.shape
    thing = canvas.thing("sky", background=True)
    whole = [(-2, -2), (w + 2, -2), (w + 2, h + 2), (-2, h + 2)]
    canvas.fill(whole, Surface((0, 0, 0), weather.sky_heat), thing, camera.facing(10000.0))
    rows = int(min(h, camera.horizon + 3))
    if rows < 2:
        return
    down = (np.linspace(0, 1, rows, dtype=np.float32) ** 1.4)[:, None, None]
    top, bottom = np.array(weather.sky_top, np.float32), np.array(weather.sky_bottom, np.float32)
    sky = np.broadcast_to(top * (1 - down) + bottom * down, (rows, w, 3)).copy()
    heat = np.broadcast_to(weather.sky_heat + 26 * down[..., 0] ** 2, (rows, w)).copy()
    if weather.clouds > 0.05:
        _add_clouds(stage, sky, heat)
    if weather.dark and weather.condition != "fog":
        _add_stars(stage, sky)
    canvas.glow_end = rows
    canvas.glow[:rows] = np.clip(np.rint(sky), 0, 255)
    canvas.paint[:rows, :, 3] = np.clip(np.rint(heat), 0, 255)
    _skyline(stage)


def _add_clouds(stage: Stage, sky: Floats, heat: Floats) -> None:
    """Blend clouds into the sky HxWx3 and its heat HxW, in place."""
    weather = stage.weather
    density = _clouds(stage, *heat.shape)
    bright = np.array((236, 238, 242) if not weather.dark else (38, 38, 48), np.float32)
    if weather.condition == "glare" and not weather.dark:
        bright = np.array((255, 226, 186), np.float32)
    under = bright * 0.78
    shade = np.clip(density * 1.2, 0, 1)[..., None]
    sky += (bright * (1 - 0.5 * shade) + under * 0.5 * shade - sky) * (density[..., None] * 0.85)
    heat += density * 22


def _add_stars(stage: Stage, sky: Floats) -> None:
    """Add stars, and at times the moon, to the sky HxWx3, in place."""
    rng, (rows, w) = stage.rng, sky.shape[:2]
    for _ in range(int(rng.integers(20, 70))):
        x, y = int(rng.integers(w)), int(rng.integers(max(1, int(rows * 0.8))))
        sky[y, x] += rng.uniform(20, 110)
    if rng.random() < 0.3:
        moon = np.zeros((rows, w), np.uint8)
        centre = int(rng.uniform(0.1, 0.9) * w), int(rng.uniform(0.1, 0.5) * rows)
        cv2.circle(moon, centre, max(2, w // 70), 255, -1, cv2.LINE_AA)
        sky += moon[..., None] * (np.array((226, 222, 204), np.float32) / 255)


def _clouds(stage: Stage, rows: int, width: int) -> Floats:
    """HxW density in [0, 1]: a layer of cloud in perspective, flatter towards the horizon."""
    rng, weather = stage.rng, stage.weather
    side = 96
    field = np.zeros((side, side), np.float32)
    for cells, weight in ((6, 1.0), (12, 0.55), (24, 0.3), (48, 0.16), (96, 0.08)):
        field += weight * cv2.resize(
            rng.standard_normal((cells, cells), dtype=np.float32), (side, side), interpolation=cv2.INTER_CUBIC
        )
    y = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    away = 1 / (1.12 - y)
    u = (np.linspace(-1, 1, width, dtype=np.float32)[None] * away * 14) + side / 2
    v = np.broadcast_to(away * 12, u.shape).astype(np.float32)
    cloud = cv2.remap(field, u, np.ascontiguousarray(v), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.clip((cloud + (weather.clouds - 0.55) * 2.6) * 0.9, 0, 1)


def _skyline(stage: Stage) -> None:
    """Paint two rows of hills or of buildings."""
    canvas, camera = stage.canvas, stage.camera
    hills = stage.rng.random() < 0.6
    for z, tone in ((500.0, 1.15), (300.0, 0.9)):
        thing = canvas.thing("hills" if hills else "skyline")
        base = camera.project([(0, 0, z)])[0, 1] + 2
        heat = stage.weather.air_heat - (16 if z > 400 else 8)
        if hills:
            _hills(stage, thing, z, base, Surface((76, 98, 92), heat, rough=0.08).tinted(tone))
        else:
            _towers(stage, thing, z, base, heat, tone)


def _hills(stage: Stage, thing: int, z: float, base: float, surface: Surface) -> None:
    """Paint hills at distance `z`; `base` is the image row of their foot."""
    camera, w, count = stage.camera, stage.camera.width, 25
    xs = np.linspace(-0.05 * w, 1.05 * w, count)
    ys = np.convolve(stage.rng.uniform(0, 1, count + 6), np.ones(7) / 7, "valid")
    peaks = base - (4 + (ys - ys.min()) / (np.ptp(ys) + 1e-6) * (26 if z > 400 else 12)) * camera.scale(z)
    outline = np.concatenate([np.stack([xs, peaks], 1), [(1.05 * w, base), (-0.05 * w, base)]])
    stage.canvas.fill(outline, surface, thing, camera.facing(z))


def _towers(stage: Stage, thing: int, z: float, base: float, heat: float, tone: float) -> None:
    """Paint buildings side by side, at night with five lit windows each; `base` is the image row of their foot."""
    canvas, rng, camera, plane = stage.canvas, stage.rng, stage.camera, stage.camera.facing(z)
    scale, left = camera.scale(z), -0.05 * camera.width
    while left < 1.05 * camera.width:
        wide = rng.uniform(9, 26) * scale
        top = base - rng.uniform(8, 34) * scale
        wall = Surface((112, 116, 126), heat + 6, rough=0.04).tinted(tone * rng.uniform(0.85, 1.15))
        canvas.fill([(left, base), (left, top), (left + wide, top), (left + wide, base)], wall, thing, plane)
        for _ in range(5 if stage.weather.dark else 0):
            x, y = rng.uniform(left, left + wide), rng.uniform(top, base)
            size = max(0.5, 0.5 * scale)
            window = Surface((60, 60, 60), heat + 12, (190, 160, 100))
            canvas.fill(circle(x, y, size, size, 4), window, thing, plane)
        left += wide * rng.uniform(0.9, 1.3)
