"""Training: the trainer, its loop and everything that one fold's training needs."""
