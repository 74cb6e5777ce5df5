"""A page on which the stems of a recording are heard together: one file, or one folder."""

from mgdm_audio.listening_page.confidence import Confidence
from mgdm_audio.listening_page.page import PageOptions, write_page

__all__ = ["Confidence", "PageOptions", "write_page"]
