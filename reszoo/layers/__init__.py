"""Keras layers that Keras lacks or does slowly. Importing this registers them for loading."""

from reszoo.layers.network import ResNet, deep_graph
from reszoo.layers.normalization import BatchNormalization
from reszoo.layers.shortcuts import SubsamplePad

__all__ = ["BatchNormalization", "ResNet", "SubsamplePad", "deep_graph"]
