"""Models of Hugging Face's `transformers` that make masks of points: SAM-HQ, SAM 2, EdgeTAM, SAM 3 and others.

A model is a folder with `config.json`, `preprocessor_config.json` and weights as safetensors, or the name `owner/name`
of one on huggingface.co. Nothing pickled is read, and no code that comes with a model is run. The image encoder runs
once per image, the mask decoder once per batch of prompts, both as `transformers` has them.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thfuse_sam.arrays import Size
from thfuse_sam.devices import unless_out_of_memory, upload
from thfuse_sam.errors import CheckpointError, DeviceError, UsageError
from thfuse_sam.files import file_sha256
from thfuse_sam.options.generator import GENERATOR_DEFAULTS, HUGGING_FACE
from thfuse_sam.sam.decoder import DecodedPrompts, Decoder
from thfuse_sam.sam.geometry import LOGITS_PER_TOKEN, Frame, resize_image
from thfuse_sam.sam.postprocess import above, upsample_logits
from thfuse_sam.sam.prompted import PromptTensors, best_mask

WEIGHTS = "model.safetensors"

_PADDED = ("sam", "sam_hq")  # these pad an image to a square; later models stretch it
# The values of `model_type` in config.json. Published models of SAM 2 and later are those for video: a model of images
# is a part of them.
_FAMILIES = (*_PADDED, "sam2", "sam2_video", "edgetam", "edgetam_video", "sam3_tracker", "sam3_video")
_FILES = [
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model*.safetensors",
    f"{WEIGHTS}.index.json",
]
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class HuggingFaceSam:
    """A model of `transformers`, in eval mode: a `MaskModel` and its decoder."""

    model: Any
    processor: Any  # its image processor
    dtype: torch.dtype = torch.float32  # number format of matrix products and convolutions; weights are float32

    mask_threshold = 0.0
    generator_settings = GENERATOR_DEFAULTS[HUGGING_FACE]  # for `own_settings`

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def decoder(self) -> Decoder:
        return self

    def at(self, dtype: torch.dtype) -> "HuggingFaceSam":
        """The same model at another precision."""
        return dataclasses.replace(self, dtype=dtype)

    def frame(self, image_size: Size) -> Frame:
        encoder = self.model.prompt_encoder
        side = encoder.input_image_size
        stride = side / (encoder.image_embedding_size[0] * LOGITS_PER_TOKEN)
        if self._is_padded:
            return dataclasses.replace(Frame.of(image_size, side), logit_stride=stride)
        return Frame.stretched(image_size, side, stride)

    @torch.no_grad()
    def encode(self, image: npt.NDArray[np.uint8], frame: Frame) -> Tensor | tuple[Tensor, ...]:
        if self._is_padded and min(frame.input_size) == 1:  # the processor rounds such a side to 0
            image = resize_image(image, frame).permute(1, 2, 0).numpy()
        # Without its format, an image of one or three rows would be taken for one of three channels.
        pixels = self.processor(images=image, input_data_format="channels_last", return_tensors="pt")["pixel_values"]
        with self._autocast():
            embeddings = self.model.get_image_embeddings(upload(pixels, self.device))
        if isinstance(embeddings, Tensor):
            return embeddings.float()
        if self._is_padded:  # the decoder of SAM-HQ uses the first of the intermediate embeddings alone
            parts = [embeddings[0], embeddings[1][0]]
        else:
            *finer, tokens = embeddings
            parts = [tokens, *finer]
        return tuple(part.float().contiguous() for part in parts)

    def prepare(self, features: Tensor | tuple[Tensor, ...], input_size: Size) -> dict[str, Any]:
        """As `Decoder.prepare`: the model's arguments for the image."""
        if isinstance(features, Tensor):
            return {"image_embeddings": features}
        tokens, *finer = features
        if self._is_padded:
            return {"image_embeddings": tokens, "intermediate_embeddings": finer}
        return {"image_embeddings": [*finer, tokens]}

    def decode(self, context: dict[str, Any], prompts: Tensor) -> DecodedPrompts:
        """As `Decoder.decode`."""
        prompts = prompts.float()
        if prompts.shape[1] == 4:
            tensors = PromptTensors(boxes=prompts)
        else:
            labels = torch.ones((len(prompts), 1), dtype=torch.int32, device=prompts.device)
            tensors = PromptTensors(points=prompts[:, None], labels=labels)
        logits, ious = self._decode(context, tensors, multimask=prompts.shape[1] == 2)
        masks = logits.flatten(0, 1)
        return DecodedPrompts(ious, lambda indices: masks[upload(indices, masks.device)])

    def predict(
        self, embedding: Tensor | tuple[Tensor, ...], frame: Frame, prompts: PromptTensors
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """As `MaskModel.predict`."""
        context = self.prepare(embedding, frame.input_size)
        multimask = prompts.is_single_point()
        logits, ious = best_mask(*self._decode(context, prompts.to(self.device), multimask=multimask))
        return above(upsample_logits(logits, frame), self.mask_threshold).cpu().numpy(), ious.cpu().numpy()

    def compiled(self) -> "HuggingFaceSam":
        return self

    @torch.no_grad()
    def _decode(self, context: dict[str, Any], prompts: PromptTensors, *, multimask: bool) -> tuple[Tensor, Tensor]:
        """Logits NxKxLxL and estimated IoUs NxK of N prompts, float32."""
        tensors = {"input_points": prompts.points, "input_labels": prompts.labels, "input_boxes": prompts.boxes}
        given = {name: tensor[None] for name, tensor in tensors.items() if tensor is not None and tensor.numel()}
        with self._autocast():
            outputs = self.model(**context, **given, multimask_output=multimask)
        return outputs.pred_masks[0].float(), outputs.iou_scores[0].float()

    @property
    def _is_padded(self) -> bool:
        return self.model.config.model_type in _PADDED

    def _autocast(self) -> torch.autocast:
        half = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=half, cache_enabled=False)


def find_folder(model: Path, *, fetch: bool = True) -> Path:
    """The folder of a model: `model` itself, or where the files of `owner/name` are; they are downloaded if `fetch`.

    Raises CheckpointError: no such model, or it cannot be downloaded; UsageError: `transformers` is not installed.
    """
    if model.is_dir():
        return model
    name = model.as_posix()
    if model.exists() or not _REPOSITORY.fullmatch(name):
        raise CheckpointError(f"{model}: is no folder; give the folder of a model, or its owner/name on huggingface.co")
    _require_transformers()
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_FILES, local_files_only=not fetch))
    except GatedRepoError:
        raise CheckpointError(
            f"{model}: is given after its licence is accepted; do that on https://huggingface.co/{name}, then log in "
            "with 'hf auth login'"
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"{model}: no such folder, and no such model on huggingface.co; check the name, or log in with "
            "'hf auth login' if it is private"
        ) from None
    except Exception as error:  # whatever a network raises
        reason = _first_line(error).removeprefix("Got: ") if fetch else "a dry run downloads nothing"
        raise CheckpointError(
            f"{model}: no such folder, and the model cannot be downloaded "
            f"({'HF_HUB_OFFLINE is set' if constants.HF_HUB_OFFLINE else reason}); download it elsewhere with "
            f"'hf download {name} --local-dir FOLDER' and give the folder"
        ) from None


def read_family(folder: Path) -> str:
    """The `model_type` that config.json names. Raises CheckpointError: no model, or one of another kind."""
    config = _read_json(folder / "config.json")
    family = str(config.get("model_type"))
    if family not in _FAMILIES:
        raise CheckpointError(
            f"{folder}: is a model of type {family}, which is not known to make masks of points; known are "
            f"{', '.join(_FAMILIES)}"
        )
    return family


def weight_files(folder: Path) -> list[Path]:
    """The files with the model's weights. Raises CheckpointError: there are none, or some are missing."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / f"{WEIGHTS}.index.json").is_file():
        raise CheckpointError(
            f"{folder}: holds no {WEIGHTS}; weights in other files are not read, as they may hold code"
        )
    names = set(_read_json(folder / f"{WEIGHTS}.index.json").get("weight_map", {}).values())
    missing = names - {path.name for path in folder.glob("*.safetensors")}
    if missing or not names:
        raise CheckpointError(f"{folder}: lacks weights ({', '.join(sorted(map(str, missing)))}); download it again")
    return [folder / name for name in sorted(names)]


def weights_sha256(folder: Path) -> str:
    """SHA-256 of the weights, in hexadecimal: of their file or, if they are several, of the files' own sums."""
    try:
        sums = [file_sha256(path) for path in weight_files(folder)]
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({error.strerror or error}); check its permissions") from error
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def load_hugging_face(folder: Path, device: torch.device | str = "cpu") -> HuggingFaceSam:
    """The model in a folder, in float32 and in eval mode, on `device`.

    Raises:
        UsageError: `transformers` is not installed.
        CheckpointError: the folder holds no model of a known family, or one that is damaged.
        DeviceError: the model does not fit into the memory of the GPU that is free.
    """
    family = read_family(folder)
    weight_files(folder)
    _require_transformers()
    from transformers import AutoImageProcessor, AutoModelForMaskGeneration

    try:
        with _quiet():
            model, loading = AutoModelForMaskGeneration.from_pretrained(
                folder,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
            processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # a damaged file can raise any exception
        raise CheckpointError(f"{folder}: cannot be loaded ({_first_line(error)}); download it again") from error
    if lacking := sorted(loading["missing_keys"]):
        raise CheckpointError(f"{folder}: lacks weights of a {family} ({lacking[0]}, ...); download it again")
    sam = HuggingFaceSam(model.eval(), processor)
    _require_one_size(sam, folder)
    if family.startswith("sam3"):
        _tell_sam3_licence()
    if unless_out_of_memory(lambda: model.to(device)) is None:
        raise DeviceError(f"`device` {device}: not enough memory for {folder}; use another device or a smaller model")
    return sam


def _require_one_size(sam: HuggingFaceSam, folder: Path) -> None:
    size, side = sam.processor.size, sam.model.prompt_encoder.input_image_size
    shown = size.longest_edge or size.height
    if shown != side:
        raise CheckpointError(
            f"{folder}: preprocessor_config.json makes images of {shown} pixels, the model takes {side}; use the "
            "model's own file"
        )


@functools.cache
def _tell_sam3_licence() -> None:
    log.warning(
        "SAM 3 comes under Meta's SAM License, which forbids military use, among others: "
        "https://github.com/facebookresearch/sam3/blob/main/LICENSE"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars and reports of `transformers`: what is wrong with a model is said in one line."""
    from transformers.utils import logging as theirs

    verbosity, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(verbosity)
        if bars:
            theirs.enable_progress_bar()


def _require_transformers() -> None:
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise UsageError(
            "`sam_model_type` hf: needs transformers; pip install 'th-fuse-sam[hf]', or use another model type"
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path.parent}: is a folder without {path.name}, so no model of Hugging Face transformers; name a "
            "checkpoint file, or the folder of such a model"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({_first_line(error)}); download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds no settings of a model; download it again")
    return content


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
