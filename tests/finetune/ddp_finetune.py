"""Run by `torchrun` in a test: three steps of fine-tuning; every process writes the weights that it ends with.

Arguments: base checkpoint, output folder, images a process and batch.
"""

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from fake_objects import FakeObjects

from thfuse_sam.datasets.prompts import PromptMix
from thfuse_sam.files import file_sha256
from thfuse_sam.finetune.training import FinetuneTask
from thfuse_sam.losses.segmentation import SegmentationLoss
from thfuse_sam.options.training import FinetuneSettings
from thfuse_sam.sam.adapt import Adaptation
from thfuse_sam.sam.checkpoints import ResolvedSam
from thfuse_sam.sam.registry import build_sam
from thfuse_sam.training.random_state import set_seed
from thfuse_sam.training.trainer import Trainer


def main() -> None:
    base, folder, batch_size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    set_seed(0)
    sam = build_sam("vit_nano", base)
    task = FinetuneTask(
        sam,
        ResolvedSam("vit_nano", base, file_sha256(base)),
        Adaptation(),
        SegmentationLoss(),
        PromptMix(box=1.0, point=1.0, mask=0.5),
        FakeObjects(10),
        FakeObjects(3),
        FinetuneSettings(
            epochs=1, batch_size=batch_size, lr=0.1, warmup_steps=1, max_steps=3, sub_iterations=2, flip=0.5
        ),
    )
    trainer = Trainer(task, device=torch.device("cpu"), output_dir=folder)
    # Adam makes steps of full size from gradients that are nothing but rounding (biases before a softmax).
    trained = [value for value in sam.parameters() if value.requires_grad]
    trainer.optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)  # type: ignore[assignment]
    result = trainer.run()
    assert result.step == 3
    torch.save(
        {"weights": sam.state_dict(), "best": result.best, "tuned": task.fine_tuned},
        folder / f"rank{os.environ.get('RANK', '0')}.pt",
    )


if __name__ == "__main__":
    main()
