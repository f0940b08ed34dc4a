// The page of the service: it asks for a sound, tells how far it is, and keeps what was made in this visit.

import { offer, refuse, take, takeAndAsk, takeAway, taken } from "./begin.js";
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
const inputs = [...form.elements].filter(({ name }) => name && name !== "deed");
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
  if (model.edits) offer(model.sampling_rate);
  showExamples(model.speech ? VOICES : EXAMPLES);
  hints();
}

/** What a field says; undefined if it is left empty, and so left to the service. */
function said({ name, type, value, checked }) {
  if (type === "checkbox") return checked || undefined;
  if (!value.trim()) return name === "input" ? value : undefined;
  return type === "number" || type === "range" ? Number(value) : value;
}

/** What the form says, but for the seed, by the names of the service. */
function asked() {
  const fields = {};
  for (const input of inputs.filter((one) => !one.matches(":disabled") && one.name !== "seed")) {
    const { badInput, valueMissing } = input.validity;
    const [value, name] = [said(input), input.name];
    if (badInput || valueMissing) {
      throw Object.assign(new Error(`${input.labels[0].textContent} is not a number.`), { input });
    }
    if (name === "inpaint_seconds") (fields[name] ??= [[]])[0].push(value);
    else if (value !== undefined) fields[name] = value;
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

/** The same as the texts of a form. A space stands for the end of a line, which browsers and curl send differently. */
function texts(fields, seed) {
  const pairs = Object.entries(fields).map(([name, value]) => {
    return [name, typeof value === "string" ? value.replaceAll("\n", " ") : JSON.stringify(value)];
  });
  return seed ? [...pairs, ["seed", seed]] : pairs;
}

/** The answer to what is asked, about a file or about words alone. */
function send(fields, seed, file) {
  const options = { method: "POST", signal: running.signal };
  if (!file) return ask("v1/audio/generate", { ...options, body: json(fields, seed) });
  const body = new FormData();
  for (const pair of texts(fields, seed)) body.append(...pair);
  body.append("audio", file);
  return ask("v1/audio/edit", { ...options, body });
}

async function make() {
  if (running) return;
  running = new AbortController();
  const begun = performance.now();
  try {
    show("running", "Sent");
    if (!model) await meet();
    const [fields, seed, start] = [asked(), $("seed").value.trim(), taken()];
    const answer = await send({ ...fields, stream_format: "sse" }, seed, start);
    const done = await follow(answer);
    await keep(fields, seed, start, done);
    show("done", `Made in ${seconds((performance.now() - begun) / 1000)}`);
  } catch (error) {
    if (error.name === "AbortError") show("idle", "Cancelled");
    else fail(error);
  } finally {
    running = null;
  }
}

/** Show how far a call is, until it is done: then what the service told of its sound. */
async function follow(answer) {
  let [first, steps] = [null, 0];
  for await (const event of events(answer)) {
    if (event.type === "error") throw new Error(event.error.message);
    if (event.type === "audio.done") return { ...event, steps };
    if (event.type === "audio.queued") {
      show("running", event.waiting ? `Waiting: ${event.waiting} before yours` : "Waiting: yours is next");
    } else if (event.type === "audio.progress") {
      steps = event.steps;
      first ??= { step: event.step, at: performance.now() };
      progress(event, first);
    }
  }
  throw new Error(CUT);
}

async function keep(fields, seed, start, { data: [sound], duration, sampling_rate: rate, steps, timings }) {
  const spent = Object.entries(timings).filter(([stage]) => stage !== "queue");
  const digits = seed || String(sound.seed);
  const whole = {
    fields,
    start,
    steps,
    rate,
    duration,
    seed: digits,
    madeS: spent.reduce((sum, [, value]) => sum + value, 0),
    bytes: Uint8Array.from(atob(sound.b64_json), (letter) => letter.charCodeAt(0)),
    body: start ? texts(fields, digits) : json(fields, digits),
    withKey: sessionStorage.getItem(KEY) !== null,
  };
  const card = await soundCard(whole, useAgain, model.edits && beginWith);
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

function fail({ message, input }) {
  show("failed", "");
  $("wrong").textContent = message;
  const about = (name) => new RegExp(String.raw`(^|\$\.)${name}\b`).test(message);
  if (about("audio")) refuse();
  const field = input ?? inputs.find(({ name }) => about(name));
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

/** Set the form to what a sound was asked with. */
function useAgain({ fields, seed, start }) {
  const { default_duration: audio_length, default_guidance_scale: guidance_scale, default_scheduler: scheduler } = model;
  const values = { ...(start && { audio_length }), guidance_scale, scheduler, ...fields, seed };
  const range = fields.inpaint_seconds?.[0].values();
  for (const input of inputs) {
    const value = input.name === "inpaint_seconds" ? range?.next().value : values[input.name];
    if (input.type === "checkbox") input.checked = value === true;
    else input.value = value ?? input.defaultValue ?? "";
  }
  if (["guidance_scale", "scheduler", "loop"].some((name) => name in fields)) $("more").open = true;
  if (start) {
    for (const choice of form.elements.deed) choice.checked = choice.value in fields;
    take(start);
  } else takeAway();
  hints();
  $("prompt").focus();
  scrollTo({ top: 0 });
}

async function beginWith(file) {
  await takeAndAsk(file);
  $("begin").scrollIntoView({ block: "center" });
}

// --- what is done by hand

form.onsubmit = (event) => {
  event.preventDefault();
  make();
};
form.addEventListener("input", hints);
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
const showTrouble = (error) => $("door").hidden && fail(error);
showExamples(EXAMPLES);
meet().catch(showTrouble);
