"""Every reader of files and options as a function of bytes, with inputs that it takes; used by tests and benchmarks.

A reader may raise an error of the project's own classes, nothing else.
"""

import base64
import io
import json
import logging
import shlex
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from safetensors.torch import save as save_safetensors

from thfuse_sam.cli.commands import finetune, precompute, predict, prepare, test, train
from thfuse_sam.datasets.segmentation import known_sets, open_segmentation_dataset
from thfuse_sam.datasets.segmentation.formats.mask_images import read_mask as read_mask_image
from thfuse_sam.datasets.segmentation.mixture import open_mixture
from thfuse_sam.errors import CheckpointError, ThFuseError
from thfuse_sam.finetune.embedding_cache import EmbeddingCache
from thfuse_sam.fusion.loading import load_network, save_network
from thfuse_sam.images import image_size, read_infrared, read_visible
from thfuse_sam.losses.perceptual import load_perceptual_loss
from thfuse_sam.masks.embeddings import EmbeddingFiles, ImageEmbedding
from thfuse_sam.masks.format import decode_mask, encode_mask, read_mask
from thfuse_sam.masks.instances import decode_instances
from thfuse_sam.masks.manifest import Manifest, Signature
from thfuse_sam.masks.shards import MaskShards, ShardWriter
from thfuse_sam.masks.tree import INSTANCES_SUFFIX
from thfuse_sam.models import build_network
from thfuse_sam.options.finetune import LoraSettings
from thfuse_sam.options.shared import AnnotationReading
from thfuse_sam.sam.adapt import Adaptation, trained_state
from thfuse_sam.sam.adapt import prepare as prepare_sam
from thfuse_sam.sam.checkpoints import resolve_sam, resolve_tuned
from thfuse_sam.sam.export import read_trained_header, save_trained
from thfuse_sam.sam.geometry import Frame
from thfuse_sam.sam.loading import load_sam
from thfuse_sam.sam.nano import build_vit_nano
from thfuse_sam.sam.registry import build_sam
from thfuse_sam.training.checkpoint import NetworkSpec, load_checkpoint
from thfuse_sam.training.epoch_log import EpochLog, read_log

SHAPE = (6, 8)
PARSERS = (precompute, train, test, finetune, prepare, predict)


@dataclass(frozen=True)
class Target:
    """One reader."""

    read: Callable[[bytes, Path], object]  # of a content, in a folder that it may use
    seeds: Callable[[Path], list[bytes]]  # contents that it takes; the folder is for making them
    is_text: bool = False  # JSON or YAML: values in it can be replaced


def expect_own_error(target: Target, content: bytes, folder: Path) -> bool:
    """Read `content`; whether it was taken. Anything but an error of our own is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow tells much about damaged files
        try:
            target.read(content, folder)
        except ThFuseError as error:
            assert 0 < len(str(error)) < 5000 + 10 * len(content), "an error's line is empty or endless"
            return False
    return True


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def picture(size: tuple[int, int] = SHAPE, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


# Images


def read_image(content: bytes, folder: Path) -> None:
    path = write(folder, "image.png", content)
    failures = []
    for read in (image_size, read_infrared, read_visible):
        try:
            read(path)
        except ThFuseError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def image_seeds(folder: Path) -> list[bytes]:
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 65536, SHAPE).astype(np.uint16))
    exif = Image.Exif()
    exif[274] = 6
    return [
        *(encoded(picture(mode=mode), "PNG") for mode in ("RGB", "RGBA", "L", "P", "1")),
        encoded(wide, "PNG"),
        encoded(wide, "TIFF"),
        encoded(picture(mode="F"), "TIFF"),
        *(encoded(picture(), "TIFF", compression=kind) for kind in ("raw", "tiff_lzw", "jpeg", "packbits")),
        encoded(picture(), "JPEG", exif=exif),
        encoded(picture(), "JPEG", progressive=True),
        *(encoded(picture(), kind) for kind in ("BMP", "GIF", "WEBP")),
    ]


def read_index_mask(content: bytes, folder: Path) -> None:
    path = write(folder, "mask.png", content)
    failures = []
    for kind in (None, "binary", "classes", "instances", "alpha"):
        try:
            read_mask_image(path, kind, AnnotationReading())
        except ThFuseError as error:
            failures.append(error)
    if len(failures) == 5:
        raise failures[0]


def index_seeds(folder: Path) -> list[bytes]:
    seeds = [encoded(picture(mode=mode), kind) for mode in ("L", "P", "1") for kind in ("PNG", "BMP", "TIFF")]
    return [*seeds, *(encoded(picture(mode=mode), "PNG") for mode in ("RGBA", "LA", "RGB"))]


# Masks


def read_npy(content: bytes, folder: Path) -> None:
    decode_mask(content, "fuzzed", None)
    read_mask(write(folder, "mask.npy", content), SHAPE)


def npy_seeds(folder: Path) -> list[bytes]:
    found = [b"".join(encode_mask(mask)) for mask in (np.ones(SHAPE, np.uint8), np.ones(SHAPE, np.uint16))]
    for array in (np.zeros(SHAPE, bool), np.zeros(SHAPE), np.asfortranarray(np.zeros(SHAPE, np.float16))):
        stream = io.BytesIO()
        np.save(stream, array)
        found.append(stream.getvalue())
    return found


def read_instances(content: bytes, folder: Path) -> None:
    decode_instances(content, "fuzzed", SHAPE)


def instance_seeds(folder: Path) -> list[bytes]:
    encoding = coco_mask.encode(np.asfortranarray(np.eye(*SHAPE, dtype=np.uint8)))["counts"].decode()
    record = {"label": 1, "segmentation": {"size": list(SHAPE), "counts": encoding}, "area": 2, "bbox": [0, 0, 1, 1],
              "predicted_iou": 0.9, "stability_score": 0.9, "point_coords": [[0.5, 0.5]]}  # fmt: skip
    return [json.dumps({"height": SHAPE[0], "width": SHAPE[1], "instances": [record, record]}).encode()]


def read_manifest(content: bytes, folder: Path) -> None:
    write(folder, "manifest.json", content)
    manifest = Manifest.load(folder)
    manifest.signature.differences({"model_type": "vit_b", "points_per_side": 32})


def manifest_seeds(folder: Path) -> list[bytes]:
    manifest = Manifest(Signature("vit_b", "0" * 64, {"points_per_side": 32}, "0"))
    manifest.sources.append({"ir": "/a/ir", "vi": "/a/vi"})
    manifest.failures.append({"modality": "ir", "name": "a", "path": "a.png", "reason": "damaged"})
    manifest.save(folder)
    return [(folder / "manifest.json").read_bytes()]


def read_shard(content: bytes, folder: Path) -> None:
    for old in (folder / "shards").glob("*"):
        old.unlink()
    # Half of the inputs are an index, which begins as JSON does.
    write(folder, "shards/0.json" if content.startswith(b"{") else "shards/0.tar", content)
    if content.startswith(b"{"):
        write(folder, "shards/0.tar", shard_seeds(folder / "made")[0])
    found = MaskShards(folder)
    for name in found.names("ir") + found.names("vi"):
        for modality in ("ir", "vi"):
            if found.has(modality, name):
                found.shape_and_time(modality, name)
                found.read(modality, name, SHAPE)
    for name in found.names("ir", INSTANCES_SUFFIX):
        found.read_instances("ir", name, SHAPE)
    if found.damaged:
        assert all(found.damaged)


def shard_seeds(folder: Path) -> list[bytes]:
    if not list((folder / "shards").glob("*.tar")):
        writer = ShardWriter(folder)
        for name in ("a", "b/c"):
            writer.write("ir", name, np.ones(SHAPE, np.uint8), instance_seeds(folder)[0].decode())
        writer.close()
    return [path.read_bytes() for path in sorted((folder / "shards").iterdir(), key=lambda path: path.suffix != ".tar")]


def read_embedding(content: bytes, folder: Path) -> None:
    write(folder, "ir/a.safetensors", content)
    EmbeddingFiles(folder).read("ir", "a")


def embedding_seeds(folder: Path) -> list[bytes]:
    return [ImageEmbedding(np.ones((2, 3, 3), np.float16), (6, 8), SHAPE).to_bytes()]


# Annotations


def read_labelme(content: bytes, folder: Path) -> None:
    write(folder, "a.json", content)
    (folder / "a.png").exists() or write(folder, "a.png", encoded(picture(), "PNG"))
    found = open_segmentation_dataset(folder)
    for index in range(len(found)):
        found[index]


def labelme_seeds(folder: Path) -> list[bytes]:
    image = base64.b64encode(encoded(picture(), "PNG")).decode()
    mask = base64.b64encode(encoded(picture((2, 3), "L"), "PNG")).decode()
    shapes = [
        {"label": "a", "points": [[1, 1], [5, 1], [5, 4.5]], "shape_type": "polygon", "group_id": None, "flags": {}},
        {"label": "a", "points": [[1, 1], [5, 4]], "shape_type": "rectangle", "group_id": 1},
        {"label": "b", "points": [[3, 3], [5, 4]], "shape_type": "circle", "group_id": 1},
        {"label": "c", "points": [[1, 1], [3, 2]], "shape_type": "mask", "mask": mask},
    ]
    base = {"version": "5.0", "shapes": shapes, "imageHeight": SHAPE[0], "imageWidth": SHAPE[1]}
    contents = ({**base, "imagePath": "a.png", "imageData": None}, {**base, "imagePath": "a.png", "imageData": image})
    return [json.dumps(content).encode() for content in contents]


def read_coco(content: bytes, folder: Path) -> None:
    (folder / "images/a.png").exists() or write(folder, "images/a.png", encoded(picture(), "PNG"))
    found = open_segmentation_dataset(write(folder, "annotations.json", content))
    for index in range(len(found)):
        found[index]


def coco_seeds(folder: Path) -> list[bytes]:
    segmentations = [
        [[1, 1, 5, 1, 5, 4.5]],
        {"size": list(SHAPE), "counts": [7, 3, 38]},
        {"size": list(SHAPE), "counts": "73V1"},
    ]
    annotations = [
        {
            "id": index,
            "image_id": 1,
            "category_id": 1,
            "segmentation": value,
            "iscrowd": 0,
            "area": 3,
            "bbox": [1, 1, 4, 3],
        }
        for index, value in enumerate(segmentations)
    ]
    content = {"images": [{"id": 1, "file_name": "a.png", "height": SHAPE[0], "width": SHAPE[1]}],
               "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}  # fmt: skip
    return [json.dumps(content).encode()]


def read_yolo(content: bytes, folder: Path) -> None:
    (folder / "images/a.png").exists() or write(folder, "images/a.png", encoded(picture(), "PNG"))
    write(folder, "labels/a.txt", content)
    found = open_segmentation_dataset(folder)
    for index in range(len(found)):
        found[index]


def yolo_seeds(folder: Path) -> list[bytes]:
    return [b"0 0.1 0.1 0.9 0.1 0.9 0.9\n1 0.2 0.2 0.5 0.2 0.5 0.5 0.2 0.5\n", b"\xef\xbb\xbf0 0 0 1 0 1 1\r\n"]


# Options


class _Fake:
    """Annotated images that a mixture may name."""

    names = ("a", "b")

    def __len__(self) -> int:
        return 2


def read_mixture(content: bytes, folder: Path) -> None:
    found = open_mixture(write(folder, "mixture.yaml", content), lambda path: _Fake(), 0)  # type: ignore[arg-type,return-value]
    found.set_epoch(1)
    assert len(found.names) == len(found) < 1_000_000


def mixture_seeds(folder: Path) -> list[bytes]:
    text = (
        "train:\n  - {data_dir: a, percentage: 0.5, w_aug: true, aug_details: [crop_foreground], bg_paths: null}\n"
        "  - data_dir: b\ntest:\n  data_dir: c\n"
    )
    return [text.encode(), text.replace("true", "0.25").encode()]


def parse_with_every_command(argv: list[str]) -> None:
    """Raises the first command's error where every one of them refuses `argv`."""
    failures = []
    for module in PARSERS:
        try:
            module.build_parser().parse_command(argv)
        except ThFuseError as error:
            failures.append(error)
        except SystemExit as stop:  # --help
            assert stop.code == 0
    if len(failures) == len(PARSERS):
        raise failures[0]


def read_config(content: bytes, folder: Path) -> None:
    parse_with_every_command(["--config", str(write(folder, "config.yaml", content))])


def config_seeds(folder: Path) -> list[bytes]:
    return [
        b"dataset_path: a\nsam_model_type: vit_b\npoints_per_side: 8\noverwrite: true\n",
        b"epochs: 3\nlr: 1e-4\nloss_weights: {ssim: 2}\nval_metrics: [EN, SD]\ncompile: false\n",
        b"data_dir: a\nprompts: {box: 1, point: 0.5}\nalpha: -1\nschedule: plateau\n",
        b"output_dir: results\nreport: false\ntile_size: 512\n",
    ]


def read_options(content: bytes, folder: Path) -> None:
    try:
        argv = shlex.split(content.decode("utf-8", "replace"))
    except ValueError:
        argv = content.decode("utf-8", "replace").split()
    parse_with_every_command([word for word in argv if not word.startswith(("--config", "-c"))])


def option_seeds(folder: Path) -> list[bytes]:
    return [
        b"--dataset_path a --points_per_side 8 --shard 1/4 --devices cuda:0,cuda:1 --pred_iou_thresh 0.5",
        b"--epochs 3 --lr 1e-4 --loss_weights ssim=2 intensity=1 --val_metrics EN SD --resume auto",
        b"--data_dir a --num_epochs 4 --output_dir runs --prompts box=1 point=2 --alpha -1 --lora_rank 4",
        b"--output_dir r --no-report --tile_size 512 --compare A=b c --gray",
        b"--input a --boxes 1,2,3,4 --points 5,6",
    ]


# Checkpoints


def read_checkpoint(content: bytes, folder: Path) -> None:
    """A network's file, or a training checkpoint."""
    is_zip = content.startswith(b"PK") or content.startswith(b"\x80")
    path = write(folder, "net.pth" if is_zip else "net.safetensors", content)
    if is_zip:
        load_checkpoint(path)
    load_network(path)


def checkpoint_seeds(folder: Path) -> list[bytes]:
    torch.manual_seed(0)
    network = build_network("thfuse_lite", channels=4) if "channels" in build_network("thfuse_lite").options else None
    network = network or build_network("thfuse_lite")
    spec = NetworkSpec("thfuse_lite", network.options)
    save_network(folder / "net.safetensors", network, spec)
    content = {
        "format_version": 1, "network": asdict(spec), "weights": network.state_dict(), "training": {"lr": 0.1},
        "epoch": 1, "step": 2, "optimizer": {}, "scheduler": {}, "random_states": {}, "progress": {},
    }  # fmt: skip
    found = [(folder / "net.safetensors").read_bytes()]
    for kind in (True, False):
        stream = io.BytesIO()
        torch.save(content, stream, _use_new_zipfile_serialization=kind)
        found.append(stream.getvalue())
    return found


def read_sam(content: bytes, folder: Path) -> None:
    is_zip = content.startswith(b"PK") or content.startswith(b"\x80")
    path = write(folder, "sam.pth" if is_zip else "sam.safetensors", content)
    load_sam(resolve_sam("auto", path))


def read_trained(content: bytes, folder: Path) -> None:
    path = write(folder, "trained.safetensors", content)
    if read_trained_header(path) is None:
        raise CheckpointError("no trained weights")
    load_sam(resolve_tuned("auto", path, base=folder / "base.pth"))


def trained_seeds(folder: Path) -> list[bytes]:
    torch.manual_seed(0)
    torch.save(build_vit_nano(64).state_dict(), folder / "base.pth")
    found = []
    for adaptation in (
        Adaptation(("image_encoder", "mask_decoder")),
        Adaptation(("prompt_encoder", "mask_decoder"), LoraSettings()),
    ):
        base = resolve_sam("auto", folder / "base.pth")
        sam = build_sam(base.model_type, base.checkpoint)
        prepare_sam(sam, adaptation)
        save_trained(folder / "seed.safetensors", trained_state(sam, adaptation), base.trained_header(adaptation))
        found.append((folder / "seed.safetensors").read_bytes())
    return found


def read_vgg(content: bytes, folder: Path) -> None:
    load_perceptual_loss(write(folder, "vgg16.pth", content))


def vgg_seeds(folder: Path) -> list[bytes]:
    found = []
    for kind in (True, False):
        stream = io.BytesIO()
        torch.save({"features.0.weight": torch.ones(2, 3)}, stream, _use_new_zipfile_serialization=kind)
        found.append(stream.getvalue())
    return found


def read_kept_embedding(content: bytes, folder: Path) -> None:
    cache = EmbeddingCache(folder, "signature")
    write(folder, cache._path("abc").relative_to(folder).as_posix(), content)
    if cache.load("abc") is None:
        raise CheckpointError("damaged, made again")


def kept_embedding_seeds(folder: Path) -> list[bytes]:
    cache = EmbeddingCache(folder, "signature")
    cache.store("abc", torch.ones(2, 3, 3), Frame.of(SHAPE, 64))
    return [cache._path("abc").read_bytes()]


# What training and downloads leave


def read_train_log(content: bytes, folder: Path) -> None:
    path = write(folder, "train_log.csv", content)
    EpochLog(folder, 2).close()
    read_log(path)


def train_log_seeds(folder: Path) -> list[bytes]:
    return [b"epoch,train/total,val/total,lr\n1,0.5,0.25,0.001\n2,0.5,,0.001\n", b'epoch,"a ""b"""\r\n1,"2\n"\r\n']


def read_archive(content: bytes, folder: Path) -> None:
    known = known_sets.KnownSet("fuzzed", "http://127.0.0.1:9/fuzzed.zip", None, "good", "none")
    known_sets._unpack(write(folder, "fuzzed.zip", content), folder / "unpacked", known)
    assert not list(folder.rglob("*.partial"))


def archive_seeds(folder: Path) -> list[bytes]:
    found = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as zipped:
            zipped.writestr("good/a.txt", "a" * 100)
            zipped.writestr("good/b/c.txt", bytes(range(256)))
        found.append(stream.getvalue())
    return found


def sam_seeds(folder: Path) -> list[bytes]:
    weights = {"image_encoder.image_size": torch.tensor(64), "image_encoder.a": torch.ones(2, 3)}
    stream = io.BytesIO()
    torch.save(weights, stream)
    return [stream.getvalue(), save_safetensors(weights)]


TARGETS = {
    "image": Target(read_image, image_seeds),
    "yolo": Target(read_yolo, yolo_seeds, is_text=True),
    "index mask": Target(read_index_mask, index_seeds),
    "npy mask": Target(read_npy, npy_seeds),
    "instances": Target(read_instances, instance_seeds, is_text=True),
    "manifest": Target(read_manifest, manifest_seeds, is_text=True),
    "shard": Target(read_shard, shard_seeds),
    "embedding": Target(read_embedding, embedding_seeds),
    "labelme": Target(read_labelme, labelme_seeds, is_text=True),
    "coco": Target(read_coco, coco_seeds, is_text=True),
    "mixture": Target(read_mixture, mixture_seeds, is_text=True),
    "config": Target(read_config, config_seeds, is_text=True),
    "options": Target(read_options, option_seeds),
    "checkpoint": Target(read_checkpoint, checkpoint_seeds),
    "sam checkpoint": Target(read_sam, sam_seeds),
    "trained weights": Target(read_trained, trained_seeds),
    "vgg weights": Target(read_vgg, vgg_seeds),
    "kept embedding": Target(read_kept_embedding, kept_embedding_seeds),
    "training log": Target(read_train_log, train_log_seeds),
    "archive": Target(read_archive, archive_seeds),
}

# Values that have broken readers before, here or elsewhere.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 1e308, -0.0, 0.5, float("nan"), float("inf"), "", "a",
    "../../x", "/etc/passwd", "\0", "\ud800", "é", "C:\\x", [], {}, [[]], [1], {"a": 1}, "1" * 5000, [0] * 300,
)  # fmt: skip
ODD_BYTES: Sequence[bytes] = (
    b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"1e999", b"NaN", b"&a [*a]",
    b"!!python/name:os.system", b"2001-99-99", b"../", b"\xed\xa0\x80", b"{" * 40, b"[" * 3000,
)  # fmt: skip


def quiet() -> None:
    logging.disable(logging.CRITICAL)
