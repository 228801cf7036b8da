"""`ovbench reference build`: every stage in order, each skipped where its files are there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ovbench import __version__
from ovbench.backbones.build import Loaded, load_backbone, missing_weights
from ovbench.config.load import templates
from ovbench.evaluation.distributed import Shard, Team
from ovbench.methods.reme import tables
from ovbench.methods.reme.reference_bank import Encoder
from ovbench.methods.reme.reference_store import SetWriter, visual_chunks
from ovbench.regions.provider import open_regions
from ovbench.training.reference_set import finish, stages
from ovbench.training.reference_set.captioning import describe_source, open_captions, read_prompt
from ovbench.training.reference_set.encode import PairingEncoder, VisualEncoder, embed_texts
from ovbench.training.reference_set.parts import Part, Work, divide, list_pictures
from ovbench.training.reference_set.phrases import open_parser
from ovbench.training.reference_set.settings import Plan, part_settings
from ovbench.training.reference_set.summary import write_report
from ovbench.utils import provenance as env
from ovbench.utils.errors import InputError

TEXTS_AT_ONCE = 4096


@dataclass(frozen=True)
class Sources:
    """Where a build reads and writes. ``part_size`` images make a part; ``captions_at_once`` are asked of a server."""

    images: Path
    captions: str
    out: Path
    prompt: Path | None = None
    base_url: str = ""
    captions_at_once: int = 1
    limit: int | None = None
    part_size: int = 256
    workers: int = 1
    shard: Shard | None = None


def build_set(sources: Sources, plan: Plan, device: str, team: Team) -> dict[str, Any] | None:
    """Build a set, or what of it is lacking; its manifest, in the process that leads.

    Processes of a team, or shards on several machines, take parts; sets of shards are united by
    `ovbench.training.reference_set.merge_sets`. Raises InputError and UsageError before any image is read where
    something is missing.
    """
    tables.arrow()
    parts = divide(list_pictures(sources.images, sources.limit), sources.part_size)
    parts = parts if sources.shard is None else sources.shard.take(parts)
    if not parts:
        raise InputError("this shard has no images", fix="use fewer shards, or --part-size with a smaller number")
    prompt = read_prompt(sources.prompt)
    caption_settings = describe_source(sources.captions, prompt)
    loaded = _load(plan)
    hashes = {kind: one.sha256 for kind, one in loaded.items()}
    work = Work(sources.out / "stages", {"captions": caption_settings, **part_settings(plan, hashes)})
    if team.leads:
        work.describe()
    team.wait()
    _images_to_features(sources, plan, work, team.take(parts), loaded, device, prompt, team)
    team.wait()
    if not team.leads:
        return None
    names = [part.name for part in parts]
    return finish_set(sources.out, work, names, plan, loaded, sources.images, device)


def _load(plan: Plan) -> dict[str, Loaded]:
    """The encoders; what is missing is said for all of them."""
    wanted = {"clip": plan.cell.backbones["clip"], "dinov2": plan.cell.backbones["dinov2"]}
    absent = missing_weights({**wanted}) + missing_weights({"clip": plan.build.pairing})
    if absent:
        from huggingface_hub import constants

        from ovbench.backbones.hub import require_connection

        require_connection(constants.ENDPOINT, list(dict.fromkeys(absent)))
    loaded = {kind: load_backbone(kind, spec) for kind, spec in wanted.items()}
    same = plan.build.pairing == wanted["clip"]
    return {**loaded, "pairing": loaded["clip"] if same else load_backbone("clip", plan.build.pairing)}


def _images_to_features(
    sources: Sources, plan: Plan, work: Work, parts: Sequence[Part], loaded: Mapping[str, Loaded], device: str,
    prompt: str, team: Team,
) -> None:  # fmt: skip
    def run(stage: str, start: Callable[[], Callable[[Part, stages.Advance], None]]) -> None:
        """A stage over the parts that lack it; what it needs is opened only if there are some."""
        lacking = work.lacking(stage, list(parts))
        with _bar(stage, sum(len(p.pictures) for p in lacking), team.leads) as bar:
            step = start() if lacking else None
            for part in lacking:
                step(part, bar.update)

    def captions() -> Callable[[Part, stages.Advance], None]:
        source = open_captions(sources.captions, prompt, base_url=sources.base_url, device=device)
        at_once = sources.captions_at_once if sources.captions.startswith("openai:") else 1
        return lambda part, advance: stages.caption_part(work, part, source, at_once, advance)

    def phrases() -> Callable[[Part, stages.Advance], None]:
        parse = open_parser(plan.build.parser, plan.build.spacy_model)
        return lambda part, advance: stages.phrase_part(work, part, parse, advance)

    regions = open_regions(plan.cell.regions, device)
    names = templates(plan.cell.protocol.templates)
    b = plan.build

    def pairs() -> Callable[[Part, stages.Advance], None]:
        encoder = PairingEncoder(loaded["pairing"], b.pairing_features, b.pairing_short_side, names, device, b.zeta)
        return lambda part, advance: stages.pair_part(work, part, regions, encoder, advance)

    def features() -> Callable[[Part, stages.Advance], None]:
        encoder, sha256 = VisualEncoder(loaded["dinov2"], plan.cell.protocol, device, b.zeta), loaded["dinov2"].sha256
        return lambda part, advance: stages.feature_part(work, part, regions, encoder, sha256, advance)

    if work.lacking("phrases", list(parts)):
        open_parser(plan.build.parser, plan.build.spacy_model)  # before hours of captions, not after them
    run("captions", captions)
    run("phrases", phrases)
    if sources.workers > 1 and regions.store is not None:
        _segment_ahead(plan, work.lacking("pairs", list(parts)), sources.workers, team.leads)
    run("pairs", pairs)
    run("features", features)


def _segment_ahead(plan: Plan, parts: Sequence[Part], workers: int, leads: bool) -> None:
    """Region maps into their cache, on several processes."""
    from ovbench.regions.build_maps import Task, build_maps

    tasks = [Task(p.id, p.path) for part in parts for p in part.pictures]
    if tasks:
        with _bar("segments", len(tasks), leads) as bar:
            build_maps(tasks, plan.cell.regions, workers=workers, advance=bar.update)


@contextmanager
def _bar(name: str, total: int, leads: bool) -> Iterator[tqdm]:
    with tqdm(total=total, desc=name, unit="image", disable=not leads or not total) as bar:
        yield bar


def finish_set(
    out: Path, work: Work, parts: Sequence[str], plan: Plan, loaded: Mapping[str, Loaded], images: Path | None,
    device: str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """The stages over all parts, and the set itself; its manifest."""
    base = finish.read_base(work, parts)
    rows = finish.VisualRows(work, parts, base.first)
    root = base.phrase_root[base.pairs[:, 1]]
    groups = finish.group_pairs(root, len(base.roots))
    key = f"{work.keys['features']}-{_names_hash(parts)}"
    with tqdm(total=len(base.pairs), desc="groups", unit="pair") as bar:
        path = work.folder / f"cohesion-{key}.safetensors"
        together = finish.stored_cohesion(path, base, groups, rows, bar.update)
    filtered = finish.filter_pairs(base, together, plan.build, _listed(plan.build.ambiguous_list))
    encoder, names = loaded["clip"].text, templates(plan.cell.protocol.templates)
    encoder.model.to(device)
    similar, made = finish.enhance(base, filtered, plan.build, lambda texts: embed_texts(encoder, texts, names))
    writer = SetWriter(out)
    made_with = {kind: Encoder(loaded[kind].spec, loaded[kind].sha256) for kind in ("clip", "dinov2")}
    writer.shards("segments", visual_chunks(rows, made.segments), made_with["dinov2"])
    with tqdm(total=len(made.labels), desc="labels", unit="phrase") as bar:
        writer.shards("labels", _label_chunks(encoder, made.labels, names, bar), made_with["clip"])
    writer.matrix(made)
    _write_tables(writer, work, parts, base, filtered, made)
    writer.add("ambiguous.csv", finish.ambiguous_csv(base, filtered))
    writer.add("synonyms.csv", finish.synonyms_csv(base, similar))
    counts = finish.counts(base, filtered, similar, made)
    manifest = {
        "settings": {"build": dataclasses.asdict(plan.build), "cell": plan.cell.as_dict()},
        "stages": {name: {"key": work.keys[name], **work.settings[name]} for name in work.keys},
        "parts": list(parts),
        "encoders": {kind: made_with[kind]._asdict() for kind in made_with},
        "pairing": {"name": loaded["pairing"].spec, "sha256": loaded["pairing"].sha256},
        "used_with": _used_with(plan),
        "counts": counts,
        "dropped_roots": [base.roots[number] for number in filtered.dropped],
        "warnings": _warnings(counts),
        "failed": base.notes["failed"],
        "without_caption": base.notes["without_caption"],
        "without_noun": base.notes["without_noun"],
        "ovbench": __version__,
        "versions": env.versions(),
        "git": env.git_revision(),
    }
    writer.written(
        "report.html", lambda path: write_report(path, manifest, base, filtered, made, similar, work, images)
    )
    return writer.finish(manifest)


def _used_with(plan: Plan) -> dict[str, Any]:
    """What the use of the set must share, or the set itself does; the usual readings are not spelled out."""
    unusual = {"zeta": (plan.build.zeta, "area"), "o_rownorm": (plan.build.o_rownorm, False)}
    shared = {key: getattr(plan.cell.protocol, key) for key in ("templates", "short_side")}
    return shared | {key: value for key, (value, usual) in unusual.items() if value != usual}


def _names_hash(parts: Sequence[str]) -> str:
    import hashlib

    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]


def _listed(path: str) -> frozenset[str]:
    if not path:
        return frozenset()
    try:
        return frozenset(line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip())
    except OSError as error:
        raise InputError(f'cannot read the list of roots "{path}": {error.strerror}') from None


def _label_chunks(encoder: Any, labels: Sequence[str], names: Sequence[str], bar: tqdm) -> Iterator[np.ndarray]:
    for start in range(0, len(labels), TEXTS_AT_ONCE):
        chunk = labels[start : start + TEXTS_AT_ONCE]
        yield embed_texts(encoder, chunk, names)
        bar.update(len(chunk))


def _write_tables(writer: SetWriter, work: Work, parts: Sequence[str], base: Any, filtered: Any, made: Any) -> None:
    pa = tables.arrow()
    columns = ["image", "region", "y1", "x1", "y2", "x2", "area"]
    schema = pa.schema([stages.pair_schema().field(name) for name in columns])

    def segments() -> Iterator[Any]:
        for number, part in enumerate(parts):
            table = tables.read_table(work.file("pairs", part), columns)
            _, first = stages.paired_segments(table)
            low, high = np.searchsorted(made.segments, base.first[number : number + 2])
            yield table.take(first[made.segments[low:high] - base.first[number]])

    writer.written("segments.parquet", lambda path: tables.write_table(path, segments(), schema))
    roots = np.array(base.roots, object)
    labels = pa.table({"phrase": made.labels, "root": roots[made.root], "synonym": made.copied})
    writer.written("labels.parquet", lambda path: tables.write_table(path, [labels], labels.schema))
    dropped = np.isin(np.arange(len(base.roots)), filtered.dropped)
    values = {"root": base.roots, "size": filtered.groups.sizes, "w": filtered.together.w, "dropped": dropped}
    table = pa.table(values)
    writer.written("roots.parquet", lambda path: tables.write_table(path, [table], table.schema))


def _warnings(counts: Mapping[str, int]) -> list[str]:
    """What a reader of the report should know."""
    found = []
    share = 1 - counts["pairs_after_ambiguous"] / counts["base_pairs"]
    if share > finish.WARN_SHARE:
        found.append(f"the ambiguous-label filter took {share:.0%} of all pairs: look at ambiguous.csv")
    troubles = {
        "images_without_caption": "have no caption",
        "images_without_noun": "have captions with no noun",
        "images_failed": "cannot be read",
    }
    for key, what in troubles.items():
        if counts[key]:
            found.append(f"{counts[key]} of {counts['images']} images {what}")
    return found
