"""`predict.py`."""

from collections.abc import Sequence

from thfuse_sam.cli.parser import CommandLine, CommandParser
from thfuse_sam.cli.run import run
from thfuse_sam.options.predict import PredictOptions


def build_parser() -> CommandParser[PredictOptions]:
    return CommandParser(
        "predict.py",
        "Masks of an image, or of all images in a folder: one for each prompt, or of everything (without a prompt).",
        PredictOptions,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run(build_parser(), _work, argv)


def _work(command: CommandLine[PredictOptions]) -> int:
    from thfuse_sam.commands.predict import predict_masks

    return 1 if predict_masks(command.options).failures else 0
