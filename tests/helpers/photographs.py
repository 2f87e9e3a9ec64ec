"""Small pieces of the bundled photographs."""

from robustflow.data import BundledSource


def piece(index=0, height=48, width=40):
    """(3, height, width), uint8, from test photograph ``index``."""
    image, _ = BundledSource("test", 4).pair(index)
    return image[:, 100 : 100 + height, 120 : 120 + width]
