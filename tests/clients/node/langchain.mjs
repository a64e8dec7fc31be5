// LangChain's image tool in a process of its own: reads one call a line from stdin, writes what came of it to stdout.
import { createInterface } from "node:readline";
import { DallEAPIWrapper } from "@langchain/openai";

async function outcome({ base_url, request: { prompt, ...rest } }) {
  try {
    const tool = new DallEAPIWrapper({ baseUrl: base_url, apiKey: "sk-of-langchain", ...rest });
    return { ok: true, answer: (await tool.invoke(prompt)) ?? null };
  } catch (error) {
    return { ok: false, name: error.constructor.name, status: error.status ?? null, param: error.param ?? null };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(await outcome(JSON.parse(line))) + "\n");
}
