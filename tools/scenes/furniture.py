"""Trees, bushes, lamps, signs, traffic lights and bins."""

from dataclasses import dataclass

import numpy as np

from tools.scenes.canvas import BLACK, Colour, Floats, Points, Surface, circle, grain, limb, rectangle, upsample
from tools.scenes.stage import Lamp, Stage

LEAVES: tuple[Colour, ...] = ((78, 112, 48), (58, 98, 52), (104, 124, 54), (44, 84, 50), (150, 118, 44), (92, 120, 70))
RED, WHITE, BLUE, INK = (196.0, 26.0, 32.0), (240.0, 240.0, 236.0), (28.0, 78.0, 168.0), (24.0, 24.0, 26.0)
SIGNALS: tuple[tuple[Colour, Colour], ...] = (  # colours of each lamp off and on, the top one first
    ((60, 16, 16), (255, 44, 30)),
    ((64, 52, 16), (255, 186, 40)),
    ((14, 56, 34), (60, 240, 150)),
)


@dataclass
class Tree:
    """A tree, or a bush if `tall` (metres) is under 2."""

    x: float
    z: float
    tall: float
    rng: np.random.Generator

    def __post_init__(self) -> None:
        rng = self.rng
        self.colour = LEAVES[int(rng.integers(len(LEAVES)))]
        self.bush = self.tall < 2.0
        self.pointed = not self.bush and rng.random() < 0.2
        self.radius = self.tall * (0.62 if self.bush else 0.2 if self.pointed else rng.uniform(0.3, 0.4))
        self.foot = 0.0 if self.bush else self.tall * (0.14 if self.pointed else rng.uniform(0.24, 0.34))

    def shadow(self, stage: Stage) -> None:
        rng, r = self.rng, self.radius
        sunny = stage.weather.sun > 0.3 and self.z < 60
        if not self.bush and sunny:
            stage.cast_upright(limb(0, 0, 0.16, 0, self.tall * 0.6, 0.1), self.x, self.z)
        middle = (self.foot + self.tall) / 2
        for _ in range(9 if sunny else 0):
            a, d = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.75)
            ragged = circle(d * r * np.cos(a), middle + d * (self.tall - middle) * np.sin(a), r * 0.42, r * 0.4, 14)
            ragged += rng.uniform(-0.1, 0.1, ragged.shape) * r
            stage.cast_upright(ragged, self.x, self.z)
        stage.cast_contact(self.x, self.z, r * 0.7 if self.bush else 0.4, 0.4, 0.55)

    def draw(self, stage: Stage) -> None:
        camera, rng = stage.camera, self.rng
        if camera.beside(self.x - 1.3 * self.radius, self.x + 1.3 * self.radius, self.z):
            return
        thing = stage.canvas.thing("bush" if self.bush else "tree")
        lean = rng.uniform(-0.03, 0.03) * self.tall
        if not self.bush:
            self._trunk(stage, thing, lean)
        self._crown(stage, thing, lean)

    def _trunk(self, stage: Stage, thing: int, lean: float) -> None:
        rng, upright = self.rng, stage.upright(self.x, self.z)
        bark = Surface((92, 74, 58), stage.weather.air_heat + 6 + 8, rough=0.2)
        thick = 0.022 * self.tall + 0.06
        top, narrow = self.tall * 0.62, thick * 0.55
        right = [(thick * 1.5, 0), (thick, 0.5), (lean + narrow, top)]
        left = [(lean - narrow, top), (-thick, 0.5)]
        trunk = np.array([(-thick * 1.5, 0), *right, *left])
        upright.fill(trunk, bark, thing)
        shaded = trunk * [0.5, 1] + [(thick if stage.weather.shadow[0] > 0 else -thick) * 0.45, 0]
        upright.fill(shaded, bark.tinted(0.72), thing)
        for k in () if self.pointed else (-1, 1, -0.5, 0.6):
            start = self.foot * rng.uniform(0.85, 1.2)
            end = k * self.radius * 0.6, start + self.tall * rng.uniform(0.15, 0.3)
            branch = limb(lean * 0.4, start, thick * 0.5, *end, thick * 0.2, 4)
            upright.fill(branch, bark.tinted(0.85), thing)

    def _crown(self, stage: Stage, thing: int, lean: float) -> None:
        """Stamp the leaves: noise on a swell of overlapping blobs."""
        rng, weather, upright = self.rng, stage.weather, stage.upright(self.x, self.z)
        r, low, high, scale = self.radius, self.foot, self.tall, upright.scale
        ox, oy = upright.foot[0] + lean * scale, upright.foot[1]
        pad = 0.4 * r
        width, height = int((2 * r + 2 * pad) * scale) + 4, int((high - low + 2 * pad) * scale) + 4
        left, top = int(ox - width / 2), int(oy - (high + pad) * scale)
        if left >= stage.camera.width or left + width <= 0 or top + height <= 0 or height < 9:
            return
        swell, light = self._swell_and_light(stage, width, height, pad, scale)
        leaf = max(1.0, 0.05 * scale)
        rough = grain(rng, height, width, leaf)
        coarse = grain(rng, height, width, leaf * 3.5)
        soft = max(0.05, 1.2 / max(scale * r * 0.4, 1.0))
        alpha = np.clip((swell + 0.13 * rough + 0.12 * coarse - 0.05) / soft, 0, 1)
        if self.bush:
            # A bush grows out of the ground, so nothing of it is below.
            ground = int(oy) - top
            alpha[max(ground, 0) :] = 0
        sunny = weather.sun > 0.3
        shade = np.clip(light + 0.10 * rough + 0.10 * coarse, 0.12, 1.5)
        base = np.array(self.colour, np.float32) * (1.05 if sunny else 0.85)
        # Lit leaves are yellower, those in the shade bluer.
        warm = np.array([1.16, 1.08, 0.86], np.float32)
        cold = np.array([0.82, 0.95, 1.1], np.float32)
        blend = np.clip(shade, 0, 1)[..., None]
        colour = np.clip(base * shade[..., None] * (cold + (warm - cold) * blend), 0, 255).astype(np.float32)
        cool = weather.air_heat + 6
        heat = (cool + 14 * (light - 0.6) * (1.5 if sunny else 0.6) + 2.5 * coarse).astype(np.float32)
        stage.canvas.stamp(left, top, alpha, colour, heat, thing, upright.plane)

    def _swell_and_light(
        self, stage: Stage, width: int, height: int, pad: float, scale: float
    ) -> tuple[Floats, Floats]:
        """How far each pixel is inside the nearest blob of the crown (below 0: outside), and how bright it is: HxW."""
        low, high, weather = self.foot, self.tall, stage.weather
        # Both are smooth, so they are computed on a coarse grid.
        step = max(1, max(width, height) // 36)
        rows, columns = height // step + 2, width // step + 2
        y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
        x = (x * step - width / 2) / scale
        y = high + pad - y * step / scale
        size, centre_x, centre_y = self._blobs()
        stretch = 1.5 if self.pointed else 0.95
        sun = -np.sign(weather.shadow[0]) if weather.sun > 0.3 else 0.0
        sizes, xs, ys = (v.astype(np.float32)[:, None, None] for v in (size, centre_x, centre_y))
        dx, dy = (x - xs) / sizes, (y - ys) / (sizes * np.float32(stretch))
        swells = 1 - np.sqrt(dx * dx + dy * dy)
        nearest = swells.argmax(0)[None]
        lights = 0.62 + 0.26 * dy + 0.20 * sun * dx + 0.10 * (ys - low) / (high - low)
        light = np.take_along_axis(lights, nearest, 0)[0].astype(np.float32)
        swell, light = (
            upsample(field, columns * step, rows * step)[:height, :width]
            for field in (np.take_along_axis(swells, nearest, 0)[0], light)
        )
        return swell, light

    def _blobs(self) -> tuple[Points, Points, Points]:
        """Radii, and centres relative to the foot, of the crown's blobs, in metres."""
        r, low, high = self.radius, self.foot, self.tall
        count = 7 if self.pointed else 9 if self.bush else 17
        t = self.rng.uniform(0, 1, count)
        jitter = self.rng.uniform(0, 1, count)
        at = np.arange(count) / count
        if self.pointed:
            x, y = (jitter - 0.5) * 0.24 * r, low + r * 1.1 + (high - low - r * 1.2) * at
            return r * (1.0 - 0.85 * at), x, y
        angle, out = 2 * np.pi * (at + 0.1 * t), np.sqrt(t) * 0.68
        size = r * (0.3 + 0.2 * jitter)
        x, y = out * r * np.cos(angle), (low + high) / 2 + out * (high - low) / 2 * np.sin(angle)
        return size, x, np.minimum(y, high - size) if self.bush else y


@dataclass
class StreetLamp:
    """A lamp whose arm reaches `reach` metres to the right (or left, negative) over the street."""

    x: float
    z: float
    reach: float
    rng: np.random.Generator
    tall: float = 5.6

    def __post_init__(self) -> None:
        self.works = self.rng.random() < 0.9

    def shadow(self, stage: Stage) -> None:
        stage.cast_upright(limb(0, 0, 0.07, 0, self.tall, 0.05), self.x, self.z)
        stage.cast_upright(limb(0, self.tall, 0.05, self.reach, self.tall + 0.1, 0.08), self.x, self.z)

    def draw(self, stage: Stage) -> None:
        weather, upright, tall, reach = stage.weather, stage.upright(self.x, self.z), self.tall, self.reach
        thing = stage.canvas.thing("street lamp")
        thick = max(0.06, 0.5 / upright.scale)
        metal = Surface((74, 80, 82), weather.air_heat + 2)
        k = np.sign(reach)
        for pole in (
            limb(0, 0, thick * 1.7, 0, 0.9, thick * 1.5, 3),
            limb(0, 0.8, thick * 1.1, 0, tall - 0.4, thick * 0.8, 3),
            limb(0, tall - 0.45, thick * 0.8, k * 0.35, tall, thick * 0.7, 3),
            limb(k * 0.35, tall, thick * 0.7, reach * 0.9, tall + 0.05, thick * 0.6, 3),
        ):
            upright.fill(pole, metal, thing)
        on = weather.dark and self.works
        head = [(reach * 0.72, 0.0), (reach * 0.75, 0.16), (reach + 0.1 * k, 0.14), (reach + 0.16 * k, 0.0)]
        lens = [(reach * 0.76, -0.09), (reach * 0.74, 0.03), (reach + 0.12 * k, 0.03), (reach + 0.08 * k, -0.09)]
        upright.fill(np.add(head, (0, tall)), Surface(metal.colour, weather.air_heat + (60 if on else 6)), thing)
        glow: Colour = (255, 226, 160) if on else BLACK
        light = Surface((226, 226, 214), weather.air_heat + (108 if on else 8), glow)
        owner = stage.canvas.thing("lamp light", parent=thing) if on else thing
        upright.fill(np.add(lens, (0, tall)), light, owner)
        if on:
            stage.lamps.append(Lamp((self.x + reach, tall, self.z), (15.0, 11.0, 6.0)))


@dataclass
class Sign:
    """A traffic sign. All of it has the temperature of the air, so its face can hardly be seen in infrared."""

    x: float
    z: float
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.kind = int(self.rng.integers(5))

    def shadow(self, stage: Stage) -> None:
        stage.cast_upright(limb(0, 0, 0.04, 0, 2.4, 0.04), self.x, self.z)
        stage.cast_upright(circle(0, 2.3, 0.32), self.x, self.z)

    def draw(self, stage: Stage) -> None:
        upright, heat = stage.upright(self.x, self.z), stage.weather.air_heat + 3
        thing = stage.canvas.thing("traffic sign")
        faces = (_speed_limit, _warning, _crossing_ahead, _stop, _direction)
        pole = (limb(0, 0, 0.035, 0, 2.5, 0.035, 3), (128, 132, 134))
        for points, colour in (pole, *faces[self.kind]()):
            upright.fill(points, Surface(colour, heat), thing)


def _speed_limit() -> list[tuple[Points, Colour]]:
    face: list[tuple[Points, Colour]] = [
        (circle(0, 2.35, 0.36, None, 28), RED),
        (circle(0, 2.35, 0.27, None, 28), WHITE),
    ]
    for x in (-0.11, 0.07):
        face += [(rectangle(x, x + 0.05, 2.22, 2.48), INK), (rectangle(x - 0.03, x + 0.1, 2.43, 2.48), INK)]
    return face


def _warning() -> list[tuple[Points, Colour]]:
    return [
        (np.array([(-0.42, 2.1), (0.42, 2.1), (0, 2.82)]), RED),
        (np.array([(-0.28, 2.18), (0.28, 2.18), (0, 2.66)]), WHITE),
        (rectangle(-0.03, 0.03, 2.3, 2.52), INK),
    ]


def _crossing_ahead() -> list[tuple[Points, Colour]]:
    return [
        (rectangle(-0.34, 0.34, 2.0, 2.68), BLUE),
        (np.array([(-0.2, 2.12), (0.2, 2.12), (0.0, 2.54)]), WHITE),
    ]


def _stop() -> list[tuple[Points, Colour]]:
    return [
        (circle(0, 2.35, 0.38, None, 8), RED),
        (rectangle(-0.25, 0.25, 2.28, 2.28 + 0.06), WHITE),
        (rectangle(-0.25, 0.25, 2.38, 2.38 + 0.06), WHITE),
    ]


def _direction() -> list[tuple[Points, Colour]]:
    arrow = np.array([(-0.75, 2.1), (0.75, 2.1), (0.9, 2.3), (0.75, 2.5), (-0.75, 2.5)])
    face: list[tuple[Points, Colour]] = [(arrow, WHITE)]
    for k in range(7):
        left, right = -0.62 + k * 0.18, -0.52 + k * 0.18
        face.append((np.array([(left, 2.2), (right, 2.2), (right, 2.38 + 0.04 * (k % 3)), (left, 2.38)]), INK))
    return face


@dataclass
class TrafficLight:
    """A signal with one lamp lit."""

    x: float
    z: float
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.lit = int(self.rng.integers(3))

    def shadow(self, stage: Stage) -> None:
        stage.cast_upright(limb(0, 0, 0.06, 0, 3.4, 0.06), self.x, self.z)

    def draw(self, stage: Stage) -> None:
        upright, heat = stage.upright(self.x, self.z), stage.weather.air_heat
        thing = stage.canvas.thing("traffic light")
        upright.fill(limb(0, 0, 0.07, 0, 2.6, 0.06, 3), Surface((60, 62, 64), heat + 2), thing)
        upright.fill(rectangle(-0.2, 0.2, 2.5, 3.45), Surface((26, 28, 28), heat + 10), thing)
        for k, (off, on) in enumerate(SIGNALS):
            lit = k == self.lit
            owner = stage.canvas.thing("signal", parent=thing) if lit else thing
            lamp = Surface(off, heat + (44 if lit else 10), on if lit else BLACK)
            upright.fill(circle(0, 3.28 - k * 0.31, 0.115), lamp, owner)


@dataclass
class Bin:
    """A waste bin."""

    x: float
    z: float
    rng: np.random.Generator

    def __post_init__(self) -> None:
        tones: tuple[Colour, ...] = ((52, 96, 60), (70, 74, 78), (150, 90, 30), (40, 60, 100))
        self.colour = tones[int(self.rng.integers(4))]

    def shadow(self, stage: Stage) -> None:
        stage.cast_upright([(-0.26, 0), (0.26, 0), (0.3, 1.0), (-0.3, 1.0)], self.x, self.z)
        stage.cast_contact(self.x, self.z, 0.36, 0.25, 0.7)

    def draw(self, stage: Stage) -> None:
        thing, upright, weather = stage.canvas.thing("bin"), stage.upright(self.x, self.z), stage.weather
        surface = Surface(self.colour, weather.air_heat + 12 + 0.5 * weather.sun_heat, rough=0.06)
        for points, tone in (
            ([(-0.26, 0), (0.26, 0), (0.3, 0.92), (-0.3, 0.92)], 1.0),
            ([(0.05, 0), (0.26, 0), (0.3, 0.92), (0.08, 0.92)], 0.72),
            ([(-0.34, 0.9), (0.34, 0.9), (0.3, 1.06), (-0.3, 1.06)], 0.6),
        ):
            upright.fill(np.array(points), surface.tinted(tone), thing)
