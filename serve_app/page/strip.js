// Thumbnails of the clips in a row, taken from the video in the browser: no server draws them and none is stored.

import { clock, el } from "./dom.js";
import { hold } from "./player.js";

const MOST = 60;
const HEIGHT = 54;
const SEEK_MS = 5000;

export class Strip {
  constructor(element, seek) {
    Object.assign(this, { element, seek, todo: [], taken: 0, source: null, drawing: false });
  }

  clear() {
    this.element.replaceChildren();
    this.todo = [];
    this.taken = 0;
    this.source?.removeAttribute("src");
    this.source = null;
  }

  open(path, url, signal) {
    const source = Object.assign(document.createElement("video"), { muted: true, preload: "auto" });
    this.source = source;
    source.addEventListener("loadeddata", () => this.draw(source));
    hold(source, path, url, signal, () => null); // the player says why
  }

  /** A clip of `total` is described: it gets a thumbnail if it is one of those that are spread over the whole video. */
  add(clip, total) {
    if (clip.index % Math.ceil((total ?? 1) / MOST) || this.taken >= MOST || this.element.querySelector(`[data-index="${Number(clip.index)}"]`)) return;
    this.taken += 1;
    const button = el("button", { type: "button", tabIndex: -1, title: `${clock(clip.start_s)} ${clip.text ?? clip.error.message}`, onclick: () => this.seek(clip.start_s) });
    button.dataset.index = clip.index;
    const after = [...this.element.children].find((other) => Number(other.dataset.index) > clip.index);
    this.element.insertBefore(button, after ?? null);
    this.todo.push([button, (clip.start_s + clip.end_s) / 2]);
    if (this.source?.readyState >= 2) this.draw(this.source);
  }

  /** Draw what is to be drawn, one after the other, as long as this video is the one that is looked at. */
  async draw(source) {
    if (this.drawing) return;
    this.drawing = true;
    while (this.source === source && this.todo.length) {
      const [button, second] = this.todo[0];
      const came = await seeked(source, second);
      if (this.source !== source || source.error) break; // drawn once it is loaded again
      this.todo.shift();
      if (!came || !source.videoHeight) continue;
      const width = Math.round((HEIGHT * source.videoWidth) / source.videoHeight);
      const canvas = Object.assign(document.createElement("canvas"), { width, height: HEIGHT });
      canvas.getContext("2d").drawImage(source, 0, 0, width, HEIGHT);
      button.replaceChildren(canvas);
    }
    this.drawing = false;
    if (this.source && this.source !== source && this.source.readyState >= 2) this.draw(this.source);
  }
}

/** Take a video to a second of it; return whether it came there. */
function seeked(video, second) {
  return new Promise((resolve) => {
    const end = (came) => {
      clearTimeout(timer);
      video.removeEventListener("seeked", arrived);
      resolve(came);
    };
    const arrived = () => end(true);
    const timer = setTimeout(() => end(false), SEEK_MS);
    video.addEventListener("seeked", arrived);
    video.currentTime = second;
  });
}
