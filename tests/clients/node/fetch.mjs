// The seed's snippet for Node's own fetch, with only the base URL changed; writes the picture to a file.
import fs from "node:fs";

const [baseURL, apiKey, prompt, file] = process.argv.slice(2);
const resp = await fetch(`${baseURL}/images/generations`, {
  method: "POST",
  headers: {
    "Content-Type": "application/json",
    Authorization: `Bearer ${apiKey}`,
  },
  body: JSON.stringify({
    model: "gpt-image-2",
    prompt,
    size: "1024x1024",
    quality: "medium",
  }),
});
const { data } = await resp.json();
// b64_json is raw base64 — decode manually
fs.writeFileSync(file, Buffer.from(data[0].b64_json, "base64"));
