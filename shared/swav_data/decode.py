"""Bytes of image files to pixels, or one clear sentence.

Everything becomes RGB with 8 bits: grey and CMYK are converted, transparent images are laid on white, 16 bits keep
their upper 8 (rounded), the rotation that EXIF asks for is applied, animations give their first frame.
"""

from __future__ import annotations

import contextlib
import importlib
import io

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from swav_data.canvas import Canvas
from swav_data.encoded import Encoded, EncodedSet
from swav_spec.errors import InvalidInput

#: Files from others are data: only these decoders run (Pillow's EPS, for one, would start a PostScript interpreter).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
for _format in FORMATS:  # Pillow knows some of them only once they are imported
    importlib.import_module(f"PIL.{'WebP' if _format == 'WEBP' else _format.capitalize()}ImagePlugin")
#: A larger image is refused before it is decoded: a file of some kilobytes can ask for any amount of memory.
MAX_PIXELS = 2**26
#: Headers that are read to find out how large images are: a few seconds' work.
MOST_HEADERS = 200_000


def decode(encoded: Encoded, canvas: Canvas) -> np.ndarray:
    """Pixels [h, w, 3] uint8 of an image, read-only, shrunk to the canvas' bounds.

    Raises:
        InvalidInput: the file cannot be read, is empty, truncated or corrupt, is not an image, has pixels of more than
            16 bits, or has more than MAX_PIXELS of them.
    """
    data = encoded.read()
    if not data:
        raise InvalidInput(f"{encoded.where}: is empty (0 bytes)")
    try:
        return _decode(data, encoded.where, canvas)
    except InvalidInput:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(_too_large(encoded.where, "more pixels than Pillow opens")) from error
    except UnidentifiedImageError as error:
        raise InvalidInput(f"{encoded.where}: is not an image of a known format ({', '.join(FORMATS)})") from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on corrupt bytes
        raise InvalidInput(f"{encoded.where}: cannot be decoded ({error or type(error).__name__})") from error


def _decode(data: bytes, where: str, canvas: Canvas) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise InvalidInput(_too_large(where, f"{image.width} x {image.height} pixels"))
        height, width = canvas.size(image.height, image.width)
        if (width, height) != image.size:
            # A JPEG is decoded at 1/2, 1/4 or 1/8 where that leaves at least twice the pixels needed.
            image.draft(None, (2 * width, 2 * height))
        return np.asarray(shrink(_rgb(_upright(image), where), canvas))


def fitted(images: EncodedSet, canvas: Canvas) -> Canvas:
    """The smallest canvas on which these images get the same sizes as on `canvas`: their headers are read.

    That of CIFAR's images is 150 times smaller. Only for images whose bytes are in memory, up to MOST_HEADERS of them;
    for others it is `canvas`.
    """
    if len(images) > MOST_HEADERS or images[0].data is None:
        return canvas
    longest = 1
    for row in range(len(images)):
        # Here a bad image has no size; whoever decodes it will say what is wrong.
        with contextlib.suppress(Exception), Image.open(io.BytesIO(images[row].read()), formats=FORMATS) as image:
            longest = max(longest, *canvas.size(image.height, image.width))
    # A longer side that was rounded down to the new bound gives the same shorter one: it moves by less than a half.
    return Canvas(min(canvas.resize_short, longest), longest)


def shrink(image: Image.Image, canvas: Canvas) -> Image.Image:
    """The image within the canvas' bounds: itself if it fits, else resized by Pillow's antialiased bilinear filter."""
    height, width = canvas.size(image.height, image.width)
    if (width, height) == image.size:
        return image
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF asks for; most images are upright as they are, and need no copy."""
    return image if image.getexif().get(ExifTags.Base.Orientation, 1) == 1 else ImageOps.exif_transpose(image)


def _too_large(where: str, size: str) -> str:
    return f"{where}: has {size}; at most {MAX_PIXELS} are decoded (a decompression bomb?)"


def _rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode == "F":
        raise InvalidInput(f"{where}: has floating-point pixels; at most 16-bit integers are allowed")
    if image.mode.startswith("I"):  # "I;16" and its byte orders; "I" for some formats' 16 bits
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise InvalidInput(f"{where}: has 32-bit pixels; at most 16 bits are allowed")
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
