"""The two decoders behind `reader`: libsndfile, and FFmpeg (PyAV) for what it cannot read.

Sample counts. Both decoders drop what the file itself declares as padding: the encoder delay and
end padding of a LAME or Xing tag (mp3), the pre-skip and end granule of Ogg (opus, vorbis), the
start of an edit list (m4a, mp4). What a file does not declare stays: a bare .aac stream keeps its
priming samples, and an m4a its padding to a whole packet at the end. A track has the samples that
its decoder yields, and the stems get exactly as many.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import av
import av.error
import numpy as np
import soundfile as sf

from mgdm_audio.errors import AudioFormatError, AudioReadError
from mgdm_audio.io.iff_header import find_data_chunk
from mgdm_audio.io.ogg_pages import is_cut_off
from mgdm_core.array_types import Array, Float

# FFmpeg has demuxers that open other files and addresses (concat, hls, sdp, image lists); a text
# file of that kind renamed to .wav must not make this program read or fetch anything. Only
# demuxers that read the one file they are given are allowed.
_DEMUXERS = (
    "aac,ac3,adts,aiff,amr,ape,asf,au,avi,caf,dsf,dts,eac3,flac,flv,matroska,mov,mp3,mpc,mpc8,"
    "mpeg,mpegts,ogg,rm,tak,truehd,tta,voc,w64,wav,webm,wv"
)
_SNDFILE_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"fLaC", b"OggS", b".snd", b"caff")
_SNDFILE_MAGIC += (b"riff", b"NIST", b"Crea")
# Where a decoder is told no length, libsndfile answers with a huge number of frames.
_UNKNOWN_FRAMES = 1 << 60
_CONVERT = "convert it first: ffmpeg -i FILE OUT.wav"


_CLEARER = {
    "Internal error : SF_INFO struct incomplete": "its header declares a rate of 0 Hz",
    "Internal psf_fseek() failed": "the decoder lost sync",
}


class _NothingDecoded(Exception):
    """Every packet was refused."""


@dataclass(frozen=True)
class AudioInfo:
    """What a sound file is; ``rate`` in Hz.

    Parameters
    ----------
    path : str
        As given; ``"-"`` for standard input.
    channels : int
        1 to 8.
    frames : int or None
        Samples per channel where the header says so exactly; None where only decoding tells
        (everything read by PyAV: mp3, m4a, aac, mp4).
    approx_frames : int or None
        ``frames``, or what the container suggests: for estimates of time and space only.
    """

    path: str
    rate: int
    channels: int
    frames: int | None
    subtype: str
    format: str
    approx_frames: int | None = None

    @property
    def seconds(self) -> float | None:
        """Duration in seconds, estimated where ``frames`` is None; None where nothing is known."""
        frames = self.frames if self.frames is not None else self.approx_frames
        return None if frames is None else frames / self.rate


class SoundFileDecoder:
    """libsndfile: wav, aiff, flac, ogg, opus and their relatives."""

    def __init__(self, path: Path, label: str) -> None:
        self._file = file = sf.SoundFile(native(path))
        frames: int | None = file.frames if file.frames < _UNKNOWN_FRAMES else None
        self.label = label
        self.info = AudioInfo(
            str(path), file.samplerate, file.channels, frames, file.subtype, file.format, frames
        )
        wide = file.subtype in ("DOUBLE", "PCM_32")
        self._dtype: Literal["float64", "float32"] = "float64" if wide else "float32"
        try:
            _check_length(path, label, frames)
        except AudioReadError:
            file.close()
            raise

    def blocks(self, block_frames: int) -> Iterator[Float[Array, "channels frames"]]:
        """Yield blocks; a file that ends before its declared length raises AudioReadError."""
        done = 0
        while True:
            try:
                block = self._file.read(block_frames, dtype=self._dtype, always_2d=True)
            except (sf.LibsndfileError, RuntimeError) as error:
                raise _damaged(self.label, done / self.info.rate, error) from error
            if len(block) == 0:
                break
            done += len(block)
            yield np.ascontiguousarray(block.T)
        if self.info.frames is not None and done < self.info.frames:
            raise _cut_off(self.label, done, self.info.frames)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class PyAVDecoder:
    """FFmpeg through PyAV: mp3, m4a, aac, mp4 and whatever libsndfile cannot read."""

    def __init__(self, path: Path, label: str) -> None:
        self._raw: BinaryIO = path.open("rb")
        try:
            self._container = av.open(self._raw, mode="r", options={"format_whitelist": _DEMUXERS})
            self._begin(path, label)
        except BaseException:
            self.close()
            raise

    def _begin(self, path: Path, label: str) -> None:
        tracks = self._container.streams.audio
        if len(tracks) == 0:
            raise AudioFormatError(
                f"{label}: no audio track in this {self._container.format.name} file; "
                f"give a file with sound"
            )
        if len(tracks) > 1:
            raise AudioFormatError(
                f"{label}: has {len(tracks)} audio tracks and one is needed; choose one first: "
                f"ffmpeg -i FILE -map 0:a:0 -vn OUT.wav"
            )
        stream = tracks[0]
        if stream.codec_context is None:
            raise AudioFormatError(f"{label}: its audio codec is not known; {_CONVERT}")
        frames = self._decode(label)
        # Rate and channels of HE-AAC and some broken headers are only right once a frame is out.
        first = next(frames, None)
        if first is None:
            raise AudioReadError(f"{label}: holds no samples; nothing to separate")
        self._decoded = itertools.chain([first], frames)
        rate = first.sample_rate
        promised = None
        if stream.duration is not None and stream.time_base is not None:
            promised = int(stream.duration * stream.time_base * rate)
        approx = promised
        if approx is None and self._container.duration is not None:
            approx = int(self._container.duration * rate / av.time_base)
        # A raw stream has no length in its header: FFmpeg guesses one from the bit rate.
        guessed = self._container.format.name in ("aac", "ac3", "eac3", "dts", "amr") or (
            self._container.format.name == "mp3" and not _has_xing_tag(path)
        )
        self._promised = None if guessed else promised
        self.label = label
        self.info = AudioInfo(
            str(path),
            rate,
            first.layout.nb_channels,
            None,
            stream.codec_context.name.upper().removesuffix("FLOAT"),
            self._container.format.name.split(",")[0].upper(),
            approx,
        )

    def _decode(self, label: str) -> Iterator[av.AudioFrame]:
        """Yield frames; bad data after which no good frame follows is the end of the file."""
        stream = self._container.streams.audio[0]
        error: Exception | None = None
        seconds = 0.0
        try:
            for packet in self._container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.FFmpegError as raised:
                    if error is None:
                        error = raised
                    continue
                for frame in frames:
                    if error is not None:
                        raise _damaged(label, seconds, error) from error
                    seconds += frame.samples / frame.sample_rate
                    yield frame
        except av.error.FFmpegError as raised:
            raise _damaged(label, seconds, raised) from raised
        if error is not None and seconds == 0.0:
            raise _NothingDecoded(_reason(error))

    def blocks(self, block_frames: int) -> Iterator[Float[Array, "channels frames"]]:
        """Yield blocks of ``block_frames``; the last, and one before samples change, is shorter."""
        done = 0
        frames = map(self._unchanged, self._decoded)
        for _, alike in itertools.groupby(frames, lambda f: (f.format.name, f.layout.name)):
            even = av.AudioResampler(format="fltp", frame_size=block_frames)
            for frame in itertools.chain(alike, [None]):
                for part in even.resample(frame):
                    if part is not None:
                        done += part.samples
                        yield part.to_ndarray()
        # A tenth of a second forgives encoders that count their own padding differently.
        if self._promised is not None and done < self._promised - self.info.rate // 10:
            raise _cut_off(self.label, done, self._promised)

    def _unchanged(self, frame: av.AudioFrame) -> av.AudioFrame:
        rate, channels = self.info.rate, self.info.channels
        if frame.sample_rate != rate or frame.layout.nb_channels != channels:
            raise AudioFormatError(
                f"{self.label}: changes from {rate} Hz, {channels} channels to "
                f"{frame.sample_rate} Hz, {frame.layout.nb_channels} channels midway; {_CONVERT}"
            )
        return frame

    def close(self) -> None:
        """Close the file."""
        container = getattr(self, "_container", None)
        if container is not None:
            container.close()
        self._raw.close()


Decoder = SoundFileDecoder | PyAVDecoder
"""An open file that yields its samples once, from the start, in float64 or float32 blocks of at
most so many samples per channel; ``label`` names it in messages."""


def open_decoder(path: Path, label: str) -> Decoder:
    """Open ``path`` with the decoder that reads it.

    libsndfile is asked only about files that begin like one of its formats: its mp3 reader writes
    notes to the standard error stream on anything that is not quite mp3.

    Raises
    ------
    AudioReadError
        If neither decoder makes sense of the file.
    AudioFormatError
        If it has no audio track or several.
    """
    with path.open("rb") as file:
        head = file.read(4)
    first_error: Exception | None = None
    if head in _SNDFILE_MAGIC:
        if head == b"OggS" and is_cut_off(path):
            raise AudioReadError(
                f"{label}: is cut off: its last page is missing or incomplete; get the whole file, "
                f"or keep what is left: ffmpeg -i FILE OUT.wav"
            )
        try:
            return SoundFileDecoder(path, label)
        except (sf.LibsndfileError, TypeError) as error:
            first_error = error
    try:
        return PyAVDecoder(path, label)
    except (av.error.FFmpegError, _NothingDecoded) as error:
        # The decoder that knows the format knows better what is wrong with it.
        reason = _reason(first_error if first_error is not None else error)
        raise AudioReadError(
            f"{label}: is not audio that can be read, or its header is damaged ({reason})"
        ) from error


def native(path: Path) -> Any:  # bytes are taken too, though not by the binding's declared types
    """Path as libsndfile's binding takes it, whatever bytes are in it."""
    return str(path) if os.name == "nt" else os.fsencode(path)


def _check_length(path: Path, label: str, frames: int | None) -> None:
    chunk = find_data_chunk(path)
    if chunk is not None and chunk.truncated and chunk.promised:
        raise AudioReadError(
            f"{label}: is cut off: the header declares {chunk.promised} bytes of samples and "
            f"{chunk.following} are there; get the whole file, or keep what is left: "
            f"ffmpeg -i FILE OUT.wav"
        )
    if frames == 0:
        left = chunk.following if chunk is not None and chunk.promised == 0 else 0
        hint = f" though {left} bytes follow; repair it: ffmpeg -i FILE OUT.wav" if left > 8 else ""
        raise AudioReadError(f"{label}: holds no samples (0 frames in the header){hint}")


def _has_xing_tag(path: Path) -> bool:
    """Whether an mp3 file carries a Xing, Info or VBRI tag, that is a declared length."""
    with path.open("rb") as file:
        head = file.read(10)
        start = 0
        if head[:3] == b"ID3" and len(head) == 10:
            b = head[6:10]
            start = 10 + (b[0] << 21 | b[1] << 14 | b[2] << 7 | b[3])
        file.seek(start)
        body = file.read(4096)
    return any(tag in body for tag in (b"Xing", b"Info", b"VBRI"))


def _reason(error: Exception) -> str:
    if isinstance(error, sf.LibsndfileError):
        text = str(error.error_string)
    else:
        text = getattr(error, "strerror", None) or str(error)
    text = text.strip().rstrip(".")
    return _CLEARER.get(text, text)


def _damaged(label: str, seconds: float, error: Exception) -> AudioReadError:
    return AudioReadError(
        f"{label}: is damaged somewhere after {seconds:.2f} s ({_reason(error)}); "
        f"get a whole copy, or convert what is left: ffmpeg -i FILE OUT.wav"
    )


def _cut_off(label: str, found: int, promised: int) -> AudioReadError:
    return AudioReadError(
        f"{label}: is cut off: the header declares {promised} samples per channel and {found} "
        f"are there; get the whole file, or keep what is left: ffmpeg -i FILE OUT.wav"
    )
