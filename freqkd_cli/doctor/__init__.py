"""The label doctor: find problems in the labels of a data set before training (`freqkd data`)."""
