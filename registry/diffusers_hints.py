"""Advice for users of diffusers: what to write here instead of a keyword that only diffusers knows."""

from collections.abc import Mapping

_EMBEDS = "Encode the prompt once: value = pipe.only({0!r})(prompt=…).{0}. Then pass {0}=value."
_EVENTS = "Write `for event in pipe.stream(…)`. Each turn of a loop is an event whose values are the carried outputs."
_ATTENTION = "Attention takes no keywords. Change it with a view of the model, as the attention guiders do."
_OUTPUTS = "A call always returns named outputs: pipe(…).images."
_NET = (
    "Load it with the pipeline: sf.load(…, {0}={1}). Or insert its block first: "
    "pipe.insert('{2}', {3}(), before='denoise.guider').bind({0}={1}). A second one is called {0}_1."
)

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
    "adapter": _NET.format("adapter", "net", "adapt", "ApplyT2IAdapter"),
    "output_type='latent'": "For latents write pipe.only('latents')(…).latents.",
}
"""Sentences of advice, by the name of the keyword, or by `name='value'`."""
