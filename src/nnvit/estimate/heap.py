"""What a process holds of a sequence of allocations: glibc's malloc, played through without memory.

Of the memory that a step on a CPU takes, a good part is holes. malloc fills the smallest hole that fits; what is freed in the
middle of the heap stays resident; only blocks of more than the largest that was ever handed back, up to 32 MiB, lie outside
the heap and are given back at once (mallopt(3), M_MMAP_THRESHOLD). torch asks for blocks on 64-byte boundaries, for which
malloc cuts a slightly larger hole; the cuttings, of 32 to 80 bytes, are kept for small objects (the thread's cache, seven of
each size), and where one lives on, the hole is too small for a block of the same size and another one is opened.

Followed here: best fit, joining of neighbours, the moving threshold, trimming of the top, alignment, the cache of cuttings, and
for every tensor one small object of each of these sizes, which lives as long (shapes, strides, handles, nodes of the graph).
That last number is the only assumption; the rest is malloc/malloc.c of glibc 2.36. Under another allocator (musl, jemalloc or
tcmalloc by LD_PRELOAD, macOS, Windows) the holes are others, and what is said here of them is wrong.
"""

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterable

KIB, MIB, PAGE = 2**10, 2**20, 4096
HEADER, LEAST, ALIGNMENT = 16, 32, 64
"""Bytes: of a chunk's header and of the smallest chunk (glibc, 64 bit); of torch's alignment (c10/core/alignment.h)."""
FIRST_THRESHOLD, LAST_THRESHOLD, TOP_PAD = 128 * KIB, 32 * MIB, 128 * KIB
CUTTINGS = (32, 48, 64, 80)
"""Bytes that alignment can leave over, before or behind a block."""
CACHED = 7


class Heap:
    """resident: bytes of pages that are held; peak: the most there were."""

    def __init__(self) -> None:
        self.threshold = self.trim_threshold = FIRST_THRESHOLD
        self.mapped: dict[Hashable, int] = {}
        self.used: dict[Hashable, tuple[int, int]] = {}
        self.holes: list[tuple[int, int]] = []  # (size, start), sorted
        self.starts: dict[int, int] = {}  # of holes: start -> size
        self.ends: dict[int, int] = {}  # of holes: end -> start
        self.cache: dict[int, list[int]] = {size: [] for size in CUTTINGS}
        self.top = self.end = 0  # where the unused rest of the heap begins and ends
        self.touched = 0  # up to where it was written since it was last given back
        self.outside = self.peak = 0

    @property
    def resident(self) -> int:
        """Bytes: of the heap as far as it was ever written, and of what lies outside it."""
        return self.touched + self.outside

    def tensor(self, name: Hashable, size: int) -> None:
        """A tensor's block of `size` bytes and its small objects, under a name of its own."""
        self.allocate(name, size)
        for cutting in CUTTINGS:
            cached = self.cache[cutting]
            self.used[name, cutting] = (cached.pop(), cutting) if cached else self._cut(cutting)

    def release(self, name: Hashable) -> None:
        """The tensor of that name."""
        self.free(name)
        for cutting in CUTTINGS:
            self._keep(*self.used.pop((name, cutting)))

    def allocate(self, name: Hashable, size: int) -> None:
        """An aligned block."""
        wanted = _chunk(size) + ALIGNMENT + LEAST
        if not self._fits(wanted) and wanted >= self.threshold:
            self.mapped[name] = _rounded(wanted + HEADER, PAGE)
            self.outside += self.mapped[name]
        else:
            self._place(name, *self._cut(wanted), size)
        self.peak = max(self.peak, self.resident)

    def free(self, name: Hashable) -> None:
        """The block of that name."""
        if name in self.mapped:
            size = self.mapped.pop(name)
            self.outside -= size
            if self.threshold < size <= LAST_THRESHOLD:
                self.threshold, self.trim_threshold = size, 2 * size
            return
        start, size = self.used.pop(name)
        self._give(start, size)
        if size >= 64 * KIB and self.end - self.top > self.trim_threshold:
            self.end = _rounded(self.top + TOP_PAD, PAGE)
            self.touched = min(self.touched, self.end)

    def _fits(self, wanted: int) -> bool:
        return bool(self.holes and self.holes[-1][0] >= wanted) or self.end - self.top >= wanted + LEAST

    def _cut(self, wanted: int) -> tuple[int, int]:
        """(start, length) of at least `wanted` bytes: of the smallest hole that has them, else of the top, which grows."""
        at = bisect_left(self.holes, (wanted, -1))
        if at < len(self.holes):
            length, start = self.holes[at]
            self._take(start, length)
            if length - wanted < LEAST:
                return start, length
            self._give(start + wanted, length - wanted)
            return start, wanted
        if self.end - self.top < wanted + LEAST:
            self.end = _rounded(self.top + wanted + LEAST + TOP_PAD, PAGE)
        start, self.top = self.top, self.top + wanted
        self.touched = max(self.touched, self.top)
        return start, wanted

    def _place(self, name: Hashable, start: int, length: int, size: int) -> None:
        """Aligned within (start, length); the cuttings before and behind are kept."""
        begin = start
        if (start + HEADER) % ALIGNMENT:
            begin = _rounded(start + HEADER + LEAST, ALIGNMENT) - HEADER
            self._keep(start, begin - start)
        chunk = _chunk(size)
        rest = start + length - (begin + chunk)
        if rest < LEAST:
            chunk, rest = chunk + rest, 0
        self.used[name] = begin, chunk
        if rest:
            self._keep(begin + chunk, rest)

    def _keep(self, start: int, size: int) -> None:
        """A small chunk stays with the thread, as it is, where there is room."""
        cached = self.cache.get(size)
        if cached is not None and len(cached) < CACHED:
            cached.append(start)
        else:
            self._give(start, size)

    def _give(self, start: int, size: int) -> None:
        """Back to the holes, joined with those beside it, or to the top."""
        if start in self.ends:
            before = self.ends[start]
            self._take(before, start - before)
            start, size = before, size + start - before
        if start + size in self.starts:
            behind = self.starts[start + size]
            self._take(start + size, behind)
            size += behind
        if start + size == self.top:
            self.top = start
            return
        insort(self.holes, (size, start))
        self.starts[start], self.ends[start + size] = size, start

    def _take(self, start: int, size: int) -> None:
        del self.holes[bisect_left(self.holes, (size, start))]
        del self.starts[start], self.ends[start + size]


def peak(events: Iterable[tuple[Hashable, int]]) -> int:
    """Most bytes resident in (name, size), a tensor that comes, and (name, -1), which goes, one after the other."""
    heap = Heap()
    for name, size in events:
        if size < 0:
            heap.release(name)
        else:
            heap.tensor(name, size)
    return heap.peak


def _chunk(size: int) -> int:
    """What malloc takes for `size` bytes: a word more, in steps of 16."""
    return max(LEAST, _rounded(size + 8, HEADER))


def _rounded(size: int, step: int) -> int:
    return -(-size // step) * step
