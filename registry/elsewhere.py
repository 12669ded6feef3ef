"""What users of diffusers write in a call, and how the same is said here."""

from collections.abc import Mapping

_EMBEDDED = "Give {0}=…, which pipe.only({0!r})(…).{0} is: one value with all that the denoiser reads of a prompt."
_EVENTS = "Write `for event in pipe.stream(…)`: each turn of a loop is an event, with what it carries as its values."
_ATTENTION = "Attention takes no keywords here: what changes it is a view of the model, as guiders make one."
_OUTPUTS = "A call always gives its outputs by name: pipe(…).images."
_NET = (
    "No block here reads one. Load with it, sf.load(…, {0}={1}), or put in its block first: "
    "pipe.insert('{2}', {3}(), before='denoise.guider').bind({0}={1}). A second one is {0}_1."
)

WAYS: Mapping[str, str] = {
    "generator": "Write seed=7, or a list with one seed for each picture: generator.initial_seed() is the seed of one.",
    "prompt_embeds": _EMBEDDED.format("positive"),
    "pooled_prompt_embeds": _EMBEDDED.format("positive"),
    "prompt_attention_mask": _EMBEDDED.format("positive"),
    "negative_prompt_embeds": _EMBEDDED.format("negative"),
    "negative_pooled_prompt_embeds": _EMBEDDED.format("negative"),
    "negative_prompt_attention_mask": _EMBEDDED.format("negative"),
    "callback_on_step_end": _EVENTS,
    "callback_on_step_end_tensor_inputs": _EVENTS,
    "callback": _EVENTS,
    "callback_steps": _EVENTS,
    "cross_attention_kwargs": _ATTENTION,
    "joint_attention_kwargs": _ATTENTION,
    "attention_kwargs": _ATTENTION,
    "eta": "It belongs to the scheduler. Write scheduler={'eta': …}, for a scheduler that has one, such as 'ddim'.",
    "return_dict": _OUTPUTS,
    "controlnet": _NET.format("controlnet", "net", "control", "ApplyControlNet"),
    "adapter": _NET.format("adapter", "net", "adapt", "ApplyT2IAdapter"),
    "output_type='latent'": "For latents write pipe.only('latents')(…).latents.",
}
"""By the name of a keyword, or by `name='value'`: a sentence that says what to write."""
