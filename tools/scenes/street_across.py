"""A street that runs across the view, with a row of houses that face the camera."""

from dataclasses import dataclass

import numpy as np

from tools.scenes.buildings import House
from tools.scenes.canvas import Camera, Surface
from tools.scenes.furniture import Bin, Sign, StreetLamp, Tree
from tools.scenes.ground import FARTHEST, NEAREST, band, ground_surfaces
from tools.scenes.layout import draw_storeys, spread_out
from tools.scenes.people import Dog, Person
from tools.scenes.stage import Actor, Stage
from tools.scenes.vehicles import Car


@dataclass(frozen=True)
class _Street:
    """Distances of the parts of a street from the camera, metres."""

    near: float  # kerb on the camera's side
    far: float  # the other kerb
    sidewalk: float  # width of a sidewalk
    houses: float  # front of the houses

    def lane(self, fraction: float) -> float:
        """Distance of the line at `fraction` of the road's width, counted from the near kerb."""
        return self.near + (self.far - self.near) * fraction

    def half_view(self, camera: Camera) -> float:
        """Metres to either side of the middle within which cars are seen."""
        return camera.width / camera.focal * self.near * 0.7


LANES = (0.27, 0.73)  # middles of both lanes, as fractions of the road's width


def across_street(stage: Stage) -> list[Actor]:
    """Paint the street's ground; returns what stands on it."""
    rng = stage.rng
    ground = ground_surfaces(stage)
    near = rng.uniform(5.0, 7.0)
    far = near + rng.uniform(6.4, 8.0)
    sidewalk = rng.uniform(2.2, 3.5)
    street = _Street(near, far, sidewalk, far + sidewalk + rng.uniform(0.3, 5.0))
    _paint_ground(stage, street, ground)
    _paint_markings(stage, street, ground["paint"])
    actors = _buildings(stage, street) + _furniture(rng, street) + _traffic(stage, street) + _people(stage, street)
    return spread_out(actors)


def _paint_ground(stage: Stage, street: _Street, ground: dict[str, Surface]) -> None:
    """Lawn, both sidewalks with their seams, the road with kerbs and tyre tracks."""
    canvas, near, far = stage.canvas, street.near, street.far
    band(stage, -FARTHEST, FARTHEST, NEAREST, FARTHEST, ground["grass"], canvas.thing("grass", background=True))
    for z0, z1 in ((NEAREST, near), (far, far + street.sidewalk)):
        sidewalk = canvas.thing("sidewalk", background=True)
        band(stage, -400, 400, z0, z1, ground["pavement"], sidewalk)
        for x in np.arange(-14.0, 14.0, 1.2) if stage.camera.width >= 200 else ():
            band(stage, x, x + 0.025, z0, z1, ground["seam"], sidewalk)
    road = canvas.thing("road", background=True)
    band(stage, -400, 400, near, far, ground["asphalt"], road)
    for z in (near, far):
        band(stage, -400, 400, z - 0.12, z + 0.12, ground["kerb"], canvas.thing("kerb", background=True))
    for lane in LANES:
        for offset in (-0.75, 0.75):
            z = street.lane(lane) + offset
            band(stage, -200, 200, z - 0.2, z + 0.2, ground["tracks"].tinted(0.94), road)


def _paint_markings(stage: Stage, street: _Street, paint: Surface) -> None:
    """Dashes between the lanes, and at times a crosswalk."""
    rng, canvas = stage.rng, stage.canvas
    middle = (street.near + street.far) / 2
    for x in np.arange(-40 + rng.uniform(0, 4), 40, 6.5):
        band(stage, x, x + 3, middle - 0.06, middle + 0.06, paint, canvas.thing("lane marking"))
    if rng.random() < 0.3:
        x = rng.uniform(-3, 1)
        for z in np.arange(street.near + 0.4, street.far - 0.5, 1.0):
            band(stage, x, x + 3.0, z, z + 0.5, paint, canvas.thing("crosswalk"))


def _buildings(stage: Stage, street: _Street) -> list[Actor]:
    """Houses, gaps with trees between them, bushes in front, and trees along the sidewalk."""
    rng, camera, houses = stage.rng, stage.camera, street.houses
    actors: list[Actor] = []
    reach = camera.width / camera.focal * houses * 0.62 + 6
    x = -reach - rng.uniform(0, 8)
    built = rng.uniform(0.55, 1.0)
    while x < reach:
        length = rng.uniform(7, 14)
        if rng.random() < built:
            storeys, deep = draw_storeys(rng), rng.uniform(8, 12)
            actors.append(House(x, x + length, houses, houses + deep, storeys, "near", rng))
        else:
            for _ in range(int(rng.integers(1, 4))):
                actors.append(Tree(x + rng.uniform(0, length), houses + rng.uniform(0.5, 8), rng.uniform(5, 10), rng))
        if houses - street.far - street.sidewalk > 1.5 and rng.random() < 0.6:
            for k in range(int(rng.integers(1, 4))):
                actors.append(Tree(x + 1.2 + 1.8 * k, houses - 0.8, rng.uniform(0.7, 1.3), rng))
        x += length + (rng.uniform(1, 7) if rng.random() < 0.5 else 0.0)
    for x in np.arange(-reach + rng.uniform(0, 5), reach, rng.uniform(8, 16)):
        if rng.random() < 0.6:
            actors.append(Tree(x, street.far + 0.6, rng.uniform(4, 6.5), rng))
    return actors


def _furniture(rng: np.random.Generator, street: _Street) -> list[Actor]:
    """Lamps along the far kerb, a sign and a bin."""
    far = street.far
    first = rng.uniform(0, 12)
    actors: list[Actor] = [
        StreetLamp(x, far + 0.45, rng.choice([-1.5, 1.5]), rng) for x in np.arange(-20 + first, 21, 14)
    ]
    if rng.random() < 0.5:
        actors.append(Sign(rng.uniform(-5, 5), far + 0.5, rng))
    if rng.random() < 0.4:
        actors.append(Bin(rng.uniform(-6, 6), far + street.sidewalk * 0.8, rng))
    return actors


def _traffic(stage: Stage, street: _Street) -> list[Actor]:
    """Cars in both lanes; traffic keeps right."""
    rng, weather, span = stage.rng, stage.weather, street.half_view(stage.camera)
    lights = weather.dark or weather.condition == "fog"
    actors: list[Actor] = []
    for lane, heading in zip(LANES, (np.pi / 2, -np.pi / 2), strict=True):
        x = -span - rng.uniform(0, 8)
        while x < span + 6:
            if rng.random() < 0.55:
                actors.append(Car(x, street.lane(lane), heading, rng, lights=lights))
            x += rng.uniform(6.5, 14)
    return actors


def _people(stage: Stage, street: _Street) -> list[Actor]:
    """People on both sidewalks, at times a cyclist and a dog."""
    rng, dark, span = stage.rng, stage.weather.dark, street.half_view(stage.camera)
    near, far = street.near, street.far
    actors: list[Actor] = []
    for _ in range(int(rng.integers(2, 7))):
        z, x = rng.uniform(far + 0.4, far + street.sidewalk - 0.2), rng.uniform(-span * 1.6, span * 1.6)
        actors.append(Person(x, z, int(rng.choice([-1, 1, 1, -1, 0])), rng, dark=dark))
    for _ in range(int(rng.integers(0, 3))):
        z, x = rng.uniform(near - 1.4, near - 0.4), rng.uniform(-span * 0.6, span * 0.6)
        actors.append(Person(x, z, int(rng.choice([-1, 0, 1])), rng, dark=dark))
    if rng.random() < 0.35:
        facing = int(rng.choice([-1, 1]))
        z = near + 0.6 if facing > 0 else far - 0.6
        actors.append(Person(rng.uniform(-span, span), z, facing, rng, dark=dark, riding=True))
    if rng.random() < 0.25:
        actors.append(Dog(rng.uniform(-4, 4), far + street.sidewalk * 0.5, int(rng.choice([-1, 1])), rng))
    return actors
