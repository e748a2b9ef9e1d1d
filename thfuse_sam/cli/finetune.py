"""`finetune.py`."""

import json
from collections.abc import Sequence

from thfuse_sam.cli.parser import CommandLine, CommandParser
from thfuse_sam.cli.run import report_stop, run
from thfuse_sam.options.finetune import FinetuneOptions


def build_parser() -> CommandParser[FinetuneOptions]:
    return CommandParser(
        "finetune.py",
        "Fine-tune a Segment Anything model on annotated images (formats: docs/finetuning_data.md). Trained weights, "
        "logs and what --resume needs go to OUTPUT_DIR/EXP_NAME. docs/finetuning.md explains the options.",
        FinetuneOptions,
        dry_run="check everything, print the plan, write nothing",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run(build_parser(), _work, argv)


def _work(command: CommandLine[FinetuneOptions]) -> int:
    from thfuse_sam.commands.finetune import export_trained, finetune, plan_finetuning
    from thfuse_sam.finetune.evaluation import result_table

    options = command.options
    if options.data_dir is None:
        export_trained(options)
        return 0
    if command.dry_run:
        print(json.dumps(plan_finetuning(options, options.data_dir), indent=2))
        return 0
    tuning = finetune(options, options.data_dir, command.text)
    if tuning.run.interrupted:
        return report_stop(command, tuning.run.step, tuning.run.latest)
    if tuning.fine_tuned:
        print(result_table({"zero-shot": tuning.zero_shot, "fine-tuned": tuning.fine_tuned}))
    return 0
