// Draws COUNT faces as lines of JSON, each with its class, its attributes and its SVG shapes. Face i depends on i alone.
// npm install --no-package-lock (package.json names every version) && node draw_faces.mjs COUNT faces.jsonl
import { once } from 'node:events';
import fs from 'node:fs';
import { createAvatar } from '@dicebear/core';
import * as pixelArt from '@dicebear/pixel-art';

const [count, path] = [Number(process.argv[2]), process.argv[3]];
const styles = pixelArt.schema.properties.hair.default;
const long = styles.filter((style) => style.startsWith('long'));
const short = styles.filter((style) => style.startsWith('short'));
const backgroundColor = ['b6e3f4', 'c0aede', 'd1d4f9', 'ffd5dc', 'ffdfbf'];

const file = fs.createWriteStream(path);
for (let i = 0; i < count; i++) {
  const label = i % 8; // 1: glasses, 2: hat, 4: long hair
  const face = createAvatar(pixelArt, {
    seed: `s${i}`,
    backgroundColor,
    accessoriesProbability: 20,
    glassesProbability: label & 1 ? 100 : 0,
    hatProbability: label & 2 ? 100 : 0,
    beardProbability: 0,
    hair: label & 4 ? long : short,
  });
  const shapes = [...face.toString().matchAll(/<(path|rect)\b[^>]*>/g)].map((match) => match[0]);
  const attributes = face.toJson().extra;
  if (!file.write(JSON.stringify({ label, attributes, shapes }) + '\n')) await once(file, 'drain');
}
file.end();
