"""Allocators: from the menus of all sites and a budget to one option per site."""
