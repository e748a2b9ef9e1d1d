"""What made a mask tree: `manifest.json` in its root, the signature that keeps trees of other settings apart.

Masks themselves carry no settings, so a tree must hold masks of one generator only; a run with other settings is
refused. Nor may two data sets share a tree if they have different images of the same name.

Several processes may fill one tree: each of them reads, changes and replaces the manifest under a lock
(`manifest_lock`), so that no process undoes what another has added. Readers need no lock.
"""

import contextlib
import errno
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import filelock

from thfuse_sam.errors import ManifestError, OutputError
from thfuse_sam.files import write_json
from thfuse_sam.images import Modality

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 1

_LOCK_NAME = ".manifest.lock"
_LOCK_SECONDS = 120.0  # a change takes far less, so a process that holds the lock that long hangs

_REMEDY = "choose another `output_dir` or pass `overwrite`"


@dataclass(frozen=True)
class Signature:
    """Everything besides the image that decides what a mask looks like."""

    model_type: str  # "vit_h", "vit_t", ...
    checkpoint_sha256: str  # hexadecimal
    generator: dict[str, float | int | str | None]  # settings of the mask generator, and of reading infrared images
    package_version: str  # informational: another version is not refused
    precision: str = "fp32"

    def differences(self, asked: Mapping[str, Any]) -> list[str]:
        """Each of the settings `asked` that differs, as 'name VALUE (asked: VALUE)'."""
        own = self.settings()
        return [
            f"{name} {_short(own.get(name))} (asked: {_short(value)})"
            for name, value in asked.items()
            if own.get(name) != value
        ]

    def settings(self) -> dict[str, Any]:
        """Everything that must be equal in one tree, by name. The package's version need not be."""
        return {
            "model_type": self.model_type,
            "checkpoint_sha256": self.checkpoint_sha256,
            "precision": self.precision,
            **self.generator,
        }


@dataclass
class Manifest:
    """Content of `manifest.json`."""

    signature: Signature
    # One entry for each data set in this tree: the absolute folder of each modality, or a pattern root/**/name.
    sources: list[dict[str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # masks in the tree by modality
    failures: list[dict[str, str]] = field(default_factory=list)  # modality, name, path, reason of each image left out

    @classmethod
    def load(cls, root: Path) -> "Manifest":
        """The manifest of the tree at `root`. Raises ManifestError if there is none or it is unreadable."""
        path = root / MANIFEST_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ManifestError(f"{path}: no such file; make the mask tree with `precompute()`") from error
        except (OSError, ValueError, RecursionError) as error:
            raise ManifestError(f"{path}: not readable as JSON ({error}); {_REMEDY}") from error
        return cls._from_json(content, path)

    @classmethod
    def find(cls, root: Path) -> "Manifest | None":
        """As `load`, or None if there is no manifest."""
        return cls.load(root) if (root / MANIFEST_NAME).is_file() else None

    def save(self, root: Path) -> None:
        """Write `manifest.json` into `root` atomically. Raises OutputError."""
        write_json(root / MANIFEST_NAME, {"format_version": FORMAT_VERSION, **asdict(self)})

    def folders(self, modality: Modality) -> list[Path]:
        """The folders (or patterns, see `source_images.find_image`) whose images have masks in the tree."""
        return [Path(source[modality]) for source in self.sources if modality in source]

    def failure_reasons(self) -> dict[tuple[str, str], str]:
        """Why images have no mask, by (modality, name)."""
        return {(entry.get("modality", ""), entry.get("name", "")): entry.get("reason", "") for entry in self.failures}

    def with_source(self, source: dict[str, str]) -> "Manifest":
        """This manifest, with a data set among its sources."""
        return self if source in self.sources else replace(self, sources=[*self.sources, source])

    @classmethod
    def _from_json(cls, content: Any, path: Path) -> "Manifest":
        """Check the types of everything that is used later: the file may have been edited or be another tool's."""
        if not isinstance(content, dict) or not isinstance(content.get("signature"), dict):
            raise ManifestError(f"{path}: not the manifest of a mask tree; {_REMEDY}")
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise ManifestError(f"{path}: format_version {version!r}, this program reads {FORMAT_VERSION}; {_REMEDY}")
        signature = content["signature"]
        names = {item.name for item in fields(Signature)}
        if set(signature) != names or not isinstance(signature["generator"], dict):
            raise ManifestError(f"{path}: the signature must have exactly {', '.join(sorted(names))}; {_REMEDY}")
        for name in ("sources", "failures"):
            if not _is_list_of_string_dicts(content.get(name)):
                raise ManifestError(f"{path}: {name} must be a list of objects that hold strings; {_REMEDY}")
        counts = content.get("counts")
        if not isinstance(counts, dict) or not all(isinstance(count, int) for count in counts.values()):
            raise ManifestError(f"{path}: counts must be an object of integers; {_REMEDY}")
        return cls(Signature(**signature), content["sources"], counts, content["failures"])


def require_same_signature(manifest: Manifest, signature: Signature, remedy: str = _REMEDY) -> None:
    """Raise ManifestError naming each setting of the tree that differs from what is asked for now."""
    own = manifest.signature
    # A setting that only one of the two signatures has counts as None in the other.
    differences = own.differences({**dict.fromkeys(own.settings()), **signature.settings()})
    if differences:
        raise ManifestError(f"the mask tree was made with other settings: {', '.join(differences)}; {remedy}")


@contextlib.contextmanager
def manifest_lock(root: Path) -> Iterator[None]:
    """Keep other processes from changing the manifest of the tree at `root`, which exists. Raises OutputError.

    The system frees the lock of a process that dies. On a file system without locks there is none: manifests are
    still replaced whole, but of two changes in one moment the first may be lost.
    """
    lock = filelock.FileLock(root / _LOCK_NAME, timeout=_LOCK_SECONDS)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise OutputError(
            f"{root / _LOCK_NAME}: held by another process for {_LOCK_SECONDS:.0f} s; end the run that hangs"
        ) from error
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            raise OutputError(f"cannot lock {root}: {error.strerror or error}; check permissions") from error
    try:
        yield
    finally:
        lock.release()


def _is_list_of_string_dicts(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and all(isinstance(text, str) for text in item.values()) for item in value
    )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
