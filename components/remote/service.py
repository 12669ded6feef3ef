"""The other side of a remote autoencoder: what answers a request, for any web framework."""

import asyncio
import io
from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ...graph.errors import SfumatoError, UnfitValue
from ...graph.limits import limit
from ...registry.log import LOG
from ..models.autoencoder import Autoencoder
from ..picture_files import read_picture_file
from .autoencoder import MOMENTS
from .wire import DTYPES, MEDIA_TYPE, byte_count, from_bytes, name_of, to_bytes

Task = Literal["decode", "encode"]


@dataclass(frozen=True)
class Reply:
    """The answer to a request. status: of HTTP."""

    content: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class _Refused(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class AutoencoderService:
    """Answers the requests of `sf.RemoteAutoencoder`, and of diffusers' `remote_decode` and `remote_encode`.

    Sizes are checked before the content is read, and no more than they state is read. Requests are computed one after
    another, in a thread. It has no users and no encryption: put it behind a server that has.

    Args:
        vae: the autoencoder.
        pixels: the most pixels of all pictures of a request.
    """

    def __init__(self, vae: Autoencoder[Any], pixels: int = 2**24) -> None:
        self.vae, self.pixels = vae, pixels
        self._one_at_a_time = asyncio.Lock()

    async def answer(self, task: str, content: AsyncIterable[bytes], query: Sequence[tuple[str, str]]) -> Reply:
        """Answer one request.

        Args:
            task: "decode" or "encode".
            content: the body of the request, in parts.
            query: the parameters of its address. Several of one name are a list.
        """
        values: dict[str, list[str]] = {}
        for name, value in query:
            values.setdefault(name, []).append(value)
        try:
            if task == "decode":
                sent = await self._tensor(content, values, self.vae.latent_channels, self.vae.scale_factor)
                work = self._decoded
            elif task == "encode":
                sent = await self._picture(content, values)
                work = self._encoded
            else:
                raise _Refused(404, f"There is no task {task[:20]!r}. There are: decode, encode.")
            async with self._one_at_a_time:
                return await asyncio.to_thread(work, sent, values)
        except _Refused as refused:
            return Reply(str(refused).encode(), refused.status, {"content-type": "text/plain; charset=utf-8"})
        except SfumatoError as error:
            return Reply(str(error).encode(), 400, {"content-type": "text/plain; charset=utf-8"})
        except (RuntimeError, MemoryError):
            LOG.exception("A request to %s failed.", task)
            return Reply(b"The request failed.", 500, {"content-type": "text/plain; charset=utf-8"})

    # ------------------------------------------------------------------------------------------------ requests
    async def _tensor(
        self, content: AsyncIterable[bytes], values: Mapping[str, list[str]], channels: int, factor: int
    ) -> Tensor:  # fmt: skip
        """The tensor of a request. factor: pixels a side of one of its numbers."""
        try:
            shape = [int(size) for size in values.get("shape", [])[:5]]
        except ValueError:
            shape = []
        if len(shape) != 4 or shape[1] != channels or min(shape) < 1:
            raise _Refused(400, f"Needs shape= with four sizes of which the second is {channels}, got {shape}.")
        if (got := shape[0] * shape[2] * shape[3] * factor**2) > self.pixels:
            raise _Refused(413, f"The request is for {got:,} pixels, and at most {self.pixels:,} are computed.")
        dtype = DTYPES.get(values.get("dtype", [""])[0])
        if dtype is None or not dtype.is_floating_point:
            raise _Refused(400, "Needs dtype=float32, float16 or bfloat16.")
        needed = byte_count(shape, dtype)
        data = await _read(content, needed)
        if len(data) != needed:
            raise _Refused(400, f"The content has {len(data):,} bytes, and shape and dtype need {needed:,}.")
        t = from_bytes(data, shape, dtype)
        if not bool(t.isfinite().all()):
            raise _Refused(400, "The tensor has NaN or infinity.")
        return t

    async def _picture(self, content: AsyncIterable[bytes], values: Mapping[str, list[str]]) -> Tensor:
        """Pixels in [-1, 1] of a request: a tensor, or a picture file."""
        if "shape" in values:
            pixels = await self._tensor(content, values, 3, 1)
        else:
            data = await _read(content, limit("picture_bytes"))
            pixels = await asyncio.to_thread(self._read_picture, data)
        factor = self.vae.scale_factor
        if pixels.shape[2] % factor or pixels.shape[3] % factor:
            raise _Refused(400, f"Needs a height and width in multiples of {factor}, got {list(pixels.shape[2:])}.")
        return pixels

    def _read_picture(self, data: bytes) -> Tensor:
        import numpy as np

        picture = read_picture_file(io.BytesIO(data)).convert("RGB")
        if picture.width * picture.height > self.pixels:
            raise _Refused(413, f"The picture has more than {self.pixels:,} pixels.")
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1  # 1 c h w

    # ------------------------------------------------------------------------------------------------ answers
    @torch.no_grad()
    def _decoded(self, sent: Tensor, values: Mapping[str, list[str]]) -> Reply:
        factor, shift = _number(values, "scaling_factor"), _number(values, "shift_factor")
        z = sent.to(self.vae.device, self.vae.dtype)
        if values.get("do_scaling", [""])[0] == "True" and factor is None:  # as diffusers did first
            z = self.vae.unscale(z)
        elif factor is not None:
            z = z / factor + (shift or 0.0)
        pixels = self.vae.decode(z)
        if values.get("output_type", ["pil"])[0] == "pt":
            if values.get("partial_postprocess", [""])[0] == "True":
                return _tensor_reply((_to_ones(pixels) * 255).round().byte().permute(0, 2, 3, 1))
            return _tensor_reply(pixels if sent.dtype == torch.float32 else pixels.to(sent.dtype))
        return _picture_reply(_to_ones(pixels), values.get("image_format", ["jpg"])[0])

    @torch.no_grad()
    def _encoded(self, sent: Tensor, values: Mapping[str, list[str]]) -> Reply:
        factor, shift = _number(values, "scaling_factor"), _number(values, "shift_factor")
        moments = self.vae.moments(sent.to(self.vae.device, self.vae.dtype))
        if values.get(MOMENTS, [""])[0] == "True" and moments.shape[1] == 2 * self.vae.latent_channels:
            return _tensor_reply(moments)
        z = self.vae.distribution(moments).mean
        return _tensor_reply(z if factor is None else (z - (shift or 0.0)) * factor)


async def _read(content: AsyncIterable[bytes], most: int) -> bytes:
    data = bytearray()
    async for part in content:
        data += part
        if len(data) > most:
            raise _Refused(413, f"The content has more than the {most:,} bytes that are needed.")
    return bytes(data)


def _number(values: Mapping[str, list[str]], name: str) -> float | None:
    if (text := values.get(name, [None])[0]) is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1e-6 <= abs(value) <= 1e6 and not (value == 0 and name == "shift_factor"):
        raise UnfitValue(f"{name} needs a number, got {text[:20]!r}.")
    return value


def _to_ones(pixels: Tensor) -> Tensor:
    return pixels.float().add(1).div(2).clamp(0, 1).nan_to_num()


def _tensor_reply(t: Tensor) -> Reply:
    headers = {"content-type": MEDIA_TYPE, "shape": str(list(t.shape)), "dtype": name_of(t.dtype)}
    return Reply(to_bytes(t), 200, headers)


def _picture_reply(pixels: Tensor, form: str) -> Reply:
    from PIL import Image

    if len(pixels) != 1 or form not in ("jpg", "png"):
        raise UnfitValue("output_type=pil needs one picture and image_format=jpg or png. Use output_type=pt.")
    picture = Image.fromarray((pixels[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy())
    kind, file = {"jpg": "jpeg", "png": "png"}[form], io.BytesIO()
    picture.save(file, kind, **({"quality": 95} if kind == "jpeg" else {}))
    return Reply(file.getvalue(), 200, {"content-type": f"image/{kind}"})
