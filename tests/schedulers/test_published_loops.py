"""Schedulers whose published pipelines need a loop of their own, against those loops in diffusers 0.42.1.

Some ask the model between two of the scheduler's methods, some hand it the next timestep, some draw noise before the
model is asked. Each loop here is the pipeline's; its draws are noted by our steps, and ours is given the same. As in
`test_grid`, configs are drawn from the product of the options: plans are equal, and trajectories agree within 1e-5 of
the largest value.
"""

import itertools
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.blocks.denoise.inpaint import KeepUnmasked
from sfumato.components.schedulers import DDIMScheduler, RePaintScheduler, Schedule, Scheduler, ScoreSdeVeScheduler
from sfumato.registry import schedulers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

reference: Any = diffusers  # Any: it types little
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # in the reference

Config = dict[str, Any]
SHAPE = (2, 3, 6, 6)


class Draws:
    """In the place of the reference's `randn_tensor`: notes what was drawn for which of our steps."""

    def __init__(self) -> None:
        self.generator, self.call = torch.Generator().manual_seed(5), 0
        self.at: dict[int, Tensor] = {}

    def __call__(self, shape: Sequence[int], **_: object) -> Tensor:
        self.at[self.call] = torch.randn(SHAPE, generator=self.generator)
        return self.at[self.call]

    def calls(self, items: Sequence[Any]) -> Iterator[Any]:
        for self.call, item in enumerate(items):
            yield item


def model(x: Tensor, t: float, channels: int = SHAPE[1]) -> Tensor:
    out = torch.tanh(0.6 * x) * 0.8 + 0.05 * torch.sin(torch.tensor(t / 100))
    return out if channels == x.shape[1] else torch.cat([out, 0.5 * torch.cos(x)], dim=1)


def scm(theirs: Any, n: int, x: Tensor, draws: Draws) -> Tensor:
    theirs.set_timesteps(n, intermediate_timesteps=1.3 if n == 2 else None)
    size = theirs.config.sigma_data
    x = x * size
    for t in draws.calls(theirs.timesteps[:-1]):
        x, x0 = theirs.step(model(x / size, float(t)) * size, t, x, return_dict=False)
    return x0 / size  # pyright: ignore[reportPossiblyUnboundVariable]  # there are timesteps


def wuerstchen(theirs: Any, n: int, x: Tensor, draws: Draws) -> Tensor:
    theirs.set_timesteps(n)
    for t in draws.calls(theirs.timesteps[:-1]):
        x = theirs.step(model(x, float(t)), t.expand(len(x)), x).prev_sample
    return x


def unclip(theirs: Any, n: int, x: Tensor, draws: Draws) -> Tensor:
    theirs.set_timesteps(n)
    bars = theirs.alphas_cumprod.double()  # in float32, 1 - (1 - alpha) loses all digits of the first step's alpha
    theirs.alphas_cumprod, theirs.alphas = bars, bars / torch.cat([torch.ones(1).double(), bars[:-1]])
    theirs.betas = 1 - theirs.alphas
    channels = SHAPE[1] * (2 if theirs.config.variance_type == "learned_range" else 1)
    after = [*theirs.timesteps[1:], None]
    for t in draws.calls(theirs.timesteps):
        x = theirs.step(model(x, float(t), channels), t, x, prev_timestep=after[draws.call]).prev_sample
    return x


def consistency_decoder(theirs: Any, n: int, x: Tensor, draws: Draws) -> Tensor:
    theirs.set_timesteps(n)
    for t in draws.calls(theirs.timesteps):
        x = theirs.step(model(theirs.scale_model_input(x, t), float(t)), t, x).prev_sample
    return x


def cogvideox_dpm(theirs: Any, n: int, x: Tensor, draws: Draws) -> Tensor:
    theirs.set_timesteps(n)
    x0 = before = None
    for t in draws.calls(theirs.timesteps):
        x, x0 = theirs.step(model(x, float(t)), x0, t, before, x)
        before = t
    return x


def score_sde_ve(theirs: Any, n: int, x: Tensor, draws: Draws) -> Tensor:
    theirs.set_timesteps(n)
    theirs.set_sigmas(n)
    out, walks = x, theirs.config.correct_steps
    for i, t in enumerate(theirs.timesteps):
        sigma = float(theirs.sigmas[i])
        for k in range(walks):
            draws.call = i * (walks + 1) + k
            x = theirs.step_correct(model(x, sigma) / sigma, x).prev_sample
        draws.call = i * (walks + 1) + walks
        out = theirs.step_pred(model(x, sigma) / sigma, t, x)
        x, out = out.prev_sample, out.prev_sample_mean
    return out


def score_sde_vp(theirs: Any, n: int, x: Tensor, draws: Draws) -> Tensor:
    theirs.set_timesteps(n)
    mean = x
    for t in draws.calls(theirs.timesteps.double()):  # in float32, 1 - exp(-t) loses the digits of a short time
        x, mean = theirs.step_pred(model(x, float(t)), x, t)
    return mean.float()


def karras_ve(theirs: Any, n: int, x: Tensor, draws: Draws) -> Tensor:
    theirs.set_timesteps(n)
    for t in theirs.timesteps:
        draws.call = 2 * (n - 1 - int(t)) - 1  # ours ends the step before with it
        sigma, after = float(theirs.schedule[t]), float(theirs.schedule[t - 1]) if t > 0 else 0
        raised, higher = theirs.add_noise_to_input(x, sigma)
        out = theirs.step(model(raised, higher), higher, after, raised)
        if after:
            answer = model(out.prev_sample, after)
            out = theirs.step_correct(answer, higher, after, raised, out.prev_sample, out.derivative)
        x = out.prev_sample
    return x


Loop = Callable[[Any, int, Tensor, Draws], Tensor]
PREDICTIONS = ("epsilon", "sample", "v_prediction")
LOOPS: dict[str, tuple[str, Loop, dict[str, Sequence[Any]]]] = {
    "SCMScheduler": ("scheduling_scm", scm, {"sigma_data": (0.5, 1.0), "num_train_timesteps": (1000, 200)}),
    "DDPMWuerstchenScheduler": (
        "scheduling_ddpm_wuerstchen",
        wuerstchen,
        {"scaler": (1.0, 2.0, 0.5), "s": (0.008, 0.02)},
    ),
    "UnCLIPScheduler": (
        "scheduling_unclip",
        unclip,
        {
            "variance_type": ("fixed_small_log", "learned_range"),
            "prediction_type": ("epsilon", "sample"),
            "clip_sample": (True, False),
            "clip_sample_range": (1.0, 5.0),
            "num_train_timesteps": (1000, 100),
        },
    ),
    "ConsistencyDecoderScheduler": ("scheduling_consistency_decoder", consistency_decoder, {"sigma_data": (0.5, 1.0)}),
    "CogVideoXDPMScheduler": (
        "scheduling_dpm_cogvideox",
        cogvideox_dpm,
        {
            "prediction_type": PREDICTIONS,
            "timestep_spacing": ("leading", "trailing", "linspace"),
            "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
            "set_alpha_to_one": (True, False),
            "snr_shift_scale": (1.0, 3.0),
        },
    ),
    "ScoreSdeVeScheduler": (
        "scheduling_sde_ve",
        score_sde_ve,
        {
            "snr": (0.15, 0.1),
            "sigma_max": (1348.0, 50.0),
            "sampling_eps": (1e-5, 1e-2),
            "correct_steps": (1, 2, 0),
        },
    ),
    "ScoreSdeVpScheduler": (
        "deprecated.scheduling_sde_vp",
        score_sde_vp,
        {"beta_min": (0.1, 0.5), "beta_max": (20.0, 10.0), "sampling_eps": (1e-3, 1e-2)},
    ),
    "KarrasVeScheduler": (
        "deprecated.scheduling_karras_ve",
        karras_ve,
        {"sigma_min": (0.02, 0.3), "sigma_max": (100.0, 20.0), "s_churn": (80.0, 4.0, 0.0), "s_max": (50.0, 5.0)},
    ),
}
DRAWN = 11
COUNTS = {"SCMScheduler": (1, 2, 10), "ConsistencyDecoderScheduler": (2,)}


def drawn(name: str) -> list[Config]:
    options = LOOPS[name][2]
    every = [dict(zip(options, chosen, strict=True)) for chosen in itertools.product(*options.values())]
    return random.Random(0).sample(every, min(DRAWN, len(every)))


GRID = [(name, config, n) for name in LOOPS for config in drawn(name) for n in COUNTS.get(name, (5, 10, 25))]


def label(value: Any) -> str:
    return "-".join(f"{v}" for v in value.values()) if isinstance(value, dict) else str(value)


def our_run(ours: Scheduler, schedule: Schedule, x: Tensor, draws: Draws) -> Tensor:
    history = ()
    channels = SHAPE[1] * (2 if getattr(ours, "variance_type", "") == "learned_range" else 1)
    for step in schedule:
        answer = model(x * step.scale_in, step.timestep, channels)
        if isinstance(ours, ScoreSdeVeScheduler):  # which wants a score
            answer = answer / step.timestep
        x, history = ours.advance(x, answer, step, history, draws.at[step.index] if step.noisy else None)
    return x


@pytest.mark.parametrize(("name", "config", "n"), GRID, ids=label)
def test_a_run_is_the_pipeline_s_run(name: str, config: Config, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module, loop, _ = LOOPS[name]
    draws = Draws()
    source = import_module(f"diffusers.schedulers.{module}")
    monkeypatch.setattr(source, "randn_tensor", draws)  # by a dotted name a lazy module may be patched, not this one
    ours, theirs = schedulers[name](**config), getattr(source, name)(**config)
    schedule = ours.steps(n)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)) * schedule.noise_scale
    expected = loop(theirs, n, x, draws)
    assert torch.isfinite(expected).all()
    found = our_run(ours, schedule, x, draws)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5
    same_plan(name, schedule, theirs)


def same_plan(name: str, schedule: Schedule, theirs: Any) -> None:
    clock = torch.tensor(schedule.timesteps, dtype=torch.float64)
    published = theirs.timesteps
    if name == "ScoreSdeVeScheduler":  # ours is what the pipeline tells the model
        published = theirs.sigmas.repeat_interleave(1 + theirs.config.correct_steps)
    if name == "KarrasVeScheduler":  # likewise; between these lie the levels with noise added
        clock, published = clock[1::2], theirs.schedule.flip(0)[1:]
    if name in ("SCMScheduler", "DDPMWuerstchenScheduler"):  # which keep the end among them
        published = published[:-1]
    whole = published.dtype == torch.int64
    torch.testing.assert_close(clock, published.double(), rtol=0 if whole else 1e-6, atol=0 if whole else 1e-6)
    assert (schedule.device_timesteps.dtype == torch.int64) == whole
    start = float(getattr(theirs, "init_noise_sigma", 1.0))
    assert schedule.noise_scale == pytest.approx(start, rel=1e-6)


@pytest.mark.parametrize("jumps", [(10, 10), (3, 2), (1, 3), (7, 1)], ids=str)
@pytest.mark.parametrize(
    ("n", "config"),
    [
        (25, {}),
        (25, {"eta": 0.7, "beta_schedule": "scaled_linear"}),
        (10, {"eta": 1.0, "clip_sample": False, "beta_schedule": "squaredcos_cap_v2"}),
        (10, {"beta_schedule": "sigmoid", "beta_end": 0.3}),
    ],
    ids=str,
)
def test_repaint_paints_around_a_known_part(
    n: int, config: Config, jumps: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each training timestep is visited, as the reference's jumps are right there.

    It draws for a step and for each timestep of a jump, and blends before it jumps; the same normal variables, put
    together, are one draw for the unknown part and one for the known. Both sides run in float64: a run has 160 steps.
    """
    theirs = reference.RePaintScheduler(num_train_timesteps=n, **config)
    ours = RePaintScheduler(num_train_timesteps=n, jump_length=jumps[0], jump_n_sample=jumps[1], **config)
    draws = Draws()
    monkeypatch.setattr(import_module("diffusers.schedulers.scheduling_repaint"), "randn_tensor", draws)
    theirs.set_timesteps(n, *jumps)
    theirs.alphas_cumprod = theirs.alphas_cumprod.double()
    theirs.betas = 1 - theirs.alphas_cumprod / torch.cat([torch.ones(1), theirs.alphas_cumprod[:-1]])
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    known, x = (torch.randn(SHAPE, generator=torch.Generator().manual_seed(k)).double().clamp(-1, 1) for k in (2, 3))
    painted = (torch.arange(6).expand(SHAPE[0], 1, 6, 6) > 2).float()
    keep, found, schedule = KeepUnmasked(scheduler=ours), x, ours.steps(n)
    calls = calls_of(theirs.timesteps.tolist())
    assert [step.timestep for step in schedule] == [t for t, _ in calls]
    for step, (t, jump) in zip(schedule, calls, strict=True):
        x = theirs.step(model(x, float(t)), t, x, known, 1 - painted).prev_sample
        drawn, risen, rise = draws.at[0], torch.zeros(SHAPE), 1.0
        for k in range(jump):
            x = theirs.undo_step(x, t + k)
            kept = float(1 - theirs.betas[t + k]) ** 0.5
            risen, rise = kept * risen + (1 - kept**2) ** 0.5 * draws.at[0], rise * kept
        std = ours.eta * float(theirs._get_variance(t)) ** 0.5
        unknown = (rise * std * drawn + risen) / max((rise * std) ** 2 + 1 - rise**2, 1e-12) ** 0.5
        found, _ = ours.advance(found, model(found, float(t)), step, (), unknown if step.noisy else None)
        below = (max(step.target.sigma**2 - 1 + rise**2, 0)) ** 0.5
        again = (below * drawn + risen) / (step.target.sigma or 1.0)
        found = keep(found, known, again, painted, step).latents
    assert float((found - x).abs().max() / x.abs().max()) < 1e-5


def calls_of(timesteps: Sequence[int]) -> list[tuple[int, int]]:
    """The timestep of each model call, and how many jumps up follow each."""
    calls: list[tuple[int, int]] = []
    last = timesteps[0] + 1
    for t in timesteps:
        if t < last:
            calls.append((t, 0))
        else:
            calls[-1] = (calls[-1][0], calls[-1][1] + 1)
        last = t
    return calls


def test_repaint_jumps_to_the_level_that_the_next_step_expects_where_the_reference_does_not() -> None:
    """With strides of several training timesteps it takes the betas above those that the step came down."""
    theirs, ours = reference.RePaintScheduler(), RePaintScheduler(jump_length=1, jump_n_sample=2)
    theirs.set_timesteps(10, 1, 2)
    assert theirs.timesteps[1:4].tolist() == [800, 900, 800]
    step = ours.steps(10)[1]
    bars = theirs.alphas_cumprod
    risen = bars[700] * torch.prod(1 - theirs.betas[800:900])
    assert float(risen / bars[800]) < 0.9
    assert step.target.alpha == pytest.approx(float(bars[800]) ** 0.5)
    x0, noise = torch.zeros(SHAPE), torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    x, _ = ours.advance(x0, noise, step, (), torch.zeros(SHAPE))
    down = (1 - float(bars[700])) ** 0.5 * (float(bars[800]) / float(bars[700])) ** 0.5
    clipped = (-step.level.sigma / step.level.alpha * noise).clamp(-1, 1) * step.target.alpha
    torch.testing.assert_close(x, clipped + down * noise, rtol=1e-5, atol=1e-6)


def test_repaint_without_jumps_is_ddim() -> None:
    ours, plain = RePaintScheduler(jump_n_sample=1, eta=0.5), DDIMScheduler(eta=0.5)
    assert ours.steps(10).levels == plain.steps(10).levels
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    for step, other in zip(ours.steps(10), plain.steps(10), strict=True):
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(step.index))
        drawn = noise if step.noisy else None
        found = ours.advance(x, model(x, 0), step, (), drawn)[0]
        torch.testing.assert_close(found, plain.advance(x, model(x, 0), other, (), noise)[0])


@pytest.mark.parametrize("name", ["DDIMParallelScheduler", "DDPMParallelScheduler"])
def test_all_steps_of_a_slice_are_computed_at_once(name: str) -> None:
    """As `batch_step_no_noise` does: `advance` of each step, in any order."""
    ours, theirs = schedulers[name](), getattr(reference, name)()
    theirs.set_timesteps(10)
    samples = torch.randn(10, *SHAPE[1:], generator=torch.Generator().manual_seed(1))
    answers = torch.tanh(samples)
    expected = theirs.batch_step_no_noise(answers, theirs.timesteps, samples)
    quiet = torch.zeros(1, *SHAPE[1:])
    for step in reversed(ours.steps(10)):
        row = slice(step.index, step.index + 1)
        found, _ = ours.advance(samples[row], answers[row], step, (), quiet if step.noisy else None)
        torch.testing.assert_close(found, expected[row], rtol=1e-5, atol=1e-6)
