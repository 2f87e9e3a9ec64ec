"""Where images come from: each module registers its kinds of data sets."""

from robustflow.data.sources import bundled, folders, lists, low_light, prepared

__all__ = ["bundled", "folders", "lists", "low_light", "prepared"]
