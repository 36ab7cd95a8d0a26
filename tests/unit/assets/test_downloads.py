"""Assets of the hub are received whole and verified or not at all, under every fault of a loopback hub."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from hub import Hub, point_to
from huggingface_hub import constants
from models import ROOT

from nan_merge.assets import fetch, retry, store
from nan_merge.assets.retry import RetryPolicy, retry_after
from nan_merge.core import disk
from nan_merge.core.errors import UserError
from nan_merge.core.files import read_json
from scripts import update_lock

TOKEN = "hf_secretsecretsecret"
WEIGHTS = np.random.default_rng(0).bytes(1_000_000)
FILES = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "other/model.bin": b"not asked for", "README.md": b"card"}
SPEC = {"kind": "hub", "repo": "owner/model", "members": ["*.json", "*.safetensors"], "licence": "MIT", "source": "a toy"}
STORED = "/storage/.*model.safetensors"
QUICK = RetryPolicy(first_wait=0.001, longest_wait=0.002, longest_retry_after=5, read_timeout=1)


@pytest.fixture
def hub(monkeypatch):
    """A hub on the loopback with one model; clients of this process and of its children use it, with short waits."""
    monkeypatch.setattr(retry, "RETRY_POLICY", QUICK)
    with Hub(TOKEN) as server:
        point_to(server.url, monkeypatch)
        server.put("owner/model", FILES)
        yield server


class Case:
    """The asset `toy` in a folder: its spec, its lock, and where it is fetched to."""

    def __init__(self, folder, spec=SPEC, lock=None):
        self.spec, self.store, self.output = spec, folder / "downloads", folder / "assets/toy"
        self.lock = {"toy": lock or fetch.pin("toy", spec)}

    def fetch(self):
        """Fetch as a job does: Snakemake has removed the output."""
        shutil.rmtree(self.output, ignore_errors=True)
        fetch.fetch("toy", self.spec, self.lock, self.output, self.store)

    def refused(self, *parts):
        """Fetch, expect one message with all these parts, no folder, no token."""
        with pytest.raises(UserError) as error:
            self.fetch()
        assert not [part for part in parts if part not in str(error.value)], error.value
        assert not self.output.exists()
        assert "secret" not in str(error.value)

    @property
    def weights(self):
        return self.store / self.lock["toy"]["files"]["model.safetensors"]["sha256"]

    @property
    def part(self):
        return self.weights.with_name(f"{self.weights.name}.part")

    def complete(self):
        """Say whether the folder holds what the hub has, and only that."""
        found = {str(p.relative_to(self.output)): p.read_bytes() for p in self.output.rglob("*") if p.is_file()}
        del found["asset.json"]
        return found == {name: FILES[name] for name in ("config.json", "model.safetensors")} and not self.part.exists()

    def process(self, asset="toy"):
        """Fetch in another process, under that name."""
        code = (
            "import json, sys; from pathlib import Path; from nan_merge.assets import fetch, retry;"
            " from nan_merge.core.command_line import command_line; "
            " retry.RETRY_POLICY = retry.RetryPolicy(first_wait=0.01, longest_retry_after=5, read_timeout=20);"
            " asset, spec, lock, output, store = sys.argv[1:]; command_line(lambda: fetch.fetch(asset, json.loads(spec),"
            " json.loads(lock), Path(output), Path(store)))"
        )
        lock, output = {asset: self.lock["toy"]}, self.output.with_name(asset)
        given = [asset, json.dumps(self.spec), json.dumps(lock), str(output), str(self.store)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow"), "HF_HUB_OFFLINE": "1"}  # as rules set it
        return subprocess.Popen([sys.executable, "-c", code, *given], env=environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


@pytest.fixture
def case(hub, tmp_path):
    found = Case(tmp_path)
    hub.forget()
    return found


# The ordinary way.


def test_a_locked_revision_is_fetched_and_described(case, hub):
    case.fetch()
    assert case.complete()
    record, pinned = read_json(case.output / "asset.json"), case.lock["toy"]
    assert record == {
        "asset": "toy", "kind": "hub", "repo": "owner/model", "licence": "MIT", "source": "a toy",
        "commit": pinned["commit"], "files": pinned["files"],
    }  # fmt: skip
    assert {request.method for request in hub.requests} == {"GET"}
    assert len(hub.requests) == 3, "one for the small file, two for the large one"
    assert all(pinned["commit"] in request.path for request in hub.requests if request.origin == "hub")
    assert (case.output / "model.safetensors").stat().st_ino == case.weights.stat().st_ino, "linked, not copied"
    assert not case.weights.stat().st_mode & 0o222, "two names, so it is not to be written to"


def test_the_second_time_makes_no_request_at_all(case, hub, tmp_path):
    case.fetch()
    hub.forget()
    case.fetch()
    case.output = tmp_path / "another/toy"
    case.fetch()
    assert case.complete()
    assert hub.requests == []


def test_a_moved_branch_does_not_matter(case, hub):
    hub.put("owner/model", {**FILES, "model.safetensors": b"new"})
    case.fetch()
    assert case.complete()


def test_a_data_set_and_a_root_have_their_own_addresses(hub, tmp_path):
    hub.put("owner/data", {"deep/down/a b.parquet": b"rows", "README.md": b"card"}, kind="datasets")
    spec = {**SPEC, "repo": "owner/data", "type": "dataset", "root": "deep", "members": ["down/*.parquet"]}
    data = Case(tmp_path, spec)
    assert list(data.lock["toy"]["files"]) == ["deep/down/a b.parquet"]
    data.fetch()
    assert (data.output / "down/a b.parquet").read_bytes() == b"rows"


def test_an_address_is_kept_and_resumed_too(hub, tmp_path):
    commit = hub.repositories["models", "owner/model"].branches["main"]
    spec = {"kind": "url", "url": f"{hub.url}/owner/model/resolve/{commit}/model.safetensors", "licence": "MIT", "source": "toy"}
    toy = Case(tmp_path, spec)
    assert toy.lock["toy"]["name"] == "model.safetensors"
    hub.forget()
    hub.fail("drop", STORED, at=600_000)
    toy.fetch()
    assert hub.ranges(STORED) == [None, "bytes=600000-"]
    hub.forget()
    toy.fetch()
    assert (toy.output / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.requests == []


# Faults that pass.


@pytest.mark.parametrize(
    ("kind", "server"), [("drop", ""), ("close", ""), ("stall", ""), ("drop", "norange"), ("close", "unsaid")]
)
def test_a_connection_that_ends_early_goes_on_at_the_byte(kind, server, case, hub):
    """Also where the server has no ranges, so that it sends all of it again, and where the body has no length."""
    hub.fail(kind, STORED, at=600_000, seconds=0.5 if kind == "stall" else 0)
    if server:
        hub.fail(server, STORED, times=None)
    case.fetch()
    assert case.complete()
    assert hub.ranges(STORED) == [None, "bytes=600000-"]


def test_a_connection_that_ends_again_and_again_is_left_resumable(case, hub):
    fault = hub.fail("close", STORED, at=600_000, times=None)
    case.refused("model.safetensors: connection to localhost lost", "run again to resume (the bytes received are kept)")
    assert fault.hits == QUICK.attempts
    assert case.part.stat().st_size == 600_000
    hub.forget()
    case.fetch()
    assert case.complete()
    assert hub.ranges(STORED) == ["bytes=600000-"]


def test_an_attempt_with_progress_resets_the_count(case, hub, monkeypatch):
    monkeypatch.setattr(retry, "PROGRESS", 50_000)
    for step in range(18):  # every other attempt brings 100,000 bytes, the others none
        hub.fail("close", STORED, at=100_000 * (step // 2 + 1), skip=step)
    case.fetch()
    assert case.complete()
    assert len(hub.ranges(STORED)) == 19


def test_a_shorter_body_with_a_consistent_length_is_refused(case, hub):
    hub.fail("truncate", STORED, at=600_000)
    case.fetch()
    assert case.complete()
    hub.forget()
    case.weights.unlink()
    hub.fail("truncate", STORED, at=600_000, times=None)
    case.output = case.output.with_name("again")
    case.refused("600,000 bytes announced, expected 1,000,000")


def test_a_part_that_is_too_long_or_damaged_is_fetched_anew(case, hub):
    case.store.mkdir()
    for size, ranges in {1_000_001: [None], 600_000: ["bytes=600000-", None], 1_000_000: [None]}.items():
        case.part.write_bytes(b"x" * size)
        case.fetch()
        assert case.complete()
        assert hub.ranges(STORED) == ranges
        case.weights.unlink()
        hub.forget()


@pytest.mark.parametrize("refusal", ["status", "shift"])
def test_a_server_that_cannot_go_on_at_the_byte_is_read_from_the_first(refusal, case, hub):
    hub.fail("drop", STORED, at=600_000)
    hub.fail(refusal, STORED, status=416, skip=1)
    case.fetch()
    assert case.complete()
    assert hub.ranges(STORED) == [None, "bytes=600000-", None]


def test_a_server_that_sends_too_much_is_stopped(case, hub):
    case.lock["toy"]["files"]["model.safetensors"]["size"] = 600_000
    hub.fail("lie", "model.safetensors", size=600_000, times=None)
    hub.fail("unsaid", STORED, times=None)
    case.refused("more than the expected 600,000 bytes")


def test_content_that_is_damaged_once_is_fetched_anew(case, hub):
    hub.fail("corrupt", STORED, at=600_000)
    case.fetch()
    assert case.complete()
    assert hub.ranges(STORED) == [None, None]


def test_content_that_is_damaged_always_is_given_up_and_not_kept(case, hub):
    fault = hub.fail("corrupt", STORED, at=600_000, times=None)
    expected, bad = case.weights.name, bytearray(WEIGHTS)
    bad[600_000] ^= 1
    case.refused("asset 'toy' (hub owner/model): owner/model: model.safetensors: received damaged twice", expected,
                 hashlib.sha256(bad).hexdigest(), "nothing was kept")  # fmt: skip
    assert fault.hits == 2
    assert not case.weights.exists()
    assert not case.part.exists()


def test_damage_in_the_store_is_noticed(case, hub):
    case.fetch()
    case.weights.chmod(0o644)
    with open(case.weights, "r+b") as file:
        file.write(b"damage")
    hub.forget()
    case.fetch()
    assert case.complete()
    assert hub.ranges(STORED) == [None]
    os.utime(case.weights)
    hub.forget()
    case.fetch()
    assert hub.requests == [], "touched, read again, found whole"


# Statuses and headers.


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("where", ["/resolve/.*model", STORED], ids=["hub", "storage"])
def test_a_server_in_trouble_is_asked_again(status, where, case, hub):
    fault = hub.fail("status", where, status=status, times=3)
    case.fetch()
    assert case.complete()
    assert fault.hits == 3


def test_an_address_that_has_expired_is_asked_for_anew(case, hub):
    hub.fail("status", STORED, status=403)
    case.fetch()
    assert case.complete()
    assert len(hub.ranges("/resolve/.*model")) == 2


def test_a_server_that_stays_in_trouble_is_named(case, hub):
    fault = hub.fail("status", times=None)
    case.refused("asset 'toy' (hub owner/model): owner/model: config.json: HTTP status 503; given up")
    assert fault.hits == QUICK.attempts
    hub.fail("refuse", times=None)
    hub.faults.remove(fault)
    case.refused("connection to 127.0.0.1 lost (Connection reset by peer); given up")


def test_the_wait_that_a_server_asks_for_is_kept(case, hub):
    hub.fail("status", STORED, status=429, headers={"Retry-After": "1"})
    begin = time.monotonic()
    case.fetch()
    assert time.monotonic() - begin > 1
    assert case.complete()


def test_a_wait_that_is_too_long_is_left_to_the_user(case, hub):
    hub.fail("status", "model", status=429, headers={"Retry-After": "3600"})
    case.refused("HTTP status 429, retry after 3,600 s; run again then")


def test_waits_are_read_from_every_header_that_is_in_use():
    assert retry_after({}) == 0
    assert retry_after({"retry-after": " 7 "}) == 7
    assert retry_after({"retry-after": "soon"}) == 0
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert 58 < retry_after({"retry-after": format_datetime(datetime.now(UTC) + timedelta(seconds=60))}) <= 60
    assert retry_after({"ratelimit": '"resolvers";r=0;t=55'}) == 55


def test_what_cannot_work_is_not_tried_again(case, hub, monkeypatch):
    def refused(status, *parts, code=None, token=None):
        hub.forget()
        hub.fail("status", "config.json", status=status, headers={"X-Error-Code": code} if code else {}, times=None)
        monkeypatch.setenv("HF_TOKEN", token or "")
        case.refused("asset 'toy' (hub owner/model): owner/model: config.json: HTTP status", str(status), *parts)
        assert len(hub.requests) == 1

    refused(401, "access is restricted: accept the terms at", f"{hub.url}/owner/model, then set HF_TOKEN", code="GatedRepo")
    refused(403, "access is restricted: accept the terms at", code="GatedRepo", token=TOKEN)
    refused(401, "set HF_TOKEN to a token with read access")
    refused(401, "the token is not accepted: correct or unset HF_TOKEN", token="hf_secret_of_another_hub")
    refused(
        404,
        f"no such model at {hub.url}: correct `repo:` in config/assets.yaml, or, if it is private, set HF_TOKEN",
        code="RepoNotFound",
    )
    refused(
        404,
        "correct `revision:` or `members:` in config/assets.yaml",
        "run: nan-merge lock toy",
        code="EntryNotFound",
    )
    refused(404, "run: nan-merge lock toy", code="RevisionNotFound")
    refused(410, "in a browser to see whether it still exists")


def test_an_announcement_that_contradicts_the_lock_is_refused(case, hub):
    other = "0" * 64
    for lie in ({"etag": other}, {"size": 7}, {"commit": "0" * 40}):
        hub.forget()
        hub.fail("lie", "model.safetensors", **lie, times=None)
        key, value = ("digest", other) if "etag" in lie else next(iter(lie.items()))
        case.refused(f"announced {key} {value}, expected", "if the change is meant, run: nan-merge lock toy")
        assert hub.ranges(STORED) == []


# The token.


def test_the_token_opens_gated_and_private_repositories_and_goes_nowhere_else(hub, tmp_path, monkeypatch, capfd):
    hub.put("owner/model", FILES, gated=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    case = Case(tmp_path)
    hub.forget()
    hub.fail("drop", STORED, at=600_000)
    hub.fail("status", "/resolve/", status=503)
    case.fetch()
    assert case.complete()
    assert {r.authorization for r in hub.requests if r.origin == "hub"} == {f"Bearer {TOKEN}"}
    assert {r.authorization for r in hub.requests if r.origin == "storage"} == {None}
    hub.put("owner/model", FILES, private=True)
    assert fetch.pin("toy", SPEC) == case.lock["toy"]
    shown = capfd.readouterr()
    written = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.name != "model.safetensors"]
    assert "secret" not in shown.out + shown.err
    assert not [text for text in written if b"secret" in text]


def test_tokens_of_other_places_are_not_used(case, hub, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text("default login me password secret\n")
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    case.fetch()
    fetch.pin("toy", SPEC)
    assert {request.authorization for request in hub.requests} == {None}


# Several processes.


def test_several_processes_fetch_a_file_once(case, hub):
    hub.fail("stall", STORED, at=600_000, seconds=1.5)
    processes = [case.process(name) for name in ("toy", "same", "same_files")]
    said = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert case.complete()
    assert hub.ranges(STORED) == [None, "bytes=600000-"], "the others waited for the first"
    assert hub.ranges("/resolve/.*config.json") == [None]
    assert sum("waiting for another process that fetches it" in text for text in said) == 2, said
    for name in ("same", "same_files"):
        case.output = case.output.with_name(name)
        assert case.complete()


def test_a_killed_process_is_gone_on_from_by_the_next_one(case, hub):
    hub.fail("stall", STORED, at=600_000, seconds=20)
    process = case.process()
    until = time.monotonic() + 600
    while not (case.part.exists() and case.part.stat().st_size == 600_000):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not case.output.exists()
    hub.forget()
    process = case.process()
    assert process.wait(60) == 0, process.stdout.read()
    process.stdout.close()
    assert case.complete()
    assert hub.ranges("resolve.*config.json") == [], "what was whole is kept"
    assert hub.ranges(STORED) == ["bytes=600000-"]


# The disk.


def test_a_disk_without_room_is_found_before_the_first_request(case, hub, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda folder: SimpleNamespace(free=17_000_000))
    case.refused("the download of asset 'toy' needs 17.78 MB, the disk has 17.00 MB free; free some, or run elsewhere")
    assert hub.requests == []
    case.part.write_bytes(WEIGHTS[:900_000])
    case.fetch()
    assert case.complete()


def test_when_the_disk_fills_up_the_download_stops_and_goes_on_when_there_is_room(case, hub, isolated):
    case.store.mkdir()
    mount = f"mount -t tmpfs -o size=800k none {case.store}"
    shell = f'{mount} || exit; "$@" && exit 9; mount -o remount,size=4m {case.store} && exec "$@"'
    script = (
        "from nan_merge.assets import fetch; from nan_merge.core import command_line; from scripts import fetch_asset;"
        " fetch.check_space = lambda *_: None; command_line.command_line(fetch_asset.main)"
    )
    words = ["--asset", "toy", "--spec", json.dumps({"entry": case.spec, "lock": case.lock}),
             "--store", str(case.store), "--output", str(case.output)]  # fmt: skip
    command = [*isolated("--mount"), "sh", "-c", shell, "sh", sys.executable, "-c", script, *words]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'workflow'}:{ROOT}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    full = rf"the disk of {case.store} is full \({os.strerror(errno.ENOSPC)}\) after (0\.\d+) MB of 1.00 MB; free some"
    full += " space and run again to resume"
    arrived = re.search(full + r"\nmissing: toy. Already fetched and kept: nothing", done.stderr)
    assert arrived, done.stderr
    assert "Traceback" not in done.stderr
    assert case.complete()
    first, second = hub.ranges(STORED)
    assert (first, round(int(second.strip("bytes=-")) / 1e6, 2)) == (None, float(arrived[1]))


def test_another_disk_is_copied_to(case, hub, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(store.os, "link", refuse)
    case.fetch()
    assert case.complete()


# The lock.


def test_what_is_not_locked_stops_with_the_command_that_locks_it(case, hub):
    case.lock = {}
    case.refused("asset 'toy' is not in config/assets.lock.json", "run: nan-merge lock toy")
    case.lock = {"toy": {"commit": "4" * 40, "unverified": "model card"}}
    case.refused("has only values that were not verified (model card)", "run: nan-merge lock toy")
    assert hub.requests == []


def test_a_lock_of_another_spec_is_refused(case):
    case.spec = {**SPEC, "revision": "v2"}
    case.refused("owner/model@v2 in config/assets.yaml, owner/model@main in config/assets.lock.json; run: nan-merge lock")
    case.spec = {**SPEC, "members": ["*.json", "*.parquet"]}
    case.refused("has no member like ['*.parquet']", "correct `members:` in config/assets.yaml, or run: nan-merge lock toy")


def test_a_lock_that_climbs_out_of_the_folder_is_refused(case):
    files = case.lock["toy"]["files"]
    files["../../climbs.json"] = files["config.json"]
    case.refused("member '../../climbs.json' has a path outside its folder")


@pytest.fixture
def config(hub, tmp_path, monkeypatch):
    """A config with two assets of the hub, one of them absent there, and one of this machine; the lock is empty."""
    (tmp_path / "config").mkdir()
    (tmp_path / "plain.csv").write_text("1,2")
    absent = {**SPEC, "repo": "owner/{}", "each": {"model": "model", "gone": "gone"}}
    local = {"kind": "path", "path": str(tmp_path / "plain.csv"), "licence": "MIT", "source": "toy"}
    (tmp_path / "config/assets.yaml").write_text(json.dumps({"toy_{}": absent, "local": local}))
    (tmp_path / "config/assets.lock.json").write_text("{}")
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    monkeypatch.setattr(update_lock, "ROOT", tmp_path)
    monkeypatch.setattr(update_lock, "LOCK", tmp_path / "config/assets.lock.json")
    hub.forget()
    return tmp_path / "config/assets.lock.json"


def locking(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["update_lock", *words])
    update_lock.main()


def test_all_that_can_be_had_is_locked_and_the_rest_is_named(config, hub, monkeypatch, capfd):
    with pytest.raises(UserError, match="locked 2 of 3 assets; not locked, see above: toy_gone"):
        locking(monkeypatch, "--all")
    shown = capfd.readouterr()
    assert "error: asset 'toy_gone' (hub owner/gone): owner/gone@main: HTTP status 401 (RepoNotFound)" in shown.err
    lock = read_json(config)
    commit = hub.repositories["models", "owner/model"].branches["main"]
    assert list(lock) == ["local", "toy_model"]
    assert lock["toy_model"]["commit"] == commit
    assert {name: file["size"] for name, file in lock["toy_model"]["files"].items()} == {
        "config.json": 8, "model.safetensors": 1_000_000
    }  # fmt: skip
    assert f"toy_model: commit {commit}, 2 files, 1,000,008 bytes" in shown.out
    assert hub.ranges("model.safetensors") == [], "large files are not downloaded"
    assert len(hub.ranges("/api/.*owner/model")) == len(hub.ranges("config.json")) == 1
    hub.forget()
    with pytest.raises(UserError, match="locked 0 of 1 assets"):
        locking(monkeypatch, "--all")
    assert all("gone" in request.path for request in hub.requests)


def test_without_names_nothing_is_locked_and_the_names_are_told(config, hub, monkeypatch, capfd):
    with pytest.raises(SystemExit) as ended:
        locking(monkeypatch)
    shown = capfd.readouterr()
    assert ended.value.code == 2 and "3 of 3 assets of config/assets.yaml are not locked: local; toy_gone; toy_model" in shown.out
    assert "--suite NAME" in shown.err and "--all" in shown.err
    assert read_json(config) == {} and not hub.requests
    with pytest.raises(UserError, match=r"nan-merge lock: unknown 'LOCAL'; did you mean 'local'\?"):
        locking(monkeypatch, "LOCAL")


def test_a_suite_or_an_overlay_names_its_assets(tmp_path, monkeypatch, capfd):
    tiny.build(tmp_path / "tiny")
    lock = tmp_path / "tiny/config/assets.lock.json"
    monkeypatch.chdir(tmp_path / "tiny")
    monkeypatch.setattr(update_lock, "ROOT", tmp_path / "tiny")
    monkeypatch.setattr(update_lock, "LOCK", lock)
    more = {"kind": "path", "path": "archives/tiny_bert.tar", "licence": "none", "source": "x"}
    tiny.edit_yaml(tmp_path / "tiny/config/assets.yaml", lambda assets: assets.update(of_no_suite=more))
    (tmp_path / "tiny/own.yaml").write_text("seeds: [1]\n")
    whole = read_json(lock)
    for words in (["--suite", "tiny"], ["--configfile", "own.yaml"]):
        lock.write_text("{}")
        locking(monkeypatch, *words)
        assert read_json(lock) == whole and set(whole) == {"tiny_bert", "tiny_texts"}
        capfd.readouterr()
        locking(monkeypatch, *words)
        assert capfd.readouterr().out == "all 2 assets are locked already\n"
    with pytest.raises(UserError, match=r"--suite: suites: unknown 'Tiny'; did you mean 'tiny'\?"):
        locking(monkeypatch, "--suite", "Tiny")
    (tmp_path / "tiny/own.yaml").write_text("suites: [tny]\n")
    with pytest.raises(UserError, match=r"own\.yaml: suites: unknown 'tny'; did you mean 'tiny'\?"):
        locking(monkeypatch, "--configfile", "own.yaml")


def test_values_that_were_noted_are_compared_and_differences_need_to_be_accepted(config, hub, monkeypatch, capfd):
    noted = {"commit": "4" * 40, "files": {"config.json": {"size": 8}}, "unverified": "model card"}
    config.write_text(json.dumps({"toy_model": noted}))
    with pytest.raises(UserError, match="locked 0 of 1"):
        locking(monkeypatch, "toy_model")
    assert read_json(config) == {"toy_model": noted}
    shown, commit = capfd.readouterr().err, hub.repositories["models", "owner/model"].branches["main"]
    assert f"toy_model: CHANGED: commit: noted {'4' * 40}, found {commit}" in shown
    assert "are not those noted (model card)" in shown
    assert "run: nan-merge lock --accept toy_model" in shown
    locking(monkeypatch, "--accept", "toy_model")
    assert read_json(config)["toy_model"]["commit"] == commit
    noted["commit"] = commit
    config.write_text(json.dumps({"toy_model": noted}))
    locking(monkeypatch, "toy_model")
    assert "unverified" not in read_json(config)["toy_model"]


@pytest.mark.parametrize("asset", ["toy_model", "toy_gone"])
def test_without_a_network_locking_ends_at_the_first_asset(asset, config, hub, monkeypatch, capfd):
    """`.invalid` is a name that no resolver knows (RFC 6761)."""
    locking(monkeypatch, "local")
    point_to("http://hub.invalid", monkeypatch)
    with pytest.raises(UserError) as error:
        locking(monkeypatch, asset, "toy_gone", "toy_model")
    message = str(error.value)
    assert (
        message.startswith(f"locked 0 of 2 assets; asset '{asset}' (hub owner/")
        and "the host hub.invalid cannot be found" in message
    )
    assert capfd.readouterr().err.count("next attempt") == 1 and list(read_json(config)) == ["local"]


def test_a_host_that_cannot_be_found_is_tried_twice(case, monkeypatch, capfd):
    point_to("http://hub.invalid", monkeypatch)
    with pytest.raises(
        retry.Offline, match=r"config.json: the host hub.invalid cannot be found \(.*\): no network here, or a wrong"
    ):
        case.fetch()
    assert capfd.readouterr().err.count("next attempt") == 1


def test_locking_says_what_is_wrong_and_loses_nothing(config, hub, monkeypatch, capfd):
    def refused(asset, *parts):
        with pytest.raises(UserError, match="locked 0 of 1"):
            locking(monkeypatch, asset)
        shown = capfd.readouterr().err
        assert not [part for part in parts if part not in shown], shown

    locking(monkeypatch, "local")
    kept = read_json(config)
    hub.put("owner/model", FILES, gated=True)
    refused("toy_model", "(GatedRepo); access is restricted: accept the terms at")
    hub.put("owner/model", {"a.md": b""})
    refused("toy_model", "has no member like ['*.json', '*.safetensors']", "found: a.md")
    hub.put("owner/model", FILES)
    hub.fail("corrupt", "config.json", at=3, times=None)
    refused("toy_model", "owner/model: config.json: received damaged twice: digest: expected")
    hub.fail("status", "/api/", status=503, times=None)
    refused("toy_model", "owner/model@main: HTTP status 503; given up")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("toy_model", "HF_HUB_OFFLINE is set", "unset it")
    assert read_json(config) == kept


def test_the_lock_of_the_project_holds_each_asset_once_and_says_what_is_unverified():
    text = (ROOT / "config/assets.lock.json").read_text()
    lock = json.loads(text)
    assert text == json.dumps(lock, indent=1, sort_keys=True) + "\n"
    for asset, entry in lock.items():
        known = entry["files"].values() if "files" in entry else [entry]
        complete = all({"size", "sha256"} <= set(file) for file in known) and ("files" not in entry or len(entry["commit"]) == 40)
        assert complete or entry.get("unverified"), asset
