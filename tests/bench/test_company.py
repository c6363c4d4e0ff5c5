"""The comparison of answers in company with those alone must pass on a right server, and see a wrong one."""

import asyncio
import dataclasses
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench import company
from bench.server import serving
from carryover.client.aio import AsyncClient
from carryover.client.types import Hypothesis
from export.pipeline import export_run
from tests.export.runs import train

MODEL = "tiny-encoder-decoder"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of an encoder-decoder trained for a moment."""
    folder = tmp_path_factory.mktemp("company")
    export_run(train(folder / "training", "encoder_decoder"), folder / "repository")
    with serving(folder / "repository", 1, folder / "server.log") as address:
        yield address


async def test_a_right_server_passes_and_the_rounds_can_be_told_apart(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await company.main([MODEL, "--server", address, "--calls", "12", "--rounds", "2", "--seed", "5"])
    first, second = capsys.readouterr().out.splitlines()
    for line, seed in ((first, 5), (second, 6)):
        assert line.startswith(f"seed {seed}: 8 answers equal to those alone, bit for bit; ")
        assert line.endswith(" of 4 given up before their end; every slot and row free")


async def test_a_call_given_up_at_once_is_cancelled_and_one_read_to_its_end_is_not(address: str) -> None:
    async with AsyncClient(address) as client:
        assert await company.give_up(client, MODEL, "fade", 1, after_tokens=0)
        assert not await company.give_up(client, MODEL, "fade", 1, after_tokens=1000)
        await company.settled(client, MODEL)


async def test_one_answer_that_differs_in_its_last_bit_is_exit_status_1(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, asked = company.answer, 0

    async def wrong_in_company(client: AsyncClient, model: str, source: str, beam: int) -> tuple[Hypothesis, ...]:
        nonlocal asked
        asked += 1
        number, (best, *others) = asked, await answer(client, model, source, beam)
        if number == 7:  # six alone come first
            best = dataclasses.replace(best, log_prob=math.nextafter(best.log_prob, 0))
        return best, *others

    monkeypatch.setattr(company, "answer", wrong_in_company)
    with pytest.raises(SystemExit, match=r"company: '.*', beam .: alone .*, in company") as caught:
        await company.main([MODEL, "--server", address, "--calls", "6", "--rounds", "1"])
    assert isinstance(caught.value.code, str), "a text: Python prints it and exits with 1"


@dataclass
class Leaky:
    """A client of a server that keeps a slot."""

    load: "Leaky | None" = None
    free_slots: int = 7
    num_slots: int = 8
    free_memory_rows: int = 9
    num_memory_rows: int = 9
    running: int = 0

    async def model(self, name: str) -> "Leaky":
        await asyncio.sleep(0)
        return Leaky(load=self)


async def test_a_slot_that_is_not_given_back_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(company, "SETTLE_S", 0.0)
    with pytest.raises(SystemExit, match="expected every slot and row free after 0 s"):
        await company.settled(Leaky(), MODEL)  # type: ignore[arg-type]


def test_sources_are_drawn_without_repeats_and_as_the_seed_says() -> None:
    known = [f"word{number}" for number in range(9)]
    drawn = company.draw_sources(random.Random(1), 9, known)
    assert sorted(drawn) == known
    assert drawn == company.draw_sources(random.Random(1), 9, known) != company.draw_sources(random.Random(2), 9, known)
    assert len(company.draw_sources(random.Random(1), 5, [])) == 5


async def test_a_file_with_fewer_lines_than_calls_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sources.txt").write_text("one\ntwo\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        await company.main([MODEL, "--sources", str(tmp_path / "sources.txt"), "--calls", "3"])
    assert "expected at least 3 lines, one a call, got 2" in capsys.readouterr().err
