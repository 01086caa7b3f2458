"""Checks of a worker before it writes a shard; without Ray."""

import zipfile

import pytest

from pixmend.cluster.packing_job import PackingJob
from pixmend.errors import ClusterError
from pixmend.records import PackSettings, pack

from .one_machine import OneMachine

pytestmark = pytest.mark.usefixtures("quiet_reporters")
SETTINGS = PackSettings(size=8, images_per_shard=4)


def zipped(folder):
    """Return a folder with all images of ``folder`` in one zip."""
    other = folder.with_name("zipped")
    other.mkdir()
    with zipfile.ZipFile(other / "a.zip", "w") as archive:
        for path in folder.rglob("*.png"):
            archive.write(path, path.relative_to(folder))
    return other


@pytest.mark.parametrize("kind", ["folder", "file of images"])
def test_a_machine_that_does_not_see_the_source_writes_no_shards_without_images(
    kind, make_images, tmp_path
):
    folder, out = make_images(9), tmp_path / "out"
    unseen = folder
    if kind != "folder":
        folder = zipped(folder)
        unseen = folder / "a.zip"
    hidden = tmp_path / "elsewhere"
    cluster = OneMachine(lambda: unseen.rename(hidden))
    with pytest.raises(ClusterError, match=rf"^node .*: sees no {unseen}; .*or URLs$"):
        pack(folder, out, SETTINGS, engine=PackingJob(cluster))
    assert not (out / "manifest.json").exists()
    hidden.rename(unseen)
    assert pack(folder, out, SETTINGS, engine=PackingJob(OneMachine())).count == 9


def test_an_image_that_is_gone_is_left_out_by_name(make_images, tmp_path):
    folder = make_images(9)
    gone = folder / "Sample001" / "img00002.png"
    manifest = pack(
        folder, tmp_path / "out", SETTINGS, engine=PackingJob(OneMachine(lambda: gone.unlink()))
    )
    assert (manifest.count, manifest.left_out) == (8, 1)
