"""Trajectories of diffusers' own schedulers, for host-tools/tests/diffusers.rs.

    python3 -m venv venv && venv/bin/pip install diffusers==0.42.1 torch==2.15.0 numpy
    venv/bin/python scripts/samplers/reference.py > tests/golden/diffusers.json

The model is the one of diffusers' tests, model(x, t) = x * t / (t + 1), on 4 x 3 x 8 x 8 values 0, 1/768, 2/768, ... Values are
stored in the view that the network sees (variance preserving), after every network call; noise is picodream's own, stream
step + 1 of seed 0 (docs/numerics.md), so that random schedulers can be compared as well.
"""

import json
import math
import struct
import sys

import diffusers
import numpy as np
import torch
from diffusers.schedulers import (
    scheduling_consistency_models,
    scheduling_ddim,
    scheduling_ddpm,
    scheduling_dpmsolver_multistep,
    scheduling_euler_ancestral_discrete,
    scheduling_lcm,
)

SHAPE = (4, 3, 8, 8)
COUNT = 768
ELEMENTS = [0, 1, 100, 383, 500, 767]
LINEAR = dict(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")


def chacha8_words(seed, stream, count):
    """The first 32-bit words of ChaCha8 with the key (seed, 24 zero bytes) and a 64-bit nonce."""
    key = struct.unpack("<8I", struct.pack("<Q", seed) + bytes(24))
    words = []
    block = 0
    while len(words) < count:
        nonce = (stream & 0xFFFFFFFF, stream >> 32)
        state = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *key, block & 0xFFFFFFFF, block >> 32, *nonce]
        x = list(state)

        def quarter(a, b, c, d):
            for p, q, r, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
                x[p] = (x[p] + x[q]) & 0xFFFFFFFF
                v = x[r] ^ x[p]
                x[r] = ((v << bits) | (v >> (32 - bits))) & 0xFFFFFFFF

        for _ in range(4):
            for q in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)):
                quarter(*q)
            for q in ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
                quarter(*q)
        words += [(a + b) & 0xFFFFFFFF for a, b in zip(x, state)]
        block += 1
    return words[:count]


def noise(step):
    words = chacha8_words(0, step + 1, COUNT)
    out = []
    for a, b in zip(words[::2], words[1::2]):
        radius = math.sqrt(-2 * math.log(((a >> 8) + 1) / 2**24))
        theta = (b >> 8) / 2**24 * 2 * math.pi
        out += [radius * math.cos(theta), radius * math.sin(theta)]
    return torch.tensor(out, dtype=torch.float32).reshape(SHAPE)


STEP = 0
for module in (
    scheduling_consistency_models,
    scheduling_ddim,
    scheduling_ddpm,
    scheduling_dpmsolver_multistep,
    scheduling_euler_ancestral_discrete,
    scheduling_lcm,
):
    module.randn_tensor = lambda *_, **__: noise(STEP)


def model(x, t):
    return x * t / (t + 1)


def dummy():
    return torch.arange(COUNT, dtype=torch.float32).reshape(SHAPE) / COUNT


def told(x, scale=1.0):
    """A few elements; the others follow the same rule."""
    flat = (x / scale).flatten().tolist()
    return [float(f"{flat[i]:.8g}") for i in ELEMENTS]


def finish(name, calls, x, config):
    x = x.double().abs()
    return dict(name=name, config=config, calls=calls, sum=float(x.sum()), mean=float(x.mean()))


def preserving(name, scheduler, steps, learned=False, **more):
    """Schedulers that keep x in the variance-preserving view."""
    global STEP
    scheduler.set_timesteps(steps)
    x, calls = dummy(), []
    for STEP, t in enumerate(scheduler.timesteps):
        out = model(x, t)
        if learned:
            out = torch.cat([out, 2 * dummy() - 1], dim=1)
        x = scheduler.step(out, t, x, **more).prev_sample
        calls.append(told(x))
    return finish(name, calls, x, config_of(scheduler, steps, more))


def exploding(name, scheduler, steps, as_tested=False):
    """Schedulers that keep x in the variance-exploding view: shown to the network after division by sqrt(1 + sigma^2).

    diffusers' own full-loop tests (`as_tested`) go on with the divided sample; their published sums hold only so.
    """
    global STEP
    scheduler.set_timesteps(steps)
    x, calls = dummy() * scheduler.init_noise_sigma, []
    start = told(scheduler.scale_model_input(x, scheduler.timesteps[0]))
    levels = [float(s) for s in scheduler.sigmas]
    for STEP, t in enumerate(scheduler.timesteps):
        shown = scheduler.scale_model_input(x, t)
        x = scheduler.step(model(shown, t), t, shown if as_tested else x).prev_sample
        calls.append(told(x, math.sqrt(1 + levels[STEP + 1] ** 2)))
    case = finish(name, calls, x, config_of(scheduler, steps, dict(as_tested=as_tested)))
    return dict(case, start=start)


def pndm(name, scheduler, steps):
    scheduler.set_timesteps(steps)
    x, calls = dummy(), []
    if not scheduler.config.skip_prk_steps:
        for t in scheduler.prk_timesteps:
            x = scheduler.step_prk(model(x, t), t, x).prev_sample
            calls.append(told(x))
    for t in scheduler.plms_timesteps:
        x = scheduler.step_plms(model(x, t), t, x).prev_sample
        calls.append(told(x))
    return finish(name, calls, x, config_of(scheduler, steps, {}))


def consistency(name, steps):
    global STEP
    scheduler = diffusers.CMStochasticIterativeScheduler(num_train_timesteps=201, sigma_min=0.002, sigma_max=80.0)
    scheduler.set_timesteps(steps)
    x, calls = dummy() * scheduler.init_noise_sigma, []
    sigmas = [float(s) for s in scheduler.sigmas]
    for STEP, t in enumerate(scheduler.timesteps):
        x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x).prev_sample
        last = STEP + 1 == len(scheduler.timesteps)
        # In units of the data's deviation, and after the last step the image itself.
        calls.append(told(x, 0.5 if last else math.sqrt(sigmas[STEP + 1] ** 2 + 0.25)))
    case = finish(name, calls, x, config_of(scheduler, steps, {}))
    return dict(case, sigmas=sigmas, timesteps=[float(t) for t in scheduler.timesteps])


def latent_consistency(name, steps):
    schedule = dict(beta_start=0.00085, beta_end=0.0120, beta_schedule="scaled_linear")
    scheduler = diffusers.LCMScheduler(num_train_timesteps=1000, prediction_type="epsilon", **schedule)
    case = preserving(name, scheduler, steps)
    return dict(case, timesteps=[float(t) for t in scheduler.timesteps])


def flow(name, steps):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    scheduler.set_timesteps(steps)
    x, calls = dummy(), []
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t), t, x).prev_sample
        calls.append(told(x))
    return finish(name, calls, x, config_of(scheduler, steps, {}))


def config_of(scheduler, steps, more):
    return f"{type(scheduler).__name__}, {steps} steps, " + json.dumps(more)


def main():
    d = diffusers
    ddim = lambda **c: d.DDIMScheduler(num_train_timesteps=1000, clip_sample=True, **{**LINEAR, **c})
    euler = lambda **c: d.EulerDiscreteScheduler(num_train_timesteps=1100, **LINEAR, **c)
    dpm = lambda **c: d.DPMSolverMultistepScheduler(num_train_timesteps=1000, **LINEAR, **c)
    ddpm = lambda **c: d.DDPMScheduler(num_train_timesteps=1000, **LINEAR, **{"clip_sample": True, **c})
    hot = dict(beta_start=0.01)
    to_first = dict(final_sigmas_type="sigma_min")
    zero_snr = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction")
    cases = [
        preserving("ddpm", ddpm(variance_type="fixed_small"), 10),
        preserving("ddpm_large", ddpm(variance_type="fixed_large"), 10),
        preserving("ddpm_learned", ddpm(variance_type="learned_range"), 10, learned=True),
        preserving("ddpm_100", ddpm(variance_type="fixed_small"), 100),
        preserving("ddim", ddim(), 10, eta=0.0),
        preserving("ddim_v", ddim(prediction_type="v_prediction"), 10, eta=0.0),
        preserving("ddim_eta", ddim(), 10, eta=0.5),
        preserving("ddim_to_one", ddim(set_alpha_to_one=True, **hot), 10, eta=0.0),
        preserving("ddim_to_first", ddim(set_alpha_to_one=False, **hot), 10, eta=0.0),
        preserving("ddim_linspace", ddim(timestep_spacing="linspace"), 7, eta=0.0),
        preserving("ddim_zero_snr", ddim(**zero_snr), 10, eta=0.0),
        exploding("euler", euler(), 10),
        exploding("euler_as_tested", euler(), 10, as_tested=True),
        exploding("euler_karras_as_tested", euler(use_karras_sigmas=True), 10, as_tested=True),
        exploding("euler_v", euler(prediction_type="v_prediction"), 10),
        exploding("euler_karras", euler(use_karras_sigmas=True), 10),
        exploding("euler_exponential", euler(use_exponential_sigmas=True), 10),
        exploding("euler_ancestral", d.EulerAncestralDiscreteScheduler(num_train_timesteps=1100, **LINEAR), 10),
        exploding("heun", d.HeunDiscreteScheduler(num_train_timesteps=1100, **LINEAR), 10),
        exploding("heun_karras", d.HeunDiscreteScheduler(num_train_timesteps=1100, use_karras_sigmas=True, **LINEAR), 10),
        preserving("dpmpp_2m", dpm(), 10),
        preserving("dpmpp_2m_as_tested", dpm(lower_order_final=False, **to_first), 10),
        preserving("dpmpp_2m_v", dpm(prediction_type="v_prediction"), 10),
        preserving("dpmpp_2m_sde", dpm(algorithm_type="sde-dpmsolver++"), 10),
        preserving("unipc", d.UniPCMultistepScheduler(num_train_timesteps=1000, **LINEAR), 10),
        preserving("unipc_as_tested", d.UniPCMultistepScheduler(num_train_timesteps=1000, **LINEAR, **to_first), 10),
        pndm("pndm", d.PNDMScheduler(num_train_timesteps=1000, **LINEAR), 10),
        pndm("plms", d.PNDMScheduler(num_train_timesteps=1000, skip_prk_steps=True, **LINEAR), 10),
        latent_consistency("lcm_1", 1),
        latent_consistency("lcm_4", 4),
        consistency("consistency_1", 1),
        consistency("consistency_3", 3),
        flow("flow", 10),
    ]
    head = dict(diffusers=d.__version__, torch=torch.__version__.split("+")[0], numpy=np.__version__, elements=ELEMENTS)
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    sys.stdout.write(json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}\n")


main()
