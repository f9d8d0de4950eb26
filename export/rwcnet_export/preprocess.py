"""What `rwcnet_runtime.preprocess` does, as ONNX functions: intensities, and padding.

A graph can refuse nothing in a sentence. What the runtime refuses makes `usable` false, and the
image the network is given stays finite all the same.
"""

from __future__ import annotations


def padding_function(multiple: int) -> str:
    """Return a function as text: image size (3,) to the `pads` of Pad, (10,), and their start.

    As `rwcnet_runtime.preprocess.Padding.to_multiple` has it, all int64.
    """
    return f"""
    Margins (size) => (pads, before) {{
        zero = Constant <value_ints = [0]> ()
        two = Constant <value_ints = [2]> ()
        multiple = Constant <value_ints = [{multiple}]> ()
        negative = Neg (size)
        to_multiple = Mod (negative, multiple)
        twice = Mul (two, multiple)
        to_twice = Sub (twice, size)
        added = Max (to_multiple, to_twice)
        before = Div (added, two)
        after = Sub (added, before)
        pads = Concat <axis = 0> (zero, zero, before, zero, zero, after)
    }}"""


def intensity_functions(fixed_range: tuple[float, float] | None) -> list[str]:
    """Return functions as text, the last of them `Intensities (image) => (normalised, usable)`.

    Parameters
    ----------
    fixed_range
        As `rwcnet_runtime.preprocess.normalise` takes it.
    """
    if fixed_range is None:
        return [_LOW_PERCENTILE, _HEAD + _PERCENTILES]
    lowest, highest = fixed_range
    return [_HEAD + _fixed_range(lowest, highest)]


# Nothing times a voxel is nothing, unless the voxel is infinite or no number. Such an image goes
# on as zeros, which are no more usable than any other constant image.
_HEAD = """
    Intensities (image) => (normalised, usable) {
        zero = Constant <value = float {0.0}> ()
        nothings = Mul (image, zero)
        sum = ReduceSum <keepdims = 0> (nothings)
        finite = Equal (sum, zero)
        values = Where (finite, image, zero)
        least = ReduceMin <keepdims = 0> (values)
        most = ReduceMax <keepdims = 0> (values)"""


def _fixed_range(lowest: float, highest: float) -> str:
    return f"""
        usable = Greater (most, least)
        low = Constant <value = float {{{lowest}}}> ()
        spread = Constant <value = float {{{highest - lowest}}}> ()
        shifted = Sub (values, low)
        normalised = Div (shifted, spread)
    }}"""


# Of a constant image all voxels count, as there must be some to sort.
_PERCENTILES = """
        any = Constant <value_ints = [-1]> ()
        one = Constant <value = float {1.0}> ()
        above = Greater (values, least)
        constant = Equal (least, most)
        counted = Or (above, constant)
        condition = Reshape (counted, any)
        foreground = Compress (values, condition)
        low = rwcnet.LowPercentile (foreground)
        mirrored = Neg (foreground)
        low_mirrored = rwcnet.LowPercentile (mirrored)
        high = Neg (low_mirrored)
        usable = Greater (high, low)
        range = Sub (high, low)
        spread = Where (usable, range, one)
        shifted = Sub (values, low)
        scaled = Div (shifted, spread)
        normalised = Clip (scaled, zero, one)
    }"""

# Percentile 0.5, (n,) to a scalar. Its place among the sorted values is a whole number of
# thousandths, and only the values up to there are sorted.
_LOW_PERCENTILE = """
    LowPercentile (values) => (percentile) {
        one = Constant <value_ints = [1]> ()
        two = Constant <value_ints = [2]> ()
        five = Constant <value_ints = [5]> ()
        thousand = Constant <value_ints = [1000]> ()
        count = Shape (values)
        last = Sub (count, one)
        place = Mul (last, five)
        index = Div (place, thousand)
        thousandths = Mod (place, thousand)
        next = Add (index, one)
        index_above = Min (next, last)
        wanted = Add (index, two)
        sorted_count = Min (wanted, count)
        lowest, places = TopK <largest = 0> (values, sorted_count)
        low = Gather (lowest, index)
        high = Gather (lowest, index_above)
        thousandths_f = Cast <to = 1> (thousandths)
        thousand_f = Cast <to = 1> (thousand)
        share = Div (thousandths_f, thousand_f)
        difference = Sub (high, low)
        part = Mul (difference, share)
        between = Add (low, part)
        percentile = Squeeze (between)
    }"""
