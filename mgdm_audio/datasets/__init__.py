"""Data sets with reference stems: raw Slakh2100, the four-stem layout, any ``TRACK/{stem}.wav``."""

from mgdm_audio.datasets.discover import open_dataset
from mgdm_audio.datasets.slakh import SLAKH_STEMS, SlakhTrack
from mgdm_audio.datasets.tracks import Dataset, Track, TrackAudio

__all__ = ["SLAKH_STEMS", "Dataset", "SlakhTrack", "Track", "TrackAudio", "open_dataset"]
