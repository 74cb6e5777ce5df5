"""Images and observations in files."""

import math

import numpy as np
import pytest
import torch

from recipes.images.errors import ImageError
from recipes.images.image_io import image_files, read_image, read_observation, write_image

pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "I;16", "P"])
def test_conversion_keeps_the_grey_level(tmp_path, mode):
    level = 100
    if mode == "I;16":
        picture = pil.fromarray(np.full((32, 32), level * 257, np.uint16))
    else:
        picture = pil.fromarray(np.full((32, 32), level, np.uint8)).convert(mode)
    picture.save(tmp_path / "x.png")
    for channels in (1, 3):
        image = read_image(tmp_path / "x.png", (channels, 24, 24), convert=True)
        torch.testing.assert_close(
            image, torch.full((channels, 24, 24), level / 127.5 - 1), atol=0.01, rtol=0
        )


def test_images_round_trip_through_files(tmp_path):
    for channels in (1, 3):
        grid = torch.randint(0, 256, (channels, 9, 7), generator=torch.Generator().manual_seed(0))
        image = grid / 127.5 - 1
        write_image(tmp_path / "x.png", image)
        torch.testing.assert_close(read_image(tmp_path / "x.png", (channels, 9, 7)), image)


def test_arrays_with_nan_or_code_are_refused(tmp_path):
    np.save(tmp_path / "nan.npy", np.full((1, 4, 4), math.nan))
    np.save(tmp_path / "code.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for name in ("nan.npy", "code.npy"):
        with pytest.raises(ImageError, match=r"holds float64 values or NaN|cannot be read"):
            read_observation(tmp_path / name, 1)


def test_folders_are_read_in_order(tmp_path):
    for name in ("b.png", "a.jpg", "notes.txt"):
        (tmp_path / name).write_text("")
    assert [f.rsplit("/", 1)[-1] for f in image_files(str(tmp_path))] == ["a.jpg", "b.png"]
    assert image_files("digits:2") == ["digit:0", "digit:1"]
    assert image_files("digits:7-8") == ["digit:7", "digit:8"]
    for wrong in ("digits:0", "digits:198", "digits:5-197", "digits:8-7", "digits:-1", "digits:x"):
        with pytest.raises(ImageError, match="digits:N takes N from 1 to 197, digits:A-B"):
            image_files(wrong)
