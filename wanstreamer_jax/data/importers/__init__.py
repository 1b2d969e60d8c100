"""Write manifests of recordings for corpora that people already have; media are neither copied nor converted.

Modules:
    ami.py        AMI meetings: four people, each with a headset microphone and a close-up camera
    imported.py   What an importer finds, and the manifest that is written from it
    seamless.py   Seamless Interaction (Meta, 2025): two people, each filmed and recorded apart
    stereo.py     A folder of two-channel sound files, a speaker in each channel: otoSpeech, Fisher, moshi-finetune, telephone calls
"""
