"""IP-Adapters of U-Nets: image prompts for Stable Diffusion 1.5 and SDXL."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, cast, runtime_checkable

from torch import Tensor, nn

from ...graph.errors import UnfitValue
from .base import Model
from .config import Channels, Config, Layers, Width
from .image_attention import HeldTokens, ImageBranch, LayerImages, with_images, with_low_rank
from .image_projectors import FacePerceiver, FaceProjector, FullProjector, LinearProjector, Perceiver
from .image_scales import scales_of
from .views import Replacement

Projector = Literal["linear", "full", "perceiver", "face", "face_perceiver"]
"""The kind of projector: of IP-Adapter, Full Face, Plus and Plus Face, FaceID and Portrait, FaceID Plus."""
Reads = Literal["image_embeds", "hidden_states", ""]
"""The output of the image encoder that is read: the projected embedding, the last hidden states but one, or none."""
Negative = Literal["zero features", "zero pixels", "black picture"]
"""The features of negative passes: zeros, those of pixels that are 0 after normalization, or of a black picture."""


class ImagePromptAdapterConfig(Config):
    """The sizes of a file, which `load_component` reads from its tensors. No config is published.

    projector: see `Projector`. image_width: of the image encoder's features. face_width: of a face embedding. tokens:
    of one image. token_width: of the prompt's tokens. inner_width: between the two layers of a projector, or of a
    perceiver's tokens. layers, heads: of a perceiver. channels: of each attention to the prompt, in the order
    of the file. lora_rank: of the LoRA that FaceID files have; 0 without one. shortcut: whether the projected face is
    added to the perceiver's output: FaceID Plus v2, whose files have the tensors of v1.
    """

    projector: Projector = "linear"
    image_width: Width = 1024
    face_width: Width = 512
    tokens: Width = 4
    token_width: Width = 768
    inner_width: Width = 1024
    layers: Layers = 4
    heads: Width = 12
    channels: tuple[Width, ...] = ()
    lora_rank: Channels = 0
    shortcut: bool = False

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield keys that need another projector, each with the error."""
        if self.shortcut and self.projector != "face_perceiver":
            yield "shortcut", f'needs projector "face_perceiver", got "{self.projector}".'
        if self.lora_rank and not self.projector.startswith("face"):
            yield "lora_rank", f'needs a projector of faces, got "{self.projector}".'


@runtime_checkable
class NumbersAttention(Protocol):
    """A denoiser whose attention has the numbers of IP-Adapter's files."""

    def numbered_attention(self) -> list[str]:
        """Return the paths of all attention by number. Those with odd numbers attend to the prompt."""
        ...


class ImagePromptAdapter(Model[ImagePromptAdapterConfig]):
    """Turns images into tokens, and into keys and values for a U-Net's attention to the prompt (Ye et al. 2023).

    Parameter names are published: `image_proj` is the projector, and `ip_adapter` has the matrices of each attention by
    its number.
    """

    config_class = ImagePromptAdapterConfig
    depends_on_time: ClassVar[bool] = False
    """Whether `layers` differs from step to step."""

    def build(self, config: ImagePromptAdapterConfig) -> None:
        """Make the projector and the matrices."""
        self.image_proj = _projector(config)
        self.ip_adapter = nn.ModuleDict()
        for number in range(2 * len(config.channels)):
            channels, to_prompt = config.channels[number // 2], number % 2 == 1
            if to_prompt or config.lora_rank:
                width = config.token_width if to_prompt else channels
                self.ip_adapter[str(number)] = _Layer(channels, width, config, to_prompt=to_prompt)

    @property
    def reads(self) -> Reads:
        """The output of the image encoder that it reads."""
        kind = self.config.projector
        return "image_embeds" if kind == "linear" else "" if kind == "face" else "hidden_states"

    @property
    def negative(self) -> Negative:
        """The features of negative passes."""
        return "zero pixels" if self.reads == "hidden_states" else "zero features"

    @property
    def reads_faces(self) -> bool:
        """Whether it reads the embedding of a face."""
        return self.config.projector in ("face", "face_perceiver")

    def project(self, features: Tensor | None, faces: Tensor | None = None) -> Tensor:
        """Turn the features (images, …, image_width) and faces (images, face_width) into (images, tokens, token_width).

        Raises:
            UnfitValue: features of another width, of another image encoder.
        """
        given = [(features, "image_width", bool(self.reads)), (faces, "face_width", self.reads_faces)]
        read: list[Tensor] = []
        for value, key, needed in given:
            if needed:
                assert value is not None  # the block refuses it
                width = getattr(self.config, key)
                if value.shape[-1] != width:
                    what = "a face" if key == "face_width" else f"the {self.reads} of the image encoder"
                    raise UnfitValue(
                        f"The image prompt adapter needs {width} numbers ({key}) of {what}, got {value.shape[-1]}. "
                        f"Pass {'embeddings of the right kind' if key == 'face_width' else 'its own image encoder'}."
                    )
                read.append(value.to(self.device, self.dtype))
        return self.image_proj(*read)

    def layers(self, tokens: Tensor, time: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return keys and values (rows, tokens, channels) of tokens (rows, tokens, width), for each attention."""
        made: list[Tensor] = []
        for layer in self._to_prompt():
            made += [layer.to_k_ip(tokens), layer.to_v_ip(tokens)]
        return tuple(made)

    def replacements(self, model: nn.Module, branch: ImageBranch, held: HeldTokens) -> Mapping[str, Replacement]:
        """Return attention to the prompt that also attends to the tokens in `held`, for the paths of a U-Net.

        Raises:
            UnfitValue: a U-Net with other attention, or a scale for blocks that it does not have.
        """
        paths = self.attention_of(model)
        scales = scales_of(branch.scale, paths[1::2])
        return self._low_rank(paths) | {
            path: with_images(LayerImages(held, 2 * index, scales[path], branch.mask))
            for index, path in enumerate(paths[1::2])
            if scales[path]
        }

    def _low_rank(self, paths: Sequence[str]) -> dict[str, Replacement]:
        """The LoRA of the file, for the layers of all attention. Its strength is 1, whatever the scale."""
        found: dict[str, Replacement] = {}
        for number, path in enumerate(paths if self.config.lora_rank else ()):
            for name, layer in (("to_q", "to_q"), ("to_k", "to_k"), ("to_v", "to_v"), ("to_out", "to_out.0")):
                matrices = self.ip_adapter.get_submodule(f"{number}.{name}_lora")
                assert isinstance(matrices, _LowRank)
                found[f"{path}.{layer}"] = with_low_rank(matrices.down.weight, matrices.up.weight)
        return found

    def attention_of(self, model: nn.Module) -> list[str]:
        """The paths of all attention of a U-Net by number. UnfitValue where this adapter is for another."""
        if not isinstance(model, NumbersAttention):
            raise UnfitValue(f"This image prompt adapter is for a U-Net, got {type(model).__name__}. Use another file.")
        paths = model.numbered_attention()
        own = tuple(int(cast("Any", model.get_submodule(path)).to_q.out_features) for path in paths[1::2])
        if own != self.config.channels:
            raise UnfitValue(
                f"The image prompt adapter is for {_shown(self.config.channels)}, and the U-Net has {_shown(own)}. "
                "Use an adapter of this family."
            )
        return paths

    def _to_prompt(self) -> Iterator["_Layer"]:
        for number in range(1, 2 * len(self.config.channels), 2):
            layer = self.ip_adapter[str(number)]
            assert isinstance(layer, _Layer)
            yield layer


def _shown(channels: tuple[int, ...]) -> str:
    widths = sorted(set(channels))
    return f"{len(channels)} attentions to the prompt with {', '.join(map(str, widths))} channels"


class _Layer(nn.Module):
    """The matrices of one attention of the U-Net."""

    def __init__(self, channels: int, width: int, config: ImagePromptAdapterConfig, *, to_prompt: bool) -> None:
        super().__init__()
        if to_prompt:
            self.to_k_ip = nn.Linear(width, channels, bias=False)
            self.to_v_ip = nn.Linear(width, channels, bias=False)
        if rank := config.lora_rank:
            self.to_q_lora = _LowRank(channels, channels, rank)
            self.to_k_lora = _LowRank(width, channels, rank)
            self.to_v_lora = _LowRank(width, channels, rank)
            self.to_out_lora = _LowRank(channels, channels, rank)


class _LowRank(nn.Module):
    """The two matrices of a LoRA. They are applied to the U-Net's layer as those of an adapter."""

    def __init__(self, width: int, channels: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, channels, bias=False)


def _projector(config: ImagePromptAdapterConfig) -> nn.Module:
    match config.projector:
        case "linear":
            return LinearProjector(config.image_width, config.token_width, config.tokens)
        case "full":
            return FullProjector(config.image_width, config.inner_width, config.token_width)
        case "perceiver":
            shape = config.image_width, config.inner_width, config.token_width
            return Perceiver(*shape, layers=config.layers, heads=config.heads, tokens=config.tokens)
        case "face":
            return FaceProjector(config.face_width, config.inner_width, config.token_width, config.tokens)
        case "face_perceiver":
            return FacePerceiver(
                (config.face_width, config.inner_width, config.image_width, config.token_width),
                tokens=config.tokens, layers=config.layers, heads=config.heads, shortcut=config.shortcut,
            )  # fmt: skip
