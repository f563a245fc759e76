"""Our own want of descriptors is not the upstream's fault: 503 to come back, and nothing for its breaker."""

from __future__ import annotations

import errno

import pytest

from app.errors import Overloaded, UpstreamRefused
from app.upstream.origin import connect_error


@pytest.mark.parametrize("scarce", [errno.EMFILE, errno.ENFILE])
def test_no_descriptor_left_is_overload(scarce: int) -> None:
    told = connect_error("http://vendor", "connect", OSError(scarce, "Too many open files"))
    assert isinstance(told, Overloaded)
    assert told.retry_after_s == 1


@pytest.mark.parametrize("why", [OSError(errno.ECONNREFUSED, "refused"), UnicodeError("label")])
def test_anything_else_is_the_upstreams(why: Exception) -> None:
    assert isinstance(connect_error("http://vendor", "connect", why), UpstreamRefused)
