"""Write manifests of recordings for corpora that people have. Media stay where they are.

Modules:
    ami.py        Reads AMI meetings: four people, each with a headset microphone and a close-up camera
    imported.py   Defines what an importer finds, and writes the manifest from it
    seamless.py   Reads Seamless Interaction (Meta, 2025): two people, each filmed and recorded apart
    stereo.py     Reads a folder of two-channel sound files, one speaker a channel
"""
