"""Pictures of duplex_world: what is held, gestures and faces can be seen, and a unit is drawn as in the whole."""

import numpy as np
import pytest

from wanstreamer_jax.data.duplex_world.body import Body
from wanstreamer_jax.data.duplex_world.faces import draw, random_look, still_tracks
from wanstreamer_jax.data.duplex_world.glyphs import GLYPHS
from wanstreamer_jax.data.duplex_world.looks import HAIR_STYLES, HELD_OUT_STYLES
from wanstreamer_jax.data.duplex_world.things import COLOURS, PLACES, SHAPES, Held, Raised
from wanstreamer_jax.data.duplex_world.voice import Voice
from wanstreamer_jax.errors import DataError


def picture(look, *hands, size=64, **pose):
  tracks = still_tracks(1)
  for name, value in pose.items():
    tracks[name][:] = value
  return draw(look, tracks, [hands], size, size)[0].astype(int)


def look_of(seed, held_out=False):
  return random_look(np.random.default_rng(seed), held_out)


def hold(*things):
  return [Raised(thing, thing.place, 1.0) for thing in things]


def body(look=None):
  return Body(look or look_of(3), Voice("v", pitch=120.0), 5, fps=25, sample_rate=24_000)


def busy() -> Body:
  """A body that does everything within four seconds."""
  acting = body()
  acting.say(["hello", "five", "moons"], 0.3)
  acting.hold((Held("a", "red", 1, "left"), Held("star", "blue", 3, "right")), 0.5)
  acting.wave(1.0)
  acting.hold(Held("heart", "yellow", 2, "up"), 2.0)
  acting.thumb_up(2.4)
  acting.nod(0.2)
  acting.shake(1.1)
  acting.smile(0.5, 1.5)
  acting.surprise(2.0, 3.0)
  acting.look("left", 0.4, 1.0)
  acting.look("up", 2.5, 3.2)
  return acting


@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_a_unit_is_drawn_as_in_the_whole(size):
  acting = busy()
  whole, tracks = acting.video(0, 100, *size), acting.tracks(0, 100)
  assert np.array_equal(whole, np.concatenate([acting.video(4 * u, 4 * u + 4, *size) for u in range(25)]))
  for name, values in tracks.items():
    assert values.dtype == np.float32
    assert np.array_equal(values, np.concatenate([acting.tracks(t, t + 4)[name] for t in range(0, 100, 4)])), name
  assert all(np.ptp(values) > 0.1 for name, values in tracks.items()), "every track moves"


@pytest.mark.parametrize("seed", range(6))
def test_a_frame_is_drawn_as_in_a_chunk(seed):
  """However a person moves, what is drawn does not depend on the frames beside it."""
  rng, frames = np.random.default_rng(seed), 16
  tracks = still_tracks(frames)
  for name in tracks:
    low = -1.2 if name in ("gaze_x", "gaze_y", "nod", "turn", "sway", "tilt", "brow") else 0.0
    tracks[name] = rng.uniform(low, 1.2, frames).astype(np.float32)
  things = [Held("star", "red", 1 + seed % 5, place) for place in PLACES] + [Held("w", "blue", 1, "left")]
  shown = [things[rng.integers(4)] for _ in range(frames)]
  hands = [[Raised(one, one.place, rng.random()), Raised("wave", "right", rng.random(), 1.0)] for one in shown]
  look = look_of(seed, seed % 2 == 1)
  whole = draw(look, tracks, hands)
  for t in range(frames):
    assert np.array_equal(whole[t], draw(look, {k: v[t : t + 1] for k, v in tracks.items()}, hands[t : t + 1])[0])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("colour", COLOURS)
def test_what_is_held_has_its_colour_at_its_place(place, colour):
  without, with_it = picture(look_of(7)), picture(look_of(7), *hold(Held("square", colour, 1, place)))
  near = np.abs(with_it - 255 * np.array(COLOURS[colour])).max(axis=-1) < 60
  near &= np.abs(with_it - without).max(axis=-1) > 12
  assert near.sum() > 60
  rows, columns = np.nonzero(near)
  found = (np.median(columns) < 20, np.median(columns) > 44, np.median(rows) < 18)
  assert found == (place == "left", place == "right", place == "up")


def test_shapes_numbers_and_glyphs_differ():
  look = look_of(6)
  kinds = [Held(shape, "red") for shape in (*SHAPES, *GLYPHS)] + [Held("circle", "red", n) for n in range(2, 6)]
  seen = np.stack([picture(look, *hold(thing)) for thing in kinds]).reshape(len(kinds), -1)
  distance = np.abs(seen[:, None] - seen[None]).sum(axis=-1) / (3 * 255)  # in pixels
  assert distance[~np.eye(len(kinds), dtype=bool)].min() > 3


def test_two_things_are_both_seen():
  pair = picture(look_of(2), *hold(Held("star", "red", 1, "left"), Held("circle", "blue", 1, "right")))
  red = (pair[..., 0] > 180) & (pair[..., 2] < 90)
  blue = (pair[..., 2] > 180) & (pair[..., 0] < 90)
  assert red[:, :24].sum() > 80
  assert blue[:, 40:].sum() > 80


@pytest.mark.parametrize("thing", [Held("square", "red", n, p) for n in (1, 3, 5) for p in PLACES])
def test_what_is_held_never_hides_the_mouth(thing):
  look = look_of(4)
  mouth = lambda opening: picture(look, *hold(thing), mouth=opening)
  changed = np.abs(mouth(1.0) - mouth(0.0)).max(axis=-1) > 20
  alone = np.abs(picture(look, mouth=1.0) - picture(look, mouth=0.0)).max(axis=-1) > 20
  assert changed.sum() > 0.9 * alone.sum()


@pytest.mark.parametrize("pose", [{"smile": 1}, {"surprise": 1}, {"turn": 1}, {"blink": 1}, {"tongue": 1}, {"bite": 1}])
def test_faces_change_the_picture(pose):
  look = look_of(9)
  change = np.abs(picture(look, mouth=0.2, **pose) - picture(look, mouth=0.2)).max(axis=-1) > 24
  assert change.sum() >= (6 if set(pose) & {"tongue", "bite"} else 20)


def test_closed_phones_close_the_mouth():
  speaker = body()
  line = speaker.say(["mimi", "bob"], 0.0)
  tracks = speaker.tracks(0, 40)
  for phone in line.utterance.phones:
    frame = int((phone.start + phone.end) / 2 * 25)
    if phone.name in ("M", "B") and abs((frame + 0.5) / 25 - (phone.start + phone.end) / 2) < 0.012:
      assert tracks["mouth"][frame] < 0.12
  assert tracks["mouth"].max() > 0.3


def test_held_out_looks_are_of_their_own():
  train, kept = [look_of(seed) for seed in range(200)], [look_of(seed, True) for seed in range(60)]
  assert {look.style for look in train} == set(HAIR_STYLES)
  assert {look.style for look in kept} == set(HELD_OUT_STYLES)
  assert len(set(train)) == 200
  assert not {look.style for look in train} & {look.style for look in kept}


@pytest.mark.parametrize("bad", [{"shape": "ab"}, {"colour": "pink"}, {"place": "down"}, {"count": 9}])
def test_bad_things_are_refused(bad):
  with pytest.raises(DataError, match="expected"):
    Held(**({"shape": "star", "colour": "red"} | bad))


def test_bad_acts_are_refused():
  with pytest.raises(DataError, match="different places"):
    body().hold((Held("a", "red"), Held("b", "red")), 0.0)
  with pytest.raises(DataError, match="direction"):
    body().look("away", 0.0, 1.0)
