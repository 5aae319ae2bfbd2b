"""Modalities: what an item is. A plugin is a module or package of this family; images are the first."""
