"""Light, air and temperatures of a scene."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from tools.scenes.canvas import Colour

Condition = Literal["day", "night", "fog", "glare"]
CONDITIONS: tuple[Condition, ...] = ("day", "night", "fog", "glare")


@dataclass(frozen=True)
class Weather:
    """Light, air and temperatures of a scene.

    Light is linear (1 = full daylight on white); colours of sky and air are RGB in [0, 255] as displayed; heat is a
    grey value of the infrared image, [0, 255].
    """

    condition: Condition
    dark: bool  # lamps and windows are lit, there is no daylight
    light: Colour  # linear light of sun and sky
    sun: float  # 0 = no shadows, 1 = hard ones
    shadow: tuple[float, float]  # metres that a shadow runs along X and Z per metre of height
    sky_top: Colour
    sky_bottom: Colour
    clouds: float  # 0 to 1
    air: Colour  # colour of mist
    haze: float  # extinction per metre; 0.03 hides what is farther away than 100 m
    exposure: float  # factor on the light that reaches the visible camera
    noise: float  # standard deviation of the visible camera's noise, grey values
    air_heat: float
    ground_heat: float
    wall_heat: float
    sky_heat: float
    sun_heat: float  # heat that the sun adds to surfaces that face it


def make_weather(rng: np.random.Generator, condition: Condition) -> Weather:
    """Draw the weather of one scene."""
    side = 1.0 if rng.random() < 0.5 else -1.0  # where the sun stands
    if condition == "night":
        return _night(rng)
    if condition == "fog":
        return _dark_fog(rng) if rng.random() < 0.25 else _fog(rng)
    if condition == "glare":
        return _blinding_lamps(rng) if rng.random() < 0.3 else _low_sun(rng)
    return _overcast(rng, side) if rng.random() < 0.25 else _sunny(rng, side)


# Values are drawn in the order of the fields: a change of order changes the scenes.


def _night(rng: np.random.Generator) -> Weather:
    return Weather(
        condition="night", dark=True, light=(0.010, 0.012, 0.020), sun=0.0, shadow=(0.0, 0.0),
        sky_top=(8, 10, 22), sky_bottom=(30, 30, 44), clouds=rng.uniform(0, 0.6),
        air=(26, 27, 36), haze=rng.uniform(0.0005, 0.003),
        exposure=rng.uniform(1.0, 1.5), noise=rng.uniform(2.5, 5.0),
        air_heat=rng.uniform(62, 78), ground_heat=rng.uniform(84, 104), wall_heat=rng.uniform(88, 108),
        sky_heat=rng.uniform(14, 30), sun_heat=0.0,
    )  # fmt: skip


def _dark_fog(rng: np.random.Generator) -> Weather:
    return Weather(
        condition="fog", dark=True, light=(0.016, 0.018, 0.024), sun=0.0, shadow=(0.0, 0.0),
        sky_top=(40, 42, 48), sky_bottom=(56, 56, 60), clouds=0.0,
        air=(66, 66, 70), haze=rng.uniform(0.018, 0.035),
        exposure=rng.uniform(1.0, 1.3), noise=rng.uniform(2.5, 4.5),
        air_heat=rng.uniform(70, 84), ground_heat=rng.uniform(86, 104), wall_heat=rng.uniform(92, 108),
        sky_heat=rng.uniform(52, 64), sun_heat=0.0,
    )  # fmt: skip


def _fog(rng: np.random.Generator) -> Weather:
    grey = rng.uniform(168, 206)
    return Weather(
        condition="fog", dark=False, light=(0.62, 0.65, 0.68), sun=0.0, shadow=(0.0, 0.0),
        sky_top=(grey, grey + 2, grey + 6), sky_bottom=(grey, grey + 2, grey + 4), clouds=0.0,
        air=(grey, grey + 2, grey + 5), haze=rng.uniform(0.022, 0.05),
        exposure=rng.uniform(1.0, 1.2), noise=rng.uniform(1.2, 2.4),
        air_heat=rng.uniform(74, 88), ground_heat=rng.uniform(90, 106), wall_heat=rng.uniform(96, 112),
        sky_heat=rng.uniform(56, 70), sun_heat=0.0,
    )  # fmt: skip


def _blinding_lamps(rng: np.random.Generator) -> Weather:
    """A night in which a car shines into the camera."""
    return replace(make_weather(rng, "night"), condition="glare")


def _low_sun(rng: np.random.Generator) -> Weather:
    return Weather(
        condition="glare", dark=False, light=(0.80, 0.66, 0.50), sun=0.9,
        shadow=(rng.uniform(-0.5, 0.5), -rng.uniform(1.6, 2.4)),
        sky_top=(112, 142, 186), sky_bottom=(255, 224, 170), clouds=rng.uniform(0.1, 0.6),
        air=(250, 214, 160), haze=rng.uniform(0.003, 0.006),
        exposure=rng.uniform(0.95, 1.15), noise=rng.uniform(1.5, 3.0),
        air_heat=rng.uniform(80, 96), ground_heat=rng.uniform(104, 124), wall_heat=rng.uniform(102, 120),
        sky_heat=rng.uniform(24, 44), sun_heat=22.0,
    )  # fmt: skip


def _overcast(rng: np.random.Generator, side: float) -> Weather:
    return Weather(
        condition="day", dark=False, light=(0.70, 0.73, 0.78), sun=0.15, shadow=(0.1 * side, 0.1),
        sky_top=(150, 160, 174), sky_bottom=(208, 212, 216), clouds=rng.uniform(0.6, 1.0),
        air=(196, 202, 210), haze=rng.uniform(0.001, 0.003),
        exposure=rng.uniform(1.05, 1.25), noise=rng.uniform(1.2, 2.4),
        air_heat=rng.uniform(80, 94), ground_heat=rng.uniform(98, 116), wall_heat=rng.uniform(100, 116),
        sky_heat=rng.uniform(40, 60), sun_heat=4.0,
    )  # fmt: skip


def _sunny(rng: np.random.Generator, side: float) -> Weather:
    return Weather(
        condition="day", dark=False, light=(1.0, 0.96, 0.88), sun=rng.uniform(0.75, 1.0),
        shadow=(side * rng.uniform(0.4, 1.3), rng.uniform(-0.5, 0.7)),
        sky_top=(62, 116, 190), sky_bottom=(186, 212, 232), clouds=rng.uniform(0.1, 0.75),
        air=(196, 212, 228), haze=rng.uniform(0.0005, 0.002),
        exposure=rng.uniform(1.15, 1.35), noise=rng.uniform(1.0, 2.2),
        air_heat=rng.uniform(84, 100), ground_heat=rng.uniform(112, 136), wall_heat=rng.uniform(108, 128),
        sky_heat=rng.uniform(20, 42), sun_heat=26.0,
    )  # fmt: skip
