// How the service stands: the figures and alerts of /v1/stats.

import { call } from "./api.js";
import { byId, bytes, clock, el, fill } from "./dom.js";

const EVERY_MS = 5000;

/** Show the figures now and every few seconds while the page is looked at. */
export function watchService() {
  const look = async () => {
    if (!document.hidden) await show();
    setTimeout(look, EVERY_MS);
  };
  document.addEventListener("visibilitychange", () => document.hidden || show());
  look();
}

function replicas(count) {
  return count ? `${count.running} of ${count.wanted} replicas` : "replicas not known";
}

function modelWords({ state, replicas: count, memory }) {
  const held = memory ? `, memory ${bytes(memory.allocated_bytes)} used, ${bytes(memory.free_bytes)} free` : "";
  return `${state}, ${replicas(count)}${held}`;
}

async function show() {
  let stats;
  try {
    stats = await call("/v1/stats");
  } catch (error) {
    fill(byId("alerts"), el("li", { className: "critical" }, error.message));
    fill(byId("figures")); // those of a while ago say nothing of now
    return;
  }
  fill(byId("alerts"), stats.alerts.map((alert) => el("li", { className: alert.severity }, alert.message)));
  const { analyses, clips, storage } = stats;
  const rows = [
    ["Analyses", `${analyses.running} running, ${analyses.queued} queued`],
    ["Longest wait", analyses.oldest_queued_s === null ? "none" : clock(analyses.oldest_queued_s)],
    ["Clips", `${clips.described_per_s.toFixed(2)} a second, ${clips.in_flight} under way`],
    ...stats.models.map((model) => [model.id, modelWords(model)]),
    ["Runners", replicas(stats.runners)],
    ["Storage", storage.free_bytes === null ? storage.kind : `${bytes(storage.free_bytes)} free`],
    ["Version", stats.version],
  ];
  fill(byId("figures"), rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}
