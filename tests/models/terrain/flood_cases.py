"""Small floods shared by several tests, and an independent implementation by loops."""

import math

import numpy as np
import torch

from models.terrain.solver.cpu.engine import FusedFlood
from models.terrain.solver.engines import SingleGpuFlood, TorchFlood
from models.terrain.solver.forcing import Forcing, Inlet, Series, constant
from models.terrain.solver.gpu.engine import GpuFlood
from models.terrain.solver.scheme import FlowState, Ground, Physics


def hills(ny=24, nx=30, seed=0, height=3.0, batch=1, dtype=torch.float64):
    """Random smooth terrain without ties."""
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, 1, ny // 4 + 2, nx // 4 + 2, generator=g, dtype=torch.float64)
    z = torch.nn.functional.interpolate(z, size=(ny, nx), mode="bicubic")[:, 0] * height / 2
    return (z + 0.01 * torch.randn(batch, ny, nx, generator=g, dtype=torch.float64)).to(dtype)


def puddles(z, seed=1, deepest=1.0):
    """A state with water in some places and random discharges where it is."""
    g = torch.Generator().manual_seed(seed)
    h = torch.rand(z.shape, generator=g, dtype=torch.float64) * deepest
    h = torch.where(torch.rand(z.shape, generator=g) < 0.6, h, 0).to(z.dtype)
    qx = 0.2 * torch.randn(z[:, :, 1:].shape, generator=g, dtype=torch.float64).to(z.dtype)
    qy = 0.2 * torch.randn(z[:, 1:].shape, generator=g, dtype=torch.float64).to(z.dtype)
    return FlowState(h, qx, qy)


def flood(ny=24, nx=30, dtype=torch.float64, dx=10.0, batch=1, **ground):
    """Inflow at the left, rain, an outlet at the right, rough ground."""
    z = hills(ny, nx, dtype=dtype, batch=batch)
    drain = torch.zeros_like(z)
    drain[:, ny // 2 - 3 : ny // 2 + 3, -1] = math.sqrt(0.001) / 0.05
    rows = tuple(range(ny // 2 - 2, ny // 2 + 3))
    inlet = Inlet(Series((0.0, 60.0, 600.0), (0.0, 40.0, 10.0)), rows, (0,) * len(rows))
    forcing = Forcing((inlet,), constant(30 / 3.6e6))
    return Ground(z, ground.get("manning", 0.05), dx, drain, ground.get("level")), forcing


def open_flood(engine, ground, forcing, physics, start=None):
    """A flood on an engine: ``reference`` (float64), ``compiled`` or ``gpu``; wet above 0.05 m."""
    if engine == "reference":
        return TorchFlood(ground, forcing, physics, 0.05, start)
    if engine == "compiled":
        return FusedFlood(ground, forcing, physics, start, 1, 0.05)
    moved = {k: v.cuda() for k, v in ground._asdict().items() if torch.is_tensor(v)}
    begin = None if start is None else FlowState(*(field.cuda() for field in start))
    flood = GpuFlood(ground._replace(**moved), [forcing], physics, begin, 0.05)
    return SingleGpuFlood(flood)


def step_by_loops(  # noqa: C901  # by faces and cells, on purpose
    h, qx, qy, z, dt, dx, n, p: Physics, source=0.0, drain=None
):
    """The step of README, section Equations, one face and one cell at a time; numpy, one sample."""
    ny, nx = h.shape

    def at(q, i, j):
        return q[i, j] if 0 <= i < q.shape[0] and 0 <= j < q.shape[1] else 0.0

    def face(own, before, after, others, a, b):
        (ha, za), (hb, zb) = a, b
        depth = max(ha + za, hb + zb) - max(za, zb)
        if p.h_dry > 0 and depth <= p.h_dry:
            return 0.0
        hf = max(depth, p.h_min)
        qc = p.theta * own + (1 - p.theta) / 2 * (before + after)
        r, qt = p.gravity * dt * n**2 / hf ** (7 / 3), sum(others) / 4
        num = qc - p.gravity * dt * hf * ((hb + zb) - (ha + za)) / dx
        norm = math.sqrt(own**2 + qt**2 + p.eps)
        if not p.authors_terms:  # the root of r |q|^2 + |q| = |(num, across)|
            size = math.sqrt(num**2 + (qt * (1 + r * norm)) ** 2 + p.eps)
            norm = 2 * size / (1 + math.sqrt(1 + 4 * r * size))
        q = num / (1 + r * norm)
        if p.froude is not None:
            most = p.froude * hf * math.sqrt(p.gravity * hf)
            q = min(max(q, -most), most)
        return q

    fx, fy = np.zeros_like(qx), np.zeros_like(qy)
    for i in range(ny):
        for j in range(nx - 1):
            others = [at(qy, i - 1, j), at(qy, i - 1, j + 1), at(qy, i, j), at(qy, i, j + 1)]
            before, after = qx[i, max(j - 1, 0)], qx[i, min(j + 1, nx - 2)]
            fx[i, j] = face(
                qx[i, j], before, after, others, (h[i, j], z[i, j]), (h[i, j + 1], z[i, j + 1])
            )
    for i in range(ny - 1):
        for j in range(nx):
            others = [at(qx, i, j - 1), at(qx, i + 1, j - 1), at(qx, i, j), at(qx, i + 1, j)]
            before, after = qy[max(i - 1, 0), j], qy[min(i + 1, ny - 2), j]
            fy[i, j] = face(
                qy[i, j], before, after, others, (h[i, j], z[i, j]), (h[i + 1, j], z[i + 1, j])
            )
    out = np.zeros_like(h)
    if drain is not None:
        out = np.where(h > p.h_dry, drain * np.where(h > p.h_dry, h, 0) ** (5 / 3), 0)
        if p.authors_terms:
            out = np.where(drain > 0, p.gravity * 0.2 * h, 0)
    share = np.ones_like(h)
    new = h.copy()
    for i in range(ny):
        for j in range(nx):
            leaving = max(at(fx, i, j), 0) + max(-at(fx, i, j - 1), 0)
            leaving += max(at(fy, i, j), 0) + max(-at(fy, i - 1, j), 0) + out[i, j]
            if p.limiter and leaving * dt / dx > h[i, j]:
                share[i, j] = h[i, j] / (leaving * dt / dx)
    for i in range(ny):
        for j in range(nx - 1):
            fx[i, j] *= share[i, j] if fx[i, j] > 0 else share[i, j + 1]
    for i in range(ny - 1):
        for j in range(nx):
            fy[i, j] *= share[i, j] if fy[i, j] > 0 else share[i + 1, j]
    for i in range(ny):
        for j in range(nx):
            net = at(fx, i, j) - at(fx, i, j - 1) + at(fy, i, j) - at(fy, i - 1, j)
            new[i, j] = h[i, j] + dt * (source - share[i, j] * out[i, j] / dx) - dt / dx * net
            if p.limiter:
                new[i, j] = max(new[i, j], 0.0)
    return new, fx, fy


def wave_depth(x, t, u, n, g=9.8):
    """Depth of the local-inertial travelling wave, by Newton from above; 0 beyond its front.

    With q = u h and xi = ut - x the momentum balance is
    (g h - u^2) dh/dxi = g n^2 u^2 / h^(1/3), so
    (3/7) g h^(7/3) - (3/4) u^2 h^(4/3) = g n^2 u^2 xi + c, with depth 2 u^2 / g at the front.
    """
    xi = np.asarray(u * t - x, dtype=float)
    front = 2 * u * u / g

    def left(h):
        return 3 / 7 * g * h ** (7 / 3) - 3 / 4 * u * u * h ** (4 / 3)

    target = g * n * n * u * u * np.maximum(xi, 0) + left(front)
    h = np.maximum(front, (7 / 3 * n * n * u * u * np.maximum(xi, 0)) ** (3 / 7)) + 0.5
    for _ in range(60):
        slope = g * h ** (4 / 3) - u * u * h ** (1 / 3)
        h = np.maximum(h - (left(h) - target) / slope, front)
    return np.where(xi > 0, h, 0.0)
