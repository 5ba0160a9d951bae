"""A trained functional model, run layer by layer: any map inside it, or with blocks left out.

Only the graph and the structural names of the layers are used (`stage2_block1_…`, and `…_add` with
the inputs branch, shortcut), so post- and pre-activation nets, plain nets and any branch are taken
alike. The layers are the model's own: no weight is copied.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablations.errors import UserError
from reszoo.errors import unknown

_BLOCK = re.compile(r"(stage(\d+)_block\d+)_")


def tensors(value: Any) -> list[Any]:
    """Return a layer's input or output as a list of symbolic tensors."""
    return list(value) if isinstance(value, list | tuple) else [value]


def operations(model: Any) -> list[Any]:
    """Return a functional model's layers in topological order, without its input."""
    import keras

    return [op for op in model.operations if not isinstance(op, keras.layers.InputLayer)]


def evaluate(
    ops: Sequence[Any],
    known: Mapping[int, Any],
    wanted: Sequence[Any],
    instead: Mapping[int, Any] | None = None,
) -> list[Any]:
    """Return the values of symbolic tensors, running only the layers that they need.

    Args:
        ops: layers in topological order.
        known: id of a symbolic tensor -> its value, an array or again a symbolic tensor.
        wanted: symbolic tensors.
        instead: id of a symbolic tensor -> the one that stands in for it everywhere.
    """
    replaced = dict(instead or {})

    def real(tensor: Any) -> Any:
        return replaced.get(id(tensor), tensor)

    needed, used = {id(real(tensor)) for tensor in wanted}, []
    for op in reversed(ops):
        if any(id(tensor) in needed for tensor in tensors(op.output)):
            used.append(op)
            needed.update(id(real(tensor)) for tensor in tensors(op.input))
    values = dict(known)
    for op in reversed(used):
        inputs = [values[id(real(tensor))] for tensor in tensors(op.input)]
        outputs = op(inputs if isinstance(op.input, list | tuple) else inputs[0])
        for tensor, value in zip(tensors(op.output), tensors(outputs), strict=True):
            values[id(tensor)] = value
    return [values[id(real(tensor))] for tensor in wanted]


@dataclass(frozen=True)
class Unit:
    """A residual or plain block, or what stands between blocks: one map in, one map out.

    Attributes:
        name: "stage1_block2"; outside blocks that of its first layer.
        stage: 1…; 0 outside blocks.
        layers: in topological order.
        input, output: symbolic tensors.
        add: the layer that adds branch and shortcut; None without a shortcut.
    """

    name: str
    stage: int
    layers: tuple[Any, ...]
    input: Any
    output: Any
    add: Any | None

    @property
    def keeps_shape(self) -> bool:
        """Whether the output has the shape of the input."""
        return tuple(self.input.shape) == tuple(self.output.shape)

    @property
    def removable(self) -> bool:
        """Whether the block can be left out: over its shortcut, or because the shape stays."""
        return self.stage > 0 and (self.add is not None or self.keeps_shape)

    def __call__(self, x: Any, removed: bool = False) -> Any:
        """Return the output for an input, symbolic or not.

        Args:
            x: the map that enters.
            removed: leave the residual branch out: what follows the addition (a ReLU, or nothing)
                is given the shortcut alone. A block without shortcut passes its input on.
        """
        if removed and self.add is None:
            return x
        instead = {id(self.add.output): self.add.input[1]} if removed and self.add else {}
        return evaluate(self.layers, {id(self.input): x}, [self.output], instead)[0]


#: A unit by its place in the chain, and whether its branch is left out.
Step = tuple[int, bool]


class Chain:
    """A network as units in a row.

    Args:
        model: functional, one input, one output.

    Raises:
        UserError: blocks are connected in another way than one after another.
    """

    def __init__(self, model: Any) -> None:
        groups: dict[str, list[Any]] = {}
        between = ""
        for op in operations(model):
            match = _BLOCK.match(op.name)
            between = "" if match else between or op.name
            # Keras orders by distance from the output: a block's layers need not be in a row.
            groups.setdefault(match[1] if match else between, []).append(op)
        self.model = model
        self.units = [self._unit(name, ops) for name, ops in groups.items()]
        before = model.input
        for unit in self.units:
            if unit.input is not before:
                raise UserError(f"{model.name}: {unit.name} does not follow the block before it")
            before = unit.output
        if before is not tensors(model.output)[0]:
            raise UserError(f"{model.name}: the output is not that of its last block")

    def _unit(self, name: str, ops: list[Any]) -> Unit:
        made = {id(tensor) for op in ops for tensor in tensors(op.output)}
        inside = {id(op) for op in ops}
        outer = {id(t): t for op in ops for t in tensors(op.input) if id(t) not in made}
        ends = {id(tensor) for tensor in tensors(self.model.output)}
        for op in operations(self.model):
            if id(op) not in inside:
                ends.update(id(tensor) for tensor in tensors(op.input))
        outputs = [t for op in ops for t in tensors(op.output) if id(t) in ends]
        if len(outer) != 1 or len(outputs) != 1:
            raise UserError(
                f"{self.model.name}: {name} has {len(outer)} inputs and {len(outputs)} outputs; "
                "blocks must stand one after another"
            )
        match = _BLOCK.match(name + "_")
        add = next((op for op in ops if match and op.name == f"{name}_add"), None)
        if add is not None and len(tensors(add.input)) != 2:
            raise UserError(f"{self.model.name}: {add.name} does not add a branch to a shortcut")
        stage = int(match[2]) if match else 0
        (entry,) = outer.values()
        return Unit(name, stage, tuple(ops), entry, outputs[0], add)

    @property
    def blocks(self) -> list[str]:
        """Names of the blocks, in order."""
        return [unit.name for unit in self.units if unit.stage]

    @property
    def removable(self) -> list[str]:
        """Names of the blocks that can be left out."""
        return [unit.name for unit in self.units if unit.removable]

    def interchangeable(self) -> list[list[str]]:
        """Return the blocks that can take one another's place: of a stage, shape kept."""
        stages: dict[int, list[str]] = {}
        for unit in self.units:
            if unit.stage and unit.keeps_shape:
                stages.setdefault(unit.stage, []).append(unit.name)
        return [names for names in stages.values() if len(names) > 1]

    def steps(
        self, remove: Collection[str] = (), order: Sequence[str] | None = None
    ) -> tuple[Step, ...]:
        """Return the network with blocks left out and reordered.

        Args:
            remove: names of blocks.
            order: the names of all blocks in their new order; None: as they are.

        Raises:
            UserError: a name is unknown, or the shapes do not allow it.
        """
        for name in (*remove, *(order or ())):
            if name not in self.blocks:
                raise UserError(unknown("block", name, self.blocks))
        for name in remove:
            if name not in self.removable:
                raise UserError(f"{name} changes the shape and has no shortcut: it must stay")
        new = iter(self._reordered(self.blocks if order is None else list(order)))
        places = {unit.name: place for place, unit in enumerate(self.units)}
        names = [next(new) if unit.stage else unit.name for unit in self.units]
        return tuple((places[name], name in remove) for name in names)

    def _reordered(self, order: list[str]) -> list[str]:
        if sorted(order) != sorted(self.blocks):
            raise UserError(f"an order must name each of the {len(self.blocks)} blocks once")
        alike = {name: group for group in self.interchangeable() for name in group}
        for old, new in zip(self.blocks, order, strict=True):
            if old != new and new not in alike.get(old, ()):
                raise UserError(f"{new} cannot stand in the place of {old}: another stage or shape")
        return order

    def __call__(self, x: Any, steps: Sequence[Step]) -> Any:
        """Return the output for an input, symbolic or not; `steps` from `Chain.steps`."""
        for place, removed in steps:
            x = self.units[place](x, removed)
        return x
