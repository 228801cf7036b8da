"""``ovbench cache``."""

from __future__ import annotations

import json

import click

from ovbench.cli import options


@click.group(name="cache", short_help="List, verify and remove what is in the cache.")
def cache() -> None:
    """What ovbench keeps because it takes time to make again: region maps, query vectors, drawn benchmarks, weights.

    The folder is $OVBENCH_CACHE, or "ovbench" in the user's cache folder. Everything in it can be removed at any time.
    """


@cache.command("ls")
@options.as_json
def ls(as_json: bool) -> None:
    """List the entries of the cache with their files and sizes."""
    from ovbench.inference.cache import CATEGORIES, entries
    from ovbench.utils.paths import cache_root

    have = entries()
    if as_json:
        rows = [{"name": p.label, "files": p.files, "bytes": p.size, "path": str(p.path)} for p in have]
        click.echo(json.dumps({"root": str(cache_root()), "parts": rows}, indent=1))
        return
    click.echo(f"{cache_root()}")
    width = max((len(entry.label) for entry in have), default=0)
    for entry in have:
        about = CATEGORIES.get(entry.category, "")
        click.echo(f"  {entry.label:{width}}  {readable(entry.size):>10}  {entry.files:>6} files  {about}")
    click.echo(f"  {readable(sum(entry.size for entry in have))} in {sum(entry.files for entry in have)} files")


@cache.command("rm")
@click.argument("names", nargs=-1, metavar="[CATEGORY|CATEGORY/NAME]...")
@click.option("--all", "everything", is_flag=True, help="Remove everything.")
def rm(names: tuple[str, ...], everything: bool) -> None:
    """Remove entries of the cache, named as in `ovbench cache ls`, or a whole category.

    \b
    ovbench cache rm regions
    ovbench cache rm generated/mini text
    """
    from ovbench.inference.cache import entries, remove, select
    from ovbench.utils.errors import UsageError

    if everything == bool(names):
        raise UsageError("nothing to remove", fix="name entries as in `ovbench cache ls`, or give --all")
    chosen = entries() if everything else select(names)
    for entry in chosen:
        remove(entry)
    click.echo(f"removed {len(chosen)} entries, {readable(sum(entry.size for entry in chosen))}")


@cache.command("verify")
@click.argument("names", nargs=-1, metavar="[CATEGORY|CATEGORY/NAME]...")
@click.option("--remove", "drop", is_flag=True, help="Remove damaged files, to be made again when needed.")
@options.as_json
def verify(names: tuple[str, ...], drop: bool, as_json: bool) -> int:
    """Read region maps, query vectors and published weights and check that they are whole; exit code 3 if not."""
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
            click.echo(
                f"{entry.label}: {result.files - len(result.damaged)} whole, {len(result.damaged)} damaged, "
                f"{result.unchecked} without a checksum"
            )
        for damage in damaged:
            click.echo(f"{'removed' if drop else 'damaged'}: {damage.path}: {damage.reason}", err=True)
    return 3 if damaged and not drop else 0


def readable(size: int) -> str:
    """Bytes with a decimal unit."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
