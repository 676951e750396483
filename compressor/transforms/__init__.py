"""Transforms of a pruned network before it is packed: the same function in fewer bits, each with its own proof.

`fold_dead` drops the weights that do nothing, `order_units` sorts hidden units whose order means nothing.
"""

from compressor.transforms.fold import fold_dead
from compressor.transforms.order import order_units
from compressor.transforms.proof import Proof
from compressor.transforms.result import Layer, Transformed

__all__ = ["Layer", "Proof", "Transformed", "fold_dead", "order_units"]
