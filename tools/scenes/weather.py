"""Light, air and temperatures of a scene."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tools.scenes.canvas import Colour

Condition = Literal["day", "night", "fog", "glare"]
CONDITIONS: tuple[Condition, ...] = ("day", "night", "fog", "glare")


@dataclass(frozen=True)
class Weather:
    """Light is linear (1 = full daylight on white), colours of sky and air are RGB in [0, 255] as displayed."""

    condition: Condition
    dark: bool  # lamps and windows are lit, there is no daylight
    light: Colour  # linear light on everything
    sun: float  # 0 = no shadows, 1 = hard ones
    shadow: tuple[float, float]  # metres that a shadow runs along X and Z per metre of height
    sky_top: Colour
    sky_bottom: Colour
    clouds: float  # 0 to 1
    air: Colour  # colour of mist
    haze: float  # per metre; 0.03 hides what is further than 100 m
    exposure: float
    noise: float  # deviation of the visible sensor's noise, grey values
    air_heat: float  # grey values of the infrared image from here on
    ground_heat: float
    wall_heat: float
    sky_heat: float
    sun_heat: float  # how much the sun adds to what faces it


def make_weather(rng: np.random.Generator, condition: Condition) -> Weather:
    """Draw the weather of one scene."""
    u = rng.uniform
    side = 1.0 if rng.random() < 0.5 else -1.0
    if condition == "night":
        return Weather(
            condition, True, (0.010, 0.012, 0.020), 0.0, (0.0, 0.0), (8, 10, 22), (30, 30, 44), u(0, 0.6),
            (26, 27, 36), u(0.0005, 0.003), u(1.0, 1.5), u(2.5, 5.0), u(62, 78), u(84, 104), u(88, 108), u(14, 30), 0.0,
        )  # fmt: skip
    if condition == "fog":
        dark = rng.random() < 0.25
        if dark:
            return Weather(
                condition, True, (0.016, 0.018, 0.024), 0.0, (0.0, 0.0), (40, 42, 48), (56, 56, 60), 0.0,
                (66, 66, 70), u(0.018, 0.035), u(1.0, 1.3), u(2.5, 4.5), u(70, 84), u(86, 104), u(92, 108),
                u(52, 64), 0.0,
            )  # fmt: skip
        grey = u(168, 206)
        return Weather(
            condition, False, (0.62, 0.65, 0.68), 0.0, (0.0, 0.0), (grey, grey + 2, grey + 6),
            (grey, grey + 2, grey + 4),
            0.0, (grey, grey + 2, grey + 5), u(0.022, 0.05), u(1.0, 1.2), u(1.2, 2.4), u(74, 88), u(90, 106),
            u(96, 112),
            u(56, 70), 0.0,
        )  # fmt: skip
    if condition == "glare":
        if rng.random() < 0.3:
            return replace(make_weather(rng, "night"), condition="glare")
        return Weather(
            condition, False, (0.80, 0.66, 0.50), 0.9, (u(-0.5, 0.5), -u(1.6, 2.4)), (112, 142, 186), (255, 224, 170),
            u(0.1, 0.6), (250, 214, 160), u(0.003, 0.006), u(0.95, 1.15), u(1.5, 3.0), u(80, 96),
            u(104, 124), u(102, 120),
            u(24, 44), 22.0,
        )  # fmt: skip
    overcast = rng.random() < 0.25
    if overcast:
        return Weather(
            condition, False, (0.70, 0.73, 0.78), 0.15, (0.1 * side, 0.1), (150, 160, 174), (208, 212, 216),
            u(0.6, 1.0),
            (196, 202, 210), u(0.001, 0.003), u(1.05, 1.25), u(1.2, 2.4), u(80, 94), u(98, 116), u(100, 116),
            u(40, 60), 4.0,
        )  # fmt: skip
    return Weather(
        condition, False, (1.0, 0.96, 0.88), u(0.75, 1.0), (side * u(0.4, 1.3), u(-0.5, 0.7)), (62, 116, 190),
        (186, 212, 232), u(0.1, 0.75), (196, 212, 228), u(0.0005, 0.002), u(1.15, 1.35), u(1.0, 2.2), u(84, 100),
        u(112, 136), u(108, 128), u(20, 42), 26.0,
    )  # fmt: skip
