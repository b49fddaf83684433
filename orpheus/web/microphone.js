// The microphone → frames of 40 ms, 16-bit at 24 kHz, without what the page itself plays.

import { contextAt } from "./player.js";
import { Problem } from "./problems.js";

const RATE = 24_000; // Hz
const WORKLET = new URL("microphone-worklet.js", import.meta.url);

export class Microphone {
  /** Ask for it. `take` gets each frame, an Int16Array; `lost` is called if it is unplugged. Throws a Problem. */
  static async open(take, lost) {
    if (!navigator.mediaDevices?.getUserMedia)
      throw new Problem(
        "A browser gives the microphone only to pages over HTTPS or from localhost.",
        `Open this page as https://…, or on the server's own machine as http://localhost${location.port && `:${location.port}`}.`,
      );
    // The browser's own echo cancellation: otherwise the answer would interrupt itself.
    const audio = { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true };
    const stream = await navigator.mediaDevices.getUserMedia({ audio }).catch((error) => {
      throw problemOf(error);
    });
    const microphone = new Microphone(stream);
    try {
      await microphone._connect(take);
    } catch (error) {
      microphone.close();
      throw new Problem("The microphone cannot be read.", `Try another browser. This one said: ${error.message}`);
    }
    stream.getAudioTracks()[0].onended = lost;
    return microphone;
  }

  constructor(stream) {
    this._stream = stream;
    this._own = null; // an audio context of its own
  }

  async _connect(take) {
    let context = contextAt(RATE);
    try {
      this._source = context.createMediaStreamSource(this._stream);
    } catch {
      // Firefox connects a microphone only to a context of the same rate; the worklet resamples.
      this._own = context = new AudioContext();
      context.resume();
      this._source = context.createMediaStreamSource(this._stream);
    }
    await context.audioWorklet.addModule(WORKLET);
    this._node = new AudioWorkletNode(context, "microphone", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    this._node.port.onmessage = ({ data }) => take(data);
    this._source.connect(this._node);
  }

  /** A muted microphone gives silence: the server then hears where a sentence ends. */
  mute(muted) {
    for (const track of this._stream.getAudioTracks()) track.enabled = !muted;
  }

  close() {
    for (const track of this._stream.getTracks()) track.stop();
    this._source?.disconnect();
    this._node?.port.postMessage("close");
    this._own?.close();
  }
}

function problemOf(error) {
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return new Problem(
        "This page may not use the microphone.",
        "Allow it in the browser's site settings, beside the address, then press Unmute. You can type meanwhile.",
      );
    case "NotFoundError":
    case "OverconstrainedError":
      return new Problem("No microphone was found.", "Connect one, then press Unmute. You can type meanwhile.");
    case "NotReadableError":
    case "AbortError":
      return new Problem(
        "The microphone cannot be opened.",
        "Another program may be using it: close that, then press Unmute. You can type meanwhile.",
      );
    default:
      return new Problem(`The microphone cannot be opened (${error.name}).`, "Press Unmute to try again. You can type meanwhile.");
  }
}
