"""The build of a reference set: all stages in order; a stage whose file exists is skipped."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ovbench.backbones.base import Loaded
from ovbench.backbones.build import load_backbone, missing_weights
from ovbench.backbones.hub import require_connection
from ovbench.config.load import templates
from ovbench.evaluation.distributed import ProcessGroup, Shard
from ovbench.methods.reme import parquet
from ovbench.methods.reme.reference_bank import Encoder
from ovbench.methods.reme.reference_store import SetWriter, visual_chunks
from ovbench.regions.provider import Regions, open_regions
from ovbench.training.reference_set import finish, stages
from ovbench.training.reference_set.assign import Assignment
from ovbench.training.reference_set.captioning import describe_source, open_captions, read_prompt
from ovbench.training.reference_set.chunks import ImageChunk, StageFiles, list_images, split_into_chunks
from ovbench.training.reference_set.encode import PairingEncoder, VisualEncoder, embed_texts
from ovbench.training.reference_set.phrases import open_parser
from ovbench.training.reference_set.settings import Plan, stage_settings
from ovbench.training.reference_set.summary import report_page
from ovbench.utils import provenance as env
from ovbench.utils.errors import InputError
from ovbench.utils.files import read_text
from ovbench.utils.version import package_version

TEXT_BATCH_SIZE = 4096


@dataclass(frozen=True)
class Sources:
    """The inputs and the output of a build.

    Attributes:
        images: Folder of the images.
        captions: Files of captions, "transformers:MODEL" or "openai:MODEL".
        out: Folder of the set.
        prompt: File with the instructions of the captioning model.
        base_url: Address of the server of "openai:MODEL".
        captions_at_once: Requests to that server at the same time.
        limit: Use only the first images.
        chunk_size: Images per file of a stage.
        workers: Processes that make region maps.
        shard: The shard of the images that this build takes.
    """

    images: Path
    captions: str
    out: Path
    prompt: Path | None = None
    base_url: str = ""
    captions_at_once: int = 1
    limit: int | None = None
    chunk_size: int = 256
    workers: int = 1
    shard: Shard | None = None


def build_set(sources: Sources, plan: Plan, device: str, processes: ProcessGroup) -> dict[str, Any] | None:
    """Build a set, or resume a build.

    The processes of ``processes`` divide the chunks of images. Sets of shards are united by `merge_sets`.

    Args:
        sources: Inputs and output.
        plan: The settings.
        device: Device of the networks.
        processes: The processes of the build.

    Returns:
        The manifest in rank 0, None in other processes.

    Raises:
        InputError: If images, captions or weights are missing; checked before any image is read.
        UsageError: If an extra or a setting is missing.
    """
    parquet.arrow()
    chunks = split_into_chunks(list_images(sources.images, sources.limit), sources.chunk_size)
    chunks = chunks if sources.shard is None else sources.shard.take(chunks)
    if not chunks:
        raise InputError("this shard has no images", fix="use fewer shards or a smaller --part-size")
    prompt = read_prompt(sources.prompt)
    caption_settings = describe_source(sources.captions, prompt)
    loaded = _load(plan)
    hashes = {role: one.sha256 for role, one in loaded.items()}
    files = StageFiles(sources.out / "stages", {"captions": caption_settings, **stage_settings(plan, hashes)})
    if processes.is_main:
        files.write_settings()
    processes.barrier()
    _run_stages(sources, plan, files, processes.take(chunks), loaded, device, prompt, processes)
    processes.barrier()
    if not processes.is_main:
        return None
    return finish_set(sources.out, files, [chunk.name for chunk in chunks], plan, loaded, sources.images, device)


def _load(plan: Plan) -> dict[str, Loaded]:
    """Load the encoders, or report all missing ones at once."""
    wanted = {"clip": plan.cell.backbones["clip"], "dinov2": plan.cell.backbones["dinov2"]}
    absent = missing_weights({**wanted}) + missing_weights({"clip": plan.build.pairing})
    if absent:
        from huggingface_hub import constants

        require_connection(constants.ENDPOINT, list(dict.fromkeys(absent)))
    loaded = {role: load_backbone(role, spec) for role, spec in wanted.items()}
    same = plan.build.pairing == wanted["clip"]
    return {**loaded, "pairing": loaded["clip"] if same else load_backbone("clip", plan.build.pairing)}


def _run_stages(
    sources: Sources, plan: Plan, files: StageFiles, chunks: Sequence[ImageChunk], loaded: Mapping[str, Loaded],
    device: str, prompt: str, processes: ProcessGroup,
) -> None:  # fmt: skip
    """Run the stages that work on single chunks."""

    def run(stage: str, start: Callable[[], Callable[[ImageChunk, stages.Advance], None]]) -> None:
        """Run a stage over the chunks that lack it; its networks are loaded only if there are some."""
        missing = files.missing(stage, chunks)
        with _bar(stage, sum(len(chunk.images) for chunk in missing), processes.is_main) as bar:
            step = start() if missing else None
            for chunk in missing:
                step(chunk, bar.update)

    b, regions = plan.build, open_regions(plan.cell.regions, device)

    def captions() -> Callable[[ImageChunk, stages.Advance], None]:
        source = open_captions(sources.captions, prompt, base_url=sources.base_url, device=device)
        at_once = sources.captions_at_once if sources.captions.startswith("openai:") else 1
        return lambda chunk, advance: stages.caption_chunk(files, chunk, source, at_once, advance)

    def phrases() -> Callable[[ImageChunk, stages.Advance], None]:
        parse = open_parser(b.parser, b.spacy_model)
        return lambda chunk, advance: stages.phrase_chunk(files, chunk, parse, advance)

    if files.missing("phrases", chunks):
        open_parser(b.parser, b.spacy_model)  # fail before hours of captions, not after them
    run("captions", captions)
    run("phrases", phrases)
    if sources.workers > 1 and regions.store is not None:
        _segment_ahead(plan, files.missing("pairs", chunks), sources.workers, processes.is_main)
    run("pairs", lambda: _pairing(plan, files, regions, loaded["pairing"], device))
    run("features", lambda: _embedding(plan, files, regions, loaded["dinov2"], device))


def _pairing(
    plan: Plan, files: StageFiles, regions: Regions, clip: Loaded, device: str
) -> Callable[[ImageChunk, stages.Advance], None]:
    b, names = plan.build, templates(plan.cell.protocol.templates)
    encoder = PairingEncoder(clip, b.pairing_features, b.pairing_short_side, names, device, b.zeta)
    return lambda chunk, advance: stages.pair_chunk(files, chunk, regions, encoder, advance)


def _embedding(
    plan: Plan, files: StageFiles, regions: Regions, dinov2: Loaded, device: str
) -> Callable[[ImageChunk, stages.Advance], None]:
    encoder = VisualEncoder(dinov2, plan.cell.protocol, device, plan.build.zeta)
    return lambda chunk, advance: stages.feature_chunk(files, chunk, regions, encoder, dinov2.sha256, advance)


def _segment_ahead(plan: Plan, chunks: Sequence[ImageChunk], workers: int, leads: bool) -> None:
    """Make the region maps of all images and cache them, in several processes."""
    from ovbench.regions.build_maps import MapTask, build_maps

    tasks = [MapTask(image.id, image.path) for chunk in chunks for image in chunk.images]
    if tasks:
        with _bar("segments", len(tasks), leads) as bar:
            build_maps(tasks, plan.cell.regions, workers=workers, advance=bar.update)


@contextmanager
def _bar(name: str, total: int, leads: bool) -> Iterator[tqdm]:
    with tqdm(total=total, desc=name, unit="image", disable=None if leads and total else True) as bar:
        yield bar


def finish_set(
    out: Path, files: StageFiles, chunks: Sequence[str], plan: Plan, loaded: Mapping[str, Loaded],
    images: Path | None, device: str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """Run the stages that need all images, and write the set.

    Args:
        out: Folder of the set.
        files: The files of the earlier stages.
        chunks: Names of the chunks.
        plan: The settings.
        loaded: The encoders "clip", "dinov2" and "pairing".
        images: Folder of the images, for the report; None for a report without examples.
        device: Device of the text encoder.
    """
    base = finish.read_base(files, chunks)
    rows = finish.VisualFeatures(files, chunks, base.first)
    filtered = _filtered(files, chunks, plan, base, rows)
    encoder, names = loaded["clip"].text, templates(plan.cell.protocol.templates)
    encoder.model.to(device)
    similar, made = finish.enhance(base, filtered, plan.build, lambda texts: embed_texts(encoder, texts, names))
    writer = SetWriter(out)
    encoders = {role: Encoder(loaded[role].spec, loaded[role].sha256) for role in ("clip", "dinov2")}
    writer.shards("segments", visual_chunks(rows, made.segments), encoders["dinov2"])
    with tqdm(total=len(made.labels), desc="labels", unit="phrase", disable=None) as bar:
        writer.shards("labels", _label_chunks(encoder, made.labels, names, bar), encoders["clip"])
    writer.matrix(made.pairs, len(made.segments))
    _write_tables(writer, files, chunks, base, filtered, made)
    writer.add("ambiguous.csv", finish.ambiguous_csv(base, filtered))
    writer.add("synonyms.csv", finish.synonyms_csv(base, similar))
    counts = finish.counts(base, filtered, similar, made)
    manifest = _manifest(files, chunks, plan, loaded, encoders, base, filtered, counts)
    writer.add("report.html", report_page(manifest, base, filtered, similar, files, images))
    return writer.finish(manifest)


def _filtered(
    files: StageFiles, chunks: Sequence[str], plan: Plan, base: finish.BasePairs, rows: finish.VisualFeatures
) -> finish.FilterResult:
    groups = finish.group_pairs(base.phrase_root[base.pairs[:, 1]], len(base.roots))
    path = files.root / f"cohesion-{files.keys['features']}-{_names_hash(chunks)}.safetensors"
    with tqdm(total=len(base.pairs), desc="groups", unit="pair", disable=None) as bar:
        cohesion = finish.stored_cohesion(path, base, groups, rows, bar.update)
    return finish.filter_pairs(base, cohesion, plan.build, _listed(plan.build.ambiguous_list))


def _manifest(
    files: StageFiles, chunks: Sequence[str], plan: Plan, loaded: Mapping[str, Loaded],
    encoders: Mapping[str, Encoder], base: finish.BasePairs, filtered: finish.FilterResult, counts: dict[str, int],
) -> dict[str, Any]:  # fmt: skip
    return {
        "settings": {"build": dataclasses.asdict(plan.build), "cell": plan.cell.as_dict()},
        "stages": {stage: {"key": files.keys[stage], **files.settings[stage]} for stage in files.keys},
        "parts": list(chunks),
        "encoders": {role: encoder._asdict() for role, encoder in encoders.items()},
        "pairing": {"name": loaded["pairing"].spec, "sha256": loaded["pairing"].sha256},
        "used_with": _used_with(plan),
        "counts": counts,
        "dropped_roots": [base.roots[number] for number in filtered.dropped],
        "warnings": _warnings(counts),
        "failed": base.notes["failed"],
        "without_caption": base.notes["without_caption"],
        "without_noun": base.notes["without_noun"],
        "ovbench": package_version(),
        "versions": env.versions(),
        "git": env.git_revision(),
    }


def _used_with(plan: Plan) -> dict[str, Any]:
    """Return the settings that segmentation must share; zeta and o_rownorm only if they differ from their defaults."""
    optional = {"zeta": (plan.build.zeta, "area"), "o_rownorm": (plan.build.o_rownorm, False)}
    required = {key: getattr(plan.cell.protocol, key) for key in ("templates", "short_side")}
    return required | {key: value for key, (value, default) in optional.items() if value != default}


def _names_hash(chunks: Sequence[str]) -> str:

    return hashlib.sha256("\n".join(chunks).encode()).hexdigest()[:10]


def _listed(path: str) -> frozenset[str]:
    if not path:
        return frozenset()
    return frozenset(line.strip() for line in read_text(Path(path), "list of roots").splitlines() if line.strip())


def _label_chunks(encoder: Any, labels: Sequence[str], names: Sequence[str], bar: tqdm) -> Iterator[np.ndarray]:
    for start in range(0, len(labels), TEXT_BATCH_SIZE):
        chunk = labels[start : start + TEXT_BATCH_SIZE]
        yield embed_texts(encoder, chunk, names)
        bar.update(len(chunk))


def _write_tables(
    writer: SetWriter, files: StageFiles, chunks: Sequence[str], base: finish.BasePairs,
    filtered: finish.FilterResult, made: Assignment,
) -> None:  # fmt: skip
    pa = parquet.arrow()
    columns = ["image", "region", "y1", "x1", "y2", "x2", "area"]
    schema = pa.schema([stages.pair_schema().field(name) for name in columns])

    def segments() -> Iterator[Any]:
        for number, chunk in enumerate(chunks):
            table = parquet.read_table(files.path("pairs", chunk), columns)
            _, first = stages.paired_segments(table)
            low, high = np.searchsorted(made.segments, base.first[number : number + 2])
            yield table.take(first[made.segments[low:high] - base.first[number]])

    writer.written("segments.parquet", lambda path: parquet.write_table(path, segments(), schema))
    roots = np.array(base.roots, object)
    labels = pa.table({"phrase": made.labels, "root": roots[made.root], "synonym": made.copied})
    writer.written("labels.parquet", lambda path: parquet.write_table(path, [labels], labels.schema))
    dropped = np.isin(np.arange(len(base.roots)), filtered.dropped)
    values = {"root": base.roots, "size": filtered.groups.sizes, "w": filtered.cohesion.w, "dropped": dropped}
    table = pa.table(values)
    writer.written("roots.parquet", lambda path: parquet.write_table(path, [table], table.schema))


def _warnings(counts: Mapping[str, int]) -> list[str]:
    """Return warnings for the user."""
    found = []
    dropped = 1 - counts["pairs_after_ambiguous"] / counts["base_pairs"]
    if dropped > finish.WARN_FRACTION:
        found.append(f"the ambiguous-label filter dropped {dropped:.0%} of all pairs; see ambiguous.csv")
    problems = {
        "images_without_caption": "have no caption",
        "images_without_noun": "have captions with no noun",
        "images_failed": "cannot be read",
    }
    for key, what in problems.items():
        if counts[key]:
            found.append(f"{counts[key]} of {counts['images']} images {what}")
    return found
