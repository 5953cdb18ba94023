"""The Triton program of :mod:`models.lcw.fused`. Imported only where a GPU is."""

# ruff: noqa: ANN001, ANN201, ANN202, N803  # Triton's own types and names of constants
import triton  # ty: ignore  # comes with torch's CUDA builds
import triton.language as tl  # ty: ignore


@triton.jit
def pair_sums(
    a_p, a_half, a_high, a_low,  # of the rows: fused.Points
    b_p, b_half, b_high, b_low,  # of the columns
    coefficients,  # Q, then R, the highest power first
    sums,  # [n] float64, out: sum of phi over the columns
    nears,  # [n, D], in and out: += factor * sum of V p
    totals,  # [n], in and out: += factor * sum of V
    factor, n, m,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, TERMS: tl.constexpr,
    OWN: tl.constexpr, SLOPES: tl.constexpr, NEAR: tl.constexpr,
):  # fmt: skip
    """One program: BM rows against all columns, once more with care where points are near."""
    total, weights, near, nearest = _sum_columns(
        a_p, a_half, a_high, a_low, b_p, b_half, b_high, b_low, coefficients, n, m,
        D, BD, BM, BN, TERMS, OWN, SLOPES, NEAR, False,
    )  # fmt: skip
    if tl.min(nearest) < 1 - NEAR:
        total, weights, near, nearest = _sum_columns(
            a_p, a_half, a_high, a_low, b_p, b_half, b_high, b_low, coefficients, n, m,
            D, BD, BM, BN, TERMS, OWN, SLOPES, NEAR, True,
        )  # fmt: skip
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    depth = tl.arange(0, BD)
    here = row < n
    tl.store(sums + row, total, here)
    if SLOPES:
        at = nears + row[:, None] * D + depth
        wide = here[:, None] & (depth < D)
        tl.store(at, tl.load(at, wide, 0.0) + factor * near, wide)
        tl.store(totals + row, tl.load(totals + row, here, 0.0) + factor * weights, here)


@triton.jit
def _sum_columns(  # noqa: C901  # one program
    a_p, a_half, a_high, a_low, b_p, b_half, b_high, b_low, coefficients, n, m,
    D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, TERMS: tl.constexpr,
    OWN: tl.constexpr, SLOPES: tl.constexpr, NEAR: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    """Sums over the columns; below 1 - NEAR in the last if products left little but rounding.

    Own pairs without gradient are enumerated cyclically, blocks j = i, i + 1 ... i + blocks / 2: a
    block off the diagonal stands for its mirror image too, and every program has equal work.
    """
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    depth = tl.arange(0, BD)
    high = tl.load(a_high + row[:, None] * BD + depth)
    low = tl.load(a_low + row[:, None] * BD + depth)
    norm = tl.load(a_half + row)
    total = tl.zeros([BM], tl.float64)
    weights = tl.zeros([BM], tl.float32)
    near = tl.zeros([BM, BD], tl.float32)
    nearest = tl.zeros([BM], tl.float32) + 1
    half: tl.constexpr = OWN and not SLOPES
    blocks = (m + BN - 1) // BN
    visits = blocks
    if half:
        visits = blocks // 2 + 1
    for visit in range(0, visits):
        block = visit
        if half:
            block = (tl.program_id(0) + visit) % blocks
        column = block * BN + tl.arange(0, BN)
        other_high = tl.load(b_high + column[:, None] * BD + depth)
        other_low = tl.load(b_low + column[:, None] * BD + depth)
        both = norm[:, None] + tl.load(b_half + column)[None, :]
        q = both - _product(high, low, tl.trans(other_high), tl.trans(other_low))
        if OWN:
            itself = row[:, None] == column[None, :]
            q = tl.where(itself, 2 * both, q)  # known, not near
        margin = q - NEAR * both
        if CAREFUL:
            if tl.min(margin) < 1 - NEAR:
                gap = _apart(a_p, b_p, row, column, n, m, D, BM, BN)
                q = tl.where(margin < 1 - NEAR, 1 + 0.5 * gap, q)
        else:
            nearest = tl.minimum(nearest, tl.min(margin, 1))
        if OWN:
            q = tl.where(itself, 1.0, q)
        value, slope = _kernel(q, coefficients, BM, BN, TERMS)
        if OWN:
            slope = tl.where(itself, 0.0, slope)  # its gradient is 0: leave no rounding of it
        if CAREFUL:  # the three sums may cancel
            value = value.to(tl.float64)
        row_sum = tl.sum(value, 1).to(tl.float64)
        if half:
            row_sum *= tl.where((visit == 0) | (2 * visit == blocks), 1.0, 2.0)
        total += row_sum
        if SLOPES:
            weights += tl.sum(slope, 1)
            slope_high = slope.to(tl.bfloat16)
            slope_low = (slope - slope_high.to(tl.float32)).to(tl.bfloat16)
            near += _product(slope_high, slope_low, other_high, other_low)
    return total, weights, near, nearest


@triton.jit
def _product(high, low, other_high, other_low):
    """(high + low) (other_high + other_low) less the product of both low parts."""
    product = tl.dot(low, other_high)
    product = tl.dot(high, other_low, product)
    return tl.dot(high, other_high, product)


@triton.jit
def _apart(
    a_p, b_p, row, column, n, m, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):  # fmt: skip
    """|p_i - p_j|^2 from the differences."""
    square = tl.zeros([BM, BN], tl.float32)
    for k in range(D):
        p = tl.load(a_p + row * D + k, row < n, 0.0)
        r = tl.load(b_p + column * D + k, column < m, 0.0)
        gap = p[:, None] - r[None, :]
        square += gap * gap
    return square


@triton.jit
def _kernel(q, coefficients, BM: tl.constexpr, BN: tl.constexpr, TERMS: tl.constexpr):
    """The kernel and V = -2 dphi/dq, as in profile.evaluate."""
    v = tl.rsqrt(tl.maximum(q, 1.0))
    square = v * v
    value, slope = v, v * square
    if TERMS > 1:
        y = 2 * square - 1
        first = tl.zeros([BM, BN], tl.float32) + tl.load(coefficients)
        second = tl.zeros([BM, BN], tl.float32) + tl.load(coefficients + TERMS)
        for k in tl.static_range(1, TERMS):
            first = first * y + tl.load(coefficients + k)
            second = second * y + tl.load(coefficients + TERMS + k)
        value *= first
        slope *= second
    return value, slope
