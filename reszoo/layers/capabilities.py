"""What TensorFlow's kernels can do on this machine, found out by trying.

On processors, TensorFlow's own (Eigen) kernels have no backward pass for grouped or dilated
convolutions and nothing at all for maps (N, C, H, W); oneDNN has both. Whether oneDNN takes an
operation depends on TF_ENABLE_ONEDNN_OPTS, on the processor (which decides the default, and whether
bfloat16 and float16 are covered) and on the operation: explicit padding never goes there. A trial
on a tiny map is the one test that covers all of these.
"""

from __future__ import annotations

import functools

import keras


def onednn_enabled() -> bool:
    """Return whether TensorFlow's oneDNN kernels are on; False on other backends.

    On x86 processors that is TF_ENABLE_ONEDNN_OPTS where it is set (before TensorFlow is imported),
    and otherwise TensorFlow's choice by processor.
    """
    if keras.backend.backend() != "tensorflow":
        return False
    try:
        from tensorflow.python.util import _pywrap_util_port

        return bool(_pywrap_util_port.IsMklEnabled())
    except (ImportError, AttributeError):  # not a public interface
        return convolution_works("CPU", "float32", "channels_last", grouped=True)


def channels_first_works() -> bool:
    """Return whether plain convolutions on float32 maps (N, C, H, W) run and train here.

    True on GPUs, on processors with oneDNN, and on backends other than TensorFlow. `Conv2D`,
    `MaxPool2D` and `BlurPool2D` of this package do not need it, nor does fused batch normalisation.
    """
    if keras.backend.backend() != "tensorflow":
        return True
    return convolution_works(device_kind(), "float32", "channels_first")


def device_kind() -> str:
    """Return "GPU" or "CPU": where TensorFlow would run an operation that is added now."""
    import tensorflow as tf

    if not tf.config.list_logical_devices("GPU"):
        return "CPU"
    # A device scope may keep the operation on the processor.
    return "CPU" if "CPU" in tf.zeros([]).device.upper() else "GPU"


@functools.cache
def convolution_works(
    device: str, dtype: str, data_format: str, grouped: bool = False, dilated: bool = False
) -> bool:
    """Return whether `tf.nn.conv2d` runs forward and backward, padding "SAME" or "VALID".

    The answer comes from one trial on a 4x4 map and is kept; the trial runs outside any graph that
    is being traced. Where it fails, TensorFlow logs the failing kernel once.

    Args:
        device: "CPU" or "GPU".
        dtype: of map and kernel, e.g. "float32".
        data_format: "channels_last" or "channels_first".
        grouped: with two groups.
        dilated: with dilation 2.
    """
    if not (grouped or dilated or data_format == "channels_first"):
        return True
    import tensorflow as tf

    settings = {
        "strides": [1, 1, 1, 1],
        "padding": "SAME",
        "data_format": tensorflow_format(data_format),
        "dilations": [1, 1, 1, 1],
    }
    if dilated:
        settings["dilations"] = [1, 2, 2, 1] if data_format == "channels_last" else [1, 1, 2, 2]
    with tf.init_scope(), tf.device(f"/{device}:0"):
        # The gradients' own operations: init_scope stops gradient tapes.
        image = tf.ones([1, 4, 4, 4], dtype)
        kernel = tf.ones([3, 3, 2 if grouped else 4, 4], dtype)
        try:
            outputs = tf.raw_ops.Conv2D(input=image, filter=kernel, **settings)
            gradients = (
                tf.raw_ops.Conv2DBackpropInput(
                    input_sizes=image.shape, filter=kernel, out_backprop=outputs, **settings
                ),
                tf.raw_ops.Conv2DBackpropFilter(
                    input=image, filter_sizes=kernel.shape, out_backprop=outputs, **settings
                ),
            )
            for result in gradients:
                result.numpy()  # waits for a GPU
        except tf.errors.OpError:
            return False
    return True


def tensorflow_format(data_format: str) -> str:
    """Return TensorFlow's name, NHWC or NCHW, of Keras' data format."""
    return "NHWC" if data_format == "channels_last" else "NCHW"
