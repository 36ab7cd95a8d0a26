"""What others wrote is read in bounded time and depth, and every fault is one message with file and line."""

import re
import subprocess
import sys
import time

import pytest
from models import ROOT

from nan_merge.core.errors import UserError
from nan_merge.core.escape import code, code_block, markdown, visible
from nan_merge.core.files import read_json, write_json
from nan_merge.core.text import DEPTH, front_matter, parse_yaml, read_mapping, read_yaml, read_yaml_documents

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
YAMLS = {
    "brackets": ("[" * 100_000, f"line 1: more than {DEPTH} levels"),
    "braces": ("{a: " * 100_000, f"line 1: more than {DEPTH} levels"),
    "indents": ("\n".join(" " * n + "a:" for n in range(2_000)), f"line {DEPTH + 1}: more than"),
    "a billion laughs": (LAUGHS, "values, aliases written out"),
    "a billion merged keys": (MERGES, "values, aliases written out"),
    "an alias of itself": ("a: &a\n  b: [*a]\n", r"line 2: the alias '\*a' stands inside what it refers to"),
    "a long number": ("a: 1\nb: " + "9" * 5_000, "line 2: a number of 5,000 characters"),
    "a number to the base 60": ("a: 1" + ":1" * 200_000, "line 1: a number of 400,001 characters"),
    "a date by its tag": ("a: 1\nb: !!timestamp 2024-13-45\n", "line 2: "),
    "an object": ("a: !!python/object/apply:os.system [x]", "line 1, column 4"),
    "a key that is a list": ("a: 1\n? [x]\n: 1\n", "line 2"),
    "a control character": ("a: \x01", "not valid YAML"),
    "another encoding": (b"a: \xe4", "UTF-8"),
}


@pytest.mark.parametrize("case", YAMLS)
def test_a_hostile_yaml_is_one_message_at_once(case, tmp_path):
    content, message = YAMLS[case]
    file = tmp_path / "x.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    started = time.process_time()
    with pytest.raises(UserError, match=rf"(?s)^{file}.*{message}"):
        read_yaml(file)
    assert time.process_time() - started < 5


def test_brackets_do_not_end_the_process():
    """The composer of libyaml overflows the stack of the process, which no `except` sees."""
    call = "from nan_merge.core.text import parse_yaml; parse_yaml('[' * 100_000, 'x')"
    done = subprocess.run(
        [sys.executable, "-c", call], env={"PYTHONPATH": str(ROOT / "workflow")}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "UserError: x: not valid YAML" in done.stderr


def test_an_ordinary_yaml_is_read_as_before():
    text = "\ufeffa: &x [1, 0x10, 1e-3, 2.5, yes, ~, '7']\nb: *x\nc: {<<: {d: 1}, e: 2024-01-31}\nf: 2024-13-45\n"
    assert parse_yaml(text.encode(), "x") == {
        "a": [1, 16, "1e-3", 2.5, True, None, "7"],
        "b": [1, 16, "1e-3", 2.5, True, None, "7"],
        "c": {"d": 1, "e": "2024-01-31"},
        "f": "2024-13-45",
    }


JSONS = {
    "brackets": (b"[" * 100_000, "not valid JSON"),
    "deep and whole": (b"[" * (DEPTH + 2) + b"]" * (DEPTH + 2), "nested deeper than"),
    "a long number": (b"[" + b"9" * 5_000 + b"]", "not valid JSON"),
    "another encoding": ('{"a": 1}'.encode("utf-16"), "expected UTF-8"),
    "two values": (b"{}\n{}", "line 2"),
}


@pytest.mark.parametrize("case", JSONS)
def test_a_hostile_json_is_one_message(case, tmp_path):
    content, message = JSONS[case]
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=rf"(?s)x\.json.*{message}"):
        read_json(tmp_path / "x.json")


def test_a_byte_order_mark_is_read_over_and_a_list_is_no_mapping(tmp_path):
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "x.json") == {"a": 1}
    for content, kind in (("[1]", "a list"), ('"x"', "a text"), ("null", "null"), ("3", "a number")):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(UserError, match=rf"x\.json: holds {kind}; expected a JSON object"):
            read_mapping(tmp_path / "x.json")


def test_a_name_that_is_no_utf_8_is_written_and_read_back(tmp_path):
    write_json(tmp_path / "x.json", {"path": "b\udcfcse", "λ": 1})
    assert read_json(tmp_path / "x.json") == {"path": "b\udcfcse", "λ": 1}


def test_a_huge_readme_is_read_at_its_start_only(tmp_path):
    file = tmp_path / "README.md"
    with open(file, "wb") as stream:
        stream.write(b"---\nlicense: mit\ndate: 2024-13-45\n---\n")
        stream.truncate(1 << 33)
    assert front_matter(file) == {"license": "mit", "date": "2024-13-45"}
    file.write_bytes(b"---\n" + b"[" * 1_000_000 + b"\n---\n")
    with pytest.raises(UserError, match="levels of nesting"):
        front_matter(file)


READERS = {  # calls that read what others wrote: the files that may have them
    r"yaml\.(safe_|full_|unsafe_)?load|\w*Loader\b(?<=SafeLoader)": ["core/text.py"],
    r"json\.load\(|JSONDecoder|tomllib": [],
    r"json\.loads\(": [
        "checkpoints/safetensors_file.py",  # a header, which has rules of its own
        "core/patterns.py", "core/text.py", "layouts/renames.py", "standalone/model_card.py",  # all but the second: our own text
    ],
    r"torch\.load\(": ["models/families/image_encoder.py"],
    r"pickle\.loads?\(|allow_pickle|import (joblib|marshal|shelve)|(?<!\.)\beval\(|\bexec\(|os\.system|shell=True|extractall": [],
    r"Image\.open\(": ["data/corruptions.py", "data/decoding.py", "data/images.py", "data/rendered.py"],
    r"tarfile\.open\(": ["assets/archives.py", "data/shards.py"],
    r"trust_remote_code=(?!False)": [],
}  # fmt: skip


@pytest.mark.parametrize("call", READERS)
def test_what_others_wrote_is_read_at_few_places(call):
    files = [*(ROOT / "workflow").rglob("*.py"), *(ROOT / "workflow/rules").glob("*.smk"), *(ROOT / "scripts").glob("*.py")]
    found = [file for file in files if re.search(call, file.read_text(encoding="utf-8"))]
    assert sorted(file.as_posix().split("nan_merge/")[-1] for file in found) == READERS[call]


def test_the_only_torch_load_reads_no_code():
    text = (ROOT / "workflow/nan_merge/models/families/image_encoder.py").read_text(encoding="utf-8")
    assert text.count("torch.load(") == text.count("weights_only=True") == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m\x07", r"\x1b[31mred\x1b[0m\x07"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("abc\u202ecba", r"abc\u202ecba"),
        ("b\udcfcse", r"b\udcfcse"),
        ("naïve λ 猫", "naïve λ 猫"),
    ],
)
def test_a_terminal_shows_control_characters_and_does_not_obey_them(text, shown):
    assert visible(text) == shown == str(UserError(text))


HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[click](javascript:alert(1))", "![x](http://evil.test/x.png)",
    "`code` | cell", "a\n\n# heading\n- item", "**bold** __bold__ *it* _it_ ~~gone~~", "&lt;b&gt;", "<http://evil.test>",
    "http://evil.test", "```\nfence\n```", "\\", "a`b``c", "`", "[x]: http://evil.test", "</code><b>", "x\r\ny", "$x$",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_a_text_as_it_is(text):
    """CommonMark with tables, by a reader of its own: the text comes out, and no element but the paragraph and the code span."""
    markdown_it = pytest.importorskip("markdown_it")
    reader = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    line = visible(text).replace("\n", "\\n")
    for written, kinds in ((markdown(text), {"text", "text_special"}), (code(text), {"code_inline"})):
        tokens = reader.parse(f"- see {written} there")
        (inline,) = (token for token in tokens if token.type == "inline")
        assert {child.type for child in inline.children} <= kinds | {"text"}
        assert "".join(child.content for child in inline.children) == f"see {line} there"
    (fence,) = reader.parse(code_block(text, "yaml"))
    assert (fence.type, fence.content.rstrip()) == ("fence", visible(text).rstrip())


def test_documents_of_one_file_are_read_under_the_same_limits(tmp_path):
    file = tmp_path / "many.yml"
    file.write_text("\ufeffa: 1\n---\n---\nb: 2024-01-01\n", encoding="utf-8")
    assert read_yaml_documents(file) == [{"a": 1}, {"b": "2024-01-01"}]
    for text, message in (("a: 1\n---\nb: 1\nb: 2\n", "twice"), ("a: 1\n---\n" + "[" * 1000, "levels of nesting")):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_yaml_documents(file)
