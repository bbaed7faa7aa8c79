"""Measuring: our tiers beside other libraries, against the float64 oracle and against what the machine can do.

=============  =========================================================================================
`grid`         the sizes that are measured
`problem`      one size and options with its inputs, weights and float64 oracle
`peers`        each other library, one function; our own tiers, and our LSTM with options
`method`       how everything is timed: clocks, quiet machine, alternating sides, median and spread
`threads`      the same number of threads on every side
`limits`       what a step must cost: operations, bytes, barriers; floors
`memory`       what there is, and what a step took
`trace`        the operations of a training step, one by one
`sweep`        all points of a grid, measured in this order
`record`       where, when and how; written after every point
`compare`      two records against each other
`report`       a page of charts from a record
=============  =========================================================================================
"""
