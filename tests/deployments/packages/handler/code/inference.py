import json

calls = 0


def handler(data, context):
    """Answer what a handler is given."""
    global calls
    calls += 1
    first = data.read(3)
    told = context._asdict()
    told.pop("channel")
    told |= {"first": first.decode(), "rest": data.read().decode(), "end": data.read().decode()}
    if told["rest"] == "fail":
        raise ValueError(f"Unsupported content type: {context.request_content_type}")
    return json.dumps(told | {"calls": calls}), context.accept_header
