"""`train.py`."""

import json
from collections.abc import Sequence

from thfuse_sam.cli.parser import CommandLine, CommandParser
from thfuse_sam.cli.run import report_stop, run
from thfuse_sam.options.train import TrainOptions


def build_parser() -> CommandParser[TrainOptions]:
    return CommandParser(
        "train.py",
        "Train a fusion network on pairs of infrared and visible images.",
        TrainOptions,
        dry_run="check everything, print the plan, write nothing",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run(build_parser(), _work, argv)


def _work(command: CommandLine[TrainOptions]) -> int:
    from thfuse_sam.commands.train import plan_training, train

    if command.dry_run:
        print(json.dumps(plan_training(command.options), indent=2))
        return 0
    result = train(command.options, command.text)
    return report_stop(command, result.step, result.latest) if result.interrupted else 0
