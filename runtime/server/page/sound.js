// A card for one sound: its picture, which is also where one seeks, its player, and how to make it again.

import { heightOf, paint, spectrogram } from "./spectrum.js";

const TICKS_HZ = [250, 500, 1000, 2000, 4000, 8000, 16000];
const TICKS_S = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120, 300];
const MOST_TICKS = 6;
const NUDGE = 0.05; // of the sound, for an arrow key

const dark = matchMedia("(prefers-color-scheme: dark)");
let playing = null; // the player that is heard: one at a time

/** A card for a sound. `sound` has what was asked (`fields`, `seed` in digits), the WAV (`bytes`), and `madeS`. */
export async function soundCard(sound, useAgain) {
  const template = document.getElementById("sound").content;
  const card = document.importNode(template, true).firstElementChild; // a clone that stays outside loads no sound
  const find = (selector) => card.querySelector(selector);
  const player = find("audio");
  player.src = URL.createObjectURL(new Blob([sound.bytes], { type: "audio/wav" }));
  find(".title").textContent = sound.fields.input.trim();
  find(".unfold").onclick = () => fold(card, !card.classList.contains("small"));
  find(".seed").textContent = sound.seed;
  find(".made").textContent = `${sound.steps} steps in ${seconds(sound.madeS)}`;
  find(".download").href = player.src;
  find(".download").download = `${fileName(sound)}.wav`;
  find(".again").onclick = () => useAgain(sound);
  find("code").textContent = command(sound);
  find(".copy").onclick = () => copy(find("code"), find(".copy"));
  connect(card, player, sound.duration);
  axes(card, sound);
  await picture(find("canvas"), sound);
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

function connect(card, player, duration) {
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

function axes(card, { duration, rate }) {
  const step = TICKS_S.find((tick) => duration / tick <= MOST_TICKS) ?? duration;
  const label = (text, side, share) => {
    const element = document.createElement("span");
    element.textContent = text;
    element.style[side] = `${100 * share}%`;
    return element;
  };
  const count = Math.floor(duration / step + 1e-6);
  const moments = Array.from({ length: count + 1 }, (_, i) => i * step);
  const times = moments.map((moment) => label(Number(moment.toFixed(1)), "left", moment / duration));
  times.at(-1).textContent += " s";
  card.querySelector(".seconds").replaceChildren(...times);
  const tones = TICKS_HZ.filter((hz) => hz <= rate / 2).map((hz) => label(hz / 1000, "bottom", heightOf(hz, rate)));
  tones.at(-1).textContent += " kHz";
  card.querySelector(".hertz").replaceChildren(...tones);
}

async function picture(canvas, { bytes, rate }) {
  const decoded = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes.slice().buffer);
  const levels = spectrogram(decoded.getChannelData(0), rate);
  const show = () => paint(canvas, levels, colours());
  dark.addEventListener("change", show);
  show();
}

/** The shades of the style sheet, from silence to the loudest, as RGB. */
function colours() {
  const shades = getComputedStyle(document.documentElement).getPropertyValue("--spectrum");
  return [...shades.matchAll(/#(..)(..)(..)/g)].map(([, ...parts]) => parts.map((part) => parseInt(part, 16)));
}

function fileName({ fields, seed }) {
  const words = fields.input.normalize("NFKD").toLowerCase().match(/[a-z0-9]+/g) ?? ["sound"];
  return `${words.join("-").slice(0, 32)}-${seed}`;
}

/** The line for a shell that makes this sound again. The key itself is not shown. */
function command(sound) {
  const address = new URL("v1/audio/generate", document.baseURI);
  const key = sound.withKey ? ` \\\n  -H "Authorization: Bearer $KEY"` : "";
  const quoted = sound.body.replaceAll("'", String.raw`'\''`);
  return `curl -s ${address} -o ${fileName(sound)}.wav${key} \\\n  -d '${quoted}'`;
}

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
