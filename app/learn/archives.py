"""What reading a damaged archive of numpy's may raise, beyond what numpy's own documentation names.

An archive is a zip file of deflated arrays. A byte that a disk or a killed process got wrong is found by
whichever of them reads it first: zipfile (its format, a method or an encryption that nobody used), zlib (the
stream), numpy (an array's head), or the memory that an absurd size asks for. One list, so that no reader of
what lies on a disk forgets one and stops the start of a gateway.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import Final

DAMAGED: Final = (
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
