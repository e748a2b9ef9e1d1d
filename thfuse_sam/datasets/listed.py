"""Pairs that are named one by one: files or globs of both modalities, or a table."""

import csv
import glob
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from thfuse_sam.datasets.naming import Naming, likely_naming
from thfuse_sam.datasets.pairs import ImagePair, PairSet
from thfuse_sam.errors import PairError
from thfuse_sam.folder_patterns import NAME, by_number, name_in

STANDARD_INPUT = Path("-")
_EQUAL = Naming(NAME, NAME)

log = logging.getLogger(__name__)


def pairs_of_files(ir: Sequence[str], vi: Sequence[str]) -> PairSet:
    """Pairs of the files that two lists of paths and globs name: by their names, else in their order.

    Raises PairError: nothing found, unequal numbers, or names of which only some are pairs.
    """
    files = {"ir": _expand("ir", ir), "vi": _expand("vi", vi)}
    numbers = {key: len(paths) for key, paths in files.items()}
    if numbers["ir"] != numbers["vi"]:
        raise PairError(f"`ir` names {numbers['ir']} files and `vi` {numbers['vi']}; give a partner to each")
    stems = {key: [path.stem for path in paths] for key, paths in files.items()}
    usual = likely_naming(*stems.values(), known=True)
    naming = max(filter(None, (_EQUAL, usual)), key=lambda naming: naming.pairs(*stems.values()))
    count = naming.pairs(*stems.values())
    if count == numbers["ir"]:
        partners = {name_in(path.stem, naming.vi): path for path in files["vi"]}
        return _pair_set(
            (path, partners[name], str(name)) for path in files["ir"] if (name := name_in(path.stem, naming.ir))
        )
    rows = list(zip(files["ir"], files["vi"], strict=True))
    is_unique = len({*stems["ir"]}) == len(rows)  # if not, the error about equal names says it
    if is_unique and len(rows) > 1 and count and any(one.stem != other.stem for one, other in rows):
        raise PairError(
            f"by their names only {count} of {len(rows)} files are pairs; leave the others out, or name all pairs in a "
            "table, `pairs`"
        )
    if is_unique and len(rows) > 1:
        log.warning("pairs: names tell none, so they are in the order of the files, such as %s and %s", *rows[0])
    return _pair_set((one, other, one.stem) for one, other in rows)


def pairs_of_table(path: Path, *, skip_bad: bool = False) -> PairSet:
    """The pairs of a CSV file of lines `ir,vi` or `ir,vi,name`, with or without those words as its first line.

    Paths in it are relative to its folder; of STANDARD_INPUT, to the present one. With `skip_bad`, pairs whose files
    are missing are among them, as those are whose files are broken. Raises PairError.
    """
    try:
        if path == STANDARD_INPUT:
            lines, base = sys.stdin.read().splitlines(), Path()
        else:
            lines, base = path.read_text(encoding="utf-8-sig").splitlines(), path.parent
        delimiter = next((mark for mark in ",;\t" if lines and mark in lines[0]), ",")  # spreadsheets have their own
        table = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter) if any(row)]
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "no CSV text in UTF-8"
        raise PairError(f"`pairs` {path}: {reason}; give a CSV file of lines ir,vi") from error
    columns = ["ir", "vi", "name"]
    if table and {cell.casefold() for cell in table[0]} >= {"ir", "vi"}:
        columns = [cell.casefold() for cell in table.pop(0)]
    rows = []
    for number, row in enumerate(table, 1):
        cells = dict(zip(columns, row, strict=False))
        if not cells.get("ir") or not cells.get("vi") or len(row) > len(columns):
            raise PairError(f"`pairs` {path}: row {number} is {','.join(row)!r}; write ir,vi or ir,vi,name")
        ir, vi = base / cells["ir"], base / cells["vi"]
        missing = next((file for file in (ir, vi) if not file.is_file()), None)
        if missing is not None and not skip_bad:
            raise PairError(
                f"`pairs` {path}: row {number}: no file {missing}; paths count from the table's folder; `skip_bad` "
                "leaves such rows out"
            )
        name = cells.get("name") or (ir.stem if missing else pairs_of_files([str(ir)], [str(vi)]).pairs[0].name)
        rows.append((ir, vi, name))
    if not rows:
        raise PairError(f"`pairs` {path}: has no row; write a line ir,vi for each pair")
    return _pair_set(rows)


def _expand(option: str, texts: Sequence[str]) -> list[Path]:
    """The files that paths and globs name; those of a glob in the order of their names. Raises PairError."""
    paths = []
    for text in texts:
        if Path(text).is_dir():
            raise PairError(f"`{option}` {text}: is a folder; give two files, or two folders as `ir_dir` and `vi_dir`")
        found = [text] if Path(text).is_file() else sorted(glob.glob(text, recursive=True), key=by_number)  # noqa: PTH207, for absolute ones too
        if not found:
            raise PairError(f"`{option}` {text}: no such file; check the path")
        paths += [Path(path) for path in found]
    return paths


def _pair_set(rows: Iterable[tuple[Path, Path, str]]) -> PairSet:
    pairs: dict[str, ImagePair] = {}
    for ir, vi, name in rows:
        if Path(name).is_absolute() or {"", ".", ".."} & {*name.split("/")}:
            raise PairError(f"the name {name!r} of {ir} and {vi} leads out of a folder; give a relative one")
        if name in pairs:
            raise PairError(f"two pairs are named {name!r}: {pairs[name].ir} and {ir}; name them in a table, `pairs`")
        pairs[name] = ImagePair(name, ir, vi)
    first = next(iter(pairs.values()))
    ir_dir, vi_dir = first.ir.parent, first.vi.parent
    given = {"ir_dir": ir_dir, "vi_dir": vi_dir} if ir_dir != vi_dir else {}  # one folder says not which are infrared
    return PairSet(list(pairs.values()), ir_dir, vi_dir, {}, {}, given=given)
