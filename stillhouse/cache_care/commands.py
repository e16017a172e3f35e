"""The commands ``stillhouse cache info``, ``verify`` and ``prune``. Nothing heavy is imported until one runs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillhouse.cache_dirs import free_bytes
from stillhouse.errors import ConfigError, about
from stillhouse.interruption import interruptible
from stillhouse.units import parse_age, parse_bytes, readable_age, readable_bytes

if TYPE_CHECKING:
    from stillhouse.cache_care.items import Count, Item

DAMAGED_EXIT_CODE = 1

cache_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None,
                        help="Look after kept answers of teachers and fine-tuned teachers.")

Folder = Annotated[Path | None, typer.Argument(
    metavar="[FOLDER]", show_default=False,
    help="A cache folder or a single store; else $STILLHOUSE_CACHE or ~/.cache/stillhouse.")]


@cache_app.command("info")
def info_command(
    folder: Folder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is kept, how large it is and when it was used last."""
    with interruptible():
        from stillhouse.cache_care.items import items_in

        place, items = items_in(folder)
        counts = [item.count() for item in items]
        if as_json:
            typer.echo(json.dumps(_plain(place, items, counts), indent=2))
        else:
            typer.echo(f"cache {place}\n{_table(place, items, counts)}")
            typer.echo(f"{_together(items)}; {readable_bytes(free_bytes(place))} free on this disk")
            _advise_on(items, counts)


@cache_app.command("verify")
def verify_command(
    folder: Folder = None,
    delete: Annotated[bool, typer.Option(
        "--delete", help="Remove damaged answers, so that they are computed again.")] = False,
) -> None:
    """Read every kept answer and compare its checksum; the exit code is 1 if any is damaged."""
    with interruptible():
        from stillhouse.cache_care.checking import check
        from stillhouse.cache_care.items import items_in

        place, items = items_in(folder)
        stores = [item for item in items if item.has_records]
        are_whole = True
        for item in stores:
            finding = check(item, delete=delete)
            are_whole &= finding.is_whole
            what = (f"{finding.num_records:,} records, {finding.num_damaged:,} damaged"
                    + (f", {finding.num_deleted:,} deleted" if finding.num_deleted else ""))
            typer.echo(f"{_name(place, item)}: {finding.problem or what}")
        if not stores:
            typer.echo(f"{place} holds no answers")
        if not are_whole:
            if not delete:
                typer.echo("give --delete to remove damaged records; they are computed again when they are needed",
                           err=True)
            raise typer.Exit(DAMAGED_EXIT_CODE)


@cache_app.command("prune")
def prune_command(
    folder: Folder = None,
    older_than: Annotated[str | None, typer.Option(
        metavar="30d", help="Delete what was not used for this long (m, h, d or w).")] = None,
    max_size: Annotated[str | None, typer.Option(
        metavar="20GB", help="Delete the least recently used until the rest takes no more than this.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete what was not used for long or does not fit; never what a running process has open."""
    with interruptible():
        if older_than is None and max_size is None:
            raise ConfigError("say what may go: --older-than 30d, --max-size 20GB, or both (--max-size 0 is all)")
        with about("--older-than"):
            older_than_s = None if older_than is None else parse_age(older_than)
        with about("--max-size"):
            max_bytes = None if max_size is None else parse_bytes(max_size)
        from stillhouse.cache_care.items import items_in
        from stillhouse.cache_care.pruning import chosen

        place, items = items_in(folder)
        going = chosen(items, time.time(), older_than_s, max_bytes)
        if not going:
            typer.echo(f"nothing to delete: {_together(items)}")
            return
        typer.echo(_table(place, going))
        typer.echo(f"{'would be deleted' if dry_run else 'to be deleted'}: {_together(going)}, of {_together(items)}")
        if dry_run:
            return
        if not yes:
            typer.confirm("delete them?", abort=True)
        _delete(place, going)


def _delete(place: Path, going: Sequence[Item]) -> None:
    from stillhouse.cache_care.pruning import remove

    kept = [item for item in going if not remove(item)]
    typer.echo(f"deleted {_together([item for item in going if item not in kept])}")
    for item in kept:
        typer.echo(f"kept {_name(place, item)}: a running process has it open")


def _plain(place: Path, items: Sequence[Item], counts: Sequence[Count]) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "folder": str(place),
        "items": [{"kind": item.kind, "folder": str(item.folder), "about": list(item.about),
                   "records": count.records, "problem": count.problem or None, "size_bytes": item.size_bytes,
                   "last_use": datetime.fromtimestamp(item.last_use_s, timezone.utc).isoformat(timespec="seconds")}
                  for item, count in zip(items, counts, strict=True)],
        "size_bytes": sum(item.size_bytes for item in items),
        "free_bytes": free_bytes(place),
    }


def _table(place: Path, items: Sequence[Item], counts: Sequence[Count] = ()) -> str:
    """A line for each; the longest cells, what it is and where, stand last. Without counts no column has them."""
    now_s = time.time()
    rows = [["kind", "records", "size", "last used", "folder", "what it is"]]
    cells = [_cell(count) for count in counts] or [""] * len(items)
    for item, cell in zip(items, cells, strict=True):
        rows.append([item.kind, cell, readable_bytes(item.size_bytes), readable_age(now_s - item.last_use_s),
                     _name(place, item), "; ".join(item.about) or item.if_not_noted])
    if not counts:
        rows = [[row[0], *row[2:]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)


def _cell(count: Count) -> str:
    if count.problem:
        return "damaged"
    return "" if count.records is None else f"{count.records:,}"


def _name(place: Path, item: Item) -> str:
    return str(item.folder if item.folder == place else item.folder.relative_to(place))


def _together(items: Sequence[Item]) -> str:
    size = readable_bytes(sum(item.size_bytes for item in items))
    return f"{len(items):,} folder{'' if len(items) == 1 else 's'}, {size}"


def _advise_on(items: Sequence[Item], counts: Sequence[Count]) -> None:
    for count in counts:
        if count.problem:
            typer.echo(f"warning: {count.problem}", err=True)
    for advice in dict.fromkeys(item.advice for item in items if item.advice):
        typer.echo(advice)
