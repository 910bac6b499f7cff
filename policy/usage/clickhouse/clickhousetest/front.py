"""ClickHouse's HTTP interface, as far as Tollgate uses it, around the engine itself (PyPI's chdb).

front.py FOLDER: prints its port, then serves until its standard input ends. The user is tollgate, the
password secret. One request is served at a time.
"""
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

from chdb import session

engine = session.Session(sys.argv[1])
lock = threading.Lock()
NAME = re.compile(r"\w+")


def quoted(text):
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if (self.headers.get("X-ClickHouse-User"), self.headers.get("X-ClickHouse-Key")) != ("tollgate", "secret"):
            return self.answer(403, b"Code: 516. DB::Exception: Authentication failed", "516")
        args = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        values = {name[6:]: value for name, value in args.items() if name.startswith("param_")}
        options = {name: value for name, value in args.items()
                   if not name.startswith("param_") and name not in ("query", "database", "wait_end_of_query")}
        options.setdefault("insert_deduplication_token", "")
        text = args.get("query", "").encode()
        if body:
            text += b"\n" + body
        try:
            with lock:
                engine.query("USE " + args.get("database", "default"))
                for name, value in options.items():
                    if not NAME.fullmatch(name):
                        raise ValueError("Code: 115. DB::Exception: Unknown setting")
                    engine.query("SET " + name + " = " + quoted(value))
                reply = engine.query(text.decode(), "TabSeparated", **({"params": values} if values else {}))
                data = reply.bytes()
        except Exception as e:  # the engine's own words, as a server repeats them
            found = re.match(r"Code: (\d+)", str(e))
            return self.answer(404 if found and found[1] in ("60", "81") else 500, str(e).encode(), found[1] if found else "1002")
        return self.answer(200, data, "")

    def answer(self, status, data, code):
        self.send_response(status)
        if code:
            self.send_header("X-ClickHouse-Exception-Code", code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


server = ThreadingHTTPServer(("127.0.0.1", 0), Front)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.read()
os._exit(0)
