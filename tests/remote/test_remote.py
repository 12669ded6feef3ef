"""A remote autoencoder and its service, through a real server on this machine."""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import uvicorn
from PIL import Image

import sfumato as sf
from sfumato import ConfigError, Graph, RemoteAutoencoder, RemoteError, SaveError
from sfumato.components.remote import AutoencoderService, Reply
from sfumato.graph.memo.contents import content_key
from sfumato.graph.memo.library_values import NoContentKey

PAGE = Path(__file__).parents[2] / "docs" / "remote.md"


@pytest.fixture(scope="session")
def pipe() -> Graph:
    return sf.load("emoji")


@pytest.fixture(scope="session")
def vae(pipe: Graph) -> Any:
    return pipe.bindings["vae"].load()


@pytest.fixture(scope="session")
def address(vae: Any) -> Iterator[str]:
    """A server with the program of the page."""
    page = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    program: dict[str, Any] = {}
    exec(next(code for code in page if "FastAPI()" in code), program)
    server = uvicorn.Server(uvicorn.Config(program["app"], port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="session")
def remote(pipe: Graph, address: str) -> RemoteAutoencoder:
    return RemoteAutoencoder(f"{address}/decode", f"{address}/encode", like=pipe.bindings["vae"])


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_it_decodes_and_encodes_as_the_autoencoder_does(vae: Any, remote: RemoteAutoencoder) -> None:
    z, x = noise(2, vae.latent_channels, 8, 8), noise(1, 3, 64, 64).clamp(-1, 1)
    assert torch.equal(remote.decode(z), vae.decode(z))
    ours, theirs = remote.encode(x), vae.encode(x)
    assert torch.equal(ours.mean, theirs.mean) and torch.equal(ours.std, theirs.std)
    assert remote.space == vae.space and remote.scale_factor == vae.scale_factor


def test_a_pipeline_reads_and_makes_pictures_with_it(pipe: Graph, remote: RemoteAutoencoder) -> None:
    picture = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
    call = {
        "prompt": "a fox",
        "image": picture,
        "strength": 0.5,
        "seed": 7,
        "num_inference_steps": 2,
        "output_type": "pt",
    }
    graph = pipe.task("image2image")
    assert torch.equal(graph.bind(vae=remote)(**call).images, graph(**call).images)


def test_half_precision_is_sent_as_asked(vae: Any, address: str) -> None:
    half = RemoteAutoencoder(f"{address}/decode", like=vae, dtype="float16")
    z = noise(1, vae.latent_channels, 8, 8).half()
    made = half.decode(z)
    assert made.dtype == torch.float16
    torch.testing.assert_close(made.float(), vae.decode(z.float()), atol=2e-3, rtol=0)


def test_the_functions_of_diffusers_speak_to_the_service(vae: Any, address: str) -> None:
    from diffusers.utils.remote_utils import remote_decode, remote_encode

    latents = noise(1, vae.latent_channels, 8, 8)
    pixels = vae.decode(vae.unscale(latents))
    factor = vae.config.scaling_factor
    plain: dict[str, Any] = {"scaling_factor": factor, "output_type": "pt", "return_type": "pt"}
    torch.testing.assert_close(remote_decode(f"{address}/decode", latents, **plain), pixels, atol=1e-6, rtol=0)
    bytes_of: Any = remote_decode(f"{address}/decode", latents, partial_postprocess=True, **plain)
    assert bytes_of.dtype == torch.uint8 and bytes_of.shape == (1, 64, 64, 3)
    png: Any = remote_decode(f"{address}/decode", latents, scaling_factor=factor, image_format="png")
    ours = (pixels[0].add(1).div(2).clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    assert torch.equal(torch.tensor(list(png.tobytes())).view(64, 64, 3).byte(), ours)
    picture = Image.fromarray(ours.numpy())
    encoded = remote_encode(f"{address}/encode", picture, scaling_factor=factor)
    x = ours.permute(2, 0, 1)[None].float() / 127.5 - 1
    torch.testing.assert_close(encoded, vae.scale(vae.encode(x).mean), atol=1e-5, rtol=0)


def test_a_memo_keeps_what_a_model_of_a_stated_version_gives(vae: Any, address: str) -> None:
    decoder = f"{address}/decode"
    with pytest.raises(NoContentKey, match=r"may become another one\. Pass version="):
        content_key(RemoteAutoencoder(decoder, like=vae))
    one, same, other = (RemoteAutoencoder(decoder, like=vae, version=version) for version in ("1", "1", "2"))
    assert content_key(one) == content_key(same) != content_key(other)


# ------------------------------------------------------------------------------------------------ the client's errors
class Canned(BaseHTTPRequestHandler):
    """Answers each request with what a test has set."""

    status: ClassVar[int] = 200
    headers_sent: ClassVar[dict[str, str]] = {}
    content: ClassVar[bytes] = b""
    seen: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(self.headers["Authorization"])
        self.send_response(self.status)
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def canned() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Canned)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/decode"
    server.shutdown()
    server.server_close()
    thread.join()


NUMBERS = bytes(3 * 16 * 16 * 4)
FINE = {"shape": "[1, 3, 16, 16]", "dtype": "float32"}


@pytest.mark.parametrize(
    ("status", "headers", "content", "text"),
    [
        (200, {"Content-Type": "text/html"}, b"<html>",
         "the answer is no tensor, but of the type text/html. Check that the address is that of an autoencoder."),
        (200, {**FINE, "shape": "[1, 3, 8, 8]"}, NUMBERS,
         "the answer is a tensor of the shape [1, 3, 8, 8], and [1, 3, 16, 16] is needed. Check like=."),
        (200, {**FINE, "shape": "[1, [["}, NUMBERS,
         "the answer is a tensor of the shape [1, [[, and [1, 3, 16, 16] is needed. Check like=."),
        (200, {**FINE, "dtype": "object"}, NUMBERS,
         "the answer is of the dtype object. It needs float16, bfloat16 or float32."),
        (200, FINE, NUMBERS[1:],
         "the answer is 3071 bytes, and 3072 are needed for [1, 3, 16, 16] of float32."),
        (200, FINE, NUMBERS * 2, "is larger than 0 MiB. The autoencoder of this pipeline is behind that address."),
        (302, {"Location": "http://127.0.0.1:1/"}, b"",
         "the server answered 302 (Found). The autoencoder of this pipeline is behind that address."),
        (503, {"Content-Type": "text/plain"}, b"It starts.\x1b[2J",
         "the server answered 503 (Service Unavailable). It says: It starts.\\x1b[2J The autoencoder of this pipeline "
         "is behind that address."),
    ],
)  # fmt: skip
def test_answers_of_another_form_are_refused(
    vae: Any, canned: str, status: int, headers: dict[str, str], content: bytes, text: str
) -> None:
    Canned.status, Canned.headers_sent, Canned.content = status, headers, content
    with pytest.raises(RemoteError) as caught:
        RemoteAutoencoder(canned, like=vae).decode(noise(1, vae.latent_channels, 2, 2))
    assert str(caught.value) == f"{canned}: {text}"


def test_a_token_is_sent_and_shown_nowhere(vae: Any, canned: str) -> None:
    Canned.status, Canned.headers_sent, Canned.content = 200, FINE, NUMBERS
    remote = RemoteAutoencoder(canned, like=vae, token="secret")
    remote.decode(noise(1, vae.latent_channels, 2, 2))
    assert Canned.seen[-1] == "Bearer secret"
    assert "secret" not in f"{remote!r} {remote.to_config()}"


def test_a_server_that_is_away_is_named(vae: Any) -> None:
    with pytest.raises(RemoteError, match=r"^http://127\.0\.0\.1:9/decode: cannot be reached \("):
        RemoteAutoencoder("http://127.0.0.1:9/decode", like=vae).decode(noise(1, vae.latent_channels, 2, 2))


@pytest.mark.parametrize(
    ("address", "more", "text"),
    [
        ("file:///etc/passwd", {}, "Needs an address that begins with http:// or https://, got 'file:///etc/passwd'."),
        ("http://me:secret@127.0.0.1/", {},
         "An address has a name or password in it, which would be shown in errors. Pass token=."),
        ("http://127.0.0.1/", {"dtype": "float61"},
         "RemoteAutoencoder: dtype is 'float61'. Did you mean 'float16'? There are: float16, bfloat16, float32."),
        ("http://127.0.0.1/", {"like": {"_class_name": "AutoencoderTiny"}},
         "RemoteAutoencoder needs the config of an AutoencoderKL, got one of AutoencoderTiny."),
    ],
)  # fmt: skip
def test_unfit_settings_are_refused(vae: Any, address: str, more: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RemoteAutoencoder(address, **{"like": vae, **more})
    assert str(caught.value) == text


def test_what_it_cannot_do_is_refused(vae: Any, pipe: Graph, tmp_path: Path) -> None:
    remote = RemoteAutoencoder("http://127.0.0.1/", like=vae)
    with pytest.raises(ConfigError, match=r"has no address that encodes pictures\. Pass encoder=\."):
        remote.moments(noise(1, 3, 8, 8))
    with pytest.raises(ConfigError, match="vae is a RemoteAutoencoder, which another program computes"):
        pipe.bind(vae=remote).optimize("openvino", components="vae")
    with pytest.raises(SaveError, match="has no weights to save"):
        remote.save_pretrained(tmp_path)


# ------------------------------------------------------------------------------------------------ the service's errors
async def parts(*content: bytes) -> AsyncIterator[bytes]:
    for part in content:
        yield part


def asked(service: AutoencoderService, task: str, *content: bytes, **query: Any) -> Reply:
    pairs = [(name, str(v)) for name, value in query.items() for v in (value if isinstance(value, list) else [value])]
    return asyncio.run(service.answer(task, parts(*content), pairs))


@pytest.mark.parametrize(
    ("task", "query", "content", "status", "text"),
    [
        ("train", {}, [], 404, "There is no task 'train'. There are: decode, encode."),
        ("decode", {}, [], 400, "Needs shape= with four sizes of which the second is 8, got []."),
        ("decode", {"shape": [1, 3, 2, 2]}, [], 400,
         "Needs shape= with four sizes of which the second is 8, got [1, 3, 2, 2]."),
        ("decode", {"shape": [1, 8, "x", 2]}, [], 400,
         "Needs shape= with four sizes of which the second is 8, got []."),
        ("decode", {"shape": [9**9, 8, 9**9, 9**9]}, [], 413,
         "The request is for "),
        ("decode", {"shape": [1, 8, 2, 2], "dtype": "uint8"}, [], 400, "Needs dtype=float32, float16 or bfloat16."),
        ("decode", {"shape": [1, 8, 2, 2], "dtype": "float16"}, [b"abc"], 400,
         "The content has 3 bytes, and shape and dtype need 64."),
        ("decode", {"shape": [1, 8, 2, 2], "dtype": "float16"}, [bytes(60), bytes(60), bytes(60)], 413,
         "The content has more than the 64 bytes that are needed."),
        ("decode", {"shape": [1, 8, 2, 2], "dtype": "float16"}, [b"\xff" * 64], 400, "The tensor has NaN or infinity."),
        ("decode", {"shape": [1, 8, 2, 2], "dtype": "float16", "scaling_factor": "x"}, [bytes(64)], 400,
         "scaling_factor needs a number, got 'x'."),
        ("decode", {"shape": [2, 8, 2, 2], "dtype": "float16"}, [bytes(128)], 400,
         "output_type=pil needs one picture and image_format=jpg or png. Use output_type=pt."),
        ("encode", {"shape": [1, 3, 9, 8], "dtype": "float16"}, [bytes(432)], 400,
         "Needs a height and width in multiples of 8, got [9, 8]."),
        ("encode", {}, [b"no picture"], 400, "the open file: is no picture that can be read."),
    ],
)  # fmt: skip
def test_requests_of_another_form_are_refused(
    vae: Any, task: str, query: dict[str, Any], content: list[bytes], status: int, text: str
) -> None:
    reply = asked(AutoencoderService(vae), task, *content, **query)
    assert reply.status == status
    assert reply.content.decode().startswith(text)
