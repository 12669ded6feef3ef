"""The classes of the transformers library that a file may name."""

from .names import Names

_TOWERS = (
    "BertModel",
    "CLIPVisionModel",
    "Gemma2Model",
    "GemmaModel",
    "LlamaForCausalLM",
    "LlamaModel",
    "MT5EncoderModel",
    "Qwen2Model",
    "Qwen3ForCausalLM",
    "Qwen3Model",
)
_TOKENIZERS = (
    "BertTokenizer",
    "BertTokenizerFast",
    "GemmaTokenizer",
    "GemmaTokenizerFast",
    "LlamaTokenizer",
    "LlamaTokenizerFast",
    "PreTrainedTokenizerFast",
    "Qwen2Tokenizer",
    "Qwen2TokenizerFast",
)

transformers_types = Names("transformers_type", {name: f"transformers:{name}" for name in (*_TOWERS, *_TOKENIZERS)})
"""Classes that files may name beside those that this library has itself (`native`): each is one model or one tokenizer
with a config of its own. Auto classes and classes that hold several models are missing, since their configs choose the
code that runs. A program or a plug-in adds a class: `sfumato.registry.transformers_types.add("DPTForDepthEstimation",
"transformers:DPTForDepthEstimation")`. A file never does.
"""
