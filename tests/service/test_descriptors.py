"""Limits of file descriptors, in processes of their own where they are changed."""

import resource
import subprocess
import sys

import pytest

from service.descriptors import max_http_connections

RAISE = """
import resource
from service.descriptors import raise_limit
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
hard = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
print(hard, raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_the_limit_is_raised_as_far_as_it_may() -> None:
    done = subprocess.run([sys.executable, "-c", RAISE], capture_output=True, text=True, timeout=60, check=True)
    hard, raised, soft_after, hard_after = map(int, done.stdout.split())
    assert raised == soft_after == hard == hard_after


@pytest.mark.parametrize(
    ("soft", "wanted", "most"),
    [(1024, 8192, 512), (1024, 100, 100), (1025, 8192, 512), (1, 8192, 1), (resource.RLIM_INFINITY, 8192, 8192)],
)
def test_http_gets_what_it_wants_or_half(monkeypatch: pytest.MonkeyPatch, soft: int, wanted: int, most: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, resource.RLIM_INFINITY))
    assert max_http_connections(wanted) == most
