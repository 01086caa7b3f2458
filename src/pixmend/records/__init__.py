"""Records: packed training images, in TFRecord shards that TensorFlow reads too."""

from pixmend.records.dataset import Records
from pixmend.records.groups import groups_of, provenance
from pixmend.records.manifest import INPUTS_NAME, Manifest, PackSettings, ShardInfo
from pixmend.records.pack_progress import PackProgress
from pixmend.records.packing import pack
from pixmend.records.sources import ImageSource, find_source, is_source
