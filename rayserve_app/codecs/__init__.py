"""Payload bytes to items, results to payload bytes: one format per module, pure functions.

Codecs know nothing of HTTP, Ray, models or queues. What cannot be decoded raises an
`InvalidRequest`; what a model returned and cannot be encoded raises a `PredictError`.
"""
