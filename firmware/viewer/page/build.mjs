// Build the page: node build.mjs FLOAT32 INT8 OUT. FLOAT32 and INT8 are models of one conversion; OUT becomes a folder of
// static files.

import {createHash} from "node:crypto";
import {cp, mkdir, readdir, readFile, rm, writeFile} from "node:fs/promises";
import path from "node:path";
import {fileURLToPath} from "node:url";
import {build} from "esbuild";

const [float32, int8, out] = process.argv.slice(2);
if (!out) {
  console.error("usage: node build.mjs FLOAT32.tflite INT8.tflite OUT, two models of conversion/to_tflite.py and a folder");
  process.exit(2);
}
const here = path.dirname(fileURLToPath(import.meta.url));
const litert = path.join(here, "node_modules/@litertjs/core/wasm");
const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

const models = {};
for (const [kind, source] of Object.entries({float32, int8})) models[kind] = await readFile(source);

await rm(out, {recursive: true, force: true});
await mkdir(path.join(out, "litert"), {recursive: true});
for (const name of ["litert_wasm_compat_internal.js", "litert_wasm_compat_internal.wasm"]) {
  await cp(path.join(litert, name), path.join(out, "litert", name));
}
for (const name of await readdir(path.join(here, "static"))) {
  await cp(path.join(here, "static", name), path.join(out, name));
}
const listed = {};
for (const [kind, bytes] of Object.entries(models)) {
  const file = `${kind}.tflite`;
  await writeFile(path.join(out, file), bytes);
  listed[kind] = {file, sha256: sha256(bytes)};
}
await writeFile(path.join(out, "models.json"), JSON.stringify(listed, null, 1));

const options = {bundle: true, minify: true, legalComments: "eof", target: "es2022", logLevel: "warning"};
await build({...options, format: "esm", entryPoints: [path.join(here, "src/main.js")], outdir: out});
await build({...options, format: "iife", entryPoints: [path.join(here, "src/worker.js")], outdir: out});

// The service worker keeps all files; its version changes with any of them.
const listing = async (folder) => (await Promise.all((await readdir(folder, {withFileTypes: true})).map((entry) => {
  const name = path.join(folder, entry.name);
  return entry.isDirectory() ? listing(name) : [name];
}))).flat();
const files = (await listing(out)).map((name) => path.relative(out, name)).sort();
const version = sha256((await Promise.all(files.map((file) => readFile(path.join(out, file))))).map(sha256).join());
await build({...options, format: "iife", entryPoints: [path.join(here, "src/sw.js")], outdir: out,
  define: {FILES: JSON.stringify(files), VERSION: JSON.stringify(version.slice(0, 16))}});
