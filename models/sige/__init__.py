"""Generators that draw a picture from a label map or another picture, to be edited: only what changed is computed again.

Li et al., "Efficient Spatially Sparse Inference for Conditional GANs and Diffusion Models", NeurIPS 2022. The networks here are
ordinary modules; `effvision.incremental` makes them, and any other, incremental.
"""
