"""Backends of attention compute what torch's choice computes: here, or by fakes of packages with their signatures."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import sfumato as sf
from sfumato.components.attention import AttentionBackend, AttentionInputs, Flash, Flex, Math, Sliced
from sfumato.components.kernels import flex
from sfumato.components.kernels.kernel import Kernel
from sfumato.components.kernels.table import TABLE, Automatic
from sfumato.graph.errors import ConfigError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
Part = tuple[Tensor, Tensor, Tensor]


def random(rows: int = 2, heads: int = 3, queries: int = 40, keys: int = 24, size: int = 8, seed: int = 0) -> Part:
    drawn = torch.Generator().manual_seed(seed)
    shapes = (queries, keys, keys)
    q, k, v = (torch.randn(rows, n, heads, size, generator=drawn).transpose(1, 2) for n in shapes)
    return q, k, v


def masks() -> dict[str, Tensor | None]:
    shut = torch.arange(24) % 5 == 4
    added = torch.zeros(2, 1, 1, 24).masked_fill(shut, -1e4)
    return {
        "none": None,
        "added": added,
        "all": random(queries=40, keys=24, size=24, seed=1)[0],
        "boolean": ~shut.expand(2, 1, 1, 24),
    }


@pytest.mark.parametrize("mask", masks())
@pytest.mark.parametrize("backend", [Math(), Flash(), Sliced(), Sliced(0.001), Sliced(0.02, Math()), Sliced(0.005)])
def test_a_backend_computes_attention(backend: AttentionBackend, mask: str) -> None:
    """Within 1e-6 of torch's choice in float32."""
    q, k, v = random()
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=masks()[mask])
    assert backend.refusal(AttentionInputs.of(q, k, v, masks()[mask])) == ""
    made = backend.attend(q, k, v, masks()[mask])
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=0)
    joined, logsumexp = backend.with_logsumexp(q, k, v, masks()[mask])
    torch.testing.assert_close(joined, expected, atol=1e-6, rtol=0)
    assert logsumexp.shape == q.shape[:3]


def test_parts_of_keys_are_joined_by_their_logarithms() -> None:
    q, k, v = random()
    parts = [sf.attention.SDPA().with_logsumexp(q, k[:, :, s], v[:, :, s], None) for s in (slice(9), slice(9, 24))]
    weights = torch.stack([logsumexp for _, logsumexp in parts]).softmax(dim=0)
    joined = sum(out * weight[..., None] for (out, _), weight in zip(parts, weights, strict=True))
    torch.testing.assert_close(joined, F.scaled_dot_product_attention(q, k, v), atol=1e-6, rtol=0)


def test_flex_computes_attention_with_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention import flex_attention as flexible

    monkeypatch.setattr(flexible, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)  # compiling takes 10 s
    monkeypatch.setattr(flex, "_compiled", _uncompiled)
    q, k, v = random()
    mask = masks()["added"]
    made = Flex().attend(q, k, v, mask)
    torch.testing.assert_close(made, F.scaled_dot_product_attention(q, k, v, attn_mask=mask), atol=1e-6, rtol=0)


def _uncompiled(compiler: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


class Counting(AttentionBackend):
    name = "counting"
    shapes: list[tuple[int, ...]] = []  # noqa: RUF012  of one test

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        self.shapes.append(tuple(q.shape[:3]))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@pytest.mark.parametrize(
    ("scores", "slices"),
    [
        (2 * 3 * 40 * 24, [(2, 3, 40)]),
        (2 * 3 * 40 * 24 - 1, [(1, 3, 40)] * 2),
        (2 * 40 * 24, [(1, 2, 40), (1, 1, 40)] * 2),
        (25 * 24, [(1, 1, 25), (1, 1, 15)] * 6),
    ],
)
def test_slices_are_of_rows_then_heads_then_queries(scores: int, slices: list[tuple[int, ...]]) -> None:
    Counting.shapes.clear()
    q, k, v = random()
    made = Sliced(scores * 4 / 2**20, Counting()).attend(q, k, v, None)
    assert Counting.shapes == slices
    expected = F.scaled_dot_product_attention(q, k, v)
    assert torch.equal(made, expected) or slices[0][2] < 40
    assert made.stride() == expected.stride()


@pytest.mark.parametrize("backend", [Math(), Flash(), Sliced(0.005)])
def test_gradients_flow_through(backend: AttentionBackend) -> None:
    found: list[Part] = []
    for attend in (backend.attend, sf.attention.SDPA().attend):
        q, k, v = (t.requires_grad_() for t in random())
        attend(q, k, v, None).square().sum().backward()
        assert q.grad is not None and k.grad is not None and v.grad is not None
        found.append((q.grad, k.grad, v.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------------------ packages
def _by_sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of `b n heads d`, as packages lay it out."""
    assert q.dtype == k.dtype == v.dtype == torch.bfloat16
    swapped = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(*swapped, attn_mask=mask).transpose(1, 2)


def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None, causal: bool = False,
    *, return_attn_probs: bool = False,
) -> Any:  # fmt: skip
    out = _by_sdpa(q, k, v)
    return (out, torch.zeros(q.shape[0], q.shape[2], q.shape[1]), None) if return_attn_probs else out


def flash3_func(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, causal: bool = False
) -> tuple[Tensor, Tensor]:
    return _by_sdpa(q, k, v), torch.zeros(())


def memory_efficient_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_bias: Tensor | None = None, p: float = 0.0,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    if attn_bias is not None:  # as xformers needs it: for each head, in the dtype of the queries, aligned
        assert attn_bias.shape == (query.shape[0], query.shape[2], query.shape[1], key.shape[1])
        assert attn_bias.dtype == query.dtype and attn_bias.stride(-2) % 8 == 0
    return _by_sdpa(query, key, value, attn_bias)


def sageattn(
    q: Tensor, k: Tensor, v: Tensor, tensor_layout: str = "HND", is_causal: bool = False,
    sm_scale: float | None = None, return_lse: bool = False,
) -> Tensor:  # fmt: skip
    assert tensor_layout == "HND" and q.is_contiguous() and k.is_contiguous() and v.is_contiguous()
    return _by_sdpa(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)


FAKES: dict[str, tuple[str, str, Callable[..., Any]]] = {
    "flash_attn": ("flash_attn", "flash_attn_func", flash_attn_func),
    "flash3": ("flash_attn_interface", "flash_attn_func", flash3_func),
    "xformers": ("xformers.ops", "memory_efficient_attention", memory_efficient_attention),
    "sage": ("sageattention", "sageattn", sageattn),
}


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, function in FAKES.values():
        for path in {module.partition(".")[0], module}:
            monkeypatch.setitem(sys.modules, path, ModuleType(path))
        monkeypatch.setattr(sys.modules[module], name, function, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", _hopper)


def _hopper(device: torch.device) -> tuple[int, int]:
    return 9, 0


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("name", FAKES)
def test_a_package_gets_the_layout_that_it_documents(name: str) -> None:
    backend = _named(name)
    q, k, v = (t.bfloat16() for t in random())
    assert backend.missing() == ""
    assert torch.equal(backend.attend(q, k, v, None), F.scaled_dot_product_attention(q, k, v))
    inputs = AttentionInputs(CUDA, "bfloat16", 64)
    assert backend.refusal(inputs) == ""
    assert backend.refusal(inputs._replace(dtype="float64")).startswith("takes ")
    assert backend.refusal(inputs._replace(device=CPU)) == "runs on cuda, not on cpu"
    mask = masks()["added"]
    if backend.masks:
        assert mask is not None
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.bfloat16())
        assert torch.equal(backend.attend(q, k, v, mask), expected)
    else:
        assert backend.refusal(inputs._replace(mask=True)) == "takes no mask"


def _named(name: str) -> AttentionBackend:
    from sfumato.registry import attention_backends

    return attention_backends[name]()


@pytest.mark.parametrize("name", FAKES)
def test_a_missing_package_says_how_to_install_it(name: str) -> None:
    reason = _named(name).missing()
    assert reason.startswith(f"needs the package {_named(name).package}, which is not installed. ")
    assert reason.endswith(_named(name).install)


# ------------------------------------------------------------------------------------------------ choices
@pytest.mark.parametrize(
    ("inputs", "name"),
    [
        (AttentionInputs(CPU, "float32", 64), "sdpa"),
        (AttentionInputs(torch.device("mps"), "float16", 64, mask=True), "sliced"),
        (AttentionInputs(CUDA, "bfloat16", 128), "flash3"),
        (AttentionInputs(CUDA, "bfloat16", 128, mask=True), "sdpa"),
        (AttentionInputs(CUDA, "float32", 128), "sdpa"),
        (AttentionInputs(CUDA, "float16", 512), "sdpa"),
    ],
)
@pytest.mark.usefixtures("packages")
def test_the_table_chooses_by_inputs(inputs: AttentionInputs, name: str) -> None:
    assert Automatic(TABLE[:]).chosen(inputs).name == name


def test_the_table_leaves_out_packages_that_are_missing() -> None:
    assert Automatic(TABLE[:1]).chosen(AttentionInputs(CUDA, "bfloat16", 128)).name == "sdpa"


def test_inputs_that_a_backend_refuses_are_computed_by_torch_and_counted() -> None:
    class Narrow(Math):
        largest_head = 4

    kernel = Kernel(Narrow(), "unet")
    q, k, v = random()
    for _ in range(2):
        assert torch.equal(kernel(q, k, v, None), F.scaled_dot_product_attention(q, k, v))
    kernel(q[..., :4], k[..., :4], v[..., :4], None)
    assert str(kernel.report) == "1 calls; 2 by sdpa: takes heads of at most 4 channels, not 8"


def test_settings_of_slices_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"Sliced: megabytes needs a number above 0\. Got 0\."):
        Sliced(0)
    kernel: Any = "math"
    with pytest.raises(ConfigError, match=r"Sliced: kernel needs a backend, such as sf\.attention\.Math\(\)\. Got"):
        Sliced(kernel=kernel)
