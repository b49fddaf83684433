// A conversation by the client of the Realtime API's beta, in Node and in a browser.
//
//   node with_beta.mjs URL SOUNDS       from a folder with the package
const PACE_MS = 20; // between two pieces of 100 ms

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** `sounds`: 16-bit samples by name. Returns what the client was told. */
export async function converse({ RealtimeClient }, url, sounds) {
  const client = new RealtimeClient({ url, apiKey: "none", dangerouslyAllowAPIKeyInBrowser: true });
  const report = { types: [], called: [], errors: [], interrupted: 0, heard: [], said: [], samples: [], cut: null };
  let cutting = false;
  client.on("realtime.event", ({ source, event }) => {
    if (source !== "server") return;
    report.types.push(event.type);
    if (event.type === "error") report.errors.push(event.error);
  });
  client.on("conversation.interrupted", () => {
    if (cutting) report.interrupted += 1;
  });
  client.addTool(
    {
      name: "get_weather",
      description: "The weather in a city.",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
    },
    ({ city }) => {
      report.called.push(city);
      return "sunny";
    },
  );
  client.updateSession({
    instructions: "Be kind.",
    voice: "alloy",
    turn_detection: { type: "server_vad", silence_duration_ms: 300 },
    input_audio_transcription: { model: "whisper-1" },
  });
  await client.connect();
  await client.waitForSessionCreated();

  const count = (type) => report.types.filter((one) => one === type).length;
  const until = async (holds) => {
    for (let waited = 0; !holds(); waited += 10) {
      if (waited > 30_000) throw new Error(`waited in vain after ${report.types.slice(-12)}`);
      await sleep(10);
    }
  };
  const say = async (name) => {
    for (let start = 0; start < sounds[name].length; start += 2400) {
      client.appendInputAudio(sounds[name].slice(start, start + 2400));
      await sleep(PACE_MS);
    }
  };
  const answers = () =>
    client.conversation.getItems().filter((item) => item.type === "message" && item.role === "assistant");
  const played = async () => sleep((answers().at(-1).formatted.audio.length / 24_000) * 1000 + 300);
  const ended = (number) => until(() => count("response.done") >= number);

  await say("hello");
  await ended(1);
  await played();
  await say("weather");
  await ended(3); // the call, and the answer
  await played();
  cutting = true;
  await say("story");
  await until(() => answers().length === 3 && answers()[2].formatted.audio.length > 4800);
  await say("stop");
  await until(() => report.interrupted > 0);
  const story = answers()[2];
  client.realtime.send("conversation.item.truncate", { item_id: story.id, content_index: 0, audio_end_ms: 200 });
  await ended(5);
  await until(() => count("conversation.item.truncated") > 0);
  report.cut = client.conversation.getItem(story.id).formatted.audio.length;
  await played();
  cutting = false;
  // By hand: a typed turn, which is stopped while it is answered.
  client.sendUserMessageContent([{ type: "input_text", text: "And now?" }]);
  await until(() => answers().length === 5 && answers()[4].formatted.audio.length > 4800);
  client.cancelResponse();
  await ended(6);
  for (const item of client.conversation.getItems()) {
    if (item.role === "user") report.heard.push(item.formatted.transcript || item.formatted.text);
    if (item.role !== "assistant") continue;
    report.said.push(item.content.map((part) => part.transcript).join(""));
    report.samples.push(item.formatted.audio.length);
  }
  client.disconnect();
  return report;
}

if (globalThis.process?.argv[2]) {
  const { readFileSync, readdirSync } = await import("node:fs");
  const [, , url, folder] = process.argv;
  const sounds = {};
  for (const name of readdirSync(folder)) {
    const { buffer } = Uint8Array.from(readFileSync(`${folder}/${name}`));
    sounds[name.replace(".pcm", "")] = new Int16Array(buffer);
  }
  const library = await import(`${process.cwd()}/node_modules/openai-realtime-api/dist/index.js`);
  console.log(JSON.stringify(await converse(library, url, sounds)));
  process.exit(0);
}
