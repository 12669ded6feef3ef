"""Models of Flux and SD 3, tiny but of the proportions that single files are read by, so that one needs no config."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sfumato as sf
from sfumato.components.loading.single_file.writing import write_checkpoint
from sfumato.components.models.t5 import T5EncoderModel
from sfumato.components.quantization.gguf.kinds import BY_NAME
from sfumato.components.quantization.gguf.packed import Packed

VOCABULARY, SENTINELS = 49408, 32128  # of CLIP, and of T5 with its sentinels and the rows that nothing reads
SCALES = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}
"""Where the blocks that no package writes have their scales."""
WIDE = 256
"""A row of so many numbers is one block of the k-quants."""


def flux_models() -> dict[str, nn.Module]:
    """A transformer of two blocks a kind, its autoencoder, CLIP and T5."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made: dict[str, nn.Module] = {
            "transformer": flux_transformer(64),
            "vae": _vae(scaling_factor=0.3611, shift_factor=0.1159),
            "text_encoder": sf.models.CLIPTextModel(**_clip(64)),
            "text_encoder_2": _t5(),
        }
        return {name: _drawn(model) for name, model in made.items()}


def flux_transformer(in_channels: int) -> nn.Module:
    """A transformer of two blocks a kind: 64 channels of latents, and more of pictures beside them."""
    return sf.models.FluxTransformer2DModel(
        num_layers=2, num_single_layers=2, num_attention_heads=2, attention_head_dim=128, in_channels=in_channels,
        out_channels=64, joint_attention_dim=WIDE, pooled_projection_dim=64, guidance_embeds=True,
        axes_dims_rope=(16, 56, 56),
    )  # fmt: skip


def sd3_models() -> dict[str, nn.Module]:
    """A transformer of two blocks, its autoencoder, both CLIPs and T5."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made: dict[str, nn.Module] = {
            "transformer": sf.models.SD3Transformer2DModel(
                num_layers=2, num_attention_heads=4, attention_head_dim=64, joint_attention_dim=WIDE, in_channels=16,
                out_channels=16, caption_projection_dim=256, pooled_projection_dim=192, sample_size=16,
                pos_embed_max_size=16, qk_norm="rms_norm",
            ),
            "vae": _vae(scaling_factor=1.5305, shift_factor=0.0609),
            "text_encoder": sf.models.CLIPTextModelWithProjection(**_clip(64)),
            "text_encoder_2": sf.models.CLIPTextModelWithProjection(**_clip(128)),
            "text_encoder_3": _t5(),
        }  # fmt: skip
        return {name: _drawn(model) for name, model in made.items()}


@pytest.fixture(scope="session")
def whole_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A whole checkpoint of a family ("flux", "sd3") in one file of original layout, that loads without a config."""

    @cache
    def make(family: str) -> Path:
        models: dict[str, Any] = {"flux": flux_models, "sd3": sd3_models}[family]()
        return write_checkpoint(tmp_path_factory.mktemp("whole") / f"{family}.safetensors", family, models)

    return make


def in_blocks(gguf: Any, kind: str, tensor: Tensor) -> Packed:
    """A matrix in a type of GGUF: as its package writes it, else random blocks whose numbers spread as these do."""
    found, shape = BY_NAME[kind], tuple(tensor.shape)
    try:
        data = gguf.quantize(tensor.numpy(), gguf.GGMLQuantizationType[kind])
        return Packed(found, torch.from_numpy(data).view(-1, found.bytes), shape)
    except NotImplementedError:
        made = torch.Generator().manual_seed(tensor.numel())
        data = torch.randint(0, 256, (tensor.numel() // found.values, found.bytes), dtype=torch.uint8, generator=made)
    packed = Packed(found, data, shape)
    scale = 0.01
    for _ in range(2):  # what one scale makes says which is wanted
        for place in SCALES[kind]:
            data[:, place : place + 2] = torch.tensor([scale], dtype=torch.float16).view(torch.uint8)
        scale *= float(tensor.std() / packed.dequantize().std())
    return packed


def _vae(**factors: float) -> nn.Module:
    return sf.models.AutoencoderKL(
        block_out_channels=(32,) * 4, latent_channels=16, layers_per_block=1, use_quant_conv=False,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        use_post_quant_conv=False, **factors,
    )  # fmt: skip


def _clip(width: int) -> dict[str, int]:
    return {
        "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2, "projection_dim": width,
        "num_attention_heads": width // 64, "vocab_size": VOCABULARY,
    }  # fmt: skip


def _t5() -> nn.Module:
    return T5EncoderModel(
        d_model=WIDE, d_kv=64, d_ff=512, num_layers=2, num_heads=4, vocab_size=SENTINELS,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip


def _drawn(model: nn.Module) -> nn.Module:
    """Weights by which both the prompt and the norms matter in what comes out."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.6 * parameter[0].numel() ** -0.5)
            elif name.endswith("bias"):
                nn.init.normal_(parameter, std=0.02)
    return model.eval()
