"""What is compared: arms with their runs, what their trainings recorded, and the masks."""
