"""The images of a mask precomputation, what is made of each, and how they are divided among the jobs of an array."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thfuse_sam.images import Modality
from thfuse_sam.masks.embeddings import EmbeddingFiles
from thfuse_sam.thermal import AS_STORED, InfraredReading


@dataclass(frozen=True, slots=True)
class Job:
    """One image whose mask belongs in the tree."""

    modality: Modality
    name: str  # relative path without suffix, "a/0001"
    image: Path
    infrared: Path | None = None  # infrared image of the scene at whose warm places SAM is prompted; None: nowhere

    def __str__(self) -> str:
        return f"{self.modality} {self.name}"

    @property
    def other_infrared(self) -> Path | None:
        """The infrared image, besides its own, on which the mask depends."""
        return self.infrared if self.modality == "vi" else None


@dataclass(frozen=True)
class JobSettings:
    """What is made of each image besides its label map, and from what."""

    save_instances: bool = False  # the overlapping instance masks
    save_embeddings: bool = False  # the embedding of the image
    embeddings: EmbeddingFiles | None = None  # used in place of the encoder for images that it has
    reading: InfraredReading = AS_STORED  # how infrared images are read


def list_jobs(images: Mapping[Modality, Mapping[str, Path]], infrared: Mapping[str, Path] | None = None) -> list[Job]:
    """One job for every image; both modalities of a name are neighbours, so that whole pairs are ready early.

    `infrared`: the infrared images by name at whose warm places SAM is prompted, in both images of a pair.
    """
    find = (infrared or {}).get
    jobs = [Job(modality, name, path, find(name)) for modality, paths in images.items() for name, path in paths.items()]
    return sorted(jobs, key=lambda job: (job.name, job.modality))


def take_part(jobs: Sequence[Job], part: int, parts: int) -> list[Job]:
    """Part number `part` (1 to `parts`) of `jobs`: every image is in exactly one part, the images of a pair together.

    The same images give the same parts on every machine. Neighbours go to different parts, so that no part gets all
    images of a large size and takes longer than the others.
    """
    names = sorted({job.name for job in jobs})
    own_names = set(names[part - 1 :: parts])
    return [job for job in jobs if job.name in own_names]
