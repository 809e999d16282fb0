// The npm package openai: what came back, as JSON on stdout.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [url, , folder] = process.argv.slice(2);
const require = createRequire(pathToFileURL(`${folder}/x.js`));
const OpenAI = require("openai").default;
const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const said = (content) => [{ role: "user", content }];
const chat = client.chat.completions;

const whole = await chat.create({ model: "echo", messages: said("one two") });
const stream = [];
for await (const chunk of await chat.create({ model: "echo", messages: said("one two"), stream: true }))
  stream.push(chunk.choices[0]?.delta?.content ?? "");
const called = await chat
  .stream({
    model: "echo",
    messages: said('<tool_call> {"name": "f", "arguments": {"a": 1}} </tool_call>'),
    tools: [{ type: "function", function: { name: "f", parameters: { type: "object" } } }],
  })
  .finalChatCompletion();
const vectors = await client.embeddings.create({ model: "echo", input: ["a", "b"] });
const kinds = [];
for await (const event of await client.responses.create({ model: "echo", input: "x y", stream: true }))
  kinds.push(event.type);
const long = await chat.create({ model: "echo", messages: said("@delay=50 @repeat=500 x"), stream: true });
for await (const _ of long) break; // leaving cancels
let error = null;
try {
  await chat.create({ model: "nope", messages: said("x") });
} catch (exc) {
  error = [exc.constructor.name, exc.status, exc.code];
}
process.stdout.write(
  JSON.stringify({
    whole: whole.choices[0].message.content,
    stream: stream.join(""),
    call: called.choices[0].message.tool_calls[0].function,
    vectors: vectors.data.map((one) => one.embedding.length),
    responses: (await client.responses.create({ model: "echo", input: "one two" })).output_text,
    last: kinds.at(-1),
    error,
  }),
);
