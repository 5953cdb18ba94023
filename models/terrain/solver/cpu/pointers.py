"""Raw access to float32 buffers for compiled loops, so that LLVM vectorizes them.

Three properties of numba arrays prevent the vectorization of a stencil: negative indices wrap
around, arrays are reference-counted, and two arrays may overlap. A tile is therefore stored in one
buffer at offsets known at compile time, and accessed through its address.
"""

from typing import no_type_check

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_FLOAT, _INT = ir.FloatType(), ir.IntType(32)


@intrinsic
@no_type_check
def pointer(typing, array):
    """Address of a contiguous float32 array; the caller keeps the array alive."""

    def emit(context, builder, signature, args):
        return context.make_array(signature.args[0])(context, builder, args[0]).data

    return types.CPointer(types.float32)(array), emit


@intrinsic
@no_type_check
def load(typing, address, index):
    """The float32 at ``address[index]``."""

    def emit(context, builder, signature, args):
        return builder.load(builder.gep(args[0], [args[1]], inbounds=True))

    return types.float32(address, types.intp), emit


@intrinsic
@no_type_check
def store(typing, address, index, value):
    """``address[index] = value``."""

    def emit(context, builder, signature, args):
        builder.store(args[2], builder.gep(args[0], [args[1]], inbounds=True))
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
