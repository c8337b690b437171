"""Queries: what is queried (`query`), of what (`tables`, `filters`), on the wire (`wire`), completely (`complete`).

A `Query` is planned for a moment, sent as one or more requests until no response is truncated, and its `Reply` is made
a frame of stable types (`frames`). `advice` explains what a service refused.
"""
