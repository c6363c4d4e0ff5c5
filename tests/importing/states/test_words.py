"""Names: what two of them have in common, and what that says."""

import pytest

from importing.states.words import looks_like_state, says_state, share_stem, tokens


def test_names_are_cut_where_words_meet() -> None:
    assert tokens("serving/lstmStateN_out.0:1") == ("serving", "lstm", "state", "n", "out", "0", "1")


@pytest.mark.parametrize(("given", "returned"), [("input", "output"), ("in", "out"), ("initial", "final"), ("0", "n")])
def test_names_that_say_only_in_and_out_have_nothing_in_common(given: str, returned: str) -> None:
    assert not share_stem(given, returned)


@pytest.mark.parametrize(
    ("given", "returned"), [("h0_in", "h1_out"), ("h", "cn"), ("state_1", "state_out_2"), ("h", "x")]
)
def test_other_names_have_not(given: str, returned: str) -> None:
    assert not share_stem(given, returned)


def test_a_common_name_need_not_be_that_of_a_state() -> None:
    assert share_stem("audio_in", "audio_out")
    assert not says_state("audio_in", "audio_out")
    assert says_state("audio_prev", "audio_next")


@pytest.mark.parametrize("name", ["h", "rnn_states", "past_key_values.0.key", "conv_cache"])
def test_what_states_are_called(name: str) -> None:
    assert looks_like_state(name)


@pytest.mark.parametrize("name", ["x", "input_ids", "audio", "lengths", "sr"])
def test_what_inputs_are_called(name: str) -> None:
    assert not looks_like_state(name)
