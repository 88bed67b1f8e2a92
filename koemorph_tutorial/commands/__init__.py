"""The commands of `koemorph`, by what they are about."""
