"""PatchNet: short-range template matching, to track anything cheaply and to run a detector on key frames only.

Mao, Zhu, Kong, Zhang and Dally, "PatchNet - Short-range Template Matching for Efficient Video Processing", 2021.
"""
