"""Models of transformers, tiny and with random weights: our masks are theirs, and the commands take them."""

import dataclasses
import json
import logging
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from segment_anything.modeling import ImageEncoderViT, Sam

from thfuse_sam.cli.commands import finetune, precompute, predict
from thfuse_sam.errors import CheckpointError
from thfuse_sam.fusion.session import FusionSession
from thfuse_sam.images import write_image
from thfuse_sam.masks.embeddings import ImageEmbedding
from thfuse_sam.masks.source import LiveMasks
from thfuse_sam.models import build_network
from thfuse_sam.options.generator import GeneratorSettings
from thfuse_sam.sam import hugging_face, registry
from thfuse_sam.sam.assembly import assemble_sam
from thfuse_sam.sam.checkpoints import resolve_sam
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.hugging_face import HuggingFaceSam, load_hugging_face
from thfuse_sam.sam.loading import load_sam
from thfuse_sam.sam.prompted import PromptTensors

transformers = pytest.importorskip("transformers")

FAMILIES = ("sam", "sam_hq", "sam2", "edgetam", "sam3_tracker")
PADDED = ("sam", "sam_hq")
SETTINGS = GeneratorSettings(points_per_side=6, pred_iou_thresh=0, stability_score_thresh=0.05, box_nms_thresh=1.0)
ImageArray = npt.NDArray[np.uint8]


def side(family: str) -> int:
    return 56 if family == "sam3_tracker" else 64  # four patches


def tiny_config(family: str, width: int = 32) -> Any:
    prompts = {"hidden_size": 32, "image_size": side(family), "patch_size": 14 if family == "sam3_tracker" else 16}
    decoder = {"hidden_size": 32, "mlp_dim": 64, "iou_head_hidden_dim": 32, "num_attention_heads": 8}
    neck = {"fpn_hidden_size": 32, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}
    if family in PADDED:
        vision = {
            "hidden_size": width, "image_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "output_channels": 32, "window_size": 2, "global_attn_indexes": [1], "num_pos_feats": 16, "mlp_dim": 128,
        }  # fmt: skip
        decoder |= {"vit_dim": width} if family == "sam_hq" else {}
    elif family == "sam2":
        backbone = {
            "model_type": "sam2_hiera_det_model", "hidden_size": 16, "image_size": [64, 64],
            "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [16, 32, 64, 128],
            "num_attention_heads_per_stage": [1, 2, 4, 8], "window_size_per_stage": [4, 2, 2, 2],
            "global_attention_blocks": [3], "window_positional_embedding_background_size": [4, 4],
        }  # fmt: skip
        vision = {**neck, "backbone_config": backbone, "backbone_channel_list": [128, 64, 32, 16]}
    elif family == "edgetam":
        pytest.importorskip("timm")
        features = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
        tiny = {"embed_dim": [8, 16, 32, 64], "depth": [1, 1, 1, 1]}
        backbone = transformers.TimmWrapperConfig(architecture="repvit_m0_9", model_args=features | tiny)
        vision = {**neck, "backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8]}
    else:
        backbone = {
            "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "window_size": 2,
            "global_attn_indexes": [1], "pretrain_image_size": 28,
        }  # fmt: skip
        vision = {**neck, "backbone_config": backbone}
    if family not in PADDED:
        kind = {"sam2": "sam2_vision_model", "edgetam": "edgetam_vision_model", "sam3_tracker": "sam3_vision_model"}
        vision["model_type"] = kind[family]
    parts = {"vision_config": vision, "prompt_encoder_config": prompts, "mask_decoder_config": decoder}
    return transformers.AutoConfig.for_model(family, **parts)


def save_model(family: str, folder: Path, width: int = 32) -> Path:
    """A model in the form of the published ones, with weights under which points differ in their masks."""
    torch.manual_seed(5)
    model = transformers.AutoModelForMaskGeneration.from_config(tiny_config(family, width)).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim > 1 and "backbone" not in name:
                weights.normal_(std=1.5 / weights[0].numel() ** 0.5)
            elif name.startswith("mask_decoder.iou_prediction_head"):
                weights.fill_(0.5)  # most scores are above the threshold
    model.save_pretrained(folder)
    square = {"height": side(family), "width": side(family)}
    if family in PADDED:
        sizes = {"size": {"longest_edge": 64}, "pad_size": square}
        transformers.SamImageProcessor(**sizes).save_pretrained(folder)
    else:
        kind = transformers.Sam3ImageProcessor if family == "sam3_tracker" else transformers.Sam2ImageProcessor
        kind(size=square).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("models")

    def folder(family: str) -> Path:
        return root / family if (root / family).is_dir() else save_model(family, root / family)

    return folder


@pytest.fixture(params=FAMILIES)
def sam(request: pytest.FixtureRequest, folders: Callable[[str], Path]) -> HuggingFaceSam:
    return load_hugging_face(folders(request.param))


def picture(height: int = 48, width: int = 64) -> ImageArray:
    image = np.random.default_rng(height).integers(0, 90, (height, width, 3), dtype=np.uint8)
    image[height // 4 : height // 2, width // 3 :] += 150
    return image


@pytest.mark.parametrize("size", [(64, 64), (48, 64), (70, 50)])
def test_masks_are_those_of_the_pipeline(
    sam: HuggingFaceSam, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline puts the points of later models where a padded image would have them, which a stretched one has
    not. There it gets the coordinates that the models' own processors make."""

    def stretched(target_size: int, points: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
        return points * (target_size / torch.tensor(image_size[::-1]))

    for module in ("sam2.image_processing_sam2", "sam3.image_processing_sam3"):
        monkeypatch.setattr(f"transformers.models.{module}._normalize_coordinates", stretched)
    image = picture(*size)
    ours = AutomaticMaskGenerator(sam, SETTINGS).generate(image)
    pipeline = transformers.pipeline("mask-generation", model=sam.model, image_processor=sam.processor)
    settings = {"points_per_crop": 6, "pred_iou_thresh": 0, "stability_score_thresh": 0.05}
    theirs = pipeline(Image.fromarray(image), points_per_batch=16, crops_nms_thresh=1.0, **settings)
    assert len(ours) == len(theirs["masks"]) > 5
    np.testing.assert_allclose([one.predicted_iou for one in ours], theirs["scores"].numpy(), atol=1e-5)
    masks = np.array([one.mask for one in ours])
    assert 0.02 < masks.mean() < 0.98 and (masks != masks[0]).any()
    assert (masks == np.array(theirs["masks"])).mean() > 0.999
    usual = {"pred_iou_thresh": 0.4, "stability_score_thresh": 0.3}
    ours = AutomaticMaskGenerator(sam, dataclasses.replace(SETTINGS, **usual, box_nms_thresh=0.7)).generate(image)
    assert len(ours) == len(pipeline(Image.fromarray(image), **{**settings, **usual})["masks"])


@torch.no_grad()
def test_logits_and_scores_are_those_of_the_model(sam: HuggingFaceSam) -> None:
    image = picture()
    frame = sam.frame((48, 64))
    points = torch.tensor([[5.0, 9.0], [30.5, 20.0], [50.0, 40.0]])
    context = sam.prepare(sam.encode(image, frame), frame.input_size)
    pixels = sam.processor(images=image, return_tensors="pt")["pixel_values"]
    for prompts, given in (
        (points, {"input_points": points[None, :, None]}),
        (torch.cat([points, points + 5], 1), {"input_boxes": torch.cat([points, points + 5], 1)[None]}),
    ):
        decoded = sam.decode(context, prompts)
        expected = sam.model(pixel_values=pixels, **given, multimask_output="input_points" in given)
        torch.testing.assert_close(decoded.predicted_ious, expected.iou_scores[0])
        logits = decoded.logits(torch.arange(decoded.predicted_ious.numel()))
        torch.testing.assert_close(logits, expected.pred_masks[0].flatten(0, 1))
        assert logits.shape[-1] == frame.logits_side


@torch.no_grad()
def test_prompts_of_several_points_and_boxes(sam: HuggingFaceSam) -> None:
    image = picture()
    frame = sam.frame((48, 64))
    embedding = sam.encode(image, frame)
    pixels = sam.processor(images=image, return_tensors="pt")["pixel_values"]
    points, labels = torch.tensor([[[9.0, 9.0], [40.0, 30.0]]]), torch.tensor([[1, 0]]).int()
    boxes = torch.tensor([[5.0, 5.0, 40.0, 30.0]])
    for prompts in (PromptTensors(points, labels), PromptTensors(boxes=boxes), PromptTensors(points, labels, boxes)):
        tensors = {"input_points": prompts.points, "input_labels": prompts.labels, "input_boxes": prompts.boxes}
        given = {name: tensor[None] for name, tensor in tensors.items() if tensor is not None}
        expected = sam.model(pixel_values=pixels, **given, multimask_output=False)
        sizes = {"original_sizes": [(48, 64)], "reshaped_input_sizes": [frame.input_size]}
        [theirs] = sam.processor.post_process_masks(expected.pred_masks, **sizes)
        [mask], [score] = sam.predict(embedding, frame, prompts)
        assert (mask == theirs[0, 0].numpy()).mean() > 0.999
        assert score == pytest.approx(expected.iou_scores.item(), abs=1e-5)


def test_embeddings_are_kept_and_give_the_same_masks(sam: HuggingFaceSam) -> None:
    generator = AutomaticMaskGenerator(sam, SETTINGS)
    image = picture()
    embedding = generator.encode(image)
    assert np.array_equal(generator.label_map_from(embedding), generator.label_map(image))
    read = ImageEmbedding.from_bytes(embedding.to_bytes())
    assert len(read.finer) == len(embedding.finer)
    assert (generator.label_map_from(read) == generator.label_map_from(embedding.rounded())).all()


def test_half_precision_and_crops(sam: HuggingFaceSam) -> None:
    settings = dataclasses.replace(SETTINGS, precision="bf16", crop_n_layers=1, thermal_points=4)
    assert AutomaticMaskGenerator(sam, settings).generate(picture(), picture()[..., 0])


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (3, 3)])
def test_images_of_few_rows_and_columns(sam: HuggingFaceSam, size: tuple[int, int]) -> None:
    frame = sam.frame(size)
    image = np.zeros((*size, 3), np.uint8)
    image[..., 0] = 255
    pixels = sam.processor(images=np.tile(image[:1, :1], (64, 64, 1)), return_tensors="pt")["pixel_values"]
    seen: list[torch.Tensor] = []
    encoder = sam.model.vision_encoder
    encoder.register_forward_pre_hook(lambda _, *given: seen.extend([*given[0], *given[1].values()]), with_kwargs=True)
    sam.encode(image, frame)
    height, width = frame.input_size
    torch.testing.assert_close(seen[0][..., :height, :width], pixels[..., :height, :width])
    assert AutomaticMaskGenerator(sam, SETTINGS).label_map(image).shape == size


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for modality in ("ir", "vi"):
        write_image(Path("data") / modality / "a.png", picture())
    return tmp_path


FAST = ("--points_per_side", "3", "--pred_iou_thresh", "0", "--stability_score_thresh", "0", "--device", "cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_precompute_goes_on_and_knows_its_model(
    work: Path, folders: Callable[[str], Path], family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset_path", "data", "--sam_model_type", "hf", *FAST, "--save_embeddings"]
    assert precompute.main([*given, "--sam_checkpoint", str(folders(family))]) == 0
    signature = json.loads(Path("precomputed_masks/manifest.json").read_text())["signature"]
    assert signature["checkpoint_sha256"] == hugging_face.weights_sha256(folders(family))
    times = {path: path.stat().st_mtime_ns for path in Path("precomputed_masks").rglob("*.npy")}
    assert len(times) == 2
    assert precompute.main([*given, "--sam_checkpoint", str(folders(family))]) == 0
    assert times == {path: path.stat().st_mtime_ns for path in times}
    other = save_model(family, work / "other", width=64) if family in PADDED else folders("sam")
    assert precompute.main([*given, "--sam_checkpoint", str(other)]) == 2
    assert "checkpoint" in capsys.readouterr().err


def test_predict_takes_points_boxes_and_nothing(work: Path, folders: Callable[[str], Path]) -> None:
    given = ["--input", "data/vi/a.png", "--sam_checkpoint", str(folders("sam2")), "--format", "npy"]
    assert predict.main([*given, "--points", "20,20", "--boxes", "5,5,40,30", "--output_dir", "prompted"]) == 0
    assert predict.main([*given, *FAST, "--output_dir", "all"]) == 0
    assert np.load("prompted/a.npy").shape == np.load("all/a.npy").shape == (48, 64)


def test_the_app_and_live_masks_agree(work: Path, folders: Callable[[str], Path]) -> None:
    generator = AutomaticMaskGenerator(load_hugging_face(folders("sam2")), SETTINGS)
    session = FusionSession(build_network("thfuse_lite"), generator, torch.device("cpu"))
    pair = session.open(Path("data/ir/a.png"), Path("data/vi/a.png"))
    view = session.fuse(pair, session.thresholds)
    assert view.vi_labels.any()
    assert np.array_equal(view.vi_labels, generator.label_map(picture()))
    assert LiveMasks(generator.label_map) is not None


def test_fine_tuning_says_that_it_cannot(
    work: Path, folders: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data_dir", "data", "--sam_model_type", "hf", "--sam_checkpoint", str(folders("sam2"))]
    assert finetune.main(given) == 2
    assert "--sam_model_type hf: finetune.py cannot train" in capsys.readouterr().err


def published_form(folder: Path, family: str, copy: Path) -> Path:
    """A model of images as a part of the one for video, as SAM 2, EdgeTAM and SAM 3 are published."""
    shutil.copytree(folder, copy)
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors") | {"memory_attention.layers.0.weight": torch.zeros(2)}
    if family == "sam3_video":
        config = {"tracker_config": config}
        shared = re.compile(r"^tracker_model\.(?=detector_model\.|tracker_neck\.)")
        weights = {shared.sub("", name): value for name, value in weights.items()}
        weights["detector_model.query_embed.weight"] = torch.zeros(2)
    (copy / "config.json").write_text(json.dumps({**config, "model_type": family}))
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return copy


@pytest.mark.parametrize(
    ("family", "published"), [("sam2", "sam2_video"), ("edgetam", "edgetam_video"), ("sam3_tracker", "sam3_video")]
)
def test_the_image_part_of_a_model_for_video(
    folders: Callable[[str], Path], family: str, published: str, tmp_path: Path
) -> None:
    copy = published_form(folders(family), published, tmp_path / "video")
    models = [load_hugging_face(each) for each in (folders(family), copy)]
    masks = [AutomaticMaskGenerator(model, SETTINGS).label_map(picture()) for model in models]
    assert np.array_equal(*masks) and masks[0].any()


def vit_of_one_block() -> Sam:
    encoder = ImageEncoderViT(
        img_size=64, embed_dim=768, depth=2, num_heads=2, mlp_ratio=1 / 6, out_chans=32, use_rel_pos=True,
        window_size=2, global_attn_indexes=(1,),
    )  # fmt: skip
    return assemble_sam(encoder, 64, 32, 64)


def test_segment_anything_of_2023_takes_the_fast_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = registry.ModelType("vit_b", vit_of_one_block, "vit_b.pth", None, None)
    monkeypatch.setitem(registry.MODEL_TYPES, "vit_b", kind)
    folder = save_model("sam", tmp_path / "sam", width=768)
    resolved = resolve_sam("hf", folder)
    assert (resolved.model_type, resolved.checkpoint) == ("vit_b", folder / "model.safetensors")
    settings = dataclasses.replace(SETTINGS, pred_iou_thresh=0, stability_score_thresh=0)
    fast = AutomaticMaskGenerator(load_sam(resolved), settings)
    slow = AutomaticMaskGenerator(load_hugging_face(folder), settings)
    image = picture(64, 64)  # the two resize images by different libraries
    first, second = fast.generate(image), slow.generate(image)
    assert len(first) == len(second) > 5
    assert np.mean([one.mask == other.mask for one, other in zip(first, second, strict=True)]) > 0.999


def test_a_licence_with_conditions_is_told_once(
    folders: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    hugging_face._tell_sam3_licence.cache_clear()
    with caplog.at_level(logging.WARNING):
        load_hugging_face(folders("sam3_tracker"))
        load_hugging_face(folders("sam3_tracker"))
        load_hugging_face(folders("sam2"))
    assert [record.message for record in caplog.records if "military" in record.message] == caplog.messages
    assert len(caplog.messages) == 1


def emptied(folder: Path) -> None:
    (folder / "config.json").unlink()


def of_another_family(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "bert"}')


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])


def lacking_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["mask_decoder.mask_tokens.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def lacking_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "../model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def without_preprocessing(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def shown_otherwise(folder: Path) -> None:
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "size": {"height": 128, "width": 128}}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (emptied, r"folder without config\.json"),
        (of_another_family, r"type bert.*known are sam, sam_hq, sam2, sam2_video, edgetam,.* sam3_video"),
        (pickled, r"holds no model\.safetensors.*may hold code"),
        (truncated, r"cannot be loaded"),
        (lacking_weights, r"lacks weights of a sam2 \(mask_decoder\.mask_tokens"),
        (lacking_a_shard, r"lacks weights \(\.\./model-00002"),
        (without_preprocessing, r"cannot be loaded"),
        (shown_otherwise, r"makes images of 128 pixels, the model takes 64"),
    ],
)
def test_folders_that_are_no_models(
    folders: Callable[[str], Path], tmp_path: Path, damage: Callable[[Path], None], words: str
) -> None:
    folder = Path(shutil.copytree(folders("sam2"), tmp_path / "damaged"))
    damage(folder)
    with pytest.raises(CheckpointError, match=words) as caught:
        resolved = resolve_sam("auto", folder)
        load_sam(resolved)
    assert str(caught.value).startswith(str(folder)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            "facebook/sam2.1-hiera-tiny",
            "no such folder, and the model cannot be downloaded .HF_HUB_OFFLINE is set.; .*'hf download facebook/sam2",
        ),
        ("no_such_folder", "is no folder; give"),
        ("a/b/c", "is no folder; give"),
    ],
)
def test_names_without_network(
    work: Path, model: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(work / "cache"))
    given = ["--dataset_path", "data", "--sam_model_type", "hf", *FAST]
    assert precompute.main([*given, "--sam_checkpoint", model]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert f"--sam_checkpoint {model}: " in line
    assert re.search(words, line)
    assert precompute.main(given) == 2
    assert "such as facebook/sam2.1-hiera-tiny" in capsys.readouterr().err


def test_without_transformers(
    work: Path, folders: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    given = ["--dataset_path", "data", "--sam_checkpoint", str(folders("sam2")), *FAST]
    assert precompute.main(given) == 2
    assert "pip install 'th-fuse-sam[hf]'" in capsys.readouterr().err
