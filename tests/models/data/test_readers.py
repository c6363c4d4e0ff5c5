"""Every reader: what it takes, and the file, line, expected and got of what it refuses."""

import gzip
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from models.data.columns import read_columns
from models.data.conllu import read_conllu
from models.data.errors import DataError
from models.data.examples import Pair, TaggedSentence
from models.data.labelled import read_labelled
from models.data.lexicon import gruut_version, read_cmudict, read_gruut
from models.data.lines import read_lines
from models.data.parallel import read_parallel, read_parallel_tsv
from models.data.plain import read_plain

CONLLU = """\
# text = Don't go there
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tVBP\t_\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\t_
3.1\twent\tgo\tVERB\tVBD\t_\t_\t_\t_\t_
4\tthere\tthere\tADV\tRB\t_\t3\tadvmod\t_\t_

1\t#\t#\tSYM\tNN\t_\t0\troot\t_\t_
"""


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_lines_read_gzip_and_crlf_and_a_byte_order_mark(tmp_path: Path) -> None:
    expected = [(1, "a"), (2, ""), (3, "b\u2028c")]
    plain = write(tmp_path, "plain.txt", "\ufeffa\r\n\r\nb\u2028c")
    packed = write(tmp_path, "packed.gz", gzip.compress(plain.read_bytes()))
    assert list(read_lines(plain)) == expected
    assert list(read_lines(packed)) == expected


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text", b"good\nb\xffd\n", r"text, line 2: not UTF-8, expected UTF-8 text, got byte 0xff at column 2"),
        ("cut.gz", gzip.compress(b"some text" * 99)[:-12], r"cut\.gz: damaged gzip file"),
        ("not.gz", b"plain", r"not\.gz: damaged gzip file, expected complete gzip data"),
    ],
)
def test_lines_refuse_damaged_files(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        list(read_lines(write(tmp_path, name, content)))


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.txt: cannot be read: No such file"):
        list(read_lines(tmp_path / "absent.txt"))


def test_conllu_skips_comments_ranges_and_empty_nodes(tmp_path: Path) -> None:
    path = write(tmp_path, "a.conllu", CONLLU)
    assert list(read_conllu(path)) == [
        TaggedSentence(("Do", "n't", "go", "there"), ("AUX", "PART", "VERB", "ADV")),
        TaggedSentence(("#",), ("SYM",)),
    ]
    assert next(iter(read_conllu(path, "xpos"))).tags == ("VBP", "RB", "VB", "RB")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1\tword\tNOUN", r"line 1: malformed word line, expected 10 tab-separated columns, got 3: .*word"),
        ("2\ta\ta\tX\tX\t_\t0\troot\t_\t_", r"line 1: word id, expected 1, got '2'"),
        ("1\ta\ta\t_\tX\t_\t0\troot\t_\t_", r"line 1: word line without form or tag, expected a form and upos"),
    ],
)
def test_conllu_refuses_malformed_lines(line: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        list(read_conllu(write(tmp_path, "a.conllu", line + "\n")))


def test_columns_take_any_columns_and_odd_separator_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.bio", "# id = 1\n1\tJens\tB-PER\t-\n2\tBo\tI-PER\t-\n \t \n3\t#tag\tO\t-\n")
    sentences = list(read_columns(path, token_column=1, tag_column=2, comment="# "))
    assert sentences == [TaggedSentence(("Jens", "Bo"), ("B-PER", "I-PER")), TaggedSentence(("#tag",), ("O",))]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a\tO\nb\n", r"line 2: malformed token line, expected 2 columns separated by '\\t', got 1"),
        ("a\tB\n", r"line 1: malformed tag, expected O, B-type or I-type, got 'B'"),
        ("a\tB-\n", r"line 1: malformed tag"),
        ("\tO\n", r"line 1: empty column"),
    ],
)
def test_columns_refuse_malformed_lines(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        list(read_columns(write(tmp_path, "a.bio", text)))


def test_columns_without_bio_take_any_tag(tmp_path: Path) -> None:
    assert next(iter(read_columns(write(tmp_path, "a", "run\tVB\n"), bio=False))).tags == ("VB",)


def test_parallel_text_in_two_files_and_in_one(tmp_path: Path) -> None:
    source, target = write(tmp_path, "de", "ein Haus\nzwei\n"), write(tmp_path, "en", "a house\ntwo\n")
    both = write(tmp_path, "tsv", "ein Haus\ta house\nzwei\ttwo\n")
    pairs = [Pair("ein Haus", ("a house",)), Pair("zwei", ("two",))]
    assert list(read_parallel(source, target)) == pairs
    assert list(read_parallel_tsv(both)) == pairs


def test_parallel_text_refuses_files_of_different_length(tmp_path: Path) -> None:
    short, long = write(tmp_path, "short", "a\n"), write(tmp_path, "long", "a\nb\n")
    for source, target in ((short, long), (long, short)):
        with pytest.raises(DataError, match=r"long, line 2: has more lines than .*short, expected 1 lines, got more"):
            list(read_parallel(source, target))


@pytest.mark.parametrize("line", ["one column", "a\tb\tc", "\tb", "a\t "])
def test_parallel_tsv_refuses_malformed_lines(line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: malformed pair, expected source TAB target"):
        list(read_parallel_tsv(write(tmp_path, "tsv", f"a\tb\n{line}\n")))


def test_parallel_text_refuses_an_empty_line(tmp_path: Path) -> None:
    source, target = write(tmp_path, "de", "a\n\n"), write(tmp_path, "en", "a\nb\n")
    with pytest.raises(DataError, match=r"de, line 2: empty line"):
        list(read_parallel(source, target))


def test_labelled_text_keeps_separators_in_the_last_column(tmp_path: Path) -> None:
    path = write(tmp_path, "a", "ham\tsee you\tsoon\n")
    assert list(read_labelled(path)) == [Pair("see you\tsoon", ("ham",))]
    spaced = write(tmp_path, "b", "1 a fine film .\n")
    assert list(read_labelled(spaced, separator=" ")) == [Pair("a fine film .", ("1",))]
    for line, said in (("ham\n", "malformed labelled line"), ("very good\ttext\n", "malformed label, expected one")):
        with pytest.raises(DataError, match=said):
            list(read_labelled(write(tmp_path, "c", line)))


def test_plain_text_by_line_and_by_file(tmp_path: Path) -> None:
    path = write(tmp_path, "a", "one\n\ntwo\n")
    assert read_plain(path, "line") == ["one", "", "two"]
    assert read_plain(path, "line", keep_blank=False) == ["one", "two"]
    assert read_plain(path, "file") == ["one\n\ntwo\n"]
    with pytest.raises(DataError, match="no text"):
        read_plain(write(tmp_path, "b", "\n \n"), "line")


def test_cmudict_gathers_variants_and_leaves_out_comments(tmp_path: Path) -> None:
    path = write(tmp_path, "d", ";;; head\nread R EH1 D\nread(2) R IY1 D # present\nread(3) R EH2 D\na AH0\n")
    assert read_cmudict(path) == [Pair("read", ("R EH1 D", "R IY1 D", "R EH2 D")), Pair("a", ("AH0",))]
    assert read_cmudict(path, "remove") == [Pair("read", ("R EH D", "R IY D")), Pair("a", ("AH",))]


@pytest.mark.parametrize("line", ["word", "word ah0", "word AH3", "word AH0, T"])
def test_cmudict_refuses_malformed_entries(line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 2: malformed entry, expected a word and ARPAbet phonemes"):
        read_cmudict(write(tmp_path, "d", f"a AH0\n{line}\n"))


def test_gruut_reads_variants_in_order_and_removes_stress(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE word_phonemes (id INTEGER, word TEXT, pron_order INTEGER, phonemes TEXT)")
        rows = [(1, "a", 1, "ˈeɪ"), (2, "a", 0, "ə"), (3, "Aachen", 0, "ˈɑ k ˌə n")]
        database.executemany("INSERT INTO word_phonemes VALUES (?, ?, ?, ?)", rows)
    database.close()
    assert read_gruut(path) == [Pair("aachen", ("ˈɑ k ˌə n",)), Pair("a", ("ə", "ˈeɪ"))]
    assert read_gruut(path, "remove") == [Pair("aachen", ("ɑ k ə n",)), Pair("a", ("ə", "eɪ"))]


def test_gruut_refuses_another_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a gruut lexicon, expected an SQLite file"):
        read_gruut(write(tmp_path, "lexicon.db", "no database, but long enough to look at"))


def test_the_installed_lexicon_is_the_one_that_is_expected() -> None:
    pairs = {pair.source: pair.targets for pair in read_gruut()}
    assert gruut_version() == "2.0.1"
    assert sum(len(targets) for targets in pairs.values()) > 128_000
    assert pairs["aachen"] == ("ˈɑ k ə n",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "sentences", "words"), [("train", 12_544, 204_577), ("dev", 2_001, 25_147), ("test", 2_077, 25_094)]
)
def test_english_ewt_has_the_published_counts(
    split: str, sentences: int, words: int, shared_data: Callable[[str], Path]
) -> None:
    found = list(read_conllu(shared_data(f"ud_english_ewt/en_ewt-ud-{split}.conllu.gz")))
    assert (len(found), sum(len(sentence.words) for sentence in found)) == (sentences, words)
    assert len({tag for sentence in found for tag in sentence.tags}) == 17


@pytest.mark.slow
def test_other_real_files_have_the_published_counts(shared_data: Callable[[str], Path]) -> None:
    wnut = list(read_columns(shared_data("ner_wnut17/wnut17train.conll.gz")))
    assert (len(wnut), sum(len(sentence.words) for sentence in wnut)) == (3_394, 62_730)
    assert sum(tag.startswith("B-") for sentence in wnut for tag in sentence.tags) == 1_975
    danish = list(
        read_columns(
            shared_data("ner_uner_danish_ddt/da_ddt-ud-dev.iob2.gz"), token_column=1, tag_column=2, comment="# "
        )
    )
    assert (len(danish), sum(len(sentence.words) for sentence in danish)) == (564, 10_332)
    multi30k = shared_data("multi30k_de_en")
    assert len(list(read_parallel(multi30k / "val.de.gz", multi30k / "val.en.gz"))) == 1_014
    wikitext = read_plain(shared_data("wikitext2/valid.txt.gz"), "line")
    assert len(wikitext) + sum(len(line.split()) for line in wikitext) == 217_646
    assert len(read_plain(shared_data("tinyshakespeare/input.txt.gz"), "file")[0]) == 1_115_394
    sst = list(read_labelled(shared_data("sst/stsa.binary.dev.gz"), separator=" "))
    assert (len(sst), {pair.targets for pair in sst}) == (872, {("0",), ("1",)})
    assert len(read_cmudict(shared_data("cmudict/cmudict.dict.gz"))) > 125_000
