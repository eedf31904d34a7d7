"""A stream of JPEG images through gRPC, as in the guide for packed payloads."""

import io
import pickle
import struct

import grpc
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

MAX_MESSAGE = 512 * 1024 * 1024
OUTPUTS = ["conv2d_58", "conv2d_66", "conv2d_74"]

client = None


def get_client(port):
    global client
    if client is None:
        channel = grpc.insecure_channel(
            f"0.0.0.0:{port}",
            options=[
                ("grpc.max_send_message_length", MAX_MESSAGE),
                ("grpc.max_receive_message_length", MAX_MESSAGE),
            ],
        )
        client = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return client


def read_images(stream):
    images = []
    while True:
        head = stream.read(4)
        if len(head) < 4:
            break
        (length,) = struct.unpack(">I", head)
        if length == 0:
            break
        images.append(np.asarray(Image.open(io.BytesIO(stream.read(length)))))
    return images


def handler(data, context):
    if context.request_content_type != "application/x-packed-jpeg":
        raise ValueError(f"Unsupported content type: {context.request_content_type}")
    if context.accept_header != "application/x-npy":
        raise ValueError(f"Unsupported accept type: {context.accept_header}")
    images = read_images(data)
    if not images:
        raise ValueError("Empty input data!")
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "yolov3"
    request.model_spec.signature_name = "serving_default"
    batch = np.stack(images).astype(np.float32) / 255
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(batch))
    response = get_client(context.grpc_port).Predict(request, 25)
    flat = [np.array(response.outputs[name].float_val, np.float32) for name in OUTPUTS]
    return pickle.dumps(np.concatenate(flat)), "application/x-npy"
