"""A merged folder opens as its base does; nothing leaves the base's folder by a link, and no secret is copied."""

import json
import os

import pytest
from models import moved, random_model, save

from nan_merge.checkpoints.companions import companion_notes, copy_companions, is_inside, is_secret
from nan_merge.core.files import read_json
from nan_merge.standalone.merge_models import merge

TOKEN = "hf_" + "aB3" * 12
POOLING, DENSE = {"word_embedding_dimension": 6}, {"in_features": 6, "out_features": 8}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
]


def filled(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def content(folder):
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def copied(folder, tmp_path):
    copy_companions(folder, tmp_path / "copy", ["model.safetensors"])
    return content(tmp_path / "copy")


@pytest.fixture
def base(tmp_path):
    return save(tmp_path / "base", random_model(0))


def merged(base, tmp_path):
    tensors = random_model(0)
    experts = {name: save(tmp_path / name, moved(tensors, seed)) for seed, name in enumerate("ab", 1)}
    return merge(base=base, experts=experts, method="task_arithmetic", output=tmp_path / "out", quiet=True)


def test_the_parts_of_a_sentence_transformer_are_there_and_named(base, tmp_path):
    filled(
        base,
        {
            "modules.json": json.dumps(MODULES),
            "sentence_bert_config.json": "{}",
            "1_Pooling/config.json": json.dumps(POOLING),
            "2_Dense/config.json": json.dumps(DENSE),
            "2_Dense/weights.npy": b"weights of the head",
            "2_Dense/model.safetensors.index.json": "{}",
            "README.md": "the base's card",
        },
    )
    done = merged(base, tmp_path)
    found = content(tmp_path / "out")
    for name in (
        "modules.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "2_Dense/weights.npy",
        "sentence_bert_config.json",
    ):
        assert found[name] == (base / name).read_bytes()
    assert "2_Dense/model.safetensors.index.json" in found and b"the base's card" not in found["README.md"]
    (note,) = done.notes
    assert note == "weights in sub-folders are those of the base and were not merged: 2_Dense/weights.npy"
    card = found["README.md"].decode()
    assert note in card and 'SentenceTransformer("out")' in card and "library_name: sentence-transformers" in card


def test_code_is_copied_as_data_where_a_config_names_it_and_other_repositories_are_named(base, tmp_path):
    mark = tmp_path / "executed"
    code = f"open({str(mark)!r}, 'w').close()"
    filled(
        base,
        {
            "config.json": json.dumps(
                {
                    "auto_map": {"AutoConfig": "configuration_x.Config", "AutoModel": "evil/code--modeling_y.Model"},
                    "text_config": {},
                }
            ),
            "tokenizer_config.json": json.dumps({"auto_map": {"AutoTokenizer": ["other/tokens--tok.Slow", None]}}),
            "configuration_x.py": code,
            "layers/attention.py": code,
        },
    )
    done = merged(base, tmp_path)
    assert {"configuration_x.py", "layers/attention.py"} <= content(tmp_path / "out").keys() and not mark.exists()
    assert done.notes == (
        "code of the base was copied as data and was not run: configuration_x.py, layers/attention.py",
        "the configs name code of other repositories, which `trust_remote_code` fetches and runs: evil/code, other/tokens",
    )
    assert "evil/code" in (tmp_path / "out/README.md").read_text()
    assert read_json(tmp_path / "out/provenance.json")["notes"] == list(done.notes)


def test_code_that_no_config_names_is_left_and_named(base, tmp_path):
    filled(base, {"train.py": "raise SystemExit"})
    assert "train.py" not in copied(base, tmp_path)
    assert companion_notes(base, ["model.safetensors"]) == ["not copied from the folder of the base: train.py"]


def test_processors_and_nested_configs_are_copied_and_other_models_are_named(base, tmp_path):
    wanted = {
        "preprocessor_config.json": "{}", "processor_config.json": "{}", "video_preprocessor_config.json": "{}",
        "chat_template.jinja": "{{ x }}", "additional_chat_templates/tool.jinja": "{{ y }}", "bpe.codes": "a b",
        "LICENSE": "free", "tokenizer.model.v3": "v3", "mel_filters.npz": "x", "speakers/config.json": "{}",
    }  # fmt: skip
    others = {
        "pytorch_model.bin": "x", "training_args.bin": "x", "onnx/model.onnx": "x", "onnx/config.json": "{}",
        "checkpoint-500/optimizer.pt": "x", "checkpoint-500/config.json": "{}", "runs/events.0": "x", "thesis.pdf": "x",
        ".gitattributes": "x", "README.md": "x", "provenance.json": "{}",
    }  # fmt: skip
    filled(base, {**wanted, **others})
    assert copied(base, tmp_path).keys() == {*wanted, "config.json"}
    assert companion_notes(base, ["model.safetensors"]) == [
        "not copied from the folder of the base: checkpoint-500/, onnx/, pytorch_model.bin, runs/, thesis.pdf, training_args.bin"
    ]


def test_an_ordinary_folder_has_no_notes(base):
    filled(base, {"tokenizer.json": "{}", "vocab.txt": "a", "README.md": "x", ".gitattributes": "x", ".cache/x": "x"})
    assert companion_notes(base, ["model.safetensors"]) == []


@pytest.fixture
def outside(tmp_path):
    return filled(tmp_path / "elsewhere", {"token": TOKEN, "config.json": '{"private": 1}', "deep/config.json": "{}"})


LINKS = {
    "the environment of the process": ("vocab.txt", "/proc/self/environ"),
    "a token file": ("tokenizer.json", "token"),
    "a file with another name": ("generation_config.json", "config.json"),
    "a folder": ("nested", "deep"),
    "a part": ("1_Pooling", "deep"),
    "a relative way out": ("merges.txt", "../elsewhere/token"),
    "a device": ("added_tokens.json", "/dev/zero"),
}


@pytest.mark.parametrize("case", LINKS)
def test_a_link_out_of_the_folder_is_not_followed_and_named(case, base, outside, tmp_path):
    name, target = LINKS[case]
    filled(base, {"modules.json": json.dumps(MODULES)})
    (base / name).symlink_to(target if target.startswith(("/", "..")) else outside / target)
    assert copied(base, tmp_path).keys() == {"config.json", "modules.json"}
    assert companion_notes(base, ["model.safetensors"]) == [
        f"not copied from the folder of the base, links that lead out of it: {name}"
    ]


def test_a_link_over_another_link_is_judged_by_where_it_ends(base, outside, tmp_path):
    (base / "inner").symlink_to(outside / "deep")
    (base / "vocab.txt").symlink_to("inner/config.json")
    assert copied(base, tmp_path).keys() == {"config.json"}


def test_links_within_the_folder_are_followed_but_not_to_hidden_files(base, tmp_path):
    filled(base, {"files/vocab.txt": "a", ".git/config": "url = https://token@host", ".env": "KEY=1"})
    (base / "vocab.txt").symlink_to("files/vocab.txt")
    (base / "merges.txt").symlink_to(".git/config")
    (base / "tokenizer.json").symlink_to(".env")
    (base / "again").symlink_to(".")
    assert copied(base, tmp_path).keys() == {"config.json", "files/vocab.txt", "vocab.txt"}


def test_links_into_the_cache_of_hugging_face_are_followed(tmp_path):
    cache = tmp_path / "hub/models--o--n"
    snapshot, blob = cache / "snapshots" / ("c" * 40), cache / "blobs" / ("a" * 40)
    filled(cache, {f"blobs/{'a' * 40}": '{"x": 1}'})
    snapshot.mkdir(parents=True)
    (snapshot / "1_Pooling").mkdir()
    for name in ("config.json", "1_Pooling/config.json"):
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    fetched = tmp_path / "fetched"  # a folder of links to the cache, as the workflow makes
    fetched.mkdir()
    for name in ("config.json", "1_Pooling"):
        (fetched / name).symlink_to((snapshot / name).resolve())
    for number, folder in enumerate((snapshot, fetched)):
        copy_companions(folder, tmp_path / f"copy{number}")
        assert content(tmp_path / f"copy{number}") == dict.fromkeys(("config.json", "1_Pooling/config.json"), b'{"x": 1}')


def test_a_pipe_and_a_link_to_nothing_are_left(base, tmp_path):
    os.mkfifo(base / "vocab.txt")
    (base / "merges.txt").symlink_to("nowhere")
    (base / "added_tokens.json").symlink_to("added_tokens.json")
    assert copied(base, tmp_path).keys() == {"config.json"}
    assert companion_notes(base, ["model.safetensors"]) == [
        "not copied from the folder of the base, not searched, or no files: added_tokens.json, merges.txt, vocab.txt"
    ]


SECRETS = {
    "token.txt": "x", "hf_token": "x", ".env": "x", "credentials.json": "{}", "client_secret.json": "{}", "id_rsa": "x",
    "server.key": "x", ".netrc": "x", "my_passwords.txt": "x", "1_Pooling/api_key.txt": "x", "notes.txt": f"login {TOKEN}",
    "deploy.json": json.dumps({"key": "-----BEGIN RSA " + "PRIVATE KEY-----"}), "aws.yaml": "id: AKIA" + "Q" * 16,
}  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_a_file_that_looks_like_a_secret_is_not_copied_and_named(name, base, tmp_path):
    filled(base, {name: SECRETS[name], "modules.json": json.dumps(MODULES)})
    assert copied(base, tmp_path).keys() == {"config.json", "modules.json"}
    assert companion_notes(base, ["model.safetensors"]) == [
        f"not copied from the folder of the base, files that look like secrets: {name}"
    ]


def test_files_of_tokenizers_are_no_secrets():
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "tokens.txt",
        "keys.json",
    ):
        assert not is_secret(name)


def test_a_byte_order_mark_is_read_and_left_out_of_the_copy(base, tmp_path):
    config = b'{"hidden_size": 8}'
    (base / "config.json").write_bytes(b"\xef\xbb\xbf" + config)
    (base / "vocab.txt").write_bytes(b"\xef\xbb\xbfa")
    merged(base, tmp_path)
    assert (tmp_path / "out/config.json").read_bytes() == config
    assert (tmp_path / "out/vocab.txt").read_bytes() == b"\xef\xbb\xbfa"
    assert (base / "config.json").read_bytes().startswith(b"\xef\xbb\xbf")


def test_a_path_of_a_listing_stays_in_its_folder():
    assert is_inside("1_Pooling/config.json")
    for name in ("../config.json", "/etc/passwd", "a/../../b", "a\\..\\b", "a\0b", ""):
        assert not is_inside(name)
