"""Planning a mask precomputation: which masks are missing, and whether they may go into this tree at all."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from thfuse_sam.errors import ImageReadError, ManifestError, MaskReadError
from thfuse_sam.images import MODALITIES, Modality, image_size
from thfuse_sam.masks.embeddings import EMBEDDINGS_FOLDER, EmbeddingFiles
from thfuse_sam.masks.image_records import ImageRecords, record_image
from thfuse_sam.masks.manifest import MANIFEST_NAME, Manifest, Signature, require_same_signature
from thfuse_sam.masks.shards import SHARD_SIZE, SHARDS_FOLDER
from thfuse_sam.masks.state import ForeignSources
from thfuse_sam.masks.store import MaskStore, open_masks
from thfuse_sam.masks.tree import INSTANCES_SUFFIX
from thfuse_sam.precompute.jobs import Job, JobSettings

StoreKind = Literal["npy", "shards"]


@dataclass(frozen=True)
class Plan:
    """What a run will do. Nothing has been written yet."""

    root: Path
    store: StoreKind
    signature: Signature
    source: dict[str, str]  # the folder of each modality of the run, for the manifest
    jobs: list[Job]  # every image of the run
    todo: list[Job]  # those without a finished mask; all of them with `overwrite`
    options: JobSettings
    overwrite: bool  # remove what exists of `todo` before the first mask is made
    replaces_all: bool  # no existing mask stays, so the tree may get other settings
    embedding_signature: Signature | None = None  # what kept embeddings depend on; None: no embeddings are kept
    shard_size: int = SHARD_SIZE  # images in a full shard
    records: ImageRecords = field(default_factory=ImageRecords)  # of finished images, where the tree has none or older
    changed: int = 0  # images in `todo` whose content is not that of which their masks were made

    @property
    def finished(self) -> int:
        """Number of images whose masks exist and stay."""
        return len(self.jobs) - len(self.todo)


def plan_precompute(
    root: Path,
    jobs: Sequence[Job],
    image_dirs: Mapping[Modality, Path],
    signature: Signature,
    *,
    overwrite: bool = False,
    options: JobSettings | None = None,
    embedding_signature: Signature | None = None,
    store: StoreKind | None = None,
    shard_size: int = SHARD_SIZE,
) -> Plan:
    """Decide what a run into the tree at `root` has to make; reads headers only and writes nothing.

    A mask is finished if it is whole, its image has not changed since it was made, and everything that `options` asks
    for lies beside it. Where the tree has no record of the image, an older version has made the mask: it is finished if
    it has the image's size.

    Args:
        image_dirs: the folder of each modality of the run, for the manifest.
        overwrite: make every mask again. If that replaces the whole tree, other settings and other images are allowed.
        embedding_signature: what embeddings depend on; used with `options.save_embeddings`.
        store: "npy" (one file for each mask) or "shards"; None: what the tree has, "npy" for a new tree.
        shard_size: images in a full shard.

    Raises:
        ManifestError: the tree has masks of other settings, of unknown settings, or of other images of the same
            names; or it has the other kind of store.
    """
    options = options or JobSettings()
    masks = open_masks(root)
    names = {modality: set(masks.names(modality)) for modality in MODALITIES}
    existing = [job for job in jobs if job.name in names[job.modality]]
    others = sum(map(len, names.values())) - len(existing)
    plan = Plan(
        root=root,
        store=store_kind(root, store, any(names.values())),
        signature=signature,
        source={modality: str(folder.resolve()) for modality, folder in image_dirs.items()},
        jobs=list(jobs),
        todo=list(jobs),
        options=options,
        overwrite=overwrite,
        replaces_all=overwrite and not others,
        embedding_signature=embedding_signature if options.save_embeddings else None,
        shard_size=shard_size,
    )
    _require_fitting_tree(plan, existing, others, image_dirs)
    return plan if overwrite else _without_finished(plan, names, masks)


def require_embeddings(
    root: Path, signature: Signature, jobs: Sequence[Job], image_dirs: Mapping[Modality, Path]
) -> None:
    """Refuse embeddings that another encoder made, or that were made from other images of the same names.

    Raises ManifestError, also if there are no embeddings at `root`.
    """
    manifest = Manifest.load(root)
    require_same_signature(manifest, signature, f"the embeddings in {root} do not fit; make them with these settings")
    tree = EmbeddingFiles(root)
    _require_own(manifest, [job for job in jobs if tree.has(job.modality, job.name)], image_dirs, root)


def store_kind(root: Path, asked: StoreKind | None, has_masks: bool) -> StoreKind:
    """The kind of store at `root`, or `asked` (None: one file each) for a new one. Raises ManifestError."""
    present: StoreKind | None = "shards" if (root / SHARDS_FOLDER).is_dir() else "npy" if has_masks else None
    if present is not None and asked not in (None, present):
        raise ManifestError(f"`store` {asked}: {root} holds masks as {present}; choose another `output_dir`")
    return present or asked or "npy"


def _require_fitting_tree(
    plan: Plan, existing: Sequence[Job], others: int, image_dirs: Mapping[Modality, Path]
) -> None:
    """Refuse a tree in which masks would stay that were made with other settings or from other images.

    Args:
        existing: the images of this run that have a mask.
        others: the number of all other masks in the tree.
    """
    if plan.replaces_all:
        return
    manifest = Manifest.find(plan.root)
    if manifest is not None:
        remedy = f"ask for those, choose another `output_dir` than {plan.root}, or pass `overwrite`"
        if plan.overwrite:
            remedy = f"`overwrite` would leave {others} masks of those in {plan.root}; choose another `output_dir`"
        require_same_signature(manifest, plan.signature, remedy)
        _require_own(manifest, existing, image_dirs, plan.root)
    elif existing or others:
        raise ManifestError(
            f"`output_dir` {plan.root} holds masks but no {MANIFEST_NAME}, so nobody knows what made them; "
            "choose another `output_dir` or delete them"
        )
    if plan.overwrite and existing and plan.store == "shards":
        raise ManifestError(
            f"`overwrite` would have to take {len(existing)} masks out of the shards in {plan.root}, which hold "
            f"{others} others; choose another `output_dir`"
        )
    embeddings = plan.root / EMBEDDINGS_FOLDER
    if plan.embedding_signature is not None and (embeddings / MANIFEST_NAME).is_file():
        require_embeddings(embeddings, plan.embedding_signature, plan.jobs, image_dirs)


def _require_own(manifest: Manifest, jobs: Sequence[Job], image_dirs: Mapping[Modality, Path], root: Path) -> None:
    """Refuse files in the tree at `root` that were made from other images than those of `jobs`."""
    foreign = ForeignSources(manifest, image_dirs, recheck=True)
    for job in jobs:
        other = foreign.find(job.modality, job.name, job.image)
        if other is not None:
            raise ManifestError(
                f"`output_dir` {root} may hold the mask of {other} under the name of {job.image}, another image; "
                "choose another `output_dir` for this data set"
            )


def _without_finished(plan: Plan, names: Mapping[Modality, Set[str]], masks: MaskStore) -> Plan:
    """`plan` with the images to do: whose mask is missing (not in `names`), is not whole, or lacks what is asked for
    beside it; and those that have changed.
    """
    options, embeddings = plan.options, EmbeddingFiles(plan.root / EMBEDDINGS_FOLDER)
    known, records, todo, changed = ImageRecords.load(plan.root), ImageRecords(), [], 0
    for job in plan.jobs:
        try:
            is_whole = (
                job.name in names[job.modality]
                and (not options.save_instances or masks.has(job.modality, job.name, INSTANCES_SUFFIX))
                and (not options.save_embeddings or embeddings.has(job.modality, job.name))
            )
            if not is_whole:
                todo.append(job)
                continue
            shape, written = masks.shape_and_time(job.modality, job.name)
            before = known.get(job.modality, job.name)
            now = record_image(job.image, before, job.other_infrared)
            if before is not None:
                is_same = now.has_content_of(before)
                changed += not is_same
            else:
                # Opening every image would take most of the time.
                is_same = now.time_ns < written or shape == image_size(job.image)
            if not is_same:
                todo.append(job)
            elif now is not before:
                records.set(job.modality, job.name, now)
        except (ImageReadError, MaskReadError):
            todo.append(job)
    return replace(plan, todo=todo, records=records, changed=changed)
