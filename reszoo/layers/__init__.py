"""Keras layers that Keras lacks or does slowly. Importing this registers them for loading."""

from reszoo.layers.capabilities import channels_first_works, onednn_enabled
from reszoo.layers.convolution import Conv2D
from reszoo.layers.network import ResNet, deep_graph
from reszoo.layers.normalization import BatchNormalization
from reszoo.layers.pooling import BlurPool2D, MaxPool2D
from reszoo.layers.preprocessing import InputPreprocessing
from reszoo.layers.shortcuts import SubsamplePad

__all__ = [
    "BatchNormalization",
    "BlurPool2D",
    "Conv2D",
    "InputPreprocessing",
    "MaxPool2D",
    "ResNet",
    "SubsamplePad",
    "channels_first_works",
    "deep_graph",
    "onednn_enabled",
]
