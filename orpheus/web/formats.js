// Audio formats: bytes → samples, streaming for wav and pcm, and files to download.

const EMPTY = new Float32Array(0);

export const CONTENT_TYPES = {
  wav: "audio/wav",
  pcm: "application/octet-stream",
  mp3: "audio/mpeg",
  opus: "audio/ogg",
  aac: "audio/aac",
  flac: "audio/flac",
};

/** Raw 16-bit little-endian mono samples. */
export class PcmReader {
  _odd = new Uint8Array(0); // half a sample

  push(bytes) {
    const all = joined([this._odd, bytes]);
    const whole = all.length & ~1;
    this._odd = all.slice(whole);
    const view = new DataView(all.buffer, 0, whole);
    return Float32Array.from({ length: whole / 2 }, (_, index) => view.getInt16(index * 2, true) / 32768);
  }
}

/** The same in a WAV file, whose header may lack the length. */
class WavReader {
  _pcm = new PcmReader();
  _header = new Uint8Array(0); // null once it is complete

  push(bytes) {
    if (this._header === null) return this._pcm.push(bytes);
    this._header = joined([this._header, bytes]);
    const at = wavData(this._header);
    if (at < 0) return EMPTY;
    const rest = this._header.slice(at);
    this._header = null;
    return this._pcm.push(rest);
  }
}

/** A streaming reader; null for formats that browsers decode only as a whole. */
export function readerOf(format) {
  return format === "pcm" ? new PcmReader() : format === "wav" ? new WavReader() : null;
}

/** The samples of a complete file, at `rate` Hz. Throws if the browser does not support the format. */
export async function decode(bytes, rate) {
  const audio = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes.slice().buffer);
  return audio.getChannelData(0);
}

/** A file to download: the bytes as sent, with the lengths filled into the header of a WAV. */
export function file(chunks, format) {
  const bytes = joined(chunks);
  const at = format === "wav" ? wavData(bytes) : -1;
  if (at > 0) {
    const view = new DataView(bytes.buffer);
    view.setUint32(4, bytes.length - 8, true);
    view.setUint32(at - 4, bytes.length - at, true);
  }
  return new Blob([bytes], { type: CONTENT_TYPES[format] });
}

/** Samples → a WAV file. */
export function wav(chunks, rate) {
  const samples = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  const view = new DataView(new ArrayBuffer(44 + samples * 2));
  const letters = (at, text) => [...text].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  letters(0, "RIFF");
  view.setUint32(4, 36 + samples * 2, true);
  letters(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // integer samples
  view.setUint16(22, 1, true); // one channel
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * 2, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  letters(36, "data");
  view.setUint32(40, samples * 2, true);
  let at = 44;
  for (const chunk of chunks) for (const sample of chunk) view.setInt16((at += 2) - 2, sample * 32768, true);
  return new Blob([view], { type: CONTENT_TYPES.wav });
}

export function joined(chunks) {
  const all = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}

/** Where the samples of a WAV begin; -1 if its header is not complete yet. */
function wavData(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 12; at + 8 <= bytes.length; at += 8 + view.getUint32(at + 4, true)) {
    if (view.getUint32(at, false) === 0x64617461) return at + 8; // "data"
  }
  return -1;
}
