// One request of OpenAI's client for Node: `node ask.mjs BASE_URL WISH`, both given by the test.
//
// WISH is JSON: {"body": the request, "form": "whole", "events" or "collected", "key", "retries"}.
// What came of it is one line of JSON on stdout. The first line on stdin aborts the request.

import OpenAI from "openai";

const [baseURL, text] = process.argv.slice(2);
const wish = JSON.parse(text);
const client = new OpenAI({ baseURL, apiKey: wish.key ?? "none", maxRetries: wish.retries ?? 0 });
const chat = client.chat.completions;
const controller = new AbortController();
const options = { signal: controller.signal };
process.stdin.once("data", () => controller.abort());

const forms = {
  // not streamed
  whole: async () => (await chat.create(wish.body, options)).choices[0].message,
  // streamed, event by event
  events: async () => {
    let content = "";
    for await (const event of await chat.create({ ...wish.body, stream: true }, options)) {
      content += event.choices[0]?.delta?.content ?? "";
    }
    return { content };
  },
  // streamed, put together by the client
  collected: async () =>
    (await chat.stream(wish.body, options).finalChatCompletion()).choices[0].message,
};

const begun = performance.now();
const found = {};
try {
  found.message = await forms[wish.form]();
} catch (error) {
  const { status, type, code, message } = error;
  found.error = { name: error.constructor.name, status, type, code, message };
}
found.aborted = controller.signal.aborted; // a loop over events just ends then
found.took_s = (performance.now() - begun) / 1000;
console.log(JSON.stringify(found));
process.exit(0);
