"""Draws the video of a conversation: both sides, captions, a ring around the speaker.

It is made after the session, from the input (read again at the panel's size) and the agent's video, so that drawing
never delays an answer.
"""

import dataclasses
import functools
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from wanstreamer_jax.data.loudness import level
from wanstreamer_jax.data.media import MediaReader, MediaUnit, MediaWriter
from wanstreamer_jax.serve.session_log import Caption, SessionLog, agent_captions, join, typed_captions

PANEL = 480  # pixels, the width of a side
MARGIN, GAP, RADIUS, RING = 28, 24, 22, 5
HEAD, FOOT = 60, 112  # pixels above and below the panels
TEXT_SIZE, LABEL_SIZE, LINE = 25, 21, 34
BACK, CARD, INK, DIM = (16, 19, 26), (27, 32, 42), (240, 243, 247), (128, 138, 153)
COLOURS = {"user": (244, 162, 76), "agent": (64, 196, 180)}
PAN = 0.35  # how far the sides stand apart in the stereo audio: 0 is mono, 1 is left and right only


def write_conversation(path: Path, reader: MediaReader, agent: Path, log: SessionLog, progress: bool = True) -> None:
  """Writes the film of both sides, as long as the session. `agent` is the agent's video file. Raises MediaError."""
  media = log.media
  canvas = FilmCanvas(PANEL, max(2, round(PANEL * media.height / media.width)))
  panel_media = media.replace(height=canvas.height, width=canvas.width)
  sides = zip(log.rows, MediaReader(reader.info.path, panel_media), MediaReader(agent, panel_media))
  texts = {"user": typed_captions(log), "agent": agent_captions(log)}
  bar = tqdm(sides, total=len(log.rows), desc="filming", unit="unit", disable=None if progress else True)
  meter = LevelMeter(canvas)
  with MediaWriter(path, media, size=canvas.size, channels=2) as writer:
    for row, user, output in bar:
      user_frames = user.video if user.video is not None else meter(user, media.frames)
      assert output.video is not None
      assert output.audio is not None
      user_text, agent_text = (visible_text(texts[side], row.start) for side in ("user", "agent"))
      background = canvas.background(Overlay(row.user_speaking, row.speaking, user_text, agent_text))
      film = np.stack([background] * media.frames)
      for index, frame in enumerate(film):
        canvas.place(frame, 0, user_frames[index])
        canvas.place(frame, 1, output.video[index])
      writer.write(film, stereo(user, output.audio))


def stereo(user: MediaUnit, agent: np.ndarray) -> np.ndarray:
  """Both sides' audio as float32 [samples, 2], the user more to the left."""
  audio = np.zeros_like(agent) if user.audio is None else user.audio
  left = audio + (1 - PAN) * agent
  right = (1 - PAN) * audio + agent
  return np.clip(np.stack([left, right], axis=1), -1, 1)


def visible_text(captions: list[Caption], time: float) -> str:
  """The words that have appeared by `time` of the caption that is shown then."""
  for caption in captions:
    if caption.start <= time + 1e-6 < caption.end:
      return join([word for word, appears in zip(caption.words, caption.times) if appears <= time + 1e-6])
  return ""


@dataclasses.dataclass(frozen=True)
class Overlay:
  """Everything in a frame except the faces; frames with equal values share one drawing."""

  user_speaking: bool
  agent_speaking: bool
  user_text: str
  agent_text: str


class FilmCanvas:
  """Background, rings, labels and captions around two panels of width x height pixels."""

  def __init__(self, width: int, height: int):
    self.width, self.height = width, height
    total = 2 * width + 2 * MARGIN + GAP
    self.size = (HEAD + height + FOOT + (HEAD + height + FOOT) % 2, total + total % 2)  # even, as H.264 needs it
    self.lefts = (MARGIN, MARGIN + width + GAP)
    self.mask = rounded_mask(width, height)
    self.background = functools.lru_cache(maxsize=4)(self._draw_background)

  def _draw_background(self, overlay: Overlay) -> np.ndarray:
    """uint8 [*self.size, 3] without the faces. Read-only."""
    image = Image.new("RGB", self.size[::-1], BACK)
    draw = ImageDraw.Draw(image)
    sides = (
      ("user", overlay.user_speaking, overlay.user_text),
      ("agent", overlay.agent_speaking, overlay.agent_text),
    )
    for left, (side, speaking, text) in zip(self.lefts, sides):
      self.draw_label(draw, left, side, speaking)
      self.draw_text(draw, left, text)
      if speaking:
        self.draw_ring(image, left, COLOURS[side])
    return np.asarray(image)

  def draw_label(self, draw: ImageDraw.ImageDraw, left: int, side: str, speaking: bool) -> None:
    """Who this is, and whether they speak."""
    middle = HEAD // 2 + 2
    colour = COLOURS[side] if speaking else DIM
    draw.ellipse((left + 6, middle - 7, left + 20, middle + 7), fill=colour)
    label, state = {"user": "You", "agent": "Agent"}[side], "speaking" if speaking else "listening"
    draw.text((left + 32, middle), label, INK, font(LABEL_SIZE, bold=True), anchor="lm")
    draw.text((left + self.width - 6, middle), state, colour, font(LABEL_SIZE - 3), anchor="rm")

  def draw_ring(self, image: Image.Image, left: int, colour: tuple[int, int, int]) -> None:
    """An anti-aliased frame around a panel: drawn at twice the size, then reduced."""
    width, height = self.width + 2 * RING, self.height + 2 * RING
    ring = Image.new("L", (2 * width, 2 * height))
    ImageDraw.Draw(ring).rounded_rectangle((0, 0, 2 * width - 1, 2 * height - 1), 2 * (RADIUS + RING), fill=255)
    image.paste(colour, (left - RING, HEAD - RING), ring.resize((width, height), Image.Resampling.BOX))

  def draw_text(self, draw: ImageDraw.ImageDraw, left: int, text: str) -> None:
    """The last two lines; directives like (nods) and marks like <cut> are dim."""
    typeface = font(TEXT_SIZE)
    for number, line in enumerate(wrap(text, typeface, self.width - 12)[-2:]):
      x, y = float(left + 6), HEAD + self.height + 20 + number * LINE
      for word in line:
        colour = DIM if word.startswith(("(", "<")) else INK
        draw.text((x, y), word, colour, typeface)
        x += typeface.getlength(word + " ")

  def place(self, frame: np.ndarray, side: int, face: np.ndarray) -> None:
    """Draws a face, uint8 [height, width, 3], into a panel of `frame`, in place; corners are round."""
    left = self.lefts[side]
    panel = frame[HEAD : HEAD + self.height, left : left + self.width]
    panel[RADIUS:-RADIUS] = face[RADIUS:-RADIUS]
    for rows in (slice(0, RADIUS), slice(-RADIUS, None)):
      mask = self.mask[rows]
      panel[rows] = (face[rows] * mask + panel[rows] * (1 - mask)).astype(np.uint8)


def rounded_mask(width: int, height: int) -> np.ndarray:
  """float32 [height, width, 1]: 1 inside a rounded rectangle."""
  mask = Image.new("L", (4 * width, 4 * height))
  ImageDraw.Draw(mask).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 4 * RADIUS, fill=255)
  return np.asarray(mask.resize((width, height), Image.Resampling.BOX), np.float32)[..., None] / 255


def wrap(text: str, typeface: ImageFont.FreeTypeFont, width: int) -> list[list[str]]:
  """Lines of words that fit into `width` pixels."""
  lines: list[list[str]] = [[]]
  for word in text.split():
    if lines[-1] and typeface.getlength(" ".join([*lines[-1], word])) > width:
      lines.append([])
    lines[-1].append(word)
  return lines


@functools.cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
  """DejaVu Sans, which comes with matplotlib and knows most alphabets."""
  name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
  return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


class LevelMeter:
  """The user's panel when there is no video: the level of the last seconds of audio, as bars."""

  BARS = 36

  def __init__(self, canvas: FilmCanvas):
    self.width, self.height = canvas.width, canvas.height
    self.levels = np.zeros(self.BARS, np.float32)

  def __call__(self, user: MediaUnit, frames: int) -> list[np.ndarray]:
    """The frames of one unit, uint8 [height, width, 3] each; every frame adds one bar."""
    assert user.audio is not None
    found = []
    for part in np.array_split(user.audio, frames):
      self.levels = np.append(self.levels[1:], np.clip((level(part) + 60) / 60, 0.03, 1))
      found.append(self._draw())
    return found

  def _draw(self) -> np.ndarray:
    width, height = self.width, self.height
    image = Image.new("RGB", (width, height), CARD)
    draw = ImageDraw.Draw(image)
    step = (width - 2 * MARGIN) / self.BARS
    for index, bar in enumerate(map(float, self.levels)):
      x, half = MARGIN + index * step, max(bar * height * 0.3, 2)
      box = (x, height / 2 - half, x + 0.55 * step, height / 2 + half)
      draw.rounded_rectangle(box, step / 4, fill=COLOURS["user"] if bar > 0.3 else DIM)
    draw.text((width / 2, height - 24), "sound only", DIM, font(LABEL_SIZE - 3), anchor="mm")
    return np.asarray(image)
