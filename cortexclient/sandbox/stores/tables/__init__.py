"""Annotation tables, frozen versions and views: storing, querying, writing."""
