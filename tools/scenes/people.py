"""People, cyclists and dogs: warm bodies, articulated from tapered limbs."""

from dataclasses import dataclass, field

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
    shapes: list[tuple[Points, str]] = field(init=False)
    name: str = field(init=False)

    def __post_init__(self) -> None:
        rng = self.rng
        self.name = "cyclist" if self.riding else "person"
        # People out at night mostly wear dark clothes; it also keeps them as hard to see as they are.
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
        self.shapes = self._ride() if self.riding else self._walk()
        k = tall / 1.75
        if not self.riding:
            self.shapes = [(points * k, what) for points, what in self.shapes]

    def _walk(self) -> list[tuple[Points, str]]:
        rng, side = self.rng, self.facing
        wide = rng.uniform(0.92, 1.15)
        swing = rng.uniform(0.15, 0.42) if rng.random() < 0.8 else 0.03
        coat_long = rng.random() < 0.25
        skirt = rng.random() < 0.15
        out: list[tuple[Points, str]] = []
        hip = 0.92
        if side:
            phase = swing * (1 if rng.random() < 0.5 else -1)
            for k, tone in ((-phase, "legs far"), (phase, "legs")):
                knee = (k * 0.42 + side * 0.05, 0.50)
                foot = (k * 0.95, 0.07 if k * side > 0 else 0.10)
                out.append((limb(k * 0.05, hip, 0.105, *knee, 0.075), tone))
                out.append((limb(*knee, 0.075, *foot, 0.05), tone))
                out.append((limb(foot[0] - side * 0.04, 0.05, 0.05, foot[0] + side * 0.15, 0.04, 0.04), "shoes"))
            elbow = (phase * 0.6 - side * 0.06, 1.13)
            out.append((limb(0, 1.38, 0.06, *elbow, 0.05), "coat far"))
            out.append((limb(*elbow, 0.05, phase * 0.9 + side * 0.08, 0.92, 0.04), "coat far"))
            torso = [
                (-0.13, 0.86), (0.13, 0.86), (0.15, 1.15), (0.14, 1.40),
                (0.05, 1.49), (-0.07, 1.48), (-0.15, 1.38), (-0.14, 1.12),
            ]  # fmt: skip
            out.append((np.array(torso) * [wide * side, 1], "coat"))
            if coat_long or skirt:
                out.append(
                    (np.array([(-0.14, 1.0), (0.14, 1.0), (0.21, 0.5), (-0.21, 0.5)]), "coat" if coat_long else "bag")
                )
            if rng.random() < 0.3:
                out.append((limb(-side * 0.2, 1.3, 0.09, -side * 0.21, 1.08, 0.11), "bag"))
            elbow = (-phase * 0.6 - side * 0.05, 1.12)
            hand = (-phase * 0.85 + side * 0.1, 0.90)
            out.append((limb(-0.01, 1.38, 0.068, *elbow, 0.055), "arm"))
            out.append((limb(*elbow, 0.055, *hand, 0.045), "arm"))
            out.append((circle(*hand, 0.05, 0.06, 8), "skin"))
            out.append((limb(side * 0.02, 1.46, 0.055, side * 0.03, 1.56, 0.055), "skin"))
            out.append((circle(side * 0.035, 1.64, 0.095, 0.125), "skin"))
            out.append((limb(-side * 0.02, 1.70, 0.085, -side * 0.05, 1.62, 0.075), "hair"))
        else:
            lift = swing * 0.3 * (1 if rng.random() < 0.5 else -1)
            for k in (-1, 1):
                raised = max(0.0, k * lift)
                knee = (k * 0.10 * wide, 0.50 + raised * 0.3)
                foot = (k * 0.11 * wide, 0.06 + raised)
                out.append((limb(k * 0.09 * wide, hip, 0.105, *knee, 0.078), "legs" if k > 0 else "legs far"))
                out.append((limb(*knee, 0.078, *foot, 0.052), "legs" if k > 0 else "legs far"))
                out.append((circle(foot[0] + k * 0.015, 0.045 + raised, 0.068, 0.045, 10), "shoes"))
            for k in (-1, 1):
                elbow = (k * 0.27 * wide, 1.13)
                hand = (k * (0.27 + 0.03 * rng.random()) * wide, 0.88 + 0.06 * rng.random())
                out.append((limb(k * 0.21 * wide, 1.38, 0.068, *elbow, 0.055), "arm" if k > 0 else "coat far"))
                out.append((limb(*elbow, 0.055, *hand, 0.045), "arm" if k > 0 else "coat far"))
                out.append((circle(*hand, 0.048, 0.06, 8), "skin"))
            torso = [
                (-0.17, 0.86), (0.17, 0.86), (0.175, 1.1), (0.225, 1.38), (0.17, 1.46),
                (0.06, 1.50), (-0.06, 1.50), (-0.17, 1.46), (-0.225, 1.38), (-0.175, 1.1),
            ]  # fmt: skip
            out.append((np.array(torso) * [wide, 1], "coat"))
            if coat_long or skirt:
                out.append(
                    (
                        np.array([(-0.175, 1.0), (0.175, 1.0), (0.23, 0.52), (-0.23, 0.52)]),
                        "coat" if coat_long else "bag",
                    )
                )
            if self.back and rng.random() < 0.4:
                out.append((limb(0, 1.32, 0.14, 0, 1.1, 0.15), "bag"))
            elif not self.back and rng.random() < 0.5:
                out.append((np.array([(-0.035, 1.48), (0.035, 1.48), (0.02, 1.2), (-0.02, 1.2)]), "bag"))
            out.append((limb(0, 1.46, 0.06, 0, 1.56, 0.06), "skin"))
            out.append((circle(0, 1.64, 0.092, 0.122), "hair" if self.back else "skin"))
            if not self.back:
                angle = np.linspace(-0.15, np.pi + 0.15, 9)
                cap = np.stack([0.10 * np.cos(angle), 1.66 + 0.115 * np.sin(angle)], 1)
                out.append((cap, "hair"))
        return out

    def _ride(self) -> list[tuple[Points, str]]:
        side = self.facing or 1
        turn = self.rng.uniform(0, 2 * np.pi)
        out: list[tuple[Points, str]] = []
        for cx in (-0.52, 0.52):
            rim = np.concatenate([circle(cx, 0.34, 0.34, None, 24), circle(cx, 0.34, 0.30, None, 24)[::-1]])
            # One outline that runs round and back leaves the middle of the wheel open.
            rim = np.concatenate([rim[:24], rim[:1], rim[-1:], rim[24:]])
            out.append((rim, "tyre"))
        bars = (((-0.52, 0.34), (-0.15, 0.34)), ((-0.15, 0.34), (0.38, 0.86)), ((-0.15, 0.34), (-0.22, 0.92)),
                ((-0.2, 0.82), (0.37, 0.84)), ((0.37, 0.88), (0.52, 0.34)), ((-0.52, 0.34), (-0.2, 0.82)))  # fmt: skip
        for (x0, y0), (x1, y1) in bars:
            out.append((limb(side * x0, y0, 0.022, side * x1, y1, 0.022, 3), "metal"))
        for k, tone in ((np.pi, "legs far"), (0.0, "legs")):
            foot = (side * (-0.15 + 0.17 * np.cos(turn + k)), 0.34 + 0.17 * np.sin(turn + k))
            knee = (side * 0.18, 0.72 + 0.12 * np.sin(turn + k))
            out.append((limb(side * -0.2, 0.98, 0.11, *knee, 0.08), tone))
            out.append((limb(*knee, 0.075, *foot, 0.05), tone))
            out.append((limb(*foot, 0.045, foot[0] + side * 0.1, foot[1] - 0.01, 0.035), "shoes"))
        out.append((limb(side * -0.2, 1.02, 0.15, side * 0.06, 1.45, 0.13), "coat"))
        out.append((limb(side * 0.08, 1.45, 0.06, side * 0.26, 1.15, 0.05), "arm"))
        out.append((limb(side * 0.26, 1.15, 0.05, side * 0.40, 0.98, 0.04), "arm"))
        out.append((circle(side * 0.4, 0.97, 0.045, 0.045, 8), "skin"))
        out.append((circle(side * 0.18, 1.66, 0.095, 0.12), "skin"))
        out.append((limb(side * 0.12, 1.73, 0.09, side * 0.2, 1.74, 0.08), "bag"))
        return out

    def shadow(self, stage: Stage) -> None:
        if stage.camera.scale(self.z) * self.tall < 5:
            return
        for points, _ in self.shapes:
            stage.cast_upright(points, self.x, self.z)
        wide = 0.6 if self.riding else 0.26
        foot = circle(self.x, self.z, wide, 0.16, 12)
        stage.cast(np.stack([foot[:, 0], np.zeros(12), foot[:, 1]], 1), 0.6)

    def draw(self, stage: Stage) -> None:
        camera, weather = stage.camera, stage.weather
        if camera.beside(self.x - 0.8, self.x + 0.8, self.z) or camera.scale(self.z) * self.tall < 5:
            return
        thing = stage.canvas.thing(self.name)
        plane = camera.facing(self.z)
        scale = camera.scale(self.z)
        origin = camera.project([(self.x, 0, self.z)])[0]
        lit = 1.0 if weather.sun == 0 else (1.1 if weather.shadow[0] < 0 else 0.95)
        warm = 202.0 + 4 * self.rng.standard_normal()
        heats = {"skin": warm + 36, "hair": warm + 8, "coat": warm - 14, "arm": warm - 18, "coat far": warm - 24,
                 "legs": warm - 22, "legs far": warm - 32, "shoes": warm - 66, "bag": warm - 70,
                 "metal": weather.air_heat + 8, "tyre": weather.air_heat + 18}  # fmt: skip
        fine = scale * self.tall > 40
        for points, what in self.shapes:
            if not fine and what in ("shoes", "metal") and scale < 8:
                continue
            base = "coat" if what in ("arm", "coat far") else "legs" if what == "legs far" else what
            colour = self.colours["metal" if base == "tyre" else base]
            tone = {"arm": 0.9, "coat far": 0.68, "legs far": 0.72, "tyre": 0.6}.get(what, 1.0) * lit
            surface = Surface(colour, min(heats[what], 250.0), rough=0.1).tinted(tone)
            flat = np.stack([origin[0] + points[:, 0] * scale, origin[1] - points[:, 1] * scale], 1)
            stage.canvas.fill(flat, surface, thing, plane)
            if fine and what in ("coat", "legs", "arm", "skin", "hair"):
                # A narrower, brighter core on the side of the light rounds the body.
                middle = flat.mean(0)
                shift = (-0.16 if weather.shadow[0] >= 0 else 0.16) * np.ptp(flat[:, 0])
                core = (flat - middle) * [0.55, 0.86] + middle + [shift, 0]
                inner = Surface(surface.colour, min(surface.heat + 8, 255.0), rough=0.1).tinted(1.17)
                stage.canvas.fill(core, inner, thing, plane)


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
            limb(-s * 0.25, 0.4, 0.12, s * 0.22, 0.42, 0.14),
            limb(-s * 0.34, 0.44, 0.04, -s * 0.48, 0.58, 0.02),
        ]
        self.shapes += [limb(s * 0.28, 0.46, 0.1, s * 0.38, 0.6, 0.09), limb(s * 0.4, 0.6, 0.08, s * 0.52, 0.57, 0.045)]
        self.shapes += [limb(s * 0.34, 0.66, 0.04, s * 0.31, 0.58, 0.03)]

    def shadow(self, stage: Stage) -> None:
        for points in self.shapes:
            stage.cast_upright(points, self.x, self.z)
        foot = circle(self.x, self.z, 0.36, 0.12, 12)
        stage.cast(np.stack([foot[:, 0], np.zeros(12), foot[:, 1]], 1), 0.6)

    def draw(self, stage: Stage) -> None:
        thing = stage.canvas.thing("dog")
        scale = stage.camera.scale(self.z)
        origin = stage.camera.project([(self.x, 0, self.z)])[0]
        for index, points in enumerate(self.shapes):
            flat = np.stack([origin[0] + points[:, 0] * scale, origin[1] - points[:, 1] * scale], 1)
            surface = Surface(self.colour, 180.0 if index < 4 else 206.0, rough=0.15).tinted(0.75 if index % 2 else 1.0)
            stage.canvas.fill(flat, surface, thing, stage.camera.facing(self.z))
