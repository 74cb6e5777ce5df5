"""Compile the network whole and compare; a process of its own, since checked types do not compile.

Run as ``python -m tests.audio.compiled_network``; exits with 0 where the two agree. With the
argument ``trace`` a network with all trunks is only traced, in seconds.
"""

import sys

import torch

from mgdm_audio.priors.dual_path.config import DualPathConfig
from mgdm_audio.priors.dual_path.network import DualPath
from mgdm_audio.priors.stft_unet.config import STFTUNetConfig
from mgdm_audio.priors.stft_unet.network import STFTUNet

SIZES = dict(
    n_fft=128, hop=32, bands=16, min_band=2, widths=(8, 16), blocks=(1, 1), heads=2,
    embedding=16, hidden=8,
)  # fmt: skip
TRUNKS = dict(path_width=16, path_layers=1, path_heads=2, pitch_layers=1, pitch_width=6)


def main(backend="inductor"):
    stream = torch.Generator().manual_seed(0)
    if backend == "eager":
        network = DualPath(DualPathConfig(**SIZES, **TRUNKS))
    else:
        network = STFTUNet(STFTUNetConfig(**SIZES))
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=stream))
    x = torch.randn(2, 4, 640, generator=stream)
    spectrum = torch.view_as_real(network.spectral.forward(x).transpose(2, 3))
    parts = spectrum[..., 0].contiguous(), spectrum[..., 1].contiguous()
    sigma = torch.tensor([0.1, 0.5])
    with torch.no_grad():
        compiled = torch.compile(network.denoise_parts, fullgraph=True, backend=backend)
        for mine, theirs in zip(compiled(*parts, sigma), network.denoise_parts(*parts, sigma)):
            torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)


if __name__ == "__main__":
    main("eager" if "trace" in sys.argv[1:] else "inductor")
