"""The methods: specs that load nothing heavy, and the PyTorch code that carries them out."""
