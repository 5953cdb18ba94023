"""The Triton program of :mod:`models.lcw.fused`. Imported only where a GPU is."""

# ruff: noqa: ANN001, ANN201, ANN202, N803  # Triton's own types and names of constants
import triton  # ty: ignore  # comes with torch's CUDA builds
import triton.language as tl  # ty: ignore


@triton.jit
def pair_sums(
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
    NEAR: tl.constexpr,
):
    """One program: BM rows against all columns, once more with care where points are near."""
    total, weights, near, nearest = _walk(
        left, right, coefficients, n, m, D, BD, BM, BN, TERMS, OWN, SLOPES, PRECISION, NEAR, False
    )
    if tl.min(nearest) < 0:
        total, weights, near, nearest = _walk(
            left,
            right,
            coefficients,
            n,
            m,
            D,
            BD,
            BM,
            BN,
            TERMS,
            OWN,
            SLOPES,
            PRECISION,
            NEAR,
            True,
        )
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    depth = tl.arange(0, BD)
    here, inside = row < n, depth < D
    tl.store(sums + row, total, here)
    if SLOPES:
        at = slopes + row[:, None] * (D + 1) + depth
        wide = here[:, None] & inside
        tl.store(at, tl.load(at, wide, 0.0) + factor * near, wide)
        last = slopes + row * (D + 1) + D
        tl.store(last, tl.load(last, here, 0.0) + factor * weights, here)


@triton.jit
def _walk(  # noqa: C901  # one program
    left, right, coefficients, n, m,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, TERMS: tl.constexpr,
    OWN: tl.constexpr, SLOPES: tl.constexpr, PRECISION: tl.constexpr, NEAR: tl.constexpr,
    CAREFUL: tl.constexpr,
):  # fmt: skip
    """Sums over the columns; below 0 in the last if the products left little but rounding.

    Own pairs without gradient are visited above the diagonal only.
    """
    width: tl.constexpr = D + 2
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    depth = tl.arange(0, BD)
    here, inside = row < n, depth < D
    a = tl.load(left + row[:, None] * width + depth, here[:, None] & inside, 0.0)
    norm = tl.load(left + row * width + D, here, 1.0)
    total = tl.zeros([BM], tl.float64)
    weights = tl.zeros([BM], tl.float32)
    near = tl.zeros([BM, BD], tl.float32)
    nearest = tl.zeros([BM], tl.float32) + 1
    half: tl.constexpr = OWN and not SLOPES
    first = 0
    if half:  # a pair above the diagonal stands for two
        first = (tl.program_id(0) * BM) // BN * BN
    for start in range(first, m, BN):
        column = start + tl.arange(0, BN)
        there = column < m
        b = tl.load(right + column[:, None] * width + depth, there[:, None] & inside, 0.0)
        other = tl.load(right + column * width + D + 1, there, 0.0)
        both = norm[:, None] + other[None, :]
        q = tl.dot(a, tl.trans(b), input_precision=PRECISION) + both
        if OWN:  # a point and itself are known, not near
            q = tl.where(row[:, None] == column[None, :], 1e30, q)
        margin = tl.where(there[None, :], q - 1 - NEAR * (both - 1), 1.0)
        if CAREFUL:
            if tl.min(margin) < 0:
                apart = tl.zeros([BM, BN], tl.float32)
                for k in range(D):
                    p = tl.load(left + row * width + k, here, 0.0)
                    r = tl.load(right + column * width + k, there, 0.0)
                    apart += (p[:, None] + r[None, :]) * (p[:, None] + r[None, :])
                q = tl.where(margin < 0, 1.0 + 0.5 * apart, q)
        else:
            nearest = tl.minimum(nearest, tl.min(margin, 1))
        if OWN:
            q = tl.where(row[:, None] == column[None, :], 1.0, q)
        v = tl.where(there[None, :], tl.rsqrt(tl.maximum(q, 1.0)), 0.0)
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
    return total, weights, near, nearest
