"""Encoders for stems: wav (RF64 beyond 4 GB) and mp3 by FFmpeg, flac by libsndfile.

wav is not libsndfile's: its float files carry the time in a PEAK chunk (the same stems must give
the same bytes), and it wants to know at the start whether a file will need RF64.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import soundfile as sf

from mgdm_audio.errors import AudioFormatError
from mgdm_audio.io.decoders import native
from mgdm_audio.io.reader import check_supported
from mgdm_core.array_types import Array, Float, Int
from mgdm_core.errors import SettingsError

_SAMPLES = {"wav": ("float32", "int24", "int16"), "flac": ("int24", "int16"), "mp3": ("mp3",)}
_BYTES = {"float32": 4, "int24": 3, "int16": 2}
# What FFmpeg calls the samples it is given, and its codec.
_WAV = {
    "float32": ("flt", "pcm_f32le"),
    "int24": ("s32", "pcm_s24le"),
    "int16": ("s16", "pcm_s16le"),
}
# MPEG 1, 2 and 2.5 layer III: rates, and the highest bit rate of each.
_MP3_KBPS = {
    **dict.fromkeys((32_000, 44_100, 48_000), 320),
    **dict.fromkeys((16_000, 22_050, 24_000), 160),
    **dict.fromkeys((8_000, 11_025, 12_000), 64),
}


@dataclass(frozen=True)
class OutputFormat:
    """How stems are stored.

    Parameters
    ----------
    container : str
        ``"wav"``, ``"flac"`` or ``"mp3"``.
    sample : str, optional
        wav: ``"float32"`` (default), ``"int24"``, ``"int16"``; flac: ``"int24"`` (default),
        ``"int16"``; mp3: ``"mp3"``. Integers are rounded to the nearest, without dither, so that
        the same stems give the same bytes.
    mp3_kbps : int
        Bit rate of mp3; rates below 32 kHz allow less and get what they allow.
    """

    container: str = "wav"
    sample: str | None = None
    mp3_kbps: int = 320

    def __post_init__(self) -> None:
        if self.container not in _SAMPLES:
            raise SettingsError(
                f"stems are stored as {', '.join(_SAMPLES)}; found {self.container!r}"
            )
        allowed = _SAMPLES[self.container]
        if self.sample is None:
            object.__setattr__(self, "sample", allowed[0])
        elif self.sample not in allowed:
            raise SettingsError(
                f"{self.container} stores {' or '.join(allowed)}; found {self.sample!r}"
            )
        if not 32 <= self.mp3_kbps <= 320:
            raise SettingsError(f"mp3_kbps lies in 32..320; found {self.mp3_kbps}")

    @property
    def extension(self) -> str:
        """File name extension without the dot."""
        return self.container

    @property
    def clips(self) -> bool:
        """Whether samples beyond full scale are lost."""
        return self.sample != "float32"

    def check(self, rate: int, channels: int) -> None:
        """Refuse what the container cannot hold.

        Raises
        ------
        AudioFormatError
            For mp3: a rate that MPEG does not know, or more than two channels.
        """
        check_supported(rate, channels, "the output")
        if self.container == "mp3" and (rate not in _MP3_KBPS or channels > 2):
            raise AudioFormatError(
                f"mp3 holds 1 or 2 channels at {', '.join(map(str, sorted(_MP3_KBPS)))} Hz; "
                f"found {channels} channels at {rate} Hz; write wav or flac"
            )

    def disk_bytes(self, rate: int, channels: int, frames: int) -> int:
        """Most disk space in bytes that writing one stem needs, its temporary file included."""
        if self.container == "mp3":
            stored = int(frames / rate * self.kbps(rate) * 125) + 8192
        else:
            stored = frames * channels * _BYTES[str(self.sample)] + 8192
        return stored + (4 * frames * channels if self.clips else 0)

    def kbps(self, rate: int) -> int:
        """Bit rate of mp3 in kbit/s at a sampling rate in Hz."""
        return min(self.mp3_kbps, _MP3_KBPS.get(rate, 320))


def quantise(block: Float[Array, "channels frames"], bits: int) -> Int[Array, "channels frames"]:
    """Round to signed integers of ``bits`` bits; +1, one step beyond the largest, saturates."""
    scale = float(1 << (bits - 1))
    return np.clip(np.rint(block.astype(np.float64) * scale), -scale, scale - 1).astype(np.int32)


def _whole(block: Float[Array, "channels frames"], bits: int) -> Int[Array, "frames channels"]:
    """Rounded samples as the encoders take them: 24 bits are the upper ones of 32."""
    whole = quantise(block, bits).T
    return np.ascontiguousarray(whole << 8 if bits == 24 else whole.astype(np.int16))


@contextlib.contextmanager
def _flac_errors() -> Iterator[None]:
    try:
        yield
    except (sf.LibsndfileError, AssertionError) as error:  # a short write fails an assertion
        raise OSError(f"flac encoder: {str(error) or 'short write'}") from error


class FlacEncoder:
    """libsndfile's flac, fed with integers that are rounded here."""

    def __init__(self, path: Path, rate: int, channels: int, sample: str) -> None:
        self._bits = 8 * _BYTES[sample]
        self._path, self._frames = path, 0
        with _flac_errors():
            self._file = sf.SoundFile(
                native(path), "w", rate, channels, subtype=f"PCM_{self._bits}", format="FLAC"
            )

    def write(self, block: Float[Array, "channels frames"]) -> None:
        """Append a block; raises OSError on a full disk."""
        data = _whole(block, self._bits)
        with _flac_errors():
            self._file.write(data)
        self._frames += len(data)

    def close(self) -> None:
        """Complete the file; raises OSError if less arrived on disk than was written."""
        with _flac_errors():
            self._file.close()
            found = sf.info(native(self._path)).frames
        if found != self._frames:
            raise OSError(f"flac encoder: {found} of {self._frames} samples were stored")

    def discard(self) -> None:
        """Close without completing."""
        _close_quietly(self._file)


class _Sink:
    """A file for FFmpeg that remembers the first error: exceptions in its callbacks get lost."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.error = self.error or error
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._file.seek(offset, whence)
        except OSError as error:
            self.error = self.error or error
            return 0

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()


class _FFmpegEncoder:
    """One stream of sound in a file that PyAV writes."""

    def __init__(
        self,
        path: Path,
        rate: int,
        layout: str,
        form: str,
        codec: str,
        options: dict[str, str] | None = None,
        bit_rate: int | None = None,
    ) -> None:
        self._sink = _Sink(path)
        self._rate, self._layout, self._done = rate, layout, 0
        container = av.open(self._sink, mode="w", format=form, options=options)
        stream = cast("av.AudioStream", container.add_stream(codec, rate=rate, layout=layout))
        if bit_rate is not None:
            stream.bit_rate = bit_rate
        self._container, self._stream = container, stream

    def _encode(self, data: np.ndarray, samples: str, count: int) -> None:
        """Give ``count`` sample frames on; raises the first error of the file."""
        frame = av.AudioFrame.from_ndarray(data, format=samples, layout=self._layout)
        frame.sample_rate = self._rate
        frame.pts = self._done
        frame.time_base = Fraction(1, self._rate)
        self._done += count
        self._container.mux(self._stream.encode(frame))
        self._raise()

    def _raise(self) -> None:
        if self._sink.error is not None:
            raise self._sink.error

    def close(self) -> None:
        """Flush the encoder and complete the file; raises OSError on a full disk."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._sink.close()
        self._raise()

    def discard(self) -> None:
        """Close without completing."""
        _close_quietly(self._container)
        _close_quietly(self._sink)


class WavEncoder(_FFmpegEncoder):
    """RIFF, and RF64 where the file grows beyond 4 GB (or, with ``rf64="always"``, from the start).

    More than two channels get the speakers that FFmpeg usually gives that many.
    """

    def __init__(
        self, path: Path, rate: int, channels: int, sample: str, rf64: str = "auto"
    ) -> None:
        # Without "bitexact" FFmpeg signs the file with its version.
        options = {"rf64": rf64, "fflags": "+bitexact"}
        self._form, codec = _WAV[sample]
        layout = {1: "mono", 2: "stereo"}.get(channels, f"{channels}c")
        super().__init__(path, rate, layout, "wav", codec, options)

    def write(self, block: Float[Array, "channels frames"]) -> None:
        """Append a block; raises OSError on a full disk."""
        if self._form == "flt":
            data = np.ascontiguousarray(block.T, dtype=np.float32)
        else:
            data = _whole(block, 16 if self._form == "s16" else 24)
        if len(data):
            self._encode(data.reshape(1, -1), self._form, len(data))


class Mp3Encoder(_FFmpegEncoder):
    """LAME; its header tag makes decoders yield the exact sample count.

    Only a stem shorter than one frame of 1152 samples may come back with silence after it.
    """

    def __init__(self, path: Path, rate: int, channels: int, kbps: int) -> None:
        layout = "mono" if channels == 1 else "stereo"
        super().__init__(path, rate, layout, "mp3", "libmp3lame", bit_rate=kbps * 1000)

    def write(self, block: Float[Array, "channels frames"]) -> None:
        """Append a block; raises OSError on a full disk."""
        if block.shape[1]:
            self._encode(np.ascontiguousarray(block, dtype=np.float32), "fltp", block.shape[1])


Encoder = FlacEncoder | WavEncoder | Mp3Encoder
"""Writes blocks in order; ``close`` completes the file and flushes it to disk, ``discard`` lets go
of it without completing it."""


def open_encoder(path: Path, rate: int, channels: int, output: OutputFormat) -> Encoder:
    """Create ``path`` and the encoder that writes it; raises OSError where it cannot."""
    if output.container == "mp3":
        return Mp3Encoder(path, rate, channels, output.kbps(rate))
    if output.container == "flac":
        return FlacEncoder(path, rate, channels, str(output.sample))
    return WavEncoder(path, rate, channels, str(output.sample))


def _close_quietly(file: object) -> None:
    try:
        file.close()  # type: ignore[attr-defined]
    except Exception:
        # The file is thrown away, and the reason for that is already on its way to the caller.
        return
