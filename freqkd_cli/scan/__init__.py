"""The selective scan of a Mamba layer: backends, the four orders of an image, state affinity."""
