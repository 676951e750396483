"""Optimisers, their rate at every step, and the device that they work on."""

import math

import torch
from torch import nn
from torch.optim import Optimizer

from compressor.errors import HostError, unknown
from compressor.recipe import Train


def steps_per_epoch(samples: int, batch: int) -> int:
    """Return the optimiser steps of an epoch; a last batch of a single sample is left out (batch norm fails on it)."""
    steps, rest = divmod(samples, batch)
    return max(1, steps + (rest > 1 or (rest == 1 and batch == 1)))


def learning_rate(settings: Train, step: int, per_epoch: int, restart: int = 0) -> float:
    """Return the rate of a step: linear warm-up, then constant, multistep, or cosine to 0 over the rest.

    cosine_scale stretches the half period: above 1 the rate ends above 0 (papers/asni.md §4.1, number E9). Differs:
    the author's rate is constant within an epoch and counts T + 1 epochs, ours moves with every step and counts T.
    restart: the step at which the cosine begins anew, for the settling of a two-level network (§9.1, step 6).
    A replay asks for the same steps again (papers/lr-rewinding.md §2). Differs from its reference code: a milestone
    is a whole number of our steps (391 per CIFAR-10 epoch of 128, not 390.625), whose first step has the new rate.
    """
    warmup, total = settings.warmup * per_epoch, settings.epochs * per_epoch
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "multistep":
        return settings.lr * settings.gamma ** sum(step >= m * per_epoch for m in settings.milestones)
    if settings.schedule == "cosine":
        begin, end = (restart, total) if restart and step >= restart else (warmup, restart or total)
        progress = (step - begin) / (settings.cosine_scale * max(1, end - begin))
        return settings.lr * 0.5 * (1 + math.cos(math.pi * progress))
    raise unknown("schedule", settings.schedule, ("constant", "cosine", "multistep"))


def make_optimizer(model: nn.Module, settings: Train) -> Optimizer:
    """Return the optimiser over all parameters that train; the Adams fused (torch's square root is slow on zeros)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    decay, rate = settings.weight_decay, settings.lr
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, rate, settings.momentum, weight_decay=decay, nesterov=settings.nesterov, foreach=True
        )
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, rate, weight_decay=decay, fused=True)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, rate, weight_decay=decay, fused=True)
    raise unknown("optimizer", settings.optimizer, ("sgd", "adam", "adamw"))


def pick_device(name: str) -> torch.device:
    """Return the device: "auto" is CUDA where it is there. Raises HostError for CUDA where it is not."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown("device", name, ("auto", "cpu", "cuda")) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise HostError(
            f'device "{name}": this machine has no CUDA device that torch can use; set device = "cpu"'
        )
    return device
