"""Workroom: the selective scan of a Mamba layer in one signature and several backends, the four orders of a picture, state affinity."""
