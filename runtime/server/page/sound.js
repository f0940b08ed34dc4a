// A card for one sound: its picture, which is also where one seeks, its player, and how to make it again.

import { heightOf, paint, spectrogram } from "./spectrum.js";

const TICKS_HZ = [250, 500, 1000, 2000, 4000, 8000, 16000];
const TICKS_S = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300];
const MOST_TICKS = 6;
const NUDGE = 0.05; // of the sound, for an arrow key

const dark = matchMedia("(prefers-color-scheme: dark)");
const pictures = new WeakMap(); // by canvas: its levels
const names = new Set(); // of the files of this visit
let playing = null; // the player that is heard: one at a time

dark.onchange = () => document.querySelectorAll("canvas").forEach(repaint);

/** A card for a sound. `sound` has what was asked (`fields`, `seed` in digits, `start`), the WAV (`bytes`), and `madeS`.
 *
 * `useAgain` takes the sound, `beginWith` its file: without one there is no button for that.
 */
export async function soundCard(sound, useAgain, beginWith) {
  const template = document.getElementById("sound").content;
  const card = document.importNode(template, true).firstElementChild; // a clone that stays outside loads no sound
  const find = (selector) => card.querySelector(selector);
  const player = find("audio");
  const file = new File([sound.bytes], newName(sound), { type: "audio/wav" });
  player.src = URL.createObjectURL(file);
  find(".title").textContent = sound.fields.input.trim();
  find(".unfold").onclick = () => fold(card, !card.classList.contains("small"));
  find(".seed").textContent = sound.seed;
  find(".made").textContent = `${sound.steps} steps in ${seconds(sound.madeS)}`;
  find(".origin").textContent = sound.start ? origin(sound) : "";
  find(".download").href = player.src;
  find(".download").download = file.name;
  find(".again").onclick = () => useAgain(sound);
  find(".onward").hidden = !beginWith;
  find(".onward").onclick = () => beginWith(file);
  find("code").textContent = command(sound, file.name);
  find(".copy").onclick = () => copy(find("code"), find(".copy"));
  connect(card, player, sound.duration);
  times(find(".seconds"), sound.duration);
  tones(find(".hertz"), sound.rate);
  picture(find("canvas"), await decoded(file, sound.rate));
  return card;
}

/** Show a card small, as in a list, or whole. */
export function fold(card, small) {
  card.classList.toggle("small", small);
  const button = card.querySelector(".unfold");
  button.setAttribute("aria-expanded", String(!small));
  button.textContent = small ? "Open" : "Close";
}

/** A time in words. */
export function seconds(value) {
  if (value >= 90) return `${Math.round(value / 60)} min`;
  return `${value < 10 ? Number(value.toFixed(1)) : Math.round(value)} s`;
}

/** Let the play button, the picture and the time inside of an element be those of a player. */
export function connect(card, player, duration) {
  const [button, screen, head, time] = [".play", ".screen", ".screen i", ".time"].map((one) => card.querySelector(one));
  const digits = duration < 10 ? 2 : 1;
  const show = () => {
    const at = Math.min(player.currentTime, duration);
    head.style.left = `${(100 * at) / duration}%`;
    head.hidden = at === 0 && player.paused;
    time.textContent = `${at.toFixed(digits)} / ${duration.toFixed(digits)} s`;
    screen.setAttribute("aria-valuenow", at.toFixed(2));
    screen.setAttribute("aria-valuetext", `${at.toFixed(1)} of ${duration.toFixed(1)} seconds`);
    if (!player.paused) requestAnimationFrame(show);
  };
  const toggle = () => (player.paused ? player.play() : player.pause());
  const seek = (at) => {
    player.currentTime = Math.max(0, Math.min(duration, at));
    show();
  };
  const name = () => {
    const paused = player.paused;
    card.classList.toggle("playing", !paused);
    button.setAttribute("aria-label", paused ? "Play" : "Pause");
    show();
  };
  player.onplay = () => {
    if (playing !== player) playing?.pause();
    playing = player;
    name();
  };
  player.onpause = player.onended = name;
  player.onseeked = show;
  button.onclick = toggle;
  screen.setAttribute("aria-valuemax", duration.toFixed(2));
  screen.onpointerdown = screen.onpointermove = (event) => {
    if (event.buttons !== 1) return;
    const box = screen.getBoundingClientRect();
    seek((duration * (event.clientX - box.left)) / box.width);
  };
  screen.onkeydown = (event) => {
    const nudge = NUDGE * duration;
    const keys = {
      ArrowLeft: () => seek(player.currentTime - nudge),
      ArrowDown: () => seek(player.currentTime - nudge),
      ArrowRight: () => seek(player.currentTime + nudge),
      ArrowUp: () => seek(player.currentTime + nudge),
      Home: () => seek(0),
      End: () => seek(duration),
      " ": toggle,
    };
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  };
  show();
}

/** The axis of a sound of this length. */
export function times(axis, duration) {
  const step = TICKS_S.find((tick) => duration / tick <= MOST_TICKS) ?? duration;
  const count = Math.floor(duration / step + 1e-6);
  const moments = Array.from({ length: count + 1 }, (_, i) => i * step);
  const labels = moments.map((moment) => label(Number(moment.toFixed(1)), "left", moment / duration));
  labels.at(-1).textContent += " s";
  axis.replaceChildren(...labels);
}

function tones(axis, rate) {
  const labels = TICKS_HZ.filter((hz) => hz <= rate / 2).map((hz) => label(hz / 1000, "bottom", heightOf(hz, rate)));
  labels.at(-1).textContent += " kHz";
  axis.replaceChildren(...labels);
}

function label(text, side, share) {
  const element = document.createElement("span");
  element.textContent = text;
  element.style[side] = `${100 * share}%`;
  return element;
}

/** The samples of a file at a rate. Raises one for what this browser cannot read. */
export async function decoded(file, rate) {
  return new OfflineAudioContext(1, 1, rate).decodeAudioData(await file.arrayBuffer());
}

/** Paint a decoded sound, now and when the colours change. */
export function picture(canvas, sound) {
  pictures.set(canvas, spectrogram(sound.getChannelData(0), sound.sampleRate));
  repaint(canvas);
}

function repaint(canvas) {
  if (pictures.has(canvas)) paint(canvas, pictures.get(canvas), colours());
}

/** The shades of the style sheet, from silence to the loudest, as RGB. */
function colours() {
  const shades = getComputedStyle(document.documentElement).getPropertyValue("--spectrum");
  return [...shades.matchAll(/#(..)(..)(..)/g)].map(([, ...parts]) => parts.map((part) => parseInt(part, 16)));
}

/** What was done to the sound that this one began with. */
function origin({ fields, start }) {
  if (fields.extend_s) return `${start.name}, gone on for ${fields.extend_s} s`;
  if (!fields.inpaint_seconds) return `${start.name}, changed with strength ${fields.strength}`;
  const [[from, to]] = fields.inpaint_seconds;
  return `${start.name}, made anew from ${from} to ${to} s`;
}

/** A name for a file, unlike those of this visit and of the sound that it began with. */
function newName({ fields, seed, start }) {
  const words = fields.input.normalize("NFKD").toLowerCase().match(/[a-z0-9]+/g) ?? ["sound"];
  const stem = `${words.join("-").slice(0, 32)}-${seed}`;
  let name = `${stem}.wav`;
  for (let count = 2; names.has(name) || name === start?.name; count++) name = `${stem}-${count}.wav`;
  names.add(name);
  return name;
}

/** The line for a shell that makes this sound again. The key itself is not shown. */
function command({ body, start, withKey }, name) {
  const address = new URL(start ? "v1/audio/edit" : "v1/audio/generate", document.baseURI);
  const key = withKey ? ` \\\n  -H "Authorization: Bearer $KEY"` : "";
  const head = `curl -s ${address} -o ${name}${key}`;
  if (!start) return `${head} \\\n  -d ${quoted(body)}`;
  const path = start.name.replace(/["\\]/g, String.raw`\$&`);
  const texts = body.map((pair) => `--form-string ${quoted(pair.join("="))}`);
  return [head, `-F ${quoted(`audio=@"${path}"`)}`, ...texts].join(" \\\n  ");
}

/** A text for a shell. */
const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

async function copy(code, button) {
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    getSelection().selectAllChildren(code); // a page that does not come over HTTPS has no clipboard of its own
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 2000);
}
