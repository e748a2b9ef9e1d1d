"""How the two images of a scene are told apart by their file names, where these are not equal: `1_ir` and `1_vis`."""

import itertools
import re
from collections.abc import Collection, Iterator
from difflib import SequenceMatcher
from typing import NamedTuple

from thfuse_sam.datasets.words import IR_WORDS, VI_WORDS
from thfuse_sam.folder_patterns import NAME, name_of_scene

_SEPARATORS = "_-. "
_WORD = re.compile(rf"[^{re.escape(_SEPARATORS)}]+")
_PART_OF_WORD = re.compile(rf"^[a-zA-Z]+[{re.escape(_SEPARATORS)}]|[{re.escape(_SEPARATORS)}][a-zA-Z]+$")
_TRIED = 3  # names of which a pattern is looked for
_MOST_COMPARED = 500  # names that each of them is compared with


class Naming(NamedTuple):
    """Patterns of the file names, without suffix, of the two images; {name} stands for the name of the scene."""

    ir: str
    vi: str

    @property
    def is_known(self) -> bool:
        """Whether the patterns differ by words that are used for the two modalities."""
        return self.is_plain or differ_by_modality(*(pattern.replace(NAME, " ") for pattern in self))

    @property
    def is_plain(self) -> bool:
        """Whether the patterns hold nothing but such words."""
        return _word(self.ir) in IR_WORDS and _word(self.vi) in VI_WORDS

    def pairs(self, ir: Collection[str], vi: Collection[str]) -> int:
        """How many of the names are pairs by these patterns."""
        scenes = [{name_of_scene(name, pattern) for name in names} for names, pattern in ((ir, self.ir), (vi, self.vi))]
        return len((scenes[0] & scenes[1]) - {None})


def differ_by_modality(ir: str, vi: str) -> bool:
    """Whether two names consist of the same words but one, which says "infrared" in the first and "visible" in the
    other: `train_ir` and `train_vis`, `IR` and `RGB`.
    """
    words = [_WORD.findall(name.casefold()) for name in (ir, vi)]
    differing = [pair for pair in zip(*words, strict=False) if pair[0] != pair[1]]
    if len(words[0]) != len(words[1]) or len(differing) != 1:
        return False
    [(own, other)] = differing
    return own in IR_WORDS and other in VI_WORDS


def modality_words(name: str) -> Iterator[tuple[bool, tuple[str, ...]]]:
    """For each word of a folder's name that tells the modality: whether it is infrared, and the words around it.

    Where the word stood is "". Single letters do not count, as they number folders, too: `Part I`, `Part V`.
    """
    words = _WORD.findall(name.casefold())
    for index, word in enumerate(words):
        if len(word) > 1 and (word in IR_WORDS or word in VI_WORDS):
            yield word in IR_WORDS, (*words[:index], "", *words[index + 1 :])


def likely_naming(ir: Collection[str], vi: Collection[str], *, known: bool = False) -> Naming | None:
    """The patterns by which most of the names, relative paths without suffix, are pairs; None if there are none.

    `known`: only patterns of words that are used for the two modalities. Others are found if at least two names and
    half of all are pairs by them.
    """
    tried = list(itertools.islice(sorted(ir), _TRIED))
    candidates = {naming for name in tried for naming in _candidates(name, vi)}
    candidates = {naming for naming in candidates if naming.ir != naming.vi and (naming.is_known or not known)}
    counts = {naming: naming.pairs(ir, vi) for naming in candidates}
    # Their own order comes last, so that the choice between two visible images of each scene is always the same.
    rank = {naming: (n, naming.is_plain, naming.is_known, len(naming.ir), naming) for naming, n in counts.items()}
    best = max(rank, key=lambda naming: rank[naming], default=None)
    if best is None or not counts[best]:
        return None
    is_sure = best.is_known or (counts[best] >= 2 and 2 * counts[best] >= min(len(ir), len(vi)))
    return best if is_sure else None


def naming_advice(ir: Collection[str], vi: Collection[str]) -> str:
    """What keeps images of these names from being pairs, to end a message; "" if nothing is found."""
    if of_any_case := len({*map(str.casefold, ir)} & {*map(str.casefold, vi)}):
        return f"; but for upper and lower case in their names {of_any_case} of them would be pairs"
    naming = likely_naming(ir, vi)
    if naming is None:
        return ""
    number = naming.pairs(ir, vi)
    return f"; by `pair_pattern` '{naming.ir}' '{naming.vi}' {number} of them would be pairs"


def _candidates(name: str, others: Collection[str]) -> Iterator[Naming]:
    """The patterns that make `name` a pair with one of `others`."""
    stem = name.rpartition("/")[2]
    for other in itertools.islice(sorted(others), _MOST_COMPARED):
        other_stem = other.rpartition("/")[2]
        for match in SequenceMatcher(None, stem, other_stem, autojunk=False).get_matching_blocks():
            shared = stem[match.a : match.a + match.size]
            # A scene's name may end with a separator itself; words may have letters in common (thermal_1, visual_1).
            for core in {shared, shared.strip(_SEPARATORS), _PART_OF_WORD.sub("", shared)} - {""}:
                start, size = shared.index(core), len(core)
                yield Naming(_around(stem, match.a + start, size), _around(other_stem, match.b + start, size))


def _around(stem: str, start: int, length: int) -> str:
    return f"{stem[:start]}{NAME}{stem[start + length :]}"


def _word(pattern: str) -> str:
    return pattern.replace(NAME, "").strip(_SEPARATORS).casefold()
