"""Reading option files as plain YAML: values, lists and mappings, bounded in size and depth, whoever wrote them."""

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1 << 18  # a larger file would take seconds to read
MAX_DEPTH = 20  # levels of lists and mappings inside each other
_LONGEST_REASON = 200  # characters


class _PlainLoader(yaml.SafeLoader):
    """A safe loader that refuses deep nesting, and aliases, by which a short file can stand for a huge one."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not supported; write the value again")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested more than {MAX_DEPTH} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _TextLoader(_PlainLoader):
    """Takes every value for a text."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - the name and kind are PyYAML's


def read_yaml(path: Path, *, as_texts: bool = False) -> Any:
    """The content of a YAML file; `as_texts`: "no" and 01 are texts, too.

    Raises OSError, and ValueError with the reason in one line.
    """
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES >> 10} KiB")
    try:
        text = content.decode("utf-8")
        return yaml.load(text, Loader=_TextLoader) if as_texts else yaml.load(text, Loader=_PlainLoader)
    # Not only YAMLError: a value that cannot be converted, such as the date 2001-99-99, raises Python's own errors.
    except Exception as error:
        raise ValueError(" ".join(str(error).split())[:_LONGEST_REASON]) from error
