"""The command line application: Hydra configurations in, a trained and certified network out."""
