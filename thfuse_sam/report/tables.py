"""Tables as text."""

import math
from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]], text_columns: int = 1) -> str:
    """The first `text_columns` are aligned to the left, figures to the right."""
    alignments = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (header, *rows)]
    lines.insert(1, f"|{'|'.join(alignments)}|")
    return "\n".join(lines)


def figure_text(value: float, digits: str = ".4g") -> str:
    """A figure as tables show it; a dash where it is undefined."""
    return format(value, digits) if math.isfinite(value) else "–"
