"""Few-shot learning: a task is a support set to adapt on and a query set to be judged on."""
