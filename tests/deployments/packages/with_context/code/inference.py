import json


def pre_model_fn(model_dir, context):
    pre_model_fn.seen = context.system_properties["model_dir"]


def model_fn(model_dir, context):
    assert pre_model_fn.seen == context.system_properties["model_dir"] == model_dir
    return []


def model_warmup_fn(model_dir, model, context):
    model.append("warm")


def input_fn(data, content_type, context):
    return [data, content_type, context.get_request_header(0, "Content-Type")]


def predict_fn(data, model, context):
    attributes = "X-Amzn-SageMaker-Custom-Attributes"
    return [*data, model[0], context.get_all_request_header(0).get(attributes)]


def output_fn(prediction, accept, context):
    if prediction[0] == "teapot":
        context.set_response_status(code=418, phrase="I'm a teapot", idx=0)
    return json.dumps(prediction), "application/x-told"
