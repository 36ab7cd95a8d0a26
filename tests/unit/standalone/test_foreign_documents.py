"""What a model's own documents say cannot claim an origin, write into a card, or end a merge that is done."""

import json
import os
import subprocess
from types import SimpleNamespace

import pytest
import yaml
from hub import Hub, point_to
from huggingface_hub import ModelCard, constants
from models import moved, random_model, save

from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from nan_merge.standalone.merge_models import merge
from nan_merge.standalone.model_card import card, digest, front_matter, origin
from nan_merge.standalone.sources import Source, find

HOSTILE = {
    "HTML": "<script>alert(1)</script>",
    "a link": "[free](javascript:alert(1))",
    "a cell": "mit | 0.9 |",
    "a heading": "mit\n\n# Endorsed by the authors\n",
    "the end of code": "x`</code><b>y`",
    "the end of a block": "```\n\nrun this:\n```console\nrm -rf ~\n",
    "the end of the front matter": "mit\n---\n\n# a card of its own",
    "a terminal": "\x1b[2Jmit",
    "a direction": "mit\u202exyz",
}
TABLE = {"experts": ["a"], "scope": "model", "rows": {"model": [1.0]}, "norms": {}}


def record(text, **more):
    model = {"title": text, "path": "x", "xxh3_128": "0" * 32, "files": {"model.safetensors": {"size": 1}}, "license": text}
    return {
        "name": "merged", "method": "ties", "label": text, "method_spec": {"coefficients": {"nan": {}}}, "coefficients": TABLE,
        "inputs": {"base": model, "a": {**model, "license": "other"}}, "notes": [f"tensor '{text}' was left"],
        "exclude": [text], "loading": {"library": "safetensors"}, **more,
    }  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_card_shows_what_others_wrote_and_no_more(case):
    markdown_it = pytest.importorskip("markdown_it")
    text = HOSTILE[case]
    page = card(record(text))
    reader = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
    front, body = page.removeprefix("---\n").split("\n---\n", 1)
    assert yaml.safe_load(front)["base_model"] == [text]
    assert ModelCard(page).data.to_dict()["base_model"] == [text]
    plain = card(record("plain"))
    _, expected = plain.removeprefix("---\n").split("\n---\n", 1)

    def shape(written):
        blocks = reader.parse(written)
        return [token.type for token in blocks], sorted(
            {child.type for token in blocks for child in token.children or ()} - {"text", "text_special"}
        )

    assert shape(body) == shape(expected)
    assert "\x1b" not in page and "\u202e" not in page
    recipe = next(token.content for token in reader.parse(body) if token.type == "fence" and token.info == "yaml")
    assert text == yaml.safe_load(recipe)["exclude"][0]


@pytest.mark.parametrize("name", ['say "x"', "a\\b", "new\nline", "`tick`"])
def test_the_name_of_a_folder_is_a_text_in_the_code_of_the_card(name):
    for library in ("safetensors", "open_clip", "sentence-transformers"):
        page = card(record("m", name=name, loading={"library": library}))
        code = page.split("python\n")[1].split("\n```")[0].rstrip("`")
        compile(code, "card", "exec")


def claim(folder, repo="meta/model", commit="a" * 40):
    (folder / "source.json").write_text(json.dumps({"given": repo, "repo": repo, "commit": commit}))
    return folder


CLAIMS = {
    "a file": {"given": "o/n", "repo": "o/n", "commit": "a" * 40},
    "with other keys": {"given": "o/n", "repo": "o/n", "commit": "a" * 40, "folder": "/", "x": 1},
    "a list": ["o/n"],
    "of no commit": {"given": "o/n", "repo": "o/n", "commit": "main"},
    "that climbs": {"given": "o/n", "repo": "../../x", "commit": "a" * 40},
    "of numbers": {"given": 1, "repo": 2, "commit": 3},
}


@pytest.mark.parametrize("case", CLAIMS)
def test_a_file_in_a_folder_claims_no_origin(case, tmp_path):
    folder = save(tmp_path / "m", random_model(0))
    (folder / "source.json").write_text(json.dumps(CLAIMS[case]))
    assert Source.of(folder) == Source(str(folder), folder)
    assert "hub" not in origin(Source.of(folder), "0")


def test_a_cache_within_the_folder_claims_no_origin_and_no_digest(tmp_path):
    folder = tmp_path / "m"
    cache = folder / "models--meta--model"
    save(cache / "snapshots" / ("a" * 40), random_model(0))
    blob = cache / "blobs" / ("f" * 64)
    blob.parent.mkdir()
    (cache / "snapshots" / ("a" * 40) / "model.safetensors").rename(blob)
    (cache / "snapshots" / ("a" * 40) / "model.safetensors").symlink_to(blob)
    for name in ("model.safetensors", "config.json"):
        (folder / name).symlink_to(cache / "snapshots" / ("a" * 40) / name)
    source = Source.of(claim(folder))
    assert (source.repo, source.commit) == (None, None)
    assert "sha256" not in origin(source, "0")["files"]["model.safetensors"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with Hub() as server:
        point_to(server.url, monkeypatch)
        yield server


def test_a_folder_of_links_that_the_workflow_made_keeps_its_origin(hub, tmp_path):
    commit = hub.put("o/n", save(tmp_path / "n", random_model(0)))
    folder = tmp_path / "fetched"
    folder.mkdir()
    for file in find("o/n").folder.iterdir():
        (folder / file.name).symlink_to(file.resolve())
    assert Source.of(claim(folder, "o/n", commit)).pinned == f"o/n@{commit}"
    assert Source.of(claim(folder, "o/other", commit)).repo is None
    assert Source.of(claim(folder, "o/n", "b" * 40)).repo is None


def test_parts_and_code_of_a_hub_model_are_fetched_and_nothing_outside_is_written(hub, tmp_path):
    folder = save(tmp_path / "n", random_model(0))
    files = {name: (folder / name).read_bytes() for name in ("model.safetensors",)} | {
        "config.json": json.dumps({"auto_map": {"AutoModel": "modeling_x.Model"}}).encode(),
        "modules.json": json.dumps([{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]).encode(),
        "1_Pooling/config.json": b"{}", "modeling_x.py": b"raise SystemExit", "onnx/model.onnx": b"x", "token.txt": b"x",
        "../../escaped.json": b"{}",
    }  # fmt: skip
    hub.put("o/n", files)
    there = find("o/n").folder
    found = {file.relative_to(there).as_posix() for file in there.rglob("*") if file.is_file()}
    assert found == {"model.safetensors", "config.json", "modules.json", "1_Pooling/config.json", "modeling_x.py"}
    assert not list(tmp_path.rglob("escaped.json"))


LISTINGS = {
    "a digest that climbs": {"digest": "../../../x"},
    "no digest": {"digest": None},
    "no size": {"size": None},
    "a size that is a text": {"size": "many"},
    "a commit that climbs": {"sha": "../../x"},
}


@pytest.mark.parametrize("case", LISTINGS)
def test_a_listing_that_is_none_is_refused(case, hub, tmp_path, monkeypatch):
    from nan_merge.assets.hub import Repository

    hub.put("o/n", save(tmp_path / "n", random_model(0)))
    entry = {"sha": "a" * 40, "size": 3, "digest": "b" * 40, **LISTINGS[case]}
    file = SimpleNamespace(rfilename="config.json", size=entry["size"], lfs=None, blob_id=entry["digest"])
    monkeypatch.setattr(Repository, "_info", lambda self: SimpleNamespace(sha=entry["sha"], siblings=[file]))
    with pytest.raises(UserError, match=r"o/n@main: the listing has no .*; check HF_ENDPOINT"):
        find("o/n")


@pytest.fixture
def models(tmp_path):
    base = random_model(0)
    return {name: save(tmp_path / name, moved(base, seed)) for seed, name in enumerate(("base", "a", "b"))}


def run(models, tmp_path):
    experts = {name: models[name] for name in ("a", "b")}
    merge(base=models["base"], experts=experts, method="task_arithmetic", output=tmp_path / "out", quiet=True)
    return (tmp_path / "out/README.md").read_text(), read_json(tmp_path / "out/provenance.json")


DOCUMENTS = {
    "an impossible date": (b"---\nlicense: mit\ndate: 2024-13-45\n---\n", "mit"),
    "brackets": (b"---\nlicense: " + b"[" * 100_000 + b"\n---\n", None),
    "another encoding": ("---\nlicense: mit\nauthor: Müller\n---\n".encode("latin-1"), "mit"),
    "zero bytes": (b"---\nlicense: mit\0\n---\n", None),
    "an object": (b"---\nlicense: !!python/object/apply:os.system [x]\n---\n", None),
    "a long licence": (b"---\nlicense: " + b"x" * 10_000 + b"\n---\n", "x" * 500),
    "a list": (b"---\nlicense: [mit]\n---\n", None),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_no_readme_of_an_expert_ends_a_merge(case, models, tmp_path):
    content, licence = DOCUMENTS[case]
    (models["a"] / "README.md").write_bytes(content)
    _, provenance = run(models, tmp_path)
    assert provenance["inputs"]["a"].get("license") == licence


def test_a_readme_that_is_a_folder_is_none(models, tmp_path):
    (models["a"] / "README.md").mkdir()
    assert front_matter(models["a"] / "README.md") == {}
    run(models, tmp_path)


def test_a_folder_whose_name_is_no_utf_8_is_merged(models, tmp_path):
    odd = tmp_path / os.fsdecode(b"m\xfcller")
    models["a"].rename(odd)
    page, provenance = run({**models, "a": odd}, tmp_path)
    assert provenance["inputs"]["a"]["path"] == str(odd)
    assert "`m\\udcfcller`" in page


@pytest.mark.parametrize("who", ["base", "a"])
@pytest.mark.parametrize("content", ["[1]", '"x"', "null", "{"])
def test_a_config_that_is_no_mapping_is_told_before_anything_is_written(who, content, models, tmp_path):
    (models[who] / "config.json").write_text(content)
    with pytest.raises(UserError, match=rf"{who}/config\.json: (holds|not valid JSON)") as error:
        run(models, tmp_path)
    assert not (tmp_path / "out").exists() and "delete" not in str(error.value)


def test_an_architecture_that_is_no_name_is_no_code_of_the_card(models, tmp_path):
    kinds = {"model_type": "bert", "architectures": ["X; import os"], "hidden_size": 8}
    for folder in models.values():
        (folder / "config.json").write_text(json.dumps(kinds))
    page, _ = run(models, tmp_path)
    assert "AutoModel.from_pretrained" in page and "import os" not in page


def test_the_digest_of_a_merge_has_the_files_of_its_sub_folders(models, tmp_path):
    (models["base"] / "1_Pooling").mkdir()
    (models["base"] / "1_Pooling/config.json").write_text("{}")
    (models["base"] / "modules.json").write_text('[{"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]')
    run(models, tmp_path)
    assert {"1_Pooling/config.json", "model.safetensors"} <= digest(tmp_path / "out")["sha256"].keys()


@pytest.mark.parametrize("name", ["/m/\x1b[2Ja", "/m/a\u202eb", "/m/a\rb", "/m/a\x9bb", "/m/$(touch PWNED)"])
def test_a_config_of_mergekit_writes_no_control_characters_to_a_terminal(name, tmp_path, capsys):
    from nan_merge.cli.import_mergekit import main

    models = [{"model": model, "parameters": {"weight": 1.0}} for model in ("o/a", name)]
    config = {"merge_method": "task_arithmetic", "base_model": "o/b", "dtype": "float32", "models": models}
    (tmp_path / "x.yml").write_text(yaml.safe_dump(config))
    main([str(tmp_path / "x.yml")])
    said = capsys.readouterr()
    assert not set("\x1b\u202e\r\x9b") & {*said.out, *said.err}
    command = said.out.partition("\n")[0]
    words = (
        subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True).stdout.decode().split("\0")
    )
    assert [word for word in words if word.endswith(f"={name}")]


def test_notes_and_errors_write_no_control_characters_to_a_terminal(models, tmp_path, capsys):
    from nan_merge.core.command_line import command_line
    from nan_merge.core.errors import tell

    tell("note: a\x1b[2J\u202e\rb")

    def fails():
        raise UserError("a\x1b[2J\u202e\rb")

    with pytest.raises(SystemExit):
        command_line(fails)
    assert capsys.readouterr().err == "note: a\\x1b[2J\\u202e\nb\nerror: a\\x1b[2J\\u202e\nb\n"
    (models["base"] / "x\x1b[2J.pdf").write_text("x")
    experts = {name: models[name] for name in ("a", "b")}
    merge(base=models["base"], experts=experts, method="task_arithmetic", output=tmp_path / "out")
    assert "\x1b" not in capsys.readouterr().err


@pytest.mark.parametrize("revision", ["../../../x", "/etc/x", "a/../../b"])
def test_a_revision_stays_in_the_cache(revision, hub, tmp_path):
    hub.put("o/n", save(tmp_path / "n", random_model(0)))
    with pytest.raises(UserError, match="no such folder here, and no hub id either"):
        find(f"o/n@{revision}")


@pytest.mark.parametrize("token", ["hf_a\r\nX-Evil: 1", "hf_a b", "hf_ä", "hf_a\u2028b"])
def test_a_token_that_is_none_is_told_and_not_sent_or_shown(token, hub, tmp_path, monkeypatch):
    hub.put("o/n", save(tmp_path / "n", random_model(0)))
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError, match="HF_TOKEN holds a space, a line break or another character") as error:
        find("o/n")
    assert token not in str(error.value) and "X-Evil" not in str(error.value)
