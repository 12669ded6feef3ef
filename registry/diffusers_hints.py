"""Advice for users of diffusers: what to write here instead of its keywords, attributes and objects."""

from collections.abc import Mapping

_EMBEDS = "Encode the prompt once: value = pipe.only({0!r})(prompt=…).{0}. Then pass {0}=value."
_EVENTS = "Write `for event in pipe.stream(…)`. Each turn of a loop is an event whose values are the carried outputs."
_ATTENTION = "Attention takes no keywords. Change it with a view of the model, as the attention guiders do."
_OUTPUTS = "A call always returns named outputs: pipe(…).images."
_NET = (
    "Load it with the pipeline: sf.load(…, {0}={1}). Or insert its block first: "
    "pipe.insert('{2}', {3}(), before='denoise.guider').bind({0}={1}). A second one is called {0}_1."
)

_DEVICE = (
    "Components have a device and a dtype, and a pipeline has none. Write sf.load(…, device='cuda', dtype='float16')."
)
_ADAPTER = (
    "An adapter (LoRA) is a value: a = sf.load_adapter(file), then pipe(…, adapters=[a]) or pipe.with_adapters(a). "
    "The models do not change, so nothing is fused or unloaded."
)
_STRENGTHS = "Write pipe(…, adapters={'name': 0.6}), or adapters=[a.scaled(0.6)]."
_IMAGE_PROMPT = (
    "Write sf.load(…, ip_adapter=file), then pipe(…, ip_adapter_image=picture). For a pipeline that is loaded, insert "
    "ImagePrompt() of sfumato.blocks.control.image_prompt."
)
_EMBEDDING = (
    "An embedding is a value: e = sf.load_embedding(file), then pipe(…, adapters=[e]) or pipe.with_adapters(e)."
)
_OFFLOAD = "Write sf.load(…, manager=manager) with manager = sf.ComponentsManager({0}device='cuda'){1}."
_TILE = "Write pipe.replace('decode', DecodeLatents({0})) with the block of sfumato.blocks.decode.images."
_BACKEND = "Write pipe(…, attention={0}), or pipe.using(attention={0}) for all calls."
_SAFETY = "Leave it out: no safety checker runs."
_SAFETENSORS = "Leave it out: .safetensors files are read, and others only with allow_pickle=True."

HINTS: Mapping[str, str] = {
    "generator": "Write seed=7, or a list with one seed for each picture. generator.initial_seed() gives the seed.",
    "prompt_embeds": _EMBEDS.format("positive"),
    "pooled_prompt_embeds": _EMBEDS.format("positive"),
    "prompt_attention_mask": _EMBEDS.format("positive"),
    "negative_prompt_embeds": _EMBEDS.format("negative"),
    "negative_pooled_prompt_embeds": _EMBEDS.format("negative"),
    "negative_prompt_attention_mask": _EMBEDS.format("negative"),
    "callback_on_step_end": _EVENTS,
    "callback_on_step_end_tensor_inputs": _EVENTS,
    "callback": _EVENTS,
    "callback_steps": _EVENTS,
    "cross_attention_kwargs": _ATTENTION,
    "joint_attention_kwargs": _ATTENTION,
    "attention_kwargs": _ATTENTION,
    "eta": "It belongs to the scheduler. Write scheduler={'eta': …} with a scheduler that has it, such as 'ddim'.",
    "return_dict": _OUTPUTS,
    "controlnet": _NET.format("controlnet", "net", "control", "ApplyControlNet"),
    "adapter": _NET.format("adapter", "net", "adapt", "ApplyT2IAdapter") + " For a LoRA write adapters=[a].",
    "adapters": _ADAPTER,
    "lora": _ADAPTER,
    "loras": _ADAPTER,
    "adapter_name": _ADAPTER,
    "fuse_lora": _ADAPTER,
    "ip_adapter_image": _IMAGE_PROMPT,
    "load_ip_adapter": _IMAGE_PROMPT,
    "load_lora_weights": _ADAPTER,
    "load_textual_inversion": _EMBEDDING,
    "set_adapters": _STRENGTHS,
    "unload_lora_weights": _ADAPTER,
    "cpu": _DEVICE,
    "cuda": _DEVICE,
    "device": _DEVICE,
    "dtype": _DEVICE,
    "half": _DEVICE,
    "to": _DEVICE,
    "torch_dtype": "Write dtype='float16', or dtype={'unet': 'float16'} for one component.",
    "use_auth_token": "Write token=….",
    "use_safetensors": _SAFETENSORS,
    "low_cpu_mem_usage": "Leave it out: models are always made without memory for weights, which are then read once.",
    "quantization_config": "Write quantization={'unet': 'nf4'}: a name or a published config for each component.",
    "custom_pipeline": "Write sf.load(…, trust_remote_code=True) for a repo with blocks, or insert blocks of your own.",
    "safety_checker": _SAFETY,
    "feature_extractor": _SAFETY,
    "requires_safety_checker": _SAFETY,
    "enable_model_cpu_offload": _OFFLOAD.format("budget={'cuda': '8GB'}, ", ""),
    "enable_sequential_cpu_offload": _OFFLOAD.format("", " and manager.offload(by='leaves')"),
    "enable_group_offload": _OFFLOAD.format("", " and manager.offload(by='blocks')"),
    "enable_layerwise_casting": _OFFLOAD.format("", " and manager.offload(storage='float8_e4m3fn')"),
    "enable_vae_tiling": _TILE.format("tile=512"),
    "enable_vae_slicing": _TILE.format("slicing=True"),
    "enable_attention_slicing": _BACKEND.format("'sliced'"),
    "enable_xformers_memory_efficient_attention": _BACKEND.format("'xformers'"),
    "set_attention_backend": _BACKEND.format("'flash'"),
    "enable_freeu": "Insert ApplyTap(change=sf.taps.FreeU()) of sfumato.blocks.control.taps before the guider.",
    "set_progress_bar_config": "Pass progress=False to the call, or set SFUMATO_PROGRESS=0 in the environment.",
    "interrupt": "Write run = pipe.stream(…), and run.cancel() in another thread.",
    "encode_prompt": "Write pipe.only('positive')(prompt=…).positive.",
    "from_pipe": "Write pipe.task('image2image'), or the name of another task.",
    "image_processor": "Write pipe(…, output_type='pt'), or 'np', for pictures as tensors or arrays.",
    "vae_scale_factor": "Write pipe.bindings['vae'].config, which has the autoencoder's blocks.",
    "steps": "Write num_inference_steps=….",
    "steps: int": "Write num_inference_steps=….",
    "cfg_scale": "Write guidance_scale=….",
    "sampler": "Write scheduler=…, such as scheduler='dpmpp_2m_karras'.",
    "sampler_name": "Write scheduler=…, such as scheduler='dpmpp_2m_karras'.",
    "output_type='latent'": "For latents write pipe.only('latents')(…).latents.",
}
"""Sentences of advice, by the name of a keyword or of an attribute of a pipeline, by `name='value'`, or by `name: type`
of a value."""


def hint_for_class(cls: type) -> str:
    """Advice on passing an object of this class, for diffusers and modules wrapped by `torch.compile`; else "".

    >>> hint_for_class(int)
    ''
    """
    library, name = cls.__module__.partition(".")[0], cls.__name__
    if library == "torch" and name == "OptimizedModule":
        return "is a module wrapped by torch.compile. Pass the plain module, which is its attribute _orig_mod."
    if library != "diffusers":
        return ""
    if name.endswith("Scheduler"):
        way = f"Pass sf.schedulers.{name}.from_config(scheduler.config)."
    elif name.endswith("Pipeline"):
        way = "Save it with save_pretrained(folder), and write sf.load(folder)."
    elif hasattr(cls, "parameters"):
        way = f"Save it with save_pretrained(folder), and pass sf.load_component(folder, {name!r})."
    else:
        way = f"Pass the class of the same name here: sf.guiders.{name}(…)."
    return f"is a {name} of diffusers. {way}"
