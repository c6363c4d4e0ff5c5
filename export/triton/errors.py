"""Why a bundle cannot be written for the reference server."""


class TritonError(Exception):
    """What a model needs cannot be said in the reference server's configuration, or cannot be written; one line."""
