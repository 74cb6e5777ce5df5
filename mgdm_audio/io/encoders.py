"""Encoders for stems: wav (RF64 beyond 4 GB), flac, mp3.

wav is written here rather than by libsndfile, whose float files carry the time in a PEAK chunk (the
same stems must give the same bytes), and whose header is either RIFF or RF64 from the start: here
it becomes RF64 only when the file needs it, and a full disk raises. Sources: Microsoft
"Multiple channel audio data and WAVE files" (2001), EBU Tech 3306 v1.1 (RF64).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, cast

import av
import numpy as np
import soundfile as sf

from mgdm_audio.errors import AudioFormatError
from mgdm_audio.io.decoders import native
from mgdm_audio.io.reader import check_supported
from mgdm_core.array_types import Array, Float, Int
from mgdm_core.errors import SettingsError

__all__ = [
    "Encoder",
    "FlacEncoder",
    "Mp3Encoder",
    "OutputFormat",
    "WavEncoder",
    "open_encoder",
    "quantise",
]

_SAMPLES = {"wav": ("float32", "int24", "int16"), "flac": ("int24", "int16"), "mp3": ("mp3",)}
_BYTES = {"float32": 4, "int24": 3, "int16": 2}
_RIFF_LIMIT = 0xFFFFFFFF
# MPEG 1, 2 and 2.5 layer III: rates, and the highest bit rate of each.
_MP3_KBPS = {
    **dict.fromkeys((32_000, 44_100, 48_000), 320),
    **dict.fromkeys((16_000, 22_050, 24_000), 160),
    **dict.fromkeys((8_000, 11_025, 12_000), 64),
}
_MP3_FRAME = 1152


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

    Raises
    ------
    SettingsError
        If the container does not store such samples.
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


class Encoder:
    """Writes blocks in order; ``close`` completes the file and flushes it to disk."""

    def write(self, block: Float[Array, "channels frames"]) -> None:
        """Append a block."""
        raise NotImplementedError

    def close(self) -> None:
        """Complete the file."""
        raise NotImplementedError

    def discard(self) -> None:
        """Let go of the file without completing it."""
        raise NotImplementedError


class WavEncoder(Encoder):
    """RIFF, and RF64 where the file grows beyond ``riff_limit`` bytes."""

    def __init__(
        self, path: Path, rate: int, channels: int, sample: str, riff_limit: int = _RIFF_LIMIT
    ) -> None:
        self._channels, self._sample, self._limit = channels, sample, riff_limit
        self._data_bytes = 0
        self._file: BinaryIO = path.open("wb")
        width = _BYTES[sample]
        tag = 3 if sample == "float32" else 1
        plain = struct.pack(
            "<HIIHH", channels, rate, rate * channels * width, channels * width, 8 * width
        )
        if channels > 2:
            # Extensible with no speaker positions: those of the input are not known here.
            guid = struct.pack("<H", tag) + bytes.fromhex("000000001000800000aa00389b71")
            fmt = struct.pack("<H", 0xFFFE) + plain + struct.pack("<HHI", 22, 8 * width, 0) + guid
        else:
            fmt = struct.pack("<H", tag) + plain + (b"\0\0" if tag == 3 else b"")
        head = b"RIFF\0\0\0\0WAVE" + b"JUNK" + struct.pack("<I", 28) + bytes(28)
        head += b"fmt " + struct.pack("<I", len(fmt)) + fmt
        self._fact_at = None
        if tag == 3:
            self._fact_at = len(head) + 8
            head += b"fact" + struct.pack("<II", 4, 0)
        head += b"data\0\0\0\0"
        self._head_bytes = len(head)
        self._file.write(head)

    def write(self, block: Float[Array, "channels frames"]) -> None:
        """Append a block; raises OSError on a full disk."""
        if self._sample == "float32":
            data = np.ascontiguousarray(block.T, dtype="<f4").tobytes()
        else:
            width = _BYTES[self._sample]
            whole = np.ascontiguousarray(quantise(block, 8 * width).T, dtype="<i4")
            data = whole.view(np.uint8).reshape(-1, 4)[:, :width].tobytes()
        self._file.write(data)
        self._data_bytes += len(data)

    def close(self) -> None:
        """Fill in the lengths and sync; raises OSError on a full disk."""
        file, size = self._file, self._data_bytes
        if size % 2:
            file.write(b"\0")
        riff = self._head_bytes + size + size % 2 - 8
        frames = size // (self._channels * _BYTES[self._sample])
        if riff > self._limit:
            file.seek(0)
            file.write(b"RF64\xff\xff\xff\xffWAVE" + b"ds64" + struct.pack("<I", 28))
            file.write(struct.pack("<QQQI", riff, size, frames, 0))
            sizes = (0xFFFFFFFF, 0xFFFFFFFF)
        else:
            file.seek(4)
            file.write(struct.pack("<I", riff))
            sizes = (frames, size)
        if self._fact_at is not None:
            file.seek(self._fact_at)
            file.write(struct.pack("<I", sizes[0]))
        file.seek(self._head_bytes - 4)
        file.write(struct.pack("<I", sizes[1]))
        file.close()

    def discard(self) -> None:
        """Close without completing."""
        _close_quietly(self._file)


class FlacEncoder(Encoder):
    """libsndfile's flac, fed with integers that are rounded here."""

    def __init__(self, path: Path, rate: int, channels: int, sample: str) -> None:
        self._bits = 8 * _BYTES[sample]
        self._path, self._frames = path, 0
        self._file = sf.SoundFile(
            native(path), "w", rate, channels, subtype=f"PCM_{self._bits}", format="FLAC"
        )

    def write(self, block: Float[Array, "channels frames"]) -> None:
        """Append a block; raises OSError on a full disk."""
        whole = quantise(block, self._bits).T
        if self._bits == 16:
            data = np.ascontiguousarray(whole, dtype=np.int16)
        else:
            data = np.ascontiguousarray(whole << 8)
        try:
            self._file.write(data)
        except (sf.LibsndfileError, AssertionError) as error:  # a short write fails an assertion
            raise OSError(f"flac encoder: {error or 'short write'}") from error
        self._frames += len(data)

    def close(self) -> None:
        """Complete the file; raises OSError if less arrived on disk than was written."""
        try:
            self._file.close()
            found = sf.info(native(self._path)).frames
        except sf.LibsndfileError as error:
            raise OSError(f"flac encoder: {error}") from error
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


class Mp3Encoder(Encoder):
    """LAME through PyAV; its header tag makes decoders yield the exact sample count.

    Only a stem shorter than one frame of 1152 samples may come back with silence after it.
    """

    def __init__(self, path: Path, rate: int, channels: int, kbps: int) -> None:
        self._sink = _Sink(path)
        self._rate, self._layout = rate, "mono" if channels == 1 else "stereo"
        self._container = av.open(self._sink, mode="w", format="mp3")
        stream = self._container.add_stream(
            "libmp3lame", rate=rate, layout=self._layout, bit_rate=kbps * 1000
        )
        self._stream = cast("av.AudioStream", stream)
        self._held = np.zeros((channels, 0), np.float32)
        self._done = 0

    def write(self, block: Float[Array, "channels frames"]) -> None:
        """Append a block; raises OSError on a full disk."""
        held = np.concatenate([self._held, block.astype(np.float32)], axis=1)
        cut = held.shape[1] - held.shape[1] % _MP3_FRAME
        for start in range(0, cut, _MP3_FRAME):
            self._encode(held[:, start : start + _MP3_FRAME])
        self._held = held[:, cut:]

    def _encode(self, samples: np.ndarray) -> None:
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples), format="fltp", layout=self._layout
        )
        frame.sample_rate = self._rate
        frame.pts = self._done
        frame.time_base = Fraction(1, self._rate)
        self._done += samples.shape[1]
        self._container.mux(self._stream.encode(frame))
        self._raise()

    def _raise(self) -> None:
        if self._sink.error is not None:
            raise self._sink.error

    def close(self) -> None:
        """Flush the encoder and complete the file; raises OSError on a full disk."""
        if self._held.shape[1]:
            self._encode(self._held)
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._sink.close()
        self._raise()

    def discard(self) -> None:
        """Close without completing."""
        _close_quietly(self._container)
        _close_quietly(self._sink)


def open_encoder(path: Path, rate: int, channels: int, output: OutputFormat) -> Encoder:
    """Create ``path`` and the encoder that writes it; raises OSError where it cannot."""
    if output.container == "mp3":
        return Mp3Encoder(path, rate, channels, output.kbps(rate))
    if output.container == "flac":
        try:
            return FlacEncoder(path, rate, channels, str(output.sample))
        except sf.LibsndfileError as error:
            raise OSError(f"flac encoder: {error}") from error
    return WavEncoder(path, rate, channels, str(output.sample))


def _close_quietly(file: object) -> None:
    try:
        file.close()  # type: ignore[attr-defined]
    except Exception:
        # The file is thrown away, and the reason for that is already on its way to the caller.
        return
