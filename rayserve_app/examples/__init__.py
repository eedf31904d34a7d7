"""The example models that `configs/` serves: closures as a new user writes them, and SavedModels
that `rayserve_app.examples.build` makes on the spot, so that nothing is downloaded."""
