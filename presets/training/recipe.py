"""A recipe: the graph of a training step, made from the graph that draws pictures.

The nodes that encode the prompt and those that make the denoiser a function are those of the preset. The nodes around
them encode pictures, add noise at drawn timesteps, and compare the prediction with its target.
"""

from collections.abc import Collection, Iterable, Mapping

from ...blocks.text.rows import ExpandRows
from ...blocks.train.encode import CentrePixels, EncodePosterior, SamplePosterior
from ...blocks.train.losses import MeanSquaredError
from ...blocks.train.noise import AddNoise, DrawTrainingNoise
from ...blocks.train.predict import MakeTarget, PredictRows
from ...blocks.train.timesteps import DrawTimesteps, MakeTrainingSchedule
from ...blocks.train.weights import WeightEqually
from ...graph import Block, ConfigError, Graph, Loop, named
from ...graph.paths import without_names
from ...graph.structure import Structure
from ...graph.wiring import INPUTS
from .pictures import PICTURES, nodes_of_pictures

LOOP, GUIDER = "denoise", "guider"
"""The names that all presets give to the loop over the steps, and to the guider in it."""
OUTPUTS = "loss", "losses", "random"


def recipe(preset: Graph, more: Collection[str] = ()) -> Graph:
    """The graph of a training step for the denoiser of a preset, bound to the preset's components.

    Inputs: `pixels` (rows, 3, height, width) from 0 to 1, `random`, and those of the nodes that encode the prompt. A
    denoiser that reads pictures besides has inputs for them: `mask` (rows, 1, height, width), or `control_image` (rows,
    3, height, width), which is the reference image of Flux Kontext too.
    Outputs: `loss` (), `losses` (rows,) and `random`. Replace a node to train otherwise:
    `recipe(pipe).replace("weight", WeightByMinSNR())`.

    more: further values that the loop of the preset reads, and that the recipe makes too: "negative".

    Raises:
        ConfigError: a graph without a denoising loop, or one with adapters.
    """
    loop = preset.nodes.get(LOOP)
    if not isinstance(loop, Loop):
        raise ConfigError(
            f"A recipe is made from a graph with a loop named {LOOP!r}, got one with {', '.join(preset.nodes)}. "
            "Use a graph of sf.load."
        )
    if preset.adapters is not None:
        raise ConfigError(
            "A recipe is made from a graph without adapters, and this one has some. Put them into the weights: "
            "pipe.merged()."
        )
    denoiser = _makers_of_predict(loop.body)
    wanted = {e.input for e in loop.body.edges if e.taker in denoiser and e.giver == INPUTS}
    wanted |= {"positive", *more}
    if "latent_mask" in wanted:
        wanted.add("rows")
    encoders = _before(preset, _makers(preset, wanted.difference(PICTURES)))
    encode = {name: block for name, block in preset.nodes.items() if name in encoders}
    sized = next((i for i, block in enumerate(encode.values()) if "latents" in block.signature.inputs), len(encode))
    before: Mapping[str, Block] = {
        **dict([*encode.items()][:sized]),
        **_makers_of_latents(preset),
        **nodes_of_pictures(wanted),
        "noise": DrawTrainingNoise(),
        **{name: _sized_by_noise(block) for name, block in [*encode.items()][sized:]},
        "schedule": MakeTrainingSchedule(),
        "timesteps": DrawTimesteps(),
        "add_noise": AddNoise(),
        "target": MakeTarget(),
    }
    after = {"predict_rows": PredictRows(), "weight": WeightEqually(), "loss": MeanSquaredError()}
    graph = Graph({**before, **denoiser, **after}, outputs=(*OUTPUTS, *more))
    return graph.with_bindings({name: value for name, value in preset.bindings.items() if name in graph.components})


def _makers_of_latents(preset: Structure) -> Mapping[str, Block]:
    """The nodes that make clean latents of pixels."""
    if "vae" not in preset.components:
        return {"sample": CentrePixels()}
    return {"posterior": EncodePosterior(), "sample": SamplePosterior()}


def _makers(preset: Structure, names: Collection[str]) -> Iterable[str]:
    """The nodes that make values which the loop reads, or others by their names."""
    read = {e.input: e.giver for e in preset.edges if e.taker == LOOP}
    made = {name: node for node, block in preset.nodes.items() for name in block.signature.outputs}
    return [read.get(name, made.get(name, INPUTS)) for name in names]


def _sized_by_noise(block: Block) -> Block:
    """The block, with the size of the picture read from the noise of training, in place of that of the first step."""
    return named(block, latents="noise") if "latents" in block.signature.inputs else block


def _makers_of_predict(body: Structure) -> Mapping[str, Block]:
    """The nodes of the loop that make the function `predict` which the guider reads."""
    kept = _before(body, (e.giver for e in body.edges if e.taker == GUIDER and e.input == "predict"))
    return {name: block for name, block in body.nodes.items() if name in kept}


def _before(graph: Structure, nodes: Iterable[str]) -> set[str]:
    """These nodes, and all whose outputs they read, but those that make the first noise.

    One that repeats rows is left out: a prompt has one picture.
    """
    found: set[str] = set()
    waiting = [*nodes]
    while waiting:
        name = waiting.pop()
        if name == INPUTS or name in found:
            continue
        block, _ = without_names(graph.nodes[name])
        repeats = isinstance(block, ExpandRows)
        if not repeats:
            found.add(name)
        unread = {"latents", "rows"} if repeats else {"latents"}
        waiting += [e.giver for e in graph.edges if e.taker == name and e.input not in unread]
    return found
