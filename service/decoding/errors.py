"""What a decoder cannot go on from."""


class NotANumber(Exception):
    """A model gave NaN instead of a log-probability: its weights or a state are broken, and no token is the best."""


def check_number(log_prob: float) -> None:
    """Refuse NaN, with which every comparison is false.

    Raises:
        NotANumber: It is one.
    """
    if log_prob != log_prob:
        raise NotANumber("expected log-probabilities from the model, got NaN")
