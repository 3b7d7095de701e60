"""Explain a learned loss in pictures, numbers and a formula: `metarl explain`."""
