// The sound to begin with: how it is taken and shown, and what is to become of it.

import { connect, decoded, picture, times } from "./sound.js";

const $ = (id) => document.getElementById(id);
const [form, start, player, range] = [$("ask"), $("start"), $("start-player"), $("range")];
let rate = null; // the model's, in Hz; null: it takes no sounds
let sound = null; // its file, and its duration in seconds once that is known
let anchor = 0; // where the range that is dragged began, in seconds

/** The file that is there, or null. */
export const taken = () => sound?.file ?? null;

/** Let sounds be taken, for a model of this rate. */
export function offer(rateHz) {
  rate = rateHz;
  $("begin").hidden = false;
}

/** Take a file, in the place of another. What it holds is kept, since a file may change. */
export async function take(given) {
  const bytes = await given.arrayBuffer().catch(() => null);
  if (!bytes) {
    $("wrong").textContent = `${given.name} cannot be read.`; // a folder, or a file that has gone
    return;
  }
  const file = new File([bytes], given.name, { type: given.type });
  sound = { file, duration: null };
  player.pause();
  URL.revokeObjectURL(player.src);
  player.src = URL.createObjectURL(file);
  $("wrong").textContent = "";
  $("start-name").textContent = file.name;
  $("start-time").textContent = "";
  $("said").textContent = `${file.name} is what the sound begins with`;
  changed();
  draw(sound);
}

/** Have the picture and the player of a sound. What this browser cannot read may be read by the service. */
async function draw(mine) {
  const samples = await decoded(mine.file, rate).catch(() => null);
  if (mine !== sound) return; // another was taken in the meantime
  start.classList.toggle("unheard", !samples);
  if (!samples) {
    $("start-time").textContent = "This browser cannot play it. The service may be able to read it.";
    return;
  }
  sound.duration = samples.duration;
  connect(start, player, sound.duration);
  picture($("start-picture"), samples);
  if (!$("to").value || $("to").value > sound.duration) select(sound.duration / 3, sound.duration / 1.5);
  changed();
}

/** Take a file, and ask what is to become of it. */
export async function takeAndAsk(file) {
  await take(file);
  if (sound) form.querySelector("[name=deed]:checked").focus();
}

/** Begin with nothing. */
export function takeAway() {
  player.pause();
  sound = null;
  changed();
}

/** The service cannot take the file: point to it. */
export function refuse() {
  $("begin").classList.add("refused");
  $("away").focus();
}

const changed = () => form.dispatchEvent(new Event("input"));

/** Say which range is made anew. It ends where the sound does, or before. */
function select(from, to) {
  const rounded = (value, parts) => Math.floor(value * parts) / parts;
  $("from").value = rounded(from, 100);
  $("to").value = rounded(to, to < sound.duration ? 100 : 10_000);
}

/** Show the fields that have a meaning now. */
function showFields() {
  $("begin").classList.remove("refused");
  const there = sound !== null;
  const deed = there ? form.elements.deed.value : null;
  $("offer").hidden = $("asked-length").hidden = $("length").disabled = there;
  start.hidden = start.disabled = $("own-length").hidden = !there;
  $("loops").hidden = $("loop").disabled = there && deed !== "strength";
  for (const panel of start.querySelectorAll("fieldset")) panel.hidden = panel.disabled = panel.dataset.deed !== deed;
  range.hidden = deed !== "inpaint_seconds";
  $("strength-value").textContent = $("strength").value;
  if (there) showLengths(sound.duration, deed === "extend_s" ? Math.max(0, Number($("extend").value)) : 0);
}

/** Show what of the picture is made anew, and how long the result will be; a duration is null until it is known. */
function showLengths(duration, added) {
  const whole = duration + added;
  const share = (value) => `${100 * Math.min(1, Math.max(0, value / duration))}%`;
  $("whole").textContent = duration === null ? "Its own" : Number(whole.toFixed(2));
  $("whole-hint").textContent = added ? "With what is added" : "That of the sound";
  $("kept").style.width = duration === null ? "" : `${(100 * duration) / whole}%`;
  if (duration === null) return;
  times($("start-axis"), whole);
  range.firstElementChild.style.left = share($("from").value);
  range.firstElementChild.style.right = `calc(100% - ${share($("to").value)})`;
}

// --- what is done by hand

form.addEventListener("input", showFields);
$("file").onchange = () => {
  const [file] = $("file").files;
  $("file").value = ""; // so that the same file can be chosen again
  if (file) takeAndAsk(file);
};
$("away").onclick = () => {
  takeAway();
  $("file").focus();
};

const at = (event) => {
  const box = range.getBoundingClientRect();
  return sound.duration * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
};
range.onpointerdown = (event) => {
  anchor = at(event); // the picture hears of it, too, and seeks
  range.setPointerCapture(event.pointerId);
};
range.onpointermove = (event) => {
  event.stopPropagation();
  if (event.buttons !== 1) return;
  select(Math.min(anchor, at(event)), Math.max(anchor, at(event)));
  changed();
};

// A file that is dropped beside the form is taken as well: the browser would leave the page for it.
const holdsFile = (event) => rate !== null && event.dataTransfer.types.includes("Files");
document.ondragover = (event) => {
  if (!holdsFile(event)) return;
  event.preventDefault();
  form.classList.add("dropping");
};
document.ondragleave = (event) => {
  if (!event.relatedTarget) form.classList.remove("dropping"); // out of the window
};
document.ondrop = (event) => {
  if (!holdsFile(event)) return;
  event.preventDefault();
  form.classList.remove("dropping");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
};
