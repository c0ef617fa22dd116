// The clips of one analysis: a list to read, search and seek by, a strip of the whole video, and what failed.

import { byId, clips, clock, el, fill, showWithin } from "./dom.js";

export class Captions {
  /** `seek` takes the player to a second of the video. */
  constructor(seek) {
    this.seek = seek;
    this.list = byId("captions");
    byId("search").addEventListener("input", () => this.search());
    this.clear();
  }

  clear() {
    this.clips = new Map();
    this.rows = new Map();
    this.shown = null;
    this.list.replaceChildren();
    byId("search").value = "";
    byId("found").textContent = "";
  }

  /** Take a clip's outcome; one that was described again replaces the one before. */
  add(clip) {
    const row = this.row(clip);
    const before = this.rows.get(clip.index);
    this.clips.set(clip.index, clip);
    this.rows.set(clip.index, row);
    if (before) before.replaceWith(row);
    else this.place(clip.index, row);
    if (clip.index === this.shown) row.setAttribute("aria-current", "true");
    const asked = byId("search").value.trim();
    if (asked) this.search();
  }

  row(clip) {
    const says = clip.error
      ? el("span", { className: "failed" }, `Not described: ${clip.error.message}`)
      : el("span", {}, clip.text ?? "");
    const events = (clip.events ?? []).map((event) =>
      el("button", { type: "button", className: "event", onclick: () => this.seek(event.time_s) },
        `${clock(event.time_s)} ${event.event}${event.object ? `: ${event.object}` : ""}`),
    );
    return el("li", { id: `clip-${clip.index}` },
      el("button", { type: "button", className: "time", onclick: () => this.seek(clip.start_s) },
        `${clock(clip.start_s)} – ${clock(clip.end_s)}`),
      " ", says, events.length ? el("div", {}, events) : null);
  }

  /** Put a new row where it belongs: clips come nearly in order, so the search begins at the end. */
  place(index, row) {
    let after = this.list.lastElementChild;
    while (after && Number(after.id.slice(5)) > index) after = after.previousElementSibling;
    if (after) after.after(row);
    else this.list.prepend(row);
  }

  search() {
    const asked = byId("search").value.trim().toLowerCase();
    let found = 0;
    for (const [index, clip] of this.clips) {
      const hit = matches(clip, asked);
      this.rows.get(index).hidden = !hit;
      found += hit;
    }
    byId("found").textContent = asked ? `${found} of ${this.clips.size}` : "";
  }

  /** Mark the clip that the player is in. */
  at(second) {
    let inside = null;
    for (const clip of this.clips.values()) if (clip.start_s <= second && second < clip.end_s) inside = clip.index;
    if (inside === this.shown) return;
    this.rows.get(this.shown)?.removeAttribute("aria-current");
    this.shown = inside;
    const row = this.rows.get(inside);
    if (!row) return;
    row.setAttribute("aria-current", "true");
    if (!this.list.contains(document.activeElement)) showWithin(this.list, row);
  }

  failed() {
    return [...this.clips.values()].filter((clip) => clip.error);
  }
}

function matches(clip, asked) {
  if (!asked) return true;
  const events = (clip.events ?? []).map((event) => `${event.event} ${event.object ?? ""}`);
  return [clip.text ?? "", clip.error?.message ?? "", ...events].join(" ").toLowerCase().includes(asked);
}

/** Show how much of the video was described, failed, taken from before and seen by whom. */
export function showCoverage(captions, total) {
  const told = [...captions.clips.values()];
  const failed = told.filter((clip) => clip.error).length;
  const reused = told.filter((clip) => clip.reused).length;
  const outside = told.filter((clip) => clip.served_by?.startsWith("cloud:")).length;
  const parts = [
    ["described", told.length - failed - reused - outside, "described here"],
    ["outside", outside, "described by a model outside"],
    ["reused", reused, "known from before"],
    ["failed", failed, "failed"],
    ["open", Math.max(0, (total ?? told.length) - told.length), "not yet"],
  ].filter(([, count]) => count);
  const bar = byId("coverage");
  bar.setAttribute("aria-label", parts.map(([, count, words]) => `${clips(count)} ${words}`).join(", ") || "no clips yet");
  fill(bar, parts.map(([kind, count, words]) => {
    const part = el("span", { className: kind, title: `${clips(count)} ${words}` }, String(count));
    part.style.flexGrow = count;
    return part;
  }));
}
