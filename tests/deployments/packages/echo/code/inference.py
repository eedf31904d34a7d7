def model_fn(model_dir):
    return None


def transform_fn(model, data, content_type, accept):
    return data
