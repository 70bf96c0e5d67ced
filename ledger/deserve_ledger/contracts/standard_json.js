// solc's standard JSON, from stdin to stdout; imports from packages are read from the node_modules directory that the
// first argument names. Run by compiler.py.
const fs = require("fs");
const path = require("path");

const modules = path.resolve(process.argv[2]);
const solc = require(path.join(modules, "solc"));

function readImport(name) {
  const file = path.join(modules, name);
  return fs.existsSync(file) ? { contents: fs.readFileSync(file, "utf8") } : { error: `${name} is not installed` };
}

const input = fs.readFileSync(0, "utf8");
process.stdout.write(solc.compile(input, { import: readImport }));
