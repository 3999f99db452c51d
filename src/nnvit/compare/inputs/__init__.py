"""The inputs of a comparison: arms with their runs, the records of their trainings, masks, ground truth, costs."""
