"""Makes the shipped `data/tokenizer.json` from duplex_world's vocabulary.

    python -m wanstreamer_jax.data.duplex_world.build_tokenizer          # writes the file, prints what is in it

Ids: control tokens, the 256 bytes, every vocabulary word as one token with its leading space, then sub-words learned
from the vocabulary and from common English, so that other words need few tokens.
"""

import collections
import json
import pathlib
from collections.abc import Iterable

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from wanstreamer_jax.data.tokenizer import CUT, PAD, SHIPPED
from wanstreamer_jax.errors import DataError
from wanstreamer_jax.files import replacing

# A directive "(nods)", a word with inner apostrophes or hyphens, a number, punctuation, or a single white space; each
# may carry one leading space, which is part of its token.
PIECES = r" ?\([\p{L} _-]+\)| ?\p{L}+(?:['’-]\p{L}+)*| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s"

CONTROL = (PAD, CUT, "<unk>")  # ids 0, 1, 2

COMMON = """
the be to of and a in that have I it for not on with he as you do at this but his by from they we say her she or an
will my one all would there their what so up out if about who get which go me when make can like time no just him know
take people into year your good some could them see other than then now look only come its over think also back after
use two how our work first well way even new want because any these give day most us is are was were been has had did
said each tell does set three air play small end put home read hand port large spell add land here must big high such
follow act why ask men change went light kind off need house picture try again animal point mother world near build
self earth father head stand own page should country found answer school grow study still learn plant cover food sun
four between state keep eye never last let thought city tree cross farm hard start might story saw far sea draw left
late run while press close night real life few north open seem together next white children begin got walk example
ease paper group always music those both mark often letter until mile river car feet care second book carry took
science eat room friend began idea fish mountain stop once base hear horse cut sure watch color face wood main enough
plain girl usual young ready above ever red list though feel talk bird soon body dog family direct pose leave song
measure door product black short numeral class wind question happen complete ship area half rock order fire south
problem piece told knew pass since top whole king space heard best hour better true during hundred five remember step
early hold west ground interest reach fast verb sing listen six table travel less morning ten simple several vowel
toward war lay against pattern slow center love person money serve appear road map rain rule govern pull cold notice
voice unit power town fine certain fly fall lead cry dark machine note wait plan figure star box noun field rest
correct able pound done beauty drive stood contain front teach week final gave green oh quick develop ocean warm free
minute strong special mind behind clear tail produce fact street inch multiply nothing course stay wheel full force
blue object decide surface deep moon island foot system busy test record boat common gold possible plane stead dry
wonder laugh thousand ago ran check game shape equate hot miss brought heat snow tire bring yes distant fill east
paint language among ing tion ment able ness ful less est ers ies
"""


def build_tokenizer(vocabulary: Iterable[str], size: int = 1024) -> tokenizers.Tokenizer:
  """A byte-level tokenizer of at most `size` entries in which every word of `vocabulary` is one token.

  A word is what `encode` must map to a single id: letters, a number, punctuation, or a directive such as "(nods)".
  Encoding puts one space in front of a text and decoding takes it away, so a word has one id wherever it stands.
  Raises DataError when a word cannot be one token or the vocabulary does not fit.
  """
  words = [word for word in dict.fromkeys(vocabulary) if word not in CONTROL]
  entries = [*CONTROL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
  entries += [piece for piece in map(_whole_piece, words) if piece not in set(entries)]
  if len(entries) > size:
    raise DataError(f"vocabulary of {len(words)} words needs {len(entries)} tokens, but the tokenizer has {size}")
  merges = _subwords(words, size - len(entries), set(entries))
  entries += [piece for left, right in merges if (piece := left + right) not in set(entries)]
  vocab = {piece: index for index, piece in enumerate(entries)}
  tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
  tokenizer.normalizer = normalizers.Prepend(" ")
  tokenizer.pre_tokenizer = _pieces()
  tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
  tokenizer.add_special_tokens(list(CONTROL))
  return tokenizer


def _pieces() -> pre_tokenizers.PreTokenizer:
  split = pre_tokenizers.Split(Regex(PIECES), "isolated")
  return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _whole_piece(word: str) -> str:
  """A word as the pre-tokenizer spells it, with its leading space: `red` is `Ġred`."""
  pieces = _pieces().pre_tokenize_str(" " + word)
  if len(pieces) != 1:
    raise DataError(f"vocabulary word {word!r} cannot be one token: it splits into {[p for p, _ in pieces]}")
  return pieces[0][0]


def _subwords(words: list[str], budget: int, known: set[str]) -> list[tuple[str, str]]:
  """The first merges of a byte-pair training that need at most `budget` new entries."""
  trainer = trainers.BpeTrainer(
    vocab_size=256 + 2 * budget + len(known), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
  )
  counts = collections.Counter(COMMON.split()) + collections.Counter(words)
  draft = tokenizers.Tokenizer(models.BPE())
  draft.pre_tokenizer = _pieces()
  draft.train_from_iterator([" " + word for word in sorted(counts.elements())], trainer)
  merges: list[tuple[str, str]] = []
  reachable = set(pre_tokenizers.ByteLevel.alphabet())
  for left, right in _merges(draft):
    piece = left + right
    if left not in reachable or right not in reachable:
      continue
    if piece not in known:
      if budget == 0:
        continue
      budget -= 1
    known.add(piece)
    reachable.add(piece)
    merges.append((left, right))
  return merges


def _merges(tokenizer: tokenizers.Tokenizer) -> list[tuple[str, str]]:
  """The learned merges, which the library exposes only in its JSON form."""
  return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def main(path: pathlib.Path = SHIPPED, size: int = 1024) -> None:
  """Writes the shipped tokenizer for duplex_world's vocabulary and the world fields of recordings."""
  from wanstreamer_jax.data.duplex_world import world

  words = sorted({*world.vocabulary(), "lead"})
  tokenizer = build_tokenizer(words, size)
  with replacing(path) as temporary:
    tokenizer.save(str(temporary))
  print(f"{path}: {tokenizer.get_vocab_size()} entries, {len(words)} of them words")


if __name__ == "__main__":
  main()
