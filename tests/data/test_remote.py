"""What servers may do to us: no end, drop by drop or at full speed."""

import contextlib
import http.server
import threading
import time

import pytest

from ivid.data import remote
from ivid.data.fetch import fetched
from ivid.data.listing import items
from ivid.spec.errors import UserError

pytest.importorskip("aiohttp", reason="the extra cloud")


class Handler(http.server.BaseHTTPRequestHandler):
  def do_HEAD(self):
    self.send_response(200)
    self.end_headers()

  def do_GET(self):
    self.do_HEAD()
    drips = self.path.startswith("/drips")
    with contextlib.suppress(OSError):
      if self.path.startswith("/whole"):
        self.wfile.write(b"all of it")
        return
      while not self.server.ended.wait(0.05 if drips else 0.0):
        self.wfile.write(b"x" if drips else bytes(1 << 20))

  def log_message(self, *args):
    pass


@pytest.fixture(scope="module")
def server():
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
    found.ended = threading.Event()
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.ended.set()
    found.shutdown()


def test_a_whole_answer(server):
  assert list(fetched([f"{server}/whole.mp4"], timeout=30)) == [(b"all of it", "")]


def test_an_answer_that_drips_for_ever(server):
  """It ends at the time limit, and so does the thread that reads it."""
  threads, start = threading.active_count(), time.monotonic()
  with pytest.raises(TimeoutError, match="^did not arrive in 0.5 s$"):
    remote.read_bytes(f"{server}/drips.mp4", seconds=0.5)
  assert list(fetched([f"{server}/drips.mp4"] * 3, timeout=0.5)) == [(b"", "did not arrive in 0.5 s")] * 3
  assert time.monotonic() - start < 20
  reading = lambda: [thread for thread in threading.enumerate() if thread.name.endswith("(_answer)")]  # noqa: E731
  while (reading() or threading.active_count() > threads + 5) and time.monotonic() - start < 20:
    time.sleep(0.05)
  assert not reading()


def test_an_answer_without_end(server, monkeypatch):
  monkeypatch.setattr(remote, "MOST_BYTES", 3 << 20)
  monkeypatch.setattr("ivid.data.fetch.PAUSE", 0.0)
  assert list(fetched([f"{server}/endless.mp4"], timeout=30)) == [(b"", f"cannot be read: it has more than {3 << 20} bytes")]


def test_a_list_that_drips(server, monkeypatch):
  monkeypatch.setattr(remote, "SECONDS", 0.5)
  with pytest.raises(UserError, match="^--input=.*drips.csv cannot be read: "):
    list(items(f"{server}/drips.csv"))


def test_what_is_no_file_here(tmp_path, monkeypatch):
  """A pipe is not waited for; a large file is not taken into memory."""
  import os

  os.mkfifo(tmp_path / "pipe.mp4")
  (tmp_path / "large.mp4").write_bytes(b"12345")
  monkeypatch.setattr(remote, "MOST_BYTES", 4)
  asked = [str(tmp_path / name) for name in ("pipe.mp4", "large.mp4", "none.mp4")] + [str(tmp_path)]
  said = [reason for _, reason in fetched(asked, timeout=30)]
  assert said == [
    "cannot be read: it is a pipe",
    "cannot be read: it has more than 4 bytes",
    "no such file",
    "cannot be read: it is a folder",
  ]
