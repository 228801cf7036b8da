"""``ovbench describe``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ovbench.cli import options, say


@click.group(invoke_without_command=True)
@click.option(
    "--dataset", "-d", metavar="NAME|CARD.toml", shell_complete=options.complete_datasets,
    help="Benchmark with the classes.",
)  # fmt: skip
@click.option("--llm", metavar="MODEL", help="A transformers chat model, or with --base-url a model of the server.")
@click.option("--base-url", metavar="URL", help="OpenAI-compatible server, such as http://host:8000/v1.")
@click.option(
    "--names", default="freecp", show_default=True, metavar="VARIANT",
    help="Vocabulary with the class names, if there is one.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(min=1), default=20, show_default=True, help="Sentences per class.")
@click.option("--prompt", metavar="TEXT", help="Another prompt; {name} and {count} are replaced.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N classes.")
@options.device
@click.option(
    "--out", type=click.Path(path_type=Path), help="File to write. [default: a file in the cache, which methods find]"
)
@options.as_json
@click.pass_context
def describe(
    context: click.Context, dataset: str | None, llm: str | None, base_url: str | None, names: str, count: int,
    prompt: str | None, limit: int | None, device: str, out: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Write descriptions of a benchmark's classes with a language model, for methods that use them (FreeCP).

    Repeat the command to resume it. The file names the model and the prompt. The key of a server is read from
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
    from ovbench.training.describe_dataset import DescribeRequest, describe_dataset

    request = DescribeRequest(dataset, llm, base_url, names, count, prompt, limit, device, out)
    path, made = describe_dataset(request, lambda name, sentences: say(f"{name}: {sentences} sentences", err=True))
    if as_json:
        click.echo(json.dumps({"file": str(path), "classes": len(made.descriptions), "model": llm}))
    else:
        click.echo(path)


@describe.command(name="import")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.py")
@click.option(
    "--dataset", "-d", required=True, metavar="NAME|CARD.toml", shell_complete=options.complete_datasets,
    help="Benchmark with the classes.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), help="File to write. [default: a file in the cache, which methods find]"
)
@options.as_json
def import_prompts(file: Path, dataset: str, out: Path | None, as_json: bool) -> None:
    """Import the descriptions of FreeCP's authors: FILE.py of their folder prompts/vicuna13b.

    The file is read as data; its code is never run. With these descriptions a run has the published settings.

    \b
    ovbench describe import FreeCP/prompts/vicuna13b/voc21.py --dataset voc21
    ovbench describe import FreeCP/prompts/vicuna13b/voc21.py --dataset voc20
    """
    from ovbench.training.describe_dataset import import_descriptions

    path, made, missing = import_descriptions(file, dataset, out)
    if missing:
        say(f"without a description: {', '.join(missing)}; prompts are used instead", err=True)
    if as_json:
        click.echo(json.dumps({"file": str(path), "classes": len(made.descriptions), "without": missing}))
    else:
        click.echo(path)
