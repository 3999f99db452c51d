"""Recipes: what their keys are, how they are merged and checked, and what identifies them; the shipped ones lie in shipped/."""
