"""Pictures that people have: files, addresses, modes, arrays, orientation and alpha, all through one reader."""

import io
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato as sf
from sfumato.blocks.control.images import read_control
from sfumato.blocks.image.crop import CropToMask
from sfumato.blocks.image.kontext import ReadReference
from sfumato.blocks.image.read import ReadImage, ReadMask
from sfumato.components.conditioning import SDConditioning
from sfumato.components.image_processor import CLIPImageProcessor
from sfumato.components.pictures import each_picture, open_picture
from sfumato.components.storage import web
from sfumato.components.types import Pass, Rows
from sfumato.graph import limits
from sfumato.graph.errors import PictureError

STORED = {  # how a picture is stored that becomes upright by this tag
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
RAMP = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(64, 0)
RAMP_FLOATS = torch.from_numpy(RAMP.astype(np.float32) / 65535)


def upright() -> Image.Image:
    """48 wide and 64 high, with a white corner."""
    picture = Image.new("RGB", (48, 64), (0, 0, 90))
    picture.paste((255, 255, 255), (0, 0, 24, 24))
    return picture


def stored(tag: int, folder: Path, suffix: str = "png") -> Path:
    picture, how = upright(), STORED[tag]
    exif = Image.Exif()
    exif[274] = tag
    file = folder / f"{tag}.{suffix}"
    (picture if how is None else picture.transpose(how)).save(file, exif=exif)
    return file


def pixels_of(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255


# ---------------------------------------------------------------------------------------------------------- orientation
@pytest.mark.parametrize("tag", STORED)
def test_every_reader_sees_a_photo_as_its_orientation_tag_says(tag: int, tmp_path: Path) -> None:
    file, seen = stored(tag, tmp_path), pixels_of(upright())
    for photo in (str(file), file, Image.open(file), io.BytesIO(file.read_bytes())):
        assert torch.equal(ReadImage()(photo).pixels, seen)
        assert ReadMask()(photo).mask[0, 0].nonzero().amax(0).tolist() == [23, 23]
        assert torch.equal(ReadReference(auto_resize=False)(photo).reference, seen)
    processor = CLIPImageProcessor()
    assert torch.equal(processor([Image.open(file)]), processor([upright()]))


@pytest.mark.parametrize("suffix", ["tiff", "jpg", "webp"])
def test_orientation_tags_count_in_every_format(suffix: str, tmp_path: Path) -> None:
    assert (ReadImage()(stored(6, tmp_path, suffix)).pixels - pixels_of(upright())).abs().mean() < 0.01


def test_a_picture_is_turned_once(tmp_path: Path) -> None:
    (once,) = each_picture(Image.open(stored(6, tmp_path)))
    (twice,) = each_picture(once)
    assert cast("Image.Image", twice).tobytes() == upright().tobytes()


def test_the_crop_to_a_mask_is_of_the_upright_photo(tmp_path: Path) -> None:
    mask = Image.new("L", (48, 64))
    mask.paste(255, (0, 0, 24, 24))
    photo = Image.open(stored(8, tmp_path))
    cropped = CropToMask(height=24, width=24, padding_mask_crop=0)(photo, mask)
    assert cropped.region == (0, 0, 24, 24)
    assert ReadImage()(cropped.image).pixels.min() == 1


def test_broken_exif_data_does_not_hide_a_picture() -> None:
    picture = upright()
    picture.info["exif"] = b"Exif\x00\x00nonsense"
    assert torch.equal(ReadImage()(picture).pixels, pixels_of(upright()))


# ----------------------------------------------------------------------------------------------------- depths and modes
def ramp_file(format: str) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(RAMP).save(file, format)
    return file


RAMPS: dict[str, Callable[[], Any]] = {
    "png": lambda: ramp_file("PNG"),
    "tiff": lambda: ramp_file("TIFF"),
    "I;16": lambda: Image.open(ramp_file("PNG")),
    "I": lambda: Image.fromarray(RAMP.astype(np.int32)),
    "F": lambda: Image.fromarray(RAMP_FLOATS.numpy()),
    "array": lambda: RAMP[..., None],
    "big-endian array": lambda: RAMP.astype(">u2"),
    "tensor": lambda: torch.from_numpy(RAMP)[None],
}


@pytest.mark.parametrize("form", RAMPS)
def test_sixteen_bits_and_floats_keep_their_greys(form: str) -> None:
    ramp = RAMPS[form]()
    assert (ReadMask(binarize=False)(ramp).mask[0, 0] - RAMP_FLOATS).abs().max() < 1e-6
    assert (ReadImage()(ramp).pixels[0] - RAMP_FLOATS).abs().max() < 1e-6
    assert ReadImage(height=32, width=32)(ramp).pixels.max() <= 1  # resizing does not go beyond white


def test_a_dark_mask_of_sixteen_bits_paints_nothing() -> None:
    assert ReadMask()(Image.fromarray(RAMP // 4)).mask.max() == 0


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_every_mode_is_read(mode: str) -> None:
    white = Image.new("RGB", (8, 8), "white")
    step = {"La": "LA", "LA": "L", "PA": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
    picture = white.convert(step).convert(mode)
    assert ReadImage()(picture).pixels.min() > 0.99
    assert ReadMask()(picture).mask.min() == 1


def test_values_beyond_a_mode_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of mode I needs values from 0 to 65535, got -1 to -1."):
        ReadImage()(Image.new("I", (8, 8), -1))
    with pytest.raises(ValueError, match=r"needs values from 0 to 1, got 255 to 255."):
        ReadImage()(Image.new("F", (8, 8), 255.0))
    with pytest.raises(ValueError, match=r"A picture needs pixels, got a size of 0x8."):
        ReadImage()(Image.new("RGB", (0, 8)))


# ---------------------------------------------------------------------------------------------------------- alpha
def cut_out() -> np.ndarray[Any, Any]:
    """Transparent red around an opaque green square of half the size."""
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[..., 0] = 255
    rgba[4:12, 4:12] = (0, 255, 0, 255)
    return rgba


def palette(rgba: Image.Image) -> Image.Image:
    file = io.BytesIO()
    rgba.quantize(8).save(file, "PNG")
    return Image.open(file)


FORMS: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {
    "picture": Image.fromarray,
    "palette": lambda rgba: palette(Image.fromarray(rgba)),
    "premultiplied": lambda rgba: Image.fromarray(rgba).convert("RGBa"),
    "array": lambda rgba: rgba,
    "float array": lambda rgba: rgba.astype(np.float64) / 255,
    "tensor": lambda rgba: torch.from_numpy(rgba).movedim(-1, 0),
}


@pytest.mark.parametrize("form", FORMS)
def test_transparent_parts_show_the_background(form: str) -> None:
    picture = FORMS[form](cut_out())
    for background, colour in {"white": [1, 1, 1], "#0000ff": [0, 0, 1]}.items():
        pixels = ReadImage(background=background)(picture).pixels[0]
        assert pixels[:, 0, 0].tolist() == colour
        assert pixels[:, 8, 8].tolist() == [0, 1, 0]
    assert torch.equal(ReadImage()(picture).pixels, ReadImage(background="white")(picture).pixels)


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_may_be_in_the_alpha_channel(form: str) -> None:
    mask = np.zeros((16, 16, 4), np.uint8)
    mask[4:12, 4:12, 3] = 255  # black everywhere
    assert ReadMask()(FORMS[form](mask)).mask.mean() == 0.25


def test_a_mask_of_two_colours_is_black_where_it_is_transparent() -> None:
    mask = np.zeros((16, 16, 4), np.uint8)
    mask[..., :3] = 255
    mask[:8, :, 3] = 255
    mask[:4, :, :3] = 0  # rows: black, white, and transparent white
    assert ReadMask()(Image.fromarray(mask)).mask[0, 0, :, 0].tolist() == [0] * 4 + [1] * 4 + [0] * 8


def test_an_unknown_background_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^background needs a colour such as 'white' or '#808080', got 'whit'.$"):
        ReadImage(background="whit")(Image.new("RGBA", (8, 8)))


# ---------------------------------------------------------------------------------------------------------- arrays
@pytest.mark.filterwarnings("error")
def test_arrays_may_be_read_only_reversed_or_of_the_other_byte_order() -> None:
    picture = upright()
    read_only = np.asarray(picture)
    assert not read_only.flags.writeable
    assert torch.equal(ReadImage()(read_only).pixels, pixels_of(picture))
    assert torch.equal(ReadImage()(read_only[..., ::-1][..., ::-1]).pixels, pixels_of(picture))
    assert torch.equal(ReadImage()(read_only[::-1]).pixels, pixels_of(picture).flip(2))
    floats = (read_only / np.float32(255)).astype(">f4")
    assert torch.equal(ReadImage()(floats).pixels, pixels_of(picture))
    assert not read_only.flags.writeable


def test_a_mask_of_three_channels_is_read_as_grey() -> None:
    colours = np.array([[[255, 255, 255], [0, 255, 0], [0, 0, 255]]], np.uint8).repeat(8, 0).repeat(8, 1)
    assert ReadMask()(colours).mask[0, 0, 0, ::8].tolist() == [1, 1, 0]
    assert torch.equal(ReadMask()(colours).mask, ReadMask()(Image.fromarray(colours)).mask)


@pytest.mark.parametrize(
    ("picture", "advice"),
    [
        (np.ones((8, 8), np.int64), "Convert 0 to 255 to uint8, and a mask of 0 and 1 to bool."),
        (np.zeros((3, 8, 8), np.float32), r"Move its channels to the end: numpy.moveaxis\(picture, 0, -1\)."),
        (torch.zeros(16, 8, 8), "Latents are no picture: pass them as image_latents."),
    ],
)
def test_an_array_that_is_no_picture_gets_advice(picture: Any, advice: str) -> None:
    with pytest.raises(ValueError, match=rf"{advice}$"):
        ReadMask()(picture)


# ---------------------------------------------------------------------------------------------------------- files
def test_only_pictures_of_known_formats_are_opened(tmp_path: Path) -> None:
    for name, content in {
        "page.png": b"<html></html>",
        "page.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "none.png": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            PictureError, match=rf"{name}: is no picture that can be read. Pass a file in one of the formats PNG"
        ):
            open_picture(tmp_path / name)


def test_a_broken_file_is_named_with_the_reason(tmp_path: Path) -> None:
    upright().save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    with pytest.raises(PictureError, match=r"cut.png: cannot be read \(image file is truncated\).$"):
        ReadImage()(tmp_path / "cut.png")
    with pytest.raises(PictureError, match=r"no.png: cannot be read \(No such file or directory\).$"):
        ReadImage()([upright(), str(tmp_path / "no.png")])
    with pytest.raises(PictureError, match=r"^the open file: is no picture"):
        ReadImage()(io.BytesIO(b"nothing"))
    with pytest.raises(PictureError, match=r"^ftp://example.com/fox.png: only http and https addresses can be read."):
        ReadImage()("ftp://example.com/fox.png")


def test_pictures_with_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upright().save(tmp_path / "large.png")
    monkeypatch.setitem(limits._current, "picture_pixels", 3000)
    with pytest.raises(
        PictureError, match=r"large.png: has 3,072 pixels, and the limit is 3,000: 8192 x 8192, more than "
    ):
        ReadImage()(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(PictureError, match=r"large.png: has more pixels than Pillow reads, and the limit is 3,000."):
        ReadImage()(tmp_path / "large.png")


def test_of_an_animation_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    for name in ("moving.gif", "moving.webp", "moving.png", "pages.tiff"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert ReadImage()(tmp_path / name).pixels.min() > 0.99


# ---------------------------------------------------------------------------------------------------------- web
class Site(BaseHTTPRequestHandler):
    """A fox, a page, and addresses that lead elsewhere."""

    def do_GET(self) -> None:
        content = io.BytesIO()
        upright().save(content, "PNG")
        moved = {"/moved": "/fox.png", "/file": "file:///etc/hostname", "/ftp": "ftp://127.0.0.1/fox.png"}.get(
            self.path
        )
        self.send_response(302 if moved else 404 if self.path == "/none" else 200)
        if moved:
            self.send_header("Location", moved)
        self.end_headers()
        self.wfile.write(b"<html>" if self.path == "/page" else content.getvalue())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_picture_is_read_from_its_address(site: str) -> None:
    for path in ("/fox.png", "/moved"):
        assert torch.equal(ReadImage()(f"{site}{path}").pixels, pixels_of(upright()))
    assert len(each_picture([f"{site}/fox.png", upright()])) == 2


def test_an_address_without_a_picture_is_named_with_the_reason(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, reason in {
        "/none": r"the server answered 404 \(Not Found\)",
        "/page": "is no picture that can be read",
        "/file": "the server answered 302",
        "/ftp": "cannot be reached",
    }.items():
        with pytest.raises(PictureError, match=rf"^{site}{path}: {reason}"):
            ReadImage()(f"{site}{path}")
    with pytest.raises(PictureError, match=r"^http://127.0.0.1:1/fox.png: cannot be reached"):
        ReadImage()("http://127.0.0.1:1/fox.png")
    monkeypatch.setitem(limits._current, "picture_bytes", 100)
    with pytest.raises(PictureError, match=r"fox.png: is larger than"):
        ReadImage()(f"{site}/fox.png")


def test_a_transfer_ends_in_time(site: str) -> None:
    with pytest.raises(OSError, match=r"fox.png: the transfer took longer than 1e-09 seconds."):
        web.fetch(f"{site}/fox.png", max_bytes=1 << 20, seconds=1e-9)


# ---------------------------------------------------------------------------------------------------------- control
def control_pixels(picture: Any, channels: int = 3, background: str = "black") -> torch.Tensor:
    def size(height: int, width: int) -> tuple[int, int]:
        return height * 8, width * 8

    features = read_control(picture, Rows(1, 1), size, channels, lambda pixels: (pixels,), background)
    step = sf.schedulers.DDIMScheduler().steps(1)[0]
    return features([Pass(torch.zeros(1, 4, 8, 6), step, SDConditioning(torch.zeros(1, 1, 1)))])[0]


@pytest.mark.parametrize("tag", STORED)
def test_control_pictures_are_upright_too(tag: int, tmp_path: Path) -> None:
    assert torch.equal(control_pixels(stored(tag, tmp_path)), pixels_of(upright()))


def test_control_pictures_keep_sixteen_bits_and_show_their_background() -> None:
    depth = control_pixels(ramp_file("PNG"), channels=1)
    assert len(depth.unique()) == 48  # every column has a grey of its own, up to both ends
    picture = Image.fromarray(cut_out()).resize((48, 64), Image.Resampling.NEAREST)
    assert control_pixels(picture)[0, :, 0, 0].tolist() == [0, 0, 0]
    assert control_pixels(picture, background="red")[0, :, 0, 0].tolist() == [1, 0, 0]


def test_image_encoders_read_pictures_of_every_kind() -> None:
    processor = CLIPImageProcessor()
    expected = processor([upright()])
    assert torch.equal(processor(each_picture(np.asarray(upright()))), expected)
    assert torch.equal(processor(each_picture(pixels_of(upright()))), expected)
    on_white = ReadImage()(cut_out()).pixels
    assert torch.equal(processor([Image.fromarray(cut_out())]), processor([on_white[0]]))
