"""Pixels of decoded and resized images: equal in all pipelines, and equal to Pillow and to the definition."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnext_trainer.config.validation import resolve
from resnext_trainer.data import native_decoder
from resnext_trainer.data.crops import CropWindow, center_crop
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.decoding import Decoding
from resnext_trainer.data.input_pipeline import Shard, open_input_pipeline
from resnext_trainer.data.pipelines import dali
from resnext_trainer.data.pipelines.tfdata import decoded
from resnext_trainer.inference import predict
from tests.support.images import encode, noise
from tests.support.pipelines import RESIZES, TRANSFERRED, assert_same_images, select

needs_native = pytest.mark.skipif(not native_decoder.available(), reason="resnext-native is not installed")


def picture(size, mode="RGB", **options):
    """JPEG of smooth colors with some noise and subsampled chroma; size is (height, width)."""
    random = np.random.default_rng(0)
    smooth = Image.fromarray(random.integers(0, 256, (9, 9, 3), np.uint8)).resize(size[::-1])
    noisy = np.asarray(smooth) + random.integers(-20, 20, (*size, 3))
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)
    return encode(image, quality=90, **options)


def turned():
    """Exif orientation of a camera held upright."""
    exif = Image.Exif()
    exif[0x112] = 6
    return exif


ODD = {
    "one pixel": picture((1, 1)),
    "a line": picture((1, 700)),
    "a column": picture((700, 1)),
    "a strip": picture((3, 500)),
    "a tower": picture((900, 20)),
    "small and odd": picture((17, 31)),
    "usual": picture((375, 500)),
    "gray": picture((65, 47), "L"),
    "CMYK": picture((65, 47), "CMYK"),
    "progressive": picture((65, 47), progressive=True),
    "full colors": picture((65, 47), subsampling=0),
    "colors of half the width": picture((65, 47), subsampling=1),
    "turned by Exif": picture((65, 47), exif=turned()),
}


@pytest.fixture(scope="module")
def odd_pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    for split in ("train", "validation"):
        tfrecord.write(folder, split, [(jpeg, 1) for jpeg in ODD.values()], 1)
    return folder


@pytest.fixture
def named(pipeline, monkeypatch):
    """The value of data.pipeline for a pipeline of TRANSFERRED."""
    return select(pipeline, monkeypatch)


def images_of(pipeline, settings, folder, size):
    """Images of two epochs and of the validation set."""
    config = resolve(
        {
            "model": {"classes": 10, "imageSize": size},
            "batchSize": len(ODD),
            "data": {"path": str(folder), "pipeline": pipeline, **settings},
            "device": "cpu",
        }
    )
    source = open_input_pipeline(config, Shard(0, 1))
    found = []
    for batches in (source.train(0), source.train(1), source.validate()):
        ((images, _),) = batches
        found.append(images.numpy())
    return found


@pytest.fixture(scope="module")
def reference(odd_pictures):
    """Images by tf.data; computed once for both other pipelines."""
    found = {}

    def images(case, size):
        if (case, size) not in found:
            found[case, size] = images_of("tfdata", RESIZES[case], odd_pictures, size)
        return found[case, size]

    return images


@pytest.mark.parametrize("size", [16, 224])
@pytest.mark.parametrize("case", RESIZES)
@pytest.mark.parametrize("pipeline", TRANSFERRED)
def test_pipelines_unusual_jpegs_decode_equally(odd_pictures, reference, named, case, size):
    """All pipelines agree on tiny, narrow, gray, CMYK, progressive and rotated images, for each setting."""
    for ours, theirs in zip(reference(case, size), images_of(named, RESIZES[case], odd_pictures, size), strict=True):
        assert_same_images(named, case, theirs, ours)


@pytest.mark.parametrize("pipeline", TRANSFERRED)
def test_pipelines_digits_decode_equally(settings, named):
    """The other pipelines return the same labels as tf.data, and pixels that differ by rounding only."""

    def source(name):
        data = {**settings["data"], "pipeline": name}
        return open_input_pipeline(resolve({**settings, "data": data, "device": "cpu"}), Shard(0, 1))

    ours, others = source("tfdata"), source(named)
    assert others.name == named
    for mine, theirs in ((ours.train(1, 20 * 64), others.train(1, 20 * 64)), (ours.validate(), others.validate())):
        for (images, labels), (again, labels_again) in zip(mine, theirs, strict=True):
            assert labels.numpy().tolist() == labels_again.numpy().tolist()
            assert np.abs(images.numpy().astype(int) - again.numpy()).max() <= 1


def by_tensorflow(jpeg, cut, decoding):
    return decoded(tf.constant(jpeg), tf.constant(cut.numbers, tf.float32), decoding).numpy().astype(int)


def by_native(jpeg, cut, decoding):
    return native_decoder.decode([jpeg], [cut], decoding, threads=1)[0].astype(int)


DECODERS = [by_tensorflow, pytest.param(by_native, marks=needs_native)]

WINDOWS = [CropWindow(3, 5, 41, 33), CropWindow(0, 0, 41, 47), CropWindow(24, 14, 41, 33, flip=True)]


def pixels(jpeg):
    with Image.open(io.BytesIO(jpeg)) as whole:
        return np.asarray(whole.convert("RGB"))


def size_of(jpeg) -> tuple[int, int]:
    height, width, _ = pixels(jpeg).shape
    return height, width


def interpolated(picture, size, top, left, bottom, right):
    """Bilinear interpolation at the centers of the output pixels, from its definition."""

    def axis(length, begin, end):
        at = np.clip(begin + (np.arange(size) + 0.5) * (end - begin) / size - 0.5, 0, length - 1)
        first = np.minimum(np.floor(at).astype(int), max(0, length - 2))
        return first, np.minimum(first + 1, length - 1), at - first

    (y, y1, v), (x, x1, u) = axis(picture.shape[0], top, bottom), axis(picture.shape[1], left, right)
    rows = picture[y] * (1 - v)[:, None, None] + picture[y1] * v[:, None, None]
    return rows[:, x] * (1 - u)[:, None] + rows[:, x1] * u[:, None]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("antialias", [False, True])
def test_decode_crop_window_matches_reference(decoder, antialias):
    """With antialiasing, the pixels equal Pillow's; without it, those of the definition. The windows include the last
    column, which partial decoding gets wrong."""
    for name in ("usual", "gray", "progressive", "full colors", "colors of half the width", "turned by Exif"):
        for cut in WINDOWS:
            ours = decoder(ODD[name], cut, Decoding(16, antialias, fast=False))
            window = pixels(ODD[name])[cut.top : cut.top + cut.height, cut.left : cut.left + cut.width]
            if antialias:
                theirs = np.asarray(Image.fromarray(window).resize((16, 16), Image.Resampling.BILINEAR))
            else:
                theirs = interpolated(window, 16, 0, 0, cut.height, cut.width)
            assert np.abs(ours - (theirs[:, ::-1] if cut.flip else theirs)).max() <= 1, (name, cut)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("left", [0, 1, 8, 15, 16, 17, 32, 48, 75, 76])
def test_decode_window_columns_match_whole_image(decoder, left):
    """The columns are equal, even the first and the last, for all positions in a block of 16 pixels."""
    jpeg, cut = noise(0, (96, 64)), CropWindow(5, left, 20, 20)
    ours = decoder(jpeg, cut, Decoding(20, False, fast=False))
    assert np.abs(ours - pixels(jpeg)[5:25, left : left + 20]).max() <= 1


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [16, 48, 224])
def test_decode_center_crop_matches_whole_resized_image(decoder, antialias, size):
    """The crop is the exact center of the resized image, including what the filter reads outside the crop."""
    for name in ("usual", "gray", "progressive", "full colors"):
        picture = pixels(ODD[name])
        height, width = picture.shape[:2]
        side = 0.875 * min(height, width)
        top, left = (height - side) / 2, (width - side) / 2
        if antialias:
            box = (left, top, left + side, top + side)
            theirs = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BILINEAR, box))
        else:
            theirs = interpolated(picture, size, top, left, top + side, left + side)
        cut = center_crop(height, width, 0.875, size)
        assert np.abs(decoder(ODD[name], cut, Decoding(size, antialias, fast=False)) - theirs).max() <= 1, name


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["full colors", "gray", "usual", "colors of half the width"])
def test_decode_fast_dct_changes_pixels_slightly(decoder, name):
    """The setting has an effect, which is small: the chroma is interpolated in both cases."""
    height, width = pixels(ODD[name]).shape[:2]
    whole = CropWindow(0, 0, height, width)
    size = min(height, width)
    fast, accurate = (decoder(ODD[name], whole, Decoding(size, False, fast=fast)) for fast in (True, False))
    assert 0 < np.abs(fast - accurate).max() <= 6


@needs_native
@pytest.mark.parametrize("threads", [1, 3, 100])
def test_native_decoder_threads_change_nothing(threads):
    """Each image is at its position in the batch, for any number of threads."""
    jpegs = [ODD["usual"], ODD["gray"], ODD["CMYK"], ODD["a line"]] * 8
    cuts = [center_crop(*size_of(jpeg), 0.875, 32) for jpeg in jpegs]
    together = native_decoder.decode(jpegs, cuts, Decoding(32, True, True), threads)
    for jpeg, cut, image in zip(jpegs, cuts, together, strict=True):
        assert (image == by_native(jpeg, cut, Decoding(32, True, True))).all()


@needs_native
@pytest.mark.parametrize(
    "jpeg",
    [b"", b"\xff\xd8", ODD["usual"][:300], ODD["usual"][:1200], ODD["progressive"][:1500], b"no image"],
    ids=["empty", "marker", "header", "first pixels", "some scans", "text"],
)
def test_native_decoder_damaged_jpeg_rejected(jpeg):
    """An image whose window is truncated is rejected, as by tf.data, and no other."""
    with pytest.raises(native_decoder.DecodeError) as caught:
        native_decoder.decode([ODD["usual"], jpeg], [CropWindow(0, 0, 16, 16)] * 2, Decoding(16, False, True), 2)
    assert str(caught.value) == "1 of 2 images cannot be decoded"
    assert not caught.value.out_of_memory
    with pytest.raises(tf.errors.OpError):
        by_tensorflow(jpeg, CropWindow(0, 0, 16, 16), Decoding(16, False, True))


@needs_native
@pytest.mark.parametrize("cut", [CropWindow(370, 0, 6, 5), CropWindow(0, 499, 5, 2), CropWindow(0, 0, 0, 5)])
def test_native_decoder_window_outside_image_rejected(cut):
    """A header that differs from the index must not read beyond the image."""
    with pytest.raises(native_decoder.DecodeError):
        native_decoder.decode([ODD["usual"]], [cut], Decoding(16, False, True), 1)


@pytest.mark.parametrize("case", RESIZES)
def test_predict_decodes_like_validation(odd_pictures, tmp_path, case):
    """The same image and settings give the same pixels in `predict` and in evaluation."""
    config = resolve(
        {
            "model": {"classes": 10, "imageSize": 32},
            "batchSize": len(ODD),
            "data": {"path": str(odd_pictures), "pipeline": "tfdata", **RESIZES[case]},
        }
    )
    seen = []

    def logits(images):
        seen.append(images.numpy())
        return tf.zeros([len(images), 10])

    for number, jpeg in enumerate(ODD.values()):
        (tmp_path / f"{number:02}.jpg").write_bytes(jpeg)
    list(predict.guesses(logits, config, predict.find([str(tmp_path)]), 1, io.BytesIO()))
    ((images, _),) = open_input_pipeline(config, Shard(0, 1)).validate()
    assert (np.concatenate(seen) == images.numpy()).all()


@pytest.mark.parametrize(
    ("device", "installed", "expected"),
    [
        ("gpu", {"dali", "native"}, "dali"),
        ("cpu", {"dali", "native"}, "native"),
        ("cpu", {"dali"}, "dali"),
        ("gpu", {"native"}, "native"),
        ("cpu", set(), "tfdata"),
    ],
)
def test_pipeline_auto_selects_fastest_installed(monkeypatch, odd_pictures, device, installed, expected):
    """DALI on GPUs, the C library on CPUs, and TensorFlow's operations if neither is installed."""
    monkeypatch.setattr(dali, "loads", lambda: "dali" in installed)
    monkeypatch.setattr(native_decoder, "available", lambda: "native" in installed)
    config = resolve({"data": {"path": str(odd_pictures)}, "model": {"classes": 10}, "device": device})
    assert open_input_pipeline(config, Shard(0, 1)).name == expected
