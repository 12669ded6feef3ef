"""The mistakes of DIFFUSERS.md 5.2, and what is said to them: one readable message, before any model runs."""

import copy
import importlib
import pickle
import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import sfumato as sf
from sfumato import Graph, InputError, LoadError, WireError
from sfumato.blocks.text.sd import EncodePrompt
from sfumato.graph.events import TurnFinished

from .support import counted, fresh, half, picture

PICTURE = picture()


# --------------------------------------------------------------------------------------------------------- not finite
@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("output_type", ["pil", "pt"])
def test_an_infinity_of_the_last_layer_is_reported_although_pixels_are_clamped(number: float, output_type: str) -> None:
    vae = copy.deepcopy(sf.load_component("emoji", "AutoencoderKL"))
    with torch.no_grad():
        vae.decoder.conv_out.bias[0] = number
    pipe = sf.load("emoji", vae=vae)
    with pytest.warns(UserWarning, match=r"^decode gave NaN or infinite numbers \(images, float32\)"):
        pipe(prompt="a cat", num_inference_steps=1, seed=1, output_type=output_type)


# ------------------------------------------------------------------------------------------------------- 5.2: in a call
CALLS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a misspelled prompt": ({"propmt": "a cat"}, ["propmt", "Did you mean 'prompt'?", "prompt", "needs a value"]),
    "a misspelled step count": (
        {"prompt": "a cat", "num_inference_step": 2},
        ["num_inference_step ", "Did you mean 'num_inference_steps'?"],
    ),
    "a height as text": ({"prompt": "a cat", "height": "64"}, ["height", "takes int", "got '64' (str)"]),
    "steps as text": ({"prompt": "a cat", "num_inference_steps": "2"}, ["num_inference_steps", "got '2' (str)"]),
    "no steps": ({"prompt": "a cat", "num_inference_steps": 0}, ["num_inference_steps", "greater than or equal to 1"]),
    "half a step": ({"prompt": "a cat", "num_inference_steps": 2.5}, ["num_inference_steps", "takes int"]),
    "no images": ({"prompt": "a cat", "num_images_per_prompt": 0}, ["num_images_per_prompt"]),
    "two problems at once": ({"prompt": 3, "height": "64"}, ["(2 problems)", "prompt", "height"]),
    "a prompt of numbers": ({"prompt": [1, 2]}, ["prompt", "str | Sequence[str]"]),
    "a seed as text": ({"prompt": "a cat", "seed": "7"}, ["seed"]),
    "a picture format": ({"prompt": "a cat", "output_type": "jpg"}, ["output_type", "'pil' | 'np' | 'pt'", "'jpg'"]),
    "a seed too large": (
        {"prompt": "a cat", "seed": 2**64},
        ["less than or equal to 18446744073709551615", "got 18446744073709551616 (int)"],
    ),
    "guidance as text": ({"prompt": "a cat", "guidance_scale": "7"}, ["guidance_scale", "takes float"]),
    "rescaling above 1": ({"prompt": "a cat", "guidance_rescale": 1.5}, ["guidance_rescale"]),
    "nothing": ({}, ["prompt", "needs a value"]),
    "an image for text2image": (
        {"prompt": "a cat", "image": PICTURE},
        ["is no input of text2image. Write pipe.task('image2image')(…, image=…)."],
    ),
    "a mask for text2image": (
        {"prompt": "a cat", "mask_image": half()},
        ["is no input of text2image. Write pipe.task('inpaint')(…, mask_image=…)."],
    ),
    "a strength for text2image": ({"prompt": "a cat", "strength": 0.5}, ["pipe.task('image2image')(…, strength=…)"]),
    "no number": (
        {"prompt": "a cat", "guidance_scale": float("nan")},
        ["guidance_scale", "finite number), got nan (float)"],
    ),
    "infinite guidance": (
        {"prompt": "a cat", "guidance_scale": float("-inf")},
        ["(input should be a finite number), got -inf"],
    ),
    "no scales": ({"prompt": "a cat", "guidance_scale": ()}, ["should have at least 1 item", "got () (tuple)"]),
    "a scale of no number": (
        {"prompt": "a cat", "guidance_scale": [2.0, float("nan")]},
        ["[1]: input should be a finite"],
    ),
    "a timestep of no number": (
        {"prompt": "a cat", "timesteps": [float("nan")]},
        ["timesteps", "[0]: input should be a"],
    ),
    "skipping less than nothing": ({"prompt": "a cat", "clip_skip": -1}, ["clip_skip", "greater than or equal to 0"]),
    "fewer than no steps": (
        {"prompt": "a cat", "num_inference_steps": -1},
        ["num_inference_steps", "got -1 (int)"],
    ),
    "a seed below all": ({"prompt": "a cat", "seed": -(2**63) - 1}, ["greater than or equal to -9223372036854775808"]),
    "a seed of True": ({"prompt": "a cat", "seed": True}, ["seed", "got True (bool)"]),
    "a generator": ({"prompt": "a cat", "generator": 7}, ["generator  no such input. Write seed=7, or a list"]),
    "embeddings": (
        {"prompt_embeds": 1, "prompt": "a cat"},
        ["value = pipe.only('positive')(prompt=…).positive. Then pass positive=value."],
    ),
    "a callback": ({"prompt": "a cat", "callback_on_step_end": print}, ["Write `for event in pipe.stream(…)`"]),
    "steps": ({"prompt": "a cat", "steps": 20}, ["steps  takes Steps, got 20 (int). Write num_inference_steps=…."]),
    "a device": ({"prompt": "a cat", "device": "cuda"}, ["a pipeline has none. Write sf.load(…, device='cuda'"]),
    "an eta": ({"prompt": "a cat", "eta": 0.5}, ["Write scheduler={'eta': …}"]),
    "keywords of attention": (
        {"prompt": "a cat", "cross_attention_kwargs": {}},
        ["Change it with a view of the model"],
    ),
    "no dict": ({"prompt": "a cat", "return_dict": False}, ["returns named outputs: pipe(…).images"]),
    "latents wanted": (
        {"prompt": "a cat", "output_type": "latent"},
        [". For latents write pipe.only('latents')(…)"],
    ),
    "an output": ({"prompt": "a cat", "images": PICTURE}, ["images"]),
    "None for a number": ({"prompt": "a cat", "guidance_scale": None}, ["guidance_scale", "None"]),
}


@pytest.mark.parametrize("mistake", CALLS)
def test_a_wrong_call_is_refused_before_anything_runs(emoji: Graph, mistake: str) -> None:
    given, texts = CALLS[mistake]
    with counted(emoji) as did, pytest.raises(InputError) as caught:
        emoji(**given)
    assert did.all == 0
    message = str(caught.value)
    assert [text for text in texts if text not in message] == []
    assert len(message.splitlines()) < 6
    assert caught.value.__cause__ is None  # one message, not a chain of tracebacks


def test_what_diffusers_ignores_with_a_warning_works_here(emoji: Graph) -> None:
    """guidance_scale, scheduler and guider, given to one call."""
    given: dict[str, Any] = {"prompt": "a cat", "seed": 1, "num_inference_steps": 2, "output_type": "pt"}
    plain = emoji(**given).images
    for swap in ({"guidance_scale": 3.0}, {"scheduler": "euler"}, {"guider": sf.guiders.NoGuidance()}):
        assert not torch.equal(emoji(**given, **swap).images, plain)


def test_what_hints_write_works(emoji: Graph) -> None:
    given: dict[str, Any] = {"prompt": "a cat", "num_inference_steps": 2}
    whole = emoji(**given, seed=3, output_type="pt").images
    drawn = torch.Generator().manual_seed(3)
    assert torch.equal(emoji(**given, seed=drawn.initial_seed(), output_type="pt").images, whole)
    latents = emoji.only("latents")(**given, seed=3).latents
    noisy = emoji.only("latents")(**given, seed=3, scheduler={"eta": 1.0}).latents
    assert not torch.equal(noisy, latents)
    turns = [event for event in emoji.stream(**given, seed=3) if isinstance(event, TurnFinished)]
    assert [turn.turn for turn in turns] == [1, 2]
    assert torch.equal(turns[-1].values["latents"], latents)


def test_a_negative_prompt_of_none_is_none_given(emoji: Graph) -> None:
    given: dict[str, Any] = {"prompt": "a cat", "num_inference_steps": 1, "seed": 3, "output_type": "pt"}
    assert torch.equal(emoji(**given, negative_prompt=None).images, emoji(**given).images)


def test_a_seed_below_zero_is_the_one_that_torch_makes_of_it(emoji: Graph) -> None:
    given: dict[str, Any] = {"prompt": "a cat", "num_inference_steps": 1, "output_type": "pt"}
    assert torch.equal(emoji(**given, seed=-1).images, emoji(**given, seed=2**64 - 1).images)


def test_one_value_without_a_name_is_the_prompt(emoji: Graph) -> None:
    given: dict[str, Any] = {"seed": 1, "num_inference_steps": 2, "output_type": "pt"}
    assert torch.equal(emoji("a cat", **given).images, emoji(prompt="a cat", **given).images)
    with counted(emoji) as did, pytest.raises(InputError, match=r"takes one value without a name, which is 'prompt'"):
        emoji("a cat", "blurry", **given)
    with pytest.raises(InputError):
        emoji("a cat", prompt="a cat", **given)
    assert did.all == 0


def test_a_graph_with_nothing_bound_names_every_component_it_lacks() -> None:
    with pytest.raises(InputError) as caught:
        sf.load("sd")(prompt="a cat")
    assert [p.place for p in caught.value.problems] == ["text_encoder", "tokenizer", "scheduler", "unet", "vae"]
    assert "vae" in str(caught.value)
    assert "needs Autoencoder" in str(caught.value)


def without(pipe: Graph, name: str) -> Graph:
    """The same graph with one component less."""
    return sf.load("sd", **{n: v for n, v in pipe.bindings.items() if n != name})


@pytest.mark.parametrize("name", ["text_encoder", "tokenizer", "scheduler", "unet", "vae"])
def test_a_missing_component_is_found_before_the_loop_is_paid_for(emoji: Graph, name: str) -> None:
    pipe = without(emoji, name)
    with counted(pipe) as did, pytest.raises(InputError, match=rf"{name}  no component is bound"):
        pipe(prompt="a cat")
    assert did.all == 0
    assert [p.place for p in pipe.check()] == [name]


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("vae", "diffusion_pytorch_model.safetensors"),
        ("vae", "config.json"),
        ("unet", "diffusion_pytorch_model.safetensors"),
        ("text_encoder", "model.safetensors"),
        ("tokenizer", "vocab.json"),
        ("scheduler", "scheduler_config.json"),
    ],
)
def test_a_missing_file_is_found_before_the_loop_is_paid_for(a_folder: Path, part: str, file: str) -> None:
    (a_folder / part / file).unlink()
    manager = fresh()
    with pytest.raises(LoadError, match=part) as caught:
        sf.load(a_folder, manager=manager)(prompt="a cat")
    assert {row.class_name for row in manager.summary() if row.loaded} <= {"CLIPTextModel"}  # found at the first block
    assert len(str(caught.value).splitlines()) < 5


def test_a_missing_vae_does_not_keep_from_what_needs_none(emoji: Graph) -> None:
    assert without(emoji, "vae").only("latents")(prompt="a cat", num_inference_steps=1).latents.shape == (1, 8, 8, 8)


def test_asking_for_an_output_that_is_not_there(emoji: Graph) -> None:
    with pytest.raises(WireError, match=r"imagess.*Did you mean 'images'"):
        emoji.only("imagess")
    with pytest.raises(AttributeError, match=r"There is no output 'imagess'. There are: images"):
        _ = emoji(prompt="a cat", num_inference_steps=1).imagess


def test_a_component_of_a_wrong_class_is_refused(emoji: Graph) -> None:
    with pytest.raises(WireError, match=r"unet .*AutoencoderKL, but denoise needs UNet2DConditionModel"):
        emoji.bind(unet=emoji.bindings["vae"])
    with pytest.raises(WireError, match=r"no block of this graph needs such a component.*Did you mean 'unet'"):
        emoji.bind(unett=emoji.bindings["unet"])
    with pytest.raises(WireError, match=r"prompt .*It is an input: give it in the call"):
        emoji.bind(prompt="a cat")


def test_embeddings_may_be_given_in_place_of_a_prompt(emoji: Graph) -> None:
    """diffusers' full modular pipelines have no such input: blocks must be taken out by hand."""
    given: dict[str, Any] = {"seed": 1, "num_inference_steps": 2, "output_type": "pt"}
    positive = emoji.only("positive")(prompt="a cat").positive
    with counted(emoji) as did:
        image = emoji(positive=positive, **given).images
    assert did.text_encoder == 1  # the negative prompt's
    assert torch.equal(image, emoji(prompt="a cat", **given).images)


# ------------------------------------------------------------------------------------------ what diffusers' users write
ATTRIBUTES: dict[str, str] = {
    "unet": "Write pipe.bindings['unet'].load() for the component, or pipe.bind(unet=…) to change it.",
    "guidance_scale": "Pass it in the call: pipe(…, guidance_scale=…).",
    "denoise": "Write pipe['denoise'] for the node.",
    "to": "Components have a device and a dtype, and a pipeline has none. Write sf.load(…, device='cuda', dtype='float1"
    "6').",
    "load_lora_weights": "An adapter (LoRA) is a value: a = sf.load_adapter(file), then pipe(…, adapters=[a]) or "
    "pipe.with_adapters(a). The models do not change, so nothing is fused or unloaded.",
    "enable_model_cpu_offload": "Write sf.load(…, manager=manager) with manager = sf.ComponentsManager(budget={'cuda': "
    "'8GB'}, device='cuda').",
    "set_progress_bar_config": "Pass progress=False to the call, or set SFUMATO_PROGRESS=0 in the environment.",
    "bnd": "Did you mean 'bind'?",
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_of_diffusers_gets_the_way_here(emoji: Graph, name: str) -> None:
    with pytest.raises(AttributeError) as caught:
        getattr(emoji, name)
    assert str(caught.value) == f"A graph has no attribute {name!r}. {ATTRIBUTES[name]}"


def test_a_graph_without_an_attribute_is_as_any_other_object(emoji: Graph) -> None:
    assert not hasattr(emoji, "bindable") and getattr(emoji, "xyz", 3) == 3
    graph = sf.load("sd")
    assert copy.deepcopy(graph) == pickle.loads(pickle.dumps(graph)) == graph


KEYWORDS: dict[str, tuple[Any, str]] = {
    "torch_dtype": (torch.float16, "Write dtype='float16', or dtype={'unet': 'float16'} for one component."),
    "safety_checker": (None, "Leave it out: no safety checker runs."),
    "use_safetensors": (True, "Leave it out: .safetensors files are read, and others only with allow_pickle=True."),
}


@pytest.mark.parametrize("name", KEYWORDS)
def test_a_keyword_of_diffusers_gets_the_way_here(name: str) -> None:
    value, text = KEYWORDS[name]
    with pytest.raises(WireError, match=re.escape(f"{name}  is neither a slot nor a component. {text} Slots: guider.")):
        sf.load("emoji", **{name: value})


def test_objects_of_diffusers_and_compiled_modules_are_named_with_the_way_here(emoji: Graph) -> None:
    theirs: Any = importlib.import_module("diffusers")
    scheduler = theirs.DDIMScheduler()
    guider = theirs.ClassifierFreeGuidance()
    vae = theirs.AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)

    def text(**swap: Any) -> str:
        with pytest.raises(WireError) as caught:
            emoji.using(**swap)
        return caught.value.problems[0].message

    assert text(scheduler=scheduler) == (
        "is a DDIMScheduler of diffusers. Pass sf.schedulers.DDIMScheduler.from_config(scheduler.config)."
    )
    assert sf.load("sd", scheduler=sf.schedulers.DDIMScheduler.from_config(scheduler.config))
    assert text(guider=guider) == (
        "is a ClassifierFreeGuidance of diffusers. Pass the class of the same name here: "
        "sf.guiders.ClassifierFreeGuidance(…)."
    )
    assert text(vae=vae) == (
        "is a AutoencoderTiny of diffusers. Save it with save_pretrained(folder), and pass "
        "sf.load_component(folder, 'AutoencoderTiny')."
    )
    compiled: Any = torch.compile(cast("torch.nn.Module", emoji.bindings["unet"].load()), backend="eager")
    assert text(unet=compiled) == (
        "is a module wrapped by torch.compile. Pass the plain module, which is its attribute _orig_mod."
    )
    assert emoji.bind(unet=compiled._orig_mod)


def test_a_call_has_a_signature_to_look_at(emoji: Graph) -> None:
    assert next(iter(emoji.inputs)) == "prompt"
    assert emoji.inputs["prompt"].required
    assert str(emoji.inputs["height"]) == "int = 64"


# ----------------------------------------------------------------------------------------------- values that do not fit
VALUES: dict[str, tuple[str, dict[str, Any], str]] = {
    "height": ("text2image", {"height": 70}, "height=70 cannot be made.*a multiple of 8. The nearest is 72"),
    "width": ("text2image", {"width": 3}, r"width=3 cannot be made.*The nearest is 8"),
    "size of an inpainting": ("inpaint", {"image": PICTURE, "mask_image": half(), "height": 70}, "height=70 cannot"),
    "negatives": ("text2image", {"negative_prompt": ["a", "b"]}, "negative_prompt has 2 texts for 1 prompt. Give one"),
    "seeds": ("text2image", {"seed": [1, 2]}, "seed has 2 numbers for 1 picture. Give one"),
    "images": ("image2image", {"image": [PICTURE] * 2}, "Got 2 images for 1 prompt. Give"),
    "masks": ("inpaint", {"image": PICTURE, "mask_image": [half()] * 3}, "Got 3 masks for 1 prompt. Give"),
    "latents": ("text2image", {"latents": torch.zeros(2, 8, 8, 8)}, "latents has 2 rows for 1 picture"),
    "noise for images": ("image2image", {"image": PICTURE, "latents": torch.zeros(3, 8, 8, 8)}, "3 rows of noise for"),
    "channels": ("text2image", {"latents": torch.zeros(1, 4, 8, 8)}, "The U-Net needs 8 channels, got 4"),
    "clip_skip": ("text2image", {"clip_skip": 9}, "clip_skip=9, but this text encoder has 2 layers"),
    "no prompts": ("text2image", {"prompt": []}, "no prompt"),
    "pixels": ("image2image", {"image": torch.full((3, 64, 64), 7.0)}, "from 0 to 1, got 7 to 7."),
    "no numbers": ("image2image", {"image": torch.full((3, 64, 64), float("nan"))}, "from 0 to 1, got nan to nan."),
    "no images": ("image2image", {"image": []}, "There is no picture"),
    "shape": ("image2image", {"image": torch.zeros(5, 64, 64)}, r"be a PIL image, .* got Tensor of shape \(5, 64"),
    "few steps": (
        "image2image", {"image": PICTURE, "strength": 0.2, "num_inference_steps": 3},
        "strength=0.2 of 3 steps leaves none. Give strength=0.334 or more",
    ),
    "timesteps": ("text2image", {"timesteps": [1, 5]}, "needs falling timesteps between"),
    "sigmas": ("text2image", {"sigmas": [5.0, 1.0]}, "takes no sigmas. Pass timesteps, or use a scheduler with sigmas"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", VALUES)
def test_a_value_that_does_not_fit_is_refused_before_the_unet_runs(emoji: Graph, mistake: str) -> None:
    task, given, text = VALUES[mistake]
    pipe = emoji.task(task)
    with counted(pipe) as did, pytest.raises((ValueError, InputError), match=text) as caught:
        pipe(**{"prompt": "a cat", "num_inference_steps": 2, **given})
    assert (did.unet, did.decode) == (0, 0)
    assert isinstance(caught.value, InputError) or caught.value.__notes__  # which block it was


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.5, "0.5"])
def test_a_strength_out_of_range_is_refused_before_anything_runs(emoji: Graph, strength: object) -> None:
    pipe = emoji.task("image2image")
    with counted(pipe) as did, pytest.raises(InputError, match=r"strength"):
        pipe(prompt="a cat", image=PICTURE, strength=strength)
    assert did.all == 0


def test_the_strength_that_an_error_suggests_works(emoji: Graph) -> None:
    pipe = emoji.task("image2image").only("latents")
    pipe(prompt="a cat", image=PICTURE, strength=0.334, num_inference_steps=3)


@pytest.mark.parametrize("task", ["image2image", "inpaint"])
def test_a_task_without_its_image_says_so(emoji: Graph, task: str) -> None:
    with pytest.raises(InputError, match=r"image .*needs a value"):
        emoji.task(task)(prompt="a cat")


def test_what_only_a_part_of_a_task_lacks_is_not_another_tasks(emoji: Graph) -> None:
    told = r"height  no block of this graph reads it\. The block of text2image that does was taken out\."
    with pytest.raises(InputError, match=told):
        emoji.only("positive")(prompt="a cat", height=64)


def test_an_unknown_task(emoji: Graph) -> None:
    with pytest.raises(WireError, match=r"no such task. Did you mean 'inpaint'.*text2image, image2image, inpaint"):
        emoji.task("inpainting")
    with pytest.raises(WireError, match=r"not made by a preset"):
        Graph(text=EncodePrompt()).task("inpaint")


def test_a_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"neither a folder nor a preset. Did you mean 'emoji'"):
        sf.load("emojy")
    with pytest.raises(LoadError):
        sf.load(tmp_path)


def test_an_image_may_be_grey_or_have_a_palette(emoji: Graph) -> None:
    pipe = emoji.task("image2image").only("pixels")
    for mode in ("L", "P", "RGBA", "1"):
        assert pipe(image=PICTURE.convert(mode)).pixels.shape == (1, 3, 64, 64)
