"""`thfuse-figure`."""

from collections.abc import Sequence

from thfuse_sam.cli.parser import CommandLine, CommandParser
from thfuse_sam.cli.run import run
from thfuse_sam.options.figure import FigureOptions


def build_parser() -> CommandParser[FigureOptions]:
    return CommandParser(
        "thfuse-figure",
        "Lay out pairs and their fused images for a paper, with marked zoom-ins, as PNG and PDF.",
        FigureOptions,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run(build_parser(), _work, argv)


def _work(command: CommandLine[FigureOptions]) -> int:
    from thfuse_sam.commands.figure import make_figure

    make_figure(command.options)
    return 0
