"""How `vit_nano` is trained: the options of `python -m tools.vit_nano`."""

from dataclasses import dataclass
from pathlib import Path

from thfuse_sam.options.fields import option, redefault
from thfuse_sam.options.shared import DeviceOptions
from thfuse_sam.options.training import RunSettings
from thfuse_sam.sam.nano import IMAGE_SIZE


@dataclass(frozen=True, kw_only=True)
class NanoSettings(RunSettings, group="training"):
    """How a run trains `vit_nano`; a sample is a crop of an image with some of its regions."""

    batch_size: int = redefault(RunSettings, "batch_size", 8)
    warmup_steps: int = redefault(RunSettings, "warmup_steps", 100)
    weight_decay: float = redefault(RunSettings, "weight_decay", 0.05)
    ema_decay: float = redefault(RunSettings, "ema_decay", 0.999)
    num_workers: int | None = redefault(RunSettings, "num_workers", 1, default_text=None)
    epoch_images: int = option(1000, "images per epoch; after each epoch the weights are saved", low=1)
    prompts: int = option(
        10,
        "prompts per image, two fifths of them boxes; 0 trains the image encoder alone, by the auxiliary head",
        low=0,
    )
    crop_size: int = option(256, "width of the crops, pixels; the model's image size trains on whole images", low=16)
    crop_height: int | None = option(
        None,
        "height of the crops, pixels; a smaller height avoids padding in wide images",
        low=16,
        default_text="`crop_size`",
    )
    whole: float = option(0.5, "fraction of the scenes and photos that are shown whole, as in use", low=0, high=1)
    shares: tuple[float, float, float, float] = option(
        (0.05, 0.40, 0.25, 0.30),
        "proportions of shapes, scenes, photos and labelled photos among the images; a missing kind is left out",
        low=0,
    )
    pasted: float = option(0.3, "fraction of the images into which people are pasted", low=0, high=1)
    entropy_weight: float = option(1.0, "weight of the cross entropy in the mask loss, beside the Dice loss", low=0)
    box_weight: float = option(0.5, "weight of the prompts that are boxes, beside those that are points", low=0)
    former_share: float = option(0.15, "share of the weights `former` in the mixture", low=0, high=1)
    affinity_weight: float = option(1.0, "weight of the auxiliary loss on neighbouring pixels", low=0)
    identity_weight: float = option(1.0, "weight of the auxiliary loss on any two pixels", low=0)
    queries: int = option(64, "pixels per image that the identity loss compares with all others", low=1)


@dataclass(frozen=True, kw_only=True)
class NanoOptions(NanoSettings, DeviceOptions, group="images and files"):
    """All options of the command."""

    minutes: float = option(
        60.0, "about how long to train without `epochs` and `max_steps`; some steps are timed first", above=0
    )
    photos: tuple[Path, ...] = option((), "folders of photos, whose regions are targets", metavar="DIR")
    people: tuple[Path, ...] = option(
        (), "folders of photos whose people are labelled, in ../targets or ../PedMasks; drawn equally", metavar="DIR"
    )
    held_out: tuple[str, ...] = option(
        (), "patterns of names in `people` that are left out, to be measured on", metavar="PATTERN"
    )
    regions: Path | None = option(None, "cache of the photos' regions (.joblib), made where missing")
    scenes: int = option(900, "number of rendered scenes", low=0)
    rendered: Path | None = option(None, "cache of the rendered scenes (.joblib), made where missing")
    image_size: int = option(IMAGE_SIZE, "longest side of the model's images, pixels, a multiple of 16", low=16)
    init: Path | None = option(None, "weights to begin with: a .safetensors file, or latest.pth of another training")
    former: Path | None = option(
        None, "a .safetensors file that is mixed into the weights that are saved, so that less is forgotten"
    )
    resume: Path | None = option(None, "latest.pth of this training, to go on from")
    output_dir: Path = option(Path("runs/vit_nano"), "folder for vit_nano.safetensors, latest.pth and train_log.csv")
    threads: int = option(2, "number of threads that PyTorch uses", low=1)
