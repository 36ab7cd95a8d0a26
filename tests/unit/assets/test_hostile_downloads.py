"""A slow or odd server and a damaged archive end in one message; no message holds what may be secret in an address."""

import contextlib
import gzip
import io
import lzma
import os
import random
import socket
import tarfile
import threading
import time
import zipfile

import pytest

from nan_merge.assets import fetch, http, retry
from nan_merge.assets.archives import extract
from nan_merge.assets.http import Remote, receive, shown_address
from nan_merge.assets.retry import RetryPolicy, retry_after
from nan_merge.core.errors import UserError

QUICK = RetryPolicy(
    attempts=2, first_wait=0.001, longest_wait=0.002, read_timeout=2, answer_timeout=0.6, pace_time=0.3, pace_bytes=10_000
)


@pytest.fixture
def serve(monkeypatch):
    """Return a function that serves one raw answer, in pieces with a pause after each, and returns its address."""
    monkeypatch.setattr(retry, "RETRY_POLICY", QUICK)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    sockets = []

    def start(pieces, pause=0.0):
        listener = socket.create_server(("127.0.0.1", 0))
        sockets.append(listener)

        def answer(connection):
            try:
                connection.recv(1 << 16)
                for piece in pieces():
                    connection.sendall(piece)
                    time.sleep(pause)
            except OSError:
                pass
            finally:
                connection.close()

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/file.bin"

    yield start
    for each in sockets:
        each.close()


def drip(head=b""):
    def pieces():
        yield head
        for _ in range(10_000):
            yield b"x"

    return pieces


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "message"), [(HEAD, r"only \d+ bytes in 0 s"), (b"HTTP/1.1 200 OK\r\nX: ", "no complete answer in 1 s")]
)
def test_a_server_that_drips_is_given_up(head, message, serve, tmp_path):
    started = time.monotonic()
    with pytest.raises(UserError, match=f"{message}; given up"):
        receive(Remote(serve(drip(head), 0.02), "toy", 100_000), tmp_path / "f")
    assert time.monotonic() - started < 10


def test_a_server_that_is_slow_but_goes_on_is_waited_for(serve, tmp_path):
    def pieces():
        yield HEAD
        for _ in range(20):
            yield b"x" * 5_000

    receive(Remote(serve(pieces, 0.05), "toy", 100_000), tmp_path / "f")
    assert (tmp_path / "f").stat().st_size == 100_000


def test_a_file_of_unknown_size_has_a_limit(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(http, "LARGEST", 1_000_000)

    def pieces():
        yield b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
        for _ in range(100):
            yield b"x" * 100_000

    with pytest.raises(UserError, match="more than 1,000,000 bytes, the most that is fetched of a file of unknown size"):
        receive(Remote(serve(pieces), "toy"), tmp_path / "f")
    with pytest.raises(UserError, match="more than 1,000,000 bytes"):
        fetch.download("toy", {"kind": "url", "url": serve(pieces)}, tmp_path)


PROGRAMS = {
    "drips": ("while :; do printf x >> toy.deb; sleep 0.05; done", r"only \d+ bytes in 0 s; given up"),
    "brings nothing": ("sleep 600", "no content in 1 s; given up"),
    "leaves it to another": ("(while :; do printf x >> toy.tgz; sleep 0.05; done) & wait", r"only \d+ bytes in 0 s; given up"),
    "fails": ("echo no; printf '\\033[2Jgone' >&2; exit 3", r"failed: \\x1b\[2Jgone"),
}


@pytest.mark.parametrize("kind", ["deb", "npm"])
@pytest.mark.parametrize("case", PROGRAMS)
def test_a_program_that_downloads_too_slowly_is_ended_with_its_children(case, kind, tmp_path, monkeypatch):
    """In place of apt-get and npm, which talk to servers of their own."""
    text, message = PROGRAMS[case]
    monkeypatch.setattr(retry, "RETRY_POLICY", QUICK)
    program, folder = tmp_path / {"deb": "apt-get", "npm": "npm"}[kind], tmp_path / "folder"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    started = time.monotonic()
    with pytest.raises(UserError, match=rf"asset 'toy' .*{message}"):
        fetch.download("toy", {"kind": kind, "package": "toy", "version": "1"}, folder)
    assert time.monotonic() - started < 10
    sizes = [sum(file.stat().st_size for file in folder.rglob("*")) for _ in range(2) if not time.sleep(0.3)]
    assert sizes[0] == sizes[1]


def test_a_program_that_goes_on_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(retry, "RETRY_POLICY", QUICK)
    (tmp_path / "apt-get").write_text(
        "#!/bin/sh\nfor i in 1 2 3 4 5 6 7 8 9; do head -c 20000 /dev/zero >> toy.deb; sleep 0.1; done\n"
    )
    (tmp_path / "apt-get").chmod(0o755)
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    file = fetch.download("toy", {"kind": "deb", "package": "toy", "version": "1"}, tmp_path / "folder")
    assert file.stat().st_size == 180_000


HEADERS = {
    "no number": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\nConnection: close\r\n\r\nabc",
    "a negative number": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\nConnection: close\r\n\r\nabc",
    "a long number": b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5_000 + b"\r\nConnection: close\r\n\r\nabc",
    "two numbers": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
    "an odd range": b"HTTP/1.1 206 OK\r\nContent-Range: bytes " + b"9" * 5_000 + b"-2/x\r\n\r\nabc",
    "an odd wait": b"HTTP/1.1 503 No\r\nRetry-After: " + b"9" * 5_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "a compression that is none": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "odd chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
    "no HTTP": b"hello\r\n\r\n",
    "a redirect to a file": b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
    "a redirect to nothing": b"HTTP/1.1 302 Found\r\nLocation: http://[x\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("case", HEADERS)
def test_an_odd_header_is_a_message(case, serve, tmp_path):
    with pytest.raises(UserError, match=r"^toy: |not the address of a file"):
        receive(Remote(serve(lambda: [HEADERS[case]]), "toy", 1_000), tmp_path / "f")


def test_an_odd_wait_is_none():
    for value in ("9" * 5_000, "soon", "-1", "١٢"):
        assert retry_after({"retry-after": value}) in (0.0, 12.0)
    assert retry_after({"ratelimit": '"api";r=0;t=' + "9" * 5_000}) == 0.0


def test_messages_hold_no_query_user_or_fragment(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(retry, "RETRY_POLICY", RetryPolicy(attempts=1, connect_timeout=0.2))
    assert shown_address("https://me:pw@host:1/a/b?token=s#f") == "https://host:1/a/b"
    addresses = ["ftp://me:SECRET@host/x?key=SECRET", "http://127.0.0.1:1/x?key=SECRET#SECRET", "http://[SECRET/x?SECRET"]
    for url in [*addresses, serve(lambda: [b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"]) + "?sig=SECRET"]:
        with pytest.raises(UserError) as error:
            fetch.download("toy", {"kind": "url", "url": url}, tmp_path)
        assert "SECRET" not in str(error.value)


@pytest.mark.parametrize("path", ["", "/", "/a/.."])
def test_an_address_without_a_name_has_one(path):
    assert fetch._address({"url": f"https://host{path}"}).name == "download"


def zipped(*members, compression=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as bundle:
        for name, content in members:
            bundle.writestr(name, content)
    return buffer.getvalue()


def tarred(*members, mode="w:gz"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as bundle:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            bundle.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


NOISE = random.Random(0).randbytes(50_000)
PLAIN = zipped(("a", NOISE), compression=zipfile.ZIP_STORED)


def changed(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def encrypted():
    content = bytearray(zipped(("a", b"secret")))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def unknown_compression():
    content = bytearray(zipped(("a", b"x")))
    content[8] = content[content.index(b"PK\x01\x02") + 10] = 97
    return bytes(content)


def header_bomb(kind, compression="xz"):
    """A header that claims 6 GB before the first member, of which 30 MB are there."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 6 << 30
    content = info.tobuf(format=tarfile.GNU_FORMAT) + bytes(30_000_000)
    return {"xz": lzma.compress, "gz": gzip.compress, "": bytes}[compression](content)


def sparse():
    """The old form of GNU: a member of one piece, whose size is stated apart."""
    info = tarfile.TarInfo("big")
    header = bytearray(info.tobuf(format=tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[483:495] = b"%011o " % (1 << 30)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    return bytes(header) + bytes(10_240)


ARCHIVES = {
    "a bad CRC of a zip": ("x.zip", changed(PLAIN, 1_000)),
    "a bad CRC of a tar.gz": ("x.tar.gz", gzip.compress(tarred(("a", NOISE), mode="w"))[:-8] + b"\0" * 8),
    "a cut tar.gz": ("x.tar.gz", tarred(("a", NOISE))[:20_000]),
    "a cut tar": ("x.tar", tarred(("a", NOISE), mode="w")[:20_000]),
    "a cut tar.xz": ("x.tar.xz", tarred(("a", NOISE), mode="w:xz")[:20_000]),
    "an encrypted zip": ("x.zip", encrypted()),
    "an unknown compression": ("x.zip", unknown_compression()),
    "a file that is a folder": ("x.zip", zipped(("a", b"1"), ("a/b", b"2"))),
    "a folder that is a file": ("x.tar.gz", tarred(("a/b", b"1"), ("a", b"2"))),
    "a long name": ("x.tar.gz", tarred(("a" * 300, b"1"))),
    "a name that is a point": ("x.tar.gz", tarred((".", b"1"))),
    "a zip bomb": ("x.zip", zipped(("a", bytes(30_000_000)))),
    "a tar bomb": ("x.tar.xz", tarred(("a", bytes(30_000_000)), mode="w:xz")),
    "a header of attributes that is a bomb": ("x.tar.xz", header_bomb(tarfile.XHDTYPE)),
    "a long name that is a bomb": ("x.tar.gz", header_bomb(tarfile.GNUTYPE_LONGNAME, "gz")),
    "a link that is a bomb": ("x.tar", header_bomb(tarfile.GNUTYPE_LONGLINK, "")),
    "a sparse member of a terabyte": ("x.tar", sparse()),
    "too many members": ("x.tar.gz", tarred(*((f"{n}", b"") for n in range(1_001)))),
    "a link of a zip that is a folder": ("x.zip", zipped(("l", b"/etc"), ("l/passwd", b"x"))),
    "many small bombs": ("x.zip", zipped(*((str(n), bytes(5_000_000)) for n in range(6)))),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_a_damaged_or_odd_archive_is_one_message(case, tmp_path, monkeypatch):
    from nan_merge.assets import archives

    monkeypatch.setattr(archives, "SMALL", 20_000_000)
    monkeypatch.setattr(archives, "RATIO", 100)
    monkeypatch.setattr(archives, "MOST", 1_000)
    name, content = ARCHIVES[case]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=rf"asset 'toy': {name}.*cannot be unpacked"):
        extract("toy", {}, tmp_path / name, tmp_path / "out")


OUTSIDE = {
    "a path that climbs": ("../../escaped", "has a path outside"), "another one": ("a//../../escaped", "has a path outside"),
    "a line break": ("a\nb", "has control characters"), "an escape": ("\x1b[2J", "has control characters"),
    "a direction": ("a\u202eb", "has control characters"),
}  # fmt: skip
INSIDE = ["~/escaped", "C:\\escaped", "..\\..\\escaped", "*[a]?", "{wildcard}$(touch escaped)", "-rf", "CON", "asset.json/x"]


@pytest.mark.parametrize(
    "pack", [lambda name: ("x.zip", zipped((name, b"1"))), lambda name: ("x.tar", tarred((name, b"1"), mode="w"))]
)
@pytest.mark.parametrize("case", OUTSIDE)
def test_no_member_leaves_its_folder_or_writes_to_a_terminal(case, pack, tmp_path):
    name, message = OUTSIDE[case]
    file, content = pack(name)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        extract("toy", {}, tmp_path / file, tmp_path / "a/b/out")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / file]


@pytest.mark.parametrize("name", INSIDE)
def test_a_name_that_other_systems_read_otherwise_is_a_name(name, tmp_path):
    for file, content in (("x.zip", zipped((name, b"1"))), ("x.tar", tarred((name, b"1"), mode="w"))):
        (tmp_path / file).write_bytes(content)
        assert extract("toy", {}, tmp_path / file, tmp_path / "out") == [name]
        assert (tmp_path / "out" / name).read_bytes() == b"1"


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_of_a_tar_are_left_and_not_written_through(kind, tmp_path):
    buffer, target = io.BytesIO(), tmp_path / "mine"
    target.write_text("mine")
    with tarfile.open(fileobj=buffer, mode="w") as bundle:
        for name, type_, content in (("l", kind, b""), ("l", tarfile.REGTYPE, b"theirs"), ("k", kind, b"")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = type_, str(target), len(content)
            bundle.addfile(info, io.BytesIO(content))
    (tmp_path / "x.tar").write_bytes(buffer.getvalue())
    assert extract("toy", {}, tmp_path / "x.tar", tmp_path / "out") == ["l"]
    assert target.read_text() == "mine" and [file.name for file in (tmp_path / "out").iterdir()] == ["l"]
    assert (tmp_path / "out/l").is_file() and not (tmp_path / "out/l").is_symlink()


def of_folder(folder):
    return {"kind": "path", "path": str(folder), "licence": "none", "source": "a test"}


LINKS = ["/proc/self/environ", "secret", "../secret", "/etc/passwd"]


@pytest.mark.parametrize("target", LINKS)
def test_a_link_out_of_a_folder_is_neither_locked_nor_copied(target, tmp_path):
    folder, spec = tmp_path / "model", of_folder(tmp_path / "model")
    folder.mkdir()
    (tmp_path / "secret").write_text("hf_secret")
    (folder / "vocab.txt").write_text("a")
    lock = {"toy": fetch.pin("toy", spec)}
    (folder / "vocab.txt").unlink()
    (folder / "vocab.txt").symlink_to(tmp_path / target if target == "secret" else target)
    with pytest.raises(UserError, match=r"asset 'toy': .*vocab\.txt is a link to .*, out of the folder of `path:`"):
        fetch.pin("toy", spec)
    with pytest.raises(UserError, match=r"vocab\.txt is a link to "):
        fetch.fetch("toy", spec, lock, tmp_path / "out", tmp_path / "store")
    assert not (tmp_path / "out").exists()


def test_links_within_a_folder_and_into_the_cache_of_hugging_face_are_copied(tmp_path):
    folder, spec = tmp_path / "model", of_folder(tmp_path / "model")
    blob = tmp_path / "hub/models--o--n/blobs" / ("a" * 64)
    blob.parent.mkdir(parents=True)
    blob.write_text("blob")
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "b.txt").symlink_to("a.txt")
    (folder / "c.txt").symlink_to(blob)
    fetch.fetch("toy", spec, {"toy": fetch.pin("toy", spec)}, tmp_path / "out", tmp_path / "store")
    assert {file.name: file.read_text() for file in (tmp_path / "out").glob("*.txt")} == {
        "a.txt": "a",
        "b.txt": "a",
        "c.txt": "blob",
    }


def test_a_file_is_fetched_up_to_twice_its_stated_size(serve, tmp_path):
    def pieces():
        yield b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
        for _ in range(100):
            yield b"x" * 1_000

    spec = {"kind": "url", "url": serve(pieces), "bytes": 60_000}
    assert fetch.download("toy", spec, tmp_path).stat().st_size == 100_000
    (tmp_path / "file.bin").unlink()
    with pytest.raises(UserError, match=r"more than 80,000 bytes, .* state `bytes:` if it is larger"):
        fetch.download("toy", {**spec, "bytes": 40_000}, tmp_path)


def test_every_byte_of_an_archive_may_be_wrong(tmp_path):
    """Nothing but a UserError, or a member that is another one than before."""
    random_ = random.Random(1)
    for name, content in (("x.zip", zipped(("a", b"alpha" * 50))), ("x.tar.gz", tarred(("a", b"alpha" * 50)))):
        for number in range(300):
            wrong = bytearray(content)
            for _ in range(random_.randint(1, 3)):
                wrong[random_.randrange(len(wrong))] = random_.randrange(256)
            (tmp_path / name).write_bytes(bytes(wrong))
            with contextlib.suppress(UserError):
                extract("toy", {}, tmp_path / name, tmp_path / f"{name}{number}")
