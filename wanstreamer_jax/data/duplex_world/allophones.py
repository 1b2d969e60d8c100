"""How phones sound among their neighbours.

Stops before vowels and elsewhere, dark l, vowels before voiceless sounds.
Facts of English phonetics (Ladefoged, A Course in Phonetics; Klatt 1979 for durations), without which a recogniser and
people hear other words: an l for a stop that is not abrupt, "heat" for "head".
"""

import dataclasses

from wanstreamer_jax.data.duplex_world.phones import PHONES, SILENCE, PhoneSegment

VOICELESS = ("P", "T", "K", "CH", "F", "TH", "S", "SH")
OBSTRUENTS = (*VOICELESS, "B", "D", "G", "JH", "V", "DH", "Z", "ZH")
_STOPS = ("P", "T", "K", "B", "D", "G")
_DARK_L = PhoneSegment(100, (460.0, 830.0, 2700.0), voice=0.9, glide=1.0)
_LATE_R = PhoneSegment(115, (460.0, 1250.0, 1590.0), voice=1.0, glide=0.5)
_FLAP = PhoneSegment(30, (330.0, 1750.0, 2650.0), voice=0.35, blend=0.3, bar=0.3)
_FRONTED = ("Y", "T", "D", "N", "S", "Z", "CH", "JH", "SH")  # behind these the tongue of "oo" is still in front


def realised(name: str, before: str, after: str, accent_follows: bool) -> tuple[PhoneSegment, ...]:
  """The segments of a phone between two others (names without stress, SILENCE at a pause or an end).

  accent_follows: whether the next phone is an accented vowel.
  """
  segments = PHONES[name].segments
  if name == "L" and not PHONES[after].vowel and after != "Y":
    return (_DARK_L,)
  if name == "R" and PHONES[before].vowel and not PHONES[after].vowel:
    return (_LATE_R,)
  if name == "UW" and before in _FRONTED:
    start = dataclasses.replace(segments[0], ms=segments[0].ms / 2, formants=(340.0, 1650.0, 2350.0))
    return start, dataclasses.replace(segments[0], ms=segments[0].ms / 2)
  if name in ("T", "D") and PHONES[before].vowel and PHONES[after].vowel and not accent_follows:
    return (_FLAP,)
  if name not in _STOPS:
    return segments
  closure, burst, release = segments
  if before == SILENCE:
    closure = dataclasses.replace(closure, voice=0.5 * closure.voice)
  if PHONES[after].vowel or after in ("R", "L", "W", "Y", "HH"):
    if before == "S" and name in VOICELESS:  # "stop": no breath
      release = dataclasses.replace(release, ms=10, breath=0.5 * release.breath)
    return closure, burst, release
  if after == SILENCE:  # released quietly
    burst = dataclasses.replace(burst, gain=0.7 * burst.gain)
    return closure, burst, dataclasses.replace(release, voice=0.0, breath=0.5 * release.breath, ms=25)
  # Before a consonant the release is hardly heard.
  burst = dataclasses.replace(burst, gain=0.5 * burst.gain)
  return closure, burst, dataclasses.replace(release, ms=8, voice=0.0, breath=0.3 * release.breath)


def length(name: str, after: str) -> float:
  """How much longer a vowel is than usual before the next phone of its word (SILENCE if there is none)."""
  if not PHONES[name].vowel:
    return 1.0
  if after in VOICELESS:
    return 0.8
  return 1.12 if after in OBSTRUENTS or after == SILENCE else 1.0
