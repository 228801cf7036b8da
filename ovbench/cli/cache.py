"""``ovbench cache``."""

from __future__ import annotations

import json

import click

from ovbench.cli import options, say
from ovbench.utils.text import size_text


@click.group(name="cache", short_help="List, verify and remove files of the cache.")
def cache() -> None:
    """Manage the cache: region maps, text embeddings, generated benchmarks, downloaded weights.

    The folder is $OVBENCH_CACHE, by default "ovbench" in the user's cache folder. If $OVBENCH_CACHE is a URL, machines
    share query vectors and region maps there, and this is the default folder. All of it can be computed or downloaded
    again.
    """


@cache.command("ls")
@options.as_json
def ls(as_json: bool) -> None:
    """List the entries of the cache with their numbers of files and sizes."""
    from ovbench.inference.cache import CATEGORIES, entries
    from ovbench.utils.paths import cache_root

    have = entries()
    if as_json:
        rows = [{"name": p.label, "files": p.files, "bytes": p.size, "path": str(p.path)} for p in have]
        click.echo(json.dumps({"root": str(cache_root()), "parts": rows}, indent=1))
        return
    say(cache_root())
    width = max((len(entry.label) for entry in have), default=0)
    for entry in have:
        about = CATEGORIES.get(entry.category, "")
        say(f"  {entry.label:{width}}  {size_text(entry.size):>10}  {entry.files:>6} files  {about}")
    say(f"  {size_text(sum(entry.size for entry in have))} in {sum(entry.files for entry in have)} files")


@cache.command("rm")
@click.argument("names", nargs=-1, metavar="[CATEGORY|CATEGORY/NAME]...")
@click.option("--all", "everything", is_flag=True, help="Remove all entries.")
def rm(names: tuple[str, ...], everything: bool) -> None:
    """Remove entries of the cache, named as in `ovbench cache ls`, or all entries of a category.

    \b
    ovbench cache rm regions
    ovbench cache rm generated/mini text
    """
    from ovbench.inference.cache import entries, remove, select
    from ovbench.utils.errors import UsageError

    if everything == bool(names):
        raise UsageError("nothing to remove is given", fix="name entries of `ovbench cache ls`, or give --all")
    chosen = entries() if everything else select(names)
    for entry in chosen:
        remove(entry)
    say(f"removed {len(chosen)} entries, {size_text(sum(entry.size for entry in chosen))}")


@cache.command("verify")
@click.argument("names", nargs=-1, metavar="[CATEGORY|CATEGORY/NAME]...")
@click.option("--remove", "drop", is_flag=True, help="Remove damaged files; they are made again when needed.")
@options.as_json
def verify(names: tuple[str, ...], drop: bool, as_json: bool) -> int:
    """Check region maps, text embeddings and published weights for damage. Exit code 3 if a file is damaged."""
    from ovbench.inference.cache import entries, select
    from ovbench.inference.cache import verify as check

    results = [(entry, check(entry)) for entry in (select(names) if names else entries())]
    damaged = [damage for _, result in results for damage in result.damaged]
    for damage in damaged if drop else ():
        damage.path.unlink(missing_ok=True)
    if as_json:
        rows = [
            {
                "name": p.label,
                "checked": r.files,
                "unchecked": r.unchecked,
                "damaged": [{"path": str(d.path), "reason": d.reason} for d in r.damaged],
            }
            for p, r in results
        ]
        click.echo(json.dumps(rows, indent=1))
    else:
        for entry, result in results:
            say(
                f"{entry.label}: {result.files - len(result.damaged)} intact, {len(result.damaged)} damaged, "
                f"{result.unchecked} without a checksum"
            )
        for damage in damaged:
            say(f"{'removed' if drop else 'damaged'}: {damage.path}: {damage.reason}", err=True)
    return 3 if damaged and not drop else 0
