"""pixmend pack."""

import contextlib
import itertools
import json
import time
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from pixmend.cli.options import Cluster
from pixmend.cli.terminal import progress_bar, stderr, stdout, stop_on_signal
from pixmend.errors import SettingsError

if TYPE_CHECKING:
    from pixmend.records import Manifest, PackProgress
    from pixmend.storage import StorePath

_REASONS = 3  # of inputs left out, in the summary

Images = Annotated[
    str, Argument(help="Image folder, zip, idx file (.gz too) or TFRecords; path or URL.")
]
ChannelsName = Annotated[
    str | None, Option(metavar="L|RGB|RGBA", help="Channels; default: as the images need.")
]
FitName = Annotated[str, Option(metavar="crop|pad|stretch", help="How an image becomes square.")]
Background = Annotated[str, Option(help="Colour behind transparency and around padded images.")]
Workers = Annotated[int | None, Option(help="Processes or cluster workers; default: one per core.")]
MaxBad = Annotated[
    str | None,
    Option(metavar="N|FRACTION", help="Maximum unreadable inputs: a count such as 10, or 0.05."),
]


def pack(
    images: Images,
    records: Annotated[str, Argument(help="Output folder or URL; the same command resumes.")],
    size: Annotated[int, Option(help="Side of the square images, 8 to 1024 pixels.")] = 64,
    channels: ChannelsName = None,
    fit: FitName = "crop",
    background: Background = "white",
    workers: Workers = None,
    max_bad: MaxBad = None,
    images_per_shard: Annotated[int, Option(help="Maximum images per shard.")] = 4096,
    cluster: Cluster = None,
) -> None:
    """Pack images into TFRecord shards for training.

    Sub-folders are class labels. Unreadable inputs are left out; RECORDS/inputs.jsonl lists them
    with the reason. Run the same command again to resume.
    """
    from pixmend.images import passed_over
    from pixmend.records import PackSettings, is_source
    from pixmend.records import pack as pack_records
    from pixmend.storage import StorePath

    look = {"size": size, "channels": channels, "fit": fit, "background": background}
    settings = PackSettings.model_validate({**look, "images_per_shard": images_per_shard})
    limit = _parse_limit(max_bad)
    folder = StorePath.of(records)
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        engine = None
        if cluster is not None:
            from pixmend.cluster import packing_job, session

            engine = packing_job.PackingJob(stack.enter_context(session.connect(cluster)), workers)
        should_stop = stack.enter_context(stop_on_signal())
        bar = stack.enter_context(progress_bar())
        task = bar.add_task("packing", total=None, note="listing")

        def show(progress: "PackProgress") -> None:
            note = f"{progress.bad:,} left out" if progress.bad else ""
            bar.update(task, completed=progress.done, total=progress.total, note=note)

        manifest = pack_records(
            images, folder, settings, workers=workers, engine=engine, max_bad=limit,
            on_progress=show, should_stop=should_stop,
        )  # fmt: skip
        packed_before = bar.tasks[task].total is None
    _show(manifest, folder, None if packed_before else time.monotonic() - start)
    if note := passed_over(StorePath.of(images), folder, is_source):
        stderr.print(note)


def _parse_limit(text: str | None) -> int | float | None:
    if text is None:
        return None
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise SettingsError(
            f"--max-bad: {text!r} is not a number; give a count, or a fraction such as 0.05"
        ) from None


def _show(manifest: "Manifest", records: "StorePath", seconds: float | None) -> None:
    speed = "packed before"
    if seconds is not None:
        speed = f"{seconds:,.1f} s, {manifest.count / max(seconds, 1e-9):,.0f} images/s"
    stdout.print(f"{describe_records(manifest)} -> {records} ({speed})")
    stdout.print(_left_out(manifest, records))


def describe_records(manifest: "Manifest") -> str:
    """Return what a record folder holds, in words."""
    settings = manifest.settings
    classes = f", {_count(len(manifest.classes), 'class', 'classes')}" if manifest.classes else ""
    shards = _count(len(manifest.shards), "shard", "shards")
    megabytes = sum(shard.bytes for shard in manifest.shards) / 1e6
    images = f"{_count(manifest.count, 'image', 'images')} of {settings.size} px"
    return f"{images} {settings.channels}{classes} in {shards}, {megabytes:,.1f} MB"


def _left_out(manifest: "Manifest", records: "StorePath") -> str:
    from pixmend.records import INPUTS_NAME

    listing = f"{records / INPUTS_NAME} lists every input"
    if not manifest.left_out:
        return f"nothing left out; {listing}"
    with (records / INPUTS_NAME).open() as file:
        lines = (json.loads(line) for line in file if b'"reason"' in line)
        failed = list(itertools.islice((line for line in lines if "reason" in line), _REASONS))
    reasons = "; ".join(f"{line['name']}: {line['reason']}" for line in failed)
    more = "; ..." if manifest.left_out > _REASONS else ""
    return f"left out {manifest.left_out:,}: {reasons}{more}; {listing}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
