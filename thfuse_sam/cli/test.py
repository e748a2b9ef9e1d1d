"""`test.py`."""

import json
from collections.abc import Sequence

from thfuse_sam.cli.parser import CommandLine, CommandParser
from thfuse_sam.cli.run import run
from thfuse_sam.options.fuse import FuseOptions


def build_parser() -> CommandParser[FuseOptions]:
    return CommandParser(
        "test.py",
        "Fuse pairs of infrared and visible images with a trained network.",
        FuseOptions,
        dry_run="check everything, print the plan, write nothing",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run(build_parser(), _work, argv)


def _work(command: CommandLine[FuseOptions]) -> int:
    from thfuse_sam.commands.fuse import export_network, fuse, plan_fusion

    options = command.options
    if options.export_onnx is not None:
        export_network(options, options.export_onnx)
        return 0
    if command.dry_run:
        print(json.dumps(plan_fusion(options), indent=2))
        return 0
    return 0 if fuse(options, command.text).is_whole else 1
