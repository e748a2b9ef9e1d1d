"""People, cyclists and dogs: warm bodies, articulated from tapered limbs."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from tools.scenes.canvas import Colour, Points, Surface, circle, limb
from tools.scenes.stage import Stage

SKIN: tuple[Colour, ...] = ((236, 196, 168), (224, 172, 138), (190, 134, 98), (138, 92, 64), (94, 62, 46))
HAIR: tuple[Colour, ...] = ((38, 28, 24), (72, 48, 32), (120, 84, 48), (190, 160, 104), (130, 126, 122), (24, 22, 24))
CLOTHES: tuple[Colour, ...] = (
    (40, 48, 66), (150, 34, 38), (34, 92, 150), (226, 220, 208), (52, 92, 60), (214, 160, 48), (88, 84, 90),
    (30, 30, 34), (120, 76, 128), (196, 98, 50), (120, 150, 176), (160, 140, 112),
)  # fmt: skip
TROUSERS: tuple[Colour, ...] = ((36, 44, 66), (30, 30, 34), (62, 76, 108), (112, 98, 78), (84, 84, 88), (150, 138, 116))
Shapes = list[tuple[Points, str]]  # outline in metres, Nx2, and the part of the body that it shows
HIP = 0.92  # metres
COLOURED_AS = {"arm": "coat", "coat far": "coat", "legs far": "legs", "tyre": "metal"}


def _limbs(part: str, *joints: tuple[float, float, float]) -> Shapes:
    """An arm or a leg through joints (x, y, radius)."""
    return [(limb(*start, *end), part) for start, end in pairwise(joints)]


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...], dim: float) -> Colour:
    r, g, b = colours[int(rng.integers(len(colours)))]
    k = dim * rng.uniform(0.85, 1.12)
    return (min(r * k, 255), min(g * k, 255), min(b * k, 255))


@dataclass
class Person:
    """Stands or walks at (x, z); `facing` is 0 towards or away from the camera, -1 and 1 to the left and right."""

    x: float
    z: float
    facing: int
    rng: np.random.Generator
    dark: bool = False
    riding: bool = False
    shapes: Shapes = field(init=False)  # drawn in this order
    name: str = field(init=False)

    def __post_init__(self) -> None:
        rng = self.rng
        self.name = "cyclist" if self.riding else "person"
        # At night people wear mostly dark clothes here, so that they are hard to see in the visible image.
        dim = 0.55 if self.dark else 1.0
        child = not self.riding and rng.random() < 0.1
        tall = rng.uniform(1.15, 1.4) if child else rng.uniform(1.6, 1.9)
        self.tall = tall
        self.colours = {
            "skin": _pick(rng, SKIN, 1.0),
            "hair": _pick(rng, HAIR, 1.0),
            "coat": _pick(rng, CLOTHES, dim),
            "legs": _pick(rng, TROUSERS, dim),
            "shoes": _pick(rng, ((40, 36, 34), (210, 208, 202), (90, 60, 40)), dim),
            "bag": _pick(rng, CLOTHES, dim * 0.8),
            "metal": (52.0, 54.0, 58.0),
        }
        self.back = bool(rng.random() < 0.5)
        if self.riding:
            self.shapes = self._ride()
        else:
            self.shapes = [(points * (tall / 1.75), part) for points, part in self._walk()]

    def _walk(self) -> Shapes:
        rng = self.rng
        wide = rng.uniform(0.92, 1.15)
        swing = rng.uniform(0.15, 0.42) if rng.random() < 0.8 else 0.03
        long_coat = rng.random() < 0.25
        skirt = rng.random() < 0.15
        below_hip = "coat" if long_coat else "bag" if skirt else None
        return self._sideways(wide, swing, below_hip) if self.facing else self._along(wide, swing, below_hip)

    def _sideways(self, wide: float, swing: float, below_hip: str | None) -> Shapes:
        """A walker seen from the side: the far leg and arm, the body, the near arm, the head."""
        rng, side = self.rng, self.facing
        shapes: Shapes = []
        phase = swing * (1 if rng.random() < 0.5 else -1)
        for k, part in ((-phase, "legs far"), (phase, "legs")):
            knee = (k * 0.42 + side * 0.05, 0.50)
            foot = (k * 0.95, 0.07 if k * side > 0 else 0.10)
            shapes += _limbs(part, (k * 0.05, HIP, 0.105), (*knee, 0.075), (*foot, 0.05))
            shapes.append((limb(foot[0] - side * 0.04, 0.05, 0.05, foot[0] + side * 0.15, 0.04, 0.04), "shoes"))
        elbow = (phase * 0.6 - side * 0.06, 1.13)
        shapes += _limbs("coat far", (0, 1.38, 0.06), (*elbow, 0.05), (phase * 0.9 + side * 0.08, 0.92, 0.04))
        torso = [
            (-0.13, 0.86), (0.13, 0.86), (0.15, 1.15), (0.14, 1.40),
            (0.05, 1.49), (-0.07, 1.48), (-0.15, 1.38), (-0.14, 1.12),
        ]  # fmt: skip
        shapes.append((np.array(torso) * [wide * side, 1], "coat"))
        if below_hip:
            shapes.append((np.array([(-0.14, 1.0), (0.14, 1.0), (0.21, 0.5), (-0.21, 0.5)]), below_hip))
        if rng.random() < 0.3:
            shapes.append((limb(-side * 0.2, 1.3, 0.09, -side * 0.21, 1.08, 0.11), "bag"))
        elbow = (-phase * 0.6 - side * 0.05, 1.12)
        hand = (-phase * 0.85 + side * 0.1, 0.90)
        shapes += _limbs("arm", (-0.01, 1.38, 0.068), (*elbow, 0.055), (*hand, 0.045))
        return [
            *shapes,
            (circle(*hand, 0.05, 0.06, 8), "skin"),
            (limb(side * 0.02, 1.46, 0.055, side * 0.03, 1.56, 0.055), "skin"),
            (circle(side * 0.035, 1.64, 0.095, 0.125), "skin"),
            (limb(-side * 0.02, 1.70, 0.085, -side * 0.05, 1.62, 0.075), "hair"),
        ]

    def _along(self, wide: float, swing: float, below_hip: str | None) -> Shapes:
        """A walker seen from the front or the back: legs, arms, body, head."""
        rng = self.rng
        shapes: Shapes = []
        lift = swing * 0.3 * (1 if rng.random() < 0.5 else -1)
        for k in (-1, 1):
            raised = max(0.0, k * lift)
            knee = (k * 0.10 * wide, 0.50 + raised * 0.3)
            foot = (k * 0.11 * wide, 0.06 + raised)
            part = "legs" if k > 0 else "legs far"
            shapes += _limbs(part, (k * 0.09 * wide, HIP, 0.105), (*knee, 0.078), (*foot, 0.052))
            shapes.append((circle(foot[0] + k * 0.015, 0.045 + raised, 0.068, 0.045, 10), "shoes"))
        for k in (-1, 1):
            elbow = (k * 0.27 * wide, 1.13)
            hand = (k * (0.27 + 0.03 * rng.random()) * wide, 0.88 + 0.06 * rng.random())
            part = "arm" if k > 0 else "coat far"
            shapes += _limbs(part, (k * 0.21 * wide, 1.38, 0.068), (*elbow, 0.055), (*hand, 0.045))
            shapes.append((circle(*hand, 0.048, 0.06, 8), "skin"))
        torso = [
            (-0.17, 0.86), (0.17, 0.86), (0.175, 1.1), (0.225, 1.38), (0.17, 1.46),
            (0.06, 1.50), (-0.06, 1.50), (-0.17, 1.46), (-0.225, 1.38), (-0.175, 1.1),
        ]  # fmt: skip
        shapes.append((np.array(torso) * [wide, 1], "coat"))
        if below_hip:
            shapes.append((np.array([(-0.175, 1.0), (0.175, 1.0), (0.23, 0.52), (-0.23, 0.52)]), below_hip))
        if self.back and rng.random() < 0.4:
            shapes.append((limb(0, 1.32, 0.14, 0, 1.1, 0.15), "bag"))
        elif not self.back and rng.random() < 0.5:
            shapes.append((np.array([(-0.035, 1.48), (0.035, 1.48), (0.02, 1.2), (-0.02, 1.2)]), "bag"))
        shapes.append((limb(0, 1.46, 0.06, 0, 1.56, 0.06), "skin"))
        shapes.append((circle(0, 1.64, 0.092, 0.122), "hair" if self.back else "skin"))
        if not self.back:
            angle = np.linspace(-0.15, np.pi + 0.15, 9)
            shapes.append((np.stack([0.10 * np.cos(angle), 1.66 + 0.115 * np.sin(angle)], 1), "hair"))
        return shapes

    def _ride(self) -> Shapes:
        """A cyclist from the side: wheels, frame, legs, body, head."""
        side = self.facing or 1
        turn = self.rng.uniform(0, 2 * np.pi)
        shapes: Shapes = []
        for x in (-0.52, 0.52):
            rim = np.concatenate([circle(x, 0.34, 0.34, None, 24), circle(x, 0.34, 0.30, None, 24)[::-1]])
            # One outline that runs around outside and back inside leaves the middle of the wheel open.
            shapes.append((np.concatenate([rim[:24], rim[:1], rim[-1:], rim[24:]]), "tyre"))
        bars = (((-0.52, 0.34), (-0.15, 0.34)), ((-0.15, 0.34), (0.38, 0.86)), ((-0.15, 0.34), (-0.22, 0.92)),
                ((-0.2, 0.82), (0.37, 0.84)), ((0.37, 0.88), (0.52, 0.34)), ((-0.52, 0.34), (-0.2, 0.82)))  # fmt: skip
        for (x0, y0), (x1, y1) in bars:
            shapes.append((limb(side * x0, y0, 0.022, side * x1, y1, 0.022, 3), "metal"))
        for k, part in ((np.pi, "legs far"), (0.0, "legs")):
            foot = (side * (-0.15 + 0.17 * np.cos(turn + k)), 0.34 + 0.17 * np.sin(turn + k))
            knee = (side * 0.18, 0.72 + 0.12 * np.sin(turn + k))
            shapes.append((limb(side * -0.2, 0.98, 0.11, *knee, 0.08), part))
            shapes.append((limb(*knee, 0.075, *foot, 0.05), part))
            shapes.append((limb(*foot, 0.045, foot[0] + side * 0.1, foot[1] - 0.01, 0.035), "shoes"))
        shapes.append((limb(side * -0.2, 1.02, 0.15, side * 0.06, 1.45, 0.13), "coat"))
        shapes += _limbs("arm", (side * 0.08, 1.45, 0.06), (side * 0.26, 1.15, 0.05), (side * 0.40, 0.98, 0.04))
        return [
            *shapes,
            (circle(side * 0.4, 0.97, 0.045, 0.045, 8), "skin"),
            (circle(side * 0.18, 1.66, 0.095, 0.12), "skin"),
            (limb(side * 0.12, 1.73, 0.09, side * 0.2, 1.74, 0.08), "bag"),
        ]

    def shadow(self, stage: Stage) -> None:
        if stage.camera.scale(self.z) * self.tall < 5:
            return
        for points, _ in self.shapes:
            stage.cast_upright(points, self.x, self.z)
        stage.cast_contact(self.x, self.z, 0.6 if self.riding else 0.26, 0.16, 0.6)

    def draw(self, stage: Stage) -> None:
        camera, weather = stage.camera, stage.weather
        if camera.beside(self.x - 0.8, self.x + 0.8, self.z) or camera.scale(self.z) * self.tall < 5:
            return
        thing, upright = stage.canvas.thing(self.name), stage.upright(self.x, self.z)
        lit = 1.0 if weather.sun == 0 else (1.1 if weather.shadow[0] < 0 else 0.95)
        warm = 202.0 + 4 * self.rng.standard_normal()
        heats = {"skin": warm + 36, "hair": warm + 8, "coat": warm - 14, "arm": warm - 18, "coat far": warm - 24,
                 "legs": warm - 22, "legs far": warm - 32, "shoes": warm - 66, "bag": warm - 70,
                 "metal": weather.air_heat + 8, "tyre": weather.air_heat + 18}  # fmt: skip
        fine = upright.scale * self.tall > 40
        for points, part in self.shapes:
            if not fine and part in ("shoes", "metal") and upright.scale < 8:
                continue
            colour = self.colours[COLOURED_AS.get(part, part)]
            tone = {"arm": 0.9, "coat far": 0.68, "legs far": 0.72, "tyre": 0.6}.get(part, 1.0) * lit
            surface = Surface(colour, min(heats[part], 250.0), rough=0.1).tinted(tone)
            flat = upright.to_pixels(points)
            stage.canvas.fill(flat, surface, thing, upright.plane)
            if fine and part in ("coat", "legs", "arm", "skin", "hair"):
                # A narrower, brighter core towards the light makes the body look round.
                middle = flat.mean(0)
                shift = (-0.16 if weather.shadow[0] >= 0 else 0.16) * np.ptp(flat[:, 0])
                core = (flat - middle) * [0.55, 0.86] + middle + [shift, 0]
                inner = Surface(surface.colour, min(surface.heat + 8, 255.0), rough=0.1).tinted(1.17)
                stage.canvas.fill(core, inner, thing, upright.plane)


@dataclass
class Dog:
    """A dog that walks to the left (-1) or the right (1)."""

    x: float
    z: float
    facing: int
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.colour = _pick(self.rng, ((92, 62, 40), (40, 34, 32), (200, 180, 150), (150, 104, 62)), 1.0)
        s, gait = self.facing, self.rng.uniform(0.04, 0.12)
        legs = [(-0.26, -gait), (-0.22, gait), (0.2, -gait), (0.24, gait)]
        self.shapes = [limb(s * x, 0.3, 0.05, s * (x + d), 0.03, 0.03) for x, d in legs]
        self.shapes += [
            limb(-s * 0.25, 0.4, 0.12, s * 0.22, 0.42, 0.14),  # body
            limb(-s * 0.34, 0.44, 0.04, -s * 0.48, 0.58, 0.02),  # tail
            limb(s * 0.28, 0.46, 0.1, s * 0.38, 0.6, 0.09),  # neck
            limb(s * 0.4, 0.6, 0.08, s * 0.52, 0.57, 0.045),  # muzzle
            limb(s * 0.34, 0.66, 0.04, s * 0.31, 0.58, 0.03),  # ear
        ]

    def shadow(self, stage: Stage) -> None:
        for points in self.shapes:
            stage.cast_upright(points, self.x, self.z)
        stage.cast_contact(self.x, self.z, 0.36, 0.12, 0.6)

    def draw(self, stage: Stage) -> None:
        thing, upright = stage.canvas.thing("dog"), stage.upright(self.x, self.z)
        for index, points in enumerate(self.shapes):
            surface = Surface(self.colour, 180.0 if index < 4 else 206.0, rough=0.15).tinted(0.75 if index % 2 else 1.0)
            upright.fill(points, surface, thing)
