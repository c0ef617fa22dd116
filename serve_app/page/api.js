// The service's HTTP interface: calls that say in one line what is wrong, and streams of server-sent events.

import { wait } from "./dom.js";

const KEY = "vidray.key";
const AGAIN_MS = 1000;
const LONGEST_MS = 15_000;

export function key() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function setKey(value) {
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
}

/** What went wrong: `status` 0 where nobody answered. */
export class CallError extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}

/** Say whether a call may do better the next time. */
function mayPass(error) {
  return error instanceof CallError && (error.status === 0 || [408, 429].includes(error.status) || error.status >= 500);
}

/** Do it again, later and later, while nobody answers or not for now; `lost` hears whether that is so. */
export async function patiently(work, signal, { tries = Infinity, lost = () => null } = {}) {
  for (let tried = 1; ; tried++) {
    try {
      const done = await work();
      lost(false);
      return done;
    } catch (error) {
      if (signal?.aborted || !mayPass(error) || tried === tries) throw error;
      lost(true);
      await wait(Math.min(500 * 2 ** tried, LONGEST_MS), signal);
    }
  }
}

async function answer(path, { method = "GET", json, body, headers = {}, signal } = {}) {
  const sent = { ...headers };
  if (key()) sent.Authorization = `Bearer ${key()}`;
  if (json !== undefined) sent["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers: sent,
      body: json === undefined ? body : JSON.stringify(json),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new CallError(0, "no_answer", "The service does not answer.");
  }
  if (!response.ok) throw await refused(response);
  return response;
}

async function refused(response) {
  let told = {};
  try {
    told = (await response.json()).error ?? {};
  } catch {
    // No JSON: a proxy's answer, of which the status says all that there is to say.
  }
  return new CallError(response.status, told.code ?? "", told.message ?? `HTTP ${response.status}`);
}

/** Return the JSON of an answer. */
export async function call(path, options) {
  return (await answer(path, options)).json();
}

/** Return once the service has what lies at `path`; `lost` hears when it does not answer. */
export async function reach(path, signal, lost) {
  const headers = { Range: "bytes=0-0" };
  const response = await patiently(() => answer(path, { headers, signal }), signal, { lost: (gone) => gone && lost() });
  await response.body.cancel();
}

/** Return a URL of this page's own for what lies at `path`. */
export async function blobUrl(path, signal) {
  return URL.createObjectURL(await (await answer(path, { signal })).blob());
}

export async function download(path, name) {
  const url = await blobUrl(path);
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Yield every server-sent event of one answer: {id, type, data}. */
export async function* events(path, options) {
  yield* eventsOf(await answer(path, options));
}

/** Yield a body's text as it comes: by a reader, since not every browser iterates over a stream. */
async function* texts(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let got = await reader.read(); !got.done; got = await reader.read()) yield got.value;
  } finally {
    reader.cancel().catch(() => null); // of one that broke it is told elsewhere
  }
}

async function* eventsOf(response) {
  let [left, event] = ["", { id: "", type: "message", data: [] }];
  for await (const text of texts(response)) {
    const lines = (left + text).split(/\r\n|\n|\r/);
    left = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.data.length) yield { ...event, data: event.data.join("\n") };
        event = { id: event.id, type: "message", data: [] };
        continue;
      }
      const colon = line.indexOf(":");
      const [field, value] = colon < 0 ? [line, ""] : [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
      if (field === "data") event.data.push(value);
      else if (field === "event") event.type = value;
      else if (field === "id") event.id = value;
    }
  }
}

/**
 * Tell every event of an analysis until it is done, over as many connections as it takes: none is lost, none comes twice.
 * `lost` hears whether the connection is gone. A `done` may be that of a round before a retry: only 204 is the end.
 */
export async function follow(path, tell, lost, signal) {
  let last = "0";
  for (;;) {
    try {
      const response = await answer(path, { headers: { "Last-Event-ID": last }, signal });
      lost(false);
      if (response.status === 204) return;
      let type;
      for await (const event of eventsOf(response)) {
        last = event.id || last;
        type = event.type;
        tell(type, JSON.parse(event.data));
      }
      if (type === "done") continue;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof CallError && error.status >= 400 && error.status < 500) throw error;
      lost(true);
    }
    await wait(AGAIN_MS, signal);
  }
}
