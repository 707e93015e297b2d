"""Headers of TIFF files: pages, bands and bits, also of files that Pillow cannot open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import TiffImagePlugin

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_BANDS, _PLANAR, _EXTRA, _FORMAT, _DNG = 277, 284, 338, 339, 50706
_OFFSETS_AND_SIZES = ((273, 279), (324, 325))
"""Tags of the places of strips and tiles in the file, and of their sizes in bytes."""

MOST_PAGES = 64
"""Pages of one file that are examined."""

_OPTIONAL = frozenset({34661, 34676, 34677, 34925, 50000, 50001})
"""Compressions that libtiff is not always built with: JBIG, LogLuv, LZMA, ZSTD, WebP."""

_REDUCED, _MASK = 1, 4
"""Bits of the tag NewSubfileType: a smaller version of another page, and its transparency."""

_USUAL_COLORS = (0, 1, 2, 3, 5, 6)
"""Values of the tag PhotometricInterpretation: grey, RGB, palette, CMYK and YCbCr."""

_FORMATS = {1: "", 2: "signed ", 3: "float "}


@dataclass(frozen=True)
class TiffPage:
    """One page of a TIFF file.

    Attributes:
        size: (H, W) in pixels.
        bands: samples per pixel.
        bits: the largest number of bits of a band.
        kind: "" for unsigned integers, "signed " or "float ".
        inverted: 0 is white.
        photometric: the tag's number, which says what the bands mean.
        rgb: the first three bands are declared as red, green and blue.
        extra: meaning of the bands after the color, by the tag ExtraSamples; 1 and 2 are alpha.
        planar: bands lie one after the other, not interleaved.
        compression: the tag's number.
        reduced, mask: a smaller version, or the transparency, of another page.
        raw: an Adobe DNG.
        end: the first byte after the last strip or tile.
    """

    size: tuple[int, int]
    bands: int
    bits: int
    kind: str
    inverted: bool
    photometric: int
    rgb: bool
    extra: tuple[int, ...]
    planar: bool
    compression: int
    reduced: bool
    mask: bool
    raw: bool
    end: int

    @property
    def undeclared(self) -> bool:
        """Whether an RGB page has a fourth band that is not declared as alpha."""
        return self.rgb and self.bands > 3 and not {1, 2, 999} & set(self.extra)

    def __str__(self) -> str:
        bands = f"{self.bands} band{'s' * (self.bands != 1)} of {self.kind}{self.bits} bits"
        order = ", stored band by band" if self.planar and self.bands > 1 else ""
        color = f", photometric {self.photometric}" * (self.photometric not in _USUAL_COLORS)
        return bands + order + color + f", compression {self.compression}" * self.packed

    @property
    def packed(self) -> bool:
        """Whether the compression is one that Pillow may not decode."""
        known = TiffImagePlugin.COMPRESSION_INFO.keys() - _OPTIONAL
        return self.compression not in known


def tiff_pages(path: Path, most: int = MOST_PAGES) -> list[TiffPage]:
    """Return the pages of a TIFF file, at most ``most``; empty where they cannot be read."""
    pages: list[TiffPage] = []
    seen: set[int] = set()
    try:
        with path.open("rb") as file:
            header = file.read(8)
            if 43 in header[2:4]:  # BigTIFF
                header += file.read(8)
            tags = TiffImagePlugin.ImageFileDirectory_v2(header)
            place = tags.next
            while place and place not in seen and len(pages) < most:
                seen.add(place)
                file.seek(place)
                tags.load(file)
                pages.append(_page(tags))
                place = tags.next
    except Exception:  # the header is damaged: Pillow raises errors of many types
        return pages
    return pages


def _page(tags: TiffImagePlugin.ImageFileDirectory_v2) -> TiffPage:
    def first(tag: int, default: int) -> int:
        value = tags.get(tag, default)
        return int(value[0] if isinstance(value, tuple) else value)

    bits, extra = tags.get(_BITS, (1,)), tags.get(_EXTRA, ())
    subfile, photometric = first(_SUBFILE, 0), first(_PHOTOMETRIC, 0)
    return TiffPage(
        size=(first(_HEIGHT, 0), first(_WIDTH, 0)),
        bands=first(_BANDS, 1),
        bits=max(bits) if isinstance(bits, tuple) else int(bits),
        kind=_FORMATS.get(first(_FORMAT, 1), ""),
        inverted=photometric == 0,
        photometric=photometric,
        rgb=photometric == 2,
        extra=tuple(extra) if isinstance(extra, tuple) else (extra,),
        planar=first(_PLANAR, 1) == 2,
        compression=first(_COMPRESSION, 1),
        reduced=bool(subfile & _REDUCED),
        mask=bool(subfile & _MASK),
        raw=_DNG in tags,
        end=_end(tags),
    )


def _end(tags: TiffImagePlugin.ImageFileDirectory_v2) -> int:
    for offsets, sizes in _OFFSETS_AND_SIZES:
        if offsets in tags and sizes in tags:
            pairs = zip(_numbers(tags[offsets]), _numbers(tags[sizes]), strict=False)
            return max((offset + size for offset, size in pairs), default=0)
    return 0


def _numbers(value: object) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)  # type: ignore[return-value]
