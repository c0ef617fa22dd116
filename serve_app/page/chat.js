// Questions about the video: answers as they are written, whose places in the video are buttons.

import { call, CallError, events } from "./api.js";
import { byId, clock, el, fill, showWithin } from "./dom.js";

const ASKED = "vidray.asked"; // the question under way: until it is answered, a reload finds it in its box again
const TIME = String.raw`\d+(?::\d\d){1,2}(?:\.\d+)?`;
const MARK = new RegExp(String.raw`\[(${TIME})(?:\s*[-–—]\s*${TIME})?\]`, "g");

export class Chat {
  constructor(seek) {
    this.seek = seek;
    this.asking = null;
    byId("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.ask(byId("question").value.trim());
    });
    byId("question").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        byId("chat-form").requestSubmit();
      }
    });
  }

  async open(analysis, signal) {
    this.analysis = analysis;
    this.signal = signal;
    this.turns = [];
    byId("chat").replaceChildren();
    const { asked, of } = JSON.parse(sessionStorage.getItem(ASKED) ?? "{}");
    if (of === analysis) byId("question").value = asked;
    const told = await call(`/v1/analyses/${analysis}/chats?limit=100`, { signal });
    for (const one of told.data.reverse()) {
      this.say("user", one.turns.at(-1).text);
      fill(this.say("assistant", ""), this.marked(one.answer));
      this.turns.push({ role: "user", content: one.turns.at(-1).text }, { role: "assistant", content: one.answer });
    }
  }

  async ask(question) {
    if (!question || this.asking) return;
    byId("question").value = "";
    this.say("user", question);
    const answer = this.say("assistant", "…");
    const messages = [...this.turns, { role: "user", content: question }];
    const json = { analysis_id: this.analysis, messages, stream: true };
    if (byId("chat-model").value) json.model = byId("chat-model").value;
    let [said, whole] = ["", false];
    this.asking = true;
    sessionStorage.setItem(ASKED, JSON.stringify({ asked: question, of: this.analysis }));
    byId("chat").setAttribute("aria-busy", "true"); // read out once it is whole
    try {
      for await (const event of events("/v1/chat/completions", { method: "POST", json, signal: this.signal })) {
        whole = event.data === "[DONE]";
        if (whole) break;
        const chunk = JSON.parse(event.data);
        if (chunk.error) throw new CallError(0, chunk.error.code, chunk.error.message);
        said += chunk.choices[0]?.delta.content ?? "";
        fill(answer, this.marked(said));
        if (chunk.unsupported_citations?.length) {
          answer.append(el("p", { className: "notice" }, `Not in the video: ${chunk.unsupported_citations.join(", ")}`));
        }
      }
      if (!whole) throw new CallError(0, "cut", "The answer was cut.");
      this.turns = [...messages, { role: "assistant", content: said }];
      sessionStorage.removeItem(ASKED);
    } catch (error) {
      if (this.signal.aborted) return;
      fill(answer, this.marked(said), el("p", { className: "failed" }, error.message));
      byId("question").value ||= question; // to be asked again
    } finally {
      this.asking = null;
      byId("chat").removeAttribute("aria-busy");
    }
  }

  say(by, text) {
    const turn = el("li", { className: by }, text);
    byId("chat").append(turn);
    showWithin(byId("chat"), turn);
    return turn;
  }

  /** Return a text whose marks such as [0:10-0:20] are buttons that seek. */
  marked(text) {
    const parts = [];
    let at = 0;
    for (const mark of text.matchAll(MARK)) {
      parts.push(text.slice(at, mark.index));
      const start = seconds(mark[1]);
      parts.push(el("button", { type: "button", className: "cite", onclick: () => this.seek(start) }, mark[0]));
      at = mark.index + mark[0].length;
    }
    return [...parts, text.slice(at)];
  }
}

/** Return the seconds of `m:ss` or `h:mm:ss`, with a fraction or without. */
function seconds(text) {
  return text.split(":").reduce((sum, part) => 60 * sum + Number(part), 0);
}

export function citation(seek, cited) {
  const words = `${clock(cited.start_s)} – ${clock(cited.end_s)}`;
  return el("button", { type: "button", className: "cite", onclick: () => seek(cited.start_s) }, words);
}
