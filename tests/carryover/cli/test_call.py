"""`carryover call` against a scripted server: what it asks for, what it prints, and when."""

import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from carryover.cli.app import run
from protos.carryover.v1 import carryover_pb2 as pb
from protos.carryover.v1 import carryover_pb2_grpc as pb_grpc

ROOT = Path(__file__).resolve().parents[3]
TASKS = {"g2p": pb.TASK_ENCODER_DECODER, "pos": pb.TASK_TAGGER, "lm": pb.TASK_LANGUAGE_MODEL, "vad": pb.TASK_TENSORS}


class Scripted(pb_grpc.CarryoverServicer):
    """Spells the source, labels words by their length, continues a prompt by its reverse."""

    def __init__(self) -> None:
        self.requests: list[object] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def GetModel(self, request: pb.GetModelRequest, context: grpc.ServicerContext) -> pb.Model:
        if request.model.name not in TASKS:
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"model: expected one of {sorted(TASKS)}, got {request.model.name!r}"
            )
        return pb.Model(ref=request.model, task=TASKS[request.model.name])

    def Transduce(self, request: pb.TransduceRequest, context: grpc.ServicerContext) -> Iterator[pb.TransduceResponse]:
        self.requests.append(request)
        if not request.source:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "source: expected text, got none")
        for i, letter in enumerate(request.source):
            yield pb.TransduceResponse(token=pb.Token(token=letter, text=" " * (i > 0) + letter))
            assert self.go_on.wait(30)
        spelled = " ".join(request.source)
        best = [pb.Hypothesis(text=spelled, score=-0.5), pb.Hypothesis(text="other", score=-1.25)]
        yield pb.TransduceResponse(result=pb.TransduceResult(hypotheses=best[: max(1, request.num_best)]))

    def Generate(self, request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        self.requests.append(request)
        for letter in reversed(request.prompt):
            yield pb.GenerateResponse(token=pb.Token(token=letter, text=letter))
        yield pb.GenerateResponse(result=pb.GenerateResult(text=request.prompt[::-1]))

    def Tag(self, request: pb.TagRequest, context: grpc.ServicerContext) -> pb.TagResponse:
        self.requests.append(request)
        (words,) = [sequence.tokens for sequence in request.sequences]
        tagged = pb.TaggedSequence(tags=[f"L{len(word)}" for word in words], confidences=[0.5] * len(words))
        return pb.TagResponse(sequences=[tagged])

    def Score(self, request: pb.ScoreRequest, context: grpc.ServicerContext) -> pb.ScoreResponse:
        return pb.ScoreResponse(scores=[pb.TextScore(total_log_prob=-2.5, perplexity=3.25) for _ in request.texts])

    def ListModels(self, request: pb.ListModelsRequest, context: grpc.ServicerContext) -> pb.ListModelsResponse:
        ref = pb.ModelRef(name="g2p", version=2)
        warnings = ["LSTM runs on the CPU"]
        int8, metrics = pb.PRECISION_INT8, {"dev/wer": 0.25}
        model = pb.Model(ref=ref, task=TASKS["g2p"], precision=int8, metrics=metrics, warnings=warnings)
        sessions = pb.Model(
            ref=pb.ModelRef(name="vad", version=1),
            task=TASKS["vad"],
            precision=pb.PRECISION_FP32,
            provider="CPUExecutionProvider",
            limits=pb.ModelLimits(max_sessions=1790),
            load=pb.ModelLoad(sessions=3),
        )
        refused = pb.RefusedModel(model=pb.ModelRef(name="old", version=1), reason=pb.REFUSAL_REASON_GRAPHS)
        return pb.ListModelsResponse(models=[model, sessions], refused=[refused])

    def Session(
        self, request_iterator: Iterator[pb.SessionRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.SessionResponse]:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "the command opens no sessions")
        yield pb.SessionResponse()

    def TagStream(
        self, request_iterator: Iterator[pb.TagStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TagStreamResponse]:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "the command labels one text a call")
        yield pb.TagStreamResponse()


@pytest.fixture
def server() -> Iterator[tuple[Scripted, str]]:
    """A scripted server on a free loopback port."""
    servicer = Scripted()
    running = grpc.server(futures.ThreadPoolExecutor(4))
    pb_grpc.add_CarryoverServicer_to_server(servicer, running)
    address = f"127.0.0.1:{running.add_insecure_port('127.0.0.1:0')}"
    running.start()
    yield servicer, address
    servicer.go_on.set()
    running.stop(None).wait()


Server = tuple[Scripted, str]


def call(server: Server, *arguments: str) -> int:
    return run(["call", "--server", server[1], *arguments])


def test_an_encoder_decoder_answers_each_text_on_a_line(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(server, "g2p", "cat", "dog") == 0
    assert capsys.readouterr().out == "c a t\nd o g\n"


def test_the_answer_is_printed_token_by_token(server: Server) -> None:
    servicer, address = server
    servicer.go_on.clear()
    command = [sys.executable, "-m", "carryover", "call", "g2p", "cat", "--server", address]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, env=buffered)
    assert process.stdout is not None
    first = process.stdout.read(1)  # comes while the server holds the rest back
    servicer.go_on.set()
    rest, _ = process.communicate(timeout=30)
    assert (first, rest, process.returncode) == (b"c", b" a t\n", 0)


def test_the_search_is_asked_for_as_given(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--beam",
        "4",
        "--num-best",
        "2",
        "--length-penalty",
        "0.25",
        "--max-tokens",
        "9",
        "--model-version",
        "3",
    ]
    assert call(server, "g2p", "cat", *options) == 0
    (request,) = server[0].requests
    assert request == pb.TransduceRequest(
        model=pb.ModelRef(name="g2p", version=3),
        source="cat",
        beam_size=4,
        num_best=2,
        length_penalty=0.25,
        max_tokens=9,
    )
    assert capsys.readouterr().out.split() == ["c", "a", "t", "1.", "-0.5000", "c", "a", "t", "2.", "-1.2500", "other"]


def test_a_language_model_continues_the_prompt(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--temperature", "0", "--top-k", "5", "--top-p", "0.5", "--seed", "0", "--max-tokens", "7"]
    assert call(server, "lm", "abc", *options) == 0
    (request,) = server[0].requests
    assert request == pb.GenerateRequest(
        model=pb.ModelRef(name="lm"), prompt="abc", temperature=0, top_k=5, top_p=0.5, seed=0, max_tokens=7
    )
    assert capsys.readouterr().out == "abccba\n"


def test_choices_left_open_are_left_to_the_server(server: Server) -> None:
    assert call(server, "lm", "abc") == 0
    (request,) = server[0].requests
    assert request == pb.GenerateRequest(model=pb.ModelRef(name="lm"), prompt="abc")


def test_a_language_model_scores_texts(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(server, "lm", "--score", "to be") == 0
    assert capsys.readouterr().out == "-2.5000\t3.250\tto be\n"


def test_a_tagger_prints_a_word_a_line(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(server, "pos", "the  cat sleeps") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    assert rows == [["the", "L3", "0.500"], ["cat", "L3", "0.500"], ["sleeps", "L6", "0.500"]]


def test_without_text_the_lines_of_standard_input_are_read(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("né\r\nto\n".encode())))
    assert call(server, "g2p") == 0
    assert capsys.readouterr().out == "n é\nt o\n"


def test_bytes_that_are_no_text_are_refused_with_their_line(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ab\n\xff\n")))
    assert call(server, "g2p") == 1
    said = capsys.readouterr()
    assert said.out == "a b\n"
    assert said.err == "carryover: standard input, line 2: expected UTF-8, got byte 0xff\n"


def test_a_blank_line_of_standard_input_is_refused_by_its_number(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"ab\n \ncd\n")))
    assert call(server, "g2p") == 1
    said = capsys.readouterr()
    assert said.out == "a b\n"
    assert said.err.startswith("carryover: standard input, line 2: expected a text, got a blank line")


def test_a_terminal_without_unicode_shows_escapes(server: Server) -> None:
    command = [sys.executable, "-m", "carryover", "call", "g2p", "né", "--server", server[1]]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env=ascii_only, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, b"n \\xe9\n")


def test_without_a_server_there_is_one_line() -> None:
    command = [sys.executable, "-m", "carryover", "call", "g2p", "cat", "--server", "", "--timeout", "5"]
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, env=quiet, timeout=30, check=False, text=True)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("carryover: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("lm", "x", "--beam", "2"),
        ("g2p", "x", "--seed", "1"),
        ("pos", "x", "--max-tokens", "3"),
        ("g2p", "x", "--score"),
    ],
    ids=" ".join,
)
def test_an_option_that_the_model_has_no_use_for_is_wrong_usage(
    server: Server, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(server, *arguments) == 2
    assert server[0].requests == []
    assert arguments[2] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"), [(("nosuch", "x"), "got 'nosuch'"), (("g2p", ""), "source: expected text")]
)
def test_what_the_server_refuses_is_one_line(
    server: Server, arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(server, *arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_a_model_that_takes_tensors_is_not_called_with_text(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(server, "vad", "some text") == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines() == [
        "carryover: expected a model that reads text, got 'vad', which was imported and takes tensors: it is called "
        "over the Open Inference Protocol (docs/oip.md)"
    ]
    assert server[0].requests == []


def test_models_tells_how_many_sessions_there_are_and_may_be(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "--server", server[1]]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    at, measured = head.index("sessions"), head.index("measured")
    assert {line.split()[0]: line[at:measured].strip() for line in lines[:2]} == {"g2p": "none", "vad": "3 of 1790"}


def test_models_lists_what_a_server_serves_and_refused(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--server", server[1]]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for part in ("g2p 2 encoder_decoder int8", "dev/wer 0.25", "warning: LSTM runs on the CPU"):
        assert part in said
    assert "refused: old 1: its graphs do not run on that server" in said
