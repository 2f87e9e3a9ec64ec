"""Working in a flow's latent space: restoration, transfer of style and content, likelihoods, samples."""
