"""The settings of each family: values in the configs and the index of a checkpoint that decide its graphs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast, get_type_hints

from ..components.adapters.over import OverComponent
from ..components.handle import Handle
from ..components.models.plain_values import plain_values
from ..components.spec import ComponentSpec
from ..graph import ConfigError
from ..graph.validate import Unfit, fitted
from ..registry import did_you_mean

_LEVELS = 8
"""No autoencoder has more levels: a latent would be wider than 128 pixels."""
Components = Mapping[str, Any]  # Any: objects, handles and specs of any class

IGNORED_KEYS: Mapping[str, str] = {
    "requires_safety_checker": "there is no safety checker in sfumato",
    "is_distilled": "the config of the denoiser says it",
}
"""Plain keys of published indexes that no graph depends on, with the reason."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a family's graphs. The defaults are those of the family's first checkpoint."""

    index_keys: ClassVar[frozenset[str]] = frozenset()
    """The settings that an index file may have as plain keys; the others are read from the configs of components."""

    def read(self, components: Components) -> Self:
        """These settings with the values of components' configs. Reads config files, no weights."""
        raise NotImplementedError

    def with_index(self, keys: Mapping[str, Any]) -> Self:  # Any: JSON values
        """These settings with the plain keys of an index file.

        Raises:
            ConfigError: a key that the family does not know, or a value of another type.
        """
        for text in self.unknown_keys(keys).values():
            raise ConfigError(text)
        hints, found = get_type_hints(type(self)), dict[str, Any]()
        for key, value in keys.items():
            if key in IGNORED_KEYS:
                continue
            try:
                found[key] = fitted(value, hints[key])
            except Unfit as error:
                raise ConfigError(f"{type(self).__name__}.{key} {error}, got {value!r}.") from None
        return replace(self, **found)

    def unserved(self, task: str) -> str:
        """Why the denoiser of these settings cannot draw a task; "" where it can."""
        return ""

    def unknown_keys(self, keys: Mapping[str, Any]) -> Mapping[str, str]:  # Any: JSON values
        """Those of the plain keys of an index that the family does not know, each with a text that names near ones."""
        known = [*sorted(self.index_keys), *IGNORED_KEYS]
        return {
            key: f"The index has the key {key!r}, which {type(self).__name__} does not know. {did_you_mean(key, known)}"
            for key in keys
            if key not in known
        }


@dataclass(frozen=True, kw_only=True)
class SDSettings(Settings):
    """Stable Diffusion 1 and 2.

    size: pixels a side of the picture. channels: of its latents. factor: pixels a side of a latent. unet_channels: of
    the U-Net's input; more than `channels` where it was trained to inpaint. embeds_guidance: the U-Net was distilled to
    read the guidance scale.
    """

    size: int = 512
    channels: int = 4
    factor: int = 8
    unet_channels: int = 4
    embeds_guidance: bool = False

    @property
    def reads_mask(self) -> bool:
        """Whether the U-Net reads the mask and the masked picture as channels."""
        return self.unet_channels == 2 * self.channels + 1

    def unserved(self, task: str) -> str:
        """See `Settings`. A U-Net that reads more than latents serves inpainting, or no task."""
        return _unserved("U-Net", self.unet_channels, self.channels, task, reads_mask=self.reads_mask)

    def read(self, components: Components) -> Self:
        """From the configs of the U-Net and the autoencoder."""
        return replace(self, **_read_unet(components))


@dataclass(frozen=True, kw_only=True)
class SDXLSettings(SDSettings):
    """SDXL and its refiner; see `SDSettings`.

    text_encoders: 2, or 1 for the refiner. size_ids: how many numbers of micro-conditioning the U-Net reads, 6, or 5
    where one is an aesthetic score; None where no config says it, and then `requires_aesthetics_score` decides.
    force_zeros_for_empty_prompt: no negative prompt is zeros, not "".
    """

    index_keys: ClassVar[frozenset[str]] = frozenset({"force_zeros_for_empty_prompt", "requires_aesthetics_score"})

    size: int = 1024
    text_encoders: int = 2
    size_ids: int | None = None
    force_zeros_for_empty_prompt: bool = True
    requires_aesthetics_score: bool = False

    @property
    def reads_score(self) -> bool:
        """Whether the U-Net reads an aesthetic score in place of the target size."""
        return self.size_ids == 5 or (self.size_ids is None and self.requires_aesthetics_score)

    def read(self, components: Components) -> Self:
        """From the configs of the U-Net, the autoencoder and the second text encoder."""
        unet, text = (read_config(components.get(name)) for name in ("unet", "text_encoder_2"))
        found = _read_unet(components)
        if "text_encoder_2" in components and "text_encoder" not in components:
            # The refiner has one tower. Where the U-Net reads a wider prompt, the other one is missing.
            width, tower = unet.get("cross_attention_dim"), text.get("hidden_size")
            found["text_encoders"] = 2 if isinstance(width, int) and isinstance(tower, int) and width > tower else 1
        # One row of the U-Net's added embedding has the pooled prompt, and sinusoids of each number.
        width, waves, pooled = (
            unet.get("projection_class_embeddings_input_dim"),
            unet.get("addition_time_embed_dim"),
            text.get("projection_dim"),
        )
        if isinstance(width, int) and isinstance(waves, int) and isinstance(pooled, int):
            found["size_ids"] = (width - pooled) // waves
        return replace(self, **found)


@dataclass(frozen=True, kw_only=True)
class TransformerSettings(Settings):
    """The settings that families with a transformer share.

    size: pixels a side of the picture. channels: of its latents. factor: pixels a side of a latent. patch: latents a
    side of a token.
    """

    size: int = 1024
    channels: int = 16
    factor: int = 8
    patch: int = 2

    @property
    def multiple(self) -> int:
        """Pixels a side of a token."""
        return self.factor * self.patch


@dataclass(frozen=True, kw_only=True)
class SD3Settings(TransformerSettings):
    """Stable Diffusion 3 and 3.5; see `TransformerSettings`.

    t5: whether the third text encoder, T5, is used. token_width: of the conditioning's tokens.
    """

    t5: bool = True
    token_width: int = 4096

    def read(self, components: Components) -> Self:
        """From the configs of the transformer and the autoencoder. T5 is left out where it alone is not bound."""
        transformer, vae = (read_config(components.get(name)) for name in ("transformer", "vae"))
        factor = pixels_per_latent(vae)
        bound = {"text_encoder", "text_encoder_3"} & components.keys()
        return replace(
            self,
            factor=factor,
            size=number(transformer, "sample_size", 128) * factor,
            channels=number(vae, "latent_channels", 16),
            patch=number(transformer, "patch_size", 2),
            t5=not bound or components.get("text_encoder_3") is not None,
            token_width=number(transformer, "joint_attention_dim", 4096),
        )


@dataclass(frozen=True, kw_only=True)
class FluxSettings(TransformerSettings):
    """Flux.1; see `TransformerSettings`. No config says the size.

    embeds_guidance: the transformer was distilled to read the guidance scale. pooled_width: of the pooled prompt.
    reads_control, reads_mask: the transformer was trained to read a control picture, a mask, as channels.
    """

    embeds_guidance: bool = True
    pooled_width: int = 768
    reads_control: bool = False
    reads_mask: bool = False

    def unserved(self, task: str) -> str:
        """See `Settings`. Flux Fill reads a mask, Canny and Depth a control picture in its place."""
        if self.reads_control and task == "fill":
            return "The transformer reads a control picture and no mask. Use the task 'inpaint'."
        if not self.reads_mask or task in ("fill", "inpaint"):
            return ""
        return "The transformer reads a mask and the picture around it. Use the task 'fill' or 'inpaint'."

    def read(self, components: Components) -> Self:
        """From the configs of the transformer and the autoencoder."""
        transformer, vae = (read_config(components.get(name)) for name in ("transformer", "vae"))
        channels = number(vae, "latent_channels", 16)
        return replace(
            self,
            channels=channels,
            factor=pixels_per_latent(vae),
            embeds_guidance=transformer.get("guidance_embeds", not transformer),  # published default: false
            pooled_width=number(transformer, "pooled_projection_dim", 768),
            reads_control=transformer.get("in_channels") == 8 * channels,
            reads_mask=number(transformer, "in_channels", 0) > 8 * channels,
        )


@dataclass(frozen=True, kw_only=True)
class PixArtSettings(TransformerSettings):
    """PixArt-Sigma; see `TransformerSettings`. max_sequence_length: tokens that T5 reads of a prompt."""

    channels: int = 4
    max_sequence_length: int = 300

    def read(self, components: Components) -> Self:
        """From the configs of the transformer and the autoencoder."""
        transformer, vae = (read_config(components.get(name)) for name in ("transformer", "vae"))
        factor = pixels_per_latent(vae)
        return replace(
            self,
            factor=factor,
            size=number(transformer, "sample_size", 128) * factor,
            channels=number(transformer, "in_channels", 4),
            patch=number(transformer, "patch_size", 2),
        )


@dataclass(frozen=True, kw_only=True)
class PixArtAlphaSettings(PixArtSettings):
    """PixArt-Alpha, whose T5 reads fewer tokens; see `PixArtSettings`."""

    max_sequence_length: int = 120


def read_config(component: Any) -> Mapping[str, Any]:  # whatever is bound
    """The config of a component: of the object, or read from the files that its spec names; {} where there is none."""
    if isinstance(component, OverComponent):
        return plain_values(component.config)
    if isinstance(component, Handle):
        component = component.spec
    if isinstance(component, ComponentSpec):
        return plain_values(component.read_config())
    return cast(Mapping[str, Any], component.to_config()) if hasattr(component, "to_config") else {}


def number(config: Mapping[str, Any], key: str, default: int) -> int:  # Any: JSON values
    """A whole number of a config, or the default where it has none."""
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def pixels_per_latent(vae: Mapping[str, Any]) -> int:  # Any: JSON values
    """Pixels a side of a latent by an autoencoder's config; 8 where it says nothing."""
    levels = vae.get("block_out_channels")
    return 2 ** (len(levels) - 1) if isinstance(levels, list | tuple) and len(levels) <= _LEVELS else 8


def _unserved(model: str, reads: int, channels: int, task: str, *, reads_mask: bool) -> str:
    """Why a denoiser that reads so many channels cannot draw a task from latents of `channels`; "" where it can."""
    if reads == channels or (reads_mask and task == "inpaint"):
        return ""
    if reads_mask:
        return (
            f"The {model} reads {reads} channels: latents, a mask, and the picture around the mask. Use the task "
            "'inpaint', the only one that it serves."
        )
    return (
        f"The {model} reads {reads} channels, and the latents have {channels}. No task adds the others. Pass a graph "
        "with a block that adds them: sf.load(…, graph=…)."
    )


def _read_unet(components: Components) -> dict[str, Any]:  # settings by name
    """The settings that `SDSettings` reads from the configs of the U-Net and the autoencoder."""
    unet, vae = (read_config(components.get(name)) for name in ("unet", "vae"))
    factor = pixels_per_latent(vae)
    channels = number(vae, "latent_channels", number(unet, "out_channels", 4))
    found = {
        "factor": factor,
        "channels": channels,
        "unet_channels": number(unet, "in_channels", channels),
        "embeds_guidance": unet.get("time_cond_proj_dim") is not None,
    }
    size = unet.get("sample_size")
    return {**found, "size": size * factor} if isinstance(size, int) else found
