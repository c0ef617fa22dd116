// The player: the video of the analysis that is looked at, over lost connections too.

import { blobUrl, key, reach } from "./api.js";
import { byId, wait } from "./dom.js";

const NO_FORMAT = "This browser cannot play the video's format; the captions are all there.";
const NO_VIDEO = "The video is not stored any more; the captions are all there.";
const AGAIN_MS = 1000;

export class Player {
  constructor(moved) {
    this.video = byId("player");
    this.video.addEventListener("timeupdate", () => moved(this.video.currentTime));
  }

  close() {
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load();
  }

  /** Open what lies at `path`; return the URL that video elements find it at. */
  async open(path, signal) {
    this.cannot("");
    const url = await playable(path, signal);
    signal.throwIfAborted();
    hold(this.video, path, url, signal, (why) => this.cannot(why));
    return url;
  }

  cannot(why) {
    this.video.hidden = Boolean(why);
    byId("no-player").hidden = !why;
    byId("no-player").textContent = why;
  }

  seek(second) {
    if (this.video.hidden) return;
    this.video.currentTime = second;
    this.video.focus({ preventScroll: true });
  }
}

/** Return where a player finds the video: one cannot send a key, so that with a key the page gets the whole file for it. */
async function playable(path, signal) {
  if (!key()) return path;
  const url = await blobUrl(path, signal);
  signal.addEventListener("abort", () => URL.revokeObjectURL(url));
  return url;
}

/** Load the video at `path`, and again where it was, once the way to it is there again; `never` hears why it cannot be. */
export function hold(video, path, url, signal, never) {
  const again = async () => {
    const at = video.currentTime;
    let lost = video.error?.code === MediaError.MEDIA_ERR_NETWORK;
    await reach(path, signal, () => (lost = true));
    if (!lost) {
      never(NO_FORMAT);
      return;
    }
    await wait(AGAIN_MS, signal);
    video.src = url;
    video.currentTime = at;
  };
  const failed = (error) => signal.aborted || never(error.status === 404 ? NO_VIDEO : error.message);
  video.addEventListener("error", () => video.hasAttribute("src") && again().catch(failed), { signal });
  video.src = url;
}
