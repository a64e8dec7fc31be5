// The official Node SDK against imagegate: reads one call per line from stdin, writes what came of it to stdout.
import { createHash } from "node:crypto";
import { createInterface } from "node:readline";
import OpenAI from "openai";

const baseURL = process.argv[2];

async function outcome({ request, options = {} }) {
  const client = new OpenAI({ apiKey: "sk-of-the-node-sdk", baseURL, ...options });
  try {
    const { data, response } = await client.images.generate(request).withResponse();
    const picture = Buffer.from(data.data[0].b64_json, "base64");
    return {
      ok: true,
      sha256: createHash("sha256").update(picture).digest("hex"),
      cache: response.headers.get("x-imagegate-cache"),
      tokens: data.usage?.total_tokens ?? null,
      requestId: data._request_id ?? null,
    };
  } catch (error) {
    return {
      ok: false,
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
