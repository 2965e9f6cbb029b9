"""Rendered text with exact labels, as the three PP-OCR networks want it.

`lines` are for the recogniser (what is written), `turned` for the classifier of the direction (upright or upside down)
and `pages` for the detector (where there is text). Words, numbers, dates, amounts and codes are set in six faces of
DejaVu, in varied sizes, inks and papers, with margins that vary, blur and noise:

1. sample i of a seed depends on the seed and on i alone: a larger `count` has the smaller one as its beginning;
2. equal arguments give equal bytes with the same versions of Pillow, NumPy and DejaVu;
3. a line fits: no character is cut, its text begins and ends with ink and holds single spaces only;
4. channels are blue, green, red, as OpenCV reads files. Lines lie in -1..1 by (v / 255 - 0.5) / 0.5 and end in zeros
   on the right, where there is no paper; pages are normalised by the mean and deviation of ImageNet, in that order.

The normalisations are those of PaddleOCR's configurations of these networks. The faces are found where Debian's
`fonts-dejavu-core` puts them or inside an installed matplotlib, all six in one folder.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from lissom_models.words import word

Floats = npt.NDArray[np.float32]
Levels = npt.NDArray[np.uint8]

FACES: Final = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
)
MEAN: Final = np.array([0.485, 0.456, 0.406], np.float32)
STD: Final = np.array([0.229, 0.224, 0.225], np.float32)

_FOLDERS: Final = (
    Path("/usr/share/fonts/truetype/dejavu"),
    Path("/usr/share/fonts/dejavu"),
    Path("/usr/share/fonts/TTF"),
)
_TRIES: Final = 100
_SCALE: Final = 48
"""Height of a line, in pixels, at which the sizes of its letters are meant."""
_SQUEEZE: Final = 5 / 3
"""Longest line for the classifier, as a multiple of its image's width: that of the recogniser's 320 to 192 pixels."""
_LINE_DETAIL: Final = 0.5
"""Least detail of a line; a crop from a page is enlarged to the height that the recogniser takes."""


@dataclass(frozen=True)
class _Look:
    """How a piece of text is printed.

    Attributes:
        ink: blue, green, red, 0..255.
        paper: the same, of the ground.
        blur: radius of the Gaussian, pixels.
        noise: standard deviation, in units of 1/255.
        detail: pixels that were seen of each pixel, along either axis; below 1 the text is a smaller one enlarged.
    """

    ink: npt.NDArray[np.float64]
    paper: npt.NDArray[np.float64]
    blur: float
    noise: float
    detail: float


def lines(count: int, height: int = 48, width: int = 320, seed: int = 0) -> tuple[Floats, list[str]]:
    """Lines of text for the recogniser.

    Args:
        count: number of lines.
        height: of an image, pixels.
        width: of an image, pixels.
        seed: of the samples.

    Returns:
        images[count, 3, height, width] and the text of each.

    Raises:
        FileNotFoundError: a face of DejaVu is not there.
        ValueError: an image is too narrow for any word.
    """
    images = np.zeros((count, 3, height, width), np.float32)
    texts = []
    for index in range(count):
        strip, text = _strip(np.random.default_rng([seed, index]), height, width)
        _place(strip, images[index])
        texts.append(text)
    return images, texts


def turned(count: int, height: int = 48, width: int = 192, seed: int = 0) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Lines of text, about half of them upside down, for the classifier of the direction.

    A line longer than the image is squeezed to its width, as the classifier's own program does.

    Args:
        count: number of lines.
        height: of an image, pixels.
        width: of an image, pixels.
        seed: of the samples.

    Returns:
        images[count, 3, height, width] and labels[count]: 1 where the line is turned by 180 degrees, else 0.

    Raises:
        FileNotFoundError: a face of DejaVu is not there.
        ValueError: an image is too narrow for any word.
    """
    images = np.zeros((count, 3, height, width), np.float32)
    labels = np.zeros(count, np.int64)
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        strip, _ = _strip(rng, height, round(_SQUEEZE * width))
        labels[index] = rng.integers(2)
        squeezed = Image.fromarray(strip).resize((min(width, strip.shape[1]), height), Image.Resampling.BILINEAR)
        levels = np.asarray(squeezed)
        _place(levels[::-1, ::-1] if labels[index] else levels, images[index])
    return images, labels


def pages(count: int, height: int = 640, width: int = 640, seed: int = 0) -> Floats:
    """Pages of several lines for the detector.

    Args:
        count: number of pages.
        height: of a page, pixels; a multiple of 32.
        width: of a page, pixels; a multiple of 32.
        seed: of the samples.

    Returns:
        images[count, 3, height, width].

    Raises:
        FileNotFoundError: a face of DejaVu is not there.
        ValueError: a page is too narrow for any word.
    """
    images = np.zeros((count, 3, height, width), np.float32)
    for index in range(count):
        levels = _page(np.random.default_rng([seed, index]), height, width)
        images[index] = ((levels.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1)
    return images


def _place(levels: Levels, image: Floats) -> None:
    """Writes levels[height, <= width, 3] to the left of image[3, height, width], in -1..1."""
    image[:, :, : levels.shape[1]] = ((levels.astype(np.float32) / 255 - 0.5) / 0.5).transpose(2, 0, 1)


def _strip(rng: np.random.Generator, height: int, width: int) -> tuple[Levels, str]:
    """One line on paper of its own length: levels[height, <= width, 3], and its text."""
    font = _font(str(rng.choice(FACES)), round(int(rng.integers(18, 35)) * height / _SCALE))
    left, right = (int(margin) for margin in rng.integers(0, 5, 2))
    text = _text(rng, font, (width - left - right) * rng.uniform(0.5, 1), width - left - right)
    first, top, last, bottom = font.getbbox(text)
    mask = Image.new("L", (int(left + last - first + right), height))
    free = height - (bottom - top)
    rise = round(free * rng.uniform(0.35, 0.65))
    ImageDraw.Draw(mask).text((left - first, rise - top), text, fill=255, font=font)
    return _print(rng, mask, _look(rng, _LINE_DETAIL)), text


def _page(rng: np.random.Generator, height: int, width: int) -> Levels:
    """Levels[height, width, 3] of a page: lines of varied sizes, one below the other."""
    mask = Image.new("L", (width, height))
    drawing = ImageDraw.Draw(mask)
    y = int(rng.integers(8, 40))
    while True:
        font = _font(str(rng.choice(FACES)), int(rng.integers(14, 37)))
        x = int(rng.integers(8, width // 3))
        text = _text(rng, font, (width - 8 - x) * rng.uniform(0.2, 1), width - 8 - x)
        first, top, _, bottom = font.getbbox(text)
        if y + bottom - top > height - 8:
            return _print(rng, mask, _look(rng, 1))
        drawing.text((x - first, y - top), text, fill=255, font=font)
        y += round((bottom - top) * rng.uniform(1.4, 2.4)) + 4


def _text(rng: np.random.Generator, font: ImageFont.FreeTypeFont, wanted: float, most: float) -> str:
    """Words up to about `wanted` pixels, one at least, and never more than `most` pixels.

    Raises:
        ValueError: no word is as narrow as `most`.
    """
    for _ in range(_TRIES):
        text = word(rng)
        if font.getlength(text) <= most:
            break
    else:
        raise ValueError(f"expected a width that holds a word at {font.size:g} pixels of height, got {most:g}")
    while font.getlength(longer := f"{text} {word(rng)}") <= wanted:
        text = longer
    return text


def _look(rng: np.random.Generator, least_detail: float) -> _Look:
    """Dark ink on light paper, or now and then light on dark, with a tint of either."""
    dark, light = rng.uniform(0, 120), rng.uniform(150, 255)
    ink, paper = (dark, light) if rng.uniform() < 0.85 else (light, dark)
    return _Look(
        ink=np.clip(ink + rng.normal(0, 12, 3), 0, 255),
        paper=np.clip(paper + rng.normal(0, 12, 3), 0, 255),
        blur=float(rng.uniform(0, 1)),
        noise=float(rng.uniform(0, 16)),
        detail=float(rng.uniform(least_detail, 1)),
    )


def _print(rng: np.random.Generator, mask: Image.Image, look: _Look) -> Levels:
    """Levels[height, width, 3]: ink where `mask` is 255, paper where it is 0."""
    seen = (max(1, round(mask.width * look.detail)), max(1, round(mask.height * look.detail)))
    coarse = mask.resize(seen, Image.Resampling.BOX).resize(mask.size, Image.Resampling.BILINEAR)
    cover = np.asarray(coarse.filter(ImageFilter.GaussianBlur(look.blur)), np.float64)[..., None] / 255
    levels = look.paper + (look.ink - look.paper) * cover
    noisy = levels + rng.normal(0, look.noise, levels.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


@cache
def _font(face: str, size: int) -> ImageFont.FreeTypeFont:
    """A face at a size in pixels; the basic layout, which every build of Pillow has."""
    return ImageFont.truetype(str(font_folder() / face), size, layout_engine=ImageFont.Layout.BASIC)


def font_folder() -> Path:
    """The folder that holds all faces.

    Raises:
        FileNotFoundError: there is none.
    """
    folders = list(_FOLDERS)
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        folders.append(Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf")
    for folder in folders:
        if all((folder / face).is_file() for face in FACES):
            return folder
    raise FileNotFoundError(
        f"expected {', '.join(FACES)} in one of {', '.join(map(str, folders))}, got none with all of them: install "
        "Debian's fonts-dejavu-core or pip install matplotlib"
    )
