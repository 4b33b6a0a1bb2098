"""Mask R-CNN (He et al., 2017) in plain Keras 3: static shapes, one code path on every backend.

Read `model.py` first: it shows the whole pipeline.
"""
