// A conversation by @openai/agents-realtime.       node with_agents_realtime.mjs URL SOUNDS, from a folder with the package
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const from = createRequire(`${process.cwd()}/`);
const { OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession, tool } = from("@openai/agents-realtime");
const { z } = from("zod");
const [, , url, folder] = process.argv;
const report = { errors: [], called: [], interrupted: 0, samples: [], heard: [], said: [] };

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const until = async (holds, what) => {
  for (let waited = 0; !holds(); waited += 10) {
    if (waited > 30_000) throw new Error(`waited in vain for ${what}`);
    await sleep(10);
  }
};

const weather = tool({
  name: "get_weather",
  description: "The weather in a city.",
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    report.called.push(city);
    return "sunny";
  },
});
const agent = new RealtimeAgent({ name: "Test", instructions: "Be kind.", tools: [weather] });
const session = new RealtimeSession(agent, { transport: new OpenAIRealtimeWebSocket({ url }), tracingDisabled: true });
let done = 0;
let samples = 0;
session.on("error", ({ error }) => report.errors.push(error));
session.on("audio", ({ data }) => (samples += data.byteLength / 2));
session.on("audio_interrupted", () => (report.interrupted += 1));
session.on("transport_event", ({ type }) => {
  if (type !== "response.done") return;
  done += 1;
  if (samples) report.samples.push(samples);
  samples = 0;
});
await session.connect({ apiKey: "none", url });

const say = (name) => {
  const sound = Uint8Array.from(readFileSync(`${folder}/${name}.pcm`)).buffer;
  for (let start = 0; start < sound.byteLength; start += 4800) session.sendAudio(sound.slice(start, start + 4800));
};
const ended = async (number) => {
  await until(() => done >= number, `response ${number}`);
  await sleep((report.samples.at(-1) / 24_000) * 1000 + 300); // played
};

say("hello");
await ended(1);
say("weather");
await ended(3);
report.interrupted = 0;
say("story");
await until(() => samples > 4800, "the story");
await sleep(300);
say("stop");
await ended(5);
for (const { type, role, content } of session.history) {
  if (type !== "message") continue;
  (role === "user" ? report.heard : report.said).push(content[0].transcript);
}
session.close();
console.log(JSON.stringify(report));
process.exit(0);
