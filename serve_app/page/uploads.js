// A video sent in parts: a cut costs the part under way, a closed page nothing that has arrived.

import { call, CallError, patiently } from "./api.js";

const PART_BYTES = 4 * 1024 * 1024;
const AT_ONCE = 3;
const TRIES = { tries: 8 };
const KNOWN = "vidray.uploads";

/** Send `file`, or what is left of it, and return the stored file; `tell` hears the bytes that have arrived. */
export async function send(file, tell, signal) {
  const upload = (await known(file, signal)) ?? (await begun(file, signal));
  if (upload.file) {
    forget(file); // the answer to its completion was lost
    return upload.file;
  }
  const parts = placed(upload, file);
  const left = parts.map((id, at) => (id ? null : at)).filter((at) => at !== null);
  const size = (at) => Math.min(PART_BYTES, file.size - at * PART_BYTES);
  let arrived = parts.reduce((sum, id, at) => sum + (id ? size(at) : 0), 0);
  tell(arrived);
  async function work() {
    for (let at = left.shift(); at !== undefined; at = left.shift()) {
      const piece = file.slice(at * PART_BYTES, (at + 1) * PART_BYTES);
      parts[at] = (await patiently(() => part(upload.id, piece, signal), signal, TRIES)).id;
      remember(file, { id: upload.id, parts });
      tell((arrived += piece.size));
    }
  }
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, work));
  } catch (error) {
    left.length = 0;
    if (signal.aborted) {
      forget(file);
      await call(`/v1/uploads/${upload.id}/cancel`, { method: "POST" }).catch(() => null); // it expires by itself
    }
    throw error;
  }
  const whole = await patiently(
    () => call(`/v1/uploads/${upload.id}/complete`, { method: "POST", json: { part_ids: parts }, signal }),
    signal,
    TRIES,
  );
  forget(file);
  return whole.file;
}

function part(id, piece, signal) {
  const body = new FormData();
  body.append("data", piece);
  return call(`/v1/uploads/${id}/parts`, { method: "POST", body, signal });
}

async function begun(file, signal) {
  const json = { filename: file.name, bytes: file.size };
  const upload = await patiently(() => call("/v1/uploads", { method: "POST", json, signal }), signal, TRIES);
  remember(file, { id: upload.id, parts: [] });
  return upload;
}

async function known(file, signal) {
  const id = remembered()[nameOf(file)]?.id;
  if (!id) return null;
  try {
    const upload = await call(`/v1/uploads/${id}`, { signal });
    return upload.status === "pending" || upload.file ? upload : null;
  } catch (error) {
    if (error instanceof CallError && error.status === 404) return null;
    throw error;
  }
}

/** Return the ids of the parts that have arrived, each at its place, as this browser remembers. */
function placed(upload, file) {
  const arrived = new Set(upload.parts.map((one) => one.id));
  const parts = remembered()[nameOf(file)]?.parts ?? [];
  return Array.from({ length: Math.ceil(file.size / PART_BYTES) }, (_, at) => (arrived.has(parts[at]) ? parts[at] : null));
}

function nameOf(file) {
  return `${file.name}:${file.size}:${file.lastModified}`;
}

function remembered() {
  try {
    return JSON.parse(localStorage.getItem(KNOWN)) ?? {};
  } catch {
    return {};
  }
}

function remember(file, upload) {
  localStorage.setItem(KNOWN, JSON.stringify({ ...remembered(), [nameOf(file)]: upload }));
}

function forget(file) {
  const { [nameOf(file)]: _, ...others } = remembered();
  localStorage.setItem(KNOWN, JSON.stringify(others));
}
