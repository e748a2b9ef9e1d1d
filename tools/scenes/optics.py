"""The images of both cameras from the painted layers: light, mist, glare, exposure, blur and noise."""

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.scenes.canvas import Floats, grain, noise_tile, upsample
from tools.scenes.stage import Lamp, Stage

_LINEAR = (np.arange(256, dtype=np.float32) / 255) ** 2  # displayed value -> light; gamma 2 has a fast inverse


def _falloff(lamp: Lamp, x: Floats, y: Floats, z: Floats) -> Floats:
    """The fraction of a lamp's light that reaches each point in the world."""
    dx, dz = x - lamp.position[0], z - lamp.position[2]
    if lamp.beam is None:
        dy = np.maximum(lamp.position[1] - y, 0.0)
        square = dx * dx + dz * dz + dy * dy + 0.3
        # Street lamps shine downwards: their light falls off with the third power of the cosine.
        return dy * dy * dy / (square * square * np.sqrt(square))
    ahead = dx * lamp.beam[0] + dz * lamp.beam[1]
    across = dx * lamp.beam[1] - dz * lamp.beam[0]
    spread = 0.26 * np.maximum(ahead, 0.0) + 0.7
    rise = np.maximum(y - 0.9, 0.0) / (0.06 * np.maximum(ahead, 0.0) + 0.25)
    cone = np.exp(-(across * across) / (spread * spread) - rise * rise)
    return np.where(ahead > 0, cone / (ahead * ahead + 14.0), 0.0).astype(np.float32)


def visible_image(stage: Stage, depth: Floats, rough: Floats) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The colour image HxWx3 RGB, and the same without noise."""
    canvas, weather, rng = stage.canvas, stage.weather, stage.rng
    h, w = canvas.parts.shape
    texture = _texture(stage, depth)
    np.multiply(texture, rough, out=texture)
    texture += 1.0
    image: Floats = np.asarray(cv2.LUT(canvas.paint[..., :3], _LINEAR), np.float32)
    image *= texture[..., None]
    image *= _lamp_light(stage, depth) if stage.lamps else np.array(weather.light, np.float32)
    image += np.asarray(cv2.LUT(canvas.glow, _LINEAR), np.float32) * np.float32(1.25 if weather.dark else 1.0)
    image = _mist(stage, image, depth)
    if weather.dark:
        image = _bloom(stage, image)
    if weather.condition == "glare":
        image = _glare(stage, image, depth)
    image *= weather.exposure
    # A soft shoulder keeps bright surfaces from clipping hard.
    np.minimum(image, 4.0, out=image)
    image = image * (1 + image * 0.11) / (1 + image * 0.42)
    np.clip(image, 0, 1, out=image)
    shown: Floats = np.sqrt(image) * np.float32(255)
    clean = np.rint(shown).astype(np.uint8)
    luma = np.float32(weather.noise) * rng.standard_normal((h, w), dtype=np.float32)
    tint = np.float32(weather.noise * 0.8) * rng.standard_normal(((h + 1) // 2, (w + 1) // 2, 3), dtype=np.float32)
    shown += luma[..., None]
    shown += upsample(tint, w, h)
    return np.clip(np.rint(shown), 0, 255).astype(np.uint8), clean


def _lamp_light(stage: Stage, depth: Floats) -> Floats:
    """HxWx3 linear light on each pixel, from the sky and from all lamps within 70 m."""
    camera, (h, w) = stage.camera, depth.shape
    # The light varies slowly, so that of a large picture is computed on a coarse grid.
    step = 2 if w >= 200 else 1
    z = np.ascontiguousarray(depth[::step, ::step])
    columns, rows = np.arange(0, w, step, dtype=np.float32), np.arange(0, h, step, dtype=np.float32)[:, None]
    x = (columns - camera.centre_x) * z / camera.focal
    y = camera.eye - (rows - camera.horizon) * z / camera.focal
    light = np.empty((*z.shape, 3), np.float32)
    light[:] = stage.weather.light
    for lamp in stage.lamps:
        if lamp.position[2] < 70:
            light += _falloff(lamp, x, y, z)[..., None] * np.array(lamp.colour, np.float32)
    # A camera would lower its exposure close to a beam. Here all scenes have one exposure, so the light is limited.
    light /= 1 + 0.7 * light
    return upsample(light, w, h) if step > 1 else light


def _texture(stage: Stage, depth: Floats) -> Floats:
    """HxW grain, standard deviation about 1, in perspective on the ground and upright elsewhere."""
    camera = stage.camera
    h, w = depth.shape
    out = grain(stage.rng, h, w, max(1.0, w / 640))
    first = max(0, int(np.ceil(camera.horizon)) + 1)
    if first >= h:
        return out
    rows = np.arange(first, h, dtype=np.float32)
    z = camera.focal * camera.eye / np.maximum(rows - camera.horizon, 0.3)
    x = (np.arange(w, dtype=np.float32) - camera.centre_x) * (z / camera.focal)[:, None]
    ground = np.zeros((h - first, w), np.float32)
    for size, weight in ((0.02, 0.8), (0.13, 0.7)):  # metres per cell of the tile
        u = np.mod(x / size, 512).astype(np.float32)
        v = np.broadcast_to(np.mod(z / size, 512).astype(np.float32)[:, None], u.shape)
        layer = cv2.remap(noise_tile(), u, np.ascontiguousarray(v), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
        # Grain finer than a pixel would only flicker, so it fades with distance.
        seen = np.clip(camera.focal * size * 6 / z * (camera.eye / z) ** 0.5, 0, 1)
        ground += weight * layer * seen[:, None]
    # Where something stands on the ground, the depth differs from that of the ground.
    flat = np.abs(depth[first:] / z[:, None] - 1) < 0.02
    out[first:][flat] = ground[flat]
    return out


def _mist(stage: Stage, image: Floats, depth: Floats) -> Floats:
    """The linear image HxWx3 as seen through the air, by the distance of each pixel."""
    weather = stage.weather
    through = cv2.exp(-weather.haze * depth)
    # The painted layers are smooth at edges but the depth is not, so it is blurred to match them.
    through = cv2.blur(through, (3, 3))[..., None]
    air = np.array([_LINEAR[int(c)] for c in weather.air], np.float32)
    if weather.condition != "fog":
        # The painted sky already contains its haze.
        through[depth > 2000] = 1.0
    if weather.condition == "fog":
        # Banks of mist: thicker and thinner patches, slowly varying.
        h, w = depth.shape
        coarse = cv2.resize(stage.rng.standard_normal((5, 7), dtype=np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
        through = np.clip(through + 0.05 * coarse[..., None] * (1 - through), 0, 1)
    return image * through + air * (1 - through)


def _bloom(stage: Stage, image: Floats) -> Floats:
    """Add the light that scatters around lamps, and the cones of light below street lamps."""
    camera, weather = stage.camera, stage.weather
    h, w = image.shape[:2]
    small = cv2.resize(np.maximum(image - 0.45, 0), (max(8, w // 4), max(8, h // 4)), interpolation=cv2.INTER_AREA)
    wide = cv2.GaussianBlur(small, (0, 0), w / 4 * 0.05)
    tight = cv2.GaussianBlur(small, (0, 0), w / 4 * 0.012)
    misty = min(weather.haze / 0.02, 1.5)
    halo = wide * (0.5 + 1.2 * misty) + tight * 0.7
    cones = np.zeros(small.shape[:2], np.float32)
    for lamp in stage.lamps:
        if lamp.beam is not None or lamp.position[2] < 2:
            continue
        x, y, z = lamp.position
        points = camera.project([(x - 0.15, y, z), (x + 0.15, y, z), (x + 2.6, 0.2, z), (x - 2.6, 0.2, z)]) / 4
        layer = np.zeros_like(cones)
        cv2.fillConvexPoly(layer, np.rint(np.clip(points, -4000, 4000)).astype(np.int32), 1.0)
        rows = np.arange(layer.shape[0], dtype=np.float32)[:, None]
        fall = np.clip((rows - points[0, 1]) / max(points[2, 1] - points[0, 1], 1.0), 0, 1)
        strength = (0.018 + 0.10 * misty) * float(np.exp(-weather.haze * z * 0.5))
        cones += layer * (1 - fall) ** 1.5 * strength
    cones = cv2.GaussianBlur(cones, (0, 0), max(w / 4 * 0.008, 0.6))
    halo += cones[..., None] * np.array([1.0, 0.8, 0.5], np.float32)
    return image + cv2.resize(halo, (w, h), interpolation=cv2.INTER_LINEAR)


def _sun_position(stage: Stage, depth: Floats) -> NDArray[np.float64]:
    """A pixel (x, y) of open sky away from the border; if there is none, a point just above the image."""
    h, w = depth.shape
    rng = stage.rng
    inner = np.zeros((h, w), bool)
    inner[h // 20 :, w // 12 : w - w // 12] = True
    open_sky = cv2.erode(((depth > 2000) & inner).astype(np.uint8), np.ones((max(3, h // 40),) * 2, np.uint8))
    rows, columns = np.nonzero(open_sky)
    if len(rows) < 20:
        return np.array([w * rng.uniform(0.2, 0.8), -0.06 * h])
    pixel = int(rng.integers(len(rows)))
    return np.array([float(columns[pixel]), float(rows[pixel])])


def _headlight_positions(stage: Stage) -> list[NDArray[np.float64]]:
    """Pixels (x, y) of both headlights of the nearest car that comes towards the camera."""
    camera = stage.camera
    visible = [
        lamp.position
        for lamp in stage.lamps
        if lamp.beam is not None
        and lamp.beam[1] < -0.5
        and lamp.position[2] > 4
        and not camera.beside(lamp.position[0], lamp.position[0], lamp.position[2])
    ]
    if visible:
        x, y, z = min(visible, key=lambda position: position[2])
        return [camera.project([(x + side, y, z)])[0] for side in (-0.62, 0.62)]
    # If there is none, a car just outside of the image shines in from the side.
    side = -0.02 if camera.centre_x > camera.width / 2 else 1.02
    return [np.array([side * camera.width, camera.horizon + 0.08 * camera.height])]


def _glare(stage: Stage, image: Floats, depth: Floats) -> Floats:
    """Add a light that shines into the lens: an overexposed spot, a veil, rays and ghosts of the aperture."""
    h, w = depth.shape
    if stage.weather.dark:
        sources = _headlight_positions(stage)
        tint, power = np.array([1.0, 0.97, 0.88], np.float32), 0.34
    else:
        sources = [_sun_position(stage, depth)]
        tint, power = np.array([1.0, 0.86, 0.62], np.float32), 1.0
    half_h, half_w = max(8, h // 2), max(8, w // 2)
    at_half_size = [(px * half_w / w, py * half_h / h) for px, py in sources]
    y, x = np.mgrid[0:half_h, 0:half_w].astype(np.float32)
    light = _veil(stage.rng, x, y, at_half_size, power)[..., None] * tint
    _add_ghosts(stage.rng, light, x, y, sources[0] * [half_w / w, half_h / h], power)
    light = upsample(light, w, h)
    # The veil also takes contrast away near the source.
    return image * (1 - 0.5 * np.clip(light, 0, 1)) + light


def _veil(rng: np.random.Generator, x: Floats, y: Floats, sources: list[tuple[float, float]], power: float) -> Floats:
    """HxW light around each source: spot, halo and rays. `x` and `y` are HxW pixels."""
    h, w = x.shape
    veil = np.zeros((h, w), np.float32)
    for source_x, source_y in sources:
        dx, dy = (x - source_x) / w, (y - source_y) / w
        r = np.sqrt(dx * dx + dy * dy) + 1e-4
        veil += power * (np.exp(-((r / 0.035) ** 2)) * 6 + 0.55 * np.exp(-r / 0.10) + 0.42 * np.exp(-r / 0.38))
        angle = np.arctan2(dy, dx)
        turn = rng.uniform(0, 2 * np.pi)
        rays = np.abs(np.cos(3 * angle + turn)) ** 40 + 0.5 * np.abs(np.cos(5 * angle + 2 * turn)) ** 60
        veil += power * 0.5 * rays * np.exp(-r / 0.12)
    return veil


def _add_ghosts(
    rng: np.random.Generator, light: Floats, x: Floats, y: Floats, source: NDArray[np.float64], power: float
) -> None:
    """Add images of the aperture, on the line from the source through the middle, to `light` HxWx3."""
    h, w = x.shape
    for at, size in ((0.5, 0.035), (0.9, 0.06), (1.35, 0.028), (1.7, 0.085)):
        ghost_x = source[0] + (w / 2 - source[0]) * at * 1.2
        ghost_y = source[1] + (h / 2 - source[1]) * at * 1.2
        ghost = np.clip(1.5 - np.sqrt((x - ghost_x) ** 2 + (y - ghost_y) ** 2) / (size * w) * 1.4, 0, 0.35)
        colour = np.array(((0.9, 0.5, 0.25), (0.35, 0.7, 0.5), (0.5, 0.5, 0.9))[int(rng.integers(3))], np.float32)
        light += ghost[..., None] * colour * 0.35 * power


def infrared_image(stage: Stage, depth: Floats, rough: Floats) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The thermal image HxW, and the same without noise."""
    canvas, rng = stage.canvas, stage.rng
    h, w = canvas.parts.shape
    heat = canvas.paint[..., 3].astype(np.float32)
    heat += grain(rng, h, w, max(1.0, w / 320)) * rough * 14
    # The air, and mist still more, makes distant things look as warm as itself, though less than it hides them visibly.
    sky = depth > 2000
    through = cv2.exp(-0.12 * stage.weather.haze * depth)
    through[sky] = 1.0
    heat = stage.weather.air_heat + (heat - stage.weather.air_heat) * through
    sigma = max(0.45, 0.9 * w / 640)
    heat = np.asarray(cv2.GaussianBlur(heat, (0, 0), sigma), np.float32)
    # Uncooled detectors show a faint dark halo around hot bodies.
    heat += 0.10 * (heat - cv2.GaussianBlur(heat, (0, 0), max(2.0, w / 90)))
    # Automatic gain: the scene's own range fills the picture.
    low, high = np.percentile(heat[::4, ::4], (0.5, 99.7))
    gain = min(225.0 / max(high - low, 1.0), 1.6)
    heat = (heat - low) * gain + 14
    clean = np.clip(np.rint(heat), 0, 255).astype(np.uint8)
    heat += 1.7 * rng.standard_normal((h, w), dtype=np.float32)
    heat += 0.7 * rng.standard_normal((1, w), dtype=np.float32)
    heat += 0.35 * rng.standard_normal((h, 1), dtype=np.float32)
    return np.clip(np.rint(heat), 0, 255).astype(np.uint8), clean
