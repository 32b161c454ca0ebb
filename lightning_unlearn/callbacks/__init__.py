"""Lightning callbacks that accompany an unlearning run."""
