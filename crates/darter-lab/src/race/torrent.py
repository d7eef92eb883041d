"""BitTorrent for cargo lab: makes a torrent, runs a tracker, or is a libtorrent peer.

torrent.py make CONTENT_DIR TRACKER_URL FILE
torrent.py track PORT
torrent.py peer TORRENT SAVE_DIR DONE_FILE GO_FILE ADDRESS default|tuned PEER...
"""

import hashlib
import http.server
import os
import sys
import time
import urllib.parse

PIECE = 256 * 1024
PORT = 6881


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"


def make(directory, tracker, target):
    files, pieces, rest = [], [], b""
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        files.append({"length": os.path.getsize(path), "path": [name]})
        with open(path, "rb") as file:
            while block := file.read(PIECE - len(rest)):
                rest += block
                if len(rest) == PIECE:
                    pieces.append(hashlib.sha1(rest).digest())
                    rest = b""
    if rest:
        pieces.append(hashlib.sha1(rest).digest())
    info = {"files": files, "name": "content", "piece length": PIECE, "pieces": b"".join(pieces), "private": 1}
    with open(target, "wb") as file:
        file.write(bencode({"announce": tracker, "info": info}))


class Tracker(http.server.BaseHTTPRequestHandler):
    peers = set()

    def do_GET(self):
        query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)
        own = (self.client_address[0], int(query["port"][0]))
        others = [peer for peer in self.peers if peer != own]
        self.peers.add(own)
        packed = b"".join(bytes(map(int, ip.split("."))) + port.to_bytes(2, "big") for ip, port in others)
        body = bencode({"interval": 2, "min interval": 1, "peers": packed})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def track(port):
    http.server.ThreadingHTTPServer(("0.0.0.0", int(port)), Tracker).serve_forever()


def peer(torrent, save, done, go, address, tuning, *peers):
    import libtorrent as lt

    settings = {
        "listen_interfaces": f"{address}:{PORT}",
        # Who is there is told by hand: discovery is not what is measured.
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "alert_mask": 0,
    }
    if tuning == "tuned":
        settings |= {
            "enable_incoming_utp": False,
            "enable_outgoing_utp": False,
            "smooth_connects": False,
            "connection_speed": 500,
            "unchoke_slots_limit": 8,
            "request_queue_time": 1,
            "max_out_request_queue": 1000,
            "max_allowed_in_request_queue": 2000,
            "send_buffer_watermark": 2 * 1024 * 1024,
            "send_buffer_low_watermark": 512 * 1024,
            "send_buffer_watermark_factor": 150,
            "unchoke_interval": 2,
            "optimistic_unchoke_interval": 4,
            "seed_choking_algorithm": 0,
            "close_redundant_connections": False,
            "allow_multiple_connections_per_ip": False,
            "piece_extent_affinity": False,
            "rate_limit_ip_overhead": False,
        }
    session = lt.session(settings)
    open(done + ".ready", "w").close()
    while go != "-" and not os.path.exists(go):
        time.sleep(0.005)
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(torrent)
    parameters.save_path = save
    handle = session.add_torrent(parameters)
    told = False
    while True:
        status = handle.status()
        if not told and status.state not in (lt.torrent_status.checking_files, lt.torrent_status.checking_resume_data):
            for other in peers:
                handle.connect_peer((other, PORT))
            told = True
        if status.is_seeding and told:
            break
        time.sleep(0.02)
    open(done, "w").close()
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    {"make": make, "track": track, "peer": peer}[sys.argv[1]](*sys.argv[2:])
