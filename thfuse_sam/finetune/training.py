"""Fine-tuning of a Segment Anything model: its samples, evaluation and files. `training.trainer` does the rest."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning_fabric
import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from thfuse_sam.datasets.prompts import PromptMix
from thfuse_sam.datasets.segmentation import SegmentationDataset
from thfuse_sam.errors import UsageError
from thfuse_sam.files import file_sha256, write_json
from thfuse_sam.finetune.embedding_cache import EmbeddingCache
from thfuse_sam.finetune.evaluation import Results, evaluate_sam, mean_iou
from thfuse_sam.finetune.model import PromptedSam
from thfuse_sam.finetune.samples import PromptedSamples, collate
from thfuse_sam.losses.segmentation import SegmentationLoss
from thfuse_sam.options.training import FinetuneSettings
from thfuse_sam.sam.adapt import Adaptation, load_trained_state, prepare, trained_state
from thfuse_sam.sam.checkpoints import ResolvedSam
from thfuse_sam.sam.export import save_trained
from thfuse_sam.sam.weights import read_weights
from thfuse_sam.training.batches import Batch
from thfuse_sam.training.checkpoint import Checkpoint, NetworkSpec
from thfuse_sam.training.resuming import EVALUATION
from thfuse_sam.training.task import Evaluation, ShowPicture, TrainingTask

log = logging.getLogger(__name__)


class FinetuneTask(TrainingTask):
    """Trains parts of a Segment Anything model on prompts of annotated objects.

    Attributes:
        zero_shot: results of the model before training; empty without a validation set.
        fine_tuned: results of the best weights, which the model holds when a run has finished.
    """

    sample_noun = "images"
    best_file = "best.safetensors"
    latest_file = "latest.safetensors"
    options_file = "finetune_options.json"
    must_match = ("n_objects", "sub_iterations", "flip")
    may_differ = frozenset(
        ("base_checkpoint", "cache_embeddings", "dist", "exp_name", "export", "port", "sam_checkpoint")
    ) | {"sam_model_type"}
    module: PromptedSam
    train_set: PromptedSamples
    settings: FinetuneSettings

    def __init__(
        self,
        sam: Sam,
        base: ResolvedSam,
        adaptation: Adaptation,
        loss: SegmentationLoss,
        mix: PromptMix,
        train_set: SegmentationDataset,
        val_set: SegmentationDataset | None,
        settings: FinetuneSettings,
        *,
        cache: EmbeddingCache | None = None,
    ) -> None:
        """`sam` holds the weights of `base` and is adapted in place. `cache` needs a fixed encoder."""
        if cache is not None and not adaptation.encoder_is_fixed:
            raise ValueError("embeddings of an encoder in training cannot be kept")
        prepare(sam, adaptation)
        samples = PromptedSamples(
            train_set,
            sam.image_encoder.img_size,
            mix,
            n_objects=settings.n_objects,
            seed=settings.seed,
            flip=settings.flip or 0.0,
            cache=cache,
        )
        lora = None if adaptation.lora is None else asdict(adaptation.lora)
        spec = NetworkSpec(
            base.model_type, {"base_sha256": base.sha256, "frozen": list(adaptation.frozen), "lora": lora}
        )
        model = PromptedSam(sam, adaptation, loss, sub_iterations=settings.sub_iterations, cache=cache)
        super().__init__(model, spec, samples, val_set, settings)
        self.collate = collate
        self.sam, self.base, self.adaptation = sam, base, adaptation
        self.zero_shot: Results = {}
        self.fine_tuned: Results = {}
        self._cache = cache
        # Now, because the names in a mixture change with its epochs.
        self._images = {"train": _digest(train_set), "val": None if val_set is None else _digest(val_set)}

    def compiled(self) -> nn.Module:
        """The image encoder alone is compiled, in place: the decoder's inputs change shape with every batch."""
        self.sam.image_encoder.compile()
        return self.module

    def loss(self, network: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        parts: Mapping[str, Tensor] = network(batch)
        return parts

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"objects": sum(len(sample.targets) for sample in batch["samples"].items)}

    def start(self, fabric: lightning_fabric.Fabric) -> None:
        if self.val_set is not None and not self.zero_shot:
            self.zero_shot = self._results(fabric, full=True)
            log.info("before training: mean IoU %.4f", mean_iou(self.zero_shot))

    def evaluate(self, fabric: lightning_fabric.Fabric, show: ShowPicture | None) -> Evaluation:
        """1 - mean IoU over all objects and kinds of prompts is the score."""
        results = self._results(fabric, full=False)
        values = {
            f"{kind}_{name}": value
            for kind, figures in results.items()
            for name, value in figures.items()
            if name != "objects"
        }
        summary = ", ".join(f"{kind} IoU {figures['iou']:.4f}" for kind, figures in results.items())
        return Evaluation(1 - mean_iou(results), values, summary)

    def finish(self, fabric: lightning_fabric.Fabric, output_dir: Path) -> None:
        """Load the best weights into the model; write their results beside those from before training."""
        path = output_dir / self.best_file
        if not path.is_file():
            return
        self.load_weights(read_weights(path), path)
        if self.val_set is None:
            return
        self.fine_tuned = self._results(fabric, full=True)
        if fabric.is_global_zero:
            results = {"zero_shot": self.zero_shot, "fine_tuned": self.fine_tuned}
            write_json(output_dir / EVALUATION, {**results, "weights_sha256": file_sha256(path)})

    def weights(self) -> dict[str, Tensor]:
        return trained_state(self.sam, self.adaptation)

    def load_weights(self, weights: Mapping[str, Tensor], path: Path) -> None:
        load_trained_state(self.sam, self.adaptation, weights, path)

    def state(self) -> dict[str, Any]:
        return {"zero_shot": self.zero_shot, "images": self._images}

    def load_state(self, state: Mapping[str, Any]) -> None:
        former = state.get("images", self._images)  # earlier versions did not keep them
        for part, use in (("train", "trained"), ("val", "validated")):
            if former[part] != self._images[part]:
                raise UsageError(
                    f"`resume`: the run was {use} on other images; give the same `data_dir`, `val_dir` and "
                    "`val_fraction`, or start without `resume`"
                )
        self.zero_shot = dict(state.get("zero_shot", {}))

    def kept_file(self, epoch: int) -> str:
        return f"epoch{epoch}.safetensors"

    def save(self, path: Path, checkpoint: Checkpoint) -> None:
        save_trained(path, checkpoint.weights, self.base.trained_header(self.adaptation))

    def describe_other(self, spec: NetworkSpec) -> str:
        return (
            f"tunes another checkpoint or other parts of it ({spec.options}); "
            "give the same `sam_checkpoint`, `freeze_...` and `lora_rank`, or start without `resume`"
        )

    def _results(self, fabric: lightning_fabric.Fabric, *, full: bool) -> Results:
        self.module.eval()
        with torch.no_grad(), fabric.autocast():
            return evaluate_sam(
                self.sam,
                self.val_set,
                n_objects=self.settings.n_objects,
                seed=self.settings.seed,
                cache=self._cache,
                full=full,
            )


def _digest(dataset: SegmentationDataset) -> str:
    """A digest of the names of a data set's images."""
    return hashlib.sha256("\n".join(dataset.names).encode()).hexdigest()
