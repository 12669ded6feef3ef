"""The tables of this library. Values are import paths, so that listing names imports nothing."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from .names import Names, UnknownName, closest, did_you_mean
from .transformers_types import transformers_types

_SCHEDULERS = "sfumato.components.schedulers"
_MODELS = "sfumato.components.models"
_KERNELS = "sfumato.components.kernels"
_ENGINES = "sfumato.components.engines"
_TAPS = "sfumato.components.taps"
_CACHES = "sfumato.components.caches"
_IMAGES = "sfumato.components.image_processor"
_BLOCKS = "sfumato.blocks"
_FAMILIES = "sfumato.presets.families"
_ROOM = Path(__file__).parent.parent / "blocks"

schedulers = Names(
    "scheduler",
    {
        "CMStochasticIterativeScheduler": f"{_SCHEDULERS}.consistency:CMStochasticIterativeScheduler",
        "CogVideoXDDIMScheduler": f"{_SCHEDULERS}.cogvideox:CogVideoXDDIMScheduler",
        "CogVideoXDPMScheduler": f"{_SCHEDULERS}.cogvideox:CogVideoXDPMScheduler",
        "ConsistencyDecoderScheduler": f"{_SCHEDULERS}.consistency:ConsistencyDecoderScheduler",
        "CosineDPMSolverMultistepScheduler": f"{_SCHEDULERS}.edm:CosineDPMSolverMultistepScheduler",
        "DDIMInverseScheduler": f"{_SCHEDULERS}.ddim_inverse:DDIMInverseScheduler",
        "DDIMParallelScheduler": f"{_SCHEDULERS}.ddim:DDIMParallelScheduler",
        "DDIMScheduler": f"{_SCHEDULERS}.ddim:DDIMScheduler",
        "DDPMParallelScheduler": f"{_SCHEDULERS}.ddpm:DDPMParallelScheduler",
        "DDPMScheduler": f"{_SCHEDULERS}.ddpm:DDPMScheduler",
        "DDPMWuerstchenScheduler": f"{_SCHEDULERS}.wuerstchen:DDPMWuerstchenScheduler",
        "DEISMultistepScheduler": f"{_SCHEDULERS}.deis:DEISMultistepScheduler",
        "DPMSolverMultistepInverseScheduler": f"{_SCHEDULERS}.dpmsolver_inverse:DPMSolverMultistepInverseScheduler",
        "DPMSolverMultistepScheduler": f"{_SCHEDULERS}.dpmsolver:DPMSolverMultistepScheduler",
        "DPMSolverSDEScheduler": f"{_SCHEDULERS}.sde:DPMSolverSDEScheduler",
        "DPMSolverSinglestepScheduler": f"{_SCHEDULERS}.singlestep:DPMSolverSinglestepScheduler",
        "EDMDPMSolverMultistepScheduler": f"{_SCHEDULERS}.edm:EDMDPMSolverMultistepScheduler",
        "EDMEulerScheduler": f"{_SCHEDULERS}.edm:EDMEulerScheduler",
        "EulerAncestralDiscreteScheduler": f"{_SCHEDULERS}.euler:EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler": f"{_SCHEDULERS}.euler:EulerDiscreteScheduler",
        "FlowMapEulerDiscreteScheduler": f"{_SCHEDULERS}.flow_map:FlowMapEulerDiscreteScheduler",
        "FlowMatchEulerDiscreteScheduler": f"{_SCHEDULERS}.flow_match:FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler": f"{_SCHEDULERS}.flow_match:FlowMatchHeunDiscreteScheduler",
        "FlowMatchLCMScheduler": f"{_SCHEDULERS}.flow_match:FlowMatchLCMScheduler",
        "HeunDiscreteScheduler": f"{_SCHEDULERS}.heun:HeunDiscreteScheduler",
        "IPNDMScheduler": f"{_SCHEDULERS}.ipndm:IPNDMScheduler",
        "KDPM2AncestralDiscreteScheduler": f"{_SCHEDULERS}.heun:KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler": f"{_SCHEDULERS}.heun:KDPM2DiscreteScheduler",
        "KarrasVeScheduler": f"{_SCHEDULERS}.karras_ve:KarrasVeScheduler",
        "LCMScheduler": f"{_SCHEDULERS}.lcm:LCMScheduler",
        "LMSDiscreteScheduler": f"{_SCHEDULERS}.lms:LMSDiscreteScheduler",
        "LTXEulerAncestralRFScheduler": f"{_SCHEDULERS}.flow_map:LTXEulerAncestralRFScheduler",
        "PNDMScheduler": f"{_SCHEDULERS}.pndm:PNDMScheduler",
        "RePaintScheduler": f"{_SCHEDULERS}.repaint:RePaintScheduler",
        "SASolverScheduler": f"{_SCHEDULERS}.sasolver:SASolverScheduler",
        "SCMScheduler": f"{_SCHEDULERS}.consistency:SCMScheduler",
        "ScoreSdeVeScheduler": f"{_SCHEDULERS}.score_sde:ScoreSdeVeScheduler",
        "ScoreSdeVpScheduler": f"{_SCHEDULERS}.score_sde:ScoreSdeVpScheduler",
        "TCDScheduler": f"{_SCHEDULERS}.lcm:TCDScheduler",
        "UnCLIPScheduler": f"{_SCHEDULERS}.unclip:UnCLIPScheduler",
        "UniPCMultistepScheduler": f"{_SCHEDULERS}.unipc:UniPCMultistepScheduler",
    },
    aliases={
        "ddim": "DDIMScheduler",
        "ddpm": "DDPMScheduler",
        "euler": "EulerDiscreteScheduler",
        "euler_a": "EulerAncestralDiscreteScheduler",
        "euler_ancestral": "EulerAncestralDiscreteScheduler",
    },
)
_GUIDERS = "sfumato.blocks.guiders"
guiders = Names(
    "guider",
    {
        "ClassifierFreeGuidance": f"{_GUIDERS}.cfg:ClassifierFreeGuidance",
        "NoGuidance": f"{_GUIDERS}.none:NoGuidance",
        "ClassifierFreeZeroStarGuidance": f"{_GUIDERS}.zero_star:ClassifierFreeZeroStarGuidance",
        "AdaptiveProjectedGuidance": f"{_GUIDERS}.apg:AdaptiveProjectedGuidance",
        "AdaptiveProjectedMixGuidance": f"{_GUIDERS}.apg:AdaptiveProjectedMixGuidance",
        "PerturbedAttentionGuidance": f"{_GUIDERS}.perturbed:PerturbedAttentionGuidance",
        "SkipLayerGuidance": f"{_GUIDERS}.perturbed:SkipLayerGuidance",
        "SmoothedEnergyGuidance": f"{_GUIDERS}.perturbed:SmoothedEnergyGuidance",
        "TangentialClassifierFreeGuidance": f"{_GUIDERS}.tangential:TangentialClassifierFreeGuidance",
        "FrequencyDecoupledGuidance": f"{_GUIDERS}.frequency:FrequencyDecoupledGuidance",
        "AutoGuidance": f"{_GUIDERS}.auto:AutoGuidance",
        "MagnitudeAwareGuidance": f"{_GUIDERS}.magnitude:MagnitudeAwareGuidance",
        "GuidanceSchedule": f"{_GUIDERS}.schedule:GuidanceSchedule",
    },
    aliases={
        "cfg": "ClassifierFreeGuidance",
        "none": "NoGuidance",
        "cfg_zero_star": "ClassifierFreeZeroStarGuidance",
        "cfg_zero": "ClassifierFreeZeroStarGuidance",
        "apg": "AdaptiveProjectedGuidance",
        "apg_mix": "AdaptiveProjectedMixGuidance",
        "pag": "PerturbedAttentionGuidance",
        "slg": "SkipLayerGuidance",
        "seg": "SmoothedEnergyGuidance",
        "tcfg": "TangentialClassifierFreeGuidance",
        "fdg": "FrequencyDecoupledGuidance",
        "auto": "AutoGuidance",
        "autoguidance": "AutoGuidance",
        "mambo_g": "MagnitudeAwareGuidance",
        "mambo": "MagnitudeAwareGuidance",
    },
)
models = Names(
    "model",
    {
        "UNet2DModel": f"{_MODELS}.unet_2d:UNet2DModel",
        "UNet2DConditionModel": f"{_MODELS}.unet_2d_condition:UNet2DConditionModel",
        "AutoencoderKL": f"{_MODELS}.autoencoder_kl:AutoencoderKL",
        "AutoencoderTiny": f"{_MODELS}.autoencoder_tiny:AutoencoderTiny",
        "ControlNetModel": f"{_MODELS}.controlnet:ControlNetModel",
        "ControlNetUnionModel": f"{_MODELS}.controlnet_union:ControlNetUnionModel",
        "T2IAdapter": f"{_MODELS}.t2i_adapter:T2IAdapter",
        "ImagePromptAdapter": f"{_MODELS}.ip_adapter:ImagePromptAdapter",
        "FluxImagePromptAdapter": f"{_MODELS}.ip_adapter_flux:FluxImagePromptAdapter",
        "SD3ImagePromptAdapter": f"{_MODELS}.ip_adapter_sd3:SD3ImagePromptAdapter",
        "CLIPTextModel": f"{_MODELS}.clip:CLIPTextModel",
        "CLIPTextModelWithProjection": f"{_MODELS}.clip:CLIPTextModelWithProjection",
        "CLIPVisionModelWithProjection": f"{_MODELS}.vision:CLIPVisionModelWithProjection",
        "ReduxImageEncoder": f"{_MODELS}.redux:ReduxImageEncoder",
        "SiglipVisionModel": f"{_MODELS}.vision:SiglipVisionModel",
        "FluxTransformer2DModel": f"{_MODELS}.flux:FluxTransformer2DModel",
        "FluxControlNetModel": f"{_MODELS}.flux_controlnet:FluxControlNetModel",
        "T5EncoderModel": f"{_MODELS}.t5:T5EncoderModel",
        "UMT5EncoderModel": f"{_MODELS}.t5:UMT5EncoderModel",
        "SD3Transformer2DModel": f"{_MODELS}.sd3:SD3Transformer2DModel",
        "SD3ControlNetModel": f"{_MODELS}.sd3_controlnet:SD3ControlNetModel",
        "PixArtTransformer2DModel": f"{_MODELS}.pixart:PixArtTransformer2DModel",
    },
    aliases={"Transformer2DModel": "PixArtTransformer2DModel"},  # as the first PixArt files name it
)
_STEP_CACHES = {
    "DeepCacheConfig": f"{_CACHES}.scheduled:DeepCacheConfig",
    "FasterCacheConfig": f"{_CACHES}.attention:FasterCacheConfig",
    "FirstBlockCacheConfig": f"{_CACHES}.measured:FirstBlockCacheConfig",
    "MagCacheConfig": f"{_CACHES}.scheduled:MagCacheConfig",
    "PyramidAttentionBroadcastConfig": f"{_CACHES}.attention:PyramidAttentionBroadcastConfig",
    "SeaCacheConfig": f"{_CACHES}.measured:SeaCacheConfig",
    "TaylorSeerCacheConfig": f"{_CACHES}.scheduled:TaylorSeerCacheConfig",
    "TeaCacheConfig": f"{_CACHES}.measured:TeaCacheConfig",
}
engines = Names(
    "engine",
    {
        "compile": f"{_ENGINES}.compiled:Compile",
        "fused": f"{_ENGINES}.fused:Fused",
        "graphs": f"{_ENGINES}.graphs:Graphs",
        "max": f"{_ENGINES}.graphs:Max",
        "openvino": f"{_ENGINES}.openvino:OpenVINO",
    },
)
attention_backends = Names(
    "attention backend",
    {
        "cudnn": f"{_KERNELS}.torch_kernels:Cudnn",
        "efficient": f"{_KERNELS}.torch_kernels:Efficient",
        "flash": f"{_KERNELS}.torch_kernels:Flash",
        "flash3": f"{_KERNELS}.packages:Flash3",
        "flash_attn": f"{_KERNELS}.packages:FlashAttn",
        "flex": f"{_KERNELS}.flex:Flex",
        "math": f"{_KERNELS}.torch_kernels:Math",
        "sage": f"{_KERNELS}.packages:Sage",
        "sdpa": f"{_KERNELS}.torch_kernels:SDPA",
        "sliced": f"{_KERNELS}.sliced:Sliced",
        "xformers": f"{_KERNELS}.packages:Xformers",
    },
    aliases={
        "_flash_3": "flash3",
        "_native_cudnn": "cudnn",
        "_native_efficient": "efficient",
        "_native_flash": "flash",
        "_native_math": "math",
        "native": "sdpa",
    },
)
changes = Names(
    "change",
    {
        "Blur": f"{_TAPS}.perturb:Blur",
        "Drop": f"{_TAPS}.perturb:Drop",
        "FreeU": f"{_TAPS}.freeu:FreeU",
        "Identity": f"{_TAPS}.perturb:Identity",
        "TokenMerging": f"{_TAPS}.merging:TokenMerging",
        **_STEP_CACHES,
    },
)
step_caches = Names(
    "step cache",
    _STEP_CACHES,
    aliases={
        "deepcache": "DeepCacheConfig",
        "faster_cache": "FasterCacheConfig",
        "first_block": "FirstBlockCacheConfig",
        "magcache": "MagCacheConfig",
        "pyramid_attention": "PyramidAttentionBroadcastConfig",
        "seacache": "SeaCacheConfig",
        "taylorseer": "TaylorSeerCacheConfig",
        "teacache": "TeaCacheConfig",
    },
)
blocks = Names("block")
_RULES = "sfumato.blocks.prompts"
prompt_rules = Names(
    "prompt syntax",
    {
        "Plain": f"{_RULES}.plain:Plain",
        "A1111": f"{_RULES}.a1111:A1111",
        "Comfy": f"{_RULES}.comfy:Comfy",
    },
    aliases={"plain": "Plain", "a1111": "A1111", "comfy": "Comfy"},
)
presets = Names(
    "preset",
    {
        "flux": f"{_FAMILIES}:flux",
        "flux-kontext": f"{_FAMILIES}:flux_kontext",
        "pixart": f"{_FAMILIES}:pixart",
        "pixart-alpha": f"{_FAMILIES}:pixart_alpha",
        "sd": f"{_FAMILIES}:sd",
        "sd3": f"{_FAMILIES}:sd3",
        "sdxl": f"{_FAMILIES}:sdxl",
    },
)
codecs = Names(
    "codec",
    {
        "adapt": "sfumato.components.adapters.attached:adapt",
        "adapt_by_prompts": "sfumato.presets.prompt_loras:adapt_by_prompts",
        "adapters": "sfumato.presets.adapter:from_json",
        "attended": "sfumato.components.attention.attended:attended",
        "cached": "sfumato.presets.caches:cached",
        "attach": "sfumato.components.adapters.attached:attach",
        "component": "sfumato.components.bindings:from_json",
        "handle": "sfumato.components.bindings:handle_of",
        "merged": "sfumato.components.adapters.merging:merged",
        "optimized": "sfumato.components.engines.optimize:optimized",
        "parallel": "sfumato.components.parallel.parallel:parallel",
        "plan": "sfumato.components.planning.make:plan",
        "preview": "sfumato.blocks.decode.previews:preview",
        "record": "sfumato.presets.records.picture:recorded",
        "save_pretrained": "sfumato.presets.save:save_pretrained",
        "tiny_autoencoder": "sfumato.components.tiny_autoencoders:tiny_autoencoder",
    },
)
"""Functions of upper rooms that lower rooms call. "adapt": a graph and the `adapters=` of a call -> the graph of the
call. "adapt_by_prompts": a graph and the values of a call -> the graph with the adapters that prompts name. "adapters":
the entries of a graph file -> adapters. "attach": a graph and adapters -> the graph with them. "attended": a graph
and the `attention=` of a call -> the graph with the backend. "component": the entry of a graph file -> the bound
component. "handle": a spec -> what a graph binds for it. "merged": a graph with adapters
and a dtype -> the graph with merged models. "cached": a graph, a step cache or its name, its settings, and whether to
estimate errors -> the graph with it. "optimized": a graph, an engine, components and settings -> the graph with the
engine. "parallel": a graph and plans -> the graph for several processes. "plan": a graph and the values of a call ->
its plan. "preview": clean latents, components and an autoencoder or None -> pictures. "record": a call and its outputs
-> the outputs with pictures that know the call. "save_pretrained": a bound graph -> a folder with all of it.
"tiny_autoencoder": an autoencoder or a handle of it -> the tiny one of its latent space."""

native: dict[tuple[str, str], str] = {
    # Read by our own light classes from the same files: importing transformers' model zoo costs 2.4 s (decision 0002).
    ("transformers", "CLIPTextModel"): f"{_MODELS}.clip:CLIPTextModel",
    ("transformers", "CLIPTextModelWithProjection"): f"{_MODELS}.clip:CLIPTextModelWithProjection",
    ("transformers", "CLIPVisionModelWithProjection"): f"{_MODELS}.vision:CLIPVisionModelWithProjection",
    ("transformers", "SiglipVisionModel"): f"{_MODELS}.vision:SiglipVisionModel",
    ("transformers", "CLIPImageProcessor"): f"{_IMAGES}:CLIPImageProcessor",
    ("transformers", "CLIPImageProcessorFast"): f"{_IMAGES}:CLIPImageProcessor",
    ("transformers", "CLIPFeatureExtractor"): f"{_IMAGES}:CLIPImageProcessor",  # its name before transformers 4.26
    ("transformers", "CLIPImageProcessorPil"): f"{_IMAGES}:CLIPImageProcessor",  # what transformers 5 writes
    ("transformers", "SiglipImageProcessor"): f"{_IMAGES}:SiglipImageProcessor",
    ("transformers", "SiglipImageProcessorFast"): f"{_IMAGES}:SiglipImageProcessor",
    ("transformers", "SiglipImageProcessorPil"): f"{_IMAGES}:SiglipImageProcessor",
    ("flux", "ReduxImageEncoder"): f"{_MODELS}.redux:ReduxImageEncoder",  # published in the folder of that pipeline
    ("transformers", "CLIPTokenizer"): "sfumato.components.loading.tokenizer:CLIPTokenizer",
    ("transformers", "CLIPTokenizerFast"): "sfumato.components.loading.tokenizer:CLIPTokenizer",
    ("transformers", "T5EncoderModel"): f"{_MODELS}.t5:T5EncoderModel",
    ("transformers", "UMT5EncoderModel"): f"{_MODELS}.t5:UMT5EncoderModel",
    ("transformers", "T5Tokenizer"): "sfumato.components.loading.tokenizer_t5:T5Tokenizer",
    ("transformers", "T5TokenizerFast"): "sfumato.components.loading.tokenizer_t5:T5Tokenizer",
}
"""Hints that this library reads itself. The value is a "module:attribute" path."""

_BY_SLOT = {"scheduler": schedulers, "guider": guiders, "model": models, "block": blocks, "preset": presets}


def table(kind: str) -> Names | None:
    """The table for a slot or component called `kind` ("guider", "scheduler" …), or None."""
    return _BY_SLOT.get(kind)


def resolve(hint: Sequence[str]) -> Any:
    """The class of a `["library", "Class"]` type hint in an index file.

    For "diffusers" and "sfumato" it is our class of that published name, for "transformers" one of
    `transformers_types`. Any other is refused with `UnknownName`, and nothing of it is imported.
    """
    library, name = hint
    if library in ("diffusers", "sfumato"):
        for names in (models, schedulers, guiders):
            if (found := names.find(name)) is not None:
                return found
        known = [*models, *schedulers, *guiders]
        raise UnknownName(
            f"The hint {list(hint)} names the class {name!r}, which sfumato does not have. {did_you_mean(name, known)}"
        )
    if library == "transformers":
        return _of_transformers(name)
    raise UnknownName(
        f"The hint {list(hint)} names the library {library!r}. Only 'diffusers', 'sfumato' and 'transformers' are "
        "accepted. Bind an object instead: graph.bind(name=object)."
    )


def _of_transformers(name: str) -> Any:
    if name in transformers_types:
        try:
            return transformers_types[name]
        except (ImportError, AttributeError):
            raise UnknownName(
                f"transformers has no {name} in the installed version. Install another: pip install -U transformers."
            ) from None
    text = f"The hint ['transformers', {name!r}] names a class that files may not name."
    if name.startswith("Auto"):
        raise UnknownName(
            f"{text} An Auto class runs code that the repo names. Write the class of this component, such as "
            "'CLIPTextModel'."
        )
    known = [*transformers_types, *(name for library, name in native if library == "transformers")]
    near = closest(name, known, 1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    raise UnknownName(
        f"{text}{guess} If you know this class, bind an object, or allow the class in your program: "
        f"sfumato.registry.transformers_types.add({name!r}, cls)."
    )


def hint_of(cls: type) -> tuple[str, str] | None:
    """The `(library, class)` hint of a class in files, or None: the inverse of `resolve`.

    For our classes it names the library that published them, so that other programs can read the files.
    """
    where = f"{cls.__module__}:{cls.__qualname__}"
    if (hint := next((hint for hint, path in native.items() if path == where), None)) is not None:
        return hint
    for names in (models, schedulers, guiders):
        if (name := names.name_of(cls)) is not None:
            return "diffusers", name
    if cls.__name__ in transformers_types and transformers_types.find(cls.__name__) is cls:
        return "transformers", cls.__name__
    return None


def find_block(name: str) -> Any | None:
    """The block class of this name in graph files, or None.

    It is a registered class, or one of this package's `blocks` room, whose module is imported if necessary. A name
    never imports another module.
    """
    if (found := blocks.find(name)) is None:
        parts = name.split(".")
        for end in range(len(parts) - 1, 0, -1):
            file = _ROOM.joinpath(*parts[:end])
            plain = all(part.isidentifier() and part[0] != "_" for part in parts[:end])
            if plain and (file.with_suffix(".py").is_file() or file.is_dir()):
                import_module(".".join((_BLOCKS, *parts[:end])))
                return blocks.find(name)
    return found
