// Draws DiceBear avatars for the caller: one JSON option set per input line, one JSON answer per output line.
//
// Usage: node characters.mjs <node_modules>
//   in : {"style": "open-peeps", "options": {"head": ["afro"], ...}}
//   out: {"svg": "<svg …>"}  or  {"error": "…"}
import { createInterface } from 'node:readline';
import { once } from 'node:events';
import { pathToFileURL } from 'node:url';
import path from 'node:path';

const packages = path.resolve(process.argv[2]);
const load = (name, file) => import(pathToFileURL(path.join(packages, name, file)).href);
const { createAvatar } = await load('@dicebear/core', 'lib/index.js');

const styles = new Map();
async function style(name) {
  if (!styles.has(name)) styles.set(name, await load(`@dicebear/${name}`, 'lib/index.js'));
  return styles.get(name);
}

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  let answer;
  try {
    const request = JSON.parse(line);
    answer = { svg: createAvatar(await style(request.style), request.options).toString() };
  } catch (problem) {
    answer = { error: String(problem && problem.message ? problem.message : problem) };
  }
  if (!process.stdout.write(JSON.stringify(answer) + '\n')) await once(process.stdout, 'drain');
}
