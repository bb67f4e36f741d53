"""A TCP proxy on loopback that can lose a request or a reply at a chosen word: what a dying network does to EXEC."""

import contextlib
import socket
import threading


class Proxy:
    """Forwards to 127.0.0.1:`port`. `lose_reply_to(word)`: the next request with `word` arrives, its reply does not;
    `lose_request(word)`: it does not even arrive. Either way the connection is closed, once. `hold()`: what is sent
    from now on arrives after `release()`, be its sender still there or not. `bytes_per_s` slows requests down."""

    def __init__(self, port):
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._word, self._deliver = None, True
        self.lost = 0
        self.bytes_per_s = None
        self._flows = threading.Event()
        self._flows.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_reply_to(self, word):
        self._word, self._deliver = word, True

    def lose_request(self, word):
        self._word, self._deliver = word, False

    def hold(self):
        self._flows.clear()

    def release(self):
        self._flows.set()

    def close(self):
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                mute = threading.Event()
                threading.Thread(target=self._up, args=(near, far, mute), daemon=True).start()
                threading.Thread(target=self._down, args=(near, far, mute), daemon=True).start()

    def _up(self, near, far, mute):
        with contextlib.suppress(OSError):
            while data := near.recv(1 << 20 if self.bytes_per_s is None else 1 << 16):
                self._flows.wait()
                if self.bytes_per_s is not None:
                    threading.Event().wait(len(data) / self.bytes_per_s)
                word = self._word
                if word is not None and word in data:
                    self._word = None
                    self.lost += 1
                    if not self._deliver:
                        break
                    mute.set()
                    far.sendall(data)
                    threading.Event().wait(0.3)  # the server has executed it by now; nobody hears of it
                    break
                far.sendall(data)
        near.close()
        far.close()

    def _down(self, near, far, mute):
        with contextlib.suppress(OSError):
            while data := far.recv(1 << 20):
                if mute.is_set():
                    break
                near.sendall(data)
