// The Vercel AI SDK in a process of its own: reads one call a line from stdin, writes what came of it to stdout.
import { createHash } from "node:crypto";
import fs from "node:fs";
import { createInterface } from "node:readline";
import { createOpenAI } from "@ai-sdk/openai";
import { generateImage } from "ai";

// A prompt with pictures is an edit, a plain text is a generation.
function asPrompt(prompt) {
  if (typeof prompt === "string") return prompt;
  const { text, images, mask } = prompt;
  return { text, images: images.map((name) => fs.readFileSync(name)), ...(mask ? { mask: fs.readFileSync(mask) } : {}) };
}

async function outcome({ base_url, request: { model, prompt, ...rest } }) {
  try {
    const openai = createOpenAI({ baseURL: base_url, apiKey: "sk-of-the-vercel-ai-sdk" });
    const result = await generateImage({ model: openai.image(model), prompt: asPrompt(prompt), ...rest });
    return {
      ok: true,
      pictures: result.images.map((image) => createHash("sha256").update(image.uint8Array).digest("hex")),
      media_types: result.images.map((image) => image.mediaType),
      tokens: result.usage.totalTokens,
      cache: result.responses[0].headers["x-imagegate-cache"],
      warnings: result.warnings,
    };
  } catch (error) {
    return {
      ok: false,
      name: error.name,
      status: error.statusCode ?? null,
      message: error.message,
      error: error.data?.error ?? null,
      is_retryable: error.isRetryable ?? null,
    };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(await outcome(JSON.parse(line))) + "\n");
}
