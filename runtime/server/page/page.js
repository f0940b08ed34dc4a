// The page of the service: it asks for a sound, tells how far it is, and keeps what was made in this visit.

import { fold, seconds, soundCard } from "./sound.js";

const KEY = "trt-audioldm2-key"; // in the tab's own storage
const FAST = { steps: 20, scheduler: "DPMSolverMultistepScheduler" };
const CUT = "The connection ended before the sound was done.";
const EXAMPLES = [
  "A church bell",
  "Rain on a tin roof",
  "A music box",
  "Footsteps on gravel",
  "A siren passes",
  "A ticking clock",
];
const VOICES = ["A female reporter is speaking", "A man speaks slowly", "A child is speaking"];

const $ = (id) => document.getElementById(id);
const form = $("ask");
const inputs = [...form.elements].filter((element) => element.name);
let model = null; // what the service tells of its model
let running = null; // what cancels the call that is made

// --- asking

/** An answer of the service that is not an error. Raises one in the service's words. */
async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const answer = await fetch(path, { ...options, headers }).catch((error) => {
    throw error.name === "AbortError" ? error : new Error("The service cannot be reached: is it running?");
  });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  const message = told?.error?.message ?? `The service answered with status ${answer.status}.`;
  if (answer.status === 401) openDoor(key ? "This key is not taken." : "");
  throw new Error(message);
}

/** What the service tells of a call, as it comes. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Error(CUT);
    });
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}

async function meet() {
  model = (await (await ask("v1/models")).json()).data[0];
  $("door").hidden = true;
  $("model").textContent = `${model.id}, ${model.sampling_rate / 1000} kHz`;
  $("length").value = Number(model.default_duration.toFixed(2));
  $("length").max = model.max_duration;
  $("length-hint").textContent = `Up to ${model.max_duration}`;
  $("steps").value = model.default_steps;
  $("steps").max = model.max_steps;
  $("steps-hint").textContent = `Up to ${model.max_steps}`;
  $("guidance").value = model.default_guidance_scale;
  $("scheduler").replaceChildren(...model.schedulers.map((name) => new Option(name.replace(/Scheduler$/, ""), name)));
  $("scheduler").value = model.default_scheduler;
  $("speech").hidden = !model.speech;
  showExamples(model.speech ? VOICES : EXAMPLES);
  hints();
}

/** The body of a request for what the form says. A field that is left empty is left to the service. */
function body() {
  const fields = {};
  for (const { name, type, value, validity, labels } of inputs) {
    if (validity.badInput) throw new Error(`${labels[0].textContent} is not a number.`);
    if (name !== "seed" && (value.trim() || name === "input")) fields[name] = type === "number" ? Number(value) : value;
  }
  if (fields.guidance_scale === model.default_guidance_scale) delete fields.guidance_scale;
  if (fields.scheduler === model.default_scheduler) delete fields.scheduler;
  return fields;
}

/** JSON, with spaces. A seed is in digits: it may have more than a number of JavaScript holds. */
function json(fields, seed) {
  const pairs = Object.entries(fields).map((pair) => pair.map((part) => JSON.stringify(part)).join(": "));
  if (seed) pairs.push(`"seed": ${/^\d+$/.test(seed) ? seed.replace(/^0+(?=\d)/, "") : JSON.stringify(seed)}`);
  return `{${pairs.join(", ")}}`;
}

async function make() {
  if (running) return;
  running = new AbortController();
  const start = performance.now();
  try {
    show("running", "Sent");
    if (!model) await meet();
    const [fields, seed] = [body(), $("seed").value.trim()];
    const text = json({ ...fields, stream_format: "sse" }, seed);
    const answer = await ask("v1/audio/generate", { method: "POST", body: text, signal: running.signal });
    const done = await follow(answer);
    await keep(fields, seed, done);
    show("done", `Made in ${seconds((performance.now() - start) / 1000)}`);
  } catch (error) {
    if (error.name === "AbortError") show("idle", "Cancelled");
    else fail(error.message);
  } finally {
    running = null;
  }
}

/** Show how far a call is, until it is done: then what the service told of its sound. */
async function follow(answer) {
  let first = null;
  for await (const event of events(answer)) {
    if (event.type === "error") throw new Error(event.error.message);
    if (event.type === "audio.done") return event;
    if (event.type === "audio.queued") {
      show("running", event.waiting ? `Waiting: ${event.waiting} before yours` : "Waiting: yours is next");
    } else if (event.type === "audio.progress") {
      first ??= { step: event.step, at: performance.now() };
      progress(event, first);
    }
  }
  throw new Error(CUT);
}

async function keep(fields, seed, { data: [sound], duration, sampling_rate: rate, timings }) {
  const spent = Object.entries(timings).filter(([stage]) => stage !== "queue");
  const steps = fields.num_inference_steps ?? model.default_steps;
  const digits = seed || String(sound.seed);
  const whole = {
    fields,
    steps,
    rate,
    duration,
    seed: digits,
    madeS: spent.reduce((sum, [, value]) => sum + value, 0),
    bytes: Uint8Array.from(atob(sound.b64_json), (letter) => letter.charCodeAt(0)),
    body: json(fields, digits),
    withKey: sessionStorage.getItem(KEY) !== null,
  };
  const card = await soundCard(whole, useAgain);
  const before = $("newest").querySelector("article");
  if (before) {
    fold(before, true);
    $("history").prepend(before);
    $("earlier").hidden = false;
  }
  fold(card, false);
  $("newest").append(card);
  $("newest").hidden = false;
  $("empty").hidden = true;
  card.scrollIntoView({ block: "nearest" });
}

// --- what is seen

function show(state, words) {
  const busy = state === "running";
  const focused = document.activeElement;
  form.dataset.state = state;
  form.setAttribute("aria-busy", String(busy));
  $("status").textContent = $("said").textContent = words;
  $("left").textContent = $("wrong").textContent = "";
  $("progress").removeAttribute("value");
  $("progress").hidden = !busy;
  $("make").hidden = busy;
  $("cancel").hidden = !busy;
  if (focused === $("make") && busy) $("cancel").focus();
  if (focused === $("cancel") && !busy) $("make").focus();
  document.title = busy ? `${words} · Text to audio` : "Text to audio";
  for (const input of inputs) input.removeAttribute("aria-invalid");
}

function progress({ step, steps }, first) {
  const [past, bar] = [step - first.step, $("progress")];
  const left = past ? (((performance.now() - first.at) / past) * (steps - step)) / 1000 : null;
  bar.max = steps;
  bar.value = step;
  $("status").textContent = step < steps ? `Step ${step} of ${steps}` : "Turning it into sound";
  const words = left < 1 ? "less than 1 s left" : `about ${seconds(Math.ceil(left))} left`;
  $("left").textContent = past && step < steps ? words : "";
  document.title = `${Math.floor((100 * step) / steps)} % · Text to audio`;
  const quarter = Math.floor((4 * step) / steps);
  if (quarter > Math.floor((4 * (step - 1)) / steps)) $("said").textContent = `${25 * quarter} % of the steps are done`;
}

function fail(message) {
  show("failed", "");
  $("wrong").textContent = message;
  const field = inputs.find(({ name }) => message.startsWith(name) || message.includes(`$.${name}`));
  if ($("more").contains(field ?? null)) $("more").open = true;
  field?.setAttribute("aria-invalid", "true");
  field?.focus();
}

function openDoor(words) {
  $("door").hidden = false;
  $("refused").textContent = words;
  $("key").focus();
}

function showExamples(examples) {
  const chips = examples.map((text) => {
    const chip = document.createElement("button");
    chip.textContent = text;
    chip.onclick = () => {
      $("prompt").value = text;
      $("prompt").focus();
    };
    return chip;
  });
  $("examples").replaceChildren(...chips);
}

function hints() {
  const isFast = Number($("steps").value) === FAST.steps && $("scheduler").value === FAST.scheduler;
  const offered = model?.schedulers.includes(FAST.scheduler) && model.default_steps > FAST.steps;
  $("fast").hidden = !offered;
  $("fast").textContent = isFast ? `Back to ${model?.default_steps}` : `Fast: ${FAST.steps}`;
  $("fast").onclick = () => {
    $("steps").value = isFast ? model.default_steps : FAST.steps;
    $("scheduler").value = isFast ? model.default_scheduler : FAST.scheduler;
    hints();
  };
  $("reseed").hidden = !$("seed").value;
  $("seed-hint").hidden = !$("reseed").hidden;
}

function useAgain({ fields, seed }) {
  const usual = { guidance_scale: model.default_guidance_scale, scheduler: model.default_scheduler };
  for (const input of inputs) input.value = { ...usual, ...fields, seed }[input.name] ?? "";
  if (fields.guidance_scale !== undefined || fields.scheduler !== undefined) $("more").open = true;
  hints();
  $("prompt").focus();
  scrollTo({ top: 0 });
}

// --- what is done by hand

form.onsubmit = (event) => {
  event.preventDefault();
  make();
};
form.oninput = hints;
$("cancel").onclick = () => running?.abort();
$("reseed").onclick = () => {
  $("seed").value = "";
  hints();
  $("seed").focus();
};
$("door").onsubmit = (event) => {
  event.preventDefault();
  const key = $("key").value.trim();
  if (!/^[\x21-\x7e ]+$/.test(key)) {
    $("refused").textContent = key ? "A key is of Latin letters, digits and signs." : "Give the key first.";
    return;
  }
  sessionStorage.setItem(KEY, key);
  meet().then(() => $("prompt").focus(), showTrouble);
};
document.onkeydown = (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !$("door").contains(event.target)) make();
};

const apple = /Mac|iPhone|iPad/.test(navigator.platform);
$("status").textContent = `${apple ? "⌘ Return" : "Ctrl + Enter"} makes it, Escape cancels`;
const showTrouble = (error) => $("door").hidden && fail(error.message);
showExamples(EXAMPLES);
meet().catch(showTrouble);
