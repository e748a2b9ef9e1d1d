"""Hypothesis strategies: contents that are nearly right."""

import json
from typing import Any

import yaml
from hypothesis import strategies as st

from .fuzz_targets import ODD_BYTES, ODD_VALUES, Target


def contents(target: Target, seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Contents for a target: damaged ones, ones with other values in them, and any bytes."""
    kinds = [st.sampled_from(seeds).flatmap(damaged), st.binary(max_size=200)]
    if target.is_text:
        kinds = [st.sampled_from(seeds).flatmap(other_values), *kinds]
    return st.one_of(kinds)


def damaged(seed: bytes) -> st.SearchStrategy[bytes]:
    """`seed` with a few stretches replaced, cut out or repeated, and perhaps cut off."""
    place = st.integers(0, len(seed))
    edit = st.tuples(place, st.integers(0, 8), st.one_of(st.binary(max_size=4), st.sampled_from(ODD_BYTES)))

    def apply(edits: list[tuple[int, int, bytes]], end: int | None) -> bytes:
        content = seed
        for start, length, new in edits:
            content = content[:start] + new + content[start + length :]
        return content[:end]

    return st.builds(apply, st.lists(edit, max_size=6), st.one_of(st.none(), st.none(), place))


values = st.one_of(
    st.sampled_from(ODD_VALUES), st.integers(-5, 300), st.floats(-10, 1000), st.text(max_size=5),
    st.lists(st.one_of(st.floats(-2, 10), st.sampled_from(ODD_VALUES)), max_size=6),
)  # fmt: skip


@st.composite
def other_values(draw: st.DrawFn, seed: bytes) -> bytes:
    """A document with one to three of its values replaced, removed or put deep into others."""
    is_json = seed.lstrip().startswith(b"{")
    document = json.loads(seed) if is_json else yaml.safe_load(seed)
    for _ in range(draw(st.integers(1, 3))):
        document = _changed(draw, document)
    if is_json:
        return json.dumps(document).encode("utf-8", "surrogatepass")
    return yaml.safe_dump(document, allow_unicode=True).encode("utf-8", "surrogatepass")


def _changed(draw: st.DrawFn, value: Any) -> Any:
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not keys or draw(st.integers(0, 4)) == 0:
        return draw(values)
    key = draw(st.sampled_from(keys))
    changed = value.copy()
    if draw(st.integers(0, 9)) == 0:
        del changed[key]
    else:
        changed[key] = _changed(draw, value[key])
    return changed
