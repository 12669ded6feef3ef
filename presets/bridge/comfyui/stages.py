"""One sampler of a workflow as a graph: the preset's, without its encoders and its decoder."""

from typing import NamedTuple

from ....blocks.control.prompt_parts import AveragePrompts
from ....blocks.guiders.none import NoGuidance
from ....blocks.latents.continued import ContinueLatents, SliceSchedule
from ....graph import Block, Graph, named
from .hole import Hole
from .parts import Parts
from .pipelines import with_shown
from .preset_form import net_inputs
from .run_blocks import AddSizesToPrompts
from .sampling import PROCESS, kept_by_floor, kept_by_flow, part_of
from .values import Cond, Empty, Encoded, Guider, Several, Stage, Value


class StageGraph(NamedTuple):
    """A sampler. encoder: the preset's block for prompts. inputs: literals, pictures, and outputs of other nodes."""

    graph: Graph
    encoder: Block
    inputs: dict[str, Value]


def stage_graph(stage: Stage, parts: Parts, notes: list[str], *, first: bool) -> StageGraph:
    """The graph of one sampler. Its inputs are `positive`, `negative`, `image_latents`, and those of the preset."""
    guider, model = stage.guider, stage.guider.model
    first_prompt = guider.positive.parts[0].prompt if isinstance(guider.positive, Several) else guider.positive
    positive = first_prompt if isinstance(first_prompt, Cond) else None
    # A picture that is read as channels beside the prompt says the size alone.
    shown = positive.shown if positive and positive.shown and positive.shown.mask is None else None
    fresh = isinstance(stage.latents, Empty) or (shown is not None and isinstance(stage.latents, Encoded))
    task = "text2image" if fresh else "image2image"
    controls = positive.controls if positive else ()
    graph = parts.preset(model, positive and positive.clip, task, controls)
    graph = with_shown(graph, model, parts.files) if shown else graph
    encoder = graph.nodes["positive"]
    graph = parts.scheduled(graph, stage)
    inputs: dict[str, Value] = net_inputs(model, controls)
    for i, patch in enumerate(model.patches):
        hole = Hole(node=patch.kind, title=patch.node, takes=(("predict", "MODEL"),), gives=(("predict", "MODEL"),))
        graph = graph.insert(f"patch{f'_{i + 1}' if i else ''}", hole, before="denoise.guider")
    if guider.negative is None or guider.cfg == 1:
        graph = graph.replace("denoise.guider", NoGuidance())
    graph = _with_several(_with_part(graph, stage), guider)
    graph = graph.only("latents")
    for name in ("positive", "negative", "match", "zero_negative", "encode_image", "read"):
        graph = graph.remove(name) if name in graph.nodes else graph
    if shown is not None and "control_image" in graph.inputs:
        inputs["control_image"] = shown.image
    elif positive is not None and positive.shown is not None:
        notes.append(f"the sampler {stage.node} reads a picture as channels, which this graph leaves out")
    if positive is not None and (positive.references or positive.styles):
        notes.append(f"the sampler {stage.node} reads pictures beside the prompt, which this graph leaves out")
    if isinstance(stage.latents, Encoded) and stage.latents.mask is not None:
        notes.append(f"the mask of the sampler {stage.node} is left out: all of its picture is painted")
    inputs |= _settings(stage, graph)
    return StageGraph(graph, encoder, {name: value for name, value in inputs.items() if name in graph.inputs})


def _with_several(graph: Graph, guider: Guider) -> Graph:
    """The graph that reads several prompts, as `prompt_parts` and `negative_parts`."""
    for prompt, role, port in (
        (guider.positive, "positive", "prompt_parts"),
        (guider.negative, "negative", "negative_parts"),
    ):
        if not isinstance(prompt, Several) or role not in graph["denoise.guider"].signature.inputs:
            continue
        average = AveragePrompts(role="negative") if role == "negative" else AveragePrompts()
        graph = graph.insert(f"average_{role}", named(average, prompt_parts=port), before="denoise.guider")
        if "sizes" in graph.nodes:
            sizes = "negative_sizes" if role == "negative" else "sizes"
            graph = graph.insert(
                f"size_{port}", named(AddSizesToPrompts(), prompt_parts=port, sizes=sizes), before="start"
            )
    return graph


def _with_part(graph: Graph, stage: Stage) -> Graph:
    """The part of the steps that a KSamplerAdvanced takes, and no noise where it adds none."""
    sigmas = stage.sigmas
    if sigmas.start or sigmas.end is not None:
        last = "cut" if "cut" in graph.nodes else "schedule"
        graph = graph.insert("slice", SliceSchedule(), after=last)
    if stage.noise.seed is None and not isinstance(stage.latents, Empty):
        graph = graph.replace("start", ContinueLatents())
    return graph


def _settings(stage: Stage, graph: Graph) -> dict[str, Value]:
    """The inputs that a sampler's node sets."""
    sigmas, guider, family = stage.sigmas, stage.guider, stage.guider.model.family
    made: dict[str, Value] = {"num_inference_steps": sigmas.steps, "seed": stage.noise.seed or 0}
    if sigmas.levels:
        made["sigmas"] = list(sigmas.levels)
    if sigmas.timesteps:
        made["timesteps"] = list(sigmas.timesteps)
    if isinstance(stage.latents, Empty):
        latents = stage.latents
        made |= {"height": latents.height, "width": latents.width, "num_images_per_prompt": latents.batch}
    elif isinstance(sigmas.steps, int) and isinstance(sigmas.denoise, int | float):
        kept = kept_by_flow if PROCESS[family] == "flow" else kept_by_floor
        part = part_of(sigmas.steps, sigmas.denoise, kept)
        made |= {"num_inference_steps": part.steps, "strength": part.strength}
    if sigmas.start:
        made["start_at_step"] = sigmas.start
    if sigmas.end is not None:
        made["end_at_step"] = sigmas.end
    positive = guider.positive.parts[0].prompt if isinstance(guider.positive, Several) else guider.positive
    if family == "flux":
        made["guidance_scale"] = 3.5
        if isinstance(positive, Cond) and positive.guidance is not None:
            made["guidance_scale"] = positive.guidance
        made["true_cfg_scale"] = guider.cfg
    else:
        made["guidance_scale"] = guider.cfg
    if guider.model.rescale:
        made["guidance_rescale"] = guider.model.rescale
    return made
