"""Picture files from strangers: each is a picture within the limits, or refused in time, with a text and no program."""

import io
import os
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sfumato.components import picture_files
from sfumato.components.picture_files import FORMATS
from sfumato.components.pictures import each_picture, open_picture
from sfumato.graph import limits
from sfumato.graph.errors import PictureError

ROOT = Path(__file__).parents[2]
SMALL = Image.new("RGB", (8, 8), "red")


def saved(format: str, picture: Image.Image = SMALL, **how: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **how)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(*chunks: bytes, size: tuple[int, int] = (8, 8), pixels: bytes | None = None) -> bytes:
    """A PNG file of RGB pixels, with these chunks before them."""
    head = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes((1 + 3 * size[0]) * size[1])) if pixels is None else pixels
    parts = (chunk(b"IHDR", head), *chunks, chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff_with(tags: dict[int, tuple[int, int, int]], data: bytes = b"", order: str = "<") -> bytes:
    """A TIFF file with these tags (kind, count, value). The data begins after them; `end_of` says where."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    entries = b"".join(struct.pack(f"{order}HHII", tag, *entry) for tag, entry in sorted(tags.items()))
    return head + entries + bytes(4) + data


def end_of(tags: int) -> int:
    return 14 + 12 * tags


PLAIN_TIFF = {256: (4, 1, 8), 257: (4, 1, 8), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8),
              278: (4, 1, 8), 279: (4, 1, 64)}  # fmt: skip


def many_scans(count: int) -> bytes:
    """A progressive JPEG file whose last scan is repeated."""
    whole = saved("JPEG", Image.new("L", (64, 64), 90), progressive=True)
    last = whole[whole.rindex(b"\xff\xda") : -2]
    return whole[:-2] + last * count + whole[-2:]


def shared_tags(count: int = 4000, size: int = 2**18) -> bytes:
    """A TIFF file where many tags name the same bytes."""
    tags = {**PLAIN_TIFF, **{1000 + k: (7, size, end_of(count)) for k in range(count - len(PLAIN_TIFF))}}
    return tiff_with(tags, bytes(size))


def large_tile(side: int, order: str = "<") -> bytes:
    packed = zlib.compress(bytes(1000))
    short = 16 if order == ">" else 0
    tags = {256: (4, 1, 64), 257: (4, 1, 64), 258: (3, 1, 8 << short), 259: (3, 1, 8 << short), 262: (3, 1, 1 << short),
            322: (4, 1, side), 323: (4, 1, side), 324: (4, 1, end_of(9)), 325: (4, 1, len(packed))}  # fmt: skip
    return tiff_with(tags, packed, order)


ZEROS = zlib.compress(bytes(2**27))
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "is no picture"),
    "psd": (lambda: b"8BPS\0\1" + bytes(64), "is no picture"),
    "fits": (lambda: b"SIMPLE  =                    T".ljust(2880), "is no picture"),
    "pdf": (lambda: b"%PDF-1.7\n", "is no picture"),
    "wmf": (lambda: b"\xd7\xcd\xc6\x9a" + bytes(64), "is no picture"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no picture"),
    "icns": (lambda: b"icns" + bytes(64), "is no picture"),
    "many pixels": (lambda: png_with(size=(60_000, 60_000), pixels=b""), "has more pixels than Pillow reads"),
    "too many pixels": (lambda: png_with(size=(9000, 9000), pixels=b""), "has 81,000,000 pixels, and the limit"),
    "text that grows": (lambda: png_with(chunk(b"zTXt", b"Comment\0\0" + ZEROS)), "is broken (Decompressed data too"),
    "a profile that grows": (lambda: png_with(chunk(b"iCCP", b"icc\0\0" + ZEROS)), "is broken (Decompressed data too"),
    "many texts": (
        lambda: png_with(*[chunk(b"zTXt", b"%d\0\0" % k + zlib.compress(bytes(2**20 - 1))) for k in range(70)]),
        "is broken (Too much memory used in text chunks",
    ),
    "many scans": (lambda: many_scans(1000), "has 1,006 scans, and the limit is 20"),
    "many segments": (lambda: b"\xff\xd8" + b"\xff\xe0\0\2" * 70_000, "is broken (it has more than 65536 segments)"),
    "much exif": (lambda: b"\xff\xd8" + (b"\xff\xe1\xff\xff" + b"Exif\0\0".ljust(65533)) * 3, "of Exif data"),
    "a jpeg that ends": (lambda: b"\xff\xd8\xff\xe0", "is broken (it ends in the middle)"),
    "tags that share data": (shared_tags, "is broken (its tags have"),
    "a large tile": (lambda: large_tile(2**15), "has 1,073,741,824 pixels, and the limit"),
    "a large tile, big-endian": (lambda: large_tile(2**15, ">"), "has 1,073,741,824 pixels, and the limit"),
    "a bigtiff of many tags": (lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**60), "tags). Save the picture"),
    "a tiff that ends": (lambda: b"II*\0\x08\0\0\0", "is broken (it ends in the middle)"),
    "a cut gif": (lambda: saved("GIF")[:30], ""),
    "a cut webp": (lambda: saved("WEBP")[:30], ""),
    "a cut png": (lambda: saved("PNG")[:50], ""),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_file_is_refused_in_time(name: str, tmp_path: Path) -> None:
    make, text = REFUSED[name]
    file = tmp_path / "fox.png"
    file.write_bytes(make())
    began = monotonic()
    for source in (file, io.BytesIO(file.read_bytes())):
        with pytest.raises(PictureError) as caught:
            open_picture(source)
        shown = str(caught.value)
        assert text in shown and shown.isprintable() and shown.endswith((".", ")"))
        assert shown.startswith(f"{file}: " if source is file else "the open file: ")
    assert monotonic() - began < 5


def test_no_picture_starts_a_program(tmp_path: Path) -> None:
    started: list[str] = []
    watching = True

    def hook(event: str, args: Any) -> None:
        if watching and event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"):
            started.append(event)

    sys.addaudithook(hook)
    for make, _ in REFUSED.values():
        (tmp_path / "fox.eps").write_bytes(make())
        with pytest.raises(PictureError):
            open_picture(tmp_path / "fox.eps")
    watching = False
    assert started == []


def test_pictures_are_opened_in_one_place() -> None:
    rooms = [ROOT / room for room in ("registry", "graph", "components", "blocks", "presets")]
    files = [path for room in rooms for path in room.rglob("*.py")]
    opening = [path for path in files if re.search(r"\b(Image|PIL)\.open\(", path.read_text(encoding="utf-8"))]
    assert [path.relative_to(ROOT).as_posix() for path in opening] == ["components/picture_files.py"]


@pytest.mark.parametrize("name", FORMATS)
def test_a_picture_within_the_limits_is_read(name: str, tmp_path: Path) -> None:
    if name not in Image.SAVE:
        pytest.skip(f"Pillow has no {name}")
    (tmp_path / "picture").write_bytes(saved(name))
    read = open_picture(tmp_path / "picture")
    assert read.size == (8, 8) and read.getpixel((4, 4))[0] > 200  # type: ignore[index]


def test_honest_files_with_much_in_them_are_read() -> None:
    assert open_picture(io.BytesIO(many_scans(10))).size == (64, 64)
    tiff = saved("TIFF", Image.new("RGB", (512, 512)), compression="tiff_deflate", tiffinfo={270: "a fox" * 1000})
    assert open_picture(io.BytesIO(tiff)).size == (512, 512)
    info = PngInfo()
    info.add_text("parameters", "a fox " * 10_000, zip=True)
    assert open_picture(io.BytesIO(saved("PNG", pnginfo=info))).size == (8, 8)


@pytest.mark.parametrize("name", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_many_frames_the_first_is_read_in_time(name: str) -> None:
    frames = [Image.new("RGB", (8, 8), (k % 256, k // 256, 0)) for k in range(1, 1001)]
    data = saved(name, SMALL, save_all=True, append_images=frames)
    began = monotonic()
    assert open_picture(io.BytesIO(data)).convert("RGB").getpixel((4, 4))[0] > 200  # type: ignore[index]
    assert monotonic() - began < 2


def test_exif_data_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[274] = 6
    turned = Image.new("RGB", (8, 4))
    assert open_picture(io.BytesIO(saved("PNG", turned, exif=exif))).size == (4, 8)
    padded = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0") + bytes(2**17)
    assert open_picture(io.BytesIO(saved("PNG", turned, exif=padded))).size == (8, 4)


# ---------------------------------------------------------------------------------------------------------- places
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "to_pipe.png").symlink_to(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    began = monotonic()
    for place in (tmp_path / "pipe.png", tmp_path / "to_pipe.png", tmp_path / "folder.png", "/dev/zero", "/dev/stdin"):
        if Path(place).exists():
            with pytest.raises(
                PictureError, match=r": is not a plain file. Pass the path of a picture file.$|cannot be read"
            ):
                open_picture(place)
    with pytest.raises(PictureError, match=r"loop.png: cannot be read \(Too many levels of symbolic links\).$"):
        open_picture(tmp_path / "loop.png")
    assert monotonic() - began < 2


@pytest.mark.parametrize(
    "name",
    ["\0.png", "\ud800.png", "~nobody_of_this_name/fox.png", "a" * 5000, "x\x1b[31m\nerror: none\u202e.png", "",
     "data:image/png;base64,iVBORw0KGgo=", "file:///etc/passwd", "FTP://example.com/fox.png", "gopher://x/fox"],
)  # fmt: skip
def test_a_name_that_is_no_file_is_refused_in_one_printable_line(name: str) -> None:
    with pytest.raises(PictureError) as caught:
        each_picture(name)
    shown = str(caught.value)
    assert shown.isprintable() and len(shown) < 600
    shown.encode()


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(
        PictureError, match=r"large.png: has 1,099,511,627,776 bytes, and the limit is 268,435,456: a TIFF"
    ):
        open_picture(tmp_path / "large.png")


def test_a_limit_may_be_raised_for_files_that_one_trusts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_current", dict(limits._current))
    limits.raise_limit("picture_scans", 30)
    assert open_picture(io.BytesIO(many_scans(20))).size == (64, 64)
    assert Image.MAX_IMAGE_PIXELS == 89_478_485  # Pillow's own


# ---------------------------------------------------------------------------------------------------------- web
class Slow(BaseHTTPRequestHandler):
    """A server that sends headers letter by letter."""

    def do_GET(self) -> None:
        try:
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
            for _ in range(100):
                self.wfile.write(b"a")
                self.wfile.flush()
                sleep(0.05)
        except PictureError:
            pass

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def slow_site() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Slow)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_sends_headers_letter_by_letter_does_not_hold_a_call(
    slow_site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_files, "SECONDS", 0.3)
    began = monotonic()
    with pytest.raises(PictureError, match=r"/fox.png: the transfer took longer than 0.3 seconds."):
        open_picture(f"{slow_site}/fox.png")
    assert monotonic() - began < 2
