"""Check that TensorFlow and pixmend read each other's records, pixel by pixel.

TensorFlow is no dependency of pixmend; run this in an environment of its own:

    python -m venv interop
    interop/bin/pip install tensorflow-cpu numpy pillow pydantic google-crc32c
    PYTHONPATH=src interop/bin/python benchmarks/tensorflow_interop.py

It creates its data in a temporary folder, prints a line per check, and exits with 1 if a check
fails. Given a path, it also writes the fixture of tests/records there: five small records written
by TensorFlow.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from pixmend.images import decode_image, encode_png
from pixmend.records import PackSettings, Records, pack
from pixmend.records.containers import image_of_example, tfrecord_members
from pixmend.records.tfrecord import decode_example, encode_example, read_records
from pixmend.storage import StorePath

COUNT, HEIGHT, WIDTH = 50, 37, 31


def main() -> None:
    checks = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = make_images(folder / "images")
        checks["TensorFlow reads our shards: pixels, labels, names"] = read_ours(folder, images)
        checks["we read image/encoded (PNG and JPEG) written by TensorFlow"] = read_encoded(folder)
        checks["we read the seed's height, width, image_raw written by TensorFlow"] = read_raw(
            folder
        )
        checks["our bytes of an Example are TensorFlow's deterministic ones"] = same_bytes()
        checks["our frames are TensorFlow's, and pack takes its sharded files"] = repack(folder)
    if len(sys.argv) > 1:
        write_fixture(Path(sys.argv[1]))
    print(f"TensorFlow {tf.__version__}")
    for what, good in checks.items():
        print(f"{'ok  ' if good else 'FAIL'} {what}")
    sys.exit(0 if all(checks.values()) else 1)


def make_images(folder: Path) -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(COUNT)]
    for number, image in enumerate(images):
        path = folder / f"Sample{number % 3:03d}" / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(image))
    return images


def read_ours(folder: Path, images: list[NDArray[np.uint8]]) -> bool:
    pack(folder / "images", folder / "ours", PackSettings(size=64, images_per_shard=7), workers=1)
    shards = sorted(str(path) for path in (folder / "ours").glob("*.tfrecord"))
    schema = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/format": tf.io.FixedLenFeature([], tf.string),
        "image/height": tf.io.FixedLenFeature([], tf.int64),
        "image/width": tf.io.FixedLenFeature([], tf.int64),
        "image/channels": tf.io.FixedLenFeature([], tf.int64),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/class/text": tf.io.FixedLenFeature([], tf.string),
    }
    names = set()
    for record in tf.data.TFRecordDataset(shards):
        features = tf.io.parse_single_example(record, schema)
        name = features["image/filename"].numpy().decode()
        number = int(name[-7:-4])
        pixels = tf.io.decode_png(features["image/encoded"]).numpy()
        shape = [int(features[f"image/{side}"]) for side in ("height", "width", "channels")]
        good = [
            np.array_equal(pixels, images[number]),
            shape == [64, 64, 3],
            int(features["image/class/label"]) == number % 3,
            features["image/class/text"].numpy().decode() == f"Sample{number % 3:03d}",
            features["image/format"].numpy() == b"png",
        ]
        if not all(good):
            return False
        names.add(name)
    return len(names) == len(images)


def read_encoded(folder: Path) -> bool:
    random = np.random.default_rng(1)
    path = folder / "encoded.tfrecord"
    files, labels = [], []
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(COUNT):
            pixels = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            encode = tf.io.encode_png if number % 2 else tf.io.encode_jpeg
            files.append(encode(pixels).numpy())
            labels.append(number - 1)
            features = {"image/encoded": files[-1], "image/class/label": labels[-1]}
            writer.write(example(features | {"image/filename": f"{number}"}))
    found = list(foreign_images(path))
    return len(found) == COUNT and all(
        np.array_equal(pixels, decode_image(content).pixels)
        and text == (None if label < 0 else str(label))
        and name == str(number)
        and np.array_equal(pixels, decoded(content, is_png=bool(number % 2)))
        for number, ((pixels, text, name), content, label) in enumerate(
            zip(found, files, labels, strict=True)
        )
    )


def foreign_images(path: Path) -> Iterator[tuple[NDArray[np.uint8], str | None, str]]:
    """Yield pixels, class and name of the records of a file."""
    members = tfrecord_members(StorePath(path))
    for member, (_, payload) in zip(members, read_records(path), strict=True):
        content = image_of_example(decode_example(payload))
        pixels = decode_image(content).pixels if isinstance(content, bytes) else content
        yield pixels, member.class_text, member.name


def decoded(content: bytes, *, is_png: bool) -> NDArray[np.uint8]:
    """Decode with TensorFlow, exactly: its default for JPEG is off by up to 9 levels on noise."""
    if is_png:
        return tf.io.decode_png(content).numpy()
    return tf.io.decode_jpeg(content, dct_method="INTEGER_ACCURATE").numpy()


def read_raw(folder: Path) -> bool:
    random = np.random.default_rng(2)
    path = folder / "raw.tfrecords"
    written = []
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number in range(COUNT):
            shape = (HEIGHT, WIDTH, (1, 3, 4)[number % 3])
            written.append(random.integers(0, 256, shape, np.uint8))
            features = {"height": HEIGHT, "width": WIDTH, "image_raw": written[-1].tobytes()}
            writer.write(example(features))
    found = [image for image, _, _ in foreign_images(path)]
    return len(found) == COUNT and all(map(np.array_equal, found, written))


def same_bytes() -> bool:
    features = {
        "b": b"\0\xff" * 200,
        "floats": [0.5, -1.25, 3e38],
        "ints": [0, 1, -1, 127, 128, 2**63 - 1, -(2**63)],
        "text": "grün",
        "nothing": [],
    }
    theirs = example(features)
    one_by_one = tf.train.Example.FromString(encode_example(features))
    return (
        encode_example(features) == theirs
        and decode_example(theirs) == decode_example(encode_example(features))
        and list(one_by_one.features.feature["ints"].int64_list.value) == features["ints"]
    )


def repack(folder: Path) -> bool:
    random = np.random.default_rng(3)
    theirs = folder / "theirs"
    theirs.mkdir()
    pixels = random.integers(0, 256, (2, COUNT, 32, 32, 3), np.uint8)
    for shard, images in enumerate(pixels):
        with tf.io.TFRecordWriter(str(theirs / f"train-{shard:05d}-of-00002")) as writer:
            for label, image in enumerate(images):
                content = tf.io.encode_png(image).numpy()
                writer.write(example({"image/encoded": content, "image/class/label": label % 10}))
    manifest = pack(theirs, folder / "converted", PackSettings(size=32), workers=1)
    records = Records(folder / "converted")
    return (
        manifest.count == 2 * COUNT
        and manifest.classes == tuple(map(str, range(10)))
        and np.array_equal(records.images(range(len(records))), pixels.reshape(-1, 32, 32, 3))
        and [payload for _, payload in read_records(theirs / "train-00000-of-00002")]
        == [r.numpy() for r in tf.data.TFRecordDataset(str(theirs / "train-00000-of-00002"))]
    )


def write_fixture(path: Path) -> None:
    """Write five images whose pixels tests recompute: (17 y + 5 x + 80 c + 13 n) mod 256."""
    with tf.io.TFRecordWriter(str(path)) as writer:
        for number, channels in enumerate((3, 3, 1, 4, 3)):
            pixels = pattern(number, channels)
            sides = {"height": 7, "width": 5}
            raw = pixels.tobytes()
            writer.write(
                example(
                    (
                        {
                            "image/encoded": tf.io.encode_png(pixels).numpy(),
                            "image/filename": "a/0.png",
                            "image/class/label": 4,
                            "image/class/text": "four",
                        },
                        sides | {"image_raw": raw},
                        sides | {"image_raw": raw, "depth": 1, "label": 2},
                        sides | {"image_raw": raw},
                        {"image": tf.io.encode_png(pixels).numpy(), "label": -3},
                    )[number]
                )
            )


def pattern(number: int, channels: int) -> NDArray[np.uint8]:
    y, x, c = np.mgrid[:7, :5, :channels]
    return ((17 * y + 5 * x + 80 * c + 13 * number) % 256).astype(np.uint8)


def example(features: dict[str, object]) -> bytes:
    """Serialise with TensorFlow's classes, keys in order."""
    kinds = {}
    for key, value in features.items():
        values = value if isinstance(value, list) else [value]
        values = [item.encode() if isinstance(item, str) else item for item in values]
        if not values:
            kinds[key] = tf.train.Feature()
        elif isinstance(values[0], bytes):
            kinds[key] = tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
        elif isinstance(values[0], int):
            kinds[key] = tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        else:
            kinds[key] = tf.train.Feature(float_list=tf.train.FloatList(value=values))
    message = tf.train.Example(features=tf.train.Features(feature=kinds))
    return bytes(message.SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
