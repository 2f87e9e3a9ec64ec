"""Commands of the latent space under the names they had."""
