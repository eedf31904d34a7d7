"""An image embedding server as in the guide for Gluon, with Pillow and numpy in MXNet's place."""

import io
import json
import os

import numpy as np
from PIL import Image


def model_fn(model_dir):
    with open(os.path.join(model_dir, os.environ["modelname"])) as file:  # noqa: SIM112
        return np.array(json.load(file), np.float32)


def input_fn(request_body, request_content_type, model):
    assert request_content_type == "image/jpeg"
    assert isinstance(request_body, bytearray)
    image = Image.open(io.BytesIO(request_body)).convert("RGB")
    return np.asarray(image, np.float32).mean(axis=(0, 1)) @ model


def predict_fn(input_object, model):
    return input_object / 255


def output_fn(prediction, content_type):
    return json.dumps(prediction.tolist())
