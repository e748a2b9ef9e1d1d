"""Houses: boxes in perspective with a roof, windows that may be lit and warm, doors, chimneys and shop fronts."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tools.scenes.canvas import BLACK, NEAR, Camera, Canvas, Colour, Plane, Surface
from tools.scenes.stage import Stage

WALLS: tuple[Colour, ...] = (
    (206, 190, 160), (172, 98, 76), (222, 214, 200), (150, 84, 68), (188, 170, 140), (160, 164, 168), (214, 186, 130),
    (190, 140, 116), (140, 152, 160), (228, 222, 214), (178, 156, 120),
)  # fmt: skip
ROOFS: tuple[Colour, ...] = ((120, 62, 48), (84, 78, 80), (96, 60, 50), (66, 68, 76), (140, 84, 60))
BRICK: Colour = (160, 88, 70)
WINDOW_HEIGHT = 1.45  # metres


@dataclass(frozen=True)
class Wall:
    """A wall to be painted. Coordinates on it are metres along the wall and metres above the ground."""

    canvas: Canvas
    thing: int
    surface: Surface
    name: str  # "left", "right" or "near"
    start: tuple[float, float]  # world (x, z)
    direction: tuple[float, float]  # unit vector (x, z)
    length: float  # metres
    plane: Plane

    @cached_property
    def scale(self) -> float:
        """Pixels per metre at the wall's near end."""
        end = self.start[1] + self.direction[1] * self.length
        return self.canvas.camera.scale(max(1.5, min(self.start[1], end)))

    def fill(self, u0: float, u1: float, y0: float, y1: float, surface: Surface, owner: int | None = None) -> None:
        """Fill the rectangle from `u0` to `u1` along the wall and from `y0` to `y1` above the ground."""
        owner = self.thing if owner is None else owner
        (x, z), (dx, dz) = self.start, self.direction
        xa, za, xb, zb = x + dx * u0, z + dz * u0, x + dx * u1, z + dz * u1
        if za < NEAR or zb < NEAR:
            corners = [(xa, y0, za), (xb, y0, zb), (xb, y1, zb), (xa, y1, za)]
            self.canvas.fill_world(corners, surface, owner, self.plane)
            return
        # A house has a hundred of these rectangles, so projecting them here and leaving early saves time.
        camera = self.canvas.camera
        sa, sb = camera.focal / za, camera.focal / zb
        left, right = camera.centre_x + xa * sa, camera.centre_x + xb * sb
        if max(left, right) < 0 or min(left, right) >= camera.width:
            return
        low, high, horizon = camera.eye - y0, camera.eye - y1, camera.horizon
        bottom = (left, horizon + low * sa), (right, horizon + low * sb)
        top = (right, horizon + high * sb), (left, horizon + high * sa)
        self.canvas.fill((*bottom, *top), surface, owner, self.plane)


@dataclass
class House:
    """A house on x0..x1, z0..z1 (metres); `front` names the wall towards the street: "left", "right" or "near"."""

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
        camera = stage.camera
        facing = ("near", "left" if self.x0 > 0 else "right")
        if self.z1 < 2 or all(self._hidden(camera, wall) for wall in facing):
            return
        thing = stage.canvas.thing("house")
        heat = stage.weather.wall_heat + self.rng.uniform(-14, 14)
        self._roof(stage, thing, heat)
        for wall in self._walls(stage, thing, heat):
            if not self._hidden(camera, wall.name):
                self._paint_wall(stage, wall)
        if not self.flat:
            self._gables(stage, thing, heat)

    def _walls(self, stage: Stage, thing: int, heat: float) -> list[Wall]:
        """The walls that may face the camera."""
        camera, deep = stage.camera, self.z1 - self.z0
        walls: list[tuple[str, tuple[float, float], tuple[float, float], float, Plane]] = []
        if self.x0 > 0.05:
            walls.append(("left", (self.x0, self.z1), (0.0, -1.0), deep, camera.side(self.x0)))
        if self.x1 < -0.05:
            walls.append(("right", (self.x1, self.z0), (0.0, 1.0), deep, camera.side(self.x1)))
        if self.z0 > 1.0:
            walls.append(("near", (self.x0, self.z0), (1.0, 0.0), self.x1 - self.x0, camera.facing(self.z0)))
        painted = []
        for name, start, direction, length, plane in walls:
            tone, warm = self._sun_on(stage, name)
            surface = Surface(self.colour, heat + warm, rough=0.07).tinted(tone)
            painted.append(Wall(stage.canvas, thing, surface, name, start, direction, length, plane))
        return painted

    def _hidden(self, camera: Camera, wall: str) -> bool:
        """Whether a wall is beside the image."""
        if wall == "near":
            return self.z0 <= 1 or camera.beside(self.x0, self.x1, self.z0)
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

    # ------------------------------------------------------------------------------------------------------- walls

    def _paint_wall(self, stage: Stage, wall: Wall) -> None:
        rng, length = self.rng, wall.length
        wall.fill(0, length, 0, self.height, wall.surface)
        if wall.scale < 5:
            return
        self._bands(wall)
        is_front = wall.name == self.front
        wide = 1.15 if not self.flat else 1.5
        count = max(1, int(length / (wide + (1.3 if is_front else 2.4))))
        step = length / count
        door = int(rng.integers(count)) if is_front else -1
        for storey in range(self.storeys):
            if storey == 0 and is_front and self.shop:
                self._shop(stage, wall)
                continue
            for column in range(count):
                middle = (column + 0.5) * step
                if storey == 0 and column == door:
                    self._door(wall, middle)
                elif is_front or rng.random() >= 0.3:
                    self._window(stage, wall, middle, storey * self.storey + 0.95, wide)

    def _bands(self, wall: Wall) -> None:
        """Plinth, courses of bricks, eaves and the lines between storeys."""
        surface, length = wall.surface, wall.length
        wall.fill(0, length, 0, 0.45, Surface((110, 106, 100), surface.heat + 4, rough=0.1).tinted(0.9))
        if self.brick and wall.scale > 22:
            course = 0.32
            for row in range(2, int(self.height / course)):
                wall.fill(0, length, row * course, row * course + 0.035, surface.tinted(0.88))
        wall.fill(0, length, self.height - 0.25, self.height, surface.tinted(0.75))
        if wall.scale > 12:
            for storey in range(1, self.storeys):
                foot = storey * self.storey
                wall.fill(0, length, foot + 0.12, foot + 0.26, surface.tinted(1.1))

    def _window(self, stage: Stage, wall: Wall, middle: float, sill: float, wide: float) -> None:
        weather, rng, scale = stage.weather, self.rng, wall.scale
        lit = weather.dark and rng.random() < 0.38
        # Warmth leaks through panes: more if somebody is at home, little by day, when the sky is mirrored.
        leak = rng.uniform(34, 62) if lit else rng.uniform(10, 34) if weather.dark else rng.uniform(-22, 20)
        if lit:
            k = rng.uniform(0.55, 1.0)
            glow: Colour = (250 * k, rng.uniform(186, 216) * k, rng.uniform(104, 150) * k)
            pane = Surface((70, 62, 50), weather.wall_heat + leak, glow)
            owner = stage.canvas.thing("window", parent=wall.thing)
        else:
            pane, owner = Surface((62, 76, 90), weather.wall_heat + leak), wall.thing
        left, right, top = middle - wide / 2, middle + wide / 2, sill + WINDOW_HEIGHT
        frame = Surface((232, 230, 224), wall.surface.heat + 12)
        if scale > 9:
            wall.fill(left - 0.1, right + 0.1, sill - 0.1, top + 0.1, frame.tinted(0.95))
        if scale > 14:
            wall.fill(left - 0.18, right + 0.18, sill - 0.18, sill - 0.08, wall.surface.tinted(1.25))
        wall.fill(left, right, sill, top, pane, owner)
        if scale > 9:
            self._curtains(stage, wall, middle, sill, wide, pane, owner)
        if scale > 12:
            wall.fill(middle - 0.035, middle + 0.035, sill, top, frame)
            bar = sill + WINDOW_HEIGHT * 0.62
            wall.fill(left, right, bar, bar + 0.06, frame)

    def _curtains(
        self, stage: Stage, wall: Wall, middle: float, sill: float, wide: float, pane: Surface, owner: int
    ) -> None:
        """Paint what is seen in a pane: curtains, and by day the sky."""
        left, right, top = middle - wide / 2, middle + wide / 2, sill + WINDOW_HEIGHT
        if pane.glow != BLACK:
            r, g, b = pane.glow
            cloth, fraction = Surface(pane.colour, pane.heat - 6, (r * 0.6, g * 0.5, b * 0.4)), 0.2
        else:
            drawn = self.rng.random() < 0.4
            if not stage.weather.dark:
                wall.fill(left, right, sill + WINDOW_HEIGHT * 0.55, top, Surface((128, 152, 176), pane.heat - 8))
            if not drawn:
                return
            cloth, fraction = Surface((196, 190, 178), pane.heat + 4).tinted(0.8), 0.22
        hidden = wide * fraction  # metres of the pane that the curtain at each side covers
        wall.fill(left, left + hidden, sill, top, cloth, owner)
        wall.fill(right - hidden, right, sill, top, cloth, owner)

    def _door(self, wall: Wall, middle: float) -> None:
        tones: tuple[Colour, ...] = ((92, 44, 34), (36, 66, 54), (40, 52, 84), (120, 86, 52), (70, 70, 72))
        heat = wall.surface.heat
        leaf = Surface(tones[int(self.rng.integers(len(tones)))], heat + 16)
        wall.fill(middle - 0.62, middle + 0.62, 0, 2.35, Surface((222, 218, 208), heat + 8).tinted(0.9))
        wall.fill(middle - 0.5, middle + 0.5, 0.08, 2.2, leaf)
        if wall.scale > 10:
            wall.fill(middle - 0.34, middle + 0.34, 1.35, 2.0, Surface((80, 96, 108), heat + 26))
            wall.fill(middle - 0.34, middle + 0.34, 0.3, 1.1, leaf.tinted(0.8))
        wall.fill(middle - 0.8, middle + 0.8, 0, 0.14, Surface((160, 158, 150), heat + 2))

    def _shop(self, stage: Stage, wall: Wall) -> None:
        """Paint a ground floor of large panes, a sign with writing and the striped front edge of an awning."""
        rng, dark, heat, length = self.rng, stage.weather.dark, wall.surface.heat, wall.length
        tones: tuple[Colour, ...] = ((150, 30, 34), (30, 84, 60), (32, 54, 110), (196, 140, 40), (60, 60, 64))
        tone = tones[int(rng.integers(len(tones)))]
        lit = dark and rng.random() < 0.6
        owner = stage.canvas.thing("shop window", parent=wall.thing) if lit else wall.thing
        pane = Surface((70, 84, 94), heat + 22, (236, 214, 170) if lit else BLACK)
        count = max(1, int(length / 3.2))
        step = length / count
        for k in range(count):
            left, right = k * step + 0.25, (k + 1) * step - 0.25
            wall.fill(left, right, 0.5, 2.35, pane, owner)
            if wall.scale > 10 and not dark:
                wall.fill(left, right, 1.5, 2.35, Surface((120, 142, 160), heat + 12))
        sign = stage.canvas.thing("shop sign", parent=0)
        wall.fill(0.1, length - 0.1, 2.45, 3.05, Surface(tone, heat + 1), sign)
        if wall.scale > 8:
            self._writing(wall, sign, lit)
        if wall.scale > 6:
            stripes = max(4, int(length / 0.5))
            for k in range(stripes):
                colour: Colour = (236, 232, 224) if k % 2 == 0 else tone
                wall.fill(k * length / stripes, (k + 1) * length / stripes, 2.2, 2.45, Surface(colour, heat + 6))

    def _writing(self, wall: Wall, sign: int, lit: bool) -> None:
        """Paint strokes that look like letters in the visible image and cannot be seen in the infrared one."""
        rng, length = self.rng, wall.length
        pale = Surface((240, 234, 214), wall.surface.heat + 1, (200, 190, 150) if lit else BLACK)
        left = length * 0.12
        while left < length * 0.86:
            width = rng.uniform(0.12, 0.3)
            wall.fill(left, left + 0.08, 2.58, 2.92, pale, sign)
            y = rng.choice([2.58, 2.72, 2.85])
            wall.fill(left, left + width, y, y + 0.08, pale, sign)
            if rng.random() < 0.5:
                wall.fill(left + width - 0.08, left + width, 2.58, 2.92, pale, sign)
            left += width + (0.14 if rng.random() < 0.8 else 0.5)

    # -------------------------------------------------------------------------------------------------------- roof

    def _roof(self, stage: Stage, thing: int, heat: float) -> None:
        if self.flat:
            self._parapet(stage, thing, heat)
            return
        camera = stage.camera
        plane = camera.facing(max(self.z0, 2.0))
        roof = Surface(self.roof_colour, heat - 22 + stage.weather.sun_heat * 0.6, rough=0.16)
        slopes = self._slopes(camera)
        if self.rng.random() < 0.7:
            self._chimney(stage, thing, heat)
        for corners, side in slopes:
            tone, warm = self._sun_on(stage, side)
            surface = Surface(roof.colour, roof.heat + warm * 0.6, rough=roof.rough).tinted(tone)
            stage.canvas.fill_world(corners, surface, thing, plane)
            a, b, c, d = (np.array(corner) for corner in corners)
            for t in np.linspace(0.08, 0.95, 9) if camera.scale(max(self.z0, 3.0)) > 16 else ():
                left, right = a + (d - a) * t, b + (c - b) * t
                course = [left, right, right + (c - b) * 0.02, left + (d - a) * 0.02]
                stage.canvas.fill_world(course, surface.tinted(0.82), thing, plane)
            gutter = Surface((206, 200, 190), heat - 4).tinted(0.8)
            stage.canvas.fill_world([a, b, b - [0, 0.14, 0], a - [0, 0.14, 0]], gutter, thing, plane)

    def _parapet(self, stage: Stage, thing: int, heat: float) -> None:
        """The edge of a flat roof, at the front and at the side towards the street."""
        x0, x1, z0, z1, h = self.x0, self.x1, self.z0, self.z1, self.height
        plane = stage.camera.facing(max(z0, 2.0))
        surface = Surface(self.colour, heat - 6, rough=0.05).tinted(0.8)
        left, right, near = x0 - 0.1, x1 + 0.1, z0 - 0.1
        x = left if x0 > 0 else right
        front = [(left, h, near), (right, h, near), (right, h + 0.4, near), (left, h + 0.4, near)]
        side = [(x, h, z0), (x, h, z1), (x, h + 0.4, z1), (x, h + 0.4, z0)]
        for corners in (front, side):
            stage.canvas.fill_world(corners, surface, thing, plane)

    def _slopes(self, camera: Camera) -> list[tuple[list[tuple[float, float, float]], str]]:
        """The corners of the slopes that the camera sees, two at the eaves and two at the ridge, and their sides."""
        over, eaves, ridge = 0.35, self.height - 0.15, self.height + self.rise
        left, right, near, far = self.x0 - over, self.x1 + over, self.z0 - over, self.z1 + over
        if not self.ridge_along_z:
            middle = (self.z0 + self.z1) / 2
            near_slope = [(left, eaves, near), (right, eaves, near), (right, ridge, middle), (left, ridge, middle)]
            return [(near_slope, "near")]
        middle = (self.x0 + self.x1) / 2
        slopes = []
        for edge, side in ((left, "left"), (right, "right")):
            # A slope is seen from above its plane only; the eye is at X = 0.
            plane_at_eye = eaves + (ridge - self.height + 0.15) * (0 - edge) / (middle - edge)
            if camera.eye > plane_at_eye:
                corners = [(edge, eaves, near), (edge, eaves, far), (middle, ridge, far), (middle, ridge, near)]
                slopes.append((corners, side))
        return slopes

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

    def _chimney(self, stage: Stage, thing: int, heat: float) -> None:
        top = self.height + self.rise
        z = self.z0 + (self.z1 - self.z0) * 0.45
        x = self.x0 + (self.x1 - self.x0) * self.rng.uniform(0.4, 0.65)
        plane = stage.camera.facing(max(z, 2.0))
        hot = 40.0 if self.rng.random() < 0.5 else 4.0
        for low, high, wide, tone in ((top - 1.2, top + 0.7, 0.35, 0.9), (top + 0.7, top + 0.82, 0.42, 0.7)):
            quad = [(x - wide, low, z), (x + wide, low, z), (x + wide, high, z), (x - wide, high, z)]
            stage.canvas.fill_world(quad, Surface((142, 78, 62), heat + hot, rough=0.08).tinted(tone), thing, plane)
