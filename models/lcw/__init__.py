"""Generative model with kernel distances: Cramer-Wold autoencoder and latent generator."""
