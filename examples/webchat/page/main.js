// The chat page: it passes input to the Chat, and shows the Chat.

import { Chat, Problem } from "./chat.js";
import { connect } from "./link.js";
import { Log, make } from "./log.js";

const maxNames = 500; // shown in a list of people

const $ = (id) => document.getElementById(id);
const wide = matchMedia("(min-width: 900px)");

const log = new Log($("log"), $("newest"));
let chat, link;
let loggedIn = false;
let everyone = false; // the list of people shows everyone
let drawing; // the timer of the next draw
let passing; // the timer of good news about the connection

// --- Logging in and out

try {
  $("name").value = localStorage.getItem("name") ?? "";
} catch {} // without storage, the page works the same

$("login-form").onsubmit = (event) => {
  event.preventDefault();
  const name = $("name").value.trim();
  $("login-problem").textContent = "";
  $("enter").disabled = true;
  $("enter").textContent = "Connecting…";
  start(name);
};

// A reload of the page goes on where it was.
let saved = null;
try {
  saved = JSON.parse(sessionStorage.getItem("saved"));
} catch {}
if (saved) start(saved.chat.me, saved);

onpagehide = () => {
  if (!loggedIn || !link.session()) return;
  if (drawn) drawn.draft = $("text").value;
  try {
    sessionStorage.setItem("saved", JSON.stringify({ session: link.session(), chat: chat.save() }));
  } catch {}
};

// While the page lives, nothing is saved. Otherwise a copy of the tab would take the session over.
onpageshow = () => {
  try {
    sessionStorage.removeItem("saved");
  } catch {}
};

function start(name, saved) {
  chat = new Chat(name, (line) => link.send(line), changed);
  if (saved) {
    chat.restore(saved.chat);
    enter();
    tell("Connecting…", false);
  }
  link = connect(name, { up, lost, ended, line: (said) => chat.receive(said), quiet: () => chat.quiet() }, saved?.session);
}

function up(back) {
  tell(back?.lines ? `Back, ${back.lines === "1" ? "1 message" : `${back.lines} messages`} caught up` : "", true);
  chat.up(back);
  if (!loggedIn) enter();
}

function enter() {
  loggedIn = true;
  try {
    localStorage.setItem("name", chat.me);
  } catch {}
  $("me").textContent = chat.me;
  $("login").hidden = true;
  $("chat").hidden = false;
  $("text").focus();
}

function lost(why) {
  tell(`Connection lost, trying again…${why ? ` (${why})` : ""}`, false);
  chat.lost();
}

// tell says how the connection is. Good news passes.
function tell(text, isGood) {
  clearTimeout(passing);
  $("link").textContent = text;
  $("link").classList.toggle("good", isGood);
  $("composer").classList.toggle("offline", !isGood);
  if (isGood) passing = setTimeout(() => ($("link").textContent = ""), 5_000);
}

function ended(why) {
  loggedIn = everyone = false;
  chat.lost();
  $("names").replaceChildren();
  closeDrawer();
  $("help").close();
  $("chat").hidden = true;
  $("login").hidden = false;
  $("enter").disabled = false;
  $("enter").textContent = "Enter the chat";
  $("login-problem").textContent = why && why[0].toUpperCase() + why.slice(1);
  $("text").value = "";
  tell("", true);
  document.title = "sendq chat";
  $("name").focus();
}

$("quit").onclick = () => link.close();

// --- Typing

$("composer").onsubmit = (event) => {
  event.preventDefault();
  if (drawn !== chat.current) draw(); // otherwise the text would go to another conversation
  const typed = $("text").value;
  if (typed.trim() === "/quit") return link.close();
  if (typed.trim() === "/help") {
    $("text").value = "";
    return $("help").showModal();
  }
  if (!typed.trim()) return;
  attempt(() => {
    chat.say(typed);
    $("text").value = "";
  });
  $("text").focus();
};

$("text").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
};

$("join").onsubmit = (event) => {
  event.preventDefault();
  attempt(() => {
    chat.join($("room").value.trim());
    $("room").value = "";
    closeDrawer();
    $("text").focus();
  });
};

$("leave").onclick = () => attempt(() => chat.close(chat.current.name));
$("show-help").onclick = () => $("help").showModal();

// attempt does an action of the user, and shows its Problem.
function attempt(something) {
  try {
    something();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    chat.problem = problem.message;
    changed();
  }
}

// open opens a conversation, and keeps the draft of the other.
function open(name) {
  chat.open(name);
  closeDrawer();
  $("text").focus();
}

// --- Keys

document.onkeydown = (event) => {
  if (!loggedIn || $("help").open) return;
  if (event.key === "Escape") {
    closeDrawer();
    $("text").focus();
    return;
  }
  if (!event.altKey || event.ctrlKey || event.metaKey) return;
  const order = [...chat.rooms, ...chat.directs];
  const at = order.indexOf(chat.current);
  const to =
    event.key === "ArrowUp" ? order[at - 1] ?? order.at(-1)
    : event.key === "ArrowDown" ? order[at + 1] ?? order[0]
    : /^Digit[1-9]$/.test(event.code) ? order[event.code.at(-1) - 1]
    : null;
  if (!to) return;
  event.preventDefault();
  open(to.name);
};

// Within a list, the arrow keys go from one button to the next.
for (const list of document.querySelectorAll(".side ul")) {
  list.onkeydown = (event) => {
    const step = { ArrowUp: "previousElementSibling", ArrowDown: "nextElementSibling" }[event.key];
    if (!step || event.altKey) return;
    event.preventDefault();
    event.target.closest("li")[step]?.querySelector("button").focus();
  };
}

// --- Drawers, for lists without room beside the messages

function openDrawer(id) {
  closeDrawer();
  document.body.dataset.drawer = id;
  $(`show-${id}`).setAttribute("aria-expanded", "true");
  $("talk").inert = true;
  $(id).focus();
}

function closeDrawer() {
  const id = document.body.dataset.drawer;
  if (!id) return;
  delete document.body.dataset.drawer;
  $("talk").inert = false;
  $(`show-${id}`).setAttribute("aria-expanded", "false");
  $(`show-${id}`).focus();
}

for (const id of ["conversations", "people"]) $(`show-${id}`).onclick = () => openDrawer(id);
for (const button of document.querySelectorAll(".close, #backdrop")) button.onclick = closeDrawer;
wide.onchange = closeDrawer;

$("here").onclick = () => showEveryone(false);
$("everyone").onclick = () => showEveryone(true);

function showEveryone(yes) {
  everyone = yes;
  chat.ask(everyone ? "" : chat.current.name);
  changed();
}

// --- Showing

document.onvisibilitychange = changed;

// changed draws soon, once for many changes. It also draws a hidden page, because of its title.
function changed() {
  drawing ??= setTimeout(() => {
    drawing = undefined;
    if (loggedIn) draw();
  }, 16);
}

let drawn = null; // the conversation on the page

function draw() {
  const { current } = chat;
  chat.seen = !document.hidden;
  if (drawn !== current) {
    if (drawn) drawn.draft = $("text").value;
    $("text").value = current?.draft ?? "";
    drawn = current;
  }
  const name = current?.name ?? "";
  $("title").textContent = name || "sendq chat";
  $("leave").hidden = !current;
  $("leave").textContent = current?.isRoom ? "Leave" : "Close";
  $("leave").setAttribute("aria-label", `${$("leave").textContent} ${name}`);
  $("log").hidden = !current?.messages.length && !current?.waiting.length;
  $("empty").hidden = !$("log").hidden;
  $("empty").textContent = !current
    ? "No conversation is open. Join a room, or choose a name."
    : `Nothing was said here yet. Say hello to ${name}!`;
  if (current && chat.seen) log.show(current, chat.me);
  $("text-label").textContent = $("text").placeholder = current ? `Message ${name}` : "/join #room";
  $("problem").textContent = chat.problem && chat.problem[0].toUpperCase() + chat.problem.slice(1);

  drawConversations();
  drawPeople();
}

function drawConversations() {
  const { rooms, directs, current } = chat;
  for (const [list, some, before] of [[$("rooms"), rooms, 0], [$("directs"), directs, rooms.length]]) {
    sync(list, some.map((c) => c.name), (name) => {
      const button = make("button", "row");
      button.append(make("span", "label", name), make("span", "count"));
      button.onclick = () => open(name);
      return button;
    });
    some.forEach(({ name, unread }, i) => {
      const button = list.children[i].firstChild;
      const count = button.lastChild;
      count.textContent = many(unread);
      count.hidden = !unread;
      button.classList.toggle("unread", unread > 0);
      button.ariaCurrent = name === current?.name ? "true" : null;
      button.ariaLabel = unread ? `${name}, ${unread} unread` : name;
      button.title = before + i < 9 ? `Alt ${before + i + 1}` : "";
    });
  }
  $("no-directs").hidden = directs.length > 0;
  const unread = [...chat.conversations.values()].reduce((sum, c) => sum + c.unread, 0);
  $("all-unread").textContent = many(unread);
  $("all-unread").hidden = !unread;
  $("show-conversations").ariaLabel = unread ? `Conversations, ${unread} unread` : "Conversations";
  document.title = `${unread ? `(${many(unread)}) ` : ""}${current ? `${current.name} · ` : ""}sendq chat`;
}

function drawPeople() {
  const { current, me } = chat;
  const all = everyone || !current?.isRoom;
  const names = all ? chat.everyone : [...(current.members ?? [])].sort();
  $("whom").hidden = !current?.isRoom;
  $("here").ariaPressed = String(!all);
  $("everyone").ariaPressed = String(all);
  $("people-title").textContent = `${all ? "Everyone" : `In ${current.name}`} · ${names.length}`;
  sync($("names"), names.slice(0, maxNames), (name) => {
    const button = make("button", "row");
    button.append(make("span", "label", name));
    if (name === me) button.append(make("span", "hint", "you"));
    else button.title = `Talk to ${name} in private`;
    button.disabled = name === me;
    button.onclick = () => open(name);
    return button;
  });
  $("more-names").textContent = names.length > maxNames ? `and ${names.length - maxNames} more` : "";
}

const many = (n) => (n > 99 ? "99+" : String(n));

// sync gives a list an item for each key, in order. Items with a known key stay, and so does the focus.
function sync(list, keys, content) {
  const wanted = new Set(keys);
  const there = new Map();
  for (const item of [...list.children]) {
    if (wanted.has(item.dataset.key)) there.set(item.dataset.key, item);
    else item.remove();
  }
  keys.forEach((key, i) => {
    let item = there.get(key);
    if (!item) {
      item = make("li", "");
      item.dataset.key = key;
      item.append(content(key));
    }
    if (list.children[i] !== item) list.insertBefore(item, list.children[i] ?? null);
  });
}
