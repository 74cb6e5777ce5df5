// Bundles the player and the vendored library into one script, and copies the library's licence.
// The digest of the sources goes into the first line: a test compares it with the sources.
import { createHash } from "node:crypto";
import { copyFileSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const sources = ["package-lock.json", ...readdirSync("src").sort().map((name) => `src/${name}`)];
const digest = createHash("sha256");
for (const name of sources) digest.update(readFileSync(name));

const { outputFiles } = await build({
  entryPoints: ["src/page.js"],
  bundle: true,
  minify: true,
  format: "iife",
  target: ["chrome100", "firefox100", "safari15.4"],
  charset: "ascii",
  legalComments: "none",
  write: false,
});
// A closing tag inside a string would end the page's script element.
const code = outputFiles[0].text.replaceAll("</script", "<\\/script");
const version = JSON.parse(readFileSync("package.json", "utf8")).dependencies["wavesurfer.js"];
const head = `/* sources sha256:${digest.digest("hex")}; wavesurfer.js ${version}, BSD-3-Clause, see player.LICENSE.txt */\n`;
writeFileSync("../static/player.js", head + code);
copyFileSync("node_modules/wavesurfer.js/LICENSE", "../static/player.LICENSE.txt");
