"""Plans against runs: the same operations, the same weights, the same errors; and nothing is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import sfumato as sf
from sfumato import ComponentsManager, Graph, InputError
from sfumato.blocks.decode.images import DecodeLatents
from sfumato.components.conditioning import Conditioning
from sfumato.components.loading import single_file
from sfumato.components.memory.mover import Mover
from sfumato.components.planning import walked
from sfumato.components.planning.plan import Plan
from sfumato.components.types import Images, Latents, Steps
from sfumato.presets.cli.app import app

from ..components.hub_server import Hub
from .flux import flux as flux
from .flux import flux_checkpoint as flux_checkpoint
from .remote import hub as hub
from .sdxl import xl as xl
from .sdxl import xl_checkpoint as xl_checkpoint
from .support import EMBEDDED, half, picture
from .test_adapters import diffusers_file

CALL: dict[str, Any] = {"prompt": "a fox", "seed": 7, "num_inference_steps": 3}


class NoMover(Mover):
    """Loads no weights."""

    def read(self, spec: sf.ComponentSpec, dtype: str, device: Any) -> Any:
        assert not issubclass(spec.type, nn.Module)
        return super().read(spec, dtype, "cpu")


def counted(pipe: Graph, **inputs: Any) -> int:
    """The operations of a run, by torch's own counter."""
    with FlopCounterMode(display=False) as counter:
        pipe(**inputs)
    return counter.get_total_flops()


def checked(pipe: Graph, **inputs: Any) -> Plan:
    """The plan of a call, with as many operations as a run."""
    plan = pipe.plan(**inputs)
    assert (plan.flops, plan.unknown) == (counted(pipe, **inputs), ())
    return plan


@pytest.mark.parametrize(
    "more",
    [
        {"guider": "pag", "scheduler": "euler_a"},
        {"guider": sf.guiders.ClassifierFreeGuidance(stop=0.5), "prompt": ["a fox", "a cat"], "height": 96},
        {"scheduler": "heun", "guidance_rescale": 0.5},
    ],
)
def test_a_plan_counts_the_operations_of_a_run(emoji: Graph, more: dict[str, Any]) -> None:
    checked(emoji, **{**CALL, **more})


def test_a_plan_counts_image_tasks(emoji: Graph) -> None:
    checked(emoji.task("inpaint"), **CALL, image=picture(), mask_image=half(), strength=0.7)


def test_a_plan_counts_sdxl_and_flux(xl: Callable[..., Graph], flux: Callable[..., Graph]) -> None:
    checked(xl(), **CALL, height=64, width=64)
    checked(flux(), **CALL, height=32, width=32)


def test_the_weights_of_a_plan_are_those_of_the_manager() -> None:
    manager = ComponentsManager(dtype="float16")
    pipe = sf.load("emoji", manager=manager)
    before, loaded = pipe.plan(**CALL), manager.bytes
    pipe(**CALL)
    assert (loaded, dict(before.weights)) == (0, {"cpu": manager.bytes})
    assert dict(pipe.plan(**CALL).weights) == {"cpu": manager.bytes}


def test_the_weights_of_adapters_are_planned(tmp_path: Path) -> None:
    manager = ComponentsManager()
    pipe = sf.load("emoji", manager=manager)
    diffusers_file(pipe, file := tmp_path / "style.safetensors")
    manager.free()
    pipe = pipe.with_adapters(sf.load_adapter(file))
    before = checked(pipe, **CALL)
    assert 0 <= manager.bytes - before.weights["cpu"] < 2_000  # the scales of patches are not estimated
    assert [one.name for one in before.components if one.type == "patches"]


def test_a_plan_follows_the_budget_as_the_manager_does() -> None:
    manager = ComponentsManager("32MB")
    pipe = sf.load("emoji", manager=manager)
    plan = pipe.plan(**CALL)
    found: dict[str, int] = {}
    for event in pipe.stream(**CALL):
        if isinstance(event, sf.events.BlockFinished):
            found[event.path.partition(".")[0]] = manager.bytes
    assert plan.fits and {stage.nodes[0]: stage.weights["cpu"] for stage in plan.stages} == {
        name: found[name] for name in ("positive", "negative", "denoise", "decode")
    }


def test_a_plan_loads_nothing() -> None:
    pipe = sf.load("emoji", manager=ComponentsManager(mover=NoMover()))
    plan = pipe.plan(**CALL)
    assert len(plan.stages) == 4 and not plan.unknown


def test_a_plan_finds_the_nodes_that_a_run_finds_by_their_values(emoji: Graph) -> None:
    memo = sf.memo()
    emoji(**CALL, memo=memo)
    other = {**CALL, "prompt": "a cactus"}
    planned = {node.path.partition(".")[0]: node.did for node in emoji.plan(**other, memo=memo).nodes}
    run = emoji.stream(**other, memo=memo)
    run.result()
    words = {"ran": "runs"}
    assert planned == {node: words.get(did, did) for node, did, *_ in map(str.split, run.explain().splitlines())}
    assert planned["negative"] == "reused"


def test_a_plan_shows_what_the_memo_has(emoji: Graph) -> None:
    memo = sf.memo()
    emoji(**CALL, memo=memo)
    again = {node.path: node for node in emoji.plan(**CALL, memo=memo).nodes}
    assert {node.did for node in again.values()} == {"reused", "skipped"}
    other = {node.path: node for node in emoji.plan(**{**CALL, "seed": 8}, memo=memo).nodes}
    assert (other["positive"].did, other["expand_positive"].did) == ("skipped", "reused")
    assert (other["noise"].did, other["random"].why) == ("runs", "changed: seed")
    assert (other["denoise.advance"].calls, other["decode"].flops) == (3, emoji.plan(**CALL).nodes[-2].flops)


def test_a_plan_raises_what_a_call_raises(emoji: Graph) -> None:
    wrong = {"promt": "a fox", "height": "tall", "memo": 3}
    with pytest.raises(InputError) as call:
        emoji(**wrong)
    with pytest.raises(InputError) as plan:
        emoji.plan(**wrong)
    assert str(plan.value) == str(call.value)
    with pytest.raises(sf.SfumatoError) as call:
        emoji(**CALL, height=63)
    with pytest.raises(type(call.value)) as plan:
        emoji.plan(**CALL, height=63)
    assert str(plan.value) == str(call.value)


class Measured(NamedTuple):
    latents: Latents


class Brighten(sf.Block):
    """Reads a number of the latents."""

    def __call__(self, latents: Latents) -> Measured:
        return Measured(latents * 2 if latents.mean().item() < 0 else latents)


class Stamp(sf.Block):
    """Leaves torch."""

    def __call__(self, images: Images) -> "Stamped":
        return Stamped(images.numpy().sum())


class Stamped(NamedTuple):
    stamp: Any


def test_a_plan_says_where_numbers_are_read(emoji: Graph) -> None:
    plan = emoji.insert("brighten", Brighten(), before="decode").plan(**CALL)
    assert plan.unknown == ("brighten", "decode", "finish")
    found = {node.path: node.why for node in plan.nodes if node.flops is None}
    assert found == {
        "brighten": "reads numbers of its inputs",
        "decode": "reads the outputs of brighten",
        "finish": "reads the outputs of decode",
    }
    assert plan.flops == sum(node.flops or 0 for node in emoji.plan(**CALL).nodes[:-2])
    assert [stage.known for stage in plan.stages] == [True, True, True, False]
    stamped = emoji.insert("stamp", Stamp(), after="decode", outputs=["stamp"]).plan(**CALL)
    assert stamped.unknown == ("stamp",) and "reads numbers of its inputs" in str(stamped)


class Shortened(NamedTuple):
    steps: Steps


class Shorten(sf.Block):
    """Reads a number of the prompt."""

    def __call__(self, positive: Conditioning, steps: Steps) -> Shortened:
        return Shortened(steps[: 1 if cast("Any", positive).tokens.sum() > 0 else 2])


def test_a_loop_over_unknown_steps_is_unknown(emoji: Graph) -> None:
    plan = emoji.insert("shorten", Shorten(), before="denoise").plan(**CALL)
    known = {node.path for node in plan.nodes if node.flops is not None}
    assert {"shorten", "denoise.predict", "denoise.guider", "denoise.advance", "decode", "finish"} <= {*plan.unknown}
    assert {"positive", "negative", "noise", "start"} <= known
    assert plan.flops == 2 * plan.nodes[0].flops


class OnCuda(NoMover):
    """A manager that may name a device which this machine does not have."""

    def check_device(self, device: str) -> None:
        pass


def test_a_call_that_does_not_fit_gets_proposals(monkeypatch: pytest.MonkeyPatch) -> None:
    def proposed(memory: int, **more: Any) -> list[str]:
        memories = {"cuda:0": memory, "cpu": 10**12}
        monkeypatch.setattr(walked, "memory_of", memories.__getitem__)
        plan = sf.load("emoji", manager=ComponentsManager(device="cuda", mover=OnCuda(), **more)).plan(**CALL)
        assert plan.fits is (not plan.proposals) and all(one.peak <= memory for one in plan.proposals)
        return [f"{one.change} | {one.code}" for one in plan.proposals]

    assert proposed(10**9) == []
    budget = "sf.load(…, manager=sf.ComponentsManager(budget={'cuda:0': '29.8 MB'}"
    assert proposed(33_000_000) == [f"components leave the device after use | {budget}))"]
    changes = [
        "unet stays on the CPU, and its blocks are copied to cuda:0 ahead, while it computes | ",
        "unet stays on the CPU, and its blocks are copied to cuda:0 one after another (slower) | ",
        "unet stored in float8_e4m3fn, 7.3 MB in place of 29.0 MB | ",
        "unet in quanto_int8, 19.5 MB in place of 29.0 MB | ",
        "unet in nf4, 18.1 MB in place of 29.0 MB | ",
    ]
    offload = "pipe.bindings['unet'].manager.offload('unet', "
    offloads = [f"{offload}{how})" for how in ("'blocks', prefetch=True", "'blocks'", "storage='float8_e4m3fn'")]
    methods = ["quantization={'unet': 'quanto_int8'})", "quantization={'unet': 'nf4'})"]
    budget = "sf.load(…, manager=sf.ComponentsManager(budget={'cuda:0': '21.8 MB'})"
    codes = [*(f"{budget}); {one}" for one in offloads), *(f"{budget}, {method}" for method in methods)]
    assert proposed(25_000_000) == [change + code for change, code in zip(changes, codes, strict=True)]
    codes = [*offloads, *(f"sf.load(…, {method}" for method in methods)]
    assert proposed(10**9, budget="20MB") == [change + code for change, code in zip(changes, codes, strict=True)]


def test_the_excess_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = sf.load("emoji", manager=ComponentsManager("20MB")).plan(**CALL)
    unet = next(one for one in plan.components if one.name == "unet")
    assert [stage.excess for stage in plan.stages] == [0, 0, (unet.bytes or 0) - 20_000_000, 0]
    assert "9.0 MB too much" in str(plan)


def test_tiles_are_proposed_for_a_large_picture(emoji: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    large = {**CALL, "num_inference_steps": 1, "height": 768, "width": 768}
    plan = emoji.plan(**large)
    decode = plan.stages[-1]
    monkeypatch.setattr(walked, "memory_of", {"cpu": decode.peak - 1}.__getitem__)
    last = emoji.plan(**large).proposals[-1].code
    assert last.rpartition("; ")[2] == "pipe.replace('decode', DecodeLatents(tile=512))"
    assert applied(last, emoji).plan(**large).fits


def applied(code: str, pipe: Graph) -> Graph:
    scope: dict[str, Any] = {"sf": sf, "pipe": pipe, "DecodeLatents": DecodeLatents}
    for line in code.split("; "):
        made = eval(line.replace("sf.load(…", "sf.load('emoji'"), scope)
        scope["pipe"] = made if isinstance(made, Graph) else scope["pipe"]
    return scope["pipe"]


@pytest.mark.parametrize(
    ("memory", "pictures", "ways"),
    [
        (25_000_000, 1, ["storage='float8_e4m3fn')", "{'unet': 'quanto_int8'})", "{'unet': 'nf4'})"]),
        (45_000_000, 8, ["storage='float8_e4m3fn')", "{'unet': 'quanto_int8'})", "{'unet': 'nf4'})", "slicing=True))"]),
    ],
)
def test_a_call_fits_with_each_proposal(
    memory: int, pictures: int, ways: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = {**CALL, "num_inference_steps": 1, "num_images_per_prompt": pictures}
    monkeypatch.setattr(walked, "memory_of", {"cpu": memory}.__getitem__)
    proposals = sf.load("emoji", manager=ComponentsManager()).plan(**call).proposals
    assert [one.code.endswith(way) for one, way in zip(proposals, ways, strict=True)] == [True] * len(ways)
    for one in proposals:
        after = applied(one.code, sf.load("emoji", manager=ComponentsManager())).plan(**call)
        assert after.fits and max(after.peak.values()) <= memory, one


FLUX: dict[str, dict[str, Any]] = {
    "transformer": {
        "_class_name": "FluxTransformer2DModel", "attention_head_dim": 128, "guidance_embeds": True, "in_channels": 64,
        "joint_attention_dim": 4096, "num_attention_heads": 24, "num_layers": 19, "num_single_layers": 38,
        "patch_size": 1, "pooled_projection_dim": 768,
    },
    "text_encoder": {
        "model_type": "clip_text_model", "architectures": ["CLIPTextModel"],
        "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12,
        "num_hidden_layers": 12, "projection_dim": 768, "hidden_act": "quick_gelu", "vocab_size": 49408,
        "max_position_embeddings": 77, "eos_token_id": 2,
    },
    "text_encoder_2": {
        "model_type": "t5", "architectures": ["T5EncoderModel"],
        "d_ff": 10240, "d_kv": 64, "d_model": 4096, "num_heads": 64,
        "num_layers": 24, "feed_forward_proj": "gated-gelu", "vocab_size": 32128,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
    },
    "vae": {
        "_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
        "latent_channels": 16, "norm_num_groups": 32, "scaling_factor": 0.3611, "shift_factor": 0.1159,
        "use_quant_conv": False, "use_post_quant_conv": False,
    },
    "scheduler": {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, "shift": 3.0},
}  # fmt: skip
"""The configs of FLUX.1-dev."""


def without_weights(folder: Path) -> Path:
    """FLUX.1-dev as it is published, without its weights."""
    tokenizers = Path(single_file.__file__).parent
    classes = {
        "transformer": "FluxTransformer2DModel",
        "vae": "AutoencoderKL",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    index: dict[str, Any] = {"_class_name": "FluxPipeline", **{name: ["diffusers", c] for name, c in classes.items()}}
    index |= {"text_encoder": ["transformers", "CLIPTextModel"], "text_encoder_2": ["transformers", "T5EncoderModel"]}
    index |= {"tokenizer": ["transformers", "CLIPTokenizer"], "tokenizer_2": ["transformers", "T5TokenizerFast"]}
    for name, config in {"": index, **FLUX}.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        file = "scheduler_config.json" if name == "scheduler" else "config.json" if name else "model_index.json"
        (folder / name / file).write_text(json.dumps(config))
    shutil.copytree(tokenizers / "clip_tokenizer", folder / "tokenizer")
    shutil.copytree(tokenizers / "t5_tokenizer", folder / "tokenizer_2")
    return folder


def test_a_published_flux_is_planned_by_its_configs(tmp_path: Path) -> None:
    pipe = sf.load(without_weights(tmp_path), dtype="bfloat16", manager=ComponentsManager(mover=NoMover()))
    plan = pipe.plan(prompt="a fox", num_inference_steps=4, height=1024, width=1024)
    numbers = {one.name: (one.bytes or 0) // 2 for one in plan.components}
    assert numbers == {
        "text_encoder": 123_060_480, "text_encoder_2": 4_762_310_656, "transformer": 11_901_408_320,
        "vae": 83_819_683,
    }  # fmt: skip
    assert all(one.missing for one in plan.components) and not plan.unknown
    step = sum(node.flops or 0 for node in plan.nodes if node.path == "denoise.predict") / 4
    assert 59e12 < step < 80e12


def test_a_plan_counts_the_bytes_to_download(hub: Hub) -> None:
    shutil.copytree(EMBEDDED, hub.root / "owner" / "emoji")
    pipe = sf.load("owner/emoji", manager=ComponentsManager())
    plan = pipe.plan(**CALL)
    files = [file for name in ("unet", "vae", "text_encoder") for file in (EMBEDDED / name).glob("*.safetensors")]
    assert not [name for name in hub.given if name.endswith(".safetensors")]
    assert plan.download_bytes == sum(file.stat().st_size for file in files) and not plan.unknown
    assert dict(plan.weights) == dict(sf.load("emoji", manager=ComponentsManager()).plan(**CALL).weights)
    pipe(**CALL)
    assert pipe.plan(**CALL).download_bytes == 0


def test_the_command_shows_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--set", "num_inference_steps=2", "--seed", "3", "--memo", "kept"]
    assert CliRunner().invoke(app, ["run", "a fox", "-o", "fox.png", *few]).exit_code == 0
    shown = CliRunner().invoke(app, ["plan", "a fox", "--json", "--budget", "20MB", *few])
    data = json.loads(shown.stdout)
    assert (shown.exit_code, data["fits"], data["flops"]) == (0, True, 0)
    assert {node["did"] for node in data["nodes"]} == {"reused", "skipped"}
    other = CliRunner().invoke(app, ["plan", "a cat", "--budget", "20MB", *few])
    assert other.exit_code == 1 and "9.0 MB too much" in other.stdout
