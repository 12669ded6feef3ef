"""Train words: textual inversion (Gal et al. 2022), and pivotal tuning, which trains a LoRA besides."""

from collections.abc import Mapping, Sequence
from typing import Literal

from ...blocks.train.encode import EncodePosterior
from ...blocks.train.text import OBJECT, STYLE, CheckCaptions, DrawPrompts
from ...components.training.adapters import train_adapter
from ...components.training.together import TrainedTogether
from ...components.training.trained import Trained
from ...components.training.words import train_words
from ...graph import Graph
from .method import Method
from .objective import Objective
from .recipe import recipe

Templates = Literal["object", "style"] | Sequence[str] | None
_TEMPLATES: Mapping[str, tuple[str, ...]] = {"object": OBJECT, "style": STYLE}


def embedding(
    pipe: Graph,
    objective: Objective = Objective(),
    *,
    words: str | Sequence[str],
    vectors: int = 1,
    initializer: str | None = None,
    templates: Templates = "object",
    encoders: Sequence[str] | None = None,
    rank: int = 0,
    alpha: float | None = None,
    components: Sequence[str] | None = None,
    seed: int = 0,
) -> Method:
    """Train the vectors of words from a few pictures; with a `rank`, a LoRA besides (pivotal tuning).

    Args:
        pipe: a preset with a text encoder of CLIP.
        objective: choices of the recipe.
        words: the new words, as a prompt writes them: "<cat-toy>". Prompts have all of them.
        vectors: of each word.
        initializer: words of the vocabulary to start from; see `train_words`.
        templates: texts with "{}" for the words, or the name of such texts, of which one is drawn for each row. None
            takes the captions of the data, which need to have the words.
        encoders: text encoders that learn the words; None for all of CLIP's.
        rank: of a LoRA that is trained too; 0 for none.
        alpha, components, seed: of the LoRA; see `train_adapter`.

    Raises:
        ConfigError: see `train_words`.
    """
    trained: Trained = train_words(pipe, words, vectors, initializer=initializer, components=encoders)
    if rank:
        lora = train_adapter(pipe, components, rank=rank, alpha=alpha, seed=seed)
        trained = TrainedTogether({"words": trained, "lora": lora})
    graph = recipe(pipe)
    if templates is not None:
        text = words if isinstance(words, str) else " ".join(words)
        chosen = _TEMPLATES[templates] if isinstance(templates, str) else tuple(templates)
        first = next(iter(graph.nodes))  # the prompt is drawn before it is encoded, a text for each row of latents
        graph = graph.remove("posterior").insert("posterior", EncodePosterior(), before=first)
        graph = graph.insert("prompts", DrawPrompts(words=text, templates=chosen), after="posterior")
    elif not rank:
        known = (words,) if isinstance(words, str) else tuple(words)
        graph = graph.insert("captions", CheckCaptions(words=known), before=next(iter(graph.nodes)))
    return Method(objective.changed(graph), trained)
