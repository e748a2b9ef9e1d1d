"""Cars and vans: extruded profiles with a glass house, wheels and lights; engine and tyres are warm after a drive."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from tools.scenes.canvas import BLACK, Colour, Points, Surface, circle, rectangle
from tools.scenes.stage import Lamp, Stage

COLOURS: tuple[Colour, ...] = (
    (196, 200, 204), (236, 236, 234), (40, 42, 46), (96, 102, 110), (164, 28, 34), (28, 60, 122), (60, 96, 84),
    (206, 168, 70), (120, 40, 50), (84, 130, 176),
)  # fmt: skip
Corners = Sequence[tuple[float, float, float]] | Points  # (along, to the right, up) in a car's coordinates, metres


@dataclass(frozen=True)
class Shape:
    """Side view of a car, metres (along from its middle, up), front first. The glass house stands on the belt line."""

    body: tuple[tuple[float, float], ...]  # outline from the front's foot over the top to the rear's foot
    belt: tuple[float, float, float]  # glass house: front, rear, height of its foot
    roof: tuple[float, float, float]  # front, rear, height of its top
    half_width: float
    axles: tuple[float, float]  # positions of the front and the rear axle
    wheel: float  # radius of a wheel


SHAPES: dict[str, Shape] = {
    "sedan": Shape(
        ((2.2, 0.26), (2.24, 0.56), (2.12, 0.74), (1.05, 0.93),
         (-1.65, 0.97), (-2.16, 0.93), (-2.24, 0.6), (-2.18, 0.28)),
                   (1.15, -1.75, 0.93), (0.3, -1.1, 1.44), 0.9, (1.4, -1.35), 0.32),
    "hatch": Shape(
        ((1.9, 0.26), (1.95, 0.56), (1.82, 0.78), (1.0, 0.96),
         (-1.7, 1.0), (-1.95, 0.95), (-1.98, 0.55), (-1.9, 0.28)),
                   (1.12, -1.9, 0.95), (0.3, -1.45, 1.5), 0.87, (1.22, -1.2), 0.31),
    "suv": Shape(
        ((2.2, 0.32), (2.26, 0.7), (2.16, 0.95), (1.2, 1.08),
         (-2.0, 1.1), (-2.24, 1.06), (-2.28, 0.6), (-2.2, 0.34)),
                 (1.25, -2.2, 1.08), (0.5, -1.85, 1.72), 0.95, (1.4, -1.38), 0.37),
    "van": Shape(
        ((2.4, 0.3), (2.46, 0.75), (2.38, 1.05), (1.95, 1.22),
         (-2.4, 1.25), (-2.5, 1.2), (-2.5, 0.6), (-2.45, 0.32)),
                 (2.05, -2.48, 1.2), (1.35, -2.42, 2.05), 0.98, (1.6, -1.5), 0.34),
}  # fmt: skip


@dataclass
class Car:
    """A car at (x, z); `heading` in radians, 0 drives away from the camera, pi towards it, pi/2 to the right."""

    x: float
    z: float
    heading: float
    rng: np.random.Generator
    driving: bool = True
    lights: bool = False
    shape: Shape = field(init=False)

    def __post_init__(self) -> None:
        kinds = list(SHAPES)
        self.shape = SHAPES[kinds[int(self.rng.choice(4, p=[0.38, 0.27, 0.23, 0.12]))]]
        self.colour = COLOURS[int(self.rng.integers(len(COLOURS)))]
        # A parked car may have been left a short while ago.
        self.warmth = 1.0 if self.driving else float(self.rng.choice([0.0, 0.12, 0.7], p=[0.5, 0.3, 0.2]))
        self.closed = self.rng.random() < 0.5  # a van without rear side windows

    def world(self, corners: Corners) -> Points:
        """Car coordinates (along, to its right, up) -> world, Nx3."""
        p = np.array(corners, np.float64)
        sin, cos = np.sin(self.heading), np.cos(self.heading)
        return np.stack([self.x + p[:, 0] * sin + p[:, 1] * cos, p[:, 2], self.z + p[:, 0] * cos - p[:, 1] * sin], 1)

    def shadow(self, stage: Stage) -> None:
        shape = self.shape
        length, wide = shape.body[1][0], shape.half_width
        if stage.weather.sun > 0.3:
            body = (0.3, shape.belt[2]), (length, -length), wide
            glass_house = (shape.belt[2], shape.roof[2]), (shape.roof[0] + 0.2, shape.roof[1] - 0.1), wide * 0.75
            for heights, ends, half in (body, glass_house):
                points = self.world([(a, b, h) for a in ends for b in (-half, half) for h in heights])
                sx, sz = stage.weather.shadow
                flat = np.stack([points[:, 0] + sx * points[:, 1], points[:, 2] + sz * points[:, 1]], 1)
                ring = _hull(flat)
                stage.cast(np.stack([ring[:, 0], np.zeros(len(ring)), ring[:, 1]], 1), stage.weather.sun)
        # It is dark under a car in any light.
        ground = ((1, 0.85), (1, -0.85), (-1, -0.85), (-1, 0.85))
        for grow, strength in ((1.08, 0.55), (0.98, 0.95)):
            stage.cast(self.world([(length * a * grow, wide * b * grow, 0.0) for a, b in ground]), strength)

    def draw(self, stage: Stage) -> None:
        camera = stage.camera
        if camera.beside(self.x - 3.2, self.x + 3.2, self.z + 2.6) or camera.scale(self.z) < 3:
            return
        _CarDrawing(self, stage).draw()
        if self.lights:
            direction = (float(np.sin(self.heading)), float(np.cos(self.heading)))
            front = self.world([(self.shape.body[1][0], 0.0, 0.65)])[0]
            stage.lamps.append(Lamp((front[0], 0.65, front[2]), (30.0, 28.0, 23.0), direction))

    def eye(self) -> Points:
        """The camera in car coordinates (along, right, up); 1.7 m up is accurate enough for choosing faces."""
        sin, cos = np.sin(self.heading), np.cos(self.heading)
        return np.array([-self.x * sin - self.z * cos, -self.x * cos + self.z * sin, 1.7])


class _CarDrawing:
    """Paints one car, from the far wheels to the near ones; coordinates are the car's (along, right, up), metres.

    A side is -1 (left) or 1 (right), an end is 1 (front) or -1 (rear); only those that the camera sees are painted.
    """

    def __init__(self, car: Car, stage: Stage) -> None:
        self.car, self.stage, self.shape = car, stage, car.shape
        camera, weather = stage.camera, stage.weather
        self.thing = stage.canvas.thing("van" if self.shape is SHAPES["van"] else "car")
        self.plane = camera.facing(max(car.z, 1.0))
        self.detail, self.coarse = camera.scale(car.z) > 14, camera.scale(car.z) < 9
        self.warmth = car.warmth
        self.cold = weather.air_heat + (weather.sun_heat * 0.8 if weather.sun > 0.5 else -4)
        self.body = Surface(car.colour, self.cold + 14 * self.warmth, rough=0.015)
        self.glass = Surface((44, 54, 64), (weather.sky_heat + self.cold) / 2 + 16 * self.warmth)
        self.tyre = Surface((26, 26, 28), self.cold + 12 + 66 * self.warmth)
        self.length = self.shape.body[1][0]  # half of the car's length
        self.low = self.shape.body[0][1]
        self.eye = car.eye()
        self.sides = [k for k in (-1, 1) if k * self.eye[1] > self.shape.half_width * 0.9]
        self.ends = [k for k in (-1, 1) if k * self.eye[0] > self.length * 0.98]

    def draw(self) -> None:
        self._underside()
        self._strips()
        for side in self.sides:
            self._flank(side)
        self._glass_house()
        for end in self.ends:
            self._end(end)
        for side in self.sides:
            for along in self.shape.axles:
                self._near_wheel(along, side)
            if self.detail:
                self._mirror(side)

    def fill(self, corners: Corners, surface: Surface, owner: int | None = None) -> None:
        thing = self.thing if owner is None else owner
        self.stage.canvas.fill_world(self.car.world(corners), surface, thing, self.plane)

    def half_width(self, along: float) -> float:
        """Half of the body's width, which tapers at both ends."""
        return self.shape.half_width * (1.0 if abs(along) < self.length - 0.3 else 0.86)

    def _side_tone(self, side: int) -> float:
        """Factor on a side's colour: above 1 on the sunny side, below 1 on the other."""
        weather = self.stage.weather
        across = side * np.cos(self.car.heading)
        return float(1.0 - 0.22 * np.sign(across * weather.shadow[0]) * weather.sun)

    def _underside(self) -> None:
        """Paint the dark underside and the far wheels that can be seen below it."""
        shape = self.shape
        for along in () if self.coarse else shape.axles:
            for k in (-1, 1):
                edge = k * shape.half_width * 0.9
                foot = ((0.2, 0, 0), (0.2, 0.2, 0), (0.2, 0.2, 0.4), (0.2, 0, 0.4))
                self.fill([(along + dx, edge - k * dy, h) for dx, dy, h in foot], self.tyre)
        dark = Surface((16, 16, 18), self.cold + 20 + 60 * self.warmth)
        bottom, top = self.low * 0.62, self.low + 0.1
        front = self.length * 0.93
        for k in self.sides:
            profile = ((front, bottom), (front, top), (-front, top), (-front, bottom))
            self.fill([(along, k * 0.6, up) for along, up in profile], dark)
        for k in self.ends:
            across = ((-1, bottom), (1, bottom), (1, top), (-1, top))
            self.fill([(k * self.length * 0.85, b * shape.half_width * 0.8, h) for b, h in across], dark)

    def _strips(self) -> None:
        """Paint the faces that span the body's width (front, hood, deck, rear), the farthest one first."""
        strips: list[tuple[float, list[tuple[float, float, float]], Surface]] = []
        for (a0, h0), (a1, h1) in pairwise(self.shape.body):
            normal = (h1 - h0, a0 - a1)  # (along, up), outwards
            if normal[0] * (self.eye[0] - a0) + normal[1] * (self.eye[2] - h0) <= 0:
                continue
            tone = 0.78 + 0.34 * normal[1] / np.hypot(*normal)
            heat = self.body.heat
            if (a0 + a1) / 2 > self.shape.belt[0]:  # over the engine
                heat += (92 if normal[1] < 0.5 * abs(normal[0]) else 74) * self.warmth
            half0, half1 = self.half_width(a0), self.half_width(a1)
            face = [(a0, -half0, h0), (a0, half0, h0), (a1, half1, h1), (a1, -half1, h1)]
            distance = float(np.linalg.norm(np.mean(np.array(face), 0) - self.eye))
            strips.append((-distance, face, Surface(self.body.colour, heat, rough=0.015).tinted(tone)))
        for _, face, surface in sorted(strips, key=lambda strip: strip[0]):
            self.fill(face, surface)

    def _flank(self, side: int) -> None:
        shape, body, length, low = self.shape, self.body, self.length, self.low

        def outline(profile: Sequence[tuple[float, float]]) -> Corners:
            return [(along, side * self.half_width(along), up) for along, up in profile]

        tone = self._side_tone(side)
        self.fill(outline(shape.body), body.tinted(tone))
        if self.warmth > 0.3 and not self.coarse:
            # The engine's heat spreads into the front wing.
            hood = (length * 0.9, shape.body[2][1]), (shape.belt[0], shape.body[3][1] - 0.02)
            wing = outline([(length * 0.97, 0.6), *hood, (shape.belt[0] + 0.1, 0.5)])
            self.fill(wing, Surface(body.colour, body.heat + 40 * self.warmth, rough=0.015).tinted(tone))
        if self.coarse:
            return
        front, rear = length * 0.95, -length * 0.95
        sill = outline([(front, low), (front, low + 0.1), (rear, low + 0.1), (rear, low)])
        self.fill(sill, Surface((40, 40, 42), body.heat))
        if self.detail:
            self._doors(side)

    def _doors(self, side: int) -> None:
        """Paint a crease along the flank and the gaps of two doors."""
        shape, low = self.shape, self.low
        right, crease = side * self.half_width(0), shape.belt[2] - 0.2
        front, rear = shape.belt[0], -self.length * 0.9
        line = ((front, crease), (front, crease + 0.03), (rear, crease + 0.05), (rear, crease + 0.02))
        self.fill([(along, right, up) for along, up in line], self.body.tinted(1.22))
        for door in (front - 0.1, (front + shape.belt[1]) / 2 + 0.1):
            bottom, top = low + 0.12, shape.belt[2] - 0.03
            gap = ((door, bottom), (door + 0.025, bottom), (door + 0.025, top), (door, top))
            self.fill([(along, right, up) for along, up in gap], self.body.tinted(0.55))

    def _near_wheel(self, along: float, side: int) -> None:
        radius, edge = self.shape.wheel, side * (self.shape.half_width + 0.005)

        def disc(right: float, surface: Surface, size: float, up: float = radius) -> None:
            self.fill([(along + x, right, up + y) for x, y in circle(0, 0, size, None, 20)], surface)

        if self.coarse:
            disc(edge, self.tyre, radius)
            return
        cold, warmth = self.cold, self.warmth
        disc(edge * 0.985, Surface((14, 14, 15), cold + 8 + 40 * warmth), radius * 1.16, radius * 1.04)
        disc(edge, self.tyre, radius)
        disc(edge, Surface((150, 152, 156), cold + 8 + 84 * warmth), radius * 0.62)
        if self.detail:
            disc(edge, Surface((70, 72, 76), cold + 8 + 100 * warmth), radius * 0.22)

    def _mirror(self, side: int) -> None:
        shape = self.shape
        corners = ((0, 0.02), (0.2, 0.02), (0.18, 0.16), (0, 0.16))
        front, right, up = shape.belt[0] - 0.15, side * (shape.half_width + 0.08), shape.belt[2]
        self.fill([(front + along, right, up + high) for along, high in corners], self.body.tinted(0.8))

    def _glass_house(self) -> None:
        """Windscreen, rear window, side windows and roof."""
        shape, eye, body = self.shape, self.eye, self.body
        (belt_front, belt_rear, _), (roof_front, roof_rear, top) = shape.belt, shape.roof
        low, high = shape.half_width * 0.92, shape.half_width * (0.86 if shape is SHAPES["van"] else 0.74)
        if eye[0] > (belt_front + roof_front) / 2:
            self._pane(belt_front, roof_front, low, high)
        if eye[0] < (belt_rear + roof_rear) / 2:
            self._pane(belt_rear, roof_rear, low, high)
        for side in self.sides:
            self._side_windows(side, low, high)
        if eye[2] > top:
            roof = [(roof_front, -high, top), (roof_front, high, top), (roof_rear, high, top), (roof_rear, -high, top)]
            self.fill(roof, body.tinted(1.15))

    def _pane(self, at_belt: float, at_roof: float, low: float, high: float) -> None:
        """A windscreen or rear window in its frame, half `low` wide at the belt and half `high` at the roof."""
        inset, glass = 0.09, self.glass
        foot, top = self.shape.belt[2], self.shape.roof[2]
        outer = np.array([(at_belt, -low, foot), (at_belt, low, foot), (at_roof, high, top), (at_roof, -high, top)])
        inwards = outer.mean(0) - outer
        inner = outer + inwards / np.maximum(np.linalg.norm(inwards, axis=1, keepdims=True), 1e-6) * inset
        self.fill(outer, self.body.tinted(0.8))
        self.fill(inner, glass)
        if self.coarse:
            return
        # The sky mirrored in the upper part of the pane.
        mirror = inner.copy()
        low = inner[:, 2] < inner[:, 2].mean()
        order = np.argsort(inner[:, 2])
        mirror[low, 2] += (inner[order[2:], 2].mean() - inner[order[:2], 2].mean()) * 0.55
        mirror[low, :2] += (outer.mean(0) - inner)[low][:, :2] * 0.1
        sheen = 2.1 if not self.stage.weather.dark else 1.15
        self.fill(mirror, Surface(glass.colour, glass.heat).tinted(sheen))

    def _side_windows(self, side: int, low: float, high: float) -> None:
        """One side of the glass house, which is half `low` wide at the belt and half `high` at the roof."""
        (belt_front, belt_rear, foot), (roof_front, roof_rear, top) = self.shape.belt, self.shape.roof
        wall = [(belt_front, side * low, foot), (roof_front, side * high, top)]
        wall += [(roof_rear, side * high, top), (belt_rear, side * low, foot)]
        self.fill(wall, self.body.tinted(self._side_tone(side) * 0.95))

        def corner(along: float, up: float) -> tuple[float, float, float]:
            # `along` is measured at the belt; higher up the glass house is shorter.
            t = (along - belt_rear) / (belt_front - belt_rear)
            at_roof = roof_rear + t * (roof_front - roof_rear)
            return (along + (at_roof - along) * up, side * (low + (high - low) * up), foot + (top - foot) * up)

        pillar = (belt_front + belt_rear) / 2 + 0.05
        windows = [(belt_front - 0.14, pillar + 0.04), (pillar - 0.04, belt_rear + 0.16)]
        if self.shape is SHAPES["van"] and self.car.closed:
            windows = [(belt_front - 0.14, 0.75)]
        sheen = 1.9 if not self.stage.weather.dark else 1.1
        for front, rear in windows:
            self.fill([corner(front, 0.06), corner(front, 0.86), corner(rear, 0.86), corner(rear, 0.06)], self.glass)
            if not self.coarse:
                mirror = [corner(front, 0.5), corner(front, 0.86), corner(rear, 0.86), corner(rear, 0.62)]
                self.fill(mirror, Surface(self.glass.colour, self.glass.heat).tinted(sheen))

    def _end(self, end: int) -> None:
        """Bumper, grille, plate, exhaust and lights."""
        weather, warmth, low = self.stage.weather, self.warmth, self.low
        heat = weather.air_heat + 10 + (100 * warmth if end > 0 else 10 * warmth)
        wide = self.shape.half_width * 0.86
        self._panel(end, -wide, wide, low, low + 0.12, Surface((36, 36, 38), heat - 10))
        if end > 0:
            grille = Surface((22, 22, 24), weather.air_heat + 20 + 128 * warmth)
            self._panel(end, -0.42, 0.42, low + 0.17, low + 0.3, grille)
        self._panel(end, -0.26, 0.26, low + 0.2, low + 0.31, Surface((232, 232, 224), heat - 14))
        if self.detail:
            self._panel(end, -0.2, 0.2, low + 0.235, low + 0.275, Surface((60, 60, 66), heat - 14))
        if end < 0 and warmth > 0.3:
            self._panel(end, 0.38, 0.56, low - 0.06, low + 0.05, Surface((30, 28, 28), 246.0))
        glow = ((255.0, 246.0, 214.0) if end > 0 else (226.0, 26.0, 20.0)) if self.car.lights else BLACK
        lamp = Surface((226, 230, 232), heat + 20, glow) if end > 0 else Surface((168, 24, 24), heat - 4, glow)
        top = min(self.shape.body[2][1], low + 0.5)
        for side in (-1, 1):
            owner = self.stage.canvas.thing("car light", parent=self.thing) if self.car.lights else self.thing
            self._panel(end, side * wide * 0.62, side * wide * 0.99, top - 0.17, top - 0.02, lamp, owner)

    def _panel(
        self, end: int, right0: float, right1: float, up0: float, up1: float, surface: Surface, owner: int | None = None
    ) -> None:
        """A rectangle across an end of the car."""
        along = end * (self.length + 0.01)
        corners = rectangle(right0, right1, up0, up1).tolist()
        self.fill([(along, right, up) for right, up in corners], surface, owner)


def _hull(points: Points) -> Points:
    """Convex outline of Nx2 points, counter-clockwise (Andrew's monotone chain)."""
    ordered = sorted(map(tuple, points.tolist()))

    def turns_left(a: tuple[float, ...], b: tuple[float, ...], c: tuple[float, ...]) -> bool:
        return (b[0] - a[0]) * (c[1] - a[1]) > (b[1] - a[1]) * (c[0] - a[0])

    def chain(items: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
        out: list[tuple[float, ...]] = []
        for point in items:
            while len(out) > 1 and not turns_left(out[-2], out[-1], point):
                out.pop()
            out.append(point)
        return out[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]))
