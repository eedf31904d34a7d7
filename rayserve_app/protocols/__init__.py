"""The protocols that a model speaks under its prefix; another one is a package here and a line in
`PROTOCOLS` (rayserve_app/settings/protocols.py). The package holds all of it: the routes with what
each means on a server of many models, the settings, and its part of the OpenAPI document.

A protocol is the envelope around a payload: pure `parse` and `render` functions above, thin routes
below. It knows codecs, models and errors, but no backend and no deployment.
"""
