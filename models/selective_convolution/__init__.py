"""Training with selective allocation of channels (Jeong and Shin, ICML 2019)."""
