"""Settings of the input: dataset, input pipeline and augmentation."""

from typing import Annotated, Literal

from pydantic import Field

from resnext_trainer.config.bounds import Path, Share
from resnext_trainer.config.rules import HERE, RUN, Config, Rule

Pipeline = Literal["auto", "dali", "native", "tfdata"]


class Augmentation(Config):
    """Augmentation of training images."""

    crop_area: Annotated[tuple[Share, ...], Field(min_length=2, max_length=2)] = (0.08, 1.0)
    """Lower and upper bounds for the area of the random resized crop, as fractions of the image."""

    crop_ratio: Annotated[tuple[Annotated[float, Field(gt=0, le=1000)], ...], Field(min_length=2, max_length=2)] = (
        3 / 4,
        4 / 3,
    )
    """Lower and upper bounds for the aspect ratio (width over height) of the random resized crop."""

    flip: bool = True
    """Random horizontal flip with a probability of 0.5."""

    rules = (
        Rule(
            "!has(self.cropArea) || size(self.cropArea) < 2 || self.cropArea[0] <= self.cropArea[1]",
            lambda it: it.crop_area[0] <= it.crop_area[1],
            "cropArea",
            "must be [minimum, maximum]",
        ),
        Rule(
            "!has(self.cropRatio) || size(self.cropRatio) < 2 || self.cropRatio[0] <= self.cropRatio[1]",
            lambda it: it.crop_ratio[0] <= it.crop_ratio[1],
            "cropRatio",
            "must be [minimum, maximum]",
        ),
    )


class Resize(Config):
    """Bilinear resize of the crop window to model.imageSize."""

    antialias: bool = False
    """Average over all source pixels when an image is reduced, as Pillow does. If false, each pixel is interpolated
    from its four nearest source pixels, as in the published recipe."""


class Data(Config):
    """Dataset and input pipeline."""

    format: Literal["tfrecord", "folder", "synthetic"] = "tfrecord"
    """tfrecord: shards train-* and validation-*. folder: image files in train/CLASS/ and validation/CLASS/. synthetic:
    random images, to measure throughput without storage."""

    path: Annotated[Path, HERE] = "/data"
    """Directory with the shards, or with the subdirectories train and validation (or val). Never written to."""

    index_path: Annotated[Annotated[str, Field(max_length=1024)] | None, HERE] = None
    """Directory with the index of each shard (NAME.idx, created by `resnext-train data index`). If unset, data.path is
    used."""

    pipeline: Annotated[Pipeline, RUN] = "auto"
    """Input pipeline that decodes and augments images: NVIDIA DALI, native (libjpeg-turbo in C, on CPUs) or tf.data.
    auto selects DALI on GPUs and native on CPUs. If that pipeline is not installed, auto selects the other one; if
    neither is installed, tf.data."""

    resize: Resize = Resize()
    """Resize of training, validation and predicted images."""

    fast_decode: bool = True
    """Decode JPEGs with libjpeg's fast DCT, as in the published recipe. nvJPEG, the decoder
    on GPUs, has no fast DCT; there, true replicates subsampled chroma instead of interpolating it, which makes DALI
    several times as fast."""

    first_label: Annotated[int, Field(ge=0, le=1)] = 1
    """Label of class 0 in the records. In the usual TFRecords of ImageNet, labels start at 1."""

    image_feature: Annotated[str, Field(min_length=1, max_length=256)] = "image/encoded"
    """Name of the record feature that contains the JPEG image. TensorFlow Datasets uses `image`."""

    label_feature: Annotated[str, Field(min_length=1, max_length=256)] = "image/class/label"
    """Name of the record feature that contains the integer label. TensorFlow Datasets uses `label`."""

    incomplete_shards: Annotated[Literal["refuse", "allow"], RUN] = "refuse"
    """What to do if numbered shards (SPLIT-I-of-N) are missing or empty. refuse: fail. allow: train on the others."""

    order: Literal["random", "blocks"] = "random"
    """Order in which the images of an epoch are read. random: each image on its own, for local disks and data in
    memory. blocks: shards are read in blocks of 32 consecutive records, which are shuffled, and the images of 128
    blocks are mixed. For network storage; requires the format tfrecord."""

    cache: Annotated[Annotated[str, Field(pattern=r"^(memory|/.*)$", max_length=1024)] | None, HERE] = None
    """Where each pod keeps a copy of the shards, made in the background: memory (/dev/shm, limited by
    workers.sharedMemory), or a directory on a local disk. If unset, or if the shards do not fit, they are read from
    path."""

    synthetic_images: Annotated[int, Field(ge=1, le=1_000_000_000)] = 1_281_167
    """Number of training images per epoch of synthetic data."""

    max_bad_record_fraction: Annotated[Share, RUN] = 0.0
    """Maximum fraction of the records of a split that may be unusable: unreadable, not a JPEG, or with an invalid
    label. They are skipped and logged."""

    rules = (
        Rule(
            "!(has(self.format) && self.format == 'synthetic' && has(self.pipeline) && self.pipeline == 'dali')",
            lambda it: not (it.format == "synthetic" and it.pipeline == "dali"),
            "pipeline",
            "synthetic data does not support dali: remove pipeline or set format to tfrecord or folder",
        ),
        Rule(
            "!(has(self.order) && self.order == 'blocks' && has(self.format) && self.format != 'tfrecord')",
            lambda it: it.order == "random" or it.format == "tfrecord",
            "order",
            "blocks requires shards: remove order or set format to tfrecord",
        ),
        Rule(
            "!(has(self.cache) && has(self.format) && self.format != 'tfrecord')",
            lambda it: it.cache is None or it.format == "tfrecord",
            "cache",
            "requires shards: remove cache or set format to tfrecord",
        ),
    )
