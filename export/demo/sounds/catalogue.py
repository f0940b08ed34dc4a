"""The classes of sounds that NumPy makes: maker, span of the settings, names.

Spans of pitch are of the fundamental, or of what moves with it; those of speed are of events a second.
"""

from export.demo.sounds import nature, percussion, tonal
from export.demo.sounds.settings import Sound

SHORT_TO_LONG_S = (0.35, 2.3)

SYNTHESISED: dict[str, Sound] = {
    "sine_tone": Sound(
        tonal.sine_tone,
        ("a {adjectives}sine tone", "a {adjectives}pure tone", "a {adjectives}sine wave"),
        pitch_hz=(150, 2500),
        length_s=SHORT_TO_LONG_S,
    ),
    "buzzer": Sound(
        tonal.buzzer,
        ("a {adjectives}buzzer", "a {adjectives}electric buzz"),
        pitch_hz=(90, 500),
        length_s=SHORT_TO_LONG_S,
    ),
    "drone": Sound(
        tonal.drone, ("a {adjectives}synthesizer drone", "a {adjectives}droning synthesizer"), pitch_hz=(55, 330)
    ),
    "chord": Sound(
        tonal.chord,
        ("a {adjectives}{word} chord", "a {adjectives}chord in {word}"),
        pitch_hz=(130, 700),
        length_s=SHORT_TO_LONG_S,
        words=("major", "minor"),
    ),
    "rising_chirp": Sound(
        tonal.rising_chirp,
        ("a {adjectives}rising chirp", "a {adjectives}tone going up", "a {adjectives}upward sweep"),
        pitch_hz=(350, 2000),
        length_s=SHORT_TO_LONG_S,
    ),
    "falling_chirp": Sound(
        tonal.falling_chirp,
        ("a {adjectives}falling chirp", "a {adjectives}tone going down", "a {adjectives}downward sweep"),
        pitch_hz=(350, 2000),
        length_s=SHORT_TO_LONG_S,
    ),
    "siren": Sound(
        tonal.siren,
        ("a {adjectives}siren", "a {adjectives}wailing police siren"),
        pitch_hz=(450, 1300),
        rate_hz=(0.5, 4),
    ),
    "two_tone_horn": Sound(
        tonal.two_tone_horn,
        ("a {adjectives}ambulance horn", "a {adjectives}two-tone horn"),
        pitch_hz=(250, 900),
        rate_hz=(1.2, 6),
    ),
    "beeps": Sound(
        tonal.beeps, ("{adjectives}beeps", "a {adjectives}beeping alarm"), pitch_hz=(500, 2800), rate_hz=(1.5, 8)
    ),
    "telephone": Sound(
        tonal.telephone,
        ("a {adjectives}telephone ringing", "a {adjectives}ringing phone"),
        pitch_hz=(800, 1800),
        rate_hz=(0.8, 2.5),
    ),
    "vibrato_tone": Sound(
        tonal.vibrato_tone,
        ("a {adjectives}wobbling tone", "a {adjectives}theremin", "a {adjectives}tone with vibrato"),
        pitch_hz=(200, 1500),
        rate_hz=(2.5, 12),
    ),
    "rising_arpeggio": Sound(
        tonal.rising_arpeggio,
        ("a {adjectives}rising arpeggio", "{adjectives}notes going up"),
        pitch_hz=(150, 700),
        rate_hz=(3, 14),
    ),
    "falling_arpeggio": Sound(
        tonal.falling_arpeggio,
        ("a {adjectives}falling arpeggio", "{adjectives}notes going down"),
        pitch_hz=(150, 700),
        rate_hz=(3, 14),
    ),
    "pulse_train": Sound(
        tonal.pulse_train, ("a {adjectives}train of pulses", "a {adjectives}rattling pulse"), rate_hz=(12, 60)
    ),
    "laser": Sound(tonal.laser, ("a {adjectives}laser gun", "{adjectives}laser zaps"), rate_hz=(1.2, 7)),
    "morse": Sound(
        tonal.morse, ("{adjectives}morse code", "a {adjectives}telegraph"), pitch_hz=(400, 1600), rate_hz=(4, 16)
    ),
    "church_bell": Sound(
        tonal.church_bell, ("a {adjectives}church bell", "a {adjectives}bell tolling"), pitch_hz=(180, 900)
    ),
    "chimes": Sound(
        tonal.chimes, ("{adjectives}wind chimes", "{adjectives}chimes"), pitch_hz=(700, 2200), rate_hz=(2, 10)
    ),
    "music_box": Sound(
        tonal.music_box,
        ("a {adjectives}music box", "a {adjectives}music box melody"),
        pitch_hz=(400, 1200),
        rate_hz=(2, 9),
    ),
    "plucked_string": Sound(
        tonal.plucked_string,
        ("a {adjectives}plucked string", "a {adjectives}string being plucked"),
        pitch_hz=(90, 700),
        rate_hz=(0.8, 5),
    ),
    "strum": Sound(
        tonal.strum,
        ("a {adjectives}guitar strum", "{adjectives}guitar strumming"),
        pitch_hz=(75, 220),
        rate_hz=(0.8, 4.5),
    ),
    "kick_drum": Sound(percussion.kick_drum, ("a {adjectives}kick drum", "a {adjectives}bass drum"), rate_hz=(1, 5)),
    "snare_drum": Sound(
        percussion.snare_drum, ("a {adjectives}snare drum", "{adjectives}hits on a snare"), rate_hz=(1, 6)
    ),
    "hi_hat": Sound(percussion.hi_hat, ("a {adjectives}hi-hat", "a {adjectives}closed hi-hat"), rate_hz=(2, 10)),
    "hand_claps": Sound(
        percussion.hand_claps, ("{adjectives}hand claps", "{adjectives}clapping of one person"), rate_hz=(1.2, 6)
    ),
    "clicks": Sound(percussion.clicks, ("{adjectives}clicks", "a {adjectives}clicking noise"), rate_hz=(2.5, 10)),
    "clock": Sound(percussion.clock, ("a {adjectives}clock ticking", "a {adjectives}ticking clock"), rate_hz=(2, 8)),
    "wood_block": Sound(
        percussion.wood_block,
        ("a {adjectives}wood block", "{adjectives}tapping on wood"),
        pitch_hz=(450, 1600),
        rate_hz=(1.5, 8),
    ),
    "cowbell": Sound(
        percussion.cowbell,
        ("a {adjectives}cowbell", "{adjectives}strokes on a cowbell"),
        pitch_hz=(350, 950),
        rate_hz=(1, 6),
    ),
    "knocking": Sound(
        percussion.knocking, ("{adjectives}knocking on a door", "a {adjectives}knock at the door"), rate_hz=(2.5, 9)
    ),
    "footsteps": Sound(
        percussion.footsteps, ("{adjectives}footsteps", "{adjectives}steps on gravel"), rate_hz=(1.2, 5)
    ),
    "heartbeat": Sound(
        percussion.heartbeat, ("a {adjectives}heartbeat", "a {adjectives}beating heart"), rate_hz=(0.8, 3)
    ),
    "rock_beat": Sound(
        percussion.rock_beat, ("a {adjectives}drum beat", "a {adjectives}rock drum rhythm"), rate_hz=(1.2, 4)
    ),
    "drum_roll": Sound(
        percussion.drum_roll, ("a {adjectives}drum roll", "a {adjectives}roll on a snare drum"), length_s=(0.5, 2.3)
    ),
    "bouncing_ball": Sound(
        percussion.bouncing_ball,
        ("a {adjectives}bouncing ball", "the {adjectives}bouncing of a ball"),
        length_s=(0.7, 2.3),
    ),
    "shaker": Sound(percussion.shaker, ("a {adjectives}shaker", "{adjectives}maracas"), rate_hz=(2, 7)),
    "white_noise": Sound(
        nature.white_noise, ("{adjectives}white noise", "a {adjectives}burst of white noise"), length_s=SHORT_TO_LONG_S
    ),
    "pink_noise": Sound(
        nature.pink_noise, ("{adjectives}pink noise", "a {adjectives}burst of pink noise"), length_s=SHORT_TO_LONG_S
    ),
    "brown_noise": Sound(
        nature.brown_noise, ("{adjectives}brown noise", "a {adjectives}burst of brown noise"), length_s=SHORT_TO_LONG_S
    ),
    "steam": Sound(
        nature.steam, ("{adjectives}hissing steam", "a {adjectives}hiss of steam"), length_s=SHORT_TO_LONG_S
    ),
    "wind": Sound(
        nature.wind,
        ("{adjectives}howling wind", "{adjectives}wind blowing", "a {adjectives}gusty wind"),
        pitch_hz=(250, 1100),
        rate_hz=(0.4, 2.5),
    ),
    "rain": Sound(
        nature.rain,
        ("{adjectives}rain falling", "{adjectives}rain"),
        rate_hz=(25, 400),
        adjectives={"rate_hz": (("light",), ("heavy",))},
    ),
    "thunder": Sound(nature.thunder, ("{adjectives}thunder", "a {adjectives}roll of thunder")),
    "waves": Sound(nature.waves, ("{adjectives}ocean waves", "{adjectives}waves on a beach"), rate_hz=(0.4, 1.6)),
    "fire": Sound(
        nature.fire,
        ("a {adjectives}crackling fire", "a {adjectives}camp fire"),
        rate_hz=(8, 60),
        adjectives={"rate_hz": (("calm",), ("lively",))},
    ),
    "stream": Sound(nature.stream, ("a {adjectives}babbling stream", "{adjectives}bubbling water")),
    "drips": Sound(
        nature.drips,
        ("{adjectives}dripping water", "{adjectives}drips from a tap"),
        pitch_hz=(450, 1400),
        rate_hz=(1.5, 8),
    ),
    "cricket": Sound(
        nature.cricket,
        ("a {adjectives}cricket", "{adjectives}crickets chirping"),
        pitch_hz=(3200, 6000),
        rate_hz=(1.5, 7),
    ),
    "bird": Sound(
        nature.bird, ("a {adjectives}bird chirping", "{adjectives}bird song"), pitch_hz=(1800, 5000), rate_hz=(2, 9)
    ),
    "mosquito": Sound(nature.mosquito, ("a {adjectives}mosquito", "a {adjectives}buzzing insect"), pitch_hz=(350, 900)),
    "dog": Sound(
        nature.dog, ("a {adjectives}dog barking", "a {adjectives}barking dog"), pitch_hz=(250, 700), rate_hz=(1, 4.5)
    ),
    "owl": Sound(
        nature.owl, ("a {adjectives}owl", "the {adjectives}hooting of an owl"), pitch_hz=(280, 650), rate_hz=(0.9, 3)
    ),
    "engine": Sound(
        nature.engine,
        ("a {adjectives}engine running", "a {adjectives}motor"),
        rate_hz=(14, 70),
        adjectives={"rate_hz": (("slow", "idling"), ("fast", "revving"))},
    ),
    "helicopter": Sound(
        nature.helicopter, ("a {adjectives}helicopter", "a {adjectives}helicopter flying by"), rate_hz=(6, 22)
    ),
    "applause": Sound(nature.applause, ("{adjectives}applause", "a {adjectives}crowd clapping")),
    "static": Sound(nature.static, ("{adjectives}radio static", "a {adjectives}radio between stations")),
}
