"""Raw access to float32 buffers for compiled loops, so that LLVM vectorizes them.

Three properties of numba arrays prevent the vectorization of a stencil: negative indices wrap
around, arrays are reference-counted, and two arrays may overlap. A tile is therefore stored in one
buffer at offsets known at compile time, and accessed through its address.
"""

from typing import no_type_check

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_FLOAT, _INT, _SHORT = ir.FloatType(), ir.IntType(32), ir.IntType(16)


@intrinsic
@no_type_check
def pointer(typing, array):
    """Address of a contiguous float32 array; the caller keeps the array alive."""

    def emit(context, builder, signature, args):
        return context.make_array(signature.args[0])(context, builder, args[0]).data

    return types.CPointer(types.float32)(array), emit


@intrinsic
@no_type_check
def moved(typing, address, count):
    """The address of the float32 that lies ``count`` after ``address``."""

    def emit(context, builder, signature, args):
        return builder.gep(args[0], [args[1]], inbounds=True)

    return address(address, types.intp), emit


@intrinsic
@no_type_check
def load(typing, address, index):
    """The float32 at ``address[index]``."""

    def emit(context, builder, signature, args):
        value = builder.load(builder.gep(args[0], [args[1]], inbounds=True))
        value.set_metadata("noalias", _constants_scope(builder.module))
        return value

    return types.float32(address, types.intp), emit


@intrinsic
@no_type_check
def load_constant(typing, address, index):
    """The float32 at ``address[index]``, apart from all that :func:`load` and :func:`store` touch.

    So a loop that stores may gather it.
    """

    def emit(context, builder, signature, args):
        return _gathered(builder, args, _FLOAT, _FLOAT)

    return types.float32(address, types.intp), emit


@intrinsic
@no_type_check
def load_shorts(typing, address, index):
    """Like :func:`load_constant`: the 16-bit numbers ``index`` and ``index`` + 1, in an int32."""

    def emit(context, builder, signature, args):
        return _gathered(builder, args, _SHORT, _INT, 2)

    return types.int32(address, types.intp), emit


def _gathered(builder, args, unit, kind, align=None):
    """Load a ``kind`` from the ``args[1]``-th ``unit`` after the address ``args[0]``."""
    start = builder.bitcast(args[0], unit.as_pointer())
    place = builder.gep(start, [args[1]], inbounds=True)
    value = builder.load(builder.bitcast(place, kind.as_pointer()), align=align)
    value.set_metadata("alias.scope", _constants_scope(builder.module))
    return value


def _constants_scope(module):
    """LLVM's name for the memory that :func:`load_constant` reads."""
    domain = module.add_metadata(["sextant"])
    return module.add_metadata([module.add_metadata(["constants", domain])])


@intrinsic
@no_type_check
def store(typing, address, index, value):
    """``address[index] = value``."""

    def emit(context, builder, signature, args):
        stored = builder.store(args[2], builder.gep(args[0], [args[1]], inbounds=True))
        stored.set_metadata("noalias", _constants_scope(builder.module))
        return context.get_dummy_value()

    return types.none(address, types.intp, types.float32), emit


@intrinsic
@no_type_check
def square_root(typing, value):
    """Square root as an LLVM intrinsic; numba's calls the C library, which blocks vectorization."""

    def emit(context, builder, signature, args):
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [_FLOAT]), args)

    return types.float32(types.float32), emit


@intrinsic
@no_type_check
def bits(typing, value):
    """The 32 bits of a float32 as an int32."""

    def emit(context, builder, signature, args):
        return builder.bitcast(args[0], _INT)

    return types.int32(types.float32), emit


@intrinsic
@no_type_check
def from_bits(typing, value):
    """The float32 with these 32 bits."""

    def emit(context, builder, signature, args):
        return builder.bitcast(args[0], _FLOAT)

    return types.float32(types.int32), emit
