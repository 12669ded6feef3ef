"""Embeddings in prompts, on the embedded model."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import sfumato as sf
from sfumato import ConfigError, Embedding, Graph, GraphFileError, InputError, LoadError, SaveError, UnfitValue
from sfumato.components.adapters.embedding import Vectors
from sfumato.components.adapters.reading import adapter_of
from sfumato.components.models import CLIPTextModel
from sfumato.components.models.token_table import ExtraRows, with_rows

WIDTH = 128


@pytest.fixture(scope="module")
def pipe() -> Graph:
    return sf.load("emoji").only("latents")


def rows(count: int = 2, seed: int = 0, width: int = WIDTH) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * 0.3


def embedding(token: str = "<cat-toy>", name: str = "cat", count: int = 2, seed: int = 0) -> Embedding:
    return Embedding(name, token, (Vectors("", rows(count, seed)),), "made here")


def latents(pipe: Graph, prompt: str | list[str] = "a <cat-toy> in a hat", **more: Any) -> Tensor:
    return pipe(prompt=prompt, **{"num_inference_steps": 2, "seed": 1, **more}).latents


def weights_hash(pipe: Graph) -> str:
    total = hashlib.sha256()
    for key, tensor in sorted(pipe.bindings["text_encoder"].load().state_dict().items()):
        total.update(key.encode() + tensor.numpy().tobytes())
    return total.hexdigest()


def tokens(pipe: Graph, text: str) -> list[int]:
    return pipe.adapted_bindings["tokenizer"].load().encode(text)


def test_a_call_and_a_graph_give_the_same_and_change_nothing(pipe: Graph) -> None:
    one = embedding()
    before, plain = weights_hash(pipe), latents(pipe)
    called = latents(pipe, adapters=[one])
    attached = pipe.with_adapters(one)
    assert torch.equal(called, latents(attached))
    assert (called - plain).abs().max() > 0.05
    assert torch.equal(plain, latents(pipe))
    assert torch.equal(latents(pipe, "a red apple"), latents(attached, "a red apple"))
    assert weights_hash(pipe) == before
    assert len(pipe.adapted_bindings["tokenizer"].load()) == len(attached.adapted_bindings["tokenizer"].load())


@pytest.mark.parametrize(
    "prompt", ["a embedding:cat in a hat", "a EMBEDDING:Cat.safetensors in a hat", "a embedding:<cat-toy> in a hat"]
)
def test_a_prompt_names_it_by_its_token_or_by_its_name(pipe: Graph, prompt: str) -> None:
    one = embedding()
    assert torch.equal(latents(pipe, prompt, adapters=[one]), latents(pipe, adapters=[one]))


def test_negative_prompts_read_it_too(pipe: Graph) -> None:
    one = embedding()
    given, plain = (latents(pipe, "a fox", negative_prompt=text, adapters=[one]) for text in ("<cat-toy>", ""))
    assert (given - plain).abs().max() > 0.01


def test_every_other_row_is_bit_equal(pipe: Graph) -> None:
    encoder = pipe.with_adapters(embedding()).adapted_bindings["text_encoder"].load()
    table = pipe.bindings["text_encoder"].load().text_model.embeddings.token_embedding
    ids = torch.arange(table.num_embeddings)[None]
    extended = encoder.text_model.embeddings.token_embedding
    assert torch.equal(extended(ids)[0], table.weight)
    assert torch.equal(extended(torch.tensor([[-1, -2]]))[0], rows())


def test_vectors_are_expanded_before_the_prompt_is_cut(pipe: Graph) -> None:
    many = embedding(count=20)
    ids = tokens(pipe.with_adapters(many), "<cat-toy> <cat-toy> <cat-toy>")
    assert ids[1:-1] == [*range(-1, -21, -1)] * 3
    chunked = latents(pipe, "<cat-toy> <cat-toy> <cat-toy>", adapters=[many], long_prompt="chunk")
    with pytest.warns(UserWarning, match="Dropped: '<cat-toy>'"):
        cut = latents(pipe, "<cat-toy> <cat-toy> <cat-toy>", adapters=[many])
    assert (chunked - cut).abs().max() > 1e-3


def test_a_word_is_not_found_inside_a_longer_one(pipe: Graph) -> None:
    attached = pipe.with_adapters(embedding("art", "art"))
    assert tokens(attached, "a party, arts") == tokens(pipe, "a party, arts")
    assert -1 in tokens(attached, "(Art:1.2)")


def test_a_word_of_the_vocabulary_is_the_embedding_and_is_logged(pipe: Graph, caplog: pytest.LogCaptureFixture) -> None:
    attached = pipe.with_adapters(embedding("red"))
    with caplog.at_level("INFO", "sfumato"):
        assert -1 in tokens(attached, "a red apple")
    assert "red: the word is in the vocabulary too. In this graph it is the embedding." in caplog.messages
    assert -1 not in tokens(pipe, "a red apple")


def test_a_name_that_is_not_attached_is_refused(pipe: Graph) -> None:
    with pytest.raises(UnfitValue) as caught:
        latents(pipe, "a embedding:dog, small")
    assert "The prompt names embedding:dog, and the graph has no embedding of that name. " in str(caught.value)
    assert "Write adapters=[sf.load_embedding('dog.safetensors')]." in str(caught.value)
    with pytest.raises(UnfitValue, match="Did you mean 'cat'"):
        latents(pipe, "fox", negative_prompt="embedding:cats", adapters=[embedding()])


def test_two_graphs_are_independent(pipe: Graph) -> None:
    one, other = (pipe.with_adapters(embedding(seed=seed)) for seed in (0, 1))
    first, second = latents(one), latents(other)
    assert (first - second).abs().max() > 0.05
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(latents, [one, other] * 4))
    for i, result in enumerate(results):
        assert torch.equal(result, (first, second)[i % 2])


def test_embeddings_and_a_lora_of_the_text_encoder_work_together(pipe: Graph, tmp_path: Path) -> None:
    """Equal to the merged LoRA with the embedding, within 1e-5 of the range of the latents."""
    text = pipe.bindings["text_encoder"].load()
    tensors = {
        "text_encoder.text_model.embeddings.token_embedding.diff": torch.full((2048, WIDTH), 0.01),
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": rows(2, 3),
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight": rows(2, 4).T.contiguous(),
    }
    assert text.text_model.embeddings.token_embedding.num_embeddings == 2048
    save_file(tensors, tmp_path / "lora.safetensors")
    lora, cat = sf.load_adapter(tmp_path / "lora.safetensors"), embedding()
    both = latents(pipe, adapters=[lora, cat])
    assert torch.equal(both, latents(pipe.with_adapters(cat).with_adapters(lora)))
    assert torch.equal(both, latents(pipe.with_adapters(lora), adapters=[cat]))
    merged = pipe.with_adapters(lora, cat).merged()
    assert (latents(merged) - both).abs().max() <= 1e-5 * both.abs().max()
    assert (latents(pipe, adapters=[cat]) - both).abs().max() > 1e-3
    for row, prompts in enumerate((["a <cat-toy>", "a fox"],)):
        lists = latents(pipe, prompts, adapters=[[lora], [cat]], seed=[1, 2])
        assert torch.allclose(lists[row], latents(pipe, prompts[row], adapters=[lora, cat], seed=1)[0], atol=1e-4)


def test_words_are_unique(pipe: Graph) -> None:
    one = embedding()
    assert latents(pipe.with_adapters(one), adapters=[one]).shape  # the same value twice is one
    with pytest.raises(ConfigError, match=r"two embeddings have the token '<cat-toy>'\. Pass token= to"):
        pipe.with_adapters(one, embedding(name="other"))
    with pytest.raises(ConfigError, match=r"two embeddings have the name 'CAT'\. Pass name= to"):
        pipe.with_adapters(one, embedding("<other>", "CAT"))


def test_a_wrong_width_names_both(pipe: Graph) -> None:
    wide = Embedding("wide", "wide", (Vectors("", rows(width=1024)),), "wide.pt")
    with pytest.raises(ConfigError) as caught:
        pipe.with_adapters(wide)
    assert str(caught.value) == (
        "adapters: the embedding 'wide' (wide.pt) has vectors of width 1024 (SD 2), and the graph has text_encoder of "
        "width 128. Use an embedding that was trained for this family."
    )


@pytest.mark.parametrize("how", ["save", "save_pretrained"])
def test_a_graph_with_embeddings_survives_its_file(how: str, tmp_path: Path) -> None:
    pivotal = Embedding("style", "<s0>.x", (Vectors("clip_l", rows(1, 3), rows(1, 4)), Vectors("t5", rows(1, 5))))
    attached = sf.load("emoji").with_adapters(embedding(), pivotal)
    getattr(attached, how)(tmp_path / "saved")
    (tmp_path / "saved").rename(tmp_path / "moved")
    again = sf.load(tmp_path / "moved")
    assert repr(again.adapters) == repr(attached.adapters)
    prompt = "a <cat-toy> and embedding:style"
    assert torch.equal(latents(again.only("latents"), prompt), latents(attached.only("latents"), prompt))


def test_a_damaged_embedding_beside_a_graph_is_refused(tmp_path: Path) -> None:
    sf.load("emoji").with_adapters(embedding()).save(tmp_path)
    save_file({"emb_params": torch.full((1, WIDTH), torch.nan)}, tmp_path / "adapters/1/embedding.safetensors")
    with pytest.raises(GraphFileError, match="'emb_params' has NaN or infinite numbers"):
        sf.load(tmp_path)


def bundle(pipe: Graph) -> sf.Adapter:
    """A LoRA of one layer, and an embedding in its file."""
    path, layer = next((p, m) for p, m in pipe.bindings["unet"].load().named_modules() if p.endswith("attn1.to_q"))
    lora = {f"unet.{path}.lora_A.weight": rows(2, width=layer.in_features)}
    lora[f"unet.{path}.lora_B.weight"] = rows(layer.out_features, width=2)
    words = {"bundle_emb.<kat>.clip_l": rows(2, 6), "bundle_emb.<kat>.clip_l_out": rows(2, 7)}
    return adapter_of({**lora, **words}.items(), name="both", source="made here")


@pytest.mark.parametrize("layout", ["kohya", "comfy"])
def test_embeddings_in_the_file_of_an_adapter_are_saved(layout: Any, pipe: Graph, tmp_path: Path) -> None:
    both = bundle(pipe)
    again = sf.load_adapter(both.save(tmp_path / "a.safetensors", layout, pipe=pipe))
    (one,), (other,) = both.content.embeddings, again.content.embeddings
    assert (other.token, other.vectors[0].encoder) == ("<kat>", "clip_l")
    for name in ("inputs", "outputs"):
        assert torch.equal(getattr(other.vectors[0], name), getattr(one.vectors[0], name))


def test_embeddings_of_an_adapter_without_a_file_are_saved_with_the_graph(pipe: Graph, tmp_path: Path) -> None:
    attached = pipe.with_adapters(bundle(pipe))
    attached.save(tmp_path)
    assert torch.equal(latents(sf.load(tmp_path), "a <kat>"), latents(attached, "a <kat>"))


def test_the_layout_without_embeddings_is_refused(pipe: Graph, tmp_path: Path) -> None:
    with pytest.raises(SaveError, match=r"has embeddings \(<kat>\), which the layout 'peft' cannot express"):
        bundle(pipe).save(tmp_path / "a.safetensors", pipe=pipe)
    with pytest.raises(SaveError, match=r"a\.pt: needs a name that ends with \.safetensors\."):
        bundle(pipe).save(tmp_path / "a.pt", "kohya", pipe=pipe)


def test_what_an_embedding_does_not_have_is_explained(pipe: Graph, tmp_path: Path) -> None:
    one = embedding()
    with pytest.raises(
        AttributeError, match=r"^An embedding has no strength, so it has no 'scaled'\. Write the weight"
    ):
        one.scaled(0.5)
    with pytest.raises(InputError, match="'cat' is an embedding, which has no strength"):
        latents(pipe.with_adapters(one), adapters={"cat": 0.5})
    save_file({"<cat-toy>": rows()}, tmp_path / "cat.safetensors")
    with pytest.raises(
        LoadError, match=r"is an embedding, which is a word of the prompt\. Load it with sf\.load_embed"
    ):
        sf.load_adapter(tmp_path / "cat.safetensors")


def encoder(**config: Any) -> CLIPTextModel:
    torch.manual_seed(0)
    keys = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return CLIPTextModel.from_config({**keys, "vocab_size": 10, "eos_token_id": 9, **config}).eval()


def test_the_end_token_is_found_with_the_wrong_id_of_old_configs() -> None:
    """SDXL's second encoder has such a config. With ids above the vocabulary, CLIP would pool the embedding's place."""
    extra = ExtraRows(rows(2, width=16))
    ids = torch.tensor([[8, -1, -2, 3, 9, 9]])
    old, new = (with_rows(encoder(**config), TABLE, extra) for config in ({"eos_token_id": 2}, {}))
    assert torch.equal(old(ids).pooler_output, new(ids).pooler_output)
    assert torch.equal(old(ids).pooler_output, old(ids).last_hidden_state[:, 4])


TABLE = "text_model.embeddings.token_embedding"


def test_vectors_for_the_output_stand_in_all_states() -> None:
    outputs = rows(2, 5, width=16)
    extra = ExtraRows(rows(2, width=16), outputs, torch.tensor([False, True]))
    model, ids = encoder(), torch.tensor([[8, -1, -2, 3, 9]])
    plain = with_rows(model, TABLE, ExtraRows(extra.inputs))(ids, output_hidden_states=True)
    out = with_rows(model, TABLE, extra)(ids, output_hidden_states=True)
    for state, before in zip((out.last_hidden_state, *out.hidden_states[1:]),
                             (plain.last_hidden_state, *plain.hidden_states[1:]), strict=True):  # fmt: skip
        assert torch.equal(state[0, 2], outputs[1])
        assert torch.equal(state[0, [0, 1, 3, 4]], before[0, [0, 1, 3, 4]])
    assert torch.equal(out.pooler_output, plain.pooler_output)


def test_ids_below_the_rows_are_refused() -> None:
    model = with_rows(encoder(), TABLE, ExtraRows(rows(2, width=16)))
    with pytest.raises(UnfitValue, match="got -3"):
        model(torch.tensor([[-3]]))
