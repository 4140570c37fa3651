// The lines of the chat protocol, as the server sends them.

const name = "[A-Za-z0-9_.-]{1,32}";
const room = `#${name}`;

// Each entry is a kind of line, its pattern, and the names of its parts. The first match counts.
const kinds = [
  ["key", `\\* your key is (\\S+)`, ["key"]],
  ["back", `\\* back: (\\d+) lines`, ["lines"]],
  ["back", `\\* back: lines are missing`, []],
  ["inRoom", `from (${name}) in (${room}): (.*)`, ["from", "room", "text"]],
  ["direct", `from (${name}): (.*)`, ["from", "text"]],
  ["joined", `\\* (${name}) joined (${room})`, ["who", "room"]],
  ["left", `\\* (${name}) left (${room})`, ["who", "room"]],
  ["away", `\\* (${name}) is away`, ["who"]],
  ["returned", `\\* (${name}) is back`, ["who"]],
  ["names", `names: (.*)`, ["names"]],
  ["alreadyIn", `error: already in (${room})`, ["room"]],
  ["notIn", `error: (not in (${room}))`, ["text", "about"]],
  ["unheard", `error: (no such user: (${name}))`, ["text", "about"]],
  ["unheard", `error: ((${name}) has just left)`, ["text", "about"]],
  ["tooFast", `error: (slow down: .*)`, ["text"]],
  ["error", `error: (.*)`, ["text"]],
  ["unknown", `(.*)`, ["text"]],
].map(([kind, pattern, parts]) => ({ kind, pattern: new RegExp(`^${pattern}$`, "su"), parts }));

const roomPattern = new RegExp(`^${room}$`);

// isRoom reports whether a name is the name of a room.
export const isRoom = (name) => roomPattern.test(name);

// parse returns the kind of a line, and its parts by name.
export function parse(line) {
  line = line.replace(/\r?\n$/, "");
  for (const { kind, pattern, parts } of kinds) {
    const found = pattern.exec(line);
    if (!found) continue;
    const said = { kind };
    parts.forEach((part, i) => (said[part] = found[i + 1]));
    if (kind === "names") said.names = said.names.split(", ").filter(Boolean);
    return said;
  }
}
