"""An autoencoder that another program computes, behind an address."""

from collections.abc import Mapping
from typing import Any, ClassVar, cast
from urllib.parse import urlsplit

import torch
from torch import Tensor

from ...graph.errors import ConfigError, RemoteError, SaveError
from ...graph.fields import Lazy
from ...graph.json_text import parse
from ...graph.space import LatentSpace
from ...registry import did_you_mean, printable
from ...registry.log import LOG
from ..models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from ..models.spaces import autoencoder_space
from ..models.vae import DiagonalGaussian
from ..storage.web import Answer, post
from .wire import DTYPES, MEDIA_TYPE, byte_count, from_bytes, name_of, to_bytes

MOMENTS = "moments"
"""The parameter of a request for means and log-variances. Servers that do not know it return drawn latents."""


class RemoteAutoencoder(AutoencoderKL):
    """An autoencoder behind an address, in place of one with weights: `pipe.bind(vae=sf.RemoteAutoencoder(…))`.

    Latents and pictures go to the server, so use one that you trust. It speaks the protocol of diffusers'
    `remote_decode` and `remote_encode`; `sf.remote.AutoencoderService` is the other side.

    Args:
        decoder: the address that decodes, http or https.
        encoder: the address that encodes; None for a pipeline that reads no pictures.
        like: the autoencoder whose latents it reads: a model, a handle (`pipe.bindings["vae"]`), or its config. No
            weights are read.
        dtype: of the numbers that are sent: "float32", "float16" or "bfloat16".
        seconds: the longest time for one answer.
        version: a name of yours for the model behind the addresses. With it a memo and batches keep the results of
            the model, so change it with the model.
        token: sent as `Authorization: Bearer …`. It is in no config and in no text.

    Raises:
        ConfigError: no address of the web, another dtype, or a config that is not that of an `AutoencoderKL`.
    """

    is_remote: ClassVar[bool] = True

    def __init__(
        self,
        decoder: str,
        encoder: str | None = None,
        *,
        like: Any,  # a model, a handle or a config
        dtype: str = "float32",
        seconds: float = 120.0,
        token: str | None = None,
        version: str = "",
    ) -> None:
        config = like.config if isinstance(like, Lazy) else like if isinstance(like, Mapping) else like.to_config()
        config = dict(cast("Mapping[str, Any]", config))
        if (name := config.pop("_class_name", "AutoencoderKL")) not in ("AutoencoderKL", type(self).__name__):
            raise ConfigError(f"RemoteAutoencoder needs the config of an AutoencoderKL, got one of {name}.")
        super().__init__(**{k: v for k, v in config.items() if not k.startswith("_")})
        floats = [known for known in DTYPES if known != "uint8"]
        if dtype not in floats:
            raise ConfigError(f"RemoteAutoencoder: dtype is {dtype!r}. {did_you_mean(dtype, floats)}")
        self.decoder_address = checked_address(decoder)
        self.encoder_address = None if encoder is None else checked_address(encoder)
        self._sent, self._seconds, self._token = DTYPES[dtype], seconds, token
        self.version = version
        self.eval()

    @property
    def no_content_key(self) -> str:
        """Why a memo does not keep its results; "" with a version."""
        return "" if self.version else "a model behind an address, which may become another one. Pass version="

    def build(self, config: AutoencoderKLConfig) -> None:
        """Make no layers."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the numbers that are sent."""
        return self._sent

    @property
    def space(self) -> LatentSpace | None:
        """The latent space of its config."""
        return autoencoder_space("AutoencoderKL", self.to_config())

    def decode(self, z: Tensor) -> Tensor:
        """Return pixels `b 3 (h s) (w s)`, about in [-1, 1], for latents `b c h w` in the model's own space.

        Raises:
            RemoteError: no answer, or one that is no tensor of this shape.
        """
        factor = self.scale_factor
        shape = (len(z), self.config.out_channels, z.shape[2] * factor, z.shape[3] * factor)
        if z.is_meta:
            return z.new_empty(shape)
        query = {"output_type": "pt", "partial_postprocess": False, "image_format": "png"}
        return self._sent_to(self.decoder_address, z, query, [shape])

    def moments(self, x: Tensor) -> Tensor:
        """Return means and log-variances `b (2 c) (h / s) (w / s)` for pixels `b 3 h w` in [-1, 1].

        Where the server draws latents itself, they are the means, and the variances are 0.

        Raises:
            ConfigError: no address that encodes.
            RemoteError: as `decode`.
        """
        if self.encoder_address is None:
            raise ConfigError("This RemoteAutoencoder has no address that encodes pictures. Pass encoder=.")
        factor, channels = self.scale_factor, self.latent_channels
        of_latents = (len(x), channels, x.shape[2] // factor, x.shape[3] // factor)
        whole = (of_latents[0], 2 * channels, *of_latents[2:])
        if x.is_meta:
            return x.new_empty(whole)
        made = self._sent_to(self.encoder_address, x, {MOMENTS: True}, [whole, of_latents])
        return made if made.shape[1] == 2 * channels else torch.cat([made, torch.full_like(made, -torch.inf)], dim=1)

    def distribution(self, moments: Tensor) -> DiagonalGaussian:
        """Return the distribution of latents; one without variance where the server has drawn them."""
        mean, logvar = moments.chunk(2, dim=1)
        return DiagonalGaussian(mean, None) if bool(logvar.isinf().all()) else super().distribution(moments)

    def _sent_to(
        self, address: str, t: Tensor, query: Mapping[str, Any], shapes: "list[tuple[int, ...]]"
    ) -> Tensor:  # fmt: skip
        """Send a tensor, and return the one that the server answers, of one of these shapes."""
        sent = t.to(self._sent)
        query = {**query, "shape": list(sent.shape), "dtype": name_of(sent.dtype)}
        headers = {"Content-Type": MEDIA_TYPE, "Accept": MEDIA_TYPE}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        most = max(byte_count(shape, torch.float32) for shape in shapes)
        try:
            answer = post(address, to_bytes(sent), query, headers, max_bytes=most, seconds=self._seconds)
        except OSError as error:
            raise RemoteError(f"{error} The autoencoder of this pipeline is behind that address.") from error
        return _tensor_of(answer, address, shapes).to(t.device, t.dtype)

    def save_pretrained(self, folder: Any, **more: Any) -> None:
        """Raise SaveError: its weights are in another program."""
        raise SaveError("A RemoteAutoencoder has no weights to save. Bind an autoencoder with weights first.")

    def extra_repr(self) -> str:
        """Show the addresses."""
        return ", ".join(text for text in (self.decoder_address, self.encoder_address) if text)


def checked_address(address: str) -> str:
    """An address of the web. ConfigError for any other text, and for one with a password."""
    try:
        parts = urlsplit(address)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        parts, fine = None, False
    if parts is None or not fine:
        raise ConfigError(f"Needs an address that begins with http:// or https://, got {printable(repr(address))}.")
    if parts.username or parts.password:
        raise ConfigError("An address has a name or password in it, which would be shown in errors. Pass token=.")
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        LOG.warning("%s is not encrypted: others in the network can read what is sent. Use https.", address)
    return address


def _tensor_of(answer: Answer, address: str, shapes: "list[tuple[int, ...]]") -> Tensor:
    """The tensor of an answer. RemoteError for anything else."""
    got = f"{address}: the answer is "
    text, dtype = answer.headers.get("shape", ""), answer.headers.get("dtype", "")
    if not text or not dtype:
        kind = printable(answer.headers.get("content-type", "unknown"))
        raise RemoteError(f"{got}no tensor, but of the type {kind}. Check that the address is that of an autoencoder.")
    try:
        found: Any = parse(text)
    except ValueError:
        found = None
    shown = " or ".join(str(list(shape)) for shape in shapes)
    shape = next((shape for shape in shapes if found == list(shape)), None)
    if shape is None:
        raise RemoteError(f"{got}a tensor of the shape {printable(text)[:80]}, and {shown} is needed. Check like=.")
    if dtype not in ("float16", "bfloat16", "float32"):
        raise RemoteError(f"{got}of the dtype {printable(dtype)[:40]}. It needs float16, bfloat16 or float32.")
    if len(answer.content) != (needed := byte_count(shape, DTYPES[dtype])):
        raise RemoteError(f"{got}{len(answer.content)} bytes, and {needed} are needed for {text} of {dtype}.")
    return from_bytes(answer.content, shape, DTYPES[dtype])
