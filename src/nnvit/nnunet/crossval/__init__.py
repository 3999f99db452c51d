"""The folds of a cross-validation: trained one after the other, and evaluated together."""
