"""`prepare_data.py`."""

from collections.abc import Sequence

from thfuse_sam.cli.parser import CommandLine, CommandParser
from thfuse_sam.cli.run import run
from thfuse_sam.options.prepare import PrepareOptions


def build_parser() -> CommandParser[PrepareOptions]:
    return CommandParser(
        "prepare_data.py",
        "Check annotated images of any known format, turn them into label maps, look at them. The formats are in "
        "docs/finetuning_data.md.",
        PrepareOptions,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run(build_parser(), _work, argv)


def _work(command: CommandLine[PrepareOptions]) -> int:
    from thfuse_sam.commands.prepare import prepare_data

    prepare_data(command.options)
    return 0
