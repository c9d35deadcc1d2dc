"""Downloads from servers on loopback that cut, lie, ignore Range, or are down."""

import dataclasses
import functools
import hashlib
import http.server
import io
import pickle
import re
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from jaxdet import console as console_lib
from jaxdet.errors import InputError
from jaxdet.zoo import download as download_lib
from jaxdet.zoo.download import download, fetch
from jaxdet.zoo.published import DETECTRON2, MMDET2, PRETRAINED, ROWS, TORCHVISION

CONTENT = bytes(range(256)) * 4096  # 1 MiB
NAME = f"weights-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


class Server:
    """Serves CONTENT, well or badly; counts the requests and their Range headers."""

    def __init__(self, content=CONTENT, ranges=True, cut=None, status=None, lengths=True):
        self.content, self.ranges, self.cut, self.status = content, ranges, cut, status
        self.lengths = lengths
        self.requests = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = False
        self.url = f"http://127.0.0.1:{self.http.server_port}/models/{NAME}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    def answer(self, handler):
        asked = handler.headers.get("Range")
        self.requests.append(asked)
        if self.status:
            handler.send_error(self.status)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.ranges else 0
        if start >= len(self.content):
            handler.send_error(416)
            return
        body = self.content[start:]
        handler.send_response(206 if asked and self.ranges else 200)
        if self.lengths:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        # A cut sends less than it promised and hangs up.
        handler.wfile.write(body[: self.cut])
        handler.close_connection = True

    def stop(self):
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(**fields):
        servers.append(Server(**fields))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def down(monkeypatch):
    """The address of a server that is not running."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"http://127.0.0.1:{port}/models/{NAME}"


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "cache" / NAME


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_downloads_once_and_keeps(serve, target, capsys):
    server = serve()
    assert download([server.url], target) == target
    assert target.read_bytes() == CONTENT
    assert capsys.readouterr().err == f"downloading {NAME}\n"
    assert download([server.url], target) == target
    assert server.requests == [None]
    assert files(target.parent) == {NAME}


def test_a_bar_on_a_terminal(serve, target, monkeypatch):
    screen = io.StringIO()
    terminal = functools.partial(Console, file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(console_lib, "Console", lambda stderr: terminal())
    download([serve().url], target)
    assert NAME in screen.getvalue()
    assert "1.0/1.0 MB" in screen.getvalue()


def test_cuts_are_continued(serve, target):
    server = serve(cut=300_000)
    download([server.url], target)
    assert target.read_bytes() == CONTENT
    assert server.requests == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_server_without_range_begins_again(serve, target):
    target.parent.mkdir()
    target.with_name(f"{NAME}.part").write_bytes(b"x" * 500)
    server = serve(ranges=False)
    download([server.url], target)
    assert target.read_bytes() == CONTENT
    assert server.requests == ["bytes=500-"]


def test_a_server_without_range_that_cuts_is_given_up_for_the_mirror(serve, target):
    server, mirror = serve(ranges=False, cut=1000), serve()
    download([server.url, mirror.url], target)
    assert target.read_bytes() == CONTENT
    assert len(server.requests) == 2
    assert mirror.requests == ["bytes=1000-"]


def test_a_second_call_goes_on_where_the_first_was_cut(serve, target, monkeypatch):
    monkeypatch.setattr(download_lib, "ATTEMPTS", 1)
    server = serve(cut=700_000)
    with pytest.raises(InputError, match="cut again"):
        download([server.url], target)
    assert files(target.parent) == {f"{NAME}.part"}
    download([server.url], target)
    assert server.requests == [None, "bytes=700000-"]
    assert target.read_bytes() == CONTENT


def test_without_content_length(serve, target):
    download([serve(lengths=False).url], target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"x" * 500, CONTENT + b"x", CONTENT[:-1] + b"x"])
def test_a_wrong_part_is_thrown_away(serve, target, left):
    target.parent.mkdir()
    target.with_name(f"{NAME}.part").write_bytes(left)
    server = serve()
    download([server.url], target)
    assert target.read_bytes() == CONTENT
    assert server.requests == [f"bytes={len(left)}-", None]


def test_a_whole_part_needs_no_bytes(serve, target):
    target.parent.mkdir()
    target.with_name(f"{NAME}.part").write_bytes(CONTENT)
    download([serve().url], target)
    assert target.read_bytes() == CONTENT


def test_the_mirror_serves_what_the_main_site_does_not(serve, down, target):
    wrong = serve(content=CONTENT[::-1])
    gone = serve(status=404)
    mirror = serve()
    download([down, gone.url, wrong.url, mirror.url], target)
    assert target.read_bytes() == CONTENT
    assert (len(gone.requests), len(wrong.requests), len(mirror.requests)) == (1, 1, 1)


def test_when_all_fail_one_line_says_which_file_to_put_where(serve, down, target):
    wrong = serve(content=CONTENT[::-1])
    with pytest.raises(InputError) as caught:
        download([down, wrong.url], target)
    line = str(caught.value)
    assert "\n" not in line
    assert "Connection refused" in line
    assert "wrong bytes" in line
    assert line.endswith(f"download {down} elsewhere and put it at {target}")
    assert files(target.parent) == set()


def test_a_file_with_wrong_bytes_is_replaced_or_removed(serve, down, target):
    target.parent.mkdir()
    target.write_bytes(b"not it")
    with pytest.raises(InputError, match="had wrong bytes and was removed"):
        download([down], target)
    assert not target.exists()
    target.write_bytes(b"not it")
    download([serve().url], target)
    assert target.read_bytes() == CONTENT


def test_a_silent_server_times_out(monkeypatch, target):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download_lib, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/{NAME}"
        with pytest.raises(InputError, match="timed out"):
            download([url], target)


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="JAXDET_CACHE"):
        download(["http://127.0.0.1:1/x"], tmp_path / "file" / NAME)


def test_whoever_comes_second_waits(serve, target):
    server = serve()
    threads = [threading.Thread(target=download, args=([server.url], target)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_bytes() == CONTENT
    assert server.requests == [None]


def test_fetch_by_name(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXDET_CACHE", str(tmp_path))
    server = serve()
    site = server.url.rpartition("/")[0]
    monkeypatch.setitem(PRETRAINED, "torchvision://tiny", ((site,), NAME))
    assert fetch("torchvision://tiny") == tmp_path / "checkpoints" / NAME
    # Once there, it needs no server; so does a file that somebody put there.
    server.status = 500
    assert fetch("torchvision://tiny").read_bytes() == CONTENT


def test_main_site_before_mirror_for_every_published_file(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setenv("JAXDET_CACHE", str(tmp_path))
    monkeypatch.setattr(
        download_lib, "download", lambda urls, path, _: asked.append((urls, path)) or path
    )
    for row in ROWS:
        if row.file:
            fetch(f"zoo://{row.config}")
            below = f"mmdetection/models/{row.file}"
            assert asked.pop() == (
                [
                    f"https://s3.ap-northeast-2.amazonaws.com/open-mmlab/{below}",
                    f"https://open-mmlab.oss-cn-beijing.aliyuncs.com/{below}",
                ],
                tmp_path / "checkpoints" / row.file,
            )
    for row, url in (
        (
            MMDET2[1],
            "https://download.openmmlab.com/mmdetection/v2.0/rpn/rpn_r50_fpn_1x_coco/"
            "rpn_r50_fpn_1x_coco_20200218-5525fa2e.pth",
        ),
        (
            DETECTRON2[1],
            "https://dl.fbaipublicfiles.com/detectron2/COCO-Detection/rpn_R_50_FPN_1x/137258492/"
            "model_final_02ce48.pkl",
        ),
        (
            TORCHVISION[0],
            "https://download.pytorch.org/models/fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
        ),
    ):
        fetch(row.zoo_name)
        assert asked.pop() == ([url], tmp_path / "checkpoints" / url.rpartition("/")[2])
    for name in PRETRAINED:
        fetch(name)
        urls, path = asked.pop()
        assert all(url.endswith(f"/{path.name}") for url in urls)
        assert re.search(r"-[0-9a-f]{8}\.pth$|^(R-50|R-101|X-101-32x8d)\.pkl$", path.name)
        mirrored = name.startswith("open-mmlab://res")
        assert len(urls) == (3 if mirrored else 1)
        assert not mirrored or urls[0].startswith("https://download.openmmlab.com/pretrain/third")


def test_detectron2s_files_are_told_by_md5(serve, tmp_path):
    target = tmp_path / f"model_final_{hashlib.md5(CONTENT).hexdigest()[:6]}.pkl"
    wrong = serve(content=CONTENT[::-1])
    download([wrong.url, serve().url], target)
    assert target.read_bytes() == CONTENT
    assert len(wrong.requests) == 1


def test_a_backbone_without_a_hash_is_looked_into(serve, tmp_path, caplog):
    wrong, right = pickle.dumps([1]), pickle.dumps({"blobs": {"conv1_w": np.zeros(3)}}, 2)
    servers = [serve(content=x) for x in (CONTENT, wrong, right)]
    download([server.url for server in servers], tmp_path / "R-50.pkl")
    assert (tmp_path / "R-50.pkl").read_bytes() == right
    assert "R-50.pkl: no hash of it is published" in caplog.text


def test_in_place_of_a_file_of_2018(monkeypatch, tmp_path, down):
    monkeypatch.setenv("JAXDET_CACHE", str(tmp_path))
    rows = [dataclasses.replace(row, sites=(down,)) for row in (ROWS[0], ROWS[5])]
    monkeypatch.setattr(download_lib, "PUBLISHED", [*rows, *MMDET2])
    with pytest.raises(InputError, match="Connection refused") as caught:
        fetch("zoo://rpn_r50_fpn_1x")
    assert str(caught.value).endswith(
        "; or take zoo://mmdet2/rpn_r50_fpn_1x_coco with --config=mmdet2_rpn_r50_fpn_1x, "
        "its like of mmdet 2"
    )
    with pytest.raises(InputError, match="Connection refused") as caught:
        fetch("zoo://rpn_r50_caffe_c4_1x")
    assert "mmdet" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zoo://rpn_r50_caffe_fpn_1x", "nothing of this name is published"),
        ("zoo://rpn_r50_caffe_fpn_1x", "; or take zoo://mmdet2/rpn_r50_caffe_fpn_1x_coco with --c"),
        ("zoo://rpn_r51", "known are zoo://rpn_r50_caffe_c4_1x, zoo://.*"),
        ("zoo://detectron2/x", "known are zoo://detectron2/rpn_R_50_C4_1x, zoo://detectron2/rpn_"),
        ("torchvision://r", "known are torchvision://resnet18, "),
        ("https://example.org/x.pth", "known are zoo://.* torchvision://resnet18"),
    ],
)
def test_names_that_are_not_published(name, message):
    with pytest.raises(InputError, match=message) as caught:
        fetch(name)
    assert str(caught.value).startswith(f"{name}: ")
