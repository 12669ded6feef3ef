"""Pictures: formats that start programs, sizes that lie, broken and endless files, arrays of odd kinds."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import sfumato as sf

from ..checkpoint import CALL, checkpoint, fresh
from ..commands import command
from ..table import Action, Hostile, drawn, repeats
from .weights import CONTROL


def _png(
    width: int = 64, height: int = 64, *, depth: int = 8, colour: int = 2, data: bytes | None = None, more: bytes = b""
) -> bytes:
    """A PNG of these numbers, whether they fit or not."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress((b"\0" + bytes(3 * 64)) * 64) if data is None else data
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _text(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _saved(kind: str, size: tuple[int, int] = (64, 64), mode: str = "RGB", **more: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind, **more)
    return buffer.getvalue()


def _frames(kind: str, count: int) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("L", (16, 16), i % 256) for i in range(count)]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


FILES: dict[str, Callable[[], bytes]] = {
    "EPS": lambda: (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n(%pipe%true) (r) file\nshowpage\n"
    ),
    "EPS in a wrapper": lambda: (
        b"\xc5\xd0\xd3\xc6"
        + struct.pack("<IIIIII", 32, 100, 0, 0, 0, 0)
        + b"\0\0\xff\xff%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    ),
    "PostScript": lambda: b"%!PS\n%%BoundingBox: 0 0 64 64\n",
    "PDF": lambda: b"%PDF-1.4\n1 0 obj\n<<>>\n",
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "WMF": lambda: b"\xd7\xcd\xc6\x9a" + bytes(40),
    "MSP": lambda: b"DanM" + bytes(28),
    "PCX": lambda: _saved("PCX"),
    "TGA": lambda: _saved("TGA"),
    "PPM": lambda: b"P6\n64 64\n255\n" + bytes(64 * 64 * 3),
    "PPM of 10**9": lambda: b"P6\n1000000000 1000000000\n255\n",
    "ICO": lambda: _saved("ICO"),
    "JPEG 2000": lambda: _saved("JPEG2000"),
    "FITS": lambda: b"SIMPLE  =                    T" + b" " * 2850,
    "XBM": lambda: b"#define x_width 64\n#define x_height 64\nstatic char x_bits[] = {0};",
    "a Python file": lambda: b"import os\n",
    "empty": lambda: b"",
    "a mark alone": lambda: b"\x89PNG\r\n\x1a\n",
    "PNG of 2**31": lambda: _png(2**31 - 1, 2**31 - 1),
    "PNG of 10**5": lambda: _png(100_000, 100_000, data=zlib.compress(bytes(10**6))),
    "PNG of 13,000 in 200 KB": lambda: _png(
        13_000, 13_000, colour=0, depth=1, data=zlib.compress(bytes(1626 * 13_000))
    ),
    "PNG of 8,000 in 200 KB": lambda: _png(8000, 8000, data=zlib.compress((b"\0" + bytes(24_000)) * 8000)),
    "PNG of one row of 10**8": lambda: _png(10**8, 1, colour=0, data=zlib.compress(bytes(10**8 + 1))),
    "PNG without pixels": lambda: _png(0, 0),
    "PNG of no width": lambda: _png(0, 64),
    "PNG with too few pixels": lambda: _png(64, 64, data=zlib.compress(bytes(10))),
    "PNG with pixels that are no zlib": lambda: _png(64, 64, data=b"x" * 100),
    "PNG of a depth of 7": lambda: _png(depth=7),
    "PNG of a colour of 9": lambda: _png(colour=9),
    "PNG with a text of 1 GB": lambda: _png(more=_text(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))),
    "PNG with 100 texts of 60 MB": lambda: _png(
        more=_text(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(6 * 10**7))) * 100
    ),
    "PNG with a profile of 100 MB": lambda: _png(more=_text(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8)))),
    "PNG with a wrong profile": lambda: _png(more=_text(b"iCCP", b"a\0\0" + zlib.compress(b"x" * 200))),
    "PNG with a wrong Exif": lambda: _png(more=_text(b"eXIf", b"MM\0*" + b"\xff" * 100)),
    "PNG with an Exif that points to itself": lambda: _png(
        more=_text(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x87\x69\0\x04\0\0\0\x01\0\0\0\x08\0\0\0\x08")
    ),
    "PNG with a wrong sum": lambda: _png()[:-20] + b"xxxx" + _png()[-16:],
    "PNG with transparency that fits nothing": lambda: _png(more=_text(b"tRNS", b"\xff" * 300)),
    "PNG cut": lambda: _png()[:60],
    "APNG of 10**6 frames": lambda: _png(
        more=_text(b"acTL", struct.pack(">II", 10**6, 0))
        + _text(b"fcTL", struct.pack(">IIIIIHHBB", 0, 64, 64, 0, 0, 1, 1, 0, 0))
    ),
    "APNG with a frame outside": lambda: _png(
        more=_text(b"acTL", struct.pack(">II", 2, 0))
        + _text(b"fcTL", struct.pack(">IIIIIHHBB", 0, 64, 64, 2**31, 9, 1, 1, 0, 0))
    ),
    "JPEG cut": lambda: _saved("JPEG")[:200],
    "JPEG of 65,500": lambda: _saved("JPEG").replace(b"\x00\x40\x00\x40", b"\xff\xdc\xff\xdc"),
    "JPEG in CMYK": lambda: _saved("JPEG", mode="CMYK"),
    "JPEG with a turn of 99": lambda: _saved(
        "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0"
    ),
    "JPEG with a wrong Exif": lambda: _saved("JPEG", exif=b"Exif\0\0" + b"\xff" * 64),
    "GIF of 2000 frames": lambda: _frames("GIF", 2000),
    "GIF with a frame outside": lambda: (
        b"GIF89a\x40\x00\x40\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00,\xff\xff\xff\xff\xff\xff\xff\xff\x00\x02\x02D\x01\x00;"
    ),
    "GIF of 65,535": lambda: (
        b"GIF89a\xff\xff\xff\xff\x80\x00\x00\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00\x02\x02D\x01\x00;"
    ),
    "TIFF of 500 pages": lambda: _frames("TIFF", 500),
    "TIFF that points to itself": lambda: b"II*\0\x08\0\0\0\x00\x00\x08\0\0\0",
    "TIFF of 2**31 entries": lambda: b"II*\0\x08\0\0\0\xff\xff" + b"\0" * 12 * 100,
    "TIFF with odd counts": lambda: _saved("TIFF").replace(b"\x00\x01\x04\x00", b"\x00\x01\xff\xff"),
    "TIFF of floats that are not numbers": lambda: _tiff_of_floats(),
    "BMP of a negative height": lambda: (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 64, -64, 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "BMP of 2**31": lambda: (
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**31 - 1, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "BMP of run lengths": lambda: (
        b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 8000, 8000, 1, 8, 1, 0, 0, 0, 0, 0)
        + b"\0\2\xff\xff" * 100
    ),
    "WebP cut": lambda: _saved("WEBP")[:30],
    "WebP of 16,383": lambda: b"RIFF\x1a\x00\x00\x00WEBPVP8L\x0d\x00\x00\x00\x2f\xff\xff\xff\x0f" + bytes(8),
    "AVIF that is none": lambda: b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(100),
    "a web page": lambda: b"<html>Sign in</html>",
}
ARRAYS: dict[str, Callable[[], object]] = {
    "a tensor without sides": lambda: torch.tensor(1.0),
    "a tensor of one side": lambda: torch.zeros(64),
    "a tensor of 2 channels": lambda: torch.zeros(2, 64, 64),
    "a tensor of 10**4 channels": lambda: torch.zeros(10_000, 8, 8),
    "a tensor of 5 sides": lambda: torch.zeros(1, 1, 3, 8, 8),
    "a tensor without pixels": lambda: torch.zeros(3, 0, 64),
    "a tensor of complex numbers": lambda: torch.zeros(3, 64, 64, dtype=torch.complex64),
    "a tensor that is not a number": lambda: torch.full((3, 64, 64), float("nan")),
    "an infinite tensor": lambda: torch.full((3, 64, 64), float("inf")),
    "a tensor of 255": lambda: torch.full((3, 64, 64), 255.0),
    "a tensor without values": lambda: torch.zeros(3, 64, 64, device="meta"),
    "a sparse tensor": lambda: torch.zeros(3, 64, 64).to_sparse(),
    "an array of objects": lambda: np.array([object()]),
    "an array of texts": lambda: np.array([["a"]]),
    "an array of dates": lambda: np.zeros((64, 64, 3), dtype="datetime64[s]"),
    "an array of records": lambda: np.zeros((64, 64), dtype=[("a", "i4")]),
    "an array of 64-bit numbers": lambda: np.zeros((64, 64, 3), dtype=np.int64),
    "an array with steps of 0": lambda: np.lib.stride_tricks.as_strided(
        np.zeros(1, dtype=np.uint8), (10**5, 10**5, 3), (0, 0, 0)
    ),
    "an array of more bits": lambda: np.zeros((64, 64, 3), dtype=np.longdouble),
    "no picture": list,
    "a list of lists": lambda: [[list[int]()]],
    "a picture of 0x0": lambda: Image.new("RGB", (0, 0)),
    "a picture that is closed": lambda: _closed(),
    "a number": lambda: 7,
    "none in a list": lambda: [None],
    "a picture in the mode La": lambda: Image.new("La", (64, 64)),
    "a picture in the mode LAB": lambda: Image.new("LAB", (64, 64)),
    "a picture of 32-bit numbers": lambda: Image.new("I", (64, 64), -5),
    "a picture of floats that are not numbers": lambda: Image.new("F", (64, 64), float("nan")),
    "a picture of large floats": lambda: Image.new("F", (64, 64), 1e30),
    "10**4 pictures": lambda: [Image.new("L", (8, 8))] * 10**4,
    "an open file of text": lambda: io.BytesIO(b"x"),
    "an empty open file": io.BytesIO,
    "an address of a file": lambda: "file:///etc/passwd",
    "an address of data": lambda: "data:image/png;base64,AAAA",
    "an address with control characters": lambda: f"http://127.0.0.1:1/{CONTROL}",
    "an address with a line end": lambda: "http://127.0.0.1:1/ HTTP/1.1\r\nX: y",
    "an address of another server": lambda: "http://127.0.0.1:1/x.png",
    "a path with NUL": lambda: "a\0b.png",
    "a path of control characters": lambda: CONTROL.replace("\0", ""),
    "a long path": lambda: "x" * 5000,
    "an empty path": lambda: "",
    "a folder": lambda: "/",
    "a device": lambda: "/dev/zero",
    "random numbers": lambda: "/dev/urandom",
    "standard input": lambda: "/dev/stdin",
    "a secret": lambda: "/etc/hosts",
}


def inputs() -> Iterator[Hostile]:
    """Files, as the picture or the mask; objects; and pictures on the command line."""
    for name, data in FILES.items():
        yield Hostile(f"file: {name}", lambda place, d=data: _file(place, d()))
        if drawn(name).random() < 0.3:
            yield Hostile(f"mask: {name}", lambda place, d=data: _file(place, d(), mask=True))
            yield Hostile(f"command: {name}", lambda place, d=data: _command(place, d()))
    for name, value in ARRAYS.items():
        yield Hostile(f"object: {name}", lambda place, v=value: _called(place, v(), mask=False))
    for name in (
        "a tensor of 2 channels",
        "a tensor that is not a number",
        "a device",
        "no picture",
        "an array of objects",
    ):
        yield Hostile(f"mask: {name}", lambda place, v=ARRAYS[name]: _called(place, v(), mask=True))
    for kind in ("a pipe", "a link to itself", "a link to a device", "a folder", "a file that nobody may read"):
        yield Hostile(f"a file that is {kind}", lambda place, k=kind: _special(place, k))
    for k in repeats(12):
        yield Hostile(f"bytes changed at random {k}", lambda place, k=k: _file(place, _flipped(k)))


def _flipped(k: int) -> bytes:
    random = drawn(f"picture {k}")
    data = bytearray(_saved(random.choice(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])))
    for _ in range(random.choice([1, 5, 20])):
        data[random.randrange(len(data))] = random.randrange(256)
    return bytes(data)


def _tiff_of_floats() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64), np.nan, dtype=np.float32)).save(buffer, "TIFF")
    return buffer.getvalue()


def _closed() -> Image.Image:
    image = Image.new("RGB", (64, 64))
    image.close()
    return image


def _file(place: Path, data: bytes, *, mask: bool = False) -> Action:
    file = place / "x.png"
    file.write_bytes(data)
    return _called(place, str(file), mask=mask)


def _called(place: Path, value: object, *, mask: bool) -> Action:
    pipe = sf.load(checkpoint(place), "inpaint" if mask else "image2image", manager=fresh())
    call = {name: kept for name, kept in CALL.items() if name not in ("height", "width")}
    more = {"image": Image.new("RGB", (64, 64)), "mask_image": value} if mask else {"image": value}
    return lambda: pipe(**call, **more)


def _command(place: Path, data: bytes) -> Action:
    file = place / "x.png"
    file.write_bytes(data)
    return command(
        "run", "a fox", "--model", str(checkpoint(place)), "--image", str(file), "-o", str(place / "out.png")
    )


def _special(place: Path, kind: str) -> Action:
    file = place / "x.png"
    match kind:
        case "a pipe":
            os.mkfifo(file)
        case "a link to itself":
            file.symlink_to(file)
        case "a link to a device":
            file.symlink_to("/dev/zero")
        case "a folder":
            file.mkdir()
        case _:
            file.write_bytes(_saved("PNG"))
            file.chmod(0)
    return _called(place, str(file), mask=False)
