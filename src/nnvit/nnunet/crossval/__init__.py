"""The folds of a cross-validation: trained one after another, and evaluated together."""
