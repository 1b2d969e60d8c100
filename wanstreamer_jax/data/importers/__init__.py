"""Write manifests of recordings for corpora that people already have; media are neither copied nor converted.

Modules:
"""
