"""Phones of English: how they sound, how the mouth looks, and how words are spelled. Formant targets and sources give
the sound, and visemes give the mouth.

Formant targets are adult-male values in Hz after Peterson and Barney (1952) and Klatt (1980); a voice scales them.
Words outside `LEXICON` are spelled by a few letter-to-sound rules, so that any text can be spoken.
"""

import dataclasses
import functools
import re

from wanstreamer_jax.data.duplex_world.pronunciations import WORDS
from wanstreamer_jax.errors import DataError

SILENCE = "SIL"


@dataclasses.dataclass(frozen=True)
class PhoneSegment:
  """A steady piece of a phone: a target that formants glide to, and the strengths of the three sources.

  `blend` is the share of the formants that is taken from the next vowel (1 for `h`, a whisper of that vowel).
  """

  ms: float
  formants: tuple[float, float, float]
  voice: float = 0.0  # glottal pulses
  breath: float = 0.0  # aspiration, through the same formants
  noise: str = ""  # frication or burst spectrum, a key of NOISES
  gain: float = 0.0  # of that noise
  nasal: float = 0.0
  blend: float = 0.0
  glide: float = 0.0  # 1: formants move slowly here
  zero: float = 750.0  # Hz; what the closed mouth takes away of a nasal: the shorter the mouth behind it, the higher
  bar: float = 0.0  # 1: the mouth is closed, and the voice is heard through cheeks and throat


@dataclasses.dataclass(frozen=True)
class PhoneSpec:
  """Segments in time, and the mouth: how open, how wide (lips spread) and how round it is, each 0..1."""

  segments: tuple[PhoneSegment, ...]
  mouth: tuple[float, float, float]
  vowel: bool = False


# Noise spectra: (centre Hz, width Hz below it, width Hz above it, floor) of a bell on a floor.
NOISES = {
  "s": (4700.0, 1000.0, 3000.0, 0.0),
  "sh": (2600.0, 450.0, 2500.0, 0.01),
  "f": (5500.0, 4500.0, 4500.0, 0.45),
  "th": (6300.0, 3000.0, 3500.0, 0.25),
  "p": (1200.0, 900.0, 1800.0, 0.35),
  "t": (3300.0, 900.0, 2800.0, 0.10),
  "k": (2000.0, 600.0, 1200.0, 0.20),
  "k front": (2900.0, 700.0, 1300.0, 0.20),
  "k back": (1350.0, 450.0, 1000.0, 0.20),
}


def _vowel(ms: float, mouth: tuple[float, float, float], *targets: tuple[float, float, float]) -> PhoneSpec:
  shares = (1.0,) if len(targets) == 1 else (0.5, 0.5)
  segments = tuple(PhoneSegment(ms * share, target, voice=1.0) for share, target in zip(shares, targets))
  return PhoneSpec(segments, mouth, vowel=True)


def _sonorant(
  ms: float, formants: tuple[float, float, float], voice: float, mouth: tuple[float, float, float], nasal: float = 0.0,
  glide: float = 0.0, zero: float = 750.0,
) -> PhoneSpec:  # fmt: skip
  segment = PhoneSegment(ms, formants, voice=voice, nasal=nasal, blend=0.1, glide=glide, zero=zero)
  return PhoneSpec((segment,), mouth)


def _fricative(
  ms: float, formants: tuple[float, float, float], noise: str, gain: float, voice: float,
  mouth: tuple[float, float, float],
) -> PhoneSpec:  # fmt: skip
  bar = 0.3 if voice else 0.0
  return PhoneSpec((PhoneSegment(ms, formants, voice=voice, noise=noise, gain=gain, blend=0.3, bar=bar),), mouth)


def _plosive(
  formants: tuple[float, float, float], noise: str, gain: float, voiced: bool, mouth: tuple[float, float, float]
) -> PhoneSpec:
  """Closure (with a voice bar when voiced), burst, then aspiration into the next vowel when voiceless."""
  blend = {"p": 0.6, "t": 0.3, "k": 0.7}[noise]  # how far the tongue already is at the vowel
  closure = PhoneSegment(48 if voiced else 60, formants, voice=0.3 if voiced else 0.0, blend=0.5 * blend, bar=1.0)
  burst = PhoneSegment(
    10 if voiced else 14, formants, noise=noise, gain=gain, voice=0.1 if voiced else 0.0, blend=blend, bar=0.2
  )
  after = (
    PhoneSegment(8, formants, voice=0.6, blend=blend) if voiced else PhoneSegment(36, formants, breath=0.4, blend=blend)
  )
  return PhoneSpec((closure, burst, after), mouth)


def _affricate(noise_gain: float, voiced: bool) -> PhoneSpec:
  locus = (300.0, 1750.0, 2550.0)
  closure = PhoneSegment(45, locus, voice=0.3 if voiced else 0.0, blend=0.2, bar=1.0)
  burst = PhoneSegment(10, locus, noise="t", gain=0.5, blend=0.3)
  hiss = PhoneSegment(55 if voiced else 75, locus, noise="sh", gain=noise_gain, voice=0.1 if voiced else 0.0, blend=0.4)
  return PhoneSpec((closure, burst, hiss), (0.18, 0.35, 0.55))


PHONES: dict[str, PhoneSpec] = {
  SILENCE: PhoneSpec((PhoneSegment(120, (500.0, 1500.0, 2500.0)),), (0.0, 0.45, 0.0)),
  "IY": _vowel(125, (0.28, 1.0, 0.0), (300, 2300, 3000)),
  "IH": _vowel(85, (0.36, 0.75, 0.0), (415, 2010, 2620)),
  "EH": _vowel(105, (0.58, 0.7, 0.0), (575, 1800, 2560)),
  "AE": _vowel(140, (0.8, 0.8, 0.0), (680, 1750, 2450)),
  "AA": _vowel(140, (1.0, 0.5, 0.1), (750, 1160, 2480)),
  "AO": _vowel(140, (0.8, 0.25, 0.6), (600, 900, 2450)),
  "UH": _vowel(85, (0.4, 0.2, 0.7), (460, 1090, 2330)),
  "UW": _vowel(125, (0.28, 0.05, 1.0), (340, 1200, 2300)),
  "AH": _vowel(95, (0.6, 0.5, 0.1), (630, 1210, 2480)),
  "AX": _vowel(60, (0.38, 0.5, 0.1), (500, 1400, 2400)),
  "ER": _vowel(125, (0.4, 0.3, 0.55), (475, 1350, 1690)),
  "EY": _vowel(145, (0.5, 0.85, 0.0), (480, 1950, 2580), (330, 2280, 2880)),
  "AY": _vowel(165, (0.85, 0.65, 0.0), (740, 1220, 2480), (420, 1980, 2600)),
  "OW": _vowel(150, (0.5, 0.15, 0.9), (540, 1000, 2400), (390, 860, 2300)),
  "AW": _vowel(165, (0.85, 0.4, 0.35), (750, 1250, 2450), (420, 920, 2300)),
  "OY": _vowel(170, (0.6, 0.35, 0.6), (560, 860, 2400), (370, 1950, 2550)),
  "W": _sonorant(105, (290, 600, 2150), 0.6, (0.15, 0.0, 1.0), glide=1.0),
  "Y": _sonorant(105, (270, 2200, 2950), 0.7, (0.2, 0.9, 0.0), glide=1.0),
  "R": _sonorant(100, (390, 1200, 1540), 0.95, (0.25, 0.3, 0.55), glide=0.5),
  "L": _sonorant(95, (370, 1000, 2800), 0.9, (0.35, 0.5, 0.1)),
  "M": _sonorant(78, (270, 1000, 2200), 0.75, (0.0, 0.4, 0.1), nasal=1.0),
  "N": _sonorant(76, (270, 1600, 2600), 0.75, (0.2, 0.55, 0.0), nasal=1.0, zero=1500.0),
  "NG": _sonorant(95, (270, 2200, 2600), 0.75, (0.3, 0.5, 0.0), nasal=1.0, zero=2800.0),
  "S": _fricative(130, (320, 1500, 2600), "s", 0.9, 0.0, (0.12, 0.75, 0.0)),
  "SH": _fricative(140, (300, 1750, 2550), "sh", 1.0, 0.0, (0.2, 0.2, 0.7)),
  "F": _fricative(112, (340, 1050, 2250), "f", 0.2, 0.0, (0.06, 0.5, 0.0)),
  "TH": _fricative(112, (320, 1350, 2600), "th", 0.18, 0.0, (0.2, 0.5, 0.0)),
  "Z": _fricative(98, (240, 1500, 2600), "s", 0.65, 0.15, (0.12, 0.75, 0.0)),
  "ZH": _fricative(98, (240, 1750, 2550), "sh", 0.6, 0.15, (0.2, 0.2, 0.7)),
  "V": _fricative(70, (240, 1050, 2250), "f", 0.16, 0.3, (0.06, 0.5, 0.0)),
  "DH": _fricative(60, (240, 1350, 2600), "th", 0.12, 0.32, (0.2, 0.5, 0.0)),
  "HH": PhoneSpec((PhoneSegment(70, (500, 1500, 2500), breath=0.25, blend=1.0),), (0.4, 0.5, 0.1)),
  "P": _plosive((320, 900, 2150), "p", 0.25, False, (0.0, 0.45, 0.0)),
  "B": _plosive((300, 900, 2150), "p", 0.3, True, (0.0, 0.45, 0.0)),
  "T": _plosive((320, 1750, 2650), "t", 0.55, False, (0.18, 0.6, 0.0)),
  "D": _plosive((300, 1750, 2650), "t", 0.4, True, (0.18, 0.6, 0.0)),
  "K": _plosive((320, 1900, 2350), "k", 0.55, False, (0.3, 0.5, 0.0)),
  "G": _plosive((300, 1900, 2350), "k", 0.45, True, (0.3, 0.5, 0.0)),
  "CH": _affricate(0.95, False),
  "JH": _affricate(0.75, True),
}

# Vowels carry stress: "1" marks the accented one of a word. Words without a "1" are spoken lightly (function words).
_LEXICON_TEXT = """
a AX|about AX B AW1 T|ada EY1 D AX|all AO1 L|am AE M|amber AE1 M B ER|and AE N D|answer AE1 N S ER|apple AE1 P AX L
are AA R|at AE T|back B AE1 K|ball B AO1 L|bear B EH1 R|bell B EH1 L|berlin B ER L IH1 N|bird B ER1 D|black B L AE1 K
blue B L UW1|boat B OW1 T|book B UH1 K|books B UH1 K S|boring B AO1 R IH NG|bread B R EH1 D|bus B AH1 S
busy B IH1 Z IY|bye B AY1|cairo K AY1 R OW|cake K EY1 K|can K AE N|cat K AE1 T|cats K AE1 T S|chess CH EH1 S
circle S ER1 K AX L|circles S ER1 K AX L Z|cold K OW1 L D|colour K AH1 L ER|cook K UH1 K|count K AW1 N T
cross K R AO1 S|crosses K R AO1 S AX Z|dance D AE1 N S|day D EY1|dinner D IH1 N ER|do D UW|doctor D AA1 K T ER
dog D AO1 G|dogs D AO1 G Z|door D AO1 R|drink D R IH1 NG K|driver D R AY1 V ER|eight EY1 T|eighteen EY T IY1 N
eleven IX L EH1 V AX N|emma EH1 M AX|evening IY1 V N IH NG|farmer F AA1 R M ER|fifteen F IH F T IY1 N|fine F AY1 N
finn F IH1 N|fish F IH1 SH|five F AY1 V|flower F L AW1 ER|for F AO R|four F AO1 R|fourteen F AO R T IY1 N
friend F R EH1 N D|from F R AH M|fun F AH1 N|game G EY1 M|garden G AA1 R D AX N|give G IH1 V|go G OW1|good G UH1 D
got G AA1 T|great G R EY1 T|green G R IY1 N|had HH AE1 D|hand HH AE1 N D|happy HH AE1 P IY|have HH AE V
heart HH AA1 R T|hearts HH AA1 R T S|hello HH AX L OW1|here HH IH1 R|hey HH EY1|hi HH AY1|holding HH OW1 L D IH NG
home HH OW1 M|honey HH AH1 N IY|horse HH AO1 R S|hot HH AA1 T|house HH AW1 S|how HH AW1|hugo HH Y UW1 G OW|i AY
i'm AY M|in IH N|interesting IH1 N T R EH S T IH NG|is IH Z|it IH T|iris AY1 R IH S|island AY1 L AX N D|job JH AA1 B
june JH UW1 N|just JH AH S T|keep K IY1 P|kenji K EH1 N JH IY|lamp L AE1 M P|last L AE1 S T|late L EY1 T
lemon L EH1 M AX N|leo L IY1 OW|like L AY1 K|lima L IY1 M AX|lion L AY1 AX N|live L IH1 V|lisbon L IH1 Z B AX N
london L AH1 N D AX N|long L AO1 NG|look L UH1 K|love L AH1 V|lunch L AH1 N CH|made M EY1 D|makes M EY1 K S
many M EH1 N IY|mara M AA1 R AX|market M AA1 R K AX T|me M IY|met M EH1 T|mhm M HH M1|milk M IH1 L K|mina M IY1 N AX
mirror M IH1 R ER|money M AH1 N IY|moon M UW1 N|morning M AO1 R N IH NG|much M AH1 CH|music M Y UW1 Z IH K|my M AY
name N EY1 M|named N EY1 M D|new N UW1|nice N AY1 S|night N AY1 T|nine N AY1 N|nineteen N AY N T IY1 N|no N OW1
noah N OW1 AX|nora N AO1 R AX|now N AW1|nurse N ER1 S|object AA1 B JH EH K T|of AX V|oh OW1|okay OW K EY1
old OW1 L D|omar OW1 M AA R|on AA N|one W AH1 N|orange AO1 R AX N JH|oslo AA1 Z L OW|our AW R|out AW T
painter P EY1 N T ER|paper P EY1 P ER|paris P AE1 R IH S|park P AA1 R K|pasta P AA1 S T AX|pet P EH1 T
piano P IY AE1 N OW|pilot P AY1 L AX T|pink P IH1 NG K|plant P L AE1 N T|play P L EY1|please P L IY1 Z|plus P L AH1 S
purple P ER1 P AX L|rabbit R AE1 B IH T|rain R EY1 N|rainy R EY1 N IY|raining R EY1 N IH NG|red R EH1 D
repeat R IH P IY1 T|rice R AY1 S|river R IH1 V ER|road R OW1 D|rome R OW1 M|rosa R OW1 Z AX|sam S AE1 M
saw S AO1|say S EY1|school S K UW1 L|sea S IY1|see S IY1|seven S EH1 V AX N|seventeen S EH V AX N T IY1 N
shape SH EY1 P|shapes SH EY1 P S|show SH OW1|shows SH OW1 Z|showing SH OW1 IH NG|sister S IH1 S T ER|six S IH1 K S
sixteen S IH K S T IY1 N|sleep S L IY1 P|slow S L OW1|snow S N OW1|so S OW|song S AO1 NG|soup S UW1 P
square S K W EH1 R|squares S K W EH1 R Z|star S T AA1 R|stars S T AA1 R Z|stop S T AA1 P|storm S T AO1 R M
sum S AH1 M|summer S AH1 M ER|sunny S AH1 N IY|table T EY1 B AX L|tea T IY1|teacher T IY1 CH ER|tell T EH1 L
ten T EH1 N|thank TH AE1 NG K|that DH AE T|thats DH AE T S|the DH AX|them DH EH M|then DH EH N|there DH EH1 R
these DH IY1 Z|thing TH IH1 NG|things TH IH1 NG Z|think TH IH1 NG K|thirteen TH ER T IY1 N|this DH IH1 S
three TH R IY1|tiger T AY1 G ER|tired T AY1 ER D|to T AX|today T AX D EY1|tokyo T OW1 K Y OW|train T R EY1 N
tree T R IY1|triangle T R AY1 AE NG G AX L|triangles T R AY1 AE NG G AX L Z|twelve T W EH1 L V
twenty T W EH1 N T IY|two T UW1|up AH P|very V EH1 R IY|vera V IH1 R AX|wait W EY1 T|walk W AO1 K|want W AA1 N T
warm W AO1 R M|was W AX Z|water W AO1 T ER|we W IY|weather W EH1 DH ER|well W EH1 L|went W EH1 N T|what W AA T
whats W AA T S|where W EH R|which W IH CH|white W AY1 T|who HH UW|wind W IH1 N D|window W IH1 N D OW
winter W IH1 N T ER|with W IH TH|wool W UH1 L|word W ER1 D|words W ER1 D Z|work W ER1 K|yellow Y EH1 L OW|yes Y EH1 S
you Y UW|your Y AO R|zoe Z OW1 IY|enough IH N AH1 F|okay OW K EY1|favourite F EY1 V R IH T|city S IH1 T IY
number N AH1 M B ER|first F ER1 S T|after AE1 F T ER|again AX G EH1 N|also AO1 L S OW|became B IH K EY1 M
but B AH T|call K AO1 L|called K AO1 L D|came K EY1 M|could K UH D|did D IH1 D|every EH1 V R IY|family F AE1 M L IY
found F AW1 N D|gave G EY1 V|her HH ER|him HH IH M|his HH IH Z|little L IH1 T AX L|lost L AO1 S T|mother M AH1 DH ER
not N AA1 T|ran R AE1 N|she SH IY|he HH IY|they DH EY|took T UH1 K|us AH S|week W IY1 K|were W ER
yesterday Y EH1 S T ER D EY|all AO1 L|right R AY1 T|sure SH UH1 R|let L EH1 T|lets L EH1 T S|makes M EY1 K S
add AE1 D|equals IY1 K W AX L Z|too T UW1|weekend W IY1 K EH N D|have HH AE V|has HH AE Z|by B AY|hold HH OW1 L D
hm HH M1|stars S T AA1 R Z|mimi M IY1 M IY|as AE Z|told T OW1 L D|bit B IH1 T|thats DH AE T S
"""


def _parse(text: str) -> dict[str, tuple[str, ...]]:
  entries = (entry.strip().split() for line in text.strip().splitlines() for entry in line.split("|"))
  return {entry[0]: tuple("IH" if phone == "IX" else phone for phone in entry[1:]) for entry in entries if entry}


LEXICON: dict[str, tuple[str, ...]] = _parse(_LEXICON_TEXT) | _parse(WORDS)

# Longest match first; letters without a rule are silent. It suffices for names and rare words.
_LETTERS = {
  "tion": "SH AX N", "ight": "AY T", "ough": "OW", "eigh": "EY", "tch": "CH", "igh": "AY", "oor": "AO R", "air": "EH R",
  "are": "EH R", "ear": "IH R", "our": "AO R", "sch": "S K", "ch": "CH", "sh": "SH", "th": "TH", "ph": "F", "wh": "W",
  "ck": "K", "ng": "NG", "qu": "K W", "kn": "N", "wr": "R", "ee": "IY", "ea": "IY", "oo": "UW", "ou": "AW", "ow": "OW",
  "oa": "OW", "ai": "EY", "ay": "EY", "oi": "OY", "oy": "OY", "au": "AO", "aw": "AO", "ie": "IY", "ei": "EY",
  "ar": "AA R", "er": "ER", "ir": "ER", "or": "AO R", "ur": "ER", "ll": "L", "ss": "S", "tt": "T", "nn": "N", "mm": "M",
  "pp": "P", "rr": "R", "ff": "F", "dd": "D", "bb": "B", "gg": "G", "a": "AE", "b": "B", "c": "K", "d": "D", "e": "EH",
  "f": "F", "g": "G", "h": "HH", "i": "IH", "j": "JH", "k": "K", "l": "L", "m": "M", "n": "N", "o": "AA", "p": "P",
  "r": "R", "s": "S", "t": "T", "u": "AH", "v": "V", "w": "W", "x": "K S", "y": "IY", "z": "Z",
}  # fmt: skip
_LONG = {"a": "EY", "i": "AY", "o": "OW", "u": "UW", "e": "IY"}


def _spell_out(word: str) -> tuple[str, ...]:
  """Letter-to-sound rules with a magic final e; the first vowel takes the stress."""
  phones: list[str] = []
  magic = re.search(r"([aeiou])([^aeiouwxy])e$", word)
  body, index = (word[:-1] if magic else word), 0
  while index < len(body):
    if magic and index == magic.start():
      phones.append(_LONG[body[index]])
      index += 1
      continue
    for size in (4, 3, 2, 1):
      rule = _LETTERS.get(body[index : index + size])
      if rule is not None:
        phones.extend(rule.split())
        index += size
        break
    else:
      index += 1
  for index, phone in enumerate(phones):
    if PHONES[phone].vowel:
      phones[index] = phone + "1"
      break
  return tuple(phones)


@functools.cache
def pronounce(word: str) -> tuple[str, ...]:
  """Phones of a word, with "1" on the accented vowel. Raises DataError for a word without any letter."""
  known = LEXICON.get(word)
  if known:
    return known
  letters = re.sub(r"[^a-z]", "", word.lower())
  phones = LEXICON.get(letters) or _spell_out(letters)
  if not phones:
    raise DataError(f"cannot pronounce {word!r}: expected a word with letters a-z; spell numbers out")
  return phones
