"""Read and write images as tensors in [-1, 1]; refuse what does not fit with one clear line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch

from mgdm_core.array_types import Float, Tensor
from recipes.images.errors import ImageError, ImageUsageError
from recipes.images.priors.digits import digits

__all__ = ["image_files", "read_image", "read_observation", "write_image"]

_MODES = {
    "1": "1-bit",
    "L": "8-bit greyscale",
    "LA": "greyscale with alpha",
    "P": "palette",
    "RGB": "8-bit RGB",
    "RGBA": "RGB with alpha",
    "CMYK": "CMYK",
    "I": "32-bit integer",
    "F": "32-bit float",
}
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


def _describe(mode: str) -> str:
    return "16-bit greyscale" if mode.startswith("I;16") else _MODES.get(mode, f"mode {mode}")


def _open(path: Path):
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImageError("images are read with Pillow; pip install pillow") from error
    if not path.is_file():
        raise ImageError(f"no image at {path}")
    try:
        picture = Image.open(path)
        picture.load()
        return ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(f"{path} cannot be read as an image: {reason}") from error


def _to_tensor(picture) -> Float[Tensor, "channels height width"]:
    array = np.asarray(picture, dtype=np.float32)
    array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    return torch.from_numpy(array / 127.5 - 1)


def _converted(picture, channels: int, size: tuple[int, int] | None):
    """Drop alpha, bring 16 bits to 8, match the channels, crop to the aspect, resize."""
    from PIL import Image, ImageOps

    if picture.mode.startswith("I"):
        wide = np.asarray(picture).astype(np.float64)
        picture = Image.fromarray(np.clip(wide / 257, 0, 255).round().astype(np.uint8))
    elif picture.mode == "F":
        wide = np.asarray(picture)
        picture = Image.fromarray(np.clip(255 * wide, 0, 255).round().astype(np.uint8))
    elif picture.mode in ("RGBA", "LA", "P"):
        picture = picture.convert("RGBA").convert("RGB")
    picture = picture.convert("L" if channels == 1 else "RGB")
    if size is not None and picture.size != (size[1], size[0]):
        picture = ImageOps.fit(picture, (size[1], size[0]), Image.Resampling.LANCZOS)
    return picture


def read_image(
    source: str | Path,
    shape: tuple[int, int, int],
    *,
    prior: str = "the prior",
    convert: bool = False,
) -> Float[Tensor, "channels height width"]:
    """Image in [-1, 1] of exactly the shape that a prior knows.

    Parameters
    ----------
    source : str or Path
        A file, or ``digit:N`` for the N-th held-out digit.
    shape : tuple of int
        (channels, height, width).
    prior : str
        Its name, for messages.
    convert : bool
        Convert the mode, crop and resize instead of refusing.

    Raises
    ------
    ImageError
        If it cannot be read or does not fit; one line that says the rule and what was found.
    """
    channels, height, width = shape
    text = str(source)
    if text.startswith("digit:"):
        held_out, _ = digits(held_out=True)
        number = text.removeprefix("digit:")
        if not number.isdigit() or int(number) >= len(held_out):
            raise ImageUsageError(
                f"digit:N takes N from 0 to {len(held_out) - 1} (held-out digits); found {text!r}"
            )
        image = held_out[int(number)]
        if tuple(image.shape) != tuple(shape):
            raise ImageUsageError(
                f"digits are 1 x 32 x 32; {prior} takes {channels} x {height} x {width}"
            )
        return image
    if channels not in (1, 3):
        raise ImageError(f"images have 1 or 3 channels; {prior} takes {channels}")
    path = Path(source)
    picture = _open(path)
    if convert:
        return _to_tensor(_converted(picture, channels, (height, width)))
    wanted = "L" if channels == 1 else "RGB"
    if picture.mode != wanted:
        raise ImageError(
            f"{path} is {_describe(picture.mode)}; {prior} takes {_describe(wanted)}; "
            f"convert it or pass --convert"
        )
    if picture.size != (width, height):
        raise ImageError(
            f"{path} is {picture.size[1]} x {picture.size[0]} pixels (height x width); "
            f"{prior} takes {height} x {width}; resize it or pass --convert"
        )
    return _to_tensor(picture)


def read_observation(path: Path, channels: int, *, convert: bool = False) -> Float[Tensor, "..."]:
    """Degraded image as it is: any size, the prior's channels; or an array (.npy).

    Raises
    ------
    ImageError
        If it cannot be read or has other channels.
    """
    if path.suffix == ".npy":
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ImageError(f"{path} cannot be read as an array: {reason}") from error
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise ImageError(f"{path} holds {array.dtype} values or NaN; give finite numbers")
        return torch.from_numpy(array.astype(np.float32))
    picture = _open(path)
    wanted = "L" if channels == 1 else "RGB"
    if convert:
        picture = _converted(picture, channels, None)
    elif picture.mode != wanted:
        raise ImageError(
            f"{path} is {_describe(picture.mode)}; this task's observation is "
            f"{_describe(wanted)}; convert it or pass --convert"
        )
    return _to_tensor(picture)


def write_image(path: Path, image: Float[Tensor, "channels height width"]) -> None:
    """Write an image in [-1, 1] as 8-bit PNG; NaN becomes mid-grey."""
    from PIL import Image

    grey = ((image.detach().cpu().float().nan_to_num(0.0).clamp(-1, 1) + 1) * 127.5).round()
    array = grey.to(torch.uint8).numpy()
    picture = Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))
    picture.save(path, format="PNG")


def image_files(source: str) -> list[str]:
    """Images of a sweep: the files of a folder in order, or held-out digits.

    Parameters
    ----------
    source : str
        A folder; ``digits:N`` for the first N held-out digits; ``digits:A-B`` for those from A to
        B, B included.

    Raises
    ------
    ImageError
        If there are none.
    """
    if source.startswith("digits:"):
        count = len(digits(held_out=True)[0])
        found = re.fullmatch(r"digits:(?:(\d+)-)?(\d+)", source)
        if found is not None:
            low, high = (found[1], int(found[2]))
            first, last = (0, high - 1) if low is None else (int(low), high)
            if 0 <= first <= last < count:
                return [f"digit:{k}" for k in range(first, last + 1)]
        raise ImageUsageError(
            f"digits:N takes N from 1 to {count}, digits:A-B takes A <= B from 0 to {count - 1}; "
            f"found {source!r}"
        )
    folder = Path(source)
    if not folder.is_dir():
        raise ImageError(f"no folder {folder}; give a folder of images or digits:N")
    files = sorted(str(f) for f in folder.iterdir() if f.suffix.lower() in _SUFFIXES)
    if not files:
        raise ImageError(f"{folder} holds no images ({', '.join(sorted(_SUFFIXES))})")
    return files
