"""Laying out a street and rendering it for both cameras."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from thfuse_sam.errors import UsageError
from tools.scenes.buildings import House
from tools.scenes.canvas import Camera, Canvas, Floats, Surface, circle
from tools.scenes.furniture import Bin, Sign, StreetLamp, TrafficLight, Tree
from tools.scenes.optics import infrared_image, visible_image
from tools.scenes.people import Dog, Person
from tools.scenes.stage import Actor, Lamp, Stage
from tools.scenes.vehicles import Car
from tools.scenes.weather import CONDITIONS, Condition, make_weather

MIN_PIXELS = 20  # an object with fewer visible pixels in a modality is not in that modality's label map
MIN_SIZE = 32  # pixels, either side
_FAR = 600.0  # metres


@dataclass(frozen=True)
class Scene:
    """One scene as two registered cameras see it.

    Labels are 1..K over both maps, 0 is none. A number means the same object in both, and each of 1..K is in at least
    one of them: a person in darkness is in `infrared_labels` only, a lane marking in `visible_labels` only.
    """

    visible: NDArray[np.uint8]  # HxWx3 RGB
    infrared: NDArray[np.uint8]  # HxW, hot is bright
    visible_labels: NDArray[np.uint16]  # HxW
    infrared_labels: NDArray[np.uint16]  # HxW
    condition: Condition
    names: dict[int, str]  # label -> class of the object ("person", "house", "sky", ...)


def render_scene(seed: int, *, height: int = 480, width: int = 640, condition: Condition | None = None) -> Scene:
    """Render the scene number `seed`; `condition` None draws one of CONDITIONS. Equal arguments, equal bytes."""
    if min(height, width) < MIN_SIZE:
        raise UsageError(f"height and width are {height} and {width}; both must be at least {MIN_SIZE}")
    if condition is not None and condition not in CONDITIONS:
        raise UsageError(f"condition is {condition!r}; choose one of {', '.join(CONDITIONS)}")
    if seed < 0:
        raise UsageError(f"seed is {seed}; it must not be negative")
    rng = np.random.default_rng(seed)
    drawn = CONDITIONS[int(rng.integers(len(CONDITIONS)))]
    weather = make_weather(rng, condition or drawn)
    along = bool(rng.random() < 0.68) or (weather.dark and weather.condition == "glare")
    size = max(width, height * 1.1)
    camera = Camera(
        height=height,
        width=width,
        focal=float(size * (rng.uniform(0.85, 1.15) if along else rng.uniform(0.9, 1.35))),
        centre_x=float(width * (rng.uniform(0.3, 0.7) if along else 0.5)),
        horizon=float(height * rng.uniform(0.38, 0.5)),
        eye=float(rng.uniform(1.5, 2.4)),
    )
    stage = Stage(Canvas(camera), weather, rng)
    _sky(stage)
    actors = _street(stage) if along else _across(stage)
    actors.sort(key=lambda actor: -actor.z)
    for actor in actors:
        actor.shadow(stage)
    _bake_shadows(stage)
    for actor in actors:
        actor.draw(stage)
    depth, rough = stage.canvas.depth(), stage.canvas.rough()
    visible, visible_clean = visible_image(stage, depth, rough)
    infrared, infrared_clean = infrared_image(stage, depth, rough)
    maps, names = _label(stage.canvas, visible_clean, infrared_clean, weather.noise)
    return Scene(visible, infrared, maps[0], maps[1], weather.condition, names)


# ---------------------------------------------------------------------------------------------------------------------
# Sky, ground and shadows


def _sky(stage: Stage) -> None:
    """Paint the whole image as sky, then far hills or a skyline along the horizon."""
    canvas, weather, rng, camera = stage.canvas, stage.weather, stage.rng, stage.camera
    h, w = canvas.parts.shape
    thing = canvas.thing("sky", background=True)
    canvas.fill(
        [(-2, -2), (w + 2, -2), (w + 2, h + 2), (-2, h + 2)],
        Surface((0, 0, 0), weather.sky_heat),
        thing,
        camera.facing(10000.0),
    )
    rows = int(min(h, camera.horizon + 3))
    if rows < 2:
        return
    t = (np.linspace(0, 1, rows, dtype=np.float32) ** 1.4)[:, None, None]
    top, bottom = np.array(weather.sky_top, np.float32), np.array(weather.sky_bottom, np.float32)
    sky = np.broadcast_to(top * (1 - t) + bottom * t, (rows, w, 3)).copy()
    heat = np.broadcast_to(weather.sky_heat + 26 * t[..., 0] ** 2, (rows, w)).copy()
    if weather.clouds > 0.05:
        cloud = _clouds(stage, rows, w)
        bright = np.array((236, 238, 242) if not weather.dark else (38, 38, 48), np.float32)
        if weather.condition == "glare" and not weather.dark:
            bright = np.array((255, 226, 186), np.float32)
        under = bright * 0.78
        shade = np.clip(cloud * 1.2, 0, 1)[..., None]
        sky += (bright * (1 - 0.5 * shade) + under * 0.5 * shade - sky) * (cloud[..., None] * 0.85)
        heat += cloud * 22
    if weather.dark and weather.condition != "fog":
        for _ in range(int(rng.integers(20, 70))):
            x, y = int(rng.integers(w)), int(rng.integers(max(1, int(rows * 0.8))))
            sky[y, x] += rng.uniform(20, 110)
        if rng.random() < 0.3:
            moon = np.zeros((rows, w), np.uint8)
            cv2.circle(
                moon,
                (int(rng.uniform(0.1, 0.9) * w), int(rng.uniform(0.1, 0.5) * rows)),
                max(2, w // 70),
                255,
                -1,
                cv2.LINE_AA,
            )
            sky += moon[..., None] * (np.array((226, 222, 204), np.float32) / 255)
    canvas.glow_end = rows
    canvas.glow[:rows] = np.clip(np.rint(sky), 0, 255)
    canvas.paint[:rows, :, 3] = np.clip(np.rint(heat), 0, 255)
    _skyline(stage)


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
    canvas, weather, rng, camera = stage.canvas, stage.weather, stage.rng, stage.camera
    w = camera.width
    hills = rng.random() < 0.6
    for z, tone in ((500.0, 1.15), (300.0, 0.9)):
        thing = canvas.thing("hills" if hills else "skyline")
        plane = camera.facing(z)
        count = 25
        xs = np.linspace(-0.05 * w, 1.05 * w, count)
        base = camera.project([(0, 0, z)])[0, 1] + 2
        heat = weather.air_heat - (16 if z > 400 else 8)
        if hills:
            ys = np.convolve(rng.uniform(0, 1, count + 6), np.ones(7) / 7, "valid")
            peaks = base - (4 + (ys - ys.min()) / (np.ptp(ys) + 1e-6) * (26 if z > 400 else 12)) * camera.scale(z)
            points = np.concatenate([np.stack([xs, peaks], 1), [(1.05 * w, base), (-0.05 * w, base)]])
            canvas.fill(points, Surface((76, 98, 92), heat, rough=0.08).tinted(tone), thing, plane)
        else:
            left = -0.05 * w
            while left < 1.05 * w:
                wide = rng.uniform(9, 26) * camera.scale(z)
                top = base - rng.uniform(8, 34) * camera.scale(z)
                wall = Surface((112, 116, 126), heat + 6, rough=0.04).tinted(tone * rng.uniform(0.85, 1.15))
                canvas.fill([(left, base), (left, top), (left + wide, top), (left + wide, base)], wall, thing, plane)
                if weather.dark:
                    for _ in range(5):
                        x, y = rng.uniform(left, left + wide), rng.uniform(top, base)
                        s = max(0.5, 0.5 * camera.scale(z))
                        canvas.fill(
                            circle(x, y, s, s, 4), Surface((60, 60, 60), heat + 12, (190, 160, 100)), thing, plane
                        )
                left += wide * rng.uniform(0.9, 1.3)


def _band(
    stage: Stage, x0: float, x1: float, z0: float, z1: float, surface: Surface, thing: int, pieces: int = 1
) -> None:
    """A rectangle on the ground."""
    stage.canvas.fill_world([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)], surface, thing, stage.camera.ground())


def _bake_shadows(stage: Stage) -> None:
    """Multiply the shadows into the ground, before anything stands on it."""
    camera, canvas, weather = stage.camera, stage.canvas, stage.weather
    first = max(0, int(camera.horizon))
    shade = cv2.GaussianBlur(stage.shade[first:], (0, 0), max(0.6, camera.width / 640))
    if not shade.any():
        return
    dim = shade.astype(np.float32)[..., None] / 255
    # In the shade there is still the blue of the sky.
    sun = np.array([0.62, 0.58, 0.50], np.float32) if weather.sun > 0.3 else np.array([0.55, 0.55, 0.55], np.float32)
    ground = canvas.paint[first:]
    factor = np.dstack([1 - dim * sun, 1 - dim * (0.05 + 0.004 * weather.sun_heat)])
    ground[:] = np.rint(ground * factor)


# ---------------------------------------------------------------------------------------------------------------------
# Layouts


def _ground_surfaces(stage: Stage) -> dict[str, Surface]:
    weather, rng = stage.weather, stage.rng
    heat = weather.ground_heat
    grey = rng.uniform(78, 104)
    pave = rng.uniform(138, 172)
    green = rng.uniform(0.85, 1.1)
    return {
        "asphalt": Surface((grey, grey, grey + 4), heat, rough=0.11),
        "pavement": Surface((pave + 6, pave, pave - 10), heat - 12, rough=0.09),
        "kerb": Surface((186, 184, 178), heat - 16, rough=0.05),
        "grass": Surface((92 * green, 122 * green, 62 * green), heat - 30, rough=0.24),
        "paint": Surface((232, 232, 226), heat, rough=0.06),
        "plot": Surface((150, 142, 124), heat - 20, rough=0.16),
    }


def _street(stage: Stage) -> list[Actor]:
    """A street that runs away from the camera, with houses, trees and lamps along both sides."""
    rng, weather, canvas, camera = stage.rng, stage.weather, stage.canvas, stage.camera
    ground = _ground_surfaces(stage)
    lanes = 3.2 if rng.random() < 0.6 else 3.6
    parking = 2.2 if rng.random() < 0.6 else 0.0
    half = lanes + parking
    walk = rng.uniform(2.0, 3.4)
    middle = float(rng.choice([rng.uniform(-2.2, 2.2), rng.choice([-1, 1]) * (half + walk * 0.4)], p=[0.75, 0.25]))
    left, right = middle - half, middle + half
    verge = rng.uniform(0.0, 3.0)
    yard = canvas.thing("grass", background=True)
    _band(stage, -400, 400, NEAREST, _FAR, ground["grass"] if verge > 0.8 else ground["plot"], yard)
    for x0, x1 in ((left - walk, left), (right, right + walk)):
        side = canvas.thing("sidewalk", background=True)
        _band(stage, x0, x1, NEAREST, _FAR, ground["pavement"], side)
        if camera.width >= 200:
            seam = Surface((120, 116, 108), ground["pavement"].heat - 3, rough=0.05)
            for z in np.arange(2.0, 16.0, 1.2):
                _band(stage, x0, x1, z, z + 0.03, seam, side)
    road = canvas.thing("road", background=True)
    _band(stage, left, right, NEAREST, _FAR, ground["asphalt"], road)
    for x in (left, right):
        kerb = canvas.thing("kerb", background=True)
        _band(stage, x - 0.12, x + 0.12, NEAREST, _FAR, ground["kerb"], kerb)
    # Patches of newer asphalt and tyre tracks.
    for _ in range(3):
        x, z = rng.uniform(left + 0.5, right - 1.5), rng.uniform(3, 25)
        _band(
            stage,
            x,
            x + rng.uniform(0.6, 1.6),
            z,
            z + rng.uniform(1, 5),
            ground["asphalt"].tinted(rng.uniform(0.8, 1.1)),
            road,
        )
    for lane in (middle - lanes / 2, middle + lanes / 2):
        for offset in (-0.8, 0.8):
            track = Surface(ground["asphalt"].colour, ground["asphalt"].heat + 5, rough=0.11).tinted(0.93)
            _band(stage, lane + offset - 0.22, lane + offset + 0.22, NEAREST, 200, track, road)
    z = rng.uniform(1.5, 4.0)
    while z < 70:
        _band(stage, middle - 0.07, middle + 0.07, z, z + 3, ground["paint"], canvas.thing("lane marking"))
        z += 7.5
    if parking:
        for x in (middle - lanes, middle + lanes):
            _band(stage, x - 0.06, x + 0.06, NEAREST, 150, ground["paint"], canvas.thing("lane marking"))
    crossing = rng.uniform(7, 20) if rng.random() < 0.4 else None
    if crossing:
        x = left + 0.3
        while x < right - 0.4:
            _band(stage, x, x + 0.5, crossing, crossing + 3.2, ground["paint"], canvas.thing("crosswalk"))
            x += 1.0

    actors: list[Actor] = []
    far = 95.0
    for sign, edge in ((-1, left - walk), (1, right + walk)):
        z = rng.uniform(1.0, 9.0)
        setback = verge + rng.uniform(0.2, 3.5)
        built = rng.uniform(0.5, 1.0)
        while z < far:
            length, deep = rng.uniform(8, 15), rng.uniform(8, 12)
            if rng.random() < built:
                x0 = edge + setback if sign > 0 else edge - setback - deep
                storeys = int(rng.choice([1, 2, 3, 4], p=[0.15, 0.45, 0.28, 0.12]))
                actors.append(House(x0, x0 + deep, z, z + length, storeys, "left" if sign > 0 else "right", rng))
            elif rng.random() < 0.8:
                for _ in range(int(rng.integers(1, 4))):
                    actors.append(
                        Tree(
                            edge + sign * rng.uniform(3.5, 10),
                            max(z, 7.0) + rng.uniform(0, length),
                            rng.uniform(5, 10),
                            rng,
                        )
                    )
            if rng.random() < 0.5 and setback > 1.4:
                for dz in np.arange(0.5, length, 2.2)[:2]:
                    actors.append(Tree(edge + sign * setback * 0.5, max(z, 6.0) + dz, rng.uniform(0.8, 1.4), rng))
            z += length + rng.uniform(0.5, 6)
        # Street trees and lamps stand in a row near the kerb.
        row = (left - 0.5) if sign < 0 else (right + 0.5)
        if rng.random() < 0.6:
            z = rng.uniform(7, 14)
            gap = rng.uniform(9, 16)
            while z < 60:
                if rng.random() < 0.85:
                    actors.append(Tree(row + sign * rng.uniform(0.1, 0.6), z, rng.uniform(4.5, 8), rng))
                z += gap
        z = rng.uniform(6, 16) + (6 if sign > 0 else 0)
        while z < 100:
            actors.append(StreetLamp(row, z, -sign * 1.6, rng))
            z += 22
        if rng.random() < 0.6:
            actors.append(Sign(row + sign * 0.2, rng.uniform(6, 16), rng))
        if rng.random() < 0.35:
            actors.append(Bin(row + sign * rng.uniform(0.2, 0.8), rng.uniform(5, 14), rng))
        if crossing and rng.random() < 0.6:
            actors.append(TrafficLight(row, crossing + 3.6 if sign < 0 else crossing - 0.4, rng))
        if parking:
            x = middle + sign * (lanes + parking / 2)
            z = rng.uniform(5, 12)
            while z < 45:
                if rng.random() < 0.62 and not (crossing and abs(z - crossing - 1.6) < 5):
                    actors.append(Car(x, z, 0.0 if sign > 0 else np.pi, rng, driving=False))
                z += rng.uniform(5.6, 7.5)
        # People on the sidewalk, more of them near than the depth alone would give.
        for _ in range(int(rng.integers(1, 6))):
            z = float(rng.uniform(4.5, 9) if rng.random() < 0.35 else rng.uniform(8, 40))
            x = rng.uniform(edge, left - 0.4) if sign < 0 else rng.uniform(right + 0.4, edge)
            actors.append(Person(x, z, int(rng.choice([-1, 0, 0, 0, 1])), rng, dark=weather.dark))
            if rng.random() < 0.3:
                actors.append(Person(x + 0.6, z + 0.2, 0, rng, dark=weather.dark))
        if rng.random() < 0.2:
            actors.append(
                Dog((left - 0.9) if sign < 0 else (right + 0.9), rng.uniform(5, 12), int(rng.choice([-1, 1])), rng)
            )
    if weather.dark and weather.condition == "glare":
        # High beams that come towards the camera.
        actors.append(Car(middle - lanes / 2, rng.uniform(11, 22), np.pi, rng, lights=True))
    # Traffic keeps right.
    for sign, heading in ((1, 0.0), (-1, np.pi)):
        z = rng.uniform(6, 22)
        while z < 62:
            if rng.random() < 0.6:
                lights = weather.dark or weather.condition == "fog"
                actors.append(Car(middle + sign * lanes / 2, z, heading + rng.normal(0, 0.02), rng, lights=lights))
            z += rng.uniform(9, 28)
    if crossing:
        for _ in range(int(rng.integers(0, 3))):
            actors.append(
                Person(
                    rng.uniform(left, right),
                    crossing + rng.uniform(0.5, 2.8),
                    int(rng.choice([-1, 1])),
                    rng,
                    dark=weather.dark,
                )
            )
    if rng.random() < 0.35:
        actors.append(
            Person(
                middle + rng.choice([-1, 1]) * (lanes - 0.5),
                rng.uniform(7, 22),
                int(rng.choice([-1, 1])),
                rng,
                weather.dark,
                True,
            )
        )
    if weather.dark and rng.random() < 0.35 and left < 0 < right:
        stage.lamps.append(Lamp((0.0, 0.7, 0.5), (26.0, 25.0, 21.0), (0.0, 1.0)))
    return _spread(actors)


def _across(stage: Stage) -> list[Actor]:
    """A street that runs across the view, with a row of houses that face the camera."""
    rng, weather, canvas, camera = stage.rng, stage.weather, stage.canvas, stage.camera
    ground = _ground_surfaces(stage)
    near = rng.uniform(5.0, 7.0)
    far = near + rng.uniform(6.4, 8.0)
    walk = rng.uniform(2.2, 3.5)
    back = far + walk + (rng.uniform(0.3, 5.0))
    yard = canvas.thing("grass", background=True)
    _band(stage, -600, 600, NEAREST, _FAR, ground["grass"], yard)
    for z0, z1 in ((NEAREST, near), (far, far + walk)):
        side = canvas.thing("sidewalk", background=True)
        _band(stage, -400, 400, z0, z1, ground["pavement"], side)
        if camera.width >= 200:
            seam = Surface((120, 116, 108), ground["pavement"].heat - 3, rough=0.05)
            for x in np.arange(-14.0, 14.0, 1.2):
                _band(stage, x, x + 0.025, z0, z1, seam, side)
    road = canvas.thing("road", background=True)
    _band(stage, -400, 400, near, far, ground["asphalt"], road)
    for z in (near, far):
        kerb = canvas.thing("kerb", background=True)
        _band(stage, -400, 400, z - 0.12, z + 0.12, ground["kerb"], kerb)
    for lane in (0.27, 0.73):
        for offset in (-0.75, 0.75):
            z = near + (far - near) * lane + offset
            _band(
                stage,
                -200,
                200,
                z - 0.2,
                z + 0.2,
                Surface(ground["asphalt"].colour, ground["asphalt"].heat + 5, rough=0.11).tinted(0.94),
                road,
            )
    middle = (near + far) / 2
    for x in np.arange(-40 + rng.uniform(0, 4), 40, 6.5):
        _band(stage, x, x + 3, middle - 0.06, middle + 0.06, ground["paint"], canvas.thing("lane marking"))
    if rng.random() < 0.3:
        at = rng.uniform(-3, 1)
        for z in np.arange(near + 0.4, far - 0.5, 1.0):
            _band(stage, at, at + 3.0, z, z + 0.5, ground["paint"], canvas.thing("crosswalk"))

    actors: list[Actor] = []
    reach = camera.width / camera.focal * back * 0.62 + 6
    x = -reach - rng.uniform(0, 8)
    built = rng.uniform(0.55, 1.0)
    while x < reach:
        length = rng.uniform(7, 14)
        if rng.random() < built:
            storeys = int(rng.choice([1, 2, 3, 4], p=[0.15, 0.45, 0.28, 0.12]))
            actors.append(House(x, x + length, back, back + rng.uniform(8, 12), storeys, "near", rng))
        else:
            for _ in range(int(rng.integers(1, 4))):
                actors.append(Tree(x + rng.uniform(0, length), back + rng.uniform(0.5, 8), rng.uniform(5, 10), rng))
        if back - far - walk > 1.5 and rng.random() < 0.6:
            for k in range(int(rng.integers(1, 4))):
                actors.append(Tree(x + 1.2 + 1.8 * k, back - 0.8, rng.uniform(0.7, 1.3), rng))
        x += length + (rng.uniform(1, 7) if rng.random() < 0.5 else 0.0)
    for x in np.arange(-reach + rng.uniform(0, 5), reach, rng.uniform(8, 16)):
        if rng.random() < 0.6:
            actors.append(Tree(x, far + 0.6, rng.uniform(4, 6.5), rng))
    for x in np.arange(-20 + rng.uniform(0, 12), 21, 14):
        actors.append(StreetLamp(x, far + 0.45, rng.choice([-1.5, 1.5]), rng))
    if rng.random() < 0.5:
        actors.append(Sign(rng.uniform(-5, 5), far + 0.5, rng))
    if rng.random() < 0.4:
        actors.append(Bin(rng.uniform(-6, 6), far + walk * 0.8, rng))
    lights = weather.dark or weather.condition == "fog"
    span = camera.width / camera.focal * near * 0.7
    for z, heading in ((near + (far - near) * 0.27, np.pi / 2), (near + (far - near) * 0.73, -np.pi / 2)):
        x = -span - rng.uniform(0, 8)
        while x < span + 6:
            if rng.random() < 0.55:
                actors.append(Car(x, z, heading, rng, lights=lights))
            x += rng.uniform(6.5, 14)
    for _ in range(int(rng.integers(2, 7))):
        z = rng.uniform(far + 0.4, far + walk - 0.2)
        actors.append(
            Person(rng.uniform(-span * 1.6, span * 1.6), z, int(rng.choice([-1, 1, 1, -1, 0])), rng, dark=weather.dark)
        )
    for _ in range(int(rng.integers(0, 3))):
        z = rng.uniform(near - 1.4, near - 0.4)
        actors.append(
            Person(rng.uniform(-span * 0.6, span * 0.6), z, int(rng.choice([-1, 0, 1])), rng, dark=weather.dark)
        )
    if rng.random() < 0.35:
        facing = int(rng.choice([-1, 1]))
        actors.append(
            Person(rng.uniform(-span, span), near + 0.6 if facing > 0 else far - 0.6, facing, rng, weather.dark, True)
        )
    if rng.random() < 0.25:
        actors.append(Dog(rng.uniform(-4, 4), far + walk * 0.5, int(rng.choice([-1, 1])), rng))
    return _spread(actors)


NEAREST = 0.7  # metres; where the ground begins


def _spread(actors: list[Actor]) -> list[Actor]:
    """Leave out what would stand inside a car that came first, and cars inside cars."""
    cars: list[Car] = []
    kept: list[Actor] = []
    for actor in sorted(actors, key=lambda a: not isinstance(a, Car)):
        if isinstance(actor, (House, Tree, StreetLamp)):
            kept.append(actor)
            continue
        ahead = 2.6 if not isinstance(actor, Car) else 5.4
        aside = 1.25 if not isinstance(actor, Car) else 2.0
        clash = False
        for car in cars:
            sin, cos = abs(np.sin(car.heading)), abs(np.cos(car.heading))
            dx, dz = abs(car.x - actor.x), abs(car.z - actor.z)  # type: ignore[attr-defined]
            clash |= bool(dx < ahead * sin + aside * cos and dz < ahead * cos + aside * sin)
        if not clash:
            kept.append(actor)
            if isinstance(actor, Car):
                cars.append(actor)
    return kept


# ---------------------------------------------------------------------------------------------------------------------
# Labels


def _label(
    canvas: Canvas, visible: NDArray[np.uint8], infrared: NDArray[np.uint8], noise: float
) -> tuple[list[NDArray[np.uint16]], dict[int, str]]:
    """Label maps of (visible, infrared) and the names. An object is in a map if its outline stands out in the image."""
    maps = [
        _seen(canvas, visible, 9.0 + 1.2 * noise),
        _seen(canvas, infrared[..., None], 8.0),
    ]
    used = np.union1d(np.unique(maps[0]), np.unique(maps[1]))
    used = used[used > 0]
    compact = np.zeros(len(canvas.things), np.uint16)
    compact[used] = np.arange(1, len(used) + 1)
    return [compact[m] for m in maps], {k + 1: canvas.things[int(t)].name for k, t in enumerate(used)}


def _seen(canvas: Canvas, image: NDArray[np.uint8], threshold: float) -> NDArray[np.uint16]:
    """HxW map of thing numbers; what does not stand out by `threshold` grey values shows what lies behind it."""
    count = len(canvas.things)
    window = np.ones((5, 5), np.uint8)
    contrast = cv2.morphologyEx(image, cv2.MORPH_GRADIENT, window).reshape(*image.shape[:2], -1).max(2)
    strong = contrast >= threshold
    parent = np.array([t.parent for t in canvas.things])
    own = np.arange(count)
    whole = np.where(parent > 0, parent, own)
    of_part = np.array(canvas.part_thing)

    def share(numbers: NDArray[np.int64]) -> NDArray[np.float64]:
        """Part of each thing's outline that stands out."""
        shown = numbers[of_part][canvas.parts]
        edge = np.zeros(shown.shape, bool)
        across, down = shown[:, 1:] != shown[:, :-1], shown[1:] != shown[:-1]
        edge[:, 1:] |= across
        edge[:, :-1] |= across
        edge[1:] |= down
        edge[:-1] |= down
        at = shown[edge]
        total = np.bincount(at, minlength=count)
        return np.bincount(at, weights=strong[edge], minlength=count) / np.maximum(total, 1)

    always = np.array([t.background for t in canvas.things])
    stands_out = (share(whole) >= 0.5) | always
    label = np.where(stands_out[whole], whole, np.where((share(own) >= 0.5) & (parent > 0), own, 0))
    label[0] = 0
    # What shows too little of itself gives way to what is behind it.
    small = np.bincount(label[of_part][canvas.parts].ravel(), minlength=count) < MIN_PIXELS
    label[small[label] & ~always] = 0
    shown = canvas.labels(label)
    # Behind what was left out there may be crumbs of other things: they become "none".
    small = np.bincount(shown.ravel(), minlength=count) < MIN_PIXELS
    shown[small[shown]] = 0
    return shown


__all__ = ["CONDITIONS", "MIN_PIXELS", "MIN_SIZE", "Condition", "Scene", "render_scene"]
