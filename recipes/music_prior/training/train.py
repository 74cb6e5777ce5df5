"""Training of the spectral denoiser with Lightning Fabric, resumable to the bit on a CPU."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from math import cos, pi
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from mgdm_audio.priors.precision import resolve_precision
from mgdm_audio.priors.spectral_network import SpectralNetwork, build_spectral
from mgdm_audio.priors.stft_unet.network import STFTUNet
from mgdm_core.array_types import Float, Tensor
from mgdm_core.errors import MGDMError, SettingsError
from recipes.music_prior.training.batches import BatchStream, random_equaliser, random_texture
from recipes.music_prior.training.checkpoints import read_checkpoint, write_checkpoint
from recipes.music_prior.training.corruption import (
    corrupt,
    draw_absent,
    draw_levels,
    own_states,
)
from recipes.music_prior.training.data import (
    SegmentPool,
    SegmentsFrom,
    SegmentSource,
    average_power,
)
from recipes.music_prior.training.grow import grown
from recipes.music_prior.training.loss import PowerAverage, choose_bins
from recipes.music_prior.training.objective import Objective
from recipes.music_prior.training.optimizer import MuonAdamW
from recipes.music_prior.training.presets import TrainSettings
from recipes.music_prior.training.train_log import InterruptFlag, Log, Tally
from recipes.music_prior.training.widen import widened

__all__ = ["Progress", "adopted", "learning_rate", "train"]

RATE = 22_050
CHECKPOINT = "last.pt"
BEFORE_DECAY = "before_decay.pt"
WIDENING_NOISE = 0.1
# Processes render songs of their own: numbers of the next begin this much further on.
SEGMENTS_PER_PROCESS = 10**9 + 7
Progress = Callable[[dict[str, float]], None]


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Learning rate of update number ``step`` (from 0): rise, plateau, half cosine to zero."""
    rate = settings.learning_rate
    if step < settings.warmup_steps:
        rate *= (step + 1) / settings.warmup_steps
    left = settings.steps - step
    if left <= settings.decay_steps:
        rate *= 0.5 * (1 - cos(pi * left / (settings.decay_steps + 1)))
    return rate


def _describe_machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {torch.get_num_threads()} threads"


def _seed(*numbers: int) -> int:
    """One seed out of several numbers, spread over 63 bits."""
    value = 0x9E3779B97F4A7C15
    for number in numbers:
        value ^= number + 0x632BE59BD9B4E019
        value = (value * 0xBF58476D1CE4E5B9) % (1 << 64)
        value ^= value >> 31
    return value >> 1


def _initialised(settings: TrainSettings) -> SpectralNetwork:
    # Layers draw their first weights from the global stream, which is put back afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(_seed(settings.seed))
        return build_spectral(settings.network)


def adopted(
    origin: SpectralNetwork,
    network: SpectralNetwork,
    settings: TrainSettings,
    power: Float[Tensor, "stems bins"],
) -> dict[str, Tensor]:
    """Weights of a network that goes on from another: with more parts or stems, or wider."""
    if isinstance(origin, STFTUNet) and isinstance(network, STFTUNet):
        more_parts = origin.state_dict().keys() != network.state_dict().keys()
        if more_parts or origin.config.stems != network.config.stems:
            return grown(origin, network, power)
    generator = torch.Generator().manual_seed(_seed(settings.seed, 3))
    return widened(origin, network, WIDENING_NOISE, generator)


def train(
    settings: TrainSettings,
    source: SegmentSource,
    out: Path,
    *,
    resume: bool = True,
    minutes: float | None = None,
    cpu_seconds: float | None = None,
    stop_after: int | None = None,
    origin: SpectralNetwork | None = None,
    identity: str = "",
    report_every: int = 20,
    progress: Progress | None = None,
    devices: int | str = "auto",
    accelerator: str = "auto",
) -> dict[str, Any]:
    """Train, or go on training, and leave a checkpoint in ``out``.

    Parameters
    ----------
    settings : TrainSettings
        What to train; of a resumed run only lengths and the learning rate may differ.
    source : SegmentSource
        Clean songs.
    out : Path
        Folder of the run: checkpoints, ``log.csv``, ``settings.json``, the ring of segments.
    resume : bool
        Whether to go on from the checkpoint there, if there is one.
    minutes : float, optional
        Wall time after which to save and return (a piece of the run).
    cpu_seconds : float, optional
        Processor time of the whole run, its earlier pieces included, after which to save and
        return: what is fair between networks on a machine that others use too.
    stop_after : int, optional
        Number of updates after which to save and return.
    origin : STFTUNet, optional
        Network to start a new run from: of the same sizes, narrower (see `widen`), or with fewer
        stems or trunks (see `grow`).
    identity : str
        Names the source; the ring of segments of another source is not used again.
    report_every : int
        Updates between reports.
    progress : callable, optional
        Called with every report.
    devices, accelerator : see Fabric
        One process per device.

    Returns
    -------
    dict
        The last checkpoint.

    Raises
    ------
    SettingsError
        If items are longer than the segments of the source.
    MGDMError
        If the run in ``out`` has another network, or a gradient is not finite.
    """
    began = time.perf_counter()
    # Before there are other processes: what is refused here is said once.
    if settings.data.crop > source.segment:
        raise SettingsError(
            f"items of {settings.data.crop / RATE:.2f} s (--crop) are cut from segments of "
            f"{source.segment / RATE:.2f} s; ask for shorter ones"
        )
    network = _initialised(settings)
    if origin is not None:
        network.load_state_dict(adopted(origin, network, settings, network.average_power))
    device_kind = (
        "cuda" if accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available() else "cpu"
    )
    half = resolve_precision(settings.precision, device_kind) == torch.bfloat16
    fabric = Fabric(
        accelerator=accelerator,
        devices=1 if device_kind == "cpu" and devices == "auto" else devices,
        precision="bf16-mixed" if half else "32-true",
    )
    fabric.launch()
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / CHECKPOINT
    state = read_checkpoint(checkpoint) if resume and checkpoint.exists() else None
    if state is not None:
        stored = TrainSettings.from_dict(json.loads(state["settings"]))
        if stored.network != settings.network:
            raise MGDMError(
                f"the run in {out} has another network; use another folder or its own settings"
            )
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if state is not None:
        network.load_state_dict(state["network"])
    judge = Objective(network, settings)
    if judge.timbre is not None and state is not None and state.get("timbre"):
        judge.timbre.load_state_dict(state["timbre"])
    optimizer = MuonAdamW(
        judge.parameters(),
        settings.learning_rate,
        settings.weight_decay,
        products=torch.bfloat16 if half else torch.float32,
    )
    objective, optimizer = fabric.setup(judge, optimizer)
    weights: dict[str, Tensor] = dict(network.named_parameters())
    average = PowerAverage(weights, settings.ema_length)
    step, seconds, cpu_before, audio_seconds = 0, 0.0, 0.0, 0.0
    if state is not None:
        try:
            if "optimizer" in state:  # a slim checkpoint has none: its moments begin anew
                optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise MGDMError(
                f"the run in {out} was trained by another optimizer; start a new one from its "
                f"weights with --init"
            ) from error
        for name, value in state["average"].items():
            average.values[name].copy_(value)
        step, seconds = int(state["step"]), float(state["seconds"])
        cpu_before, audio_seconds = state["cpu_seconds"], state["audio_seconds"]

    device = fabric.device
    rank = fabric.global_rank
    source = source if rank == 0 else SegmentsFrom(source, rank * SEGMENTS_PER_PROCESS)
    pool = SegmentPool(source, settings.data, out / f"pool{rank}", identity, network.config.stems)
    new_stems = origin is None or origin.config.stems != network.config.stems
    if state is None and new_stems:
        start, stop = settings.data.span(0)
        pool.need(start, stop)
        segments = (pool.get(number) for number in range(start, stop))
        power = average_power(segments, network.spectral)
        power = fabric.broadcast(power)
        if origin is None:
            network.start_from_average(power)
        else:
            network.load_state_dict(adopted(origin, network, settings, power))
    batches = BatchStream(pool, settings.data, settings.seed, rank)
    log = Log(out / "log.csv", step) if rank == 0 else None
    generator = torch.Generator(device=device)
    stopping = InterruptFlag()

    cpu_began, cpu = time.process_time(), cpu_before
    step_audio = settings.data.batch * settings.data.crop / RATE * fabric.world_size

    def cpu_of_run() -> float:
        """Processor time of all processes that train; those that render are not counted."""
        mine = torch.tensor(time.process_time() - cpu_began, dtype=torch.float64)
        total = fabric.all_reduce(mine.to(device), reduce_op="sum")
        assert isinstance(total, torch.Tensor)
        return cpu_before + float(total)

    def current() -> dict[str, Any]:
        return {
            "network": {k: v.detach().cpu() for k, v in network.state_dict().items()},
            "average": {k: v.cpu() for k, v in average.values.items()},
            "timbre": {} if judge.timbre is None else judge.timbre.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step,
            "seconds": seconds + time.perf_counter() - began,
            "cpu_seconds": cpu,
            "audio_seconds": audio_seconds,
            "settings": json.dumps(settings.to_dict()),
            "machine": _describe_machine(device),
            "data": identity,
        }

    def save(name: str) -> None:
        nonlocal cpu
        cpu = cpu_of_run()
        if rank == 0:
            write_checkpoint(out / name, current())
        fabric.barrier()

    if rank == 0:
        (out / "settings.json").write_text(json.dumps(settings.to_dict(), indent=1))
    last_save = last_report = time.perf_counter()
    first_step = step
    sums = Tally()
    try:
        with stopping:
            while step < settings.steps:
                if step == settings.steps - settings.decay_steps and settings.decay_steps:
                    save(BEFORE_DECAY)
                asked = time.perf_counter()
                clean_wave = batches.draw(step)
                waited = time.perf_counter() - asked
                generator.manual_seed(_seed(settings.seed, rank, step, 1))
                wave = torch.from_numpy(clean_wave).to(device)
                white = torch.randn(wave.shape, generator=generator, device=device)
                with torch.no_grad():
                    clean = network.spectral.forward(wave)
                    clean = random_texture(clean, settings.data, generator)
                    clean = clean * random_equaliser(
                        *clean.shape[:3], settings.data, generator=generator
                    )
                    levels = draw_levels(len(wave), settings.corruption, generator)
                    sigma = levels.sigma
                    absent = draw_absent(clean, settings.corruption, generator)
                    noisy = corrupt(
                        clean,
                        network.spectral.forward(white),
                        levels,
                        settings.corruption,
                        generator,
                        network.average_power,
                        absent,
                    )
                    noisy, sigma = own_states(
                        network, noisy, clean, sigma, settings.corruption, generator, absent
                    )
                    bins, chosen = network.config.n_fft // 2, None
                    if settings.bin_share:
                        chosen = choose_bins(bins, settings.bin_share, generator)
                rate = learning_rate(settings, step)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                total, losses = objective(noisy, clean, sigma, chosen, absent)
                fabric.backward(total)
                norm = fabric.clip_gradients(
                    objective, optimizer, max_norm=settings.gradient_clip, error_if_nonfinite=False
                )
                if norm is None or not torch.isfinite(norm):
                    raise MGDMError(f"the gradient is not finite at step {step}; lower the rate")
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
                audio_seconds += step_audio
                average.update(weights, step)
                sums.add(losses.detach(), sigma, norm, waited)

                now = time.perf_counter()
                reporting = step % report_every == 0 or step == settings.steps
                if reporting or cpu_seconds is not None:
                    cpu = cpu_of_run()
                if log is not None and reporting:
                    row = sums.row(step, rate, now - last_report)
                    row.update(
                        seconds=seconds + now - began, cpu_seconds=cpu, audio_seconds=audio_seconds
                    )
                    left = (settings.steps - step) * row["step_seconds"]
                    log.add(row)
                    if progress is not None:
                        progress({**row, "eta_seconds": left, "steps": settings.steps})
                    last_report, sums = now, Tally()
                out_of_time = minutes is not None and now - began > 60 * minutes
                spent = cpu_seconds is not None and cpu >= cpu_seconds
                done = stop_after is not None and step - first_step >= stop_after
                flags = torch.tensor(
                    [
                        float(out_of_time or done or spent or stopping.raised),
                        float(now - last_save > 60 * settings.checkpoint_minutes),
                    ]
                )
                if fabric.world_size > 1:
                    # All processes must agree, or one would wait for the others for ever.
                    total = fabric.all_reduce(flags.to(device), reduce_op="sum")
                    assert isinstance(total, torch.Tensor)
                    flags = total.cpu()
                if flags[0] > 0:
                    break
                if flags[1] > 0:
                    save(CHECKPOINT)
                    last_save = time.perf_counter()
        save(CHECKPOINT)
    finally:
        pool.close()
        batches.close()
    return current()
