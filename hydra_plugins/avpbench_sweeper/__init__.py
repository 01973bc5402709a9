"""Hydra finds the sweeper here, by the package's name. Light: Hydra imports it whenever it composes a config."""
