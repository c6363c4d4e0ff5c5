"""Which versions are served."""

import pytest

from service.lifecycle.versions import VersionPolicy


@pytest.mark.parametrize(
    ("text", "wanted", "most"),
    [
        ("latest 1", {1, 2, 3, 4}, 1),
        ("latest  12", {1, 2, 3, 4}, 12),
        ("specific 3", {3}, float("inf")),
        ("specific 1,3", {1, 3}, float("inf")),
        ("specific 1 , 3, 4", {1, 3, 4}, float("inf")),
        (" all ", {1, 2, 3, 4}, float("inf")),
    ],
)
def test_a_policy_says_which_versions_may_be_served_and_how_many(text: str, wanted: set[int], most: float) -> None:
    policy = VersionPolicy.parse(text)
    assert ({version for version in range(1, 5) if policy.wants(version)}, policy.most) == (wanted, most)


@pytest.mark.parametrize(
    "text", ["", "latest", "latest 0", "latest -1", "specific", "specific 1 3", "specific 0", "All"]
)
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected latest N, specific N,N or all, got"):
        VersionPolicy.parse(text)
