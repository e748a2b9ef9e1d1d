"""Training `vit_nano` from scratch: textured shapes, rendered street scenes and regions of photos.

Targets are label maps; a prompt is a point inside one label, or a jittered box around it. The mask loss is taken on
the best of three outputs, as in Kirillov et al., "Segment Anything", ICCV 2023.

Two things make the most of a short training. The model may learn on crops of its input square, at the same scale in
pixels: a crop takes the rows and columns of the position tables that belong to its place in the whole. And a light
auxiliary head says of each place on the mask grid whether its neighbours belong to the same region, and of a good many
places which others do; it tells the image encoder much more about an image than a few prompts do, costs next to nothing
and is not shipped.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from thfuse_sam.datasets.prompts import interior_point
from thfuse_sam.sam.assembly import STRIDE
from thfuse_sam.sam.decoder import PointDecoder
from thfuse_sam.sam.nano import EMBED_DIM
from thfuse_sam.sam.postprocess import LOGIT_STRIDE
from thfuse_sam.training.ema import EmaWeights
from tools.scenes import Scene

logger = logging.getLogger(__name__)

MIN_TARGET_AREA = 300  # pixels below which a region is no target
INTERIOR_POINTS = 12  # of an image's points, how many lie farthest from the border; the others lie anywhere inside
PADDING = -1  # label of padded pixels
PHOTO_SCALES = (100, 300, 800)  # Felzenszwalb's `scale`: larger means larger regions
PHOTO_LONGEST_SIDE = 512  # pixels
PHOTO_AREA_POWER = 0.25  # a photo's large regions are worth more than its small ones, which are often noise


@dataclass(frozen=True)
class NanoTrainingConfig:
    """How `vit_nano` is trained."""

    minutes: float = 60.0  # wall-clock time; the learning rate follows it
    batch_size: int = 8  # images a step
    prompts: int = 10  # prompts an image; 0 trains the image encoder alone, by the auxiliary head
    crop_size: int = 256  # side of the training crops in pixels; the model's image size trains on whole images
    crop_height: int = 0  # their height in pixels; 0: as `crop_size`. A lower one spares wide images the padding
    whole: float = 0.5  # share of scenes and photos that are shown whole, as the model sees them in use
    lr: float = 1e-3  # peak learning rate
    final_lr_ratio: float = 0.02  # learning rate at the end over the peak's
    weight_decay: float = 0.05
    shares: tuple[float, float, float] = (0.10, 0.55, 0.35)  # shapes, scenes, photos; of a kind that lacks, 0
    entropy_weight: float = 1.0  # of the cross entropy in the mask loss, beside the Dice loss
    affinity_weight: float = 1.0  # of the auxiliary loss on neighbours
    identity_weight: float = 1.0  # of the auxiliary loss on any two places
    places: int = 64  # an image that the latter asks about
    ema_decay: float = 0.999  # of the averaged weights, which are the ones that are saved
    bf16: bool = False  # mixed precision; fast where the CPU has instructions for it
    workers: int = 1  # processes that render images
    seed: int = 0


# ------------------------------------------------------------------------------------------------ images and targets


def _noise(rng: np.random.Generator, height: int, width: int, cell: int) -> np.ndarray:
    grain = rng.standard_normal((max(2, height // cell), max(2, width // cell), 3), dtype=np.float32)
    return cv2.resize(grain, (width, height), interpolation=cv2.INTER_CUBIC)


def textured_shapes(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping ellipses, polygons and rectangles with textures of their own on a textured ground.

    Returns:
        image: uint8, size x size x 3, RGB.
        labels: int32, size x size; 0 is the ground, which is no target.
    """
    image: np.ndarray = (
        rng.uniform(0, 255, 3).astype(np.float32)
        + _noise(rng, size, size, int(rng.choice([4, 16, 64]))) * rng.uniform(0, 40)
        + _noise(rng, size, size, 2) * rng.uniform(0, 10)
    )
    labels = np.zeros((size, size), np.int32)
    for label in range(1, int(rng.integers(4, 16)) + 1):
        shape = _random_shape(rng, size)
        labels[shape] = label
        texture = rng.uniform(0, 255, 3).astype(np.float32) + _noise(
            rng, size, size, int(rng.choice([3, 8, 32]))
        ) * rng.uniform(0, 35)
        image[shape] = texture[shape]
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5))
    image += rng.standard_normal((size, size, 1), dtype=np.float32) * rng.uniform(0, 8)
    return np.clip(image, 0, 255).astype(np.uint8), labels


def _random_shape(rng: np.random.Generator, size: int) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    centre = rng.integers(0, size, 2)
    radius = rng.choice([0.04, 0.07, 0.12, 0.2, 0.3]) * size * rng.uniform(0.7, 1.3) + 3
    kind = rng.random()
    if kind < 0.35:
        axes = (int(radius), int(radius * rng.uniform(0.3, 1)))
        cv2.ellipse(mask, tuple(map(int, centre)), axes, rng.uniform(0, 180), 0, 360, 1, -1)
    elif kind < 0.7:
        corners = int(rng.integers(3, 9))
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radii = radius * rng.uniform(0.5, 1, corners)
        points = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        cv2.fillPoly(mask, [points.astype(np.int32)], 1)
    else:
        sides = (radius * 2, radius * rng.uniform(0.2, 2))
        box = cv2.boxPoints((tuple(map(float, centre)), sides, rng.uniform(0, 90)))
        cv2.fillPoly(mask, [box.astype(np.int32)], 1)
    return mask.astype(bool)


@dataclass(frozen=True)
class Photo:
    """A photo with its regions at several scales."""

    image: np.ndarray  # uint8, HxWx3, RGB
    regions: np.ndarray  # int16, scales x H x W


def photo_regions(image: np.ndarray) -> Photo:
    """Graph-based segmentation of a photo at `PHOTO_SCALES` (Felzenszwalb and Huttenlocher, IJCV 2004).

    Args:
        image: uint8, HxWx3, RGB; made smaller to `PHOTO_LONGEST_SIDE`.
    """
    # Only this training needs scikit-image (the extra `nano`).
    from skimage.segmentation import felzenszwalb

    ratio = PHOTO_LONGEST_SIDE / max(image.shape[:2])
    if ratio < 1:
        image = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    smooth = cv2.bilateralFilter(image, 7, 30, 5)
    regions = [
        felzenszwalb(smooth, scale=scale, sigma=0.6, min_size=80 + scale // 2).astype(np.int16)
        for scale in PHOTO_SCALES
    ]
    return Photo(image, np.stack(regions))


def _scene(rng: np.random.Generator, scenes: Sequence[Scene], whole: float) -> tuple[np.ndarray, np.ndarray]:
    """A part of a scene in one modality."""
    scene = scenes[int(rng.integers(len(scenes)))]
    if rng.random() < 0.5:
        image, labels = scene.visible, scene.visible_labels
    else:
        image, labels = np.repeat(scene.infrared[..., None], 3, 2), scene.infrared_labels
    crop = _random_crop(rng, image.shape[0], image.shape[1], whole)
    return image[crop], labels[crop].astype(np.int32)


def _random_crop(rng: np.random.Generator, height: int, width: int, whole: float) -> tuple[slice, slice]:
    if rng.random() < whole:
        return np.s_[:height, :width]
    side_y, side_x = (int(rng.integers(int(0.6 * side), side + 1)) for side in (height, width))
    y, x = int(rng.integers(height - side_y + 1)), int(rng.integers(width - side_x + 1))
    return np.s_[y : y + side_y, x : x + side_x]


def _photo(rng: np.random.Generator, photos: Sequence[Photo], whole: float) -> tuple[np.ndarray, np.ndarray]:
    photo = photos[int(rng.integers(len(photos)))]
    regions = photo.regions[int(rng.integers(len(photo.regions)))]
    crop = _random_crop(rng, photo.image.shape[0], photo.image.shape[1], whole)
    return photo.image[crop], regions[crop].astype(np.int32) + 1


def _vary(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Random brightness, contrast, gamma, greyness and inversion (warm things are dark in some infrared cameras)."""
    values: np.ndarray = image.astype(np.float32)
    if rng.random() < 0.35:
        values[:] = values.mean(2, keepdims=True)
        if rng.random() < 0.2:
            values = 255 - values
    values = values * rng.uniform(0.6, 1.4) + rng.uniform(-25, 25)
    if rng.random() < 0.3:
        values = 255 * (np.clip(values, 0, 255) / 255) ** rng.uniform(0.6, 1.6)
    return np.clip(values, 0, 255).astype(np.uint8)


def fit_to_square(image: np.ndarray, labels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Resize the longest side to `size` and mark the padding at the bottom or right, as SAM does."""
    height, width = image.shape[:2]
    ratio = size / max(height, width)
    new_height, new_width = int(height * ratio + 0.5), int(width * ratio + 0.5)
    square = np.zeros((size, size, 3), np.uint8)
    square[:new_height, :new_width] = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA)
    square_labels = np.full((size, size), PADDING, np.int32)
    square_labels[:new_height, :new_width] = cv2.resize(
        labels.astype(np.float32), (new_width, new_height), interpolation=cv2.INTER_NEAREST
    )
    return square, square_labels


def _sample_targets(
    rng: np.random.Generator, labels: np.ndarray, count: int, area_power: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Label ids (count,), points (count, 2) and boxes (count, 4) in pixels, or None where no region is large enough.

    Regions are drawn by their area to the power of `area_power`, none for the second time before each had its turn.
    """
    ids, areas = np.unique(labels[labels > 0], return_counts=True)
    large = areas >= MIN_TARGET_AREA
    if not large.any():
        return None
    ids, weights = ids[large], areas[large] ** area_power
    rounds = [rng.choice(ids, len(ids), replace=False, p=weights / weights.sum()) for _ in range(-(-count // len(ids)))]
    chosen = np.concatenate(rounds)[:count]
    points, boxes = np.empty((count, 2), np.float32), np.empty((count, 4), np.float32)
    for row, label in enumerate(chosen):
        mask = labels == label
        ys, xs = np.nonzero(mask)
        if row < INTERIOR_POINTS:
            points[row] = interior_point(mask)
        else:
            pick = int(rng.integers(len(ys)))
            points[row] = xs[pick] + 0.5, ys[pick] + 0.5
        box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32)
        sides = np.tile(box[2:] - box[:2], 2)
        boxes[row] = box + rng.normal(0, 0.05, 4) * np.minimum(sides, 20)
    return chosen, points, boxes


class TargetStream(IterableDataset):
    """Endless (image 3xHxW uint8, labels HxW, ids, points, boxes, corner) samples, another sequence in each worker.

    H and W are the crop's height and size; `corner` (2,) is its first row and column of patches in the input square.
    """

    def __init__(self, size: int, scenes: Sequence[Scene], photos: Sequence[Photo], config: NanoTrainingConfig) -> None:
        self.size, self.count = size, config.prompts
        self.crop = np.array([config.crop_height or config.crop_size, config.crop_size])
        self.scenes, self.photos, self.whole = scenes, photos, config.whole
        shares = np.array(config.shares) * (1, bool(scenes), bool(photos))
        self.shares, self.seed = shares / shares.sum(), config.seed

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        worker = torch.utils.data.get_worker_info()
        cv2.setNumThreads(1)
        rng = np.random.default_rng([self.seed, worker.id if worker else 0, time.time_ns() % 2**31])
        sources: list[Callable[[], tuple[np.ndarray, np.ndarray]]] = [
            lambda: textured_shapes(rng, self.size),
            lambda: _scene(rng, self.scenes, self.whole),
            lambda: _photo(rng, self.photos, self.whole),
        ]
        while True:
            kind = int(rng.choice(3, p=self.shares))
            image, labels = sources[kind]()
            if rng.random() < 0.5:
                image, labels = image[:, ::-1], labels[:, ::-1]
            square, square_labels = fit_to_square(image, np.ascontiguousarray(labels), self.size)
            corner = self._corner(rng, square_labels)
            window = tuple(
                slice(first * STRIDE, first * STRIDE + side) for first, side in zip(corner, self.crop, strict=True)
            )
            square, square_labels = square[window], np.ascontiguousarray(square_labels[window])
            targets = _sample_targets(rng, square_labels, self.count, PHOTO_AREA_POWER if kind == 2 else 0.0)
            if targets is None:
                continue
            pixels = torch.from_numpy(_vary(rng, square)).permute(2, 0, 1)
            yield pixels, torch.from_numpy(square_labels), *map(torch.from_numpy, targets), torch.from_numpy(corner)

    def _corner(self, rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
        """First row and column of patches of a crop that shows the image, and padding no more often than needed."""
        inside = labels != PADDING
        sides = np.array([inside.any(1).sum(), inside.any(0).sum()])
        # Some crops reach into the padding by up to a quarter, as the model meets padding at the bottom or right.
        reach = sides + (self.crop // 4 if rng.random() < 0.3 else 0)
        last = np.clip(reach - self.crop, 0, self.size - self.crop) // STRIDE
        return rng.integers(0, last + 1)


# ----------------------------------------------------------------------------------------------------- losses


def mask_loss(logits: Tensor, target: Tensor, entropy_weight: float = 1.0) -> Tensor:
    """Cross entropy, inside and outside weighing alike, plus Dice for each mask.

    Without that balance the masks of a new model collapse to nothing. With it small masks come out a little too large,
    which a lower `entropy_weight` mends at the end of a training. SAM's focal loss is left out: a small model
    trained for a short time needs logits that reach past the stability filter's offset.

    Args:
        logits: ...xHxW.
        target: in [0, 1], broadcast against `logits`.

    Returns:
        loss for each mask, shape `...`.
    """
    inside, outside = target.sum((-2, -1), keepdim=True) + 1, (1 - target).sum((-2, -1), keepdim=True) + 1
    weight = 0.5 * (target / inside + (1 - target) / outside)
    entropy = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
    entropy = (entropy * weight).sum((-2, -1))
    probability = logits.sigmoid()
    overlap = (probability * target).sum((-2, -1))
    dice = 1 - (2 * overlap + 1) / (probability.sum((-2, -1)) + target.sum((-2, -1)) + 1)
    return entropy_weight * entropy + dice


def mask_iou(logits: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of `logits > 0` and `target > 0.5`; shape as in `mask_loss`, no gradient."""
    with torch.no_grad():
        predicted, wanted = logits > 0, (target > 0.5).expand_as(logits)
        union = (predicted | wanted).sum((-2, -1)).clamp(min=1)
        return (predicted & wanted).sum((-2, -1)) / union


AFFINITY_STEPS = tuple((dy * d, dx * d) for d in (1, 2, 4, 8, 16) for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)))


class RegionHead(nn.Module):
    """What the image encoder alone knows of regions: of a place's neighbours, and of any two places.

    Two places p and q of the mask grid lie in one region where query(p) . key(q) + bias(p) > 0: what a mask decoder
    does once it has found the embedding under a point prompt. Queries and keys know where they are, as the decoder
    does, so that two things that look alike can be told apart by their places.
    """

    def __init__(self, channels: int = EMBED_DIM, width: int = 32) -> None:
        super().__init__()
        self.width = width
        self.affinities = nn.Conv2d(channels, len(AFFINITY_STEPS) * 16, 1)
        self.identities = nn.Conv2d(channels, (2 * width + 1) * 16, 1)
        self.positions = nn.Conv2d(channels, 2 * width, 1)

    def forward(self, embedding: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding BxCxHxW, encodings of the places BxCx4Hx4W -> affinity logits BxKx4Hx4W, identities BxDx4Hx4W."""
        identities = F.pixel_shuffle(self.identities(embedding), 4)
        placed = identities[:, :-1] + self.positions(positions)
        return F.pixel_shuffle(self.affinities(embedding), 4), torch.cat([placed, identities[:, -1:]], 1)


def _at_logits(labels: Tensor) -> Tensor:
    """Labels BxHxW at the centres of the mask grid's places: BxH/4xW/4."""
    return labels[:, LOGIT_STRIDE // 2 :: LOGIT_STRIDE, LOGIT_STRIDE // 2 :: LOGIT_STRIDE]


def identity_loss(identities: Tensor, labels: Tensor, count: int) -> Tensor:
    """Mask loss of the regions of `count` random places an image, small regions as often as large ones.

    Args:
        identities: BxDxH/4xW/4 of `RegionHead`: queries, keys, a bias.
        labels: BxHxW; 0 and `PADDING` are no region.
    """
    places = _at_logits(labels).flatten(1)
    query, key, bias = identities.flatten(2).split([(identities.shape[1] - 1) // 2] * 2 + [1], 1)
    losses = []
    for index, regions in enumerate(places):
        _, numbers, areas = regions.unique(return_inverse=True, return_counts=True)
        weights = (regions > 0) / areas[numbers]
        if not weights.any():
            continue
        chosen = torch.multinomial(weights, count, replacement=True)
        logits = query[index, :, chosen].T @ key[index] + bias[index, :, chosen].T
        logits = logits.masked_fill(regions == PADDING, -20.0)  # for the loss, outside and known
        same = (regions[chosen, None] == regions[None]).float()
        losses.append(mask_loss(logits[:, None], same[:, None]).mean())
    return torch.stack(losses).mean() if losses else identities.sum() * 0


def affinity_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of same-region logits BxKxH/4xW/4 against labels BxHxW; same and different weigh alike."""
    height, width = logits.shape[-2:]
    places = _at_logits(labels)
    total = logits.new_zeros(())
    for channel, (dy, dx) in enumerate(AFFINITY_STEPS):
        here = (slice(None), slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
        there = (slice(None), slice(dy, height), slice(max(0, dx), width + min(0, dx)))
        same = (places[here] == places[there]).float()
        known = ((places[here] != PADDING) & (places[there] != PADDING)).float()
        positive, negative = same * known, (1 - same) * known
        weight = 0.5 * (positive / (positive.sum() + 1) + negative / (negative.sum() + 1))
        entropy = F.binary_cross_entropy_with_logits(logits[:, channel][here], same, weight=weight, reduction="sum")
        total = total + entropy
    return total / len(AFFINITY_STEPS)


def targets_at(labels: Tensor, ids: Tensor) -> Tensor:
    """Masks of `ids` (BxN) in `labels` (BxHxW), averaged down to BxNxH/4xW/4, float in [0, 1]."""
    masks = (labels[:, None] == ids[:, :, None, None]).float()
    return F.avg_pool2d(masks, LOGIT_STRIDE)


def decoder_outputs(
    sam: Sam, embeddings: Tensor, corners: Tensor, points: Tensor, boxes: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """All four masks and predicted IoUs for N points (BxNx2) and K boxes (BxKx4) of B crops, in pixels of each crop.

    Args:
        embeddings: BxCxHxW.
        corners: Bx2, each crop's first row and column of patches.
        dtype: of everything of the image's size.

    Returns:
        logits Bx(N+K)x4x4Hx4W and predicted IoUs Bx(N+K)x4, points before boxes.
    """
    decoder = PointDecoder(sam, dtype)
    height, width = embeddings.shape[-2:]
    positions = sam.prompt_encoder.get_dense_pe()
    outputs = []
    for index, (y, x) in enumerate(corners.tolist()):
        shift = corners[index].flip(0).to(points.dtype) * STRIDE
        labelled = (points[index] + shift)[:, None], points.new_ones(points.shape[1], 1)
        by_point, _ = sam.prompt_encoder(points=labelled, boxes=None, masks=None)
        by_box, _ = sam.prompt_encoder(points=None, boxes=boxes[index] + shift.repeat(2), masks=None)
        here = positions[..., y : y + height, x : x + width]
        outputs.append(decoder.decode_all(embeddings[index, None], here, torch.cat([by_point, by_box])))
    logits, ious = zip(*outputs, strict=True)
    return torch.stack(logits), torch.stack(ious)


# ---------------------------------------------------------------------------------------------------- training


def train_nano(
    sam: Sam,
    scenes: Sequence[Scene],
    photos: Sequence[Photo],
    config: NanoTrainingConfig,
    save: Callable[[Sam], None],
    head: RegionHead | None = None,
) -> RegionHead:
    """Train `sam` in place for `config.minutes`, on the device that it is on.

    Args:
        sam: a `vit_nano`, untrained or to be trained on.
        scenes: rendered scenes; may be empty.
        photos: photos with regions; may be empty.
        config: see NanoTrainingConfig.
        save: called with the model every five minutes and at the end.
        head: the auxiliary head of an earlier training, or None.
    """
    torch.manual_seed(config.seed)
    size = sam.image_encoder.img_size
    head = (head or RegionHead()).to(sam.device)
    stream = TargetStream(size, scenes, photos, config)
    loader = iter(DataLoader(stream, batch_size=config.batch_size, num_workers=config.workers))
    parameters = [*sam.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.98))
    average = EmaWeights(sam, config.ema_decay)
    start = saved = time.monotonic()
    step, history = 0, []
    while (elapsed := (time.monotonic() - start) / 60) < config.minutes:
        cosine = 0.5 * (1 + math.cos(math.pi * elapsed / config.minutes))
        decay = config.final_lr_ratio + (1 - config.final_lr_ratio) * cosine
        optimizer.param_groups[0]["lr"] = config.lr * min(1, (step + 1) / 100) * decay
        batch = (tensor.to(sam.device, non_blocking=True) for tensor in next(loader))
        loss, parts = _step_loss(sam, head, config, *batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        average.update(sam, step)
        history.append(parts)
        if step % 50 == 0:
            means = (f"{name} {np.mean([part[name] for part in history[-50:]]):.3f}" for name in parts)
            logger.info("step %d, %.1f min: %s", step, elapsed, ", ".join(means))
        if time.monotonic() - saved > 300:
            with average.applied_to(sam):
                save(sam)
            saved = time.monotonic()
    sam.load_state_dict(average.weights)
    save(sam)
    return head


def _step_loss(
    sam: Sam,
    head: RegionHead,
    config: NanoTrainingConfig,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    points: Tensor,
    boxes: Tensor,
    corners: Tensor,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch and its parts. Products and convolutions run in bf16 where `config.bf16` says so."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.bf16):
        valid = labels[:, None] != PADDING
        inputs = torch.where(valid, (images.float() - sam.pixel_mean) / sam.pixel_std, 0.0)
        embeddings = sam.image_encoder(inputs)
        fine = sam.prompt_encoder.pe_layer((sam.image_encoder.img_size // 4,) * 2)
        height, width = (4 * side for side in embeddings.shape[-2:])
        here = torch.stack([fine[:, 4 * y : 4 * y + height, 4 * x : 4 * x + width] for y, x in corners.tolist()])
        affinities, identities = head(embeddings, here)

    affinity = affinity_loss(affinities.float(), labels)
    identity = identity_loss(identities.float(), labels, config.places)
    loss = config.affinity_weight * affinity + config.identity_weight * identity
    parts = {"affinity loss": affinity.item(), "identity loss": identity.item()}
    if not config.prompts:
        return loss, parts

    by_points = config.prompts - config.prompts // 5
    dtype = torch.bfloat16 if config.bf16 else torch.float32
    logits, predicted = decoder_outputs(sam, embeddings, corners, points[:, :by_points], boxes[:, by_points:], dtype)
    targets = targets_at(labels, ids)[:, :, None]
    ious = mask_iou(logits, targets)
    losses = mask_loss(logits, targets, config.entropy_weight)
    # Output 0 is SAM's single mask, 1 to 3 the choice for an ambiguous point.
    of_points, of_boxes = losses[:, :by_points], losses[:, by_points:]
    loss = loss + of_points[..., 1:].amin(-1).mean() + 0.05 * of_points.mean()
    loss = loss + F.mse_loss(predicted[:, :by_points], ious[:, :by_points])
    if by_points < config.prompts:
        loss = loss + 0.25 * of_boxes[..., 0].mean()
        loss = loss + 0.25 * F.mse_loss(predicted[:, by_points:], ious[:, by_points:])
    best = ious[:, :by_points, 1:].amax(-1).mean().item()
    return loss, {"loss": loss.item(), **parts, "IoU": best}


# --------------------------------------------------------------------------------------------------- evaluation


def interior_point_iou(sam: Sam, image: np.ndarray, labels: np.ndarray, min_area: float = 0.002) -> list[float]:
    """IoU at the image's own size from one interior point, best of three, for each label.

    Args:
        image: uint8, HxWx3, RGB.
        labels: HxW; 0 is not an object.
        min_area: share of the image below which an object does not count.
    """
    # Kept here: SamPredictor belongs to evaluation alone.
    from segment_anything import SamPredictor

    predictor = SamPredictor(sam)
    predictor.set_image(image)
    ious = []
    for label in np.unique(labels[labels > 0]):
        mask = labels == label
        if mask.mean() < min_area:
            continue
        masks, _, _ = predictor.predict(np.array([interior_point(mask)]), np.array([1]), multimask_output=True)
        ious.append(max(float((one & mask).sum() / (one | mask).sum()) for one in masks))
    return ious
