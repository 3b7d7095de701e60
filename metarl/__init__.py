"""Meta-reinforcement learning for robots: task distributions on MuJoCo, and agents that learn to adapt."""

__version__ = "0.1.0"
