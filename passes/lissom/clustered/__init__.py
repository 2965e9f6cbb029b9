"""Options whose channels are put into clusters of equal size: tiles of a weight, and stems of one colour a filter."""
