"""The Triton program of :mod:`models.lcw.fused`. Imported only where a GPU is."""

# ruff: noqa: ANN001, ANN201, N803  # Triton's own types and names of constants
import triton  # ty: ignore  # comes with torch's CUDA builds
import triton.language as tl  # ty: ignore


@triton.jit
def pair_sums(  # noqa: C901  # one program
    left,  # [n, D + 2] rows (-p, h, 1), h = (1 + |p|^2) / 2
    right,  # [m, D + 2] rows (p, 1, h)
    coefficients,  # Q, then R, the highest power first
    sums,  # [n] float64, out: sum of phi over the columns
    slopes,  # [n, D + 1], in and out: += factor * sum of V (p, 1)
    factor,
    n,
    m,
    D: tl.constexpr,
    BD: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    TERMS: tl.constexpr,
    OWN: tl.constexpr,
    SLOPES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: BM rows against all columns; own pairs without gradient only above."""
    width: tl.constexpr = D + 2
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    depth = tl.arange(0, BD)
    here, inside = row < n, depth < D
    a = tl.load(left + row[:, None] * width + depth, here[:, None] & inside, 0.0)
    norm = tl.load(left + row * width + D, here, 1.0)
    total = tl.zeros([BM], tl.float64)
    weights = tl.zeros([BM], tl.float32)
    near = tl.zeros([BM, BD], tl.float32)
    half: tl.constexpr = OWN and not SLOPES
    first = 0
    if half:  # a pair above the diagonal stands for two
        first = (tl.program_id(0) * BM) // BN * BN
    for start in range(first, m, BN):
        column = start + tl.arange(0, BN)
        there = column < m
        b = tl.load(right + column[:, None] * width + depth, there[:, None] & inside, 0.0)
        other = tl.load(right + column * width + D + 1, there, 0.0)
        q = tl.dot(a, tl.trans(b), input_precision=PRECISION) + norm[:, None] + other[None, :]
        q = tl.maximum(q, 1.0)
        if OWN:
            q = tl.where(row[:, None] == column[None, :], 1.0, q)
        v = tl.where(there[None, :], tl.rsqrt(q), 0.0)
        value = v
        slope = v * v * v
        if TERMS > 1:
            y = 2 * v * v - 1
            first_sum = tl.zeros([BM, BN], tl.float32) + tl.load(coefficients)
            second_sum = tl.zeros([BM, BN], tl.float32) + tl.load(coefficients + TERMS)
            for k in tl.static_range(1, TERMS):
                first_sum = first_sum * y + tl.load(coefficients + k)
                second_sum = second_sum * y + tl.load(coefficients + TERMS + k)
            value = v * first_sum
            slope = slope * second_sum
        if half:
            below = column[None, :] < row[:, None]
            diagonal = column[None, :] == row[:, None]
            value = tl.where(below, 0.0, tl.where(diagonal, value, 2 * value))
        total += tl.sum(value, 1).to(tl.float64)
        if SLOPES:
            weights += tl.sum(slope, 1)
            near += tl.dot(slope, b, input_precision=PRECISION)
    tl.store(sums + row, total, here)
    if SLOPES:
        at = slopes + row[:, None] * (D + 1) + depth
        wide = here[:, None] & inside
        tl.store(at, tl.load(at, wide, 0.0) + factor * near, wide)
        last = slopes + row * (D + 1) + D
        tl.store(last, tl.load(last, here, 0.0) + factor * weights, here)
