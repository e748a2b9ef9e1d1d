"""The learning rate over a run: a linear rise, then a decay by the step or by the score."""

import math
from dataclasses import dataclass

from thfuse_sam.options.training import RunSettings, Schedule

_COSINE_FLOOR = 0.01  # part of the peak learning rate that the cosine decay ends at
_POLYNOMIAL_POWER = 0.9  # exponent of the polynomial decay


def learning_rate(settings: RunSettings, step: int, total_steps: int, plateau_scale: float = 1.0) -> float:
    """The learning rate of the step that follows `step` of `total_steps` steps; `plateau_scale`: `Plateau.scale`."""
    peak = settings.lr * (plateau_scale if settings.schedule == "plateau" else 1.0)
    warmup_steps = min(settings.warmup_steps, total_steps)
    if step < warmup_steps:
        return peak * ((step + 1) / warmup_steps)
    return peak * decay(settings.schedule, min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0))


def decay(schedule: Schedule, done: float) -> float:
    """Factor on the learning rate where `done` of the steps after the warm-up are taken, 0 to 1.

    "cosine": half a cosine down to a hundredth, as in SGDR, Loshchilov and Hutter, ICLR 2017, without restarts.
    "polynomial": (1 - done) ** 0.9, the "poly" decay of DeepLab, Chen et al., TPAMI 2018.
    """
    if schedule == "cosine":
        return _COSINE_FLOOR + (1 - _COSINE_FLOOR) * 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "polynomial":
        return float((1 - done) ** _POLYNOMIAL_POWER)
    return 1.0


@dataclass
class Plateau:
    """Lowers the learning rate when a score has stopped falling, as torch's ReduceLROnPlateau in mode "min" does."""

    factor: float = 0.1  # by which the learning rate is multiplied each time
    patience: int = 3  # scores in a row that may be no better
    threshold: float = 1e-4  # relative; a score must be lower by this to be better
    scale: float = 1.0  # factor on the learning rate so far
    best: float = math.inf
    bad_epochs: int = 0  # scores since the best one, or since the scale was lowered

    def update(self, score: float) -> None:
        """Take in another score; lower is better."""
        if score < self.best * (1 - self.threshold):
            self.best, self.bad_epochs = score, 0
            return
        self.bad_epochs += 1
        if self.bad_epochs > self.patience:
            self.scale, self.bad_epochs = self.scale * self.factor, 0
