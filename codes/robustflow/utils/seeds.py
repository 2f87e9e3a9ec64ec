"""Seeds that depend on what they are for, and on nothing else."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Hash ``parts`` (purpose, run seed, image name, sample number, ...) to a seed in [0, 2^63).

    The same in every process, on every machine and Python version; order and type of the parts matter.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        # Length first, so that ("ab", "c") and ("a", "bc") differ; surrogates occur in undecodable file names.
        text = str(part).encode("utf-8", "surrogatepass")
        digest.update(f"{'s' if isinstance(part, str) else 'i'}{len(text)}:".encode() + text)
    return int.from_bytes(digest.digest(), "big") >> 1
