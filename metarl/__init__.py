"""Meta-reinforcement learning for robots: task distributions on MuJoCo, and agents that learn to adapt."""

from metarl.gym_registration import register_environments

__version__ = "0.1.0"

# Importing the package is how gymnasium learns of its environments: it has no plug-in entry points any more.
register_environments()
