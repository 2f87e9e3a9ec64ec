"""A server of files on the loopback address that resumes, and fails as it is told to."""

import contextlib
import http.server
import threading


class FileServer:
    """Serves ``files`` by name; ``requests`` are the names and ranges that were asked for.

    Attributes:
        breaks_after: Bytes after which the next transfer breaks off; None for none.
        announced: Content-Length that is told in place of the true one; None for the true one.
        ranges: Whether it resumes.
        tag: Validator of the files.
    """

    def __init__(self):
        self.files, self.requests = {}, []
        self.breaks_after, self.announced, self.ranges, self.tag = None, None, True, '"1"'


def _handler(server):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name, asked = self.path.rpartition("/")[2], self.headers.get("Range")
            server.requests.append((name, asked))
            if name == "moved":
                self.send_response(302)
                self.send_header("Location", "/file.bin")
                self.end_headers()
            elif name not in server.files:
                self.send_error(404)
            else:
                self.send_content(server.files[name], asked)

        def send_content(self, content, asked):
            fresh = self.headers.get("If-Range", server.tag) == server.tag
            begun = int(asked[6:-1]) if asked and server.ranges and fresh else 0
            if asked and begun >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if begun else 200)
            if begun:
                self.send_header("Content-Range", f"bytes {begun}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(server.announced or len(content) - begun))
            self.send_header("ETag", server.tag)
            self.end_headers()
            end, server.breaks_after = server.breaks_after, None
            self.wfile.write(content[begun : None if end is None else begun + end])

        def log_message(self, *_):
            pass

    return Handler


@contextlib.contextmanager
def serve():
    """The server, and its address without a slash at the end."""
    server = FileServer()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(server)) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server, f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()
