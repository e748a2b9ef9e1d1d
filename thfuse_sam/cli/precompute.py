"""`precompute_masks.py`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from thfuse_sam.cli.parser import CommandLine, CommandParser
from thfuse_sam.cli.run import run
from thfuse_sam.options.precompute import PrecomputeOptions

if TYPE_CHECKING:
    from thfuse_sam.commands.precompute import CheckedTree

SHOWN_PROBLEMS = 50  # lines of `--verify` before it only counts


def build_parser() -> CommandParser[PrecomputeOptions]:
    return CommandParser(
        "precompute_masks.py",
        "Make SAM masks of infrared and visible images once, for train.py and test.py. Finished masks are kept: "
        "the same command goes on where an earlier one stopped.",
        PrecomputeOptions,
        dry_run="print what would be done and stop",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    return run(build_parser(), _work, argv)


def _work(command: CommandLine[PrecomputeOptions]) -> int:
    from thfuse_sam.commands.precompute import plan_masks, precompute_masks, verify_masks

    options = command.options
    if options.verify:
        return max(_print_problems(tree) for tree in verify_masks(options))
    if command.dry_run:
        for plan in plan_masks(options):
            print("dry run, nothing is written", *(f"  {name}: {value}" for name, value in plan.items()), sep="\n")
        return 0
    return 1 if precompute_masks(options, command.text)[-1].failures else 0


def _print_problems(tree: "CheckedTree") -> int:
    problems = tree.report.problems()
    for problem in problems[:SHOWN_PROBLEMS]:
        print(problem)
    if len(problems) > SHOWN_PROBLEMS:
        print(f"and {len(problems) - SHOWN_PROBLEMS} more")
    verdict = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}" if problems else "no problem"
    print(f"{tree.root}: {tree.report.sound} of {tree.images} images have a sound mask; {verdict}")
    return 1 if problems else 0
