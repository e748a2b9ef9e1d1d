"""Cars and vans: extruded profiles with a glass house, wheels and lights; warm where they have been driven."""

from dataclasses import dataclass, field

import numpy as np

from tools.scenes.canvas import BLACK, Colour, Points, Surface, circle
from tools.scenes.stage import Lamp, Painter, Stage

COLOURS: tuple[Colour, ...] = (
    (196, 200, 204), (236, 236, 234), (40, 42, 46), (96, 102, 110), (164, 28, 34), (28, 60, 122), (60, 96, 84),
    (206, 168, 70), (120, 40, 50), (84, 130, 176),
)  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Side view in metres (length from the middle, height), front first; the glass house sits on the belt."""

    body: tuple[tuple[float, float], ...]  # outline from the front's foot over the top to the rear's foot
    belt: tuple[float, float, float]  # glass house: front, rear, height of its foot
    roof: tuple[float, float, float]  # front, rear, height of its top
    half_width: float
    axles: tuple[float, float]
    wheel: float  # radius


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

    def world(self, local: list[tuple[float, float, float]]) -> Points:
        """Car coordinates (along, to its right, up) -> world, Nx3."""
        p = np.array(local, np.float64)
        sin, cos = np.sin(self.heading), np.cos(self.heading)
        return np.stack([self.x + p[:, 0] * sin + p[:, 1] * cos, p[:, 2], self.z + p[:, 0] * cos - p[:, 1] * sin], 1)

    def shadow(self, stage: Stage) -> None:
        s = self.shape
        length, wide = s.body[1][0], s.half_width
        if stage.weather.sun > 0.3:
            for low, high, front, rear, half in (
                (0.3, s.belt[2], length, -length, wide),
                (s.belt[2], s.roof[2], s.roof[0] + 0.2, s.roof[1] - 0.1, wide * 0.75),
            ):
                corners = [(a, b, h) for a in (front, rear) for b in (-half, half) for h in (low, high)]
                points = self.world(corners)
                sx, sz = stage.weather.shadow
                flat = np.stack([points[:, 0] + sx * points[:, 1], points[:, 2] + sz * points[:, 1]], 1)
                ring = _hull(flat)
                stage.cast(np.stack([ring[:, 0], np.zeros(len(ring)), ring[:, 1]], 1), stage.weather.sun)
        # The dark beneath a car is there in any light.
        for grow, strength in ((1.08, 0.55), (0.98, 0.95)):
            corners = [
                (length * a * grow, wide * b * grow, 0.0) for a, b in ((1, 0.85), (1, -0.85), (-1, -0.85), (-1, 0.85))
            ]
            stage.cast(self.world(corners), strength)

    def draw(self, stage: Stage) -> None:
        canvas, camera, weather, s = stage.canvas, stage.camera, stage.weather, self.shape
        if camera.beside(self.x - 3.2, self.x + 3.2, self.z + 2.6) or camera.scale(self.z) < 3:
            return
        thing = canvas.thing("van" if s is SHAPES["van"] else "car")
        plane = camera.facing(max(self.z, 1.0))
        cold = weather.air_heat + (weather.sun_heat * 0.8 if weather.sun > 0.5 else -4)
        w = self.warmth
        body = Surface(self.colour, cold + 14 * w, rough=0.015)
        glass = Surface((44, 54, 64), (weather.sky_heat + cold) / 2 + 16 * w)
        detail = camera.scale(self.z) > 14
        coarse = camera.scale(self.z) < 9

        def put(local: list[tuple[float, float, float]], surface: Surface, owner: int = thing) -> None:
            canvas.fill_world(self.world(local), surface, owner, plane)

        taper = 0.86

        def half(along: float) -> float:
            limit = s.body[1][0] - 0.3
            return s.half_width * (1.0 if abs(along) < limit else taper)

        def wheel(along: float, right: float, surface: Surface, radius: float, centre: float) -> None:
            put([(along + p[0], right, centre + p[1]) for p in circle(0, 0, radius, None, 20)], surface)

        eye = self._eye()
        sides = [k for k in (-1, 1) if k * eye[1] > s.half_width * 0.9]
        ends = [k for k in (-1, 1) if k * eye[0] > s.body[1][0] * 0.98]
        tyre = Surface((26, 26, 28), cold + 12 + 66 * w)
        # Dark underside with the far wheels showing below it.
        length = s.body[1][0]
        for along in () if coarse else s.axles:
            for k in (-1, 1):
                edge = k * s.half_width * 0.9
                put(
                    [
                        (along + dx, edge - k * dy, h)
                        for dx, dy, h in ((0.2, 0, 0), (0.2, 0.2, 0), (0.2, 0.2, 0.4), (0.2, 0, 0.4))
                    ],
                    tyre,
                )
        under = Surface((16, 16, 18), cold + 20 + 60 * w)
        low = s.body[0][1]
        for k in sides:
            put(
                [
                    (length * 0.93, k * 0.6, low * 0.62),
                    (length * 0.93, k * 0.6, low + 0.1),
                    (-length * 0.93, k * 0.6, low + 0.1),
                    (-length * 0.93, k * 0.6, low * 0.62),
                ],
                under,
            )
        for k in ends:
            put(
                [
                    (k * length * 0.85, b * s.half_width * 0.8, h)
                    for b, h in ((-1, low * 0.62), (1, low * 0.62), (1, low + 0.1), (-1, low + 0.1))
                ],
                under,
            )

        # Body: the strips along the profile (hood, deck, front, rear), then the sides.
        strips: list[tuple[float, list[tuple[float, float, float]], Surface]] = []
        for (a0, h0), (a1, h1) in zip(s.body, s.body[1:], strict=False):
            normal = (h1 - h0, a0 - a1)  # (along, up), outwards
            if normal[0] * (eye[0] - a0) + normal[1] * (eye[2] - h0) <= 0:
                continue
            tone = 0.78 + 0.34 * normal[1] / np.hypot(*normal)
            heat = body.heat
            front = (a0 + a1) / 2 > s.belt[0]
            if front:
                heat += (92 if normal[1] < 0.5 * abs(normal[0]) else 74) * w
            face = [(a0, -half(a0), h0), (a0, half(a0), h0), (a1, half(a1), h1), (a1, -half(a1), h1)]
            far = float(np.linalg.norm(np.mean(np.array(face), 0) - eye))
            strips.append((-far, face, Surface(body.colour, heat, rough=0.015).tinted(tone)))
        for _, face, surface in sorted(strips, key=lambda item: item[0]):
            put(face, surface)
        for k in sides:
            outline = [(a, k * half(a), h) for a, h in s.body]
            put(outline, body.tinted(self._side_tone(stage, k)))
            # The engine's heat spreads into the front wing.
            if w > 0.3 and not coarse:
                wing = [
                    (a, k * half(a), h)
                    for a, h in (
                        (length * 0.97, 0.6),
                        (length * 0.9, s.body[2][1]),
                        (s.belt[0], s.body[3][1] - 0.02),
                        (s.belt[0] + 0.1, 0.5),
                    )
                ]
                put(wing, Surface(body.colour, body.heat + 40 * w, rough=0.015).tinted(self._side_tone(stage, k)))
            if coarse:
                continue
            sill = [
                (a, k * half(a), h)
                for a, h in (
                    (length * 0.95, low),
                    (length * 0.95, low + 0.1),
                    (-length * 0.95, low + 0.1),
                    (-length * 0.95, low),
                )
            ]
            put(sill, Surface((40, 40, 42), body.heat))
            if detail:
                crease = s.belt[2] - 0.2
                put(
                    [
                        (s.belt[0], k * half(0), crease),
                        (s.belt[0], k * half(0), crease + 0.03),
                        (-length * 0.9, k * half(0), crease + 0.05),
                        (-length * 0.9, k * half(0), crease + 0.02),
                    ],
                    body.tinted(1.22),
                )
                for door in (s.belt[0] - 0.1, (s.belt[0] + s.belt[1]) / 2 + 0.1):
                    put(
                        [
                            (door, k * half(0), low + 0.12),
                            (door + 0.025, k * half(0), low + 0.12),
                            (door + 0.025, k * half(0), s.belt[2] - 0.03),
                            (door, k * half(0), s.belt[2] - 0.03),
                        ],
                        body.tinted(0.55),
                    )

        self._glass_house(put, eye, sides, body, glass, stage, coarse)
        for k in ends:
            self._end(stage, put, k, thing, detail)
        for k in sides:
            for along in s.axles:
                edge = k * (s.half_width + 0.005)
                if coarse:
                    wheel(along, edge, tyre, s.wheel, s.wheel)
                    continue
                wheel(along, edge * 0.985, Surface((14, 14, 15), cold + 8 + 40 * w), s.wheel * 1.16, s.wheel * 1.04)
                wheel(along, edge, tyre, s.wheel, s.wheel)
                wheel(along, edge, Surface((150, 152, 156), cold + 8 + 84 * w), s.wheel * 0.62, s.wheel)
                if detail:
                    wheel(along, edge, Surface((70, 72, 76), cold + 8 + 100 * w), s.wheel * 0.22, s.wheel)
            if detail:
                mirror = [
                    (s.belt[0] - 0.15 + a, k * (s.half_width + 0.08), s.belt[2] + h)
                    for a, h in ((0, 0.02), (0.2, 0.02), (0.18, 0.16), (0, 0.16))
                ]
                put(mirror, body.tinted(0.8))
        if self.lights:
            self._beams(stage)

    def _eye(self) -> Points:
        """The camera in car coordinates (along, right, up); up is 1.6 m, near enough for choosing faces."""
        sin, cos = np.sin(self.heading), np.cos(self.heading)
        return np.array([-self.x * sin - self.z * cos, -self.x * cos + self.z * sin, 1.7])

    def _side_tone(self, stage: Stage, k: int) -> float:
        """How bright the left (-1) or right (1) side is in the sun."""
        across = k * np.cos(self.heading)
        return float(1.0 - 0.22 * np.sign(across * stage.weather.shadow[0]) * stage.weather.sun)

    def _glass_house(
        self, put: Painter, eye: Points, sides: list[int], body: Surface, glass: Surface, stage: Stage, coarse: bool
    ) -> None:
        s = self.shape
        (bf, br, bh), (tf, tr, th) = s.belt, s.roof
        wb, wt = s.half_width * 0.92, s.half_width * 0.74
        if s is SHAPES["van"]:
            wt = s.half_width * 0.86

        def frame(corners: list[tuple[float, float, float]], inset: float, pane: Surface) -> None:
            p = np.array(corners)
            centre = p.mean(0)
            inner = p + (centre - p) / np.maximum(np.linalg.norm(centre - p, axis=1, keepdims=True), 1e-6) * inset
            put([tuple(c) for c in corners], body.tinted(0.8))
            put([tuple(c) for c in inner], pane)
            if coarse:
                return
            # The sky mirrored in the upper part of the pane.
            top = inner.copy()
            low = inner[:, 2] < inner[:, 2].mean()
            order = np.argsort(inner[:, 2])
            lift = (inner[order[2:], 2].mean() - inner[order[:2], 2].mean()) * 0.55
            slope = (centre - inner)[low]
            top[low, 2] += lift
            top[low, :2] += slope[:, :2] * 0.1
            sheen = 2.1 if not stage.weather.dark else 1.15
            put([tuple(c) for c in top], Surface(pane.colour, pane.heat).tinted(sheen))

        faces = []
        if eye[0] > (bf + tf) / 2:
            faces.append([(bf, -wb, bh), (bf, wb, bh), (tf, wt, th), (tf, -wt, th)])
        if eye[0] < (br + tr) / 2:
            faces.append([(br, -wb, bh), (br, wb, bh), (tr, wt, th), (tr, -wt, th)])
        for face in faces:
            frame(face, 0.09, glass)
        for k in sides:
            put(
                [(bf, k * wb, bh), (tf, k * wt, th), (tr, k * wt, th), (br, k * wb, bh)],
                body.tinted(self._side_tone(stage, k) * 0.95),
            )
            pillar = (bf + br) / 2 + 0.05
            cells = [(bf - 0.14, pillar + 0.04), (pillar - 0.04, br + 0.16)]
            if s is SHAPES["van"] and self.closed:
                cells = [(bf - 0.14, 0.75)]
            for front, rear in cells:

                def at(along: float, up: float, k: int = k) -> tuple[float, float, float]:
                    # `along` is measured at the belt; higher up the glass house is shorter.
                    t = (along - br) / (bf - br)
                    top = tr + t * (tf - tr)
                    return (along + (top - along) * up, k * (wb + (wt - wb) * up), bh + (th - bh) * up)

                put([at(front, 0.06), at(front, 0.86), at(rear, 0.86), at(rear, 0.06)], glass)
                if coarse:
                    continue
                sheen = 1.9 if not stage.weather.dark else 1.1
                put(
                    [at(front, 0.5), at(front, 0.86), at(rear, 0.86), at(rear, 0.62)],
                    Surface(glass.colour, glass.heat).tinted(sheen),
                )
        if eye[2] > th:
            put([(tf, -wt, th), (tf, wt, th), (tr, wt, th), (tr, -wt, th)], body.tinted(1.15))

    def _end(self, stage: Stage, put: Painter, k: int, thing: int, detail: bool) -> None:
        """Lights, plate, grille and exhaust of the front (1) or the rear (-1)."""
        s, weather, w = self.shape, stage.weather, self.warmth
        length = s.body[1][0] + 0.01
        low, high = s.body[0][1], s.body[2][1]
        wide = s.half_width * 0.86
        heat = weather.air_heat + 10 + (100 * w if k > 0 else 10 * w)

        def panel(right0: float, right1: float, up0: float, up1: float, surface: Surface, owner: int = thing) -> None:
            put(
                [
                    (k * length, right0, up0),
                    (k * length, right1, up0),
                    (k * length, right1, up1),
                    (k * length, right0, up1),
                ],
                surface,
                owner,
            )

        panel(-wide, wide, low, low + 0.12, Surface((36, 36, 38), heat - 10))
        if k > 0:
            panel(-0.42, 0.42, low + 0.17, low + 0.3, Surface((22, 22, 24), weather.air_heat + 20 + 128 * w))
        panel(-0.26, 0.26, low + 0.2, low + 0.31, Surface((232, 232, 224), heat - 14))
        if detail:
            panel(-0.2, 0.2, low + 0.235, low + 0.275, Surface((60, 60, 66), heat - 14))
        if k < 0 and w > 0.3:
            panel(0.38, 0.56, low - 0.06, low + 0.05, Surface((30, 28, 28), 246.0))
        top = min(high, low + 0.5)
        for side in (-1, 1):
            a, b = side * wide * 0.62, side * wide * 0.99
            if k > 0:
                glow = (255.0, 246.0, 214.0) if self.lights else BLACK
                lamp = Surface((226, 230, 232), heat + 20, glow)
            else:
                glow = (226.0, 26.0, 20.0) if self.lights else BLACK
                lamp = Surface((168, 24, 24), heat - 4, glow)
            owner = stage.canvas.thing("car light", parent=thing) if self.lights else thing
            panel(a, b, top - 0.17, top - 0.02, lamp, owner)

    def _beams(self, stage: Stage) -> None:
        direction = (float(np.sin(self.heading)), float(np.cos(self.heading)))
        front = self.world([(self.shape.body[1][0], 0.0, 0.65)])[0]
        stage.lamps.append(Lamp((front[0], 0.65, front[2]), (30.0, 28.0, 23.0), direction))


def _hull(points: Points) -> Points:
    """Convex outline of Nx2 points, counter-clockwise (Andrew's monotone chain)."""
    ordered = sorted(map(tuple, points.tolist()))

    def chain(items: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
        out: list[tuple[float, ...]] = []
        for p in items:
            while len(out) > 1 and (out[-1][0] - out[-2][0]) * (p[1] - out[-2][1]) <= (out[-1][1] - out[-2][1]) * (
                p[0] - out[-2][0]
            ):
                out.pop()
            out.append(p)
        return out[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]))
