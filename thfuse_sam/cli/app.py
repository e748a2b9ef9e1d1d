"""`thfuse-app`."""

from collections.abc import Sequence

from thfuse_sam.cli.parser import CommandLine, CommandParser
from thfuse_sam.cli.run import run
from thfuse_sam.options.app import AppOptions


def build_parser() -> CommandParser[AppOptions]:
    return CommandParser("thfuse-app", "Fuse pairs of your own in a browser.", AppOptions)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command until it is interrupted; returns its exit status."""
    return run(build_parser(), _work, argv)


def _work(command: CommandLine[AppOptions]) -> int:
    from thfuse_sam.commands.app import serve

    serve(command.options)
    return 0
