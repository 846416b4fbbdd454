"""What counts as an image: a JPEG that TensorFlow decodes to its end, or what Pillow can make one of."""

import io

from resnext_trainer.data.geometry import jpeg_size

_QUALITY = 95
"""Of JPEGs made from other formats, with colours at full resolution: a loss that is not seen."""


def as_jpeg(content: bytes) -> bytes:
    """A file's content as a JPEG: JPEGs as they are, other formats converted; ValueError where it is no image."""
    if not is_jpeg(content):
        return converted(content)
    check(content)
    return content


def is_jpeg(content: bytes) -> bool:
    """Whether a file's content begins like a JPEG's."""
    return content.startswith(b"\xff\xd8")


def check(jpeg: bytes) -> None:
    """Decodes a JPEG and forgets the picture; ValueError where training could not decode it."""
    import tensorflow as tf

    jpeg_size(jpeg)
    try:
        tf.io.decode_jpeg(jpeg, channels=3)
    except tf.errors.OpError:
        # TensorFlow's own sentence names the operation and the device, and nothing about the image.
        raise ValueError("its header is a JPEG's, and its content does not decode: it is cut or damaged") from None


def converted(content: bytes) -> bytes:
    """A picture in another format as a JPEG; ValueError where it is no image."""
    from PIL import Image, UnidentifiedImageError

    if not content:
        raise ValueError("it is empty")
    stream = io.BytesIO()
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.convert("RGB").save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    except UnidentifiedImageError:
        raise ValueError("it is no image in a format that Pillow knows") from None
    # Pillow's readers raise what their format's code meets: SyntaxError and struct.error among them.
    except Exception as error:
        raise ValueError(f"it does not decode: {error}") from None
    return stream.getvalue()
