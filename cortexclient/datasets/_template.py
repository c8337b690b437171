"""A dataset of the registry: `client`, ready for use and made on first access, and its class beside it."""

from cortexclient.datasets._finder import contents_of

__getattr__, __dir__ = contents_of(__name__)
