"""Every way in which a call that loads or unloads a model is refused or fails.

    ChangeError
    |-- NotExplicit       what is served is not for calls to decide
    |-- NoAdminToken      nobody may change it by calls: the service has no token
    |-- WrongToken        the caller has none, or another one
    |-- TooManyChanges    as many loads and unloads as there may be are under way
    |-- NoSuchModel       the repository has none of that name
    |-- NoVersion         the policy leaves no version of it to serve
    |-- VersionsRefused   its newest version cannot be served; what was served of it still is
    `-- LoadFailed        something else went wrong

What a protocol's clients are told of each, `service/oip/changes.py` says; a test proves its table complete. No message
names a path of this machine.
"""


class ChangeError(Exception):
    """Base of everything that one who asks for a change may be told."""


class NotExplicit(ChangeError):
    """Models come and go by themselves, or not at all.

    Args:
        model_control: How the service decides what is served.
    """

    def __init__(self, model_control: str) -> None:
        super().__init__(f"a change by a call: expected CARRYOVER_MODEL_CONTROL=explicit, got {model_control}")
        self.model_control = model_control


class NoAdminToken(ChangeError):
    """The service has no token to hold callers' against."""

    def __init__(self) -> None:
        super().__init__("a change by a call: expected a service with an admin token, got one without")


class WrongToken(ChangeError):
    """The caller may not.

    Args:
        got: What came in place of the token, in words.
    """

    def __init__(self, got: str) -> None:
        super().__init__(f"a change by a call: expected the admin token, got {got}")
        self.got = got


class TooManyChanges(ChangeError):
    """The change has not begun.

    Args:
        most: Loads and unloads at a time.
    """

    def __init__(self, most: int) -> None:
        super().__init__(f"expected at most {most} loads and unloads at a time, got one more")


class NoSuchModel(ChangeError):
    """There is nothing to load.

    Args:
        name: Of the model.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"model '{name}': expected one of the repository's models, got none of that name")
        self.name = name


class NoVersion(ChangeError):
    """There is a model, and no version of it that is to be served.

    Args:
        name: Of the model.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"model '{name}': expected a version that is to be served, got none")
        self.name = name


class VersionsRefused(ChangeError):
    """Versions that are newer than all that is served cannot be served.

    Args:
        name: Of the model.
        reasons: Why, by version.
    """

    def __init__(self, name: str, reasons: dict[int, str]) -> None:
        why = "; ".join(f"version {version}: {reason}" for version, reason in reasons.items())
        super().__init__(f"model '{name}' could not be loaded: {why}")
        self.name = name
        self.reasons = reasons


class LoadFailed(ChangeError):
    """The repository could not be read, or a model could not be loaded for a reason that is not its own.

    Args:
        name: Of the model.
        reason: Why.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"model '{name}' could not be loaded: {reason}")
        self.name = name
        self.reason = reason
