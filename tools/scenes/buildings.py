"""Houses: boxes in perspective with a roof, windows that may be lit and warm, doors, chimneys and shop fronts."""

from dataclasses import dataclass, field

import numpy as np

from tools.scenes.canvas import BLACK, NEAR, Camera, Colour, Points, Surface
from tools.scenes.stage import Painter, Stage

WALLS: tuple[Colour, ...] = (
    (206, 190, 160), (172, 98, 76), (222, 214, 200), (150, 84, 68), (188, 170, 140), (160, 164, 168), (214, 186, 130),
    (190, 140, 116), (140, 152, 160), (228, 222, 214), (178, 156, 120),
)  # fmt: skip
ROOFS: tuple[Colour, ...] = ((120, 62, 48), (84, 78, 80), (96, 60, 50), (66, 68, 76), (140, 84, 60))
BRICK: Colour = (160, 88, 70)


@dataclass
class House:
    """A house on x0..x1, z0..z1; `front` names the wall towards the street: "left", "right" or "near"."""

    x0: float
    x1: float
    z0: float
    z1: float
    storeys: int
    front: str
    rng: np.random.Generator
    z: float = field(init=False)

    def __post_init__(self) -> None:
        rng = self.rng
        self.z = self.z0
        self.storey = rng.uniform(2.8, 3.2)
        self.height = self.storeys * self.storey + 0.4
        self.colour = WALLS[int(rng.integers(len(WALLS)))]
        self.roof_colour = ROOFS[int(rng.integers(len(ROOFS)))]
        self.flat = self.storeys >= 3 and rng.random() < 0.6
        self.shop = self.storeys >= 2 and rng.random() < 0.3
        self.brick = rng.random() < 0.4
        if self.brick:
            r, g, b = BRICK
            k = rng.uniform(0.8, 1.2)
            self.colour = (r * k, g * k, b * k)
        self.rise = rng.uniform(1.8, 3.4)
        # The ridge mostly runs along the street.
        along_z = self.front != "near"
        self.ridge_along_z = along_z if rng.random() < 0.7 else not along_z

    def shadow(self, stage: Stage) -> None:
        if stage.weather.sun > 0.3:
            top = self.height + (0 if self.flat else self.rise * 0.7)
            sx, sz = stage.weather.shadow
            dx, dz = sx * top, sz * top
            base = [(self.x0, self.z0), (self.x1, self.z0), (self.x1, self.z1), (self.x0, self.z1)]
            for (xa, za), (xb, zb) in zip(base, base[1:] + base[:1], strict=True):
                quad = [(xa, 0, za), (xb, 0, zb), (xb + dx, 0, zb + dz), (xa + dx, 0, za + dz)]
                stage.cast(quad, stage.weather.sun)

    def draw(self, stage: Stage) -> None:
        canvas, camera, weather = stage.canvas, stage.camera, stage.weather
        hidden = ("near", "left" if self.x0 > 0 else "right")
        if self.z1 < 2 or all(self._hidden(camera, wall) for wall in hidden):
            return
        thing = canvas.thing("house")
        wall_heat = weather.wall_heat + self.rng.uniform(-14, 14)
        walls: list[tuple[str, Points, Points, float, Colour]] = []  # name, origin, direction, length, plane
        if self.x0 > 0.05:
            walls.append(
                (
                    "left",
                    np.array([self.x0, 0, self.z1]),
                    np.array([0.0, 0, -1]),
                    self.z1 - self.z0,
                    camera.side(self.x0),
                )
            )
        if self.x1 < -0.05:
            walls.append(
                (
                    "right",
                    np.array([self.x1, 0, self.z0]),
                    np.array([0.0, 0, 1]),
                    self.z1 - self.z0,
                    camera.side(self.x1),
                )
            )
        if self.z0 > 1.0:
            walls.append(
                (
                    "near",
                    np.array([self.x0, 0, self.z0]),
                    np.array([1.0, 0, 0]),
                    self.x1 - self.x0,
                    camera.facing(self.z0),
                )
            )
        self._roof(stage, thing, wall_heat)
        for name, origin, direction, length, plane in walls:
            if self._hidden(camera, name):
                continue
            tone, warm = self._sun_on(stage, name)
            surface = Surface(self.colour, wall_heat + warm, rough=0.07).tinted(tone)
            self._wall(stage, thing, name, origin, direction, length, plane, surface)
        if not self.flat:
            self._gables(stage, thing, wall_heat)

    def _hidden(self, camera: Camera, wall: str) -> bool:
        """Whether a wall is beside the image."""
        if wall == "near":
            if self.z0 <= 1:
                return True
            return camera.beside(self.x0, self.x1, self.z0)
        # Along a side wall the far end is the one nearest to the image's middle.
        x = self.x0 if wall == "left" else self.x1
        return camera.beside(x, x, self.z1)

    def _sun_on(self, stage: Stage, wall: str) -> tuple[float, float]:
        """Brightness and extra heat of a wall."""
        weather = stage.weather
        sx, sz = weather.shadow
        towards = {"left": sx, "right": -sx, "near": sz}[wall] / (np.hypot(sx, sz) + 0.3)
        if weather.dark:
            return 1.0, 0.0
        return float(0.86 + 0.26 * towards * weather.sun), float(max(0.0, towards) * weather.sun_heat)

    def _wall(
        self,
        stage: Stage,
        thing: int,
        name: str,
        origin: Points,
        direction: Points,
        length: float,
        plane: Colour,
        surface: Surface,
    ) -> None:
        canvas, camera, rng = stage.canvas, stage.camera, self.rng
        ox, oz, dx, dz = float(origin[0]), float(origin[2]), float(direction[0]), float(direction[2])

        def patch(u0: float, u1: float, y0: float, y1: float, what: Surface, owner: int = thing) -> None:
            xa, za, xb, zb = ox + dx * u0, oz + dz * u0, ox + dx * u1, oz + dz * u1
            if za < NEAR or zb < NEAR:
                canvas.fill_world([(xa, y0, za), (xb, y0, zb), (xb, y1, zb), (xa, y1, za)], what, owner, plane)
                return
            # A house has a hundred of these: projecting by hand and leaving early is worth it.
            sa, sb = camera.focal / za, camera.focal / zb
            left, right = camera.centre_x + xa * sa, camera.centre_x + xb * sb
            if max(left, right) < 0 or min(left, right) >= camera.width:
                return
            up0, up1, horizon = camera.eye - y0, camera.eye - y1, camera.horizon
            corners = (
                (left, horizon + up0 * sa),
                (right, horizon + up0 * sb),
                (right, horizon + up1 * sb),
                (left, horizon + up1 * sa),
            )
            canvas.fill(corners, what, owner, plane)

        patch(0, length, 0, self.height, surface)
        nearest = max(1.5, min(origin[2], (origin + direction * length)[2]))
        scale = camera.scale(nearest)  # pixels per metre at the wall's near end
        if scale < 5:
            return
        dark_edge = surface.tinted(0.75)
        patch(0, length, 0, 0.45, Surface((110, 106, 100), surface.heat + 4, rough=0.1).tinted(0.9))
        if self.brick and scale > 22:
            course = 0.32
            for row in range(2, int(self.height / course)):
                patch(0, length, row * course, row * course + 0.035, surface.tinted(0.88))
        patch(0, length, self.height - 0.25, self.height, dark_edge)
        for storey in range(1, self.storeys):
            if scale > 12:
                patch(0, length, storey * self.storey + 0.12, storey * self.storey + 0.26, surface.tinted(1.1))
        is_front = name == self.front
        wide = 1.15 if not self.flat else 1.5
        count = max(1, int(length / (wide + (1.3 if is_front else 2.4))))
        step = length / count
        door = int(rng.integers(count)) if is_front else -1
        for storey in range(self.storeys):
            base = storey * self.storey
            if storey == 0 and is_front and self.shop:
                self._shop(stage, thing, patch, length, surface, scale)
                continue
            for column in range(count):
                middle = (column + 0.5) * step
                if storey == 0 and column == door:
                    self._door(patch, middle, surface, scale)
                    continue
                if not is_front and rng.random() < 0.3:
                    continue
                self._window(stage, thing, patch, middle, base + 0.95, wide, 1.45, surface, scale)

    def _window(
        self,
        stage: Stage,
        thing: int,
        patch: Painter,
        middle: float,
        sill: float,
        wide: float,
        high: float,
        wall: Surface,
        scale: float,
    ) -> None:
        weather, rng = stage.weather, self.rng
        lit = weather.dark and rng.random() < 0.38
        # Warmth leaks through panes: more where somebody is at home, little where the sky is mirrored.
        heat = weather.wall_heat + (
            rng.uniform(34, 62) if lit else rng.uniform(10, 34) if weather.dark else rng.uniform(-22, 20)
        )
        if lit:
            k = rng.uniform(0.55, 1.0)
            glow: Colour = (250 * k, rng.uniform(186, 216) * k, rng.uniform(104, 150) * k)
            pane = Surface((70, 62, 50), heat, glow)
            owner = stage.canvas.thing("window", parent=thing)
        else:
            pane = Surface((62, 76, 90), heat)
            owner = thing
        a, b = middle - wide / 2, middle + wide / 2
        frame = Surface((232, 230, 224), wall.heat + 12)
        if scale > 9:
            patch(a - 0.1, b + 0.1, sill - 0.1, sill + high + 0.1, frame.tinted(0.95))
            if scale > 14:
                patch(a - 0.18, b + 0.18, sill - 0.18, sill - 0.08, wall.tinted(1.25))
        patch(a, b, sill, sill + high, pane, owner)
        if not lit and scale > 9:
            curtain = rng.random()
            if not weather.dark:
                patch(a, b, sill + high * 0.55, sill + high, Surface((128, 152, 176), heat - 8))
            if curtain < 0.4:
                patch(a, a + wide * 0.22, sill, sill + high, Surface((196, 190, 178), heat + 4).tinted(0.8), owner)
                patch(b - wide * 0.22, b, sill, sill + high, Surface((196, 190, 178), heat + 4).tinted(0.8), owner)
        if lit and scale > 9:
            r, g, bl = pane.glow
            patch(
                a,
                a + wide * 0.2,
                sill,
                sill + high,
                Surface(pane.colour, heat - 6, (r * 0.6, g * 0.5, bl * 0.4)),
                owner,
            )
            patch(
                b - wide * 0.2,
                b,
                sill,
                sill + high,
                Surface(pane.colour, heat - 6, (r * 0.6, g * 0.5, bl * 0.4)),
                owner,
            )
        if scale > 12:
            bar = Surface(frame.colour, frame.heat, BLACK)
            patch(middle - 0.035, middle + 0.035, sill, sill + high, bar)
            patch(a, b, sill + high * 0.62, sill + high * 0.62 + 0.06, bar)

    def _door(self, patch: Painter, middle: float, wall: Surface, scale: float) -> None:
        tones: tuple[Colour, ...] = ((92, 44, 34), (36, 66, 54), (40, 52, 84), (120, 86, 52), (70, 70, 72))
        colour = tones[int(self.rng.integers(len(tones)))]
        patch(middle - 0.62, middle + 0.62, 0, 2.35, Surface((222, 218, 208), wall.heat + 8).tinted(0.9))
        patch(middle - 0.5, middle + 0.5, 0.08, 2.2, Surface(colour, wall.heat + 16))
        if scale > 10:
            patch(middle - 0.34, middle + 0.34, 1.35, 2.0, Surface((80, 96, 108), wall.heat + 26))
            patch(middle - 0.34, middle + 0.34, 0.3, 1.1, Surface(colour, wall.heat + 16).tinted(0.8))
        patch(middle - 0.8, middle + 0.8, 0, 0.14, Surface((160, 158, 150), wall.heat + 2))

    def _shop(self, stage: Stage, thing: int, patch: Painter, length: float, wall: Surface, scale: float) -> None:
        rng, dark = self.rng, stage.weather.dark
        tones: tuple[Colour, ...] = ((150, 30, 34), (30, 84, 60), (32, 54, 110), (196, 140, 40), (60, 60, 64))
        tone = tones[int(rng.integers(len(tones)))]
        lit = dark and rng.random() < 0.6
        glow: Colour = (236, 214, 170) if lit else BLACK
        owner = stage.canvas.thing("shop window", parent=thing) if lit else thing
        count = max(1, int(length / 3.2))
        step = length / count
        for k in range(count):
            patch(k * step + 0.25, (k + 1) * step - 0.25, 0.5, 2.35, Surface((70, 84, 94), wall.heat + 22, glow), owner)
            if scale > 10 and not dark:
                patch(k * step + 0.25, (k + 1) * step - 0.25, 1.5, 2.35, Surface((120, 142, 160), wall.heat + 12))
        sign = stage.canvas.thing("shop sign", parent=0)
        patch(0.1, length - 0.1, 2.45, 3.05, Surface(tone, wall.heat + 1), sign)
        if scale > 8:
            # Letters as strokes: readable as writing in the visible image, not there in the infrared one.
            u = length * 0.12
            while u < length * 0.86:
                w = rng.uniform(0.12, 0.3)
                pale = Surface((240, 234, 214), wall.heat + 1, (200, 190, 150) if lit else BLACK)
                patch(u, u + 0.08, 2.58, 2.92, pale, sign)
                y = rng.choice([2.58, 2.72, 2.85])
                patch(u, u + w, y, y + 0.08, pale, sign)
                if rng.random() < 0.5:
                    patch(u + w - 0.08, u + w, 2.58, 2.92, pale, sign)
                u += w + (0.14 if rng.random() < 0.8 else 0.5)
        # An awning's striped front edge.
        if scale > 6:
            stripes = max(4, int(length / 0.5))
            for k in range(stripes):
                white = k % 2 == 0
                patch(
                    k * length / stripes,
                    (k + 1) * length / stripes,
                    2.2,
                    2.45,
                    Surface((236, 232, 224) if white else tone, wall.heat + 6),
                )

    def _roof(self, stage: Stage, thing: int, heat: float) -> None:
        canvas, camera = stage.canvas, stage.camera
        x0, x1, z0, z1, h = self.x0, self.x1, self.z0, self.z1, self.height
        plane = camera.facing(max(z0, 2.0))
        sun = stage.weather.sun_heat * 0.6
        over = 0.35
        roof = Surface(self.roof_colour, heat - 22 + sun, rough=0.16)
        if self.flat:
            x = x0 - 0.1 if x0 > 0 else x1 + 0.1
            for quad in (
                [
                    (x0 - 0.1, h, z0 - 0.1),
                    (x1 + 0.1, h, z0 - 0.1),
                    (x1 + 0.1, h + 0.4, z0 - 0.1),
                    (x0 - 0.1, h + 0.4, z0 - 0.1),
                ],
                [(x, h, z0), (x, h, z1), (x, h + 0.4, z1), (x, h + 0.4, z0)],
            ):
                canvas.fill_world(quad, Surface(self.colour, heat - 6, rough=0.05).tinted(0.8), thing, plane)
            return
        top = h + self.rise
        if self.ridge_along_z:
            middle = (x0 + x1) / 2
            slopes = []
            for edge, side in ((x0 - over, "left"), (x1 + over, "right")):
                # A slope is seen from above its plane only; the eye is at X = 0.
                plane_at_eye = h - 0.15 + (top - h + 0.15) * (0 - edge) / (middle - edge)
                if camera.eye > plane_at_eye:
                    eaves, ridge = h - 0.15, top
                    slopes.append(
                        (
                            [
                                (edge, eaves, z0 - over),
                                (edge, eaves, z1 + over),
                                (middle, ridge, z1 + over),
                                (middle, ridge, z0 - over),
                            ],
                            side,
                        )
                    )
        else:
            middle, eaves = (z0 + z1) / 2, h - 0.15
            slopes = [
                (
                    [
                        (x0 - over, eaves, z0 - over),
                        (x1 + over, eaves, z0 - over),
                        (x1 + over, top, middle),
                        (x0 - over, top, middle),
                    ],
                    "near",
                )
            ]
        if self.rng.random() < 0.7:
            self._chimney(stage, thing, heat, top)
        for quad, side in slopes:
            tone, warm = self._sun_on(stage, side)
            surface = Surface(roof.colour, roof.heat + warm * 0.6, rough=roof.rough).tinted(tone)
            canvas.fill_world(quad, surface, thing, plane)
            a, b, c, d = (np.array(p) for p in quad)
            if camera.scale(max(z0, 3.0)) > 16:
                for t in np.linspace(0.08, 0.95, 9):
                    left, right = a + (d - a) * t, b + (c - b) * t
                    canvas.fill_world(
                        [left, right, right + (c - b) * 0.02, left + (d - a) * 0.02], surface.tinted(0.82), thing, plane
                    )
            canvas.fill_world(
                [a, b, b - [0, 0.14, 0], a - [0, 0.14, 0]], Surface((206, 200, 190), heat - 4).tinted(0.8), thing, plane
            )

    def _gables(self, stage: Stage, thing: int, heat: float) -> None:
        """The triangle of wall under the roof's end, where it faces the camera."""
        canvas, camera, h = stage.canvas, stage.camera, self.height
        top = h + self.rise
        if self.ridge_along_z:
            if self.z0 <= 1:
                return
            middle = (self.x0 + self.x1) / 2
            points = [(self.x0, h - 0.01, self.z0), (self.x1, h - 0.01, self.z0), (middle, top, self.z0)]
            side, plane = "near", camera.facing(self.z0)
        else:
            middle = (self.z0 + self.z1) / 2
            x = self.x0 if self.x0 > 0.05 else self.x1 if self.x1 < -0.05 else None
            if x is None:
                return
            points = [(x, h - 0.01, self.z0), (x, h - 0.01, self.z1), (x, top, middle)]
            side, plane = ("left" if x > 0 else "right"), camera.side(x)
        tone, warm = self._sun_on(stage, side)
        canvas.fill_world(points, Surface(self.colour, heat + warm, rough=0.07).tinted(tone * 0.97), thing, plane)
        a, b, c = (np.array(p) for p in points)
        for end in (a, b):
            out = (end - (a + b) / 2) * 0.06
            board = [
                end + out - [0, 0.1, 0],
                c + np.array([0, 0.12, 0]),
                c - [0, 0.16, 0],
                end + out * 0.2 - [0, 0.1, 0],
            ]
            canvas.fill_world(board, Surface(self.roof_colour, heat - 14).tinted(tone * 0.8), thing, plane)

    def _chimney(self, stage: Stage, thing: int, heat: float, top: float) -> None:
        z = self.z0 + (self.z1 - self.z0) * 0.45
        x = self.x0 + (self.x1 - self.x0) * self.rng.uniform(0.4, 0.65)
        plane = stage.camera.facing(max(z, 2.0))
        hot = 40.0 if self.rng.random() < 0.5 else 4.0
        for low, high, wide, tone in ((top - 1.2, top + 0.7, 0.35, 0.9), (top + 0.7, top + 0.82, 0.42, 0.7)):
            quad = [(x - wide, low, z), (x + wide, low, z), (x + wide, high, z), (x - wide, high, z)]
            stage.canvas.fill_world(quad, Surface((142, 78, 62), heat + hot, rough=0.08).tinted(tone), thing, plane)
