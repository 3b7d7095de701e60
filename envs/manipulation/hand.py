"""Control of the hand: its position is commanded, damped least squares find the joint targets.

With J (6 x 7) the Jacobian of the tool's position and orientation, e (6) their errors, and q0 the posture of rest,

    dq = d + J^T (J J^T + lambda^2 I)^-1 (e - J d),    d = rate (q0 - q),

minimises |J dq - e|^2 + lambda^2 |dq - d|^2: the seventh degree of freedom drifts back to the posture of rest.
Orientation: the hand points down and its fingers open along y, always.

Source: Nakamura and Hanafusa 1986, "Inverse kinematic solutions with singularity robustness", eq. 17, with d added.
All functions are batched over worlds and made of elementwise operations and matrix products, so that a CUDA graph can
capture them; no loop runs over worlds.
"""

from __future__ import annotations

import torch
from torch import Tensor

DAMPING = 0.025
"""lambda; m and rad."""
POSTURE_RATE = 0.15
"""Share of the way back to the posture of rest that a control step asks for."""


def jacobian_transposed(anchor: Tensor, axis: Tensor, point: Tensor) -> Tensor:
    """The Jacobian of a point moved by hinge joints.

    Args:
        anchor: (N, n, 3) a point on each joint's axis, m.
        axis: (N, n, 3) unit vectors.
        point: (N, 3) m.

    Returns:
        (N, n, 6): velocity of the point (m/s) and angular velocity (rad/s) per joint velocity of 1 rad/s.
    """
    arm = point.unsqueeze(1) - anchor
    return torch.cat([torch.linalg.cross(axis, arm), axis], 2)


def downward_error(rotation: Tensor) -> Tensor:
    """How far the hand is from pointing down with its fingers opening along y, (N, 3) rad, for small angles.

    Half the sum of r_i x d_i over the columns r of the rotation and d of the one wanted, diag(-1, 1, -1).

    Args:
        rotation: (N, 9), row by row.
    """
    _, r01, r02, r10, _, r12, r20, r21, _ = rotation.unbind(1)
    return 0.5 * torch.stack([-(r12 + r21), r02 - r20, r01 + r10], 1)


def solve_spd(matrix: Tensor, right: Tensor) -> Tensor:
    """Solve symmetric positive definite systems by Gauss-Jordan elimination without pivoting.

    Worlds come last while it works: each of the n steps is then a few long elementwise operations. At 6 x 6 this took
    between one and two times as long as LAPACK's Cholesky at 256 worlds (0.1 ms) and a third at 1024, on one core;
    unlike LAPACK's, it can be captured in a CUDA graph.

    Args:
        matrix: (N, n, n).
        right: (N, n).

    Returns:
        (N, n).
    """
    rest = torch.cat([matrix, right.unsqueeze(2)], 2).permute(1, 2, 0).contiguous()  # (n, n + 1, N)
    for k in range(matrix.shape[1]):
        pivot_row = rest[k, 1:] / rest[k, 0]
        rest = torch.addcmul(rest[:, 1:], rest[:, :1], pivot_row, value=-1.0)
        rest[k] = pivot_row
    return rest[:, 0].t()


def joint_step(jacobian_t: Tensor, error: Tensor, drift: Tensor, damping: float = DAMPING) -> Tensor:
    """One step of damped least squares; the formula of the module.

    Args:
        jacobian_t: (N, n, 6).
        error: (N, 6) m and rad.
        drift: (N, n) d, rad.
        damping: lambda.

    Returns:
        (N, n) dq, rad.
    """
    jacobian = jacobian_t.mT
    normal = torch.bmm(jacobian, jacobian_t)  # (N, 6, 6)
    normal.diagonal(dim1=1, dim2=2).add_(damping**2)
    left_over = torch.baddbmm(error.unsqueeze(2), jacobian, drift.unsqueeze(2), alpha=-1.0).squeeze(2)
    effort = solve_spd(normal, left_over)
    return torch.baddbmm(drift.unsqueeze(2), jacobian_t, effort.unsqueeze(2)).squeeze(2)
