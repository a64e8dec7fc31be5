// The official Node SDK in a process of its own: reads one call a line from stdin, writes what came of it to stdout.
import { createHash } from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import OpenAI, { AzureOpenAI, toFile } from "openai";

const TYPES = { ".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp" };

const digest = (picture) => createHash("sha256").update(Buffer.from(picture, "base64")).digest("hex");

const file = (name) => toFile(fs.createReadStream(name), path.basename(name), { type: TYPES[path.extname(name)] });

async function withFiles(request) {
  const { image, mask } = request;
  return {
    ...request,
    image: Array.isArray(image) ? await Promise.all(image.map(file)) : await file(image),
    ...(mask ? { mask: await file(mask) } : {}),
  };
}

async function whole(promise) {
  const { data, response } = await promise.withResponse();
  return {
    pictures: data.data.filter((item) => item.b64_json).map((item) => digest(item.b64_json)),
    urls: data.data.filter((item) => item.url).map((item) => item.url),
    cache: response.headers.get("x-imagegate-cache"),
    tokens: data.usage?.total_tokens ?? null,
    request_id: data._request_id ?? null,
  };
}

async function streamed(stream, events) {
  for await (const event of stream)
    events.push({
      type: event.type,
      index: event.partial_image_index ?? null,
      picture: digest(event.b64_json),
      tokens: event.usage?.total_tokens ?? null,
    });
  return {};
}

async function made(client, { call, request }, events) {
  switch (call) {
    case "models":
      return { ids: (await client.models.list()).data.map((model) => model.id) };
    case "model":
      return { model: await client.models.retrieve(request.model) };
    case "stream":
      return streamed(await client.images.generate({ ...request, stream: true }), events);
    case "edit":
      return whole(client.images.edit(await withFiles(request)));
    case "stream_edit":
      return streamed(await client.images.edit({ ...(await withFiles(request)), stream: true }), events);
    default:
      return whole(client.images.generate(request));
  }
}

function connected(baseURL, { azure_endpoint, api_version, max_retries, timeout }) {
  const options = {
    apiKey: "sk-of-the-node-sdk",
    ...(max_retries === undefined ? {} : { maxRetries: max_retries }),
    ...(timeout === undefined ? {} : { timeout: timeout * 1000 }),
  };
  return azure_endpoint
    ? new AzureOpenAI({ endpoint: azure_endpoint, apiVersion: api_version, ...options })
    : new OpenAI({ baseURL, ...options });
}

async function outcome(asked) {
  const events = [];
  try {
    const client = connected(asked.base_url, asked.options);
    return { ok: true, events, ...(await made(client, asked, events)) };
  } catch (error) {
    return {
      ok: false,
      events,
      name: error.constructor.name,
      status: error.status ?? null,
      type: error.type ?? null,
      param: error.param ?? null,
      code: error.code ?? null,
      message: error.message,
      error: error.error ?? null,
      headers: error.headers ? Object.fromEntries(error.headers) : {},
    };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(await outcome(JSON.parse(line))) + "\n");
}
