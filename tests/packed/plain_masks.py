"""The walk over a mask and its models, slow and obvious, from docs/formats.md alone."""

from dataclasses import dataclass

from plain_coder import Counter, Decoder, Mixer, Refinement, clip, halves, squash, stretch, thirds

PICTURE = [
    *((0, -1, 4), (-1, 0, 4), (-1, -1, 3), (-1, 1, 3), (0, -2, 2), (-2, 0, 2)),
    *((0, -3, 1), (-1, -2, 1), (-1, 2, 1), (-2, -1, 1), (-2, 1, 1), (-3, 0, 1)),
]
KERNEL = [
    *((0, -1, 4), (-1, 0, 4), (-1, -1, 3), (-1, 1, 3), (0, -2, 3), (-2, 0, 3)),
    *((-1, -2, 2), (-1, 2, 2), (-2, -1, 2), (-2, 1, 2), (-2, -2, 2), (-2, 2, 2)),
]


@dataclass
class Shape:
    """What the models know before the first bit. `sums`: kept weights per row of the producer, or none."""

    rows: int
    columns: int
    kept: int
    picture: int
    kernel: tuple[int, int]  # high, wide
    sums: list[int]

    @property
    def d(self) -> int:
        n = self.rows * self.columns
        return clip((self.kept * 65536 + n // 2) // n, 16, 65000)

    @property
    def kind(self) -> str:
        return {0: "line", 1: "kernels"}.get(self.picture, "picture")

    def window(self, c: int) -> list[tuple[int, int] | None]:
        """(column, weight) of each place, None where it is absent."""
        if self.kind == "line":
            return [(c - i, 5 - i) if c >= i else None for i in (1, 2, 3, 4)]
        high, wide = (self.columns, self.picture) if self.kind == "picture" else self.kernel
        y, x = divmod(c if self.kind == "picture" else c % (high * wide), wide)
        places: list[tuple[int, int] | None] = [
            (c + up * wide + side, weight) if y + up >= 0 and 0 <= x + side < wide else None
            for up, side, weight in (PICTURE if self.kind == "picture" else KERNEL)
        ]
        if self.kind == "kernels":
            places.append((c - high * wide, 1) if c >= high * wide else None)
        return places

    def fed(self, c: int) -> tuple[int, int]:
        """(factor, bucket) of the producer's row that feeds this column."""
        m, total = len(self.sums), sum(self.sums)
        s = self.sums[c // (self.columns // m)]
        factor = ((7 * s * m + total) * 4096) // (8 * total)
        return factor, thirds(16 * ((s * m * 4096) // total + 1))


class Static:
    def __init__(self, shape: Shape) -> None:
        self.ones, self.places = shape.kept, shape.rows * shape.columns

    def row(self, rows: list[list[int]]) -> None:
        pass

    def p(self, c: int, row: list[int]) -> int:
        return clip((self.ones * 65536 + self.places // 2) // self.places, 1, 65535)

    def learn(self, bit: int, free: bool) -> None:
        self.places -= 1
        self.ones = max(0, self.ones - bit)

    def sign(self, c: int, signs: list[int], above: list[int]) -> int:
        return 32768

    def learn_sign(self, bit: int) -> None:
        pass


class Mixed:
    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        line, start = shape.kind == "line", 64 * shape.d
        self.windows = [self.shape.window(c) for c in range(self.shape.columns)]
        self.feeds = [self.shape.fed(c) for c in range(self.shape.columns)] if self.shape.sums else []
        self.layer = Counter(start, 30)
        self.producers = [Counter(start, 4) for _ in range(384)]
        self.mixer = Mixer([0, 8192, 8192, 26214, 3277 if line else 36045])
        self.by_column, self.by_pattern = Refinement(12), Refinement(4 if line else 64)
        self.sign_all = Counter(2**21, 2)
        self.sign_columns = [Counter(2**21, 2) for _ in range(self.shape.columns)]
        self.sign_patterns = [Counter(2**21, 2) for _ in range(243)]
        self.sign_drifts = [Counter(2**21, 2) for _ in range(31)]
        self.sign_mixers = [Mixer([3277] * 5 + [0]) for _ in range(3)]
        self.sign_learned = [0, 0, 0]

    def row(self, rows: list[list[int]]) -> None:
        self.in_row, self.sign_row = Counter(64 * self.shape.d, 1), Counter(2**21, 2)
        self.due = 0
        kept = [sum(row[c] for row in rows) for c in range(self.shape.columns)]
        strength = 512 if self.shape.kind == "picture" else 256
        r = len(rows)
        self.estimates = [
            clip((kept[c] * 65536 + strength * self.around(c, r, kept)) // (r + strength), 2, 65000)
            for c in range(self.shape.columns)
        ]

    def around(self, c: int, r: int, kept: list[int]) -> int:
        d = self.shape.d
        if self.shape.kind == "kernels":
            return max(4, self.around_kernel(c, r, kept))
        if self.shape.kind == "line":
            around = ((sum(kept) * 65536) // self.shape.columns + 32 * d) // (r + 32)
        else:
            around = self.around_pixel(c, r, kept)
        if self.feeds:
            around = min(60000, around * self.feeds[c][0] >> 12)
        return max(4, around)

    def around_pixel(self, c: int, r: int, kept: list[int]) -> int:
        wide = self.shape.picture
        high = self.shape.columns // wide
        y, x = divmod(c, wide)
        square = [
            (up, side)
            for up in range(-2, 3)
            for side in range(-2, 3)
            if (up, side) != (0, 0) and 0 <= y + up < high and 0 <= x + side < wide
        ]
        near = [(up, side, 1 if up and side else 2) for up, side in square if abs(up) < 2 and abs(side) < 2]
        total = sum(kept[c + up * wide + side] for up, side in square)
        far = ((total * 65536) // len(square) + 16 * self.shape.d) // (r + 16)
        total = sum(weight * kept[c + up * wide + side] for up, side, weight in near)
        return ((total * 65536) // sum(weight for _, _, weight in near) + 128 * far) // (r + 128)

    def around_kernel(self, c: int, r: int, kept: list[int]) -> int:
        d = start = self.shape.d
        size = self.shape.kernel[0] * self.shape.kernel[1]
        first, place = c - c % size, c % size
        if self.feeds:
            start = clip(d * self.feeds[first][0] >> 12, 4, 60000)
        channel = (sum(kept[first : first + size]) * 65536 + 32 * start) // (size * r + 32)
        channels = self.shape.columns // size
        position = (sum(kept[place::size]) * 65536 + 64 * d) // (channels * r + 64)
        return min(60000, channel * position // d)

    def p(self, c: int, row: list[int]) -> int:
        estimate = self.estimates[c]
        excess = ((sum(row) + 10) << 28) // (self.due + 655360)
        in_row = clip(estimate * excess >> 12, 1, 60000)
        window = [place for place in self.windows[c] if place]
        near = sum(weight for at, weight in window if row[at])
        expected = sum(weight * self.estimates[at] for at, weight in window)
        local = clip(in_row * (((near + 1) << 28) // (expected + 65536)) >> 12, 1, 60000)
        inputs = [stretch(self.layer.p), stretch(self.in_row.p), 0, stretch(estimate), stretch(local)]
        self.learners = [self.layer, self.in_row]
        if self.feeds:
            producer = self.producers[8 * self.feeds[c][1] + halves(16 * excess) * 8 // 12]
            inputs[2] = stretch(producer.p)
            self.learners.append(producer)
        odds = self.mixer.odds(inputs)
        first = self.windows[c][: 2 if self.shape.kind == "line" else 6]
        contexts = (
            halves(65536 * estimate, self.shape.d),
            sum(2**i for i, place in enumerate(first) if place and row[place[0]]),
        )
        self.last = inputs, odds, contexts
        self.due += estimate
        refined = self.by_column.p(contexts[0], odds) + self.by_pattern.p(contexts[1], odds)
        return clip((2 * squash(odds) + refined) >> 2, 1, 65535)

    def learn(self, bit: int, free: bool) -> None:
        inputs, odds, contexts = self.last
        if free:
            self.mixer.learn(bit, squash(odds), inputs, 256)
            self.by_column.learn(bit, contexts[0], odds)
            self.by_pattern.learn(bit, contexts[1], odds)
        for counter in self.learners:
            counter.learn(bit)

    def sign(self, c: int, signs: list[int], above: list[int]) -> int:
        """signs, above: +1, -1 or 0 by column, of this row and the one above."""
        line = self.shape.kind == "line"
        window = self.windows[c]
        values = [signs[place[0]] if place else 0 for place in window[: 2 if line else 4]]
        pattern = sum(3**i * (value % 3) for i, value in enumerate(values))
        if line:
            drift = sum(signs[place[0]] for place in window[:3] if place)
        else:
            drift = sum(place[1] * signs[place[0]] for place in window[:12] if place)
        self.sign_learners = [
            self.sign_all,
            self.sign_columns[c],
            self.sign_row,
            self.sign_patterns[3 * pattern + above[c] % 3],
            self.sign_drifts[clip(drift, -15, 15) + 15],
        ]
        self.set = 0 if pattern == 0 else 1 if sum(values) == 0 else 2
        self.sign_inputs = [stretch(counter.p) for counter in self.sign_learners] + [256]
        self.sign_p = clip(squash(self.sign_mixers[self.set].odds(self.sign_inputs)), 64, 65472)
        return self.sign_p

    def learn_sign(self, bit: int) -> None:
        rate = 192 + 1856000 // (1000 + self.sign_learned[self.set])
        self.sign_learned[self.set] += 1
        self.sign_mixers[self.set].learn(bit, self.sign_p, self.sign_inputs, rate)
        for counter in self.sign_learners:
            counter.learn(bit)


def walk(
    stream: bytes, shape: Shape, mixed: bool, ordered: bool, signed: bool
) -> tuple[list[int], list[int]]:
    """(mask, signs of the ones: 1 is high)."""
    coder = Decoder(stream)
    model = Mixed(shape) if mixed else Static(shape)
    ties = [Counter(2**21, 1, limit=10) for _ in range(16)]
    rows: list[list[int]] = []
    found: list[int] = []
    above = [0] * shape.columns
    for r in range(shape.rows):
        tied = ordered and r > 0
        row: list[int] = []
        signs: list[int] = []
        model.row(rows)
        for c in range(shape.columns):
            free, p = not tied, model.p(c, row)
            if free:
                bit = coder.bit(p)
            elif rows[-1][c] == 0:
                bit = 0
            else:
                tie = ties[min(15, sum(row))]
                bit = coder.bit(clip(tie.p, 64, 65472))
                tie.learn(bit)
                tied = bit == 1
            model.learn(bit, free)
            row.append(bit)
            signs.append(0)
            if bit and signed:
                high = coder.bit(model.sign(c, signs, above))
                model.learn_sign(high)
                signs[c] = 1 if high else -1
                found.append(high)
        rows.append(row)
        above = signs
    coder.end()
    return [bit for row in rows for bit in row], found
