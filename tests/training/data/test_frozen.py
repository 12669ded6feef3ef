"""The frozen part of a recipe: computed once for each sample, and never met by another."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image

import sfumato as sf
from sfumato.components.random import Random
from sfumato.components.types import Images, Latents, Mask
from sfumato.graph import Block, Graph, UnfitValue, component, named
from sfumato.graph.memo import memo
from sfumato.presets import sdxl
from sfumato.presets.training.data import Captions, FrozenPart, TrainingData, freeze, load_data
from sfumato.presets.training.data.frozen import joined
from sfumato.presets.training.recipe import recipe

WORDS = ("fox", "owl", "cat", "dog", "cow")


def pictures(folder: Path, *, size: int = 64, crop: Any = "random") -> TrainingData:
    """Pictures of noise with captions and masks."""
    folder.mkdir(exist_ok=True)
    for i, word in enumerate(WORDS):
        noise = torch.randint(256, (48, 80, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        if not (folder / f"{word}.png").exists():
            Image.fromarray(noise.numpy()).save(folder / f"{word}.png")
            Image.fromarray(noise[..., 0].numpy()).save(folder / f"{word}-masklabel.png")
        (folder / f"{word}.txt").write_text(f"a {word}, red, small")
    return load_data(folder, size=size, crop=crop, flip=0.5, captions=Captions(shuffle=True, dropout=0.2))


@pytest.fixture
def forwards(emoji: Graph, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The rows that went through the encoders, by component."""
    counts = Counter[str]()
    vae, text = (emoji.bindings[name].load() for name in ("vae", "text_encoder"))

    def counted(owner: Any, method: str, name: str) -> None:
        plain = getattr(owner, method)

        def call(self: Any, rows: Any, *more: Any, **keywords: Any) -> Any:
            counts[name] += len(rows)
            return plain(self, rows, *more, **keywords)

        monkeypatch.setattr(owner, method, call)

    counted(type(vae), "moments", "vae")
    counted(type(text), "forward", "text_encoder")
    return counts


def test_the_emoji_recipe_is_divided_at_what_is_trained(emoji: Graph):
    whole = recipe(emoji)

    def part(*trained: str) -> tuple[list[str], dict[str, str]]:
        frozen = freeze(whole, trained, memo())
        return list(frozen.graph.nodes) if frozen.graph else [], dict(frozen.names)

    both = {"posterior": "posterior", "positive": "positive"}
    assert part("unet") == (["positive", "posterior"], both)
    assert part("unet", "text_encoder") == (["posterior"], {"posterior": "posterior"})
    assert part("vae") == (["positive"], {"positive": "positive"})
    assert part("unet", "vae", "text_encoder") == ([], {})
    rest = freeze(whole, ["unet"], memo()).recipe
    assert {"pixels", "prompt"}.isdisjoint(rest.inputs) and {"posterior", "positive", "random"} <= rest.inputs.keys()
    assert not {"vae", "text_encoder", "tokenizer"} & rest.components.keys()


def test_prompts_of_sdxl_are_frozen_whatever_their_sizes_read():
    frozen = freeze(recipe(sdxl.text2image()), ["unet"], memo())
    assert {"positive", "posterior"} <= set(frozen.names.values())
    assert {"sample", "timesteps", "noise"} <= set(frozen.recipe.nodes)


def test_cached_is_uncached_under_shuffling(emoji: Graph, tmp_path: Path):
    whole = recipe(emoji).bind(unet=emoji.bindings["unet"].load())
    batches = pictures(tmp_path).batches(2, recipe=whole, seed=3)
    frozen = freeze(whole, ["unet"], memo())
    kept = frozen.batches(batches)
    for epoch in range(2):
        assert len(kept.epoch(epoch)) == len(batches.epoch(epoch)) == 3
        for plain, cached in zip(batches.epoch(epoch), kept.epoch(epoch), strict=True):
            assert (plain.names, plain.places) == (cached.names, cached.places)
            values = cached.load()
            for row, sample in enumerate(plain.samples):  # its own picture, crop and caption
                encoded = whole.only("posterior")(pixels=sample.read("pixels")).posterior
                assert torch.equal(values["posterior"].mean[row : row + 1], encoded.mean)
                text = whole.only("positive")(prompt=sample.prompt).positive
                assert torch.equal(values["positive"].tokens[row : row + 1], text.tokens)
        random, pair = Random.seeded([1, 2]), (batches.epoch(epoch)[0], kept.epoch(epoch)[0])
        wanted, got = (graph(**b.load(), random=random) for graph, b in zip((whole, frozen.recipe), pair, strict=True))
        torch.testing.assert_close(got.losses, wanted.losses, rtol=0, atol=1e-6)


def test_each_distinct_sample_is_encoded_once(emoji: Graph, tmp_path: Path, forwards: Counter[str]):
    whole = recipe(emoji)
    batches = pictures(tmp_path, crop="center").batches(2, recipe=whole)
    samples = [s for epoch in range(6) for batch in batches.epoch(epoch) for s in batch.samples]

    def encoded(kept: Any) -> dict[str, int]:
        forwards.clear()
        frozen = freeze(whole, ["unet"], kept).batches(batches)
        for epoch in range(6):
            for batch in frozen.epoch(epoch):
                batch.load()
        return dict(forwards)

    distinct = {"vae": len({(s.name, s.placement) for s in samples}), "text_encoder": len({s.prompt for s in samples})}
    assert distinct["vae"] < len(samples) and distinct["text_encoder"] < len(samples)
    assert encoded(memo(tmp_path / "memo")) == distinct
    assert encoded(memo(tmp_path / "memo")) == {}  # another training with the same folder


@pytest.mark.parametrize("change", ["size", "crop", "picture", "caption", "model"])
def test_a_change_never_meets_a_stale_value(emoji: Graph, tmp_path: Path, forwards: Counter[str], change: str):
    vae = sf.models.AutoencoderKL.from_config(emoji.bindings["vae"].load().to_config())
    vae.load_state_dict(emoji.bindings["vae"].load().state_dict())
    whole, kept = recipe(emoji).bind(vae=vae), memo()

    def encoded(data: TrainingData) -> dict[str, int]:
        forwards.clear()
        for batch in freeze(whole, ["unet"], kept).batches(data.batches(5, recipe=whole)).epoch(0):
            batch.load()
        return dict(forwards)

    first = encoded(pictures(tmp_path, crop="center"))
    assert first["vae"] == len(WORDS)
    if change == "size":
        assert encoded(pictures(tmp_path, crop="center", size=32)) == {"vae": 5}
    elif change == "crop":
        assert encoded(pictures(tmp_path, crop="random")) == {"vae": 5}
    elif change == "picture":
        Image.new("RGB", (80, 48), "red").save(tmp_path / "fox.png")
        assert encoded(pictures(tmp_path, crop="center")) == {"vae": 1}
    elif change == "caption":
        data = load_data([{"image": Image.open(tmp_path / "fox.png"), "text": "a caption"}], size=64)
        assert encoded(data) == {"vae": 1, "text_encoder": 1}
    else:
        with torch.no_grad():
            next(vae.parameters()).mul_(1.5)
        assert encoded(pictures(tmp_path, crop="center")) == {"vae": 5}


def test_models_are_looked_at_once_for_a_batch(emoji: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = recipe(emoji)
    (batch,) = freeze(whole, ["unet"], memo()).batches(pictures(tmp_path).batches(5, recipe=whole)).epoch(0)
    handle, looked = type(emoji.bindings["vae"]), Counter[str]()
    plain = handle.content_key

    def content_key(self: Any) -> Any:
        looked[self.name] += 1
        return plain(self)

    monkeypatch.setattr(handle, "content_key", content_key)
    for times in (1, 2):
        batch.load()
        assert looked.total() == 3 * times  # the autoencoder, the text encoder and the tokenizer


# ------------------------------------------------------------------------------------------------ graphs of any kind
class Made(NamedTuple):
    x: Latents


class Changed(NamedTuple):
    x: Latents


class Learnt(NamedTuple):
    y: Latents


class Lost(NamedTuple):
    loss: Latents


class Make(Block):
    """Make a value of pixels."""

    def __call__(self, pixels: Images) -> Made:
        return Made(pixels[:, :1] + pixels[:, 1:2])


class Change(Block):
    """Change it by the mask."""

    def __call__(self, x: Latents, mask: Mask) -> Changed:
        return Changed(x * mask)


class Draw(Block):
    """Add random numbers."""

    def __call__(self, x: Latents, random: Random) -> Lost:
        noise, _ = random.draw(len(x), x.shape[1:])
        return Lost(x + noise)


class Learn(Block):
    """Scale by what is trained."""

    scale: torch.nn.Module = component()

    def __call__(self, x: Latents) -> Learnt:
        return Learnt(self.scale(x))


def divided(graph: Graph, *trained: str) -> FrozenPart:
    return freeze(graph, trained, memo())


def losses(part: FrozenPart, whole: Graph) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of a batch by the two parts, and by the whole recipe."""
    row = {"image": Image.new("RGBA", (6, 6), (200, 100, 0, 128)), "text": "a fox"}
    batches = load_data([row, row], size=6, alpha_mask=True).batches(2, recipe=whole)
    random = Random.seeded([0, 1])
    return (
        part.recipe(**part.batches(batches).epoch(0)[0].load(), random=random).loss,
        whole(**batches.epoch(0)[0].load(), random=random).loss,
    )


def test_the_last_of_several_values_of_one_name_is_passed():
    whole = Graph(make=Make(), change=Change(), draw=Draw(), outputs=("loss",))
    part = divided(whole)
    assert list(part.recipe.nodes) == ["draw"] and dict(part.names) == {"x": "x"}
    assert torch.equal(*losses(part, whole))


def test_a_node_that_hides_a_value_which_the_rest_reads_is_left_to_the_rest():
    nodes = Graph(make=Make(), change=Change(), learn=Learn(), draw=Draw(), outputs=("loss", "y"))
    whole = nodes.wire("learn.x", "make.x").bind(scale=torch.nn.Identity())
    part = divided(whole, "scale")
    assert list(part.recipe.nodes) == ["change", "learn", "draw"] and dict(part.names) == {"x": "x"}
    assert torch.equal(*losses(part, whole))


def test_a_value_that_the_recipe_gives_out_is_left_to_the_rest():
    whole = Graph(make=Make(), draw=Draw(), outputs=("loss", "x"))
    assert divided(whole).names == {} and divided(whole).recipe is whole


def test_a_value_whose_name_is_another_input_gets_the_name_of_its_node():
    whole = Graph(before=named(Draw(), loss="other"), make=Make(), draw=Draw(), outputs=("loss", "other"))
    part = divided(whole)
    assert dict(part.names) == {"x": "make_x"} and {"x", "make_x"} <= part.recipe.inputs.keys()


@pytest.mark.parametrize("value", [torch.ones(1, 2), (1,), Made(torch.ones(1, 1, 1, 1)), "same", None])
def test_rows_are_joined(value: Any):
    both = joined([value, value])
    if isinstance(value, torch.Tensor):
        assert both.shape == (2, 2)
    elif isinstance(value, Made):
        assert both.x.shape == (2, 1, 1, 1)
    else:
        assert both == ((1, 1) if value == (1,) else value)


def test_values_without_rows_that_differ_are_refused():
    with pytest.raises(UnfitValue, match="Rows of float cannot be joined to a batch"):
        joined([1.0, 2.0])
