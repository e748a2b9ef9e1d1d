"""What both layouts of a street, along the view and across it, have in common."""

import numpy as np

from tools.scenes.buildings import House
from tools.scenes.furniture import StreetLamp, Tree
from tools.scenes.stage import Actor
from tools.scenes.vehicles import Car


def draw_storeys(rng: np.random.Generator) -> int:
    """Draw the number of storeys of a house."""
    return int(rng.choice([1, 2, 3, 4], p=[0.15, 0.45, 0.28, 0.12]))


def spread_out(actors: list[Actor]) -> list[Actor]:
    """The actors without those that would stand inside a car; of two cars in one place the first stays."""
    cars: list[Car] = []
    kept: list[Actor] = []
    for actor in sorted(actors, key=lambda a: not isinstance(a, Car)):
        if isinstance(actor, (House, Tree, StreetLamp)):
            kept.append(actor)
            continue
        ahead = 2.6 if not isinstance(actor, Car) else 5.4
        aside = 1.25 if not isinstance(actor, Car) else 2.0
        clash = False
        for car in cars:
            sin, cos = abs(np.sin(car.heading)), abs(np.cos(car.heading))
            dx, dz = abs(car.x - actor.x), abs(car.z - actor.z)  # type: ignore[attr-defined]
            clash |= bool(dx < ahead * sin + aside * cos and dz < ahead * cos + aside * sin)
        if not clash:
            kept.append(actor)
            if isinstance(actor, Car):
                cars.append(actor)
    return kept
