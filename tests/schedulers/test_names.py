"""The names that people know samplers by, and taking one scheduler's place with another."""

import pickle
import warnings
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.components import schedulers as package
from sfumato.components.schedulers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    LTXEulerAncestralRFScheduler,
    Scheduler,
    UniPCMultistepScheduler,
)
from sfumato.components.schedulers.customary_names import CURVES, SAMPLERS, find, normalised
from sfumato.graph.errors import ConfigError
from sfumato.registry import UnknownName, schedulers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

reference: Any = diffusers  # Any: it types what from_config gives as a tuple
SD = DDIMScheduler.from_config(
    {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
)
V = DDIMScheduler(prediction_type="v_prediction")
EDM = EDMEulerScheduler(sigma_max=120.0, sigma_data=1.0, prediction_type="v_prediction")
FLUX = FlowMatchEulerDiscreteScheduler(shift=3.0)

SPELLINGS = {
    "DPM++ 2M Karras": "dpmpp_2m_karras",
    "dpmpp-2m-karras": "dpmpp_2m_karras",
    "DPM++ 2M SDE Karras": "dpmpp_2m_sde_karras",
    "DPM++ 2M SDE Heun Exponential": "dpmpp_2m_sde_heun_exponential",
    "DPM++ 3M SDE": "dpmpp_3m_sde",
    "Euler a": "euler_a",
    "DPM2 a Karras": "dpm2_a_karras",
    "LMS Karras": "lms_karras",
    "PLMS": "plms",
    "UniPC": "unipc",
    "Heun": "heun",
}


@pytest.mark.parametrize("spoken", SPELLINGS)
def test_a_name_is_found_however_it_is_written(spoken: str) -> None:
    assert normalised(spoken) == SPELLINGS[spoken]
    assert Scheduler.coerce(spoken, SD) == Scheduler.coerce(SPELLINGS[spoken], SD)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_and_every_curve_that_it_has_makes_a_plan(sampler: str) -> None:
    current = FLUX if sampler.startswith("flow") else EDM if sampler.startswith("edm") else SD
    plain = Scheduler.coerce(sampler, current)
    assert plain.steps(4)
    for curve in CURVES:
        try:
            curved = Scheduler.coerce(f"{sampler}_{curve}", current)
        except ConfigError as error:
            assert f"which {type(plain).__name__} does not have" in str(error)  # noqa: PT017  # both ways are right
        else:
            assert type(curved) is type(plain)
            assert curved.steps(4)


def test_a_name_says_a_class_and_keys_and_the_checkpoint_the_rest() -> None:
    swapped = Scheduler.coerce("DPM++ 2M SDE Karras", SD)
    assert swapped == DPMSolverMultistepScheduler.from_scheduler(
        SD, algorithm_type="sde-dpmsolver++", use_karras_sigmas=True, sigma_curve="karras"
    )
    assert isinstance(swapped, DPMSolverMultistepScheduler)
    assert (swapped.beta_end, swapped.steps_offset) == (0.012, 1)
    back = Scheduler.coerce("dpmpp_2m_exponential", swapped)
    assert isinstance(back, DPMSolverMultistepScheduler)
    assert (back.algorithm_type, back.use_karras_sigmas, back.use_exponential_sigmas) == ("dpmsolver++", False, True)


def test_published_names_do_with_and_without_their_ending() -> None:
    assert find("DPMSolverMultistep").cls is DPMSolverMultistepScheduler
    assert Scheduler.coerce("EulerDiscreteScheduler") == EulerDiscreteScheduler()
    assert package.DPMSolverMultistep is DPMSolverMultistepScheduler


def test_a_name_of_nobody_gets_the_nearest_one() -> None:
    with pytest.raises(UnknownName, match=r"No scheduler is called 'dpmp_2m_karras'. Did you mean 'dpmpp_2m_karras'\?"):
        Scheduler.coerce("dpmp_2m_karras", SD)
    with pytest.raises(UnknownName, match=r"customary ones: ddim, .* end with a curve: _karras, _exponential"):
        Scheduler.coerce("nothing like it")


def test_a_curve_that_a_sampler_lacks_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        Scheduler.coerce("ddim_karras", SD)
    assert str(error.value) == (
        "'ddim_karras' sets sigma_curve, which DDIMScheduler does not have. Leave out 'karras', or use a sampler that "
        "has it, such as 'dpmpp_2m_karras'."
    )


def test_a_swap_can_say_what_it_dropped() -> None:
    current = DDIMScheduler.from_config({"beta_end": 0.012, "clip_sample": False, "set_alpha_to_one": False})
    assert EulerDiscreteScheduler.dropped(current) == {"clip_sample": False, "set_alpha_to_one": False}
    assert EulerDiscreteScheduler.from_scheduler(current).beta_end == 0.012
    unipc = UniPCMultistepScheduler(solver_type="bh1", solver_order=3)
    assert DPMSolverMultistepScheduler.dropped(unipc) == {"solver_type": "bh1"}
    assert DPMSolverMultistepScheduler.from_scheduler(unipc).solver_order == 3


def test_a_config_of_another_class_is_read_as_diffusers_does() -> None:
    config = {**UniPCMultistepScheduler().to_config(), "solver_order": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = reference.DPMSolverMultistepScheduler.from_config(config)
    ours = DPMSolverMultistepScheduler.from_config(config)
    assert (ours.solver_type, ours.solver_order) == (theirs.config.solver_type, theirs.config.solver_order)


def test_a_model_of_flow_keeps_its_flow() -> None:
    swapped = Scheduler.coerce("dpmpp_2m", FLUX)
    assert isinstance(swapped, DPMSolverMultistepScheduler)
    assert swapped.process == "flow"
    assert (swapped.flow_shift, swapped.prediction_type) == (3.0, "flow_prediction")
    assert Scheduler.coerce("euler", FLUX) == FLUX
    assert Scheduler.coerce("heun", FLUX) == FlowMatchHeunDiscreteScheduler(shift=3.0)
    assert Scheduler.coerce("flow_euler", swapped) == FLUX
    assert Scheduler.coerce("euler_a", FLUX) == LTXEulerAncestralRFScheduler(shift=3.0)
    assert FlowMatchEulerDiscreteScheduler.dropped(swapped) == {
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
        "solver_order": 2,
        "algorithm_type": "dpmsolver++",
    }


WRONG = {
    "flow on diffusion": (lambda: Scheduler.coerce("flow_euler", SD), "was trained for diffusion"),
    "an object of flow on diffusion": (lambda: Scheduler.coerce(FLUX, SD), "so the result would be grey noise"),
    "diffusion on flow": (lambda: Scheduler.coerce("ddim", FLUX), "was trained for flow"),
    "a class of diffusion on flow": (
        lambda: EulerAncestralDiscreteScheduler.from_scheduler(FLUX),
        "Pass a scheduler by name, such as 'flow_euler'",
    ),
    "another prediction": (
        lambda: Scheduler.coerce(EulerDiscreteScheduler(), V),
        "expects prediction_type='epsilon', but the model of DDIMScheduler predicts 'v_prediction'",
    ),
    "a class of one prediction": (
        lambda: package.RePaint.from_scheduler(V),
        "expects prediction_type='epsilon', but the model of DDIMScheduler predicts 'v_prediction'",
    ),
    "EDM on diffusion": (
        lambda: Scheduler.coerce("EDMEuler", SD),
        "EDMEulerScheduler is for models of EDM, but the model of DDIMScheduler was trained for diffusion",
    ),
    "consistency on diffusion": (lambda: Scheduler.coerce("CMStochasticIterative", SD), "trained for diffusion"),
    "diffusion on consistency": (
        lambda: Scheduler.coerce("euler", package.CMStochasticIterative()),
        "was trained for consistency, so the result would be grey noise. Pass a scheduler for that process",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_scheduler_that_the_model_was_not_trained_for_is_refused(case: str) -> None:
    act, text = WRONG[case]
    with pytest.raises(ConfigError, match=text):
        act()


def test_keys_that_a_published_class_does_not_write_are_written_where_they_matter() -> None:
    """As in the reference, which keeps the flow's keys beside the three of its ancestral sampler."""
    config = LTXEulerAncestralRFScheduler(shift=3.0).to_config()
    assert set(config) == {"_class_name", "eta", "num_train_timesteps", "s_noise", "shift"}
    theirs = reference.LTXEulerAncestralRFScheduler.from_config(config)
    theirs.set_timesteps(8)
    levels = torch.tensor(LTXEulerAncestralRFScheduler.from_config(config).steps(8).sigmas)
    torch.testing.assert_close(levels, theirs.sigmas)


def test_every_scheduler_of_the_reference_is_here_or_the_page_says_why_not() -> None:
    exported = {name for name in dir(import_module("diffusers.schedulers")) if name.endswith("Scheduler")}
    exported |= {"DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"}  # where torchsde is installed
    page = (Path(__file__).parents[2] / "docs" / "schedulers.md").read_text(encoding="utf-8")
    left_out = page.partition("The others, and why they are left out:")[2].partition("A name may end with a curve")[0]
    ours = {name for name in schedulers if f"`{name}`" in page.replace(left_out, "")}
    assert ours == set(schedulers)
    assert exported - ours == {name for name in exported if f"`{name}`" in left_out}


def test_a_wrong_config_of_a_checkpoint_can_be_set_right() -> None:
    fixed = Scheduler.coerce({"prediction_type": "epsilon"}, V)
    assert fixed == DDIMScheduler(prediction_type="epsilon")


OFFICIAL = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
"""As SDXL is published: with keys that Euler's class lacks."""


def test_a_key_that_a_class_lacks_is_kept_for_the_next_one() -> None:
    own = Scheduler.from_config(OFFICIAL)
    for swapped in (own, replace(own, beta_end=0.02), pickle.loads(pickle.dumps(own))):
        ddim = Scheduler.coerce("ddim", Scheduler.coerce("dpmpp_2m_karras", swapped))
        assert isinstance(ddim, DDIMScheduler)
        assert (ddim.clip_sample, ddim.set_alpha_to_one) == (False, False)
    changed = Scheduler.coerce("ddim", Scheduler.coerce({"clip_sample": True, "use_karras_sigmas": True}, own))
    assert isinstance(changed, DDIMScheduler)
    assert (changed.clip_sample, changed.set_alpha_to_one) == (True, False)


def test_a_choice_that_a_class_lacks_is_kept_for_the_next_one() -> None:
    unipc = UniPCMultistepScheduler.from_config({"solver_type": "bh1"})
    through = UniPCMultistepScheduler.from_scheduler(DPMSolverMultistepScheduler.from_scheduler(unipc))
    assert through.solver_type == "bh1"
    other = DPMSolverMultistepScheduler.from_scheduler(unipc, solver_type="heun")
    assert DPMSolverMultistepScheduler.from_scheduler(other).solver_type == "heun"


def test_kept_keys_are_written_and_read() -> None:
    own = Scheduler.from_config(OFFICIAL)
    written = own.to_config()
    assert {key: written[key] for key in OFFICIAL} == OFFICIAL
    assert DDIMScheduler.from_scheduler(Scheduler.from_config(written)).clip_sample is False
    assert EulerDiscreteScheduler.dropped(own) == {}


def test_names_on_a_model_of_edm_are_its_kind() -> None:
    assert Scheduler.coerce("euler", EDM) == EDM
    solver = Scheduler.coerce("dpmpp_2m_exponential", EDM)
    assert solver == EDMDPMSolverMultistepScheduler(
        sigma_max=120.0, sigma_data=1.0, prediction_type="v_prediction", sigma_schedule="exponential"
    )
    with pytest.raises(ConfigError, match="Pass a scheduler by name, such as 'euler' or 'dpmpp_2m'"):
        Scheduler.coerce("unipc", EDM)
