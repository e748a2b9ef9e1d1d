"""A street that runs away from the camera, with houses, trees and lamps along both sides."""

from dataclasses import dataclass

import numpy as np

from tools.scenes.buildings import House
from tools.scenes.canvas import Surface
from tools.scenes.furniture import Bin, Sign, StreetLamp, TrafficLight, Tree
from tools.scenes.ground import FARTHEST, NEAREST, band, ground_surfaces
from tools.scenes.layout import draw_storeys, spread_out
from tools.scenes.people import Dog, Person
from tools.scenes.stage import Actor, Lamp, Stage
from tools.scenes.vehicles import Car


@dataclass(frozen=True)
class _Street:
    """The parts of a street, metres."""

    middle: float  # middle of the road, to the right of the camera
    lane: float  # width of each of two lanes
    parking: float  # width of the strip on either side, 0 for none
    sidewalk: float  # width
    verge: float  # width of the grass behind the sidewalk

    @property
    def left(self) -> float:
        return self.middle - (self.lane + self.parking)

    @property
    def right(self) -> float:
        return self.middle + (self.lane + self.parking)


@dataclass(frozen=True)
class _Side:
    """One side of the street. Positions are metres to the right of the camera."""

    sign: int  # -1 is the left side, 1 the right side
    kerb: float
    edge: float  # edge of the sidewalk towards the houses

    @property
    def furniture(self) -> float:
        """Where lamps, signs and trees stand, near the kerb."""
        return self.kerb + self.sign * 0.5


def along_street(stage: Stage) -> list[Actor]:
    """Paint the street's ground; returns what stands on it."""
    rng, weather = stage.rng, stage.weather
    ground = ground_surfaces(stage)
    street = _draw_street(rng)
    road = _paint_ground(stage, street, ground)
    _paint_wear(stage, street, ground, road)
    _paint_markings(stage, street, ground["paint"])
    crossing = rng.uniform(7, 20) if rng.random() < 0.4 else None  # metres away
    if crossing:
        _paint_crosswalk(stage, street, crossing, ground["paint"])

    actors: list[Actor] = []
    left, right = street.left, street.right
    for side in (_Side(-1, left, left - street.sidewalk), _Side(1, right, right + street.sidewalk)):
        actors += _buildings(rng, side, street.verge)
        actors += _kerbside(rng, side, crossing)
        if street.parking:
            actors += _parked_cars(rng, street, side, crossing)
        actors += _pedestrians(stage, side)
    actors += _traffic(stage, street)
    actors += _people_on_the_road(stage, street, crossing)
    if weather.dark and rng.random() < 0.35 and left < 0 < right:
        stage.lamps.append(Lamp((0.0, 0.7, 0.5), (26.0, 25.0, 21.0), (0.0, 1.0)))
    return spread_out(actors)


def _draw_street(rng: np.random.Generator) -> _Street:
    lane = 3.2 if rng.random() < 0.6 else 3.6
    parking = 2.2 if rng.random() < 0.6 else 0.0
    sidewalk = rng.uniform(2.0, 3.4)
    # The camera stands on the road, or on a sidewalk.
    on_road, on_sidewalk = rng.uniform(-2.2, 2.2), rng.choice([-1, 1]) * (lane + parking + sidewalk * 0.4)
    middle = float(rng.choice([on_road, on_sidewalk], p=[0.75, 0.25]))
    return _Street(middle, lane, parking, sidewalk, verge=rng.uniform(0.0, 3.0))


def _paint_ground(stage: Stage, street: _Street, ground: dict[str, Surface]) -> int:
    """Lawns or plots, both sidewalks with their seams, the road and its kerbs; returns the road's number."""
    left, right = street.left, street.right
    yard = stage.canvas.thing("grass", background=True)
    band(stage, -400, 400, NEAREST, FARTHEST, ground["grass"] if street.verge > 0.8 else ground["plot"], yard)
    for x0, x1 in ((left - street.sidewalk, left), (right, right + street.sidewalk)):
        sidewalk = stage.canvas.thing("sidewalk", background=True)
        band(stage, x0, x1, NEAREST, FARTHEST, ground["pavement"], sidewalk)
        for z in np.arange(2.0, 16.0, 1.2) if stage.camera.width >= 200 else ():
            band(stage, x0, x1, z, z + 0.03, ground["seam"], sidewalk)
    road = stage.canvas.thing("road", background=True)
    band(stage, left, right, NEAREST, FARTHEST, ground["asphalt"], road)
    for x in (left, right):
        kerb = stage.canvas.thing("kerb", background=True)
        band(stage, x - 0.12, x + 0.12, NEAREST, FARTHEST, ground["kerb"], kerb)
    return road


def _paint_wear(stage: Stage, street: _Street, ground: dict[str, Surface], road: int) -> None:
    """Patches of newer asphalt, and tyre tracks."""
    rng = stage.rng
    for _ in range(3):
        x, z = rng.uniform(street.left + 0.5, street.right - 1.5), rng.uniform(3, 25)
        x1, z1 = x + rng.uniform(0.6, 1.6), z + rng.uniform(1, 5)
        band(stage, x, x1, z, z1, ground["asphalt"].tinted(rng.uniform(0.8, 1.1)), road)
    for lane in (street.middle - street.lane / 2, street.middle + street.lane / 2):
        for offset in (-0.8, 0.8):
            x = lane + offset
            band(stage, x - 0.22, x + 0.22, NEAREST, 200, ground["tracks"].tinted(0.93), road)


def _paint_markings(stage: Stage, street: _Street, paint: Surface) -> None:
    """Dashes between the lanes, and lines along the parking strips."""
    canvas, middle = stage.canvas, street.middle
    z = stage.rng.uniform(1.5, 4.0)
    while z < 70:
        band(stage, middle - 0.07, middle + 0.07, z, z + 3, paint, canvas.thing("lane marking"))
        z += 7.5
    if street.parking:
        for x in (middle - street.lane, middle + street.lane):
            band(stage, x - 0.06, x + 0.06, NEAREST, 150, paint, canvas.thing("lane marking"))


def _paint_crosswalk(stage: Stage, street: _Street, z: float, paint: Surface) -> None:
    x = street.left + 0.3
    while x < street.right - 0.4:
        band(stage, x, x + 0.5, z, z + 3.2, paint, stage.canvas.thing("crosswalk"))
        x += 1.0


def _buildings(rng: np.random.Generator, side: _Side, verge: float) -> list[Actor]:
    """Houses, gaps with trees between them, and bushes in front."""
    actors: list[Actor] = []
    z = rng.uniform(1.0, 9.0)
    setback = verge + rng.uniform(0.2, 3.5)
    built = rng.uniform(0.5, 1.0)
    while z < 95.0:
        length, deep = rng.uniform(8, 15), rng.uniform(8, 12)
        if rng.random() < built:
            x0 = side.edge + setback if side.sign > 0 else side.edge - setback - deep
            front = "left" if side.sign > 0 else "right"
            actors.append(House(x0, x0 + deep, z, z + length, draw_storeys(rng), front, rng))
        elif rng.random() < 0.8:
            for _ in range(int(rng.integers(1, 4))):
                x, away = side.edge + side.sign * rng.uniform(3.5, 10), max(z, 7.0) + rng.uniform(0, length)
                actors.append(Tree(x, away, rng.uniform(5, 10), rng))
        if rng.random() < 0.5 and setback > 1.4:
            x = side.edge + side.sign * setback * 0.5
            for along in np.arange(0.5, length, 2.2)[:2]:
                actors.append(Tree(x, max(z, 6.0) + along, rng.uniform(0.8, 1.4), rng))
        z += length + rng.uniform(0.5, 6)
    return actors


def _kerbside(rng: np.random.Generator, side: _Side, crossing: float | None) -> list[Actor]:
    """Trees and lamps in a row, a sign, a bin and a traffic light."""
    actors: list[Actor] = []
    row, sign = side.furniture, side.sign
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
    return actors


def _parked_cars(rng: np.random.Generator, street: _Street, side: _Side, crossing: float | None) -> list[Actor]:
    actors: list[Actor] = []
    x = street.middle + side.sign * (street.lane + street.parking / 2)
    z = rng.uniform(5, 12)
    while z < 45:
        if rng.random() < 0.62 and not (crossing and abs(z - crossing - 1.6) < 5):
            actors.append(Car(x, z, 0.0 if side.sign > 0 else np.pi, rng, driving=False))
        z += rng.uniform(5.6, 7.5)
    return actors


def _pedestrians(stage: Stage, side: _Side) -> list[Actor]:
    """People on the sidewalk, more of them near the camera than an even spread would give, and at times a dog."""
    rng, dark = stage.rng, stage.weather.dark
    actors: list[Actor] = []
    low, high = sorted((side.edge, side.kerb + side.sign * 0.4))
    for _ in range(int(rng.integers(1, 6))):
        z = float(rng.uniform(4.5, 9) if rng.random() < 0.35 else rng.uniform(8, 40))
        x = rng.uniform(low, high)
        actors.append(Person(x, z, int(rng.choice([-1, 0, 0, 0, 1])), rng, dark=dark))
        if rng.random() < 0.3:
            actors.append(Person(x + 0.6, z + 0.2, 0, rng, dark=dark))
    if rng.random() < 0.2:
        actors.append(Dog(side.kerb + side.sign * 0.9, rng.uniform(5, 12), int(rng.choice([-1, 1])), rng))
    return actors


def _traffic(stage: Stage, street: _Street) -> list[Actor]:
    """Cars in both lanes; traffic keeps right."""
    rng, weather = stage.rng, stage.weather
    actors: list[Actor] = []
    if weather.dark and weather.condition == "glare":
        # A car with high beams that comes towards the camera.
        actors.append(Car(street.middle - street.lane / 2, rng.uniform(11, 22), np.pi, rng, lights=True))
    lights = weather.dark or weather.condition == "fog"
    for sign, heading in ((1, 0.0), (-1, np.pi)):
        z = rng.uniform(6, 22)
        while z < 62:
            if rng.random() < 0.6:
                x = street.middle + sign * street.lane / 2
                actors.append(Car(x, z, heading + rng.normal(0, 0.02), rng, lights=lights))
            z += rng.uniform(9, 28)
    return actors


def _people_on_the_road(stage: Stage, street: _Street, crossing: float | None) -> list[Actor]:
    """People on the crosswalk, and at times a cyclist."""
    rng, dark = stage.rng, stage.weather.dark
    actors: list[Actor] = []
    if crossing:
        for _ in range(int(rng.integers(0, 3))):
            x, z = rng.uniform(street.left, street.right), crossing + rng.uniform(0.5, 2.8)
            actors.append(Person(x, z, int(rng.choice([-1, 1])), rng, dark=dark))
    if rng.random() < 0.35:
        x, z = street.middle + rng.choice([-1, 1]) * (street.lane - 0.5), rng.uniform(7, 22)
        actors.append(Person(x, z, int(rng.choice([-1, 1])), rng, dark=dark, riding=True))
    return actors
