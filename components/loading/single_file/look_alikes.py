"""Files whose tensors look like those of our families and belong to other models: their names, and advice."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from ...storage.tensors import Shape
from .parts import Kind, Part
from .sizes import Sizes


@dataclass(frozen=True)
class LookAlike:
    """A kind of file that is not read, recognised by pieces of the names of its tensors."""

    what: str
    has: tuple[str, ...]
    """Each is a piece of some name; `a|b` is one of the two. A leading "/" is the beginning of a name."""
    advice: str
    lacks: tuple[str, ...] = ()
    """None is a piece of a name."""
    instead_of: tuple[Kind, ...] = ()
    """The kinds of ours that it is mistaken for. Such models of the file are not read; others are."""
    not_beside: tuple[Kind, ...] = ()
    """Kinds of ours that have such names too. It is not looked for where one was found."""
    alone: bool = False
    """It is read as one component, and is no denoiser of a family."""


_NO_FAMILY = "No family of this library draws with it."
_ADAPTER = "It changes a model, and is none itself. Adapters of this kind are not read."
_LORA = "It changes a model, and is none itself. Load it with sf.load_adapter."
_EMBEDDING = "It is a word with vectors, and no model. Load it with sf.load_embedding."

LOOK_ALIKES: tuple[LookAlike, ...] = (
    # Adapters and small files
    LookAlike("a ControlNet-LLLite", ("lllite_",), _ADAPTER),
    LookAlike("a Control-LoRA", ("lora_controlnet",), "It is read together with a U-Net. Use a whole control net."),
    LookAlike("a LoRA or a relative of it",
              (".lora_down.|.lora_up.|.lora_A.|.lora_B.|.lora.down.|.lora.up.|.lokr_|.hada_w|.oft_blocks|.dora_scale|"
               ".oft_diag|.glora_|.a1.weight",), _LORA),
    LookAlike("InstantX's IP-Adapter of Flux", ("/image_proj.proj.0.", "/ip_adapter.0.to_k_ip."),
              "It is not read. Use XLabs' IP-Adapter of Flux."),
    LookAlike("an IP-Adapter", ("ip_adapter.|ip-adapter.|ip_adapter_|to_k_ip",),
              "Those of Stable Diffusion 1.5, SDXL, SD 3 (InstantX) and Flux (XLabs) are read.",
              not_beside=("ip_adapter", "flux_ip_adapter", "sd3_ip_adapter")),
    LookAlike("a motion module of AnimateDiff", ("motion_modules.|temporal_transformer.",), _ADAPTER),
    LookAlike("a textual inversion", ("/emb_params|string_to_param|<",), _EMBEDDING, lacks=(".weight",)),
    LookAlike("a textual inversion of SDXL", ("/clip_g", "/clip_l"), _EMBEDDING, lacks=(".",)),
    LookAlike("a hypernetwork", ("/320.|/640.|/768.|/1024.|/1280.", ".linear.|.linear1.|.linear2.|.0.weight"),
              _ADAPTER, lacks=("blocks", "layers")),
    LookAlike("an upscaler of the ESRGAN kind",
              ("RRDB_trunk.|RDB1.|.rdb1.|model.1.sub.|layers.0.residual_group.|body.1.rdb",),
              "It enlarges finished pictures. Run it in a block of your own."),
    LookAlike("a tiny autoencoder's encoder or decoder alone", ("/0.weight|/1.weight", "conv.0.weight"),
              "Put the file of the other half beside it: the two names differ only in 'encoder' and 'decoder'.",
              lacks=("blocks.", "layers.", "encoder")),
    LookAlike("a style adapter of T2I-Adapter", ("style_embedding", "transformer_layes."), _ADAPTER),
    LookAlike("a T2I-Adapter whose blocks skip by a convolution", ("body.0.skep.",),
              "No published pipeline draws with it. Use an adapter of the repo TencentARC/T2I-Adapter."),
    # Denoisers of other families
    LookAlike("XLabs' control net for Flux", ("double_blocks.", "input_hint_block.|controlnet_blocks."),
              "Use the version in diffusers' layout, such as the repos whose names end with -diffusers."),
    LookAlike("Chroma", ("distilled_guidance_layer.",), _NO_FAMILY),
    LookAlike("FLUX.2", ("double_stream_modulation_img.",), _NO_FAMILY),
    LookAlike("HiDream", ("double_stream_blocks.", "caption_projection."), _NO_FAMILY),
    LookAlike("HunyuanVideo", ("txt_in.individual_token_refiner.|double_blocks.0.img_attn_qkv.",), _NO_FAMILY),
    LookAlike("Z-Image", ("cap_pad_token|all_final_layer.|all_x_embedder.",), _NO_FAMILY),
    LookAlike("Lumina", ("cap_embedder.",), _NO_FAMILY),
    LookAlike("Wan", ("blocks.0.cross_attn.|blocks.0.attn2.", "patch_embedding.",
                      "time_projection.|condition_embedder"), _NO_FAMILY),
    LookAlike("Qwen-Image", ("transformer_blocks.0.img_mod.",), _NO_FAMILY),
    LookAlike("LTX-Video", ("patchify_proj.",), _NO_FAMILY),
    LookAlike("CogVideoX", ("patch_embed.text_proj.",), _NO_FAMILY),
    LookAlike("AuraFlow", ("double_layers.0.attn.w1q|joint_transformer_blocks.|register_tokens",), _NO_FAMILY),
    LookAlike("Sana", ("attention_y_norm.|caption_norm.weight",), _NO_FAMILY),
    LookAlike("Hunyuan-DiT", ("mlp_t5.|text_embedding_padding",), _NO_FAMILY),
    LookAlike("PixArt in one file", ("adaln_single.|t_block.1.", "caption_projection.|y_embedder.y_embedding"),
              "Pass its folder or repo, which has a model_index.json."),
    LookAlike("Stable Cascade", ("clip_txt_pooled_mapper.|effnet_mapper.",), _NO_FAMILY),
    LookAlike("Kandinsky or Kolors, whose U-Net projects its prompt", ("encoder_hid_proj.",), _NO_FAMILY,
              instead_of=("unet",)),
    LookAlike("Stable Video Diffusion", ("time_stack.", "time_mixer.|mix_factor", "attn1."), _NO_FAMILY,
              instead_of=("unet",)),
    LookAlike("Stable unCLIP", ("noise_augmentor.",), _NO_FAMILY, instead_of=("unet",)),
    LookAlike("a control net for SD 3 in the layout of its authors",
              ("controlnet_blocks.", "joint_blocks.|transformer_blocks.0.adaLN_modulation.|.x_block."),
              "Use the version in diffusers' layout."),
    # Autoencoders
    LookAlike("a video autoencoder, whose decoder mixes frames", ("decoder.", "time_stack.|time_conv_out.|time_mix"),
              _NO_FAMILY, instead_of=("vae",)),
    LookAlike("Wan's autoencoder", ("decoder.middle.0.residual.",), _NO_FAMILY),
    LookAlike("an autoencoder with a codebook", ("quantize.embedding.|quantize.embed",), _NO_FAMILY,
              instead_of=("vae",)),
    LookAlike("an autoencoder's decoder alone", ("decoder.conv_in.", "decoder.conv_out."),
              "Use a file that has both halves.", lacks=("encoder.conv_in.", "encoder.layers.", "encoder.embed"),
              instead_of=("vae",)),
    LookAlike("an autoencoder's encoder alone", ("encoder.conv_in.", "encoder.conv_out."),
              "Use a file that has both halves.", lacks=("decoder.conv_in.",)),
    # Encoders
    LookAlike("a language model",
              ("/model.layers.0.self_attn.|language_model.|/blk.0.attn_q.|/layers.0.self_attn.q_proj",), _NO_FAMILY),
    LookAlike("an image encoder",
              ("vision_model.encoder.|/visual.transformer.|vision_model.embeddings.|/blocks.0.norm1.",),
              "Pass its folder or repo with sf.load_component.", lacks=("text_model.", "token_embedding"),
              not_beside=("clip_vision",)),
    LookAlike("Redux's image encoder", ("redux_up.",), "Pass its folder or repo with sf.load_component."),
)  # fmt: skip

_CHANNELS = {
    5: "a U-Net that reads a depth map",
    7: "an upscaler's U-Net, which reads a small picture",
    8: "InstructPix2Pix or another U-Net that reads a picture beside the latents",
}


def look_alikes(
    shapes: Mapping[str, Shape], parts: Iterable[Part] = (), recognised: Iterable[Part] = ()
) -> list[LookAlike]:
    """Known kinds of files that have tensors like these, beside or in place of the models that were found in the file.

    recognised: all models that it may have, also those whose shapes do not go together.
    """
    text = "".join(f"/{name}\n" for name in shapes)
    parts = list(parts)
    kinds = {part.kind for part in (*parts, *recognised)}
    by_names = (
        candidate
        for candidate in LOOK_ALIKES
        if all(any(piece in text for piece in pieces.split("|")) for pieces in candidate.has)
        and not any(piece in text for piece in candidate.lacks)
        and not kinds.intersection(candidate.not_beside)
    )
    found = [*islice(by_names, 1)]
    if not any("unet" in like.instead_of for like in found):
        found += [odd for part in parts if part.kind == "unet" and (odd := _odd_unet(part))]
    return found


def _odd_unet(part: Part) -> LookAlike | None:
    """A U-Net that reads something else than latents, a mask and a prompt."""
    sizes = Sizes(part.original)
    channels, latents = sizes.of("input_blocks.0.0.weight", 4)[1], sizes.of("out.2.weight", 4)[0]
    if "label_emb.weight" in sizes:
        return LookAlike("a U-Net that reads a class", (), _NO_FAMILY, instead_of=("unet",))
    if sizes.ending("attn2.to_k.weight", 2) is None and sizes.ending("attn1.to_k.weight", 2) is not None:
        return LookAlike("a U-Net that reads no prompt", (), _NO_FAMILY, instead_of=("unet",))
    if "label_emb.0.0.weight" not in sizes and sizes.ending("label_emb.0.weight", 2) is not None:
        return LookAlike("a U-Net with another embedding", (), _NO_FAMILY, instead_of=("unet",))
    text = ""
    if channels not in (latents, 2 * latents + 1):
        text = f"a U-Net that reads {channels} channels and predicts {latents}"
        text = _CHANNELS.get(channels, text) if latents == 4 else text
    return LookAlike(text, (), _NO_FAMILY, alone=True) if text else None
