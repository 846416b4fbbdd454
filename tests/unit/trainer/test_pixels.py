"""Pixel formats and JPEG headers, compared with Pillow, libpng and libjpeg."""

import errno
import io
import os
import random
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageSequence

from resnext_trainer.config.validation import resolve
from resnext_trainer.contract import ExitStatus
from resnext_trainer.data import image_codec, native_decoder
from resnext_trainer.data.crops import jpeg_size, regular
from resnext_trainer.data.datasets import tfrecord
from resnext_trainer.data.input_pipeline import Shard, open_input_pipeline
from resnext_trainer.data.pipelines import dali
from resnext_trainer.errors import TrainingError
from resnext_trainer.inference import predict
from tests.support.images import encode

RAMP = np.tile(np.linspace(0, 65_535, 256).astype(np.uint16), (48, 1))
COLORS = np.kron(np.arange(48).reshape(4, 4, 3) * 5, np.ones((12, 12, 1))).astype(np.uint8)


def png(header, rows, *chunks):
    """A PNG from its IHDR fields (width, height, depth, color type) and raw rows."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    width, height, depth, color = header
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))]
    parts += [chunk(*each) for each in chunks]
    parts += [chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(values, photometric, bits=16, order="<"):
    """A TIFF with one channel and one strip."""
    height, width = values.shape
    data = values.tobytes()
    tags = [(256, 3, width), (257, 3, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 3, height), (279, 4, len(data))]
    directory = struct.pack(f"{order}H", len(tags))
    for tag, kind, value in tags:
        packed = struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
        directory += struct.pack(f"{order}HHI", tag, kind, 1) + packed
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", 8 + len(data)) + data + directory + bytes(4)


def seen(content):
    """Pixels of an image as training decodes them."""
    jpeg = image_codec.as_jpeg(content)
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")).astype(int)


BIG = RAMP.astype(">u2")
SIXTEEN_BITS = {
    "PNG": encode(Image.fromarray(RAMP), "PNG"),
    "TIFF": encode(Image.fromarray(RAMP), "TIFF"),
    "TIFF, deflated": encode(Image.fromarray(RAMP), "TIFF", compression="tiff_adobe_deflate"),
    "TIFF, big-endian": tiff(BIG, 1, order=">"),
    "TIFF, white is zero": tiff(65_535 - RAMP, 0),
    "JPEG 2000": encode(Image.fromarray(RAMP), "JPEG2000"),
    "PGM": b"P5 256 48 65535\n" + BIG.tobytes(),
    "PNG in color": png((256, 48, 16, 2), [np.repeat(row, 3).tobytes() for row in BIG]),
    "PNG, gray and alpha": png((256, 48, 16, 4), [np.stack([row, row * 0 + 65_535], 1).astype(">u2").tobytes()
                                                  for row in BIG]),
}  # fmt: skip


@pytest.mark.parametrize("case", SIXTEEN_BITS)
def test_as_jpeg_16_bit_scaled_to_8_bit(case):
    """All 256 levels of a ramp are kept, up to the noise of the JPEG."""
    pixels = seen(SIXTEEN_BITS[case])
    assert np.abs(pixels - np.arange(256)[None, :, None]).max() <= 3


def test_as_jpeg_12_bit_tiff_scaled_to_8_bit():
    """TIFF stores two values of 12 bits in three bytes."""
    values = np.linspace(0, 4095, 256).astype(np.uint16)
    first, second = values[0::2], values[1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).reshape(-1)
    rows = np.tile(packed, (16, 1))
    content = bytearray(tiff(rows, 1, bits=12))
    at = content.index(struct.pack("<HHIHH", 256, 3, 1, rows.shape[1], 0))
    content[at : at + 12] = struct.pack("<HHIHH", 256, 3, 1, 256, 0)
    assert np.abs(seen(bytes(content)) - np.arange(256)[None, :, None]).max() <= 3


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_as_jpeg_transparent_gray_becomes_white(depth):
    """The transparent level of a PNG is given in its own bit depth; libpng is the reference."""
    levels = 2**depth
    row = np.repeat(np.arange(levels), 256 // levels * 8)
    bits = np.unpackbits(row.astype(np.uint8)[:, None], axis=1)[:, -depth:]
    content = png((len(row), 16, depth, 0), [np.packbits(bits).tobytes()] * 16, (b"tRNS", struct.pack(">H", 0)))
    layer = tf.io.decode_png(content, channels=4).numpy().astype(int)
    expected = np.where(layer[..., 3:] == 0, 255, layer[..., :3])
    assert np.abs(seen(content) - expected).max() <= 3
    assert (seen(content)[:, 4] >= 252).all()


def smooth(mode):
    """Image of three vertical bands: transparent, semi-transparent and opaque."""
    alpha = np.zeros((48, 48), np.uint8)
    alpha[:, 16:32], alpha[:, 32:] = 128, 255
    picture = Image.fromarray(COLORS).convert("L" if mode == "LA" else "RGB")
    picture.putalpha(Image.fromarray(alpha))
    return picture


def paletted(**options):
    picture = Image.fromarray(COLORS).quantize(16)
    return encode(picture, "PNG", transparency=options.get("transparency", 0))


TRANSPARENT = {
    "RGBA PNG": encode(smooth("RGBA"), "PNG"),
    "gray and alpha PNG": encode(smooth("LA"), "PNG"),
    "RGBA WebP": encode(smooth("RGBA"), "WEBP", lossless=True),
    "RGBA TIFF": encode(smooth("RGBA"), "TIFF"),
    "palette, one color": paletted(),
    "palette, many": paletted(transparency=bytes(range(0, 256, 16))),
    "GIF": encode(Image.fromarray(COLORS).quantize(16), "GIF", transparency=0),
    "RGB with a transparent color": encode(Image.fromarray(COLORS), "PNG", transparency=tuple(COLORS[0, 0].tolist())),
}


@pytest.mark.parametrize("case", TRANSPARENT)
def test_as_jpeg_transparency_composited_on_white(case):
    """Hidden colors of transparent pixels are not part of the image."""
    layer = np.asarray(Image.open(io.BytesIO(TRANSPARENT[case])).convert("RGBA")).astype(float)
    share = layer[..., 3:] / 255
    assert (share < 1).any()
    expected = layer[..., :3] * share + 255 * (1 - share)
    assert np.abs(seen(TRANSPARENT[case]) - expected).mean() <= 2


PLAIN = {
    "1": Image.fromarray(COLORS).convert("1"),
    "L": Image.fromarray(COLORS).convert("L"),
    "P": Image.fromarray(COLORS).quantize(16),
    "RGB": Image.fromarray(COLORS),
}


@pytest.mark.parametrize("form", ["PNG", "TIFF", "GIF", "BMP"])
@pytest.mark.parametrize("mode", PLAIN)
def test_as_jpeg_plain_images_match_pillow(mode, form):
    """Covers images of up to eight bits without transparency."""
    content = encode(PLAIN[mode], form)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)
    assert np.abs(seen(content) - expected).mean() <= 2


FRAMES = [Image.fromarray(np.full((16, 16, 3), shade, np.uint8)) for shade in (0, 100, 200)]
REJECTED = {
    "floats": (encode(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), "floating-point"),
    "32 bits": (encode(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), "32-bit or signed"),
    "CMYK TIFF": (encode(Image.fromarray(COLORS).convert("CMYK"), "TIFF"), "CMYK"),
    "animated GIF": (encode(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "3 frames"),
    "animated PNG": (encode(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]), "3 frames"),
    "animated WebP": (encode(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "3 frames"),
    "TIFF of pages": (encode(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "3 frames"),
    "16-bit color that is transparent": (
        png((1, 1, 16, 2), [bytes(6)], (b"tRNS", bytes(6))),
        "16-bit color as transparent",
    ),
    "EPS": (encode(FRAMES[0], "EPS"), "not an image in a supported format"),
    "PDF": (encode(FRAMES[0], "PDF"), "not an image in a supported format"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_as_jpeg_unsupported_pixels_rejected(case):
    """The message says why; a wrong conversion would train on wrong pixels."""
    content, words = REJECTED[case]
    with pytest.raises(ValueError, match=words):
        image_codec.as_jpeg(content)


def test_as_jpeg_tiff_preview_ignored():
    """Cameras and scanners keep a small copy of the page next to it."""
    small = FRAMES[0].resize((8, 8))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    content = encode(FRAMES[2], "TIFF", save_all=True, append_images=[small])
    assert len(list(ImageSequence.Iterator(Image.open(io.BytesIO(content))))) == 2
    assert np.abs(seen(content) - 200).max() <= 2


def test_as_jpeg_cmyk_jpeg_unchanged():
    """Adobe's CMYK JPEGs are stored inverted; libjpeg and Pillow decode them alike."""
    content = encode(Image.fromarray(COLORS).convert("CMYK"), "JPEG", quality=95)
    assert image_codec.as_jpeg(content) == content
    ours = tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE").numpy().astype(int)
    assert np.abs(ours - np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))).max() <= 2


def test_converted_memory_error_propagates(monkeypatch):
    """Exhausted memory is a fault of the process, not of the image."""

    def exhausted(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image, "open", exhausted)
    with pytest.raises(MemoryError):
        image_codec.converted(SIXTEEN_BITS["PNG"])


JPEGS = [encode(Image.fromarray(COLORS), "JPEG", **options)
         for options in ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 2})]  # fmt: skip
STRAY = (b"\0", b"ab", b"\xff", b"\xff\xff\xff", b"\xff\x00", b"\xff\xd3", b"\xff\x01", b"\xff\xe5\0\0",
         b"\xff\xfe\0\1", b"\xff\xdc\0\4\0\5", b"\xff\xd9", b"\xff\xd8",
         b"\xff\x02\0\4ab", b"\xff\xc8\0\4ab")  # fmt: skip


def segments(jpeg):
    """Segments of a JPEG header, and the rest from the scan onwards."""
    found, at = [], 2
    while jpeg[at + 1] != 0xDA:
        length = 2 + int.from_bytes(jpeg[at + 2 : at + 4])
        found.append(jpeg[at : at + length])
        at += length
    return found, jpeg[at:]


def odd_jpeg(chance):
    """JPEG with stray bytes and markers in its header, reordered segments or changed bytes, or truncated."""
    found, rest = segments(chance.choice(JPEGS))
    if chance.random() < 0.2:
        chance.shuffle(found)
    head = b"".join((chance.choice(STRAY) if chance.random() < 0.3 else b"") + each for each in found)
    jpeg = bytearray(b"\xff\xd8" + head + rest)
    if chance.random() < 0.2:
        jpeg[chance.randrange(2, 600)] = chance.randrange(256)
    return bytes(jpeg[: chance.randrange(len(jpeg))] if chance.random() < 0.1 else jpeg)


def test_jpeg_size_and_pixels_match_libjpeg():
    """Each header that libjpeg accepts is accepted; removing stray bytes changes no pixel."""
    chance, accepted = random.Random(0), 0
    for _ in range(1500):
        jpeg = odd_jpeg(chance)
        try:
            size = tuple(map(int, tf.io.extract_jpeg_shape(jpeg)[:2]))
        except tf.errors.OpError:
            continue
        accepted += 1
        assert jpeg_size(jpeg) == size
        try:
            pixels = tf.io.decode_jpeg(jpeg, channels=3).numpy()
        except tf.errors.OpError:
            continue
        assert (tf.io.decode_jpeg(regular(jpeg), channels=3).numpy() == pixels).all()
    assert accepted > 500


@pytest.mark.parametrize("pipeline", ["tfdata", "native", "dali"])
@pytest.mark.parametrize("stray", STRAY[:10])
def test_pipeline_stray_header_bytes_change_no_pixel(tmp_path, pipeline, stray):
    """In each pipeline an image with stray bytes equals the same image without them."""
    if not {"dali": dali.loads, "native": native_decoder.available}.get(pipeline, lambda: True)():
        pytest.skip(f"{pipeline} is not installed")
    found, rest = segments(JPEGS[0])
    odd = b"\xff\xd8" + b"".join(stray + each for each in found) + stray + rest
    for split in tfrecord.SPLITS:
        tfrecord.write(tmp_path, split, [(JPEGS[0], 1), (odd, 1)], 1)
    data = {"path": str(tmp_path), "pipeline": pipeline}
    config = resolve({"model": {"classes": 2, "imageSize": 32}, "batchSize": 2, "device": "cpu", "data": data})
    source = open_input_pipeline(config, Shard(0, 1))
    ((pixels, labels),) = source.validate()
    assert labels.numpy().tolist() == [0, 0]
    assert (pixels[0].numpy() == pixels[1].numpy()).all()
    image_codec.check(odd)


def test_regular_ordinary_jpeg_not_copied():
    """Reading a header costs microseconds; copying each image would cost more."""
    for jpeg in JPEGS:
        assert regular(jpeg) is jpeg


class TestPredict:
    """Input files of `predict`, with a stand-in model that reads the mean of each image."""

    def guessed(self, names):
        config = resolve({"model": {"classes": 2, "imageSize": 32}, "batchSize": 4})
        shades = []

        def logits(pixels):
            shades.extend(np.asarray(pixels).mean(axis=(1, 2, 3)).tolist())
            return tf.zeros([len(pixels), 2])

        found = list(predict.guesses(logits, config, predict.find(names), 1, io.BytesIO()))
        return found, shades

    def test_predict_converts_images_like_prepare(self, tmp_path):
        """Covers 16 bits, transparency and stray bytes in a header."""
        for name, content in {
            "1.png": SIXTEEN_BITS["PNG"],
            "2.png": encode(Image.new("RGBA", (40, 40)), "PNG"),
            "3.jpg": b"\xff\xd8junk" + JPEGS[0][2:],
        }.items():
            (tmp_path / name).write_bytes(content)
        found, shades = self.guessed([str(tmp_path)])
        assert not [what for _, what in found if isinstance(what, str)]
        assert shades[0] == pytest.approx(127, abs=4)
        assert shades[1] == pytest.approx(255, abs=2)

    def test_predict_unusable_file_reported_and_skipped(self, tmp_path):
        """Pipes, broken links and unsupported pixel formats each give one error line."""
        os.mkfifo(tmp_path / "1.jpg")
        (tmp_path / "2.jpg").symlink_to("/nowhere")
        (tmp_path / "3.tif").write_bytes(REJECTED["floats"][0])
        (tmp_path / "4.jpg").write_bytes(JPEGS[0])
        found, _ = self.guessed([str(tmp_path)])
        assert ["a named pipe" in found[0][1], "a broken link" in found[1][1], "floating-point" in found[2][1]] == [
            True
        ] * 3
        assert not isinstance(found[3][1], str)

    def test_predict_io_error_is_system_error(self, tmp_path, monkeypatch):
        """An I/O error is not reported as a bad image."""
        (tmp_path / "1.jpg").write_bytes(JPEGS[0])

        def failed(file, *_):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))

        monkeypatch.setattr(os, "open", failed)
        with pytest.raises(TrainingError, match=r"1\.jpg: Input/output error \(EIO\)") as caught:
            self.guessed([str(tmp_path)])
        assert caught.value.verdict is ExitStatus.SYSTEM_ERROR
