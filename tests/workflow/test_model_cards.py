"""The card of a merge of the workflow has the command that repeats it, and names no place of this machine."""

import json
import shlex

import pytest
from models import same_bytes, tensors_of

from nan_merge.cli import merge
from nan_merge.core.files import read_json
from nan_merge.standalone.model_card import PROVENANCE


@pytest.mark.parametrize("method", ["ties", "task_arithmetic_tuned"])
def test_the_command_in_the_provenance_gives_the_same_bytes(finished, method, tmp_path, monkeypatch):
    merged = finished / f"results/merged/tiny/{method}/seed0"
    words = shlex.split(read_json(merged / PROVENANCE)["command"].replace("\\\n", ""))
    monkeypatch.chdir(finished.folder)
    merge.main([*words[2:-1], str(tmp_path / "again")])
    assert same_bytes(tensors_of(tmp_path / "again"), tensors_of(merged))
    card = (merged / "README.md").read_text()
    assert "nan-merge merge \\\n    --base pretrained \\\n    --expert fruit=fruit" in card
    assert "AutoModel.from_pretrained" in card and str(finished.folder) not in card and "results/" not in card


def test_models_of_a_hub_are_named_by_id_and_commit(project):
    merged, target = "results/merged/tiny/ties/seed0", "results/checkpoints/tiny/pretrained"
    lock = json.loads((project / "config/assets.lock.json").read_text())
    entry = {"commit": "c" * 40, "of": "owner/bert@main", "files": {"config.json": {"size": 1, "sha256": "0" * 64}}}
    (project / "config/assets.lock.json").write_text(json.dumps({**lock, "tiny_bert": entry}))
    project.edit("config/assets.yaml", lambda a: a.update(
        tiny_bert={"kind": "hub", "repo": "owner/bert", "licence": "none", "source": "x"}))  # fmt: skip
    assert (project / target).is_dir()
    done = project.run("--force", "--allowed-rules", "merge_checkpoints", "--", merged)
    assert done.code == 0, done.text[-3000:]
    card = (project / merged / "README.md").read_text()
    assert f"--base owner/bert@{'c' * 40}" in card and "--expert fruit=fruit" in card
    assert "- owner/bert\n- fruit\n" in card
