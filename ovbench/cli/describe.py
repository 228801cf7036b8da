"""``ovbench describe``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ovbench.cli import options


@click.group(invoke_without_command=True)
@click.option(
    "--dataset", "-d", metavar="NAME|CARD.toml", shell_complete=options.complete_datasets,
    help="Benchmark whose classes are described.",
)  # fmt: skip
@click.option("--llm", metavar="MODEL", help="A transformers chat model, or a model of the server.")
@click.option("--base-url", metavar="URL", help="OpenAI-compatible server, as http://host:8000/v1.")
@click.option(
    "--names", default="freecp", show_default=True, metavar="VARIANT",
    help="Whose class names, as in a protocol's vocabulary, where that family has a list of its own.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(min=1), default=20, show_default=True, help="Sentences per class.")
@click.option("--prompt", metavar="TEXT", help="Another request; {name} and {count} are replaced.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N classes.")
@options.device
@click.option(
    "--out", type=click.Path(path_type=Path), help="File to write, by default one in the cache that methods find."
)
@options.as_json
@click.pass_context
def describe(
    context: click.Context, dataset: str | None, llm: str | None, base_url: str | None, names: str, count: int,
    prompt: str | None, limit: int | None, device: str, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Have a language model describe the classes of a benchmark, for methods that read descriptions (FreeCP).

    A run that was stopped goes on where it was. The file holds the model and the prompt. A server's key is read from
    OVBENCH_LLM_KEY.

    \b
    ovbench describe --dataset voc21 --llm Qwen/Qwen2.5-7B-Instruct
    ovbench describe --dataset ade150 --llm my-model --base-url http://localhost:8000/v1
    ovbench describe import FreeCP/prompts/vicuna13b/voc21.py --dataset voc21
    """
    if context.invoked_subcommand is not None:
        return
    if dataset is None or llm is None:
        raise click.UsageError("Missing option '--dataset' / '-d' or '--llm'.")
    from ovbench.data.card import load_card, vocabulary
    from ovbench.training import descriptions as library
    from ovbench.training.chat import ChatClient
    from ovbench.utils.paths import cache_root
    from ovbench.utils.provenance import choose_device

    card = load_card(dataset)
    described = (words for number, words in enumerate(vocabulary(card, names)) if number != card.background)
    classes = [query for words in described for query in words][:limit]
    path = out or cache_root() / "descriptions" / f"{card.name}.json"
    ask = ChatClient(base_url, llm) if base_url else library.local(llm, str(choose_device(device)))
    made = library.describe(
        classes, ask, path, vocabulary=card.name, model=llm, count=count, prompt=prompt or library.PROMPT,
        progress=lambda name, sentences: click.echo(f"{name}: {sentences} sentences", err=True),
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps({"file": str(path), "classes": len(made.descriptions), "model": llm}))
    else:
        click.echo(path)


@describe.command(name="import")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.py")
@click.option(
    "--dataset", "-d", required=True, metavar="NAME|CARD.toml", shell_complete=options.complete_datasets,
    help="Benchmark whose classes are described.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), help="File to write, by default one in the cache that methods find."
)
@options.as_json
def import_prompts(file: Path, dataset: str, out: Path | None, as_json: bool) -> None:
    """Take over the descriptions that FreeCP's authors published, FILE.py of their folder prompts/vicuna13b.

    The file is read as data and never run. With them a run counts as the published one.

    \b
    ovbench describe import FreeCP/prompts/vicuna13b/voc21.py --dataset voc21
    ovbench describe import FreeCP/prompts/vicuna13b/voc21.py --dataset voc20
    """
    from ovbench.backbones.checkpoint import file_sha256
    from ovbench.data import descriptions as library
    from ovbench.data.card import load_card, vocabulary
    from ovbench.utils.paths import cache_root

    card = load_card(dataset)
    made = library.DescriptionSet(
        card.name, library.OFFICIAL_MODEL, f"{file.name}, sha256 {file_sha256(file)}" if file.is_file() else "",
        library.read_prompts(file),
    )  # fmt: skip
    path = out or cache_root() / "descriptions" / f"{card.name}.json"
    library.write_set(path, made)
    described = [words for n, words in enumerate(vocabulary(card, "freecp")) if n != card.background]
    absent = [query for words in described for query in words if not made.sentences(query, words[0])]
    if absent:
        click.echo(f"without a description: {', '.join(absent)}; their prompts stand in", err=True)
    if as_json:
        click.echo(json.dumps({"file": str(path), "classes": len(made.descriptions), "without": absent}))
    else:
        click.echo(path)
