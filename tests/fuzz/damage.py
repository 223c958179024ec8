"""Damage to the bytes of a file."""

import random


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Other bytes: some bits flipped, the end cut off, a hole of zeros, a piece doubled, or more at the end."""
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.choice([1, 16, 512, 4096]))
    flipped = bytearray(content)
    for _ in range(rng.choice([1, 1, 4, 64])):
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    kinds = [
        bytes(flipped),
        content[:start],
        content[:start] + bytes(end - start) + content[end:],
        content[:end] + content[start:],
        content + rng.randbytes(16),
    ]
    new = rng.choices(kinds, weights=[3, 2, 2, 1, 1])[0]
    return new if new != content else damaged(rng, content)
