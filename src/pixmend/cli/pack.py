"""pixmend pack."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixmend.cli.clustered import CLUSTER_HELP

if TYPE_CHECKING:
    from pixmend.records import Manifest, PackProgress
    from pixmend.storage import StorePath

_REASONS = 3  # of inputs left out, shown at the end


def pack(
    images: Annotated[
        str,
        typer.Argument(
            help="A folder of images; or a zip, an idx file (.gz too), TFRecords; or a URL."
        ),
    ],
    records: Annotated[
        str, typer.Argument(help="The folder to write, or its URL; the same command goes on.")
    ],
    size: Annotated[int, typer.Option(help="Side of the square images, 8 to 1024.")] = 64,
    channels: Annotated[
        str | None,
        typer.Option(metavar="L|RGB|RGBA", help="Decided by the images if not given."),
    ] = None,
    fit: Annotated[
        str, typer.Option(metavar="crop|pad|stretch", help="How an image becomes square.")
    ] = "crop",
    background: Annotated[
        str, typer.Option(help="The colour behind alpha and around padded images.")
    ] = "white",
    workers: Annotated[
        int | None,
        typer.Option(help="Processes, or of a cluster workers; one a core if not given."),
    ] = None,
    max_bad: Annotated[
        str | None,
        typer.Option(
            metavar="N|SHARE", help="Give up over so many unreadable inputs: 10, or 0.05."
        ),
    ] = None,
    images_per_shard: Annotated[int, typer.Option(help="No shard holds more.")] = 4096,
    cluster: Annotated[
        str | None, typer.Option(metavar="auto|ray://HOST", help=CLUSTER_HELP)
    ] = None,
) -> None:
    """Pack a folder of images into TFRecord shards to train on.

    Sub-folders are class labels. What cannot be read is left out and listed in RECORDS/inputs.jsonl. Running the same
    command again goes on where it was stopped.
    """
    from pixmend.cli.clustered import packing_on
    from pixmend.cli.terminal import progress_bar, stop_on_signal
    from pixmend.records import PackSettings
    from pixmend.records import pack as pack_records
    from pixmend.storage import StorePath

    settings = PackSettings.model_validate(
        {
            "size": size,
            "channels": channels,
            "fit": fit,
            "background": background,
            "images_per_shard": images_per_shard,
        }
    )
    limit = _parse_limit(max_bad)
    place = StorePath.of(records)
    start = time.monotonic()
    with (
        packing_on(cluster, workers) as engine,
        stop_on_signal() as should_stop,
        progress_bar() as bar,
    ):
        task = bar.add_task("packing", total=None, note="listing")

        def show(progress: "PackProgress") -> None:
            note = f"{progress.bad:,} left out" if progress.bad else ""
            bar.update(task, completed=progress.done, total=progress.total, note=note)

        manifest = pack_records(
            images,
            place,
            settings,
            workers=workers,
            engine=engine,
            max_bad=limit,
            on_progress=show,
            should_stop=should_stop,
        )
        already = bar.tasks[task].total is None
    _show(manifest, place, None if already else time.monotonic() - start)


def _parse_limit(text: str | None) -> int | float | None:
    from pixmend.errors import SettingsError

    if text is None:
        return None
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise SettingsError(
            f"--max-bad: {text!r} is no number; give a count, or a share below 1 such as 0.05"
        ) from None


def _show(manifest: "Manifest", records: "StorePath", seconds: float | None) -> None:
    from pixmend.cli.terminal import out

    settings = manifest.settings
    classes = f", {_count(len(manifest.classes), 'class', 'classes')}" if manifest.classes else ""
    megabytes = sum(shard.bytes for shard in manifest.shards) / 1e6
    out.print(
        f"{_count(manifest.count, 'image', 'images')} of {settings.size} px {settings.channels}{classes}"
        f" in {_count(len(manifest.shards), 'shard', 'shards')}, {megabytes:,.1f} MB -> {records}"
        f" ({_speed(manifest.count, seconds)})",
        markup=False,
    )
    out.print(_left_out(manifest, records), markup=False)


def _speed(images: int, seconds: float | None) -> str:
    if seconds is None:
        return "packed before"
    return f"{seconds:,.1f} s, {images / max(seconds, 1e-9):,.0f} images/s"


def _left_out(manifest: "Manifest", records: "StorePath") -> str:
    from pixmend.records import INPUTS_NAME

    listed = f"every input is listed in {records / INPUTS_NAME}"
    if not manifest.left_out:
        return f"nothing left out; {listed}"
    reasons = "; ".join(f"{line['name']}: {line['reason']}" for line in _first_bad(records))
    more = "; ..." if manifest.left_out > _REASONS else ""
    return f"left out {manifest.left_out:,}: {reasons}{more}; {listed}"


def _first_bad(records: "StorePath") -> list[dict[str, Any]]:
    import itertools
    import json

    from pixmend.records import INPUTS_NAME

    with (records / INPUTS_NAME).open() as file:
        lines = (json.loads(line) for line in file if b'"reason"' in line)
        return list(itertools.islice((line for line in lines if "reason" in line), _REASONS))


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
