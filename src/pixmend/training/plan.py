"""From what a user asks for to the records and settings of a run."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pixmend.distributed import SINGLE_PROCESS, Group, choose_device
from pixmend.errors import SettingsError
from pixmend.records import PackProgress, PackSettings, Records, pack
from pixmend.storage import StorePath
from pixmend.training.budget import CHOSEN, chosen_for, size_for
from pixmend.training.run import RunDirectory, is_run
from pixmend.training.settings import TrainSettings, read_recipe, resolve


def plan_training(recipe: str | Path | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a recipe and overrides give, checked."""
    held = read_recipe(recipe) if recipe else {}
    try:
        resolve(held)
    except SettingsError as error:
        raise SettingsError(f"recipe {recipe}: {error}") from error
    wanted = {**held, **overrides}
    resolve(wanted)
    return wanted


def prepare_records(
    data: StorePath | Path,
    run: Path,
    wanted: Mapping[str, Any],
    *,
    skip_bad: bool = False,
    on_progress: Callable[[PackProgress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    group: Group = SINGLE_PROCESS,
) -> Records:
    """Open a record folder (or its URL), or pack an image folder into the run directory (once) and open that.

    In a group the first process packs while the others wait.

    Raises
    ------
    SettingsError
        ``wanted`` asks for another size or other channels than the records have.
    StoppedError
        ``should_stop`` said yes; the same call goes on.
    """
    if (StorePath.of(data) / "manifest.json").is_file():
        packed = Records(data, skip_bad=skip_bad, should_stop=should_stop)
    else:
        keys = ("size", "channels", "fit", "background")
        values = {key: wanted[key] for key in keys if key in wanted}
        if "minutes" in wanted and "size" not in wanted:
            device = choose_device(wanted.get("device", "auto"))
            values["size"] = size_for(wanted["minutes"], device)
        chosen = PackSettings(**values)
        folder = RunDirectory(run).records
        with group.main_first():
            if group.is_main:
                pack(data, folder, chosen, on_progress=on_progress, should_stop=should_stop)
            packed = Records(folder, skip_bad=skip_bad, should_stop=should_stop)
    for key, held in _shape_of(packed).items():
        if key in wanted and wanted[key] != held:
            raise SettingsError(
                f"{key} = {wanted[key]}: the records in {data} have {key} {held}; "
                f"pack the images again (pixmend pack --{key} {wanted[key]}) or leave {key} out"
            )
    return packed


def resolve_training(
    wanted: Mapping[str, Any], packed: Records, run: Path, *, group: Group = SINGLE_PROCESS
) -> TrainSettings:
    """Return the settings of a run on these records; with ``minutes``, what is not said is measured, or as the run was begun with."""
    given = {**wanted, **_shape_of(packed)}
    if "minutes" not in wanted:
        return resolve(given)
    chosen: dict[str, Any] | None = None
    if group.is_main:
        if is_run(run):
            begun = read_recipe(RunDirectory(run).settings)
            chosen = {key: begun[key] for key in CHOSEN if key in begun}
        else:
            device = group.device(wanted.get("device", "auto"))
            chosen = chosen_for(wanted["minutes"], packed, given, device)
    return resolve(group.broadcast_object(chosen), given)


def _shape_of(packed: Records) -> dict[str, Any]:
    return {
        "size": packed.size,
        "channels": packed.channels,
        "fit": packed.fit,
        "background": packed.background,
    }
