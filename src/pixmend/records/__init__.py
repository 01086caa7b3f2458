"""Records: packed training images, in TFRecord shards that TensorFlow reads too.

folder | zip | idx.gz | TFRecords
    │ find_source            what is there, in order of name
    ▼
ImageSource ──write_image_list──▶ a file of lines, cut into even shares
    │ pack_shard, one worker process a shard
    │   read ▸ decode ▸ fit ▸ PNG ▸ tf.train.Example ▸ frame with masked CRC32C
    ▼
images-00000-of-00012.tfrecord   the records
images-00000-of-00012.index      where each starts
manifest.json, inputs.jsonl      what was packed, and what became of each input
    │ Records
    ▼
uint8 [B, size, size, C], labels, names
"""

from pixmend.records.dataset import Records
from pixmend.records.groups import groups_of, provenance
from pixmend.records.manifest import INPUTS_NAME, Manifest, PackSettings, ShardInfo
from pixmend.records.pack_progress import PackProgress
from pixmend.records.packing import pack
from pixmend.records.sources import ImageSource, find_source, is_source
