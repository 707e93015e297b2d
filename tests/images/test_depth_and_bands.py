"""More than 8 bits a channel, more bands than three, several pages: read rightly or refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from raw_images import GREY, GREY_ALPHA, RGB, RGBA, png16, tiff

from freqkd_cli.errors import DataBroken, UsageError
from freqkd_cli.images import decode, unreadable
from freqkd_cli.images.conversion import AS_STORED, RECIPE, Conversion
from freqkd_cli.images.decode import header_of, read_alpha, read_range, read_upright

KEYS = Conversion(form=RECIPE)


def bits(number: int, bands: tuple[int, int, int] | None = None) -> Conversion:
    return Conversion(bits=number, bands=bands, form=RECIPE)


def ramp(channels: int, top: int = 65535) -> np.ndarray:
    """``[16, 48, C]`` uint16 with 0 and ``top``, each channel different."""
    values = np.linspace(0, top, 16 * 48 * channels).round().astype(np.uint16)
    pixels = np.random.default_rng(0).permutation(values).reshape(16, 48, channels)
    pixels[0, 0], pixels[0, 1] = 0, top
    return pixels


@pytest.mark.parametrize(("color", "channels"), [(GREY, 1), (GREY_ALPHA, 2), (RGB, 3), (RGBA, 4)])
def test_a_png_of_16_bits_is_read_at_full_depth(tmp_path, color, channels):
    values, path = ramp(channels), tmp_path / "a.png"
    png16(path, values, color)
    shown = values[..., :3] if channels > 2 else np.repeat(values[..., :1], 3, 2)
    np.testing.assert_allclose(read_upright(path, bits(16)), shown * (255 / 65535), atol=0.5001)
    assert header_of(path) == decode.Header((16, 48), 16, channels in (2, 4))
    with pytest.raises(DataBroken, match="16 bits a channel, values from 0 to 65535"):
        read_upright(path)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize(("channels", "extra"), [(1, ()), (3, ()), (4, (2,))])
def test_a_tiff_of_16_bits_is_read_at_full_depth(tmp_path, order, deflate, channels, extra):
    values, path = ramp(channels), tmp_path / "a.tif"
    tiff(path, values, order=order, deflate=deflate, extra=extra)
    shown = values[..., :3] if channels > 2 else np.repeat(values, 3, 2)
    np.testing.assert_allclose(read_upright(path, bits(16)), shown * (255 / 65535), atol=0.5001)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_deep_images_are_turned_as_others(tmp_path, orientation, suffix):
    path, plain = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    grey = np.random.default_rng(0).integers(0, 256, (9, 14), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(grey).save(plain, exif=exif)
    Image.fromarray(grey.astype(np.uint16)).save(path, exif=exif)
    np.testing.assert_array_equal(read_upright(path, bits(8)), read_upright(plain))
    assert header_of(path).size == header_of(plain).size


def test_twelve_bits_in_sixteen(tmp_path):
    """The tip names the smallest usual number of bits; applied, it reads the image."""
    values, path = ramp(3, 4021), tmp_path / "a.png"
    png16(path, values, RGB)
    with pytest.raises(DataBroken) as caught:
        read_upright(path, KEYS)
    assert caught.value.got == "16 bits a channel, values from 0 to 4021"
    assert "--set 'data.bits=12' if no image has values above 4095, or " in str(caught.value)
    assert "--set 'data.percentile=[1, 99]'" in str(caught.value)
    np.testing.assert_allclose(read_upright(path, bits(12)), values * (255 / 4095), atol=0.5001)
    with pytest.raises(DataBroken, match="values from 0 to 4021\n.*0 to 1023.*\n.*data.bits=12"):
        read_upright(path, bits(10))


def test_percentiles_are_of_all_channels_together(tmp_path):
    values, path = ramp(3, 9000) + np.array([0, 500, 3000], np.uint16), tmp_path / "a.png"
    png16(path, values, RGB)
    low, high = np.percentile(values, [1, 99])
    expected = ((values - low) / (high - low)).clip(0, 1) * 255
    conversion = Conversion(percentile=(1, 99))
    np.testing.assert_allclose(read_upright(path, conversion), expected, atol=0.501)


def test_fractions_and_other_numbers(tmp_path):
    path = tmp_path / "a.tif"
    values = np.linspace(0, 1, 96, dtype=np.float32).reshape(8, 12)
    values[0, 0] = np.nan
    Image.fromarray(values).save(path)
    with pytest.raises(DataBroken) as caught:
        read_upright(path, KEYS)
    assert "data.bits" not in str(caught.value) and "data.percentile" in caught.value.tip
    with pytest.raises(DataBroken, match="fractions from"):
        read_upright(path, bits(16))
    shown = read_upright(path, Conversion(percentile=(0, 100)))[..., 0]
    np.testing.assert_allclose(
        shown.ravel()[1:], (values.ravel()[1:] - 1 / 95) * 255 * 95 / 94, atol=0.51
    )
    assert shown[0, 0] == 0
    Image.fromarray(np.full((8, 12), -3, np.int32)).save(path)
    with pytest.raises(DataBroken, match="values from -3 to -3"):
        read_upright(path, bits(16))
    assert (read_upright(path, Conversion(percentile=(1, 99))) == 0).all()
    tiff(path, ramp(1), photometric=0)  # 0 is white
    expected = np.repeat(255 - ramp(1) * (255 / 65535), 3, 2)
    np.testing.assert_allclose(read_upright(path, bits(16)), expected, atol=0.5001)


def test_images_of_8_bits_keep_their_values(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for conversion in (bits(12), Conversion(percentile=(1, 99))):
        np.testing.assert_array_equal(read_upright(tmp_path / "a.png", conversion), pixels)


@pytest.mark.parametrize(
    "keys",
    [
        {"bits": 12, "percentile": (1, 99)},
        {"bits": 17},
        {"percentile": (99, 1)},
        {"percentile": (1, 101)},
        {"bands": (0, 1, 2)},
    ],
)
def test_keys_that_mean_nothing_are_refused(keys):
    with pytest.raises(UsageError):
        Conversion(**keys)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("extra", [(), (0,)])
@pytest.mark.parametrize("deflate", [False, True])
def test_a_fourth_band_that_is_not_alpha(tmp_path, kind, extra, deflate):
    values, path = ramp(4, np.iinfo(kind).max).astype(kind), tmp_path / "a.tif"
    tiff(path, values, photometric=2, extra=extra, deflate=deflate)
    with pytest.raises(DataBroken, match="fourth is not declared as alpha") as caught:
        header_of(path, KEYS)
    assert "--set 'data.bands=[1, 2, 3]'" in caught.value.tip
    with pytest.raises(DataBroken, match="gdal_translate -b 1 -b 2 -b 3"):
        read_upright(path, AS_STORED)
    shown = values * (255 / np.iinfo(kind).max)
    for bands in ((1, 2, 3), (4, 1, 2)):
        expected = shown[..., [band - 1 for band in bands]]
        np.testing.assert_allclose(read_upright(path, bits(16, bands)), expected, atol=0.5001)


def test_bands_that_an_image_does_not_have(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 14, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    swapped = Conversion(bands=(3, 2, 1))
    np.testing.assert_array_equal(read_upright(tmp_path / "a.png", swapped), pixels[..., ::-1])
    with pytest.raises(DataBroken, match="3 bands that can be read"):
        read_upright(tmp_path / "a.png", Conversion(bands=(4, 1, 2)))


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        (np.zeros((8, 9, 5), np.uint8), {"photometric": 1}, "5 bands of 8 bits"),
        (np.zeros((8, 9, 13), np.uint16), {"photometric": 1}, "13 bands of 16 bits"),
        (np.zeros((8, 9, 3), np.float32), {}, "3 bands of float 32 bits"),
        (np.zeros((8, 9, 1), np.float64), {}, "1 band of float 64 bits"),
        (np.zeros((8, 9, 3), np.uint16), {"planar": True}, "16 bits, stored band by band"),
        (np.zeros((8, 9, 1), np.int8), {}, "1 band of signed 8 bits"),
        (np.zeros((8, 9, 3), np.uint8), {"tags": {259: (3, [34887])}}, "compression 34887"),
    ],
)
def test_a_tiff_that_cannot_be_read_is_described(tmp_path, caplog, values, options, words):
    path = tmp_path / "a.tif"
    tiff(path, values, **options)
    with pytest.raises(DataBroken) as caught:
        read_upright(path, bits(16))
    assert words in caught.value.got and "gdal_translate" in caught.value.tip
    assert "restore" not in str(caught.value)
    assert not caplog.records


def test_planes_of_8_bits_are_read(tmp_path):
    values, path = ramp(3, 255).astype(np.uint8), tmp_path / "a.tif"
    tiff(path, values, planar=True)
    np.testing.assert_array_equal(read_upright(path), values)


def test_a_stack_of_pages_is_refused_but_not_an_image_with_its_previews(tmp_path):
    page, small = np.full((16, 20, 3), 7, np.uint8), np.zeros((8, 10, 3), np.uint8)
    path = tmp_path / "a.tif"
    tiff(path, page, page, page)
    with pytest.raises(DataBroken, match="3 pages.*\n  need one page per file\n.*magick"):
        header_of(path)
    with pytest.raises(DataBroken, match="3 pages"):
        read_upright(path)
    for pages, subfiles in (
        ((page, small), (0, 1)),
        ((page, page), (0, 4)),
        ((page, page, small), (0, 1, 1)),
        ((page, small), ()),
    ):
        tiff(path, *pages, subfiles=subfiles)
        assert (read_upright(path) == 7).all()
    tiff(path, small, page, subfiles=(1, 0))
    with pytest.raises(DataBroken, match="2 pages"):
        header_of(path)
    tiff(path, small, tags={50706: (4, [0x01040000])})
    with pytest.raises(DataBroken, match="a camera raw file.*\n.*\n.*darktable-cli"):
        header_of(path)


@pytest.mark.parametrize("form", ["gif", "png", "webp"])
def test_an_animation_is_refused(tmp_path, form):
    path = tmp_path / f"a.{form}"
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "lime", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(DataBroken, match="an animation of 3 frames\n  need an image of one frame"):
        read_upright(path)
    frames[0].save(path)
    assert read_upright(path).shape == (16, 16, 3)


def test_a_jpeg_with_a_preview_is_read(tmp_path):
    """Phones append further pictures to a photograph."""
    pixels = Image.new("RGB", (32, 16), "red")
    pixels.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (8, 4))])
    assert read_upright(tmp_path / "a.jpg").shape == (16, 32, 3)


@pytest.mark.parametrize(("name", "mode"), [("a.jp2", "RGB"), ("b.ppm", "RGB")])
def test_other_formats_of_more_than_8_bits(tmp_path, name, mode):
    path = tmp_path / name
    if name.endswith("ppm"):
        path.write_bytes(b"P6 4 2 4095\n" + bytes(48))
    else:
        Image.new(mode, (16, 16)).save(path)
        assert read_upright(path).shape == (16, 16, 3)
        stream = path.read_bytes()
        place = stream.index(b"\xff\x4f\xff\x51") + 42
        for channel in range(3):  # 12 bits
            stream = stream[: place + 3 * channel] + b"\x0b" + stream[place + 3 * channel + 1 :]
        path.write_bytes(stream)
    with pytest.raises(DataBroken, match="bits a channel in the format .* not supported"):
        header_of(path)


def test_large_images_are_read_up_to_a_stated_limit(tmp_path, monkeypatch, recwarn):
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 10_000)).save(path)  # above Pillow's own limit
    assert header_of(path).size == (10_000, 20_000) and not recwarn
    monkeypatch.setattr(decode, "MOST_PIXELS", 10**8)
    monkeypatch.setattr(unreadable, "MOST_PIXELS", 10**8)
    with pytest.raises(DataBroken) as caught:
        read_upright(path)
    message = str(caught.value)
    assert "10000x20000" in message and "100 million" in message and "gdal_retile.py" in message
    assert "restore" not in message and "bomb" not in message


def test_the_range_and_the_alpha_channel_of_a_file(tmp_path):
    pixels = np.random.default_rng(0).integers(1, 200, (9, 14, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_alpha(tmp_path / "a.png"), pixels[..., 3])
    png16(tmp_path / "b.png", ramp(4, 700), RGBA)
    assert read_range(tmp_path / "b.png") == (0, 700, False)


def test_a_conversion_as_recipe_and_as_option():
    assert Conversion.of(None, [1, 99], [4, 1, 2], RECIPE).arguments() == {
        "percentile": [1, 99],
        "bands": [4, 1, 2],
    }
    assert AS_STORED.arguments() == {}


class Cell:
    """An image in a table, as the data set ``hf`` gives it: Pillow knows no name of a file."""

    def __init__(self, content: bytes) -> None:
        self.content, self.name = content, "train[0].image"

    def open(self, mode: str = "rb") -> io.BytesIO:
        return io.BytesIO(self.content)


@pytest.mark.parametrize("color", [GREY, GREY_ALPHA, RGB, RGBA])
def test_a_deep_png_in_a_table_is_read_as_its_file(tmp_path, color):
    path = tmp_path / "a.png"
    png16(path, ramp({GREY: 1, GREY_ALPHA: 2, RGB: 3, RGBA: 4}[color]), color)
    cell = Cell(path.read_bytes())
    np.testing.assert_array_equal(read_upright(cell, bits(16)), read_upright(path, bits(16)))
    assert header_of(cell) == header_of(path)
    with pytest.raises(DataBroken, match="16 bits a channel, values from 0 to 65535"):
        read_upright(cell)


def test_jpeg_2000_in_a_table_is_read_as_its_file(tmp_path):
    path = tmp_path / "a.jp2"
    Image.fromarray((ramp(3) >> 8).astype(np.uint8)).save(path)
    cell = Cell(path.read_bytes())
    np.testing.assert_array_equal(read_upright(cell), read_upright(path))
    assert header_of(cell) == header_of(path) == decode.Header((16, 48), 8, False)
