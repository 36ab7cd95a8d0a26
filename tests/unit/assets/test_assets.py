"""Assets are downloaded by pip's own session, verified, and unpacked without being run; tested on a loopback index."""

import hashlib
import http.server
import io
import os
import shutil
import tarfile
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from models import ROOT

from nan_merge.assets import fetch as fetching
from nan_merge.assets.archives import extract
from nan_merge.assets.fetch import pin, unavailable
from nan_merge.catalogue.files import check_schema
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json

FILES = {"pack/data/a.txt": b"alpha", "pack/data/b.csv": b"beta", "pack/code.py": b"print()"}
WHEEL, SDIST = "toy_pack-1.0-py3-none-any.whl", "toy_pack-1.0.tar.gz"
ABOUT = {"licence": "MIT", "source": "a toy"}


def fetch(asset, spec, lock, output):
    """Fetch as a job does: Snakemake has removed the output."""
    shutil.rmtree(output, ignore_errors=True)
    fetching.fetch(asset, spec, lock, output, output.parent / "store")


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, content in files.items():
            bundle.writestr(name, content)
    return buffer.getvalue()


def tarred(files, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as bundle:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def saved(folder, name, content):
    (folder / name).write_bytes(content)
    return folder / name


def locked(name, content):
    return {"toy": {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}}


def found(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "asset.json"}


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Serve a package index on the loopback: a wheel and a source distribution whose setup.py would leave a mark."""
    mark = tmp_path / "executed"
    setup = f"open({str(mark)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='toy-pack', version='1.0')\n"
    sdist = {"toy_pack-1.0/setup.py": setup.encode(), "toy_pack-1.0/inner.tgz": tarred(FILES), "toy_pack-1.0/a.txt": b"alpha"}
    files = {WHEEL: zipped(FILES), SDIST: tarred(sdist)}
    page = "".join(f'<a href="/files/{name}#sha256={hashlib.sha256(c).hexdigest()}">{name}</a>\n' for name, c in files.items())
    pages = {"/simple/toy-pack/": page.encode(), **{f"/files/{name}": content for name, content in files.items()}}

    class Index(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            body = pages.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    settings = {"INDEX_URL": f"http://127.0.0.1:{server.server_port}/simple/", "CONFIG_FILE": "/dev/null", "NO_CACHE_DIR": "1"}
    for name in ("EXTRA_INDEX_URL", "FIND_LINKS", "NO_INDEX", "PROXY", "NO_BINARY", "ONLY_BINARY", "CERT"):
        monkeypatch.delenv(f"PIP_{name}", raising=False)
    for name, value in {**settings, "RETRIES": "0", "TIMEOUT": "5"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    yield pages, mark
    server.shutdown()
    thread.join()
    server.server_close()


def spec(archive, **more):
    return {"kind": "pypi", "package": "toy-pack", "version": "1.0", "archive": archive, **ABOUT, **more}


# From the package index, with the genuine pip.


def test_a_wheel_is_fetched_verified_and_unpacked(index, tmp_path):
    pages, _ = index
    lock = locked(WHEEL, pages[f"/files/{WHEEL}"])
    fetch("toy", spec(WHEEL, root="pack/data", members=["*.txt", "b.csv"]), lock, tmp_path / "toy")
    assert found(tmp_path / "toy") == {"a.txt": b"alpha", "b.csv": b"beta"}
    record = read_json(tmp_path / "toy/asset.json")
    assert record["archive"] == lock["toy"]
    assert record["files"] == {"a.txt": {"size": 5}, "b.csv": {"size": 4}}
    assert (record["asset"], record["package"], record["version"], record["licence"]) == ("toy", "toy-pack", "1.0", "MIT")


def test_a_source_distribution_is_data_and_is_not_run(index, tmp_path):
    pages, mark = index
    lock = locked(SDIST, pages[f"/files/{SDIST}"])
    fetch("toy", spec(SDIST, inner="toy_pack-1.0/inner.tgz", root="pack", members=["data/*"]), lock, tmp_path / "toy")
    assert found(tmp_path / "toy") == {"data/a.txt": b"alpha", "data/b.csv": b"beta"}
    fetch("toy", spec(SDIST), lock, tmp_path / "all")
    assert set(found(tmp_path / "all")) == {f"toy_pack-1.0/{name}" for name in ("setup.py", "inner.tgz", "a.txt")}
    assert not mark.exists(), "setup.py was run"


def test_an_index_without_the_file_says_what_it_has(index, tmp_path):
    with pytest.raises(UserError, match=rf"asset 'toy' \(pypi toy-pack 1.0\): .*does not have absent.whl; found .*{WHEEL}"):
        fetch("toy", spec("absent.whl"), locked("absent.whl", b""), tmp_path / "toy")
    with pytest.raises(UserError, match=r"found nothing \(no network, or no answer of the package index\)"):
        fetch("toy", {**spec(WHEEL), "package": "absent"}, locked(WHEEL, b""), tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


def test_a_changed_file_is_refused_and_nothing_is_kept(index, tmp_path):
    pages, _ = index
    good = pages[f"/files/{WHEEL}"]
    lock = locked(WHEEL, good)
    pages[f"/files/{WHEEL}"] = good[:-1] + b"x"
    with pytest.raises(UserError, match=rf"asset 'toy': sha256 of {WHEEL}: expected {lock['toy']['sha256']} .*Nothing was kept"):
        fetch("toy", spec(WHEEL), lock, tmp_path / "toy")
    pages[f"/files/{WHEEL}"] = good[:-1]
    with pytest.raises(
        UserError, match=rf"size of {WHEEL}: expected {len(good)} \(config/assets.lock.json\), found {len(good) - 1}"
    ):
        fetch("toy", spec(WHEEL), lock, tmp_path / "toy")
    del pages[f"/files/{WHEEL}"]
    with pytest.raises(UserError, match=r"asset 'toy' \(pypi toy-pack 1.0\) cannot be downloaded: .*404"):
        fetch("toy", spec(WHEEL), lock, tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


# From this machine, and what all kinds share.


def local(folder, name, content, **more):
    file = saved(folder, name, content)
    return {"kind": "path", "path": str(file), **ABOUT, **more}, locked(name, content)


def test_a_file_of_this_machine_is_an_asset_too(tmp_path):
    plain, lock = local(tmp_path, "plain.csv", b"1,2")
    fetch("toy", plain, lock, tmp_path / "toy")
    assert found(tmp_path / "toy") == {"plain.csv": b"1,2"}
    packed, lock = local(tmp_path, "packed.zip", zipped(FILES), root="pack/data", members=["*.csv"])
    fetch("toy", packed, lock, tmp_path / "toy")
    assert found(tmp_path / "toy") == {"b.csv": b"beta"}, "the old folder is replaced whole"
    with pytest.raises(UserError, match=r"there is no file or folder /absent; put it there, or correct `path:` in config"):
        fetch("toy", {**plain, "path": "/absent"}, lock, tmp_path / "toy")


@pytest.fixture
def model(tmp_path):
    """A folder of kind `path` and its spec."""
    folder = tmp_path / "model"
    for name, content in {
        "config.json": "{}",
        "model.safetensors": "weights",
        "onnx/model.onnx": "graph",
        ".git/HEAD": "x",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder, {"kind": "path", "path": str(folder), **ABOUT}


def test_a_folder_of_this_machine_is_locked_and_copied(model, tmp_path):
    folder, spec = model
    lock = {"toy": pin("toy", spec)}
    assert set(lock["toy"]["files"]) == {"config.json", "model.safetensors", "onnx/model.onnx"}, (
        "hidden files do not belong to it"
    )
    assert lock["toy"]["files"]["config.json"] == {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    fetch("toy", spec, lock, tmp_path / "toy")
    kept = {"config.json": b"{}", "model.safetensors": b"weights", "onnx/model.onnx": b"graph"}
    assert found(tmp_path / "toy") == kept
    assert set(read_json(tmp_path / "toy/asset.json")["files"]) == set(kept)
    (folder / "config.json").write_text("[]")
    assert found(tmp_path / "toy") == kept, "a copy, not a link"
    fetch("toy", {**spec, "root": "onnx", "members": ["*.onnx"]}, lock, tmp_path / "toy")
    assert found(tmp_path / "toy") == {"model.onnx": b"graph"}
    assert set(pin("toy", {**spec, "members": ["*.json"]})["files"]) == {"config.json"}
    with pytest.raises(UserError, match=r"has no member like \['\*.bin'\]"):
        pin("toy", {**spec, "members": ["*.bin"]})


def replaced_by_a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("x")


CHANGES = {
    "another size": (lambda folder: (folder / "config.json").write_text("{1}"), r"size of \S+/model/config.json: expected 2 "),
    "other bytes": (lambda folder: (folder / "config.json").write_text("[]"), r"sha256 of \S+/config.json: .* it was changed"),
    "gone": (lambda folder: (folder / "config.json").unlink(), r"/model/config.json is missing, a file that config/assets.lock"),
    "no folder": (shutil.rmtree, r"asset 'toy' .*there is no file or folder /\S+/model; put it there, or correct `path:`"),
    "a file": (replaced_by_a_file, r"asset 'toy': path \S+ is a file, a folder in config/assets.lock.json; if the change is"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_is_not_as_it_was_locked_is_refused(model, change, tmp_path):
    folder, spec = model
    lock = {"toy": pin("toy", spec)}
    alter, message = CHANGES[change]
    alter(folder)
    with pytest.raises(UserError, match=message):
        fetch("toy", spec, lock, tmp_path / "toy")
    assert not (tmp_path / "toy").exists()


def test_another_name_than_the_locked_one_is_refused(tmp_path):
    plain, lock = local(tmp_path, "plain.csv", b"1,2")
    lock["toy"]["name"] = "other.csv"
    with pytest.raises(UserError, match=r"name of plain.csv: expected other.csv .*found plain.csv"):
        fetch("toy", plain, lock, tmp_path / "toy")


def test_an_address_is_downloaded(index, tmp_path):
    pages, _ = index
    server = os.environ["PIP_INDEX_URL"].removesuffix("/simple/")
    fetch(
        "toy",
        {"kind": "url", "url": f"{server}/files/{WHEEL}", **ABOUT},
        locked(WHEEL, pages[f"/files/{WHEEL}"]),
        tmp_path / "toy",
    )
    assert found(tmp_path / "toy") == FILES
    with pytest.raises(UserError, match=r"asset 'toy' \(url .*absent\): absent: HTTP status 404; correct `url:`"):
        fetch("toy", {"kind": "url", "url": f"{server}/absent", **ABOUT}, locked("absent", b""), tmp_path / "toy")


def test_a_file_may_be_kept_as_it_is_although_it_is_an_archive(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    content = zipped(FILES)
    checkpoint, lock = local(tmp_path, "finetuned.pt", content, unpack=False)
    checkpoint["path"] = "~/finetuned.pt"
    fetch("toy", checkpoint, lock, tmp_path / "toy")
    assert found(tmp_path / "toy") == {"finetuned.pt": content}


@pytest.mark.parametrize(
    "kind, key", {"pypi": "archive", "deb": "version", "npm": "package", "url": "url", "hub": "repo"}.items()
)
def test_every_kind_says_which_key_it_lacks(kind, key):
    whole = {"kind": kind, **ABOUT, **dict.fromkeys(("package", "version", "archive", "url", "path", "repo"), "x")}
    schema = ROOT / "workflow/schemas/assets.schema.yaml"
    check_schema({"toy": whole}, schema, "config/assets.yaml")
    del whole[key]
    with pytest.raises(UserError, match=f"config/assets.yaml: toy: the key '{key}' is missing"):
        check_schema({"toy": whole}, schema, "config/assets.yaml")


@pytest.mark.parametrize("pack", [zipped, tarred, lambda files: tarred(files, "w")], ids=["zip", "tar.gz", "tar"])
def test_every_archive_is_unpacked_alike(pack, tmp_path):
    archive = saved(tmp_path, "archive", pack({f"./{name}" if pack is not zipped else name: c for name, c in FILES.items()}))
    (tmp_path / "out").mkdir()
    names = extract("toy", {"root": "pack", "members": ["data/*.txt", "*.py"]}, archive, tmp_path / "out")
    assert names == ["code.py", "data/a.txt"]
    assert found(tmp_path / "out") == {"code.py": b"print()", "data/a.txt": b"alpha"}


@pytest.mark.parametrize("pack", [zipped, tarred], ids=["zip", "tar.gz"])
@pytest.mark.parametrize("member", ["../climbs.txt", "pack/../../climbs.txt", "/climbs.txt"])
def test_a_member_that_climbs_out_is_refused(pack, member, tmp_path):
    archive = saved(tmp_path, "archive", pack({member: b"evil"}))
    (tmp_path / "a/b").mkdir(parents=True)
    with pytest.raises(UserError, match=r"has a path outside its folder|has no member like"):
        extract("toy", {}, archive, tmp_path / "a/b")
    assert not list(tmp_path.rglob("climbs.txt"))
    assert not Path("/climbs.txt").exists()


def test_links_in_an_archive_are_not_followed(tmp_path):
    with tarfile.open(tmp_path / "archive.tar", "w") as bundle:
        for name, kind in (("soft", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            bundle.addfile(info)
    with pytest.raises(UserError, match="has no member like"):
        extract("toy", {}, tmp_path / "archive.tar", tmp_path)


def test_patterns_and_inner_archives_that_match_nothing_are_named(tmp_path):
    archive = saved(tmp_path, "archive.zip", zipped({**FILES, "pack/text.tgz": b"no archive"}))
    with pytest.raises(UserError, match=r"archive.zip has no member like \['\*.z', 'b'\] below 'pack'; correct `root:`"):
        extract("toy", {"root": "pack", "members": ["*.py", "*.z", "b"]}, archive, tmp_path / "out")
    with pytest.raises(UserError, match=r"archive.zip has no inner archive 'pack/absent.tgz'; correct `inner:`"):
        extract("toy", {"inner": "pack/absent.tgz"}, archive, tmp_path / "out")
    with pytest.raises(UserError, match=r"'pack/text.tgz' in archive.zip is no tar archive; correct `inner:`"):
        extract("toy", {"inner": "pack/text.tgz"}, archive, tmp_path / "out")


def test_a_machine_without_the_program_says_so(monkeypatch):
    monkeypatch.setattr(fetching.shutil, "which", lambda program: None)
    assert unavailable({"wheel": spec(WHEEL)}) == {}
    for kind, program in (("deb", "apt-get"), ("npm", "npm")):
        assert unavailable({"toy": {"kind": kind, "package": "toy", "version": "1"}}) == {
            "toy": f"{kind} toy 1 needs {program}, which this machine does not have"
        }


def test_apt_says_which_exact_versions_it_knows(monkeypatch):
    stanzas = "Package: toy\nVersion: 1\nDescription: a toy: small\n\nPackage: other\nVersion: 7\n"
    monkeypatch.setattr(fetching.shutil, "which", lambda program: program)
    monkeypatch.setattr(fetching.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=stanzas))
    specs = {"a": {"kind": "deb", "package": "toy", "version": "1"}, "b": {"kind": "deb", "package": "other", "version": "8"}}
    assert unavailable(specs) == {"b": "apt does not know other=8 (another release, or run `apt-get update` first)"}
