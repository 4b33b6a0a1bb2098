"""The bytes of a file in order, decompressed where they are gzip, without ever holding all of them.

Decompression runs on a second thread; checksums and whatever the reader does with the bytes overlap with it. zlib, CRC and
file reading all work outside Python's lock.
"""

import queue
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

from isal import isal_zlib  # the interface of zlib in half the time
from isal.igzip_lib import IsalError

from covidcxr.errors import InputError

_CHUNK = 1 << 17  # read at once
_PIECE = 1 << 20  # decompressed at once, at most
_WAITING = 8  # pieces that may wait for the reader
_EXTRA, _NAME, _COMMENT, _HEADER_CHECK = 4, 8, 16, 2  # flags of a gzip header (RFC 1952)


class ByteStream:
    """Bytes of a plain or gzip file, which is told by its first two bytes.

    Attributes:
        position: how many bytes were handed out.

    Raises (all methods):
        InputError: the file ends early, or the compressed data or their checksum are wrong.
    """

    def __init__(self, path: Path):
        self.path, self.position = path, 0
        self._file = open(path, "rb")
        self.compressed = self._file.read(2) == b"\x1f\x8b"
        self._file.seek(0)
        self._rest = memoryview(b"")
        self._crc, self._length = 0, 0
        self._items: queue.Queue = queue.Queue(_WAITING)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._produce, daemon=True)
        if self.compressed:
            self._thread.start()

    def __enter__(self) -> "ByteStream":
        return self

    def __exit__(self, *exception) -> None:
        self._stop.set()
        if self.compressed:
            self._thread.join()
        self._file.close()

    def fill(self, target: memoryview) -> bool:
        """Fill the target with the next bytes; False when the file ends before it is full."""
        have = 0
        while have < len(target):
            if self.compressed:
                self._rest = self._rest or memoryview(self._next())
                take = min(len(self._rest), len(target) - have)
                target[have : have + take] = self._rest[:take]
                self._rest = self._rest[take:]
            else:
                take = self._file.readinto(target[have:])
            if not take:
                return False
            have += take
            self.position += take
        return True

    def finish(self, most: int) -> None:
        """Walk to the end of compressed data, so that their last checksum is compared.

        Args:
            most: bytes that may still come; more are an error: a small file can hold any number of them.
        """
        while self.compressed and (piece := self._next()):
            most -= len(piece)
            if most < 0:
                raise InputError(f"{self.path}: the file holds far more than its header promises. Get the file again.")

    def _next(self) -> bytes:
        """The next piece, after comparing the checksum of each gzip member that ends before it; empty at the end."""
        while (item := self._items.get()) is not None:
            if isinstance(item, Exception):
                raise item
            if isinstance(item, bytes):
                self._crc, self._length = isal_zlib.crc32(item, self._crc), self._length + len(item)
                return item
            if item != (self._crc, self._length % 2**32):
                raise self._damaged("its checksum differs")
            self._crc, self._length = 0, 0
        self._items.put(None)  # whoever asks again hears the same
        return b""

    def _produce(self) -> None:
        """On the second thread: pieces, (checksum, length) after each member, an error if there is one, None."""
        try:
            for item in self._members():
                self._put(item)
        except IsalError as error:  # type: ignore[misc]  # a class, which its stub calls an instance
            self._put(self._damaged(str(error)))
        except (InputError, OSError) as error:
            self._put(error)
        self._put(None)

    def _put(self, item) -> None:
        while not self._stop.is_set():
            try:
                return self._items.put(item, timeout=0.05)
            except queue.Full:
                pass

    def _members(self) -> Iterator[bytes | tuple[int, int]]:
        while self._skip_header():
            member, tail = isal_zlib.decompressobj(wbits=-15), b""
            while not member.eof and not self._stop.is_set():
                tail = tail or self._read_some()
                if piece := member.decompress(tail, _PIECE):
                    yield piece
                tail = member.unconsumed_tail
            self._file.seek(-len(member.unused_data), 1)
            yield struct.unpack("<II", self._read(8))

    def _skip_header(self) -> bool:
        """Move behind the header of a gzip member; False where only zeros follow, with which files may be padded."""
        padding = self._file.read(1)
        while padding == b"\0":
            padding = self._file.read(1)
        if not padding:
            return False
        head = padding + self._read(9)
        if head[:3] != b"\x1f\x8b\x08":
            raise self._damaged("something that is not gzip follows the compressed data")
        flags = head[3]
        if flags & _EXTRA:
            self._read(struct.unpack("<H", self._read(2))[0])
        for text in (_NAME, _COMMENT):
            while flags & text and self._read(1) != b"\0":
                pass
        if flags & _HEADER_CHECK:
            self._read(2)
        return True

    def _read(self, count: int) -> bytes:
        found = self._file.read(count)
        if len(found) < count:
            raise self._cut()
        return found

    def _read_some(self) -> bytes:
        found = self._file.read(_CHUNK)
        if not found:
            raise self._cut()
        return found

    def _cut(self) -> InputError:
        return InputError(f"{self.path}: the file ends early, in the middle of its compressed data. Get the file again.")

    def _damaged(self, how: str) -> InputError:
        return InputError(f"{self.path}: the compressed data are damaged ({how}). Get the file again.")
