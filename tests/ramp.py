"""A gymnasium environment with task parameters whose rewards are computed by hand; free of torch."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Ramp(gymnasium.Env):
    """Counts steps; reward = slope * action; ends when the count reaches `length`, or misbehaves at step 2."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(np.array([0.0]), np.array([10.0]), dtype=np.float64)

    def __init__(self, slope, length, mischief=None):
        self.slope, self.length, self.mischief = slope, length, mischief

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        self.start = self.np_random.uniform()
        return np.array([0.0, self.start]), {}

    def step(self, action):
        self.count += 1
        if self.mischief is not None and self.count == 2:
            self.mischief()
        obs = np.array([float(self.count), self.start])
        return obs, self.slope * float(action[0]), self.count >= self.length, False, {"is_success": self.count == 3}
