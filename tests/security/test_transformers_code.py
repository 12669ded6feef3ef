"""A component that wants transformers to run code of its folder, to ask for it, or to read files of this machine."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import sfumato as sf
from sfumato.components.loading.component_files import small_files_of
from sfumato.registry import UnknownName, hint_of, resolve, transformers_types

from .watched import Seen, run_watched

AUTO = ("AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor", "AutoConfig",
        "AutoFeatureExtractor", "AutoBackbone", "AutoModelForTextEncoding")  # fmt: skip
COMPOSITE = ("EncoderDecoderModel", "VisionEncoderDecoderModel", "VisionTextDualEncoderModel", "LlavaModel",
             "LlavaForConditionalGeneration", "SpeechEncoderDecoderModel", "RagModel", "Blip2Model", "CLIPModel",
             "ProcessorMixin", "PreTrainedModel", "DPTForDepthEstimation", "pipeline", "Pipeline")  # fmt: skip
CODE = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil", "evil.Evil"]}
NESTED = {"model_type": "evil", "auto_map": CODE}
BERT = {
    "model_type": "bert", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 16, "architectures": ["BertModel"],
}  # fmt: skip
VOCABULARY = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\n"
Case = tuple[list[str] | None, dict[str, Any]]  # a hint, and the JSON of each file

_LOAD = """
import warnings; warnings.simplefilter("ignore")
from sfumato import ComponentSpec, ComponentsManager, inspect, LoadError, ConfigError
RESULT = {}
for name, (hint, folder) in CASES.items():
    try:
        spec = ComponentSpec(type_hint=hint, pretrained_model_name_or_path=folder)
        inspect(folder)
        made = ComponentsManager().load(spec)
        RESULT[name] = ["loaded", type(made).__name__]
    except (LoadError, ConfigError) as error:
        RESULT[name] = ["refused", str(error)]
    except BaseException as error:
        RESULT[name] = ["raised", repr(error)]
"""


def cases() -> Iterator[tuple[str, Case]]:
    composite = {"model_type": "llava", "text_config": NESTED, "vision_config": NESTED, "encoder": NESTED,
                 "decoder": NESTED, "qformer_config": NESTED, "auto_map": CODE}  # fmt: skip
    for name in (*AUTO, *COMPOSITE):
        hint = ["transformers", name]
        yield f"hint {name}", (hint, {"config.json": {**composite, "architectures": [name]}})
        yield f"hint {name} of a tokenizer", (hint, {"tokenizer_config.json": {"tokenizer_class": name, **NESTED}})
        for auto in (["diffusers", "AutoModel"], ["transformers", "AutoTokenizer"], None):
            clean = {key: value for key, value in BERT.items() if key != "architectures"}
            yield f"{auto} then {name}", (auto, {"config.json": {**clean, "architectures": [name]}})
            yield f"{auto} then tokenizer_class {name}", (auto, {"tokenizer_config.json": {"tokenizer_class": name}})
    configs = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
               "generation_config.json", "preprocessor_config.json", "processor_config.json", "adapter_config.json",
               "chat_template.json", "video_preprocessor_config.json", "quantize_config.json")  # fmt: skip
    for file in configs:
        for depth, data in (("", {"auto_map": CODE}), ("deep", {"a": [{"b": {"auto_map": CODE}}]})):
            model = {"config.json": BERT, file: {**(BERT if file == "config.json" else {}), **data}}
            yield f"auto_map in {file} {depth} of a model", (["transformers", "BertModel"], model)
            yield f"auto_map in {file} {depth} of a tokenizer", (["transformers", "BertTokenizer"], {file: data})
            yield f"auto_map in {file} {depth} of ours", (["transformers", "CLIPTokenizer"], {file: data})
    for key in ("_attn_implementation", "attn_implementation", "_attn_implementation_internal",
                "_experts_implementation"):  # fmt: skip
        for value in ("evil/kernel", {"text_config": "evil/kernel:attend"}):
            yield f"{key} {value}", (["transformers", "BertModel"], {"config.json": {**BERT, key: value}})
    for value in ({"quant_method": "evil"}, {"quant_method": "gptq", "kernels": "evil/x"}, "evil", [1]):
        config = {**BERT, "quantization_config": value}
        yield f"quantization {value}", (["transformers", "BertModel"], {"config.json": config})
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "evil/x"}
    yield "an adapter", (["transformers", "BertModel"], {"config.json": BERT, "adapter_config.json": adapter})
    for key, value in (("vocab_size", 10**12), ("max_position_embeddings", 10**11), ("num_hidden_layers", 10**9)):
        yield f"{key} of {value}", (["transformers", "BertModel"], {"config.json": {**BERT, key: value}})
    backbone = {"backbone": "evil/x", "use_pretrained_backbone": True}
    yield "a backbone of the Hub", (["transformers", "BertModel"], {"config.json": {**BERT, **backbone}})


def harmless(secret: Path) -> Iterator[tuple[str, Case]]:
    """Configs whose entries have no effect: the class reads its own files, and a program chooses the rest."""
    bert = ["transformers", "BertModel"]
    yield "plain", (bert, {"config.json": BERT})
    for key, value in {
        "dtype": "load", "torch_dtype": "hub", "transformers_weights": f"../{secret.name}.safetensors",
        "_name_or_path": "evil/x", "name_or_path": "evil/x", "fusion_config": {"patch_embeddings": True},
        "_attn_implementation": "eager", "trust_remote_code": True, "custom_generate": "evil/x", "use_kernels": True,
    }.items():  # fmt: skip
        yield f"{key} of a model", (bert, {"config.json": {**BERT, key: value}})
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        for key in ("vocab_file", "tokenizer_file", "merges_file", "sp_model_kwargs", "name_or_path"):
            value = {"model_file": str(secret)} if key == "sp_model_kwargs" else str(secret)
            yield f"{key} in {file}", (["transformers", "BertTokenizer"], {file: {key: value}})
    template = {"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"}
    yield "a template", (["transformers", "BertTokenizer"], {"tokenizer_config.json": template})


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Iterator[tuple[str, Case]]], tuple[Seen, Path]]:
    """Write each case into a folder with code beside it, and load them all in one watched process."""

    def made(found: Iterator[tuple[str, Case]]) -> tuple[Seen, Path]:
        root = tmp_path_factory.mktemp("components")
        secret = root / "secret"
        secret.write_text(f"[UNK]\n[PAD]\n[CLS]\n[SEP]\n[MASK]\nprivate\n{root}\n")
        weights = bert_weights()
        placed: dict[str, Any] = {}
        for i, (name, (hint, files)) in enumerate(found):
            folder = root / f"{i}"
            folder.mkdir()
            for file, data in files.items():
                (folder / file).write_text(json.dumps(data))
            for module in ("evil", "modeling_evil", "tokenization_evil", "configuration_evil", "__init__"):
                (folder / f"{module}.py").write_text(f"open({str(root / 'proof')!r}, 'w').write({name!r})\n")
            (folder / "vocab.txt").write_text(VOCABULARY)
            save_file(weights, folder / "model.safetensors", {"format": "pt"})
            placed[name] = (hint, str(folder))
        return run_watched(_LOAD, root / "answers", CASES=placed), root

    return made


def bert_weights() -> dict[str, torch.Tensor]:
    from importlib import import_module

    transformers: Any = import_module("transformers")
    config = {key: value for key, value in BERT.items() if key != "architectures"}
    model = transformers.BertModel(transformers.BertConfig(**config))
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def nothing_happened(seen: Seen, root: Path) -> None:
    assert not (root / "proof").exists()
    assert seen.imported == []
    assert seen.stdin_read == 0
    assert seen.connected == []
    assert [event for event in seen.started if "evil" in event[1]] == []


def test_code_beside_a_component_is_refused_before_anything_could_run(make: Any) -> None:
    seen, root = make(cases())
    nothing_happened(seen, root)
    assert {name: found for name, found in seen.result.items() if found[0] != "refused"} == {}
    assert not [text for _, text in seen.result.values() if "trust" in text.lower()]
    assert len(seen.result) > 250


def test_settings_and_paths_in_configs_have_no_effect(make: Any, tmp_path: Path) -> None:
    def with_secret() -> Iterator[tuple[str, Case]]:
        yield from harmless(Path("/private/secret"))

    seen, root = make(with_secret())
    nothing_happened(seen, root)
    assert {name: found for name, found in seen.result.items() if found[0] != "loaded"} == {}
    assert not [path for path in seen.opened if path.startswith("/private")]


@pytest.mark.parametrize("name", [*transformers_types])
def test_every_listed_class_is_one_model_or_one_tokenizer(name: str) -> None:
    kind = resolve(["transformers", name])
    assert small_files_of(kind)
    assert not getattr(getattr(kind, "config_class", None), "sub_configs", {})
    if name != "PreTrainedTokenizerFast":  # another name for the base of all tokenizers
        assert hint_of(kind) in (("transformers", name), ("transformers", name.removesuffix("Fast")))


def test_a_program_lists_a_class_and_a_file_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hint = ("transformers", "RobertaModel")
    with pytest.raises(UnknownName, match=r"transformers_types\.add\('RobertaModel', cls\)"):
        resolve(hint)
    monkeypatch.setattr(transformers_types, "_table", {**vars(transformers_types)["_table"]})
    transformers_types.add("RobertaModel", "transformers:RobertaModel")
    config = {**BERT, "model_type": "roberta", "architectures": ["RobertaModel"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = resolve(hint)(resolve(hint).config_class.from_dict(config))
    save_file({name: tensor.contiguous() for name, tensor in made.state_dict().items()}, tmp_path / "model.safetensors")
    model = sf.load_component(tmp_path, "RobertaModel")
    assert type(model) is resolve(hint) and model.name_or_path == str(tmp_path)
    assert all(torch.equal(made.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


def test_shards_of_a_model_of_transformers_are_read(tmp_path: Path) -> None:
    weights = bert_weights()
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, some in shards.items():
        save_file({name: weights[name] for name in some}, tmp_path / file, {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(BERT))
    index = {"weight_map": {name: file for file, some in shards.items() for name in some}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    model = sf.load_component(tmp_path, "BertModel")
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
