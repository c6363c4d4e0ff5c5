"""The three families: what they promise to training, evaluation and export."""

import pytest
import torch
from torch import Tensor

from models.build import build_model
from models.cells import RecurrentCell
from models.config import Cell, EncoderDecoderConfig, LanguageModelConfig, ModelConfig, TaggerConfig
from models.encoder_decoder import EncoderDecoder
from models.language_model import LanguageModel
from models.output import next_log_probs
from models.recurrent import RecurrentStack
from models.tagger import Tagger

CELLS: list[Cell] = ["lstm", "gru"]


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_steps_as_torch_does(cell: Cell) -> None:
    torch.manual_seed(0)
    mine = RecurrentCell(cell, 5, 4)
    for parameter in mine.parameters():
        torch.nn.init.normal_(parameter)
    theirs = torch.nn.LSTMCell(5, 4) if cell == "lstm" else torch.nn.GRUCell(5, 4)
    theirs.load_state_dict(mine.state_dict())
    inputs, states = torch.randn(3, 5), tuple(torch.randn(3, 4) for _ in range(mine.num_states))
    projected = torch.nn.functional.linear(inputs, mine.weight_ih, mine.bias_ih)
    expected = theirs(inputs, states if cell == "lstm" else states[0])
    for got, want in zip(mine(projected, states), expected if cell == "lstm" else (expected,), strict=True):
        torch.testing.assert_close(got, want)


def _encoder_decoder(cell: Cell, **changes: object) -> EncoderDecoder:
    torch.manual_seed(0)
    settings = {"source_dim": 6, "target_dim": 5, "hidden": 8, "attention_dim": 7, **changes}
    config = EncoderDecoderConfig.model_validate({"cell": cell, **settings})
    return EncoderDecoder(config, source_size=12, target_size=10).eval()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("attention", ["additive", "multiplicative"])
@pytest.mark.parametrize("layers", [1, 2])
def test_steps_give_what_teacher_forcing_gives(cell: Cell, attention: str, layers: int) -> None:
    model = _encoder_decoder(cell, attention=attention, decoder_layers=layers, encoder_layers=layers)
    source, lengths = torch.randint(4, 12, (3, 6)), torch.tensor([6, 1, 4])
    target = torch.randint(4, 10, (3, 5))
    logits = model(source, lengths, target)
    memory, keys, states = model.encode(source, lengths)
    for t in range(5):
        log_probs, states = model.step(target[:, t], states, memory, keys, lengths)
        torch.testing.assert_close(log_probs, next_log_probs(logits[:, t]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_a_longer_batch_mate_changes_no_target(cell: Cell) -> None:
    model = _encoder_decoder(cell)
    source, lengths, target = torch.randint(4, 12, (2, 6)), torch.tensor([6, 2]), torch.randint(4, 10, (2, 3))
    both = model(source, lengths, target)
    alone = model(source[1:, :2], lengths[1:], target[1:])
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cell", CELLS)
def test_the_previous_word_and_the_context_matter_at_every_step(cell: Cell) -> None:
    model = _encoder_decoder(cell)
    source, lengths, target = torch.randint(4, 12, (1, 4)), torch.tensor([4]), torch.randint(4, 10, (1, 4))
    embedded = model.target_embedding(target).detach().requires_grad_()
    memory = model.encode(source, lengths)[0].detach().requires_grad_()
    states = model.encode(source, lengths)[2]
    for t in range(4):
        context, _ = model.attention(
            states[0], memory, model.attention.keys(memory), torch.ones(1, 4, dtype=torch.bool)
        )
        joined = torch.cat([embedded[:, t], context], dim=-1)
        first = model.cells[0]
        new = first(torch.nn.functional.linear(joined, first.weight_ih, first.bias_ih), states[: first.num_states])
        grads = torch.autograd.grad(new[0].sum(), [embedded, memory], retain_graph=True)
        assert all(grad.abs().sum() > 0 for grad in grads)
        _, states = model.step(target[:, t], states, memory, model.attention.keys(memory), lengths)
        torch.testing.assert_close(states[0], new[0], atol=1e-6, rtol=0)


def test_words_of_a_tagger_are_spelt_by_both_ends() -> None:
    torch.manual_seed(0)
    config = TaggerConfig(word_dim=6, character_dim=4, character_hidden=3, hidden=5)
    model = Tagger(config, num_words=9, num_characters=8, num_tags=4).eval()
    characters = torch.tensor([[[4, 5, 6, 0], [7, 0, 0, 0]]])
    embedded = model.embed(torch.tensor([[2, 3]]), characters, torch.tensor([[3, 1]]))
    forward_end = model.character_stack(model.character_embedding(torch.tensor([[4, 5, 6]])))[0]
    torch.testing.assert_close(embedded[0, 0, 6:9], forward_end[0, 2, :3])
    torch.testing.assert_close(embedded[0, 0, 9:], forward_end[0, 0, 3:])


def test_word_dropout_reads_unknown_in_training_alone() -> None:
    torch.manual_seed(0)
    config = TaggerConfig(word_dim=6, hidden=5, dropout=0.0, word_dropout=0.5)
    model = Tagger(config, num_words=9, num_characters=8, num_tags=4)
    words = torch.full((1, 200), 5)
    spelling = (torch.full((1, 200, 1), 4), torch.ones(1, 200, dtype=torch.int64))
    unknown, known = model.word_embedding.weight[1], model.word_embedding.weight[5]
    embedded = model.embed(words, *spelling)[0, :, :6]
    num_unknown = int((embedded == unknown).all(dim=1).sum())
    assert 60 < num_unknown < 140
    assert num_unknown + int((embedded == known).all(dim=1).sum()) == 200
    assert (model.eval().embed(words, *spelling)[0, :, :6] == known).all()


def test_greedy_tags_are_the_best_of_each_word() -> None:
    model = Tagger(TaggerConfig(hidden=4), 9, 8, 3).eval()
    emissions = torch.tensor([[[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]], [[0.0, 0.0, 9.0], [0.0, 9.0, 0.0]]])
    assert model.decode(emissions, torch.tensor([2, 1])).tolist() == [[1, 0], [2, 0]]


@pytest.mark.parametrize("cell", CELLS)
def test_a_language_model_steps_as_it_scores(cell: Cell) -> None:
    torch.manual_seed(0)
    model = LanguageModel(LanguageModelConfig(cell=cell, dim=6, hidden=6, tied=True), 11).eval()
    tokens = torch.randint(0, 11, (2, 5))
    logits, final = model(tokens, torch.tensor([5, 5]))
    states = model.initial_states(2)
    for t in range(5):
        log_probs, states = model.step(tokens[:, t], states)
        torch.testing.assert_close(log_probs, next_log_probs(logits[:, t]), atol=1e-5, rtol=0)
    for one, other in zip(states, final, strict=True):
        torch.testing.assert_close(one, other)


def test_tied_weights_are_one_tensor() -> None:
    tied = LanguageModel(LanguageModelConfig(dim=6, hidden=6, tied=True), 11)
    free = LanguageModel(LanguageModelConfig(dim=6, hidden=6), 11)
    assert tied.projection()[0] is tied.embedding.weight
    assert set(free.state_dict()) - set(tied.state_dict()) == {"output_weight"}


def test_what_can_never_come_next_keeps_the_rest_as_it_is() -> None:
    logits = torch.randn(2, 6)
    log_probs = next_log_probs(logits)
    assert (log_probs[:, [0, 2]] == -1e9).all()
    torch.testing.assert_close(log_probs[:, [1, 3, 4, 5]], torch.log_softmax(logits, -1)[:, [1, 3, 4, 5]])


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (TaggerConfig(hidden=4), {"words": 9, "characters": 8, "tags": 3}),
        (EncoderDecoderConfig(hidden=4), {"source": 9, "target": 8}),
        (LanguageModelConfig(hidden=4, dim=4), {"tokens": 9}),
    ],
)
def test_build_gives_each_role_its_size(config: ModelConfig, sizes: dict[str, int]) -> None:
    model = build_model(config, sizes)
    embedded = {m.num_embeddings for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    assert embedded == {size for role, size in sizes.items() if role != "tags"}
    if isinstance(model, Tagger):
        assert (model.word_embedding.num_embeddings, model.num_tags) == (9, 3)
    with pytest.raises(ValueError, match="expected"):
        build_model(config, {"nothing": 3})


@pytest.mark.parametrize("config", [TaggerConfig(), EncoderDecoderConfig(), LanguageModelConfig()])
def test_modules_keep_nothing_between_calls(config: ModelConfig) -> None:
    sizes = {"tagger": {"words": 9, "characters": 8, "tags": 3}, "encoder_decoder": {"source": 9, "target": 8}}
    model = build_model(config, sizes.get(config.family, {"tokens": 9})).eval()

    def attributes() -> dict[str, object]:
        return {
            f"{name}.{key}": value
            for name, module in model.named_modules()
            for key, value in vars(module).items()
            if not isinstance(value, (dict, Tensor, RecurrentStack))
        }

    before = attributes()
    lengths = torch.tensor([3, 1])
    tokens = torch.randint(4, 8, (2, 3))
    if config.family == "tagger":
        model(tokens, torch.randint(4, 8, (2, 3, 2)), torch.ones(2, 3, dtype=torch.int64), lengths)
    elif config.family == "encoder_decoder":
        model(tokens, lengths, tokens)
    else:
        model(tokens, lengths)
    assert attributes() == before
