"""The commands, each with its description and its work, whose heavy imports wait until the options are checked."""

import json
from typing import TYPE_CHECKING

from thfuse_sam.cli.parser import CommandLine, spell_options
from thfuse_sam.cli.run import command, report_stop
from thfuse_sam.errors import counted
from thfuse_sam.options.align import AlignOptions
from thfuse_sam.options.app import AppOptions
from thfuse_sam.options.compare import CompareOptions
from thfuse_sam.options.figure import FigureOptions
from thfuse_sam.options.finetune import FinetuneOptions
from thfuse_sam.options.fuse import FuseOptions
from thfuse_sam.options.precompute import PrecomputeOptions
from thfuse_sam.options.predict import PredictOptions
from thfuse_sam.options.prepare import PrepareOptions
from thfuse_sam.options.train import TrainOptions
from thfuse_sam.options.video import VideoOptions

if TYPE_CHECKING:
    from thfuse_sam.masks.verify import VerifyReport

PLAN = "check everything, print the plan, write nothing"  # help of `--dry_run`
SHOWN_PROBLEMS = 50  # lines of `--verify` before it only counts


@command(
    "precompute_masks.py",
    "Make SAM masks of infrared and visible images once, for `train()` and `fuse()`. Finished masks are kept: "
    "the same command continues where an earlier one stopped.",
    PrecomputeOptions,
    dry_run="print what would be done and stop",
)
def precompute(line: CommandLine[PrecomputeOptions]) -> int:
    from thfuse_sam.commands.precompute import plan_masks, precompute_masks
    from thfuse_sam.commands.verify import verify_masks

    if line.options.verify:
        return max(_print_problems(report) for report in verify_masks(line.options))
    if line.dry_run:
        for plan in plan_masks(line.options):
            print("dry run, nothing is written", *(f"  {name}: {value}" for name, value in plan.items()), sep="\n")
        return 0
    return 1 if precompute_masks(line.options, line.text)[-1].failures else 0


def _print_problems(report: "VerifyReport") -> int:
    problems = report.problems()
    for problem in problems[:SHOWN_PROBLEMS]:
        print(spell_options(problem))
    if len(problems) > SHOWN_PROBLEMS:
        print(f"and {len(problems) - SHOWN_PROBLEMS} more")
    verdict = counted(len(problems), "problem") if problems else "no problem"
    print(f"{report.root}: {report.sound} of {report.images} images have a sound mask; {verdict}")
    return 1 if problems else 0


@command("train.py", "Train a fusion network on pairs of infrared and visible images.", TrainOptions, dry_run=PLAN)
def train(line: CommandLine[TrainOptions]) -> int:
    from thfuse_sam.commands.train import plan_training, train

    if line.dry_run:
        print(json.dumps(plan_training(line.options), indent=2))
        return 0
    result = train(line.options, line.text)
    return report_stop(line, result.step, result.latest) if result.interrupted else 0


@command("test.py", "Fuse pairs of infrared and visible images with a trained network.", FuseOptions, dry_run=PLAN)
def test(line: CommandLine[FuseOptions]) -> int:
    from thfuse_sam.commands.fuse import export_network, fuse, plan_fusion

    options = line.options
    if options.export_onnx is not None:
        export_network(options, options.export_onnx)
        return 0
    if line.dry_run:
        print(json.dumps(plan_fusion(options), indent=2))
        return 0
    report = fuse(options, line.text)
    return 1 if report.failures or report.unpaired else 0


@command(
    "thfuse-video",
    "Fuse an infrared and a visible video, or two live streams, into a video. docs/video.md explains the options.",
    VideoOptions,
)
def video(line: CommandLine[VideoOptions]) -> None:
    line.options.require_free()  # before seconds of imports

    from thfuse_sam.commands.video import fuse_video

    report = fuse_video(line.options)
    if report.interrupted:
        there = f"{line.options.output} holds what was fused up to here" if report.frames else "nothing was written"
        raise KeyboardInterrupt(there)


@command(
    "thfuse-compare",
    "Compare fused images of several methods: metrics, mean ranks, and how labelled objects stand out. Methods may be "
    "folders of images, or programs that fuse the pairs here and now.",
    CompareOptions,
)
def compare(line: CommandLine[CompareOptions]) -> int:
    from thfuse_sam.commands.compare import compare
    from thfuse_sam.report.measures import comparison_text

    comparison = compare(line.options, line.text)
    print(comparison_text(comparison))
    return 1 if comparison.left_out else 0


@command(
    "thfuse-align",
    "Bring infrared images onto visible ones, pair by pair or by a rig file, or calibrate the rig of two cameras that "
    "are fixed to each other. docs/alignment.md explains what it can and cannot do.",
    AlignOptions,
)
def align(line: CommandLine[AlignOptions]) -> int:
    from thfuse_sam.commands.align import align, calibrate_rig

    if line.options.calibrate is not None:
        calibrate_rig(line.options)
        return 0
    return 1 if align(line.options).failures else 0


@command(
    "thfuse-figure",
    "Lay out pairs and their fused images for a paper, with marked zoom-ins, as PNG and PDF.",
    FigureOptions,
)
def figure(line: CommandLine[FigureOptions]) -> None:
    from thfuse_sam.commands.figure import make_figure

    make_figure(line.options)


@command("thfuse-app", "Serve a page on which pairs are fused in a browser.", AppOptions)
def app(line: CommandLine[AppOptions]) -> None:
    from thfuse_sam.commands.app import serve

    serve(line.options)


@command(
    "prepare_data.py",
    "Check annotated images, write them as a data set of label maps, or draw them. The known formats are in "
    "docs/finetuning_data.md.",
    PrepareOptions,
)
def prepare(line: CommandLine[PrepareOptions]) -> None:
    from thfuse_sam.commands.prepare import prepare_data

    prepare_data(line.options)


@command(
    "finetune.py",
    "Fine-tune a Segment Anything model on annotated images (formats: docs/finetuning_data.md). Trained weights, "
    "logs and the checkpoints for --resume go to OUTPUT_DIR/EXP_NAME. docs/finetuning.md explains the options.",
    FinetuneOptions,
    dry_run=PLAN,
)
def finetune(line: CommandLine[FinetuneOptions]) -> int:
    from thfuse_sam.commands.finetune import export_trained, finetune, plan_finetuning
    from thfuse_sam.report.finetune import result_table

    options = line.options
    if line.dry_run:
        print(json.dumps(plan_finetuning(options), indent=2))
        return 0
    if options.data_dir is None:
        export_trained(options)
        return 0
    tuning = finetune(options, line.text)
    if tuning.run.interrupted:
        return report_stop(line, tuning.run.step, tuning.run.latest)
    if tuning.fine_tuned:
        print(result_table({"zero-shot": tuning.zero_shot, "fine-tuned": tuning.fine_tuned}))
    return 0


@command(
    "predict.py",
    "Make masks of an image, or of all images in a folder: one mask for each prompt, or, without any prompt, masks "
    "of everything.",
    PredictOptions,
)
def predict(line: CommandLine[PredictOptions]) -> int:
    from thfuse_sam.commands.predict import export_model, predict_masks

    if line.options.export_onnx is not None:
        export_model(line.options, line.options.export_onnx)
        return 0
    return 1 if predict_masks(line.options).failures else 0
