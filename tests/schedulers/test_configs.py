"""Reading, writing and changing schedulers, and what is said when it cannot be done."""

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfumato.components import schedulers as package
from sfumato.components.schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    Schedule,
    Scheduler,
)
from sfumato.graph.errors import ConfigError, LoadError, SaveError
from sfumato.registry import UnknownName, schedulers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

reference: Any = diffusers  # Any: it types what from_config gives as a tuple
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")  # __array__ and __array_wrap__ there

SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": None,
}
"""As published with SDXL: foreign keys, and null for a key that is true or false."""

configs = st.one_of(
    st.builds(
        EulerDiscreteScheduler,
        beta_end=st.floats(0.01, 0.03),
        prediction_type=st.sampled_from(["epsilon", "sample", "v_prediction"]),
        use_karras_sigmas=st.booleans(),
        sigma_min=st.none() | st.floats(0.01, 0.1),
        s_churn=st.just(0.0) | st.floats(1, 9),
    ),
    st.builds(DDIMScheduler, eta=st.floats(0, 1), clip_sample=st.booleans(), steps_offset=st.integers(0, 3)),
    st.builds(DDPMScheduler, variance_type=st.sampled_from(["fixed_small", "learned_range"])),
    st.builds(
        EulerAncestralDiscreteScheduler,
        num_train_timesteps=st.just(4),
        trained_betas=st.none() | st.just((0.1, 0.2, 0.3, 0.4)),
    ),
)


@given(configs)
def test_a_config_read_back_is_the_same_scheduler(scheduler: Scheduler) -> None:
    config = scheduler.to_config()
    assert list(config) == sorted(config)
    assert type(scheduler).from_config(config) == scheduler
    assert Scheduler.from_config(json.loads(json.dumps(config))) == scheduler


@pytest.mark.parametrize("name", list(schedulers))
def test_our_keys_and_defaults_are_the_published_ones(name: str) -> None:
    # Some need torchsde there, but not for their keys; others are not exported.
    own_module = {
        "DPMSolverSDEScheduler": "scheduling_dpmsolver_sde",
        "CosineDPMSolverMultistepScheduler": "scheduling_cosine_dpmsolver_multistep",
        "ConsistencyDecoderScheduler": "scheduling_consistency_decoder",
        "ScoreSdeVpScheduler": "deprecated",
    }
    if name in own_module:
        with patch.dict(sys.modules, {"torchsde": ModuleType("torchsde")}):
            published = getattr(import_module(f"diffusers.schedulers.{own_module[name]}"), name)
    else:
        published = getattr(reference, name)
    ours, theirs = schedulers[name]().to_config(), dict(published().config)
    assert {k: v for k, v in ours.items() if k[0] != "_"} == {k: v for k, v in theirs.items() if k[0] != "_"}
    assert schedulers[name].from_config(theirs) == schedulers[name]()
    assert type(published.from_config(ours)).__name__ == name


def test_arguments_of_a_step_are_written_only_where_they_matter() -> None:
    assert "eta" not in DDIMScheduler().to_config()
    assert DDIMScheduler(eta=0.5).to_config()["eta"] == 0.5
    assert "s_tmax" not in EulerDiscreteScheduler(s_churn=1.0).to_config()


def test_a_published_file_is_read_with_its_foreign_keys() -> None:
    scheduler = Scheduler.from_config(SDXL)
    assert scheduler == EulerDiscreteScheduler(
        beta_end=0.012,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        steps_offset=1,
        timestep_spacing="leading",
    )


def test_a_key_of_nobody_is_dropped_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"EulerDiscreteScheduler ignores the config key 'beta_strt'.*'beta_start'"):
        scheduler = EulerDiscreteScheduler.from_config({"beta_strt": 0.1, "beta_end": 0.03})
    assert scheduler == EulerDiscreteScheduler(beta_end=0.03)


def test_numbers_of_other_libraries_and_lists_become_plain_values() -> None:
    config = {
        "num_train_timesteps": np.int64(3),
        "beta_end": np.float32(0.5),
        "trained_betas": np.array([0.1, 0.2, 0.3]),
    }
    scheduler = EulerDiscreteScheduler.from_config(config)
    assert scheduler.trained_betas == (0.1, 0.2, 0.3)
    assert type(scheduler.num_train_timesteps) is int
    assert type(EulerDiscreteScheduler(beta_end=1).beta_end) is float
    assert DDPMScheduler(num_train_timesteps=2, trained_betas=[0.1, 0.2]).trained_betas == (0.1, 0.2)  # pyright: ignore[reportArgumentType]  # a list is forgiven at run time


def test_files_are_written_and_read_in_their_folder(tmp_path: Path) -> None:
    scheduler = DDIMScheduler(eta=0.25, prediction_type="v_prediction")
    path = scheduler.save_pretrained(tmp_path / "pipe" / "scheduler")
    assert path == tmp_path / "pipe" / "scheduler" / "scheduler_config.json"
    assert [p.name for p in path.parent.iterdir()] == ["scheduler_config.json"]
    assert Scheduler.from_pretrained(tmp_path / "pipe", subfolder="scheduler") == scheduler
    assert reference.DDIMScheduler.from_pretrained(path.parent).config["prediction_type"] == "v_prediction"


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = DDIMScheduler().save_pretrained(tmp_path)
    before = path.read_bytes()

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(SaveError, match="disk full"):
        DDIMScheduler(eta=1.0).save_pretrained(tmp_path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [before]


def test_a_swap_keeps_what_the_model_was_trained_with_and_its_own_defaults_elsewhere() -> None:
    """As diffusers does: what a config stated goes along, what was a default of the old class does not."""
    published = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    stated = {**published, "timestep_spacing": "leading"}
    for config in (published, stated):
        theirs = reference.EulerDiscreteScheduler.from_config(reference.DDIMScheduler.from_config(config).config)
        ours = EulerDiscreteScheduler.from_scheduler(DDIMScheduler.from_config(config))
        assert ours == EulerDiscreteScheduler.from_config(dict(theirs.config))
    assert EulerDiscreteScheduler.from_scheduler(DDIMScheduler()).timestep_spacing == "linspace"
    assert EulerDiscreteScheduler.from_scheduler(DDIMScheduler.from_config(stated)).timestep_spacing == "leading"


def test_what_a_user_may_write_becomes_a_scheduler() -> None:
    current = Scheduler.from_config(SDXL)
    assert Scheduler.coerce(current) is current
    assert Scheduler.coerce("ddim") == DDIMScheduler()
    swapped = Scheduler.coerce("euler_a", current)
    assert swapped == EulerAncestralDiscreteScheduler.from_scheduler(current)
    assert isinstance(swapped, EulerAncestralDiscreteScheduler)
    assert swapped.steps_offset == 1
    assert Scheduler.coerce({"use_karras_sigmas": True}, current) == EulerDiscreteScheduler.from_config(
        {**SDXL, "use_karras_sigmas": True}
    )
    assert Scheduler.coerce({"_class_name": "DDIMScheduler", "eta": 1.0}, current) == DDIMScheduler(eta=1.0)


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "choice": (
        lambda: EulerDiscreteScheduler.from_config({"prediction_type": "epsilom"}),
        "EulerDiscreteScheduler has no prediction_type 'epsilom'. Did you mean 'epsilon'? There are: epsilon, sample, "
        "original_sample, v_prediction.",
    ),
    "choice of a kind": (
        lambda: DDIMScheduler.from_config({"timestep_spacing": 3}),
        "DDIMScheduler has no timestep_spacing 3. There are: linspace, leading, trailing.",
    ),
    "number": (
        lambda: DDIMScheduler.from_config({"beta_start": "0.1"}),
        "DDIMScheduler needs a number for beta_start, got '0.1'.",
    ),
    "whole number": (
        lambda: DDIMScheduler.from_config({"steps_offset": 1.5}),
        "DDIMScheduler needs a whole number for steps_offset, got 1.5.",
    ),
    "not a truth": (
        lambda: DDIMScheduler.from_config({"clip_sample": 1}),
        "DDIMScheduler needs true or false for clip_sample, got 1.",
    ),
    "not a list": (
        lambda: DDIMScheduler.from_config({"trained_betas": "linear"}),
        "DDIMScheduler needs a list of numbers for trained_betas, got 'linear'.",
    ),
    "item of a list": (
        lambda: DDIMScheduler.from_config({"trained_betas": [0.1, None]}),
        "DDIMScheduler needs a number for trained_betas[1], got None.",
    ),
    "betas": (
        lambda: DDIMScheduler(trained_betas=(0.1, 0.2)),
        "DDIMScheduler has 2 trained_betas for 1000 training timesteps. Pass one beta for each of num_train_timesteps.",
    ),
    "two curves": (
        lambda: EulerDiscreteScheduler(use_karras_sigmas=True, use_beta_sigmas=True),
        "EulerDiscreteScheduler takes one sigma curve, got use_karras_sigmas and use_beta_sigmas. Set one.",
    ),
    "no noise left": (
        lambda: EulerDiscreteScheduler(sigma_min=0.0),
        "EulerDiscreteScheduler needs sigma_min above 0, got 0.0.",
    ),
    "training not understood": (
        lambda: EulerDiscreteScheduler.from_scheduler(DDPMScheduler(beta_schedule="sigmoid")),
        "EulerDiscreteScheduler has no beta_schedule 'sigmoid'. There are: linear, scaled_linear, squaredcos_cap_v2.",
    ),
    "eta": (lambda: DDIMScheduler(eta=-1), "DDIMScheduler needs eta of 0 or more, got -1.0."),
    "no class": (
        lambda: Scheduler.from_config({"beta_start": 0.1}),
        "This scheduler config has no '_class_name'. Add one, such as 'EulerDiscreteScheduler', or call from_config of "
        "that class.",
    ),
    "no scheduler": (
        lambda: Scheduler.coerce(7),
        "A scheduler is an object, a name such as 'EulerDiscreteScheduler' or 'euler_a', or a config dict such as "
        "{'use_karras_sigmas': True}. Got 7.",
    ),
    "no steps": (lambda: DDIMScheduler().steps(0), "DDIMScheduler takes 1 step or more, not 0."),
    "too many steps": (lambda: DDIMScheduler().steps(1001), "DDIMScheduler takes 1 to 1000 steps, not 1001."),
    "offset": (
        lambda: DDIMScheduler(steps_offset=1).steps(1000),
        "DDIMScheduler was trained at timesteps 0 to 999, but 1000 steps with steps_offset 1 go from 1000 to 1. Use "
        "fewer steps or a smaller offset.",
    ),
    "timesteps that rise": (
        lambda: DDPMScheduler().steps(3, timesteps=[1, 2, 3]),
        "DDPMScheduler needs falling timesteps between 999 and 0, counted in training timesteps. Got [1, 2, 3].",
    ),
    "timesteps too high": (
        lambda: EulerDiscreteScheduler().steps(2, timesteps=[1500, 3]),
        "EulerDiscreteScheduler needs falling timesteps between 999 and 0, counted in training timesteps. Got [1500, "
        "3].",
    ),
    "sigmas for whole timesteps": (
        lambda: DDIMScheduler().steps(2, sigmas=[3.0, 0.0]),
        "DDIMScheduler takes no sigmas. Pass timesteps, or use a scheduler with sigmas, such as "
        "EulerDiscreteScheduler.",
    ),
    "sigmas with a hole": (
        lambda: EulerDiscreteScheduler().steps(2, sigmas=[3.0, 0.0, 0.0]),
        "EulerDiscreteScheduler needs two or more sigmas above 0; only the last one, where the run ends, may be 0. Got "
        "[3, 0, 0].",
    ),
    "timesteps and sigmas": (
        lambda: EulerDiscreteScheduler().steps(2, timesteps=[3], sigmas=[3.0, 0.0]),
        "EulerDiscreteScheduler takes timesteps or sigmas, not both. Pass one of them.",
    ),
    "timesteps on a curve": (
        lambda: EulerDiscreteScheduler(use_karras_sigmas=True).steps(2, timesteps=[500, 3]),
        "EulerDiscreteScheduler takes no timesteps with use_karras_sigmas: the curve sets them. Pass sigmas.",
    ),
    "epsilon without signal": (
        lambda: DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing").steps(5),
        "DDIMScheduler cannot start at a timestep without signal with prediction_type='epsilon': the clean sample "
        "cannot be estimated there. Use prediction_type='v_prediction', or set rescale_betas_zero_snr=False.",
    ),
    "noise": (
        lambda: EulerAncestralDiscreteScheduler().advance(
            torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), EulerAncestralDiscreteScheduler().steps(5)[2]
        ),
        "EulerAncestralDiscreteScheduler adds noise in step 2, but advance got none. Draw unit noise shaped like the "
        "sample whenever step.noisy, and pass it as noise=.",
    ),
    "timesteps and an even spacing": (
        lambda: package.PNDMScheduler().steps(5, timesteps=[900, 500]),
        "PNDMScheduler takes no timesteps: it plans its own. Pass a number of steps.",
    ),
    "timesteps that follow sigma": (
        lambda: package.EDMEulerScheduler().steps(5, timesteps=[900, 500]),
        "EDMEulerScheduler takes no timesteps. Pass sigmas.",
    ),
    "sigmas beyond noise": (
        lambda: package.FlowMatchEulerDiscreteScheduler().steps(2, sigmas=[1.5, 0.5, 0.0]),
        "FlowMatchEulerDiscreteScheduler needs two or more sigmas above 0 and at most 1; only the last one, where the "
        "run ends, may be 0. Got [1.5, 0.5, 0].",
    ),
    "no numbers": (
        lambda: EulerDiscreteScheduler().steps(2, timesteps=["a"]),  # pyright: ignore[reportArgumentType]
        "EulerDiscreteScheduler needs a list of numbers as timesteps, got ['a'].",
    ),
    "order": (
        lambda: package.EDMDPMSolverMultistepScheduler(solver_order=4),
        "EDMDPMSolverMultistepScheduler needs solver_order from 1 to 3, got 4.",
    ),
    "even in lambda along flow": (
        lambda: package.DPMSolverMultistepScheduler(use_lu_lambdas=True, use_flow_sigmas=True),
        "DPMSolverMultistepScheduler takes use_lu_lambdas or use_flow_sigmas, not both. Set one of them.",
    ),
    "variance": (
        lambda: DDPMScheduler(variance_type="learned").advance(
            torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2), DDPMScheduler().steps(5)[0]
        ),
        "DDPMScheduler(variance_type='learned') needs a prediction of 8 channels, the variance last, got 4. Set "
        "variance_type='fixed_small' for a model that predicts no variance.",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_an_error_says_what_came_and_the_way_out(case: str) -> None:
    act, text = BAD[case]
    with pytest.raises(ConfigError) as error:
        act()
    assert str(error.value) == text


def test_a_name_of_nobody_is_an_unknown_name() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'DDIMScheduler'"):
        Scheduler.coerce("DIMScheduler")


def test_a_missing_or_broken_file_is_a_load_error(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"scheduler_config\.json: .*no such file"):
        Scheduler.from_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_text("{")
    with pytest.raises(LoadError, match="not JSON at line 1"):
        Scheduler.from_pretrained(tmp_path)
    (tmp_path / "scheduler_config.json").write_text("[]")
    with pytest.raises(LoadError, match="JSON object"):
        Scheduler.from_pretrained(tmp_path)


def test_beta_sigmas_without_scipy_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    with pytest.raises(ConfigError, match="pip install scipy"):
        EulerDiscreteScheduler(use_beta_sigmas=True).steps(5)


def test_a_schedule_that_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match="A schedule of 2 timesteps needs 3 sigmas"):
        Schedule(sigmas=(1.0, 0.0), timesteps=(5, 3))
    with pytest.raises(ValueError, match=r"A schedule of 2 steps has no slice 3\.\.2"):
        Schedule(sigmas=(2.0, 1.0, 0.0), timesteps=(5, 3), begin=3)
    with pytest.raises(ValueError, match="slices of stride 1 only"):
        EulerDiscreteScheduler().steps(5)[::2]
    with pytest.raises(IndexError, match="A schedule of 5 steps has no step 5"):
        EulerDiscreteScheduler().steps(5)[5]


def test_the_package_knows_its_names_and_imports_torch_only_when_one_is_asked() -> None:
    assert {"Scheduler", "Schedule", "Step", *schedulers} <= set(dir(package))
    assert package.EulerDiscreteScheduler is schedulers["euler"]
    with pytest.raises(AttributeError, match="has no attribute 'Eulr'"):
        _ = package.Eulr
    code = "import sys, sfumato.components.schedulers as s; assert 'torch' not in sys.modules; s.Step; s.DDIMScheduler"
    subprocess.run([sys.executable, "-c", code], check=True)
