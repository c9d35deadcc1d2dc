"""Running a detector, measuring it and looking at its results."""
