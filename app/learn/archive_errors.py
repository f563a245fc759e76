"""Every exception that reading a damaged numpy archive may raise, beyond those numpy documents.

An archive is a zip file of deflated arrays. A wrong byte is found by whichever reads it first: zipfile (its
format, an unused method or encryption), zlib (the stream), numpy (an array's header), or memory allocation
for an absurd size. One list, so that no reader misses one and stops the start of a gateway.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import Final

ARCHIVE_READ_ERRORS: Final = (
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    ValueError,
    OSError,
    EOFError,
    RuntimeError,
    OverflowError,
    MemoryError,
    SyntaxError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
"""For an `except` around the reading of an archive alone."""
