"""The client against answers made here: what it sends, when it repeats, how it goes on."""

import asyncio
import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models.catalog import kinds
from models.data import contents
from sextant_client import ApiError, AsyncClient, Client, download, flow, packing, stream, upload
from sextant_client.download import RANGE_MIN_BYTES, cut, digest
from tests.smallest import smallest

JOB = {"id": "job_1", "status": "queued", "kind": "k", "name": None}
Handler = Callable[[httpx.Request], httpx.Response]


class Both:
    """Calls one method on both clients, each with a handler of its own, and compares."""

    def __init__(self, make: Callable[[], Handler]) -> None:
        self.make = make

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            with Client("http://test", "key", httpx.MockTransport(self.make())) as client:
                first = self._outcome(lambda: getattr(client, name)(*args, **options))
            second = self._outcome(lambda: asyncio.run(self._awaited(name, args, options)))
            assert repr(first) == repr(second)
            if isinstance(first, Exception):
                raise first
            return first

        return call

    async def _awaited(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        async with AsyncClient("http://test", "key", httpx.MockTransport(self.make())) as client:
            found = getattr(client, name)(*args, **options)
            if hasattr(found, "__aiter__"):
                return [each async for each in found]
            return await found

    @staticmethod
    def _outcome(call: Callable[[], Any]) -> Any:
        try:
            found = call()
            return list(found) if hasattr(found, "__next__") else found
        except ApiError as error:
            return error


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No real waiting between repetitions."""
    for module in (download, flow, stream, upload):
        if hasattr(module, "PAUSES_S"):
            monkeypatch.setattr(module, "PAUSES_S", (0.0, 0.0, 0.0))
        if hasattr(module, "POLL_S"):
            monkeypatch.setattr(module, "POLL_S", 0.0)


def scripted(*answers: httpx.Response | Exception) -> tuple[Both, list[httpx.Request]]:
    """Clients that get these answers in turn, and the requests that both of them sent."""
    seen: list[httpx.Request] = []

    def make() -> Handler:
        script = iter(answers)

        def handle(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            answer = next(script)
            if isinstance(answer, Exception):
                raise answer
            return httpx.Response(
                answer.status_code, headers=answer.headers, content=answer.content
            )

        return handle

    return Both(make), seen


def problem(status: int, **fields: Any) -> httpx.Response:
    return httpx.Response(status, json={"status": status, **fields})


def test_submit_sends_the_spec_as_given_and_a_key():
    both, seen = scripted(httpx.Response(201, json=JOB))
    cls = kinds()["saliency.map"]
    sent = cls.model_validate(smallest("saliency.map"))
    assert both.submit(sent, name="n") == JOB
    body = json.loads(seen[0].content)
    assert body == {"spec": sent.model_dump(mode="json", exclude_unset=True), "name": "n"}
    assert cls.model_validate(body["spec"]) == sent
    assert seen[0].headers["authorization"] == "Bearer key"
    assert seen[0].headers["idempotency-key"]


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        problem(503, code="unavailable"),
        problem(409, code="idempotency_in_flight"),
    ],
)
def test_a_failed_post_is_repeated_with_its_key(failure):
    both, seen = scripted(failure, failure, httpx.Response(201, json=JOB))
    assert both.submit({"kind": "k"})["id"] == "job_1"
    assert len(seen) == 6
    for three in (seen[:3], seen[3:]):
        assert len({request.headers["idempotency-key"] for request in three}) == 1


def test_a_refusal_is_not_repeated_and_reads_well():
    wrong = {"pointer": "/spec/epochs", "code": "ge", "detail": "must be 1 to 10000, not 0"}
    both, seen = scripted(
        problem(422, code="validation_failed", title="Invalid values", errors=[wrong])
    )
    with pytest.raises(ApiError) as caught:
        both.submit({"kind": "k"})
    assert len(seen) == 2
    assert caught.value.code == "validation_failed"
    assert str(caught.value) == "Invalid values\n  /spec/epochs: must be 1 to 10000, not 0"


def test_an_answer_of_a_proxy_is_an_error_too():
    both, _ = scripted(httpx.Response(404, text="<html>"))
    with pytest.raises(ApiError, match="404 Not Found"):
        both.get("job_1")


def test_out_of_reach():
    both, seen = scripted(*[httpx.ConnectError("refused")] * 4)
    with pytest.raises(ApiError, match="cannot be reached: refused") as caught:
        both.get("job_1")
    assert caught.value.code == "unreachable"
    assert len(seen) == 8


def test_retry_after_is_obeyed():
    answer = httpx.Response(503, headers={"retry-after": "7"})
    assert flow._pause_s(answer, 0.2) == 7
    assert flow._pause_s(httpx.Response(503, headers={"retry-after": "9999"}), 0.2) == 30


def test_lists_go_over_all_pages():
    first = {"data": [{"id": 1}, {"id": 2}], "has_more": True, "next_cursor": "c"}
    last = {"data": [{"id": 3}], "has_more": False, "next_cursor": None}
    both, seen = scripted(httpx.Response(200, json=first), httpx.Response(200, json=last))
    assert both.jobs(status=["failed", "running"], kind=None) == [{"id": 1}, {"id": 2}, {"id": 3}]
    assert str(seen[1].url.query, "ascii") == "status=failed&status=running&cursor=c"


def test_a_limit_ends_a_list_and_sizes_its_pages():
    first = {"data": [{"id": k} for k in range(200)], "has_more": True, "next_cursor": "c"}
    last = {"data": [{"id": 200}], "has_more": True, "next_cursor": "d"}
    both, seen = scripted(httpx.Response(200, json=first), httpx.Response(200, json=last))
    assert len(both.jobs(201)) == 201
    assert [str(each.url.query, "ascii") for each in seen[:2]] == ["limit=200", "limit=1&cursor=c"]


def test_metrics_as_csv_are_text():
    both, _ = scripted(httpx.Response(200, text="name,step,value\nloss,1,0.5\n"))
    assert both.metrics("job_1", format="csv").startswith("name,step,value\n")


def test_address_and_key_of_the_environment(monkeypatch):
    """The key goes to the address that stands beside it, and to no other."""
    monkeypatch.delenv("SEXTANT_URL", raising=False)
    monkeypatch.setenv("SEXTANT_KEY", "secret")
    with pytest.raises(ValueError, match="set SEXTANT_URL"):
        Client()
    monkeypatch.setenv("SEXTANT_URL", "http://here")
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=JOB)

    for url in (None, "http://elsewhere"):
        with Client(url, transport=httpx.MockTransport(handle)) as client:
            client.get("job_1")
    here, elsewhere = seen
    assert (here.url.host, here.headers["authorization"]) == ("here", "Bearer secret")
    assert (elsewhere.url.host, elsewhere.headers.get("authorization")) == ("elsewhere", None)


def sse(*events: tuple[str, str, Any], end: bool = False, cut: bytes = b"") -> httpx.Response:
    text = "".join(f"id: {i}\nevent: {t}\ndata: {json.dumps(d)}\n\n" for i, t, d in events)
    text += "event: end\ndata: {}\n\n" if end else ""
    return httpx.Response(200, content=b": ping\n\n" + text.encode() + cut)


def test_a_stream_goes_on_where_it_broke_off():
    both, seen = scripted(
        sse(
            ("1", "status", {"status": "queued"}), ("2", "progress", {"step": 1}), cut=b"id: 3\nda"
        ),
        httpx.ReadError("reset"),
        httpx.Response(503),
        sse(("3", "progress", {"step": 2}), end=True),
    )
    found = both.events("job_1")
    assert [event["seq"] for event in found] == [1, 2, 3]
    assert found[2] == {"seq": 3, "type": "progress", "data": {"step": 2}}
    assert [request.headers.get("last-event-id") for request in seen[:4]] == [None, "2", "2", "2"]


def test_a_stream_that_never_brings_anything_is_given_up():
    both, seen = scripted(*[httpx.ReadError("reset")] * 4)
    with pytest.raises(ApiError, match="again and again"):
        both.events("job_1")
    assert len(seen) == 8


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_the_parser_does_not_care_how_bytes_are_cut(step):
    text = (
        b'id: 1\r\nevent: log\r\ndata: {"text":\r\ndata: "\xc3\xa9"}\r\n\r\n: x\n\nevent: end\n\n'
    )
    parser = stream.Parser("")
    found = [e for i in range(0, len(text), step) for e in parser.feed(text[i : i + step])]
    assert found == [{"seq": 1, "type": "log", "data": {"text": "é"}}]
    assert parser.ended


def test_wait_hears_events_then_asks_for_the_final_word():
    both, seen = scripted(
        sse(("1", "status", {"status": "running"}), end=True),
        httpx.Response(200, json=JOB | {"status": "running"}, headers={"etag": '"a"'}),
        httpx.Response(304),
        httpx.Response(200, json=JOB | {"status": "succeeded"}),
    )
    received: list[Any] = []
    jobs: list[Any] = []
    final = both.wait("job_1", on_event=received.append, on_progress=jobs.append)
    assert final["status"] == "succeeded"
    assert [event["type"] for event in received] == ["status", "status"]  # one from each client
    assert [job["status"] for job in jobs] == ["running", "succeeded"] * 2
    assert seen[2].headers["if-none-match"] == '"a"'


def test_wait_does_without_a_stream_when_there_are_too_many():
    both, _ = scripted(
        problem(429, code="too_many"), httpx.Response(200, json=JOB | {"status": "failed"})
    )
    assert both.wait("job_1", on_event=print)["status"] == "failed"


def test_wait_gives_up_in_time():
    both, _ = scripted(httpx.Response(200, json=JOB))
    with pytest.raises(ApiError, match="not final yet") as caught:
        both.wait("job_1", timeout_s=0)
    assert caught.value.code == "timeout"


# -- bytes ---------------------------------------------------------------------------------------


class Store:
    """Serves one artifact by ranges; breaks off after ``most`` bytes of an answer."""

    def __init__(
        self,
        content: bytes,
        most: int = 10**9,
        sha256: str | None = None,
        name: str = "a/weights.bin",
    ) -> None:
        self.content, self.most = content, most
        self.ranges: list[tuple[int, int]] = []
        self.artifact = {
            "id": "art_1",
            "name": name,
            "size_bytes": len(content),
            "sha256": sha256 or hashlib.sha256(content).hexdigest(),
        }

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/artifacts"):
            page = {"data": [self.artifact], "has_more": False, "next_cursor": None}
            return httpx.Response(200, json=page)
        start, end = map(int, request.headers["range"].removeprefix("bytes=").split("-"))
        self.ranges.append((start, end))
        return httpx.Response(206, stream=self._send(self.content[start : end + 1]))

    def _send(self, part: bytes) -> "Broken":
        return Broken(part[: self.most], whole=len(part) <= self.most)


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Bytes, and then the end of the connection."""

    def __init__(self, content: bytes, *, whole: bool) -> None:
        self.content, self.whole = content, whole

    def __iter__(self):
        yield self.content
        if not self.whole:
            raise httpx.ReadError("reset")

    async def __aiter__(self):
        for part in self:
            yield part


def get(store: Store, to: Path, *, asynchronous: bool, **options: Any) -> Path:
    async def later() -> Path:
        async with AsyncClient("http://test", None, httpx.MockTransport(store)) as client:
            return await client.download("job_1", "a/weights.bin", to, **options)

    if asynchronous:
        return asyncio.run(later())
    with Client("http://test", None, httpx.MockTransport(store)) as client:
        return client.download("job_1", "a/weights.bin", to, **options)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_big_file_comes_in_ranges_and_is_resumed(tmp_path, asynchronous):
    content = bytes(range(256)) * (RANGE_MIN_BYTES * 2 // 256) + b"end"
    store = Store(content, most=RANGE_MIN_BYTES // 2)
    reported: list[int] = []
    found = get(
        store,
        tmp_path,
        asynchronous=asynchronous,
        on_progress=lambda done, _: reported.append(done),
    )
    assert found == tmp_path / "a" / "weights.bin"
    assert found.read_bytes() == content
    assert {start for start, _ in store.ranges} >= {0, len(content) // 2}
    assert len(store.ranges) > 2
    assert max(reported) == len(content)
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", found]
    before = len(store.ranges)
    get(store, tmp_path, asynchronous=asynchronous)
    assert len(store.ranges) == before  # it was there already


def test_an_interrupted_download_goes_on(tmp_path):
    store = Store(b"0123456789")
    piece = cut(tmp_path / "w", 10, store.artifact["sha256"])[0]
    piece.path.write_bytes(b"0123")
    get(store, tmp_path / "w", asynchronous=False)
    assert store.ranges == [(4, 9)]
    assert (tmp_path / "w").read_bytes() == b"0123456789"


def test_wrong_bytes_are_thrown_away(tmp_path):
    store = Store(b"damaged", sha256="0" * 64)
    with pytest.raises(ApiError, match="SHA-256") as caught:
        get(store, tmp_path / "w", asynchronous=False)
    assert caught.value.code == "checksum"
    assert not list(tmp_path.iterdir())


def test_an_empty_file(tmp_path):
    assert get(Store(b""), tmp_path / "w", asynchronous=False).read_bytes() == b""


def test_files_of_one_name_in_two_folders_are_two_files(tmp_path):
    stores = [
        Store(content, name=f"{folder}/map.npy") for folder, content in (("a", b"1"), ("b", b"2"))
    ]
    for store in stores:
        with Client("http://test", None, httpx.MockTransport(store)) as client:
            client.download("job_1", store.artifact["name"], tmp_path)
    assert [(tmp_path / name / "map.npy").read_bytes() for name in "ab"] == [b"1", b"2"]


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path):
    store = Store(b"x", name="../map.npy")
    with (
        Client("http://test", None, httpx.MockTransport(store)) as client,
        pytest.raises(ValueError, match="leads out of"),
    ):
        client.download("job_1", "../map.npy", tmp_path)
    assert not store.ranges


def test_the_names_of_a_job_are_told_when_one_is_wrong(tmp_path):
    with (
        Client("http://test", None, httpx.MockTransport(Store(b"x"))) as client,
        pytest.raises(ApiError, match=r"no artifact 'b'; it has a/weights\.bin"),
    ):
        client.download("job_1", "b", tmp_path)


def make_parquet(folder: Path) -> list[Path]:
    names = ("cifar10-test.parquet", "train-0.parquet", "train-1.parquet")
    for index, name in enumerate(names):
        (folder / name).write_bytes(bytes([index]) * (3 << 19))
    return [folder / name for name in names]


def test_several_files_become_one_zip_that_is_the_same_every_time(tmp_path):
    paths = make_parquet(tmp_path)
    members = packing.members_of(paths)
    packed = b"".join(upload.zip_chunks(members))
    assert packed == b"".join(upload.zip_chunks(members))
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        assert archive.testzip() is None
        inside = {each.filename: each for each in archive.infolist()}
        assert archive.read("train-1.parquet") == paths[2].read_bytes()
    assert sorted(inside) == ["cifar10-test.parquet", "train-0.parquet", "train-1.parquet"]
    assert {each.compress_type for each in inside.values()} == {zipfile.ZIP_STORED}


def names_of(*paths: Path) -> dict[str, bool]:
    """Names in the zip, and whether their content is sent."""
    return {member.name: member.path is not None for member in packing.members_of(paths)}


def write(folder: Path, *names: str, content: bytes = b"x") -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_of_hidden_files_only_the_names_are_sent(tmp_path):
    hidden = (".DS_Store", "cat/Thumbs.db", ".git/a/b", "cat/._0.png", "__MACOSX/c", ".env")
    write(tmp_path, "cat/0.png", "dog/1.png", *hidden)
    assert names_of(tmp_path) == {
        "cat/0.png": True, "dog/1.png": True, ".DS_Store": False, "cat/Thumbs.db": False,
        ".git": False, "cat/._0.png": False, "__MACOSX": False, ".env": False,
    }  # fmt: skip
    members = packing.members_of([tmp_path])
    assert packing.format_of(members) == "image_folder"
    with zipfile.ZipFile(io.BytesIO(b"".join(upload.zip_chunks(members)))) as archive:
        assert archive.read("cat/0.png") == b"x"
        assert archive.read(".env") == b""


def test_client_and_service_hide_the_same():
    names = {*packing.SYSTEM_FILES, *contents.SYSTEM_FILES, ".a", "~$a.png", "a~$.png", "a"}
    assert {name for name in names if packing._is_hidden(name)} == set(
        filter(contents.hidden, names)
    )


def test_a_link_to_a_folder_above_repeats_no_file(tmp_path):
    write(tmp_path / "set", "cat/0.png", "dog/1.png")
    write(tmp_path / "elsewhere", "0.png")
    (tmp_path / "set" / "cat" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "fox").symlink_to(tmp_path / "elsewhere")
    assert sorted(names_of(tmp_path / "set")) == ["cat/0.png", "dog/1.png", "fox/0.png"]


def test_names_tell_files_of_different_folders_apart(tmp_path):
    write(tmp_path, "default/train/0.parquet", "default/test/0.parquet")
    expected = {"default/test/0.parquet": True, "default/train/0.parquet": True}
    assert names_of(tmp_path) == expected
    parts = [tmp_path / "default" / part for part in ("test", "train")]
    assert names_of(*parts) == {"test/0.parquet": True, "train/0.parquet": True}
    assert names_of(*(part / "0.parquet" for part in parts)) == names_of(*parts)
    with pytest.raises(ValueError, match="no file in"):
        names_of(write(tmp_path / "empty", ".DS_Store"))


def tiff(*shape: int, dtype=np.uint8, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros(shape, dtype)).save(stream, "TIFF", **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (tiff(4, 4, 3), "image_folder"),
        (tiff(4, 4), "image_folder"),
        (tiff(4, 4, dtype=np.float32), "elevation"),
        (tiff(4, 4, dtype=np.uint16), "elevation"),
        (tiff(4, 4, tiffinfo={33550: (1.0, 1.0, 0.0)}), "elevation"),
        (b"MM\0*\0\0\0\x08\0", "elevation"),
        (b"", "elevation"),
    ],
)
def test_a_tiff_alone_is_a_photograph_or_an_elevation(content, expected, tmp_path):
    write(tmp_path, "x.tif", content=content)
    assert packing.format_of(packing.members_of([tmp_path / "x.tif"])) == expected


def test_a_zip_is_looked_into(tmp_path):
    for names, expected in [
        (["a/1.png", "__MACOSX/a/._1.png"], "image_folder"),
        (["train/0.parquet", ".DS_Store"], "parquet"),
        (["train-images-idx3-ubyte", "train-labels-idx1-ubyte"], "idx"),
    ]:
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            for name in names:
                archive.writestr(name, b"x")
        assert packing.format_of(packing.members_of([tmp_path / "x.zip"])) == expected


def test_upload_sends_size_and_digest_and_waits_for_the_check(tmp_path):
    both, seen = scripted(
        httpx.Response(201, json={"id": "ds_1"}),
        httpx.ReadError("reset"),
        httpx.Response(200),
        httpx.Response(202),
        httpx.Response(200, json={"name": "d", "status": "checking"}),
        httpx.Response(200, json={"name": "d", "status": "ready"}),
    )
    reported: list[tuple[int, int]] = []
    paths = make_parquet(tmp_path)
    ready = both.upload("d", paths, on_progress=lambda *x: reported.append(x))
    assert ready["status"] == "ready"
    assert json.loads(seen[0].content) == {"name": "d", "format": "parquet", "options": {}}
    put = seen[1]
    body = b"".join(upload.zip_chunks(packing.members_of(paths)))
    assert put.headers["content-length"] == str(len(body))
    assert "transfer-encoding" not in put.headers
    expected = hashlib.sha256(body).digest()
    assert put.headers["repr-digest"] == f"sha-256=:{base64.b64encode(expected).decode()}:"
    assert reported[-1] == (len(body), len(body))


def test_a_refused_upload_says_why(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"x")
    both, _ = scripted(
        httpx.Response(201, json={"id": "ds_1"}),
        httpx.Response(200),
        httpx.Response(202),
        httpx.Response(
            200,
            json={
                "name": "d",
                "status": "failed",
                "error": {"message": "no zip file", "hint": "pack it"},
            },
        ),
    )
    with pytest.raises(ApiError, match=r"d was refused: no zip file \(pack it\)"):
        both.upload("d", [tmp_path / "x.npz"])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.npz"], "npz"),
        (["a.PNG", "b.jpg"], "image_folder"),
        (["a.parquet", "b.parquet"], "parquet"),
        (["dem.tif"], "elevation"),
        (["radar.nc"], "netcdf"),
        (["boxes.json"], "regions"),
        (["boxes.json", "a.png"], "image_folder"),
        (["a/1.tif", "b/2.TIFF"], "image_folder"),
        (["a.webp", "b.jpg", "metadata.csv", "c.tif"], "image_folder"),
        (["cat.jpg"], "image_folder"),
        (["photos.tar"], "image_folder"),
        (["train/0000.parquet", "README.md", "dataset_info.json"], "parquet"),
        (["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"], "idx"),
        (["raw/train-images.idx3-ubyte", "raw/train-labels.idx1-ubyte"], "idx"),
    ],
)
def test_formats_by_ending(names, expected):
    assert packing.guess_format([Path(name) for name in names]) == expected


@pytest.mark.parametrize(
    "names",
    [
        ["a.pkl"],
        ["a.npz", "b.tif"],
        ["a.parquet", "b.png"],
        ["a.npz", "b.npz"],
        ["a.zip", "b.pt2"],
        ["README.md"],
    ],
)
def test_no_format_by_ending(names):
    with pytest.raises(ValueError, match="cannot tell the format"):
        packing.guess_format([Path(name) for name in names])


def test_digest(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert digest(tmp_path / "x") == hashlib.sha256(b"abc").hexdigest()
