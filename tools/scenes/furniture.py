"""Trees, bushes, lamps, signs, traffic lights and bins."""

from dataclasses import dataclass

import numpy as np

from tools.scenes.canvas import BLACK, Colour, Surface, circle, enlarge, grain, limb
from tools.scenes.stage import Lamp, Stage

LEAVES: tuple[Colour, ...] = ((78, 112, 48), (58, 98, 52), (104, 124, 54), (44, 84, 50), (150, 118, 44), (92, 120, 70))


@dataclass
class Tree:
    """A tree, or a bush where `tall` is under 2 m."""

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
        foot = circle(self.x, self.z, r * 0.7 if self.bush else 0.4, 0.4, 12)
        stage.cast(np.stack([foot[:, 0], np.zeros(12), foot[:, 1]], 1), 0.55)

    def draw(self, stage: Stage) -> None:
        canvas, camera, weather, rng = stage.canvas, stage.camera, stage.weather, self.rng
        if camera.beside(self.x - 1.3 * self.radius, self.x + 1.3 * self.radius, self.z):
            return
        thing = canvas.thing("bush" if self.bush else "tree")
        scale, plane = camera.scale(self.z), camera.facing(self.z)
        ox, oy = camera.project([(self.x, 0, self.z)])[0]
        cool = weather.air_heat + 6
        lean = rng.uniform(-0.03, 0.03) * self.tall
        if not self.bush:
            bark = Surface((92, 74, 58), cool + 8, rough=0.2)
            thick = 0.022 * self.tall + 0.06
            bottom = self.tall * 0.62
            trunk = np.array(
                [
                    (-thick * 1.5, 0),
                    (thick * 1.5, 0),
                    (thick, 0.5),
                    (lean + thick * 0.55, bottom),
                    (lean - thick * 0.55, bottom),
                    (-thick, 0.5),
                ]
            )
            canvas.fill(trunk * [scale, -scale] + [ox, oy], bark, thing, plane)
            shaded = trunk * [0.5, 1] + [(thick if weather.shadow[0] > 0 else -thick) * 0.45, 0]
            canvas.fill(shaded * [scale, -scale] + [ox, oy], bark.tinted(0.72), thing, plane)
            if not self.pointed:
                for k in (-1, 1, -0.5, 0.6):
                    start = self.foot * rng.uniform(0.85, 1.2)
                    branch = limb(
                        lean * 0.4,
                        start,
                        thick * 0.5,
                        k * self.radius * 0.6,
                        start + self.tall * rng.uniform(0.15, 0.3),
                        thick * 0.2,
                        4,
                    )
                    canvas.fill(branch * [scale, -scale] + [ox, oy], bark.tinted(0.85), thing, plane)
        self._crown(stage, thing, scale, ox + lean * scale, oy, cool)

    def _crown(self, stage: Stage, thing: int, scale: float, ox: float, oy: float, cool: float) -> None:
        rng, weather = self.rng, stage.weather
        r, low, high = self.radius, self.foot, self.tall
        pad = 0.4 * r
        width, height = int((2 * r + 2 * pad) * scale) + 4, int((high - low + 2 * pad) * scale) + 4
        left, top = int(ox - width / 2), int(oy - (high + pad) * scale)
        camera = stage.camera
        if left >= camera.width or left + width <= 0 or top + height <= 0 or height < 9:
            return
        # The crown's swell and its light are smooth: worked out on a coarse grid.
        step = max(1, max(width, height) // 36)
        gh, gw = height // step + 2, width // step + 2
        y, x = np.mgrid[0:gh, 0:gw].astype(np.float32)
        x = (x * step - width / 2) / scale
        y = high + pad - y * step / scale
        blobs = 7 if self.pointed else 9 if self.bush else 17
        t = rng.uniform(0, 1, blobs)
        jitter = rng.uniform(0, 1, blobs)
        at = np.arange(blobs) / blobs
        if self.pointed:
            size = r * (1.0 - 0.85 * at)
            cx, cy = (jitter - 0.5) * 0.24 * r, low + r * 1.1 + (high - low - r * 1.2) * at
            stretch = 1.5
        else:
            angle, out = 2 * np.pi * (at + 0.1 * t), np.sqrt(t) * 0.68
            size = r * (0.3 + 0.2 * jitter)
            cx, cy = out * r * np.cos(angle), (low + high) / 2 + out * (high - low) / 2 * np.sin(angle)
            stretch = 0.95
            if self.bush:
                cy = np.minimum(cy, high - size)
        sun = -np.sign(weather.shadow[0]) if weather.sun > 0.3 else 0.0
        sizes, xs, ys = (v.astype(np.float32)[:, None, None] for v in (size, cx, cy))
        dx, dy = (x - xs) / sizes, (y - ys) / (sizes * np.float32(stretch))
        fields = 1 - np.sqrt(dx * dx + dy * dy)
        first = fields.argmax(0)[None]
        swell = np.take_along_axis(fields, first, 0)[0]
        lit = 0.62 + 0.26 * dy + 0.20 * sun * dx + 0.10 * (ys - low) / (high - low)
        light = np.take_along_axis(lit, first, 0)[0].astype(np.float32)
        size_px = (gw * step, gh * step)
        swell = enlarge(swell, *size_px)[:height, :width]
        light = enlarge(light, *size_px)[:height, :width]
        leaf = max(1.0, 0.05 * scale)
        rough = grain(rng, height, width, leaf)
        coarse = grain(rng, height, width, leaf * 3.5)
        soft = max(0.05, 1.2 / max(scale * r * 0.4, 1.0))
        alpha = np.clip((swell + 0.13 * rough + 0.12 * coarse - 0.05) / soft, 0, 1)
        if self.bush:
            # It grows out of the ground, so it ends there.
            ground = int(oy) - top
            alpha[max(ground, 0) :] = 0
        shade = np.clip(light + 0.10 * rough + 0.10 * coarse, 0.12, 1.5)
        base = np.array(self.colour, np.float32) * (1.05 if weather.sun > 0.3 else 0.85)
        # Lit leaves are yellower, those in the shade bluer.
        warm = np.array([1.16, 1.08, 0.86], np.float32)
        cold = np.array([0.82, 0.95, 1.1], np.float32)
        blend = np.clip(shade, 0, 1)[..., None]
        colour = np.clip(base * shade[..., None] * (cold + (warm - cold) * blend), 0, 255).astype(np.float32)
        heat = (cool + 14 * (light - 0.6) * (1.5 if weather.sun > 0.3 else 0.6) + 2.5 * coarse).astype(np.float32)
        stage.canvas.stamp(left, top, alpha, colour, heat, thing, camera.facing(self.z))


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
        canvas, camera, weather = stage.canvas, stage.camera, stage.weather
        thing = canvas.thing("street lamp")
        scale, plane = camera.scale(self.z), camera.facing(self.z)
        ox, oy = camera.project([(self.x, 0, self.z)])[0]
        thick = max(0.06, 0.5 / scale)
        metal = Surface((74, 80, 82), weather.air_heat + 2)
        k = np.sign(self.reach)

        def put(points: np.ndarray, surface: Surface, owner: int = thing) -> None:
            canvas.fill(points * [scale, -scale] + [ox, oy], surface, owner, plane)

        put(limb(0, 0, thick * 1.7, 0, 0.9, thick * 1.5, 3), metal)
        put(limb(0, 0.8, thick * 1.1, 0, self.tall - 0.4, thick * 0.8, 3), metal)
        put(limb(0, self.tall - 0.45, thick * 0.8, k * 0.35, self.tall, thick * 0.7, 3), metal)
        put(limb(k * 0.35, self.tall, thick * 0.7, self.reach * 0.9, self.tall + 0.05, thick * 0.6, 3), metal)
        on = weather.dark and self.works
        head = np.array(
            [
                (self.reach * 0.72, 0.0),
                (self.reach * 0.75, 0.16),
                (self.reach + 0.1 * k, 0.14),
                (self.reach + 0.16 * k, 0.0),
            ]
        )
        put(head + np.array([0, self.tall]), Surface(metal.colour, weather.air_heat + (60 if on else 6)))
        lens = np.array(
            [
                (self.reach * 0.76, -0.09),
                (self.reach * 0.74, 0.03),
                (self.reach + 0.12 * k, 0.03),
                (self.reach + 0.08 * k, -0.09),
            ]
        )
        colour: Colour = (255, 226, 160)
        owner = canvas.thing("lamp light", parent=thing) if on else thing
        put(
            lens + np.array([0, self.tall]),
            Surface((226, 226, 214), weather.air_heat + (108 if on else 8), colour if on else BLACK),
            owner,
        )
        if on:
            stage.lamps.append(Lamp((self.x + self.reach, self.tall, self.z), (15.0, 11.0, 6.0)))


@dataclass
class Sign:
    """A traffic sign; all of it has the air's temperature, so infrared hardly shows its face."""

    x: float
    z: float
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.kind = int(self.rng.integers(5))

    def shadow(self, stage: Stage) -> None:
        stage.cast_upright(limb(0, 0, 0.04, 0, 2.4, 0.04), self.x, self.z)
        stage.cast_upright(circle(0, 2.3, 0.32), self.x, self.z)

    def draw(self, stage: Stage) -> None:
        canvas, camera, weather = stage.canvas, stage.camera, stage.weather
        thing = canvas.thing("traffic sign")
        scale, plane = camera.scale(self.z), camera.facing(self.z)
        ox, oy = camera.project([(self.x, 0, self.z)])[0]
        heat = weather.air_heat + 3

        def put(points: np.ndarray, colour: Colour) -> None:
            canvas.fill(points * [scale, -scale] + [ox, oy], Surface(colour, heat), thing, plane)

        red, white, blue, ink = (196, 26, 32), (240, 240, 236), (28, 78, 168), (24, 24, 26)
        put(limb(0, 0, 0.035, 0, 2.5, 0.035, 3), (128, 132, 134))
        if self.kind == 0:
            put(circle(0, 2.35, 0.36, None, 28), red)
            put(circle(0, 2.35, 0.27, None, 28), white)
            for dx in (-0.11, 0.07):
                put(np.array([(dx, 2.22), (dx + 0.05, 2.22), (dx + 0.05, 2.48), (dx, 2.48)]), ink)
                put(np.array([(dx - 0.03, 2.43), (dx + 0.1, 2.43), (dx + 0.1, 2.48), (dx - 0.03, 2.48)]), ink)
        elif self.kind == 1:
            put(np.array([(-0.42, 2.1), (0.42, 2.1), (0, 2.82)]), red)
            put(np.array([(-0.28, 2.18), (0.28, 2.18), (0, 2.66)]), white)
            put(np.array([(-0.03, 2.3), (0.03, 2.3), (0.03, 2.52), (-0.03, 2.52)]), ink)
        elif self.kind == 2:
            put(np.array([(-0.34, 2.0), (0.34, 2.0), (0.34, 2.68), (-0.34, 2.68)]), blue)
            put(np.array([(-0.2, 2.12), (0.2, 2.12), (0.0, 2.54)]), white)
        elif self.kind == 3:
            put(circle(0, 2.35, 0.38, None, 8), red)
            for row in (2.28, 2.38):
                put(np.array([(-0.25, row), (0.25, row), (0.25, row + 0.06), (-0.25, row + 0.06)]), white)
        else:
            put(np.array([(-0.75, 2.1), (0.75, 2.1), (0.9, 2.3), (0.75, 2.5), (-0.75, 2.5)]), white)
            for k in range(7):
                put(
                    np.array(
                        [
                            (-0.62 + k * 0.18, 2.2),
                            (-0.52 + k * 0.18, 2.2),
                            (-0.52 + k * 0.18, 2.38 + 0.04 * (k % 3)),
                            (-0.62 + k * 0.18, 2.38),
                        ]
                    ),
                    ink,
                )


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
        canvas, camera, weather = stage.canvas, stage.camera, stage.weather
        thing = canvas.thing("traffic light")
        scale, plane = camera.scale(self.z), camera.facing(self.z)
        ox, oy = camera.project([(self.x, 0, self.z)])[0]

        def put(points: np.ndarray, surface: Surface, owner: int = thing) -> None:
            canvas.fill(points * [scale, -scale] + [ox, oy], surface, owner, plane)

        put(limb(0, 0, 0.07, 0, 2.6, 0.06, 3), Surface((60, 62, 64), weather.air_heat + 2))
        put(
            np.array([(-0.2, 2.5), (0.2, 2.5), (0.2, 3.45), (-0.2, 3.45)]), Surface((26, 28, 28), weather.air_heat + 10)
        )
        for k, (off, on) in enumerate(
            (((60, 16, 16), (255, 44, 30)), ((64, 52, 16), (255, 186, 40)), ((14, 56, 34), (60, 240, 150)))
        ):
            lit = k == self.lit
            owner = canvas.thing("signal", parent=thing) if lit else thing
            put(
                circle(0, 3.28 - k * 0.31, 0.115),
                Surface(off, weather.air_heat + (44 if lit else 10), on if lit else BLACK),
                owner,
            )


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
        foot = circle(self.x, self.z, 0.36, 0.25, 12)
        stage.cast(np.stack([foot[:, 0], np.zeros(12), foot[:, 1]], 1), 0.7)

    def draw(self, stage: Stage) -> None:
        thing = stage.canvas.thing("bin")
        scale, plane = stage.camera.scale(self.z), stage.camera.facing(self.z)
        ox, oy = stage.camera.project([(self.x, 0, self.z)])[0]
        surface = Surface(self.colour, stage.weather.air_heat + 12 + 0.5 * stage.weather.sun_heat, rough=0.06)
        for points, tone in (
            ([(-0.26, 0), (0.26, 0), (0.3, 0.92), (-0.3, 0.92)], 1.0),
            ([(0.05, 0), (0.26, 0), (0.3, 0.92), (0.08, 0.92)], 0.72),
            ([(-0.34, 0.9), (0.34, 0.9), (0.3, 1.06), (-0.3, 1.06)], 0.6),
        ):
            stage.canvas.fill(np.array(points) * [scale, -scale] + [ox, oy], surface.tinted(tone), thing, plane)
