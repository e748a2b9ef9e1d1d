"""How `vit_nano` is trained."""

from dataclasses import dataclass


@dataclass(frozen=True)
class NanoTrainingConfig:
    """The options of a training of `vit_nano`."""

    minutes: float = 60.0  # wall-clock time; the learning rate follows it
    batch_size: int = 8  # images a step
    prompts: int = 10  # prompts an image; 0 trains the image encoder alone, by the auxiliary head
    crop_size: int = 256  # side of the training crops in pixels; the model's image size trains on whole images
    crop_height: int = 0  # their height in pixels; 0: as `crop_size`. A lower one spares wide images the padding
    whole: float = 0.5  # fraction of the scenes and photos that are shown whole, as the model sees them in use
    lr: float = 1e-3  # peak learning rate
    final_lr_ratio: float = 0.02  # learning rate at the end over the peak's
    weight_decay: float = 0.05
    shares: tuple[float, float, float] = (0.10, 0.55, 0.35)  # of shapes, scenes and photos; 0 for a kind that lacks
    entropy_weight: float = 1.0  # of the cross entropy in the mask loss, beside the Dice loss
    affinity_weight: float = 1.0  # of the auxiliary loss on neighbouring pixels
    identity_weight: float = 1.0  # of the auxiliary loss on any two pixels
    queries: int = 64  # pixels an image that the identity loss compares with all others
    ema_decay: float = 0.999  # of the averaged weights, which are the ones that are saved
    bf16: bool = False  # mixed precision; fast where the CPU has instructions for it
    workers: int = 1  # processes that draw and crop images
    seed: int = 0
