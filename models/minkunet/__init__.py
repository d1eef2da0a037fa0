"""MinkUNet and SPVCNN, sparse convolution for large point clouds: only occupied voxels are computed.

Choy, Gwak and Savarese, CVPR 2019; Tang et al., "Searching Efficient 3D Architectures with Sparse Point-Voxel Convolution",
ECCV 2020.
"""
