// The page: what is asked for, what there is, and the one analysis that is looked at, which the address names.

import { call, CallError, download, follow, key, patiently, setKey } from "./api.js";
import { Captions, showCoverage } from "./captions.js";
import { Chat, citation } from "./chat.js";
import { watchService } from "./cluster.js";
import { byId, bytes, clips, clock, el, fill } from "./dom.js";
import { Player } from "./player.js";
import { Strip } from "./strip.js";
import { send } from "./uploads.js";

const FORMATS = ["json", "vtt", "srt", "csv", "md"];
const ENDED = ["completed", "partial", "failed", "cancelled"];
const LOST = "The connection is lost; trying again.";
const captions = new Captions(seek);
const chat = new Chat(seek);
const player = new Player((second) => captions.at(second));
const strip = new Strip(byId("strip"), seek);
let looking = new AbortController();
let followed = null; // the analysis that has been followed to its end, and the attempt that brought it there
let uploading = null;

function say(text) {
  byId("told").textContent = text;
}

/** Say that the connection is lost, until it is there again. */
function sayLost(lost) {
  if (lost) say(LOST);
  else if (byId("told").textContent === LOST) say("");
}

/** Do something that may fail, and say so in a line. */
async function tried(work) {
  try {
    say("");
    return await work();
  } catch (error) {
    if (error instanceof CallError && error.status === 401) {
      byId("account").hidden = false;
      byId("account").open = true;
    }
    if (error.name !== "AbortError") say(error.message);
    return undefined;
  }
}

function seek(second) {
  player.seek(second);
  captions.at(second);
}

// --- a new analysis

let notices = new Map();

async function listModels() {
  const { data } = await call("/v1/models");
  const fillWith = (select, kind, first) =>
    fill(select, first, data.filter((one) => one.kind === kind).map((one) => el("option", { value: one.id }, one.id)));
  fillWith(byId("model"), "vision", null);
  fillWith(byId("chat-model"), "chat", el("option", { value: "" }, "the service's default"));
  notices = new Map(data.map((one) => [one.id, one.notice]));
  showNotice();
}

function showNotice() {
  const text = notices.get(byId("model").value);
  byId("notice").hidden = !text;
  byId("notice").textContent = text ?? "";
}

const FILES = 100;
const OLDER = "older"; // the choice that lists more
let oldestFile = null;
let listings = 0;

const option = (file) => el("option", { value: file.id }, `${file.filename} (${clock(file.video.duration_s)})`);

/** List the latest stored videos, or those before `after` below them, and choose `chosen`; return whether that stands. */
async function listFiles(chosen, after) {
  const select = byId("file");
  const mine = ++listings;
  const page = await call(`/v1/files?limit=${FILES}${after ? `&after=${after}` : ""}`);
  if (mine !== listings) return false;
  const options = page.data.map(option);
  // Its bytes may have been stored long ago: then it is not among the latest.
  if (chosen && !page.data.some((file) => file.id === chosen.id)) options.unshift(option(chosen));
  if (page.has_more) options.push(el("option", { value: OLDER }, "Older ones…"));
  if (after) select.lastElementChild.replaceWith(...options);
  else fill(select, options.length ? options : el("option", { value: "" }, "none yet"));
  oldestFile = page.last_id;
  if (chosen) select.value = chosen.id;
  byId("start").disabled = !select.value;
  return true;
}

/** Go on with the video that is chosen, or with the older ones, the first of which is chosen then. */
async function choose() {
  const select = byId("file");
  byId("start").disabled = !select.value || select.value === OLDER;
  if (select.value !== OLDER) return;
  const at = select.length - 1;
  try {
    if (await listFiles(null, oldestFile)) select.selectedIndex = at;
  } catch (error) {
    select.selectedIndex = 0; // else the same choice could not be made again
    throw error;
  } finally {
    byId("start").disabled = false;
  }
}

async function take(file) {
  if (uploading) {
    say("One video at a time: this one was not taken.");
    return;
  }
  uploading = new AbortController();
  const begun = performance.now();
  byId("upload").hidden = false;
  let before;
  const tell = (arrived) => {
    before ??= arrived;
    const rate = (arrived - before) / Math.max(0.001, (performance.now() - begun) / 1000);
    byId("upload-bar").value = file.size ? arrived / file.size : 0;
    byId("upload-text").textContent = `${file.name}: ${bytes(arrived)} of ${bytes(file.size)}, ${bytes(Math.round(rate))} a second`;
  };
  await tried(async () => listFiles(await send(file, tell, uploading.signal)));
  byId("upload").hidden = true;
  byId("video").value = ""; // else the same one could not be chosen again
  uploading = null;
}

let unanswered = {};

function randomKey() {
  // Not randomUUID, which there is only on https and on this machine.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
}

async function start() {
  const json = {
    file_id: byId("file").value,
    model: byId("model").value,
    clip_duration_s: Number(byId("clip_duration_s").value),
    fps: Number(byId("fps").value),
    events: byId("events").value.split("\n").map((line) => line.trim()).filter(Boolean),
    allow_cloud: byId("allow_cloud").checked,
  };
  if (byId("prompt").value.trim()) json.prompt = byId("prompt").value.trim();
  // A press after a lost answer asks for the same analysis again, not for another one.
  const asked = JSON.stringify(json);
  if (unanswered.asked !== asked) unanswered = { asked, key: randomKey() };
  byId("start").disabled = true;
  try {
    const headers = { "Idempotency-Key": unanswered.key };
    const made = await call("/v1/analyses", { method: "POST", json, headers });
    unanswered = {};
    location.hash = made.id;
  } finally {
    byId("start").disabled = !byId("file").value;
  }
  await listAnalyses();
}

// --- what there is

const LIST_MS = 5000;
let oldest = null;
let extended = false;
const listed = new Map(); // the rows, by the analysis

function row(one) {
  const link = el("a", { href: `#${one.id}`, "aria-current": one.id === here() ? "true" : null },
    el("span", { className: "name" }, one.filename), " ", el("span", { className: "state" }), " ",
    el("time", {}, new Date(one.created_at * 1000).toLocaleString()));
  return el("li", {}, link);
}

/** List the latest analyses, or those before `after` below them; rows stay, and so does the focus that may be in one. */
async function listAnalyses(after) {
  const page = await call(`/v1/analyses?limit=20${after ? `&after=${after}` : ""}`);
  let next = extended && !after ? byId("analyses").firstElementChild : null;
  for (const one of [...page.data].reverse()) {
    if (!listed.has(one.id)) {
      listed.set(one.id, row(one));
      byId("analyses").insertBefore(listed.get(one.id), next);
    }
    next = listed.get(one.id);
    next.querySelector(".state").className = `state ${one.state}`;
    next.querySelector(".state").textContent = one.state;
  }
  extended ||= Boolean(after);
  // Whoever looks at older ones keeps them in sight.
  if (!extended) for (const id of listed.keys()) if (!page.data.some((one) => one.id === id)) unlist(id);
  byId("none").hidden = listed.size > 0;
  if (extended && !after) return;
  oldest = page.last_id;
  byId("older").hidden = !page.has_more;
}

function unlist(id) {
  listed.get(id)?.remove();
  listed.delete(id);
}

// --- the analysis that is looked at

function here() {
  return location.hash.slice(1);
}

async function open() {
  looking.abort(new DOMException("another analysis", "AbortError"));
  followed = null;
  looking = new AbortController();
  const { signal } = looking;
  const id = here();
  byId("seen").hidden = byId("talk").hidden = true;
  document.title = "Vidray";
  player.close();
  for (const link of byId("analyses").querySelectorAll("a")) {
    if (link.hash === `#${id}`) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
  captions.clear();
  strip.clear();
  for (const part of ["summary", "failed", "actions", "coverage"]) byId(part).replaceChildren();
  byId("actions").dataset.of = "";
  if (!id) return;
  const path = `/v1/analyses/${encodeURIComponent(id)}`;
  const analysis = await patiently(() => call(path, { signal }), signal, { lost: sayLost });
  signal.throwIfAborted();
  byId("seen").hidden = byId("talk").hidden = false;
  byId("seen-title").textContent = analysis.filename;
  document.title = `${analysis.filename} – Vidray`;
  const content = `${analysis.links.file}/content`;
  player.open(content, signal).then(
    (url) => strip.open(content, url, signal),
    (error) => signal.aborted || say(error.message),
  );
  chat.open(id, signal).catch((error) => signal.aborted || say(error.message));
  await watch(path, analysis, signal);
}

/** Follow the analysis, which is as it stood when it was opened, to its end. */
async function watch(path, analysis, signal) {
  const show = () => {
    showState(path, analysis);
    showCoverage(captions, analysis.progress.clips_total);
  };
  show();
  let asked = 0;
  // Answers may overtake each other: what was asked last is what stands.
  const look = async () => {
    const mine = ++asked;
    const now = await call(path, { signal }).catch(() => null);
    if (!now || mine !== asked) return;
    analysis = now;
    show();
  };
  let drawn = 0;
  let end;
  const tell = async (type, event) => {
    if (type === "clip") {
      captions.add(event);
      strip.add(event, analysis.progress.clips_total);
      // Not for each of a burst: the list is what counts.
      drawn ||= requestAnimationFrame(() => {
        drawn = 0;
        showCoverage(captions, analysis.progress.clips_total);
        showFailed();
      });
    }
    if (type === "summary") showSummary(event);
    if (type === "progress") analysis.progress.clips_total = event.clips_total; // the clips that follow at once need it
    if (type === "done") end = event.attempt;
    if (type === "progress" || type === "done") await look();
  };
  const ticking = setInterval(() => document.hidden || ENDED.includes(analysis.state) || look(), 2000);
  try {
    await follow(`${path}/events`, tell, sayLost, signal);
  } finally {
    clearInterval(ticking);
  }
  if (signal.aborted) return;
  followed = { id: analysis.id, attempt: end };
  await look();
  await listAnalyses();
}

function showState(path, analysis) {
  const { progress, state } = analysis;
  const total = progress.clips_total ?? "?";
  const eta = progress.eta_s ? `, about ${clock(progress.eta_s)} left` : "";
  byId("state").textContent = `${state}: ${progress.clips_done} of ${total} clips${eta}`;
  if (byId("actions").dataset.of === state) return;
  if (byId("actions").dataset.of) byId("announced").textContent = `${analysis.filename}: ${state}`;
  byId("actions").dataset.of = state;
  // What comes of it is told by the events: by the stream that is open, or by the one that is opened again.
  const ask = async (button, name) => {
    button.disabled = true;
    try {
      await call(`${path}/${name}`, { method: "POST" });
    } finally {
      button.disabled = false;
    }
    if (followed) await followAgain();
  };
  const act = (name, text) => el("button", { type: "button", onclick: ({ target }) => tried(() => ask(target, name)) }, text);
  const ended = ENDED.includes(state);
  const exports = FORMATS.map((format) =>
    el("button", { type: "button", onclick: () => tried(() => download(`${path}/result?format=${format}`, `${analysis.filename}.${format}`)) },
      format.toUpperCase()));
  const remove = () => confirm("Remove this analysis and its captions? The video stays.") && tried(() => removed(path));
  fill(byId("actions"), ended ? [el("span", {}, "Export:"), ...exports] : act("cancel", "Cancel"),
    ended && state !== "completed" ? act("retry", "Try failed clips again") : null,
    ended ? el("button", { type: "button", onclick: remove }, "Remove") : null);
}

/** Follow once more what was followed to its end, if somebody has it tried again; player and chat stay as they are. */
async function followAgain() {
  const { signal } = looking;
  const path = `/v1/analyses/${encodeURIComponent(followed.id)}`;
  const analysis = await call(path, { signal });
  // Another try may be over before it is looked at.
  if (signal.aborted || !followed || (ENDED.includes(analysis.state) && analysis.attempt === followed.attempt)) return;
  followed = null;
  await tried(() => watch(path, analysis, signal));
}

async function removed(path) {
  const id = here();
  await call(path, { method: "DELETE" });
  location.hash = "";
  unlist(id);
  await listAnalyses();
}

function showSummary(summary) {
  const told = summary.passages ?? [];
  fill(byId("summary"), told.length ? el("h3", {}, summary.partial ? "Summary so far" : "Summary") : null,
    told.map((passage) => el("p", {}, passage.text, " ", (passage.citations ?? []).map((cited) => citation(seek, cited)))));
}

function showFailed() {
  const failed = captions.failed();
  fill(byId("failed"), failed.length ? el("h3", {}, `${clips(failed.length)} without a caption`) : null,
    failed.length ? el("ul", {}, failed.map((clip) => el("li", {}, citation(seek, clip), ` ${clip.error.message} (${clip.error.code})`))) : null);
}

// --- what is pressed, dropped and played

byId("video").addEventListener("change", (event) => event.target.files[0] && take(event.target.files[0]));
byId("drop").addEventListener("dragover", (event) => event.preventDefault());
byId("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
});
byId("upload-cancel").addEventListener("click", () => uploading?.abort(new DOMException("cancelled", "AbortError")));
byId("file").addEventListener("change", () => tried(choose));
byId("new-form").addEventListener("submit", (event) => {
  event.preventDefault();
  tried(start);
});
byId("model").addEventListener("change", showNotice);
byId("older").addEventListener("click", async (event) => {
  event.target.disabled = true;
  await tried(() => listAnalyses(oldest));
  event.target.disabled = false;
});
// By itself the link would change the address, which names the analysis.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("captions").focus();
});
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(byId("key").value.trim());
  extended = false; // what another key saw goes
  tried(begin);
});
addEventListener("hashchange", () => tried(open));

async function begin() {
  byId("key").value = key();
  byId("account").hidden = !key();
  tried(open);
  const lists = [listModels, listFiles, listAnalyses].map((list) => patiently(() => list(), undefined, { lost: sayLost }));
  const failed = (await Promise.allSettled(lists)).find((one) => one.status === "rejected");
  if (failed) throw failed.reason;
}

setInterval(() => document.hidden || listAnalyses().catch(() => null), LIST_MS);
setInterval(() => document.hidden || !followed || followAgain().catch(() => null), LIST_MS);
watchService();
tried(begin);
