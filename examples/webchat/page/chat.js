// What a user has heard and said: the conversations, who is in them, and what the lines of the
// server change. Nothing here knows how it is shown.

import { isRoom, parse } from "./lines.js";

const keptMessages = 1_000; // the last ones of each conversation
const keptDirects = 50; // conversations with users, the last that something was said in
const answerWithin = 60_000; // milliseconds, or an answer of the server is given up
const askAgainAfter = 1_500; // milliseconds, if the server has refused a line
const knownFor = 2_000; // milliseconds, for which the server is not asked again
const maxLines = 20; // that are sent at once
const home = "#lobby"; // the room that everybody is in at first

// A Conversation is with the members of a room, or with one user.
class Conversation {
  messages = []; // {from, text, time} or {note, time, bad}; without a time if it was before one came
  total = 0; // how many there have been
  unread = 0; // how many of them the user has not seen
  unreadFrom = 0; // the number of the first of those
  touched = 0; // when something was said here last
  draft = ""; // what the user was about to say
  joined = false; // of a room: the server has said that the user is in it
  members = null; // of a room: a Set of names, once they are known

  constructor(name) {
    this.name = name;
    this.isRoom = isRoom(name);
  }

  add(message) {
    this.messages.push(message);
    this.total++;
    // Not at each message, for it moves all.
    if (this.messages.length > 1.1 * keptMessages) this.messages = this.messages.slice(-keptMessages);
  }

  // missed returns those of some messages that are not here already. The server repeats the
  // last ones to those who come back.
  missed(messages) {
    const key = ({ from, text, note }) => note ?? `${from}: ${text}`;
    const here = new Map();
    for (const message of this.messages.slice(-2 * messages.length)) {
      here.set(key(message), (here.get(key(message)) ?? 0) + 1);
    }
    return messages.filter((message) => {
      const times = here.get(key(message)) ?? 0;
      here.set(key(message), times - 1);
      return times <= 0;
    });
  }
}

// A Problem is why something that was typed could not be done, for the one who typed it.
export class Problem extends Error {}

// A Chat is a user's. It sends with send(line), which returns whether there is a connection,
// and calls changed() whenever something has changed.
export class Chat {
  conversations = new Map(); // by name
  current = null; // the Conversation that is open
  everyone = []; // who was logged in when last asked, sorted
  problem = ""; // why the last thing that was typed could not be done
  seen = true; // the user sees what is in the current conversation

  #send;
  #changed;
  #joining = new Map(); // of room to what was said there since the user asked to join
  #leaving = new Set(); // rooms of which lines may be under way still
  #asked = []; // {room, done}: each /who that has no answer yet; room is "" for everybody
  #askedAt = new Map(); // of room to when
  #giveUp; // the timer of the first of them

  constructor(me, send, changed) {
    this.me = me;
    this.#send = send;
    this.#changed = changed;
  }

  // rooms and directs are the conversations in the order in which they are shown.
  get rooms() {
    return [...this.conversations.values()].filter((c) => c.isRoom).sort(byName);
  }
  get directs() {
    return [...this.conversations.values()].filter((c) => !c.isRoom).sort(byName);
  }

  // up is for when the user is logged in: they join the rooms where they were before.
  up() {
    this.problem = "";
    const rooms = this.rooms.map((room) => room.name);
    // This one the link has asked, to see whether the login is done.
    this.#asked = [{ room: "", done: (names) => (this.everyone = names ?? []) }];
    if (!this.conversations.size) this.#join(home, true);
    for (const room of rooms) this.#join(room, false);
    this.#changed();
  }

  // lost is for when the connection is.
  lost() {
    clearTimeout(this.#giveUp);
    this.#asked = [];
    this.#joining.clear();
    this.#leaving.clear();
    for (const conversation of this.conversations.values()) {
      conversation.joined = false;
      conversation.members = null;
    }
    this.#changed();
  }

  // receive takes in a line of the server.
  receive(line) {
    const said = parse(line);
    switch (said.kind) {
      case "inRoom":
      case "joined":
      case "left":
        if (this.#joining.has(said.room)) this.#joining.get(said.room).push(said);
        else if (!this.#leaving.has(said.room)) this.#hear(said);
        break;
      case "direct":
        this.#add(this.#conversation(said.from), { from: said.from, text: said.text, time: Date.now() });
        break;
      case "names":
        this.#answer(said.names);
        break;
      case "alreadyIn": // as with a login that was taken over; the answer of who is there comes next
        break;
      case "notIn":
      case "unheard":
        this.problem = said.text;
        this.conversations.get(said.about)?.add({ note: `not delivered: ${said.text}`, time: Date.now(), bad: true });
        break;
      case "tooFast": // perhaps it was the question of which an answer is awaited
        this.problem = said.text;
        clearTimeout(this.#giveUp);
        this.#giveUp = setTimeout(() => this.#askNext(), askAgainAfter);
        break;
      case "error":
        this.problem = said.text;
        break;
      default:
        this.problem = `The server says: ${said.text}`;
    }
    this.#changed();
  }

  // #hear takes in what is said or done in a room.
  #hear(said) {
    const conversation = this.#conversation(said.room);
    if (!conversation.joined) { // by an earlier login, which was taken over
      conversation.joined = true;
      this.refresh(said.room);
    }
    if (said.kind === "joined") conversation.members?.add(said.who);
    if (said.kind === "left") conversation.members?.delete(said.who);
    this.#add(conversation, { ...this.#shown(said), time: Date.now() });
  }

  // #shown returns what of a line is shown.
  #shown({ kind, from, text, who, room }) {
    if (kind === "inRoom") return { from, text };
    return { note: who === this.me ? `you ${kind} ${room}` : `${who} ${kind}` };
  }

  // join opens a room, and joins it if the user is not in it.
  join(room) {
    if (!room.startsWith("#")) room = "#" + room;
    check(room);
    if (this.conversations.get(room)?.joined) this.open(room);
    else this.#join(room, true);
  }

  // #join joins a room. The server repeats what was said there, and maybe that the user had
  // joined it before; it is over when the answer comes of who is there.
  #join(room, open) {
    if (!this.#send(`/join ${room}`)) throw notConnected();
    this.#joining.set(room, []);
    this.ask(room, (names) => {
      const lines = this.#joining.get(room);
      this.#joining.delete(room);
      if (!lines || (names && !names.includes(this.me))) return; // there was an error, which is shown
      const conversation = this.#conversation(room);
      conversation.joined = true;
      conversation.members = names && new Set(names);
      if (open || !this.current) this.open(room);
      const now = lines.findLastIndex(({ kind, who }) => kind === "joined" && who === this.me);
      const early = lines.slice(0, Math.max(0, now)).filter(({ who }) => who !== this.me);
      for (const message of conversation.missed(early.map((said) => this.#shown(said)))) this.#add(conversation, message);
      for (const said of lines.slice(Math.max(0, now))) this.#hear(said);
    });
  }

  // ask asks the server who is in a room, or who is logged in if room is "". Answers do not
  // tell what was asked, so it is one at a time. Names are undefined if there is no answer.
  ask(room, done = (names) => this.#know(room, names)) {
    this.#askedAt.set(room, Date.now());
    if (this.#asked.push({ room, done }) === 1) this.#askNext();
  }

  // refresh asks, unless it was asked just now.
  refresh(room) {
    if (Date.now() - (this.#askedAt.get(room) ?? 0) > knownFor) this.ask(room);
  }

  #askNext() {
    if (!this.#asked.length) return;
    this.#send(`/who ${this.#asked[0].room}`.trim());
    this.#giveUp = setTimeout(() => this.#answer(), answerWithin);
  }

  #answer(names) {
    clearTimeout(this.#giveUp);
    this.#asked.shift()?.done(names);
    this.#askNext();
  }

  #know(room, names) {
    if (!names) return;
    const conversation = this.conversations.get(room);
    if (conversation?.joined) conversation.members = new Set(names);
    if (!room) this.everyone = names;
  }

  // open shows a conversation, which may be new.
  open(name) {
    this.problem = "";
    this.current = this.#conversation(name);
    this.current.touched = Date.now();
    this.refresh(this.current.isRoom ? name : "");
    this.#changed();
  }

  // close leaves a room, or ends a conversation with a user.
  close(name) {
    const conversation = this.conversations.get(name);
    if (conversation ? conversation.joined : isRoom(name)) {
      if (!this.#send(`/leave ${name}`)) throw notConnected();
      this.#leaving.add(name);
      this.ask(name, () => this.#leaving.delete(name));
    }
    if (!conversation) return;
    const order = [...this.rooms, ...this.directs];
    const at = order.indexOf(conversation);
    this.conversations.delete(name);
    if (conversation === this.current) {
      this.current = null;
      const next = order[at + 1] ?? order[at - 1];
      if (next) this.open(next.name);
    }
    this.#changed();
  }

  // say does what the user has typed, or throws the Problem with it.
  say(typed) {
    this.problem = "";
    const text = typed.trim();
    if (text.startsWith("/")) return this.#command(text.split(/\s+/), text);
    if (!this.current) throw new Problem("No conversation is open: join a room, such as /join #lobby.");
    this.#speak(this.current, text);
  }

  #command([verb, first, ...rest], text) {
    switch (verb) {
      case "/join":
        if (!first) throw new Problem("Which room? Type /join #room.");
        return this.join(first);
      case "/leave":
        if (!first && !this.current) throw new Problem("Which room? Type /leave #room.");
        return this.close(first ?? this.current.name);
      case "/who":
        if (first) check(first);
        return this.ask(first ?? "", (names) => {
          this.#know(first ?? "", names);
          const note = `${first ? `in ${first}` : "logged in"}: ${names?.join(", ") || "nobody"}`;
          this.current?.add({ note, time: Date.now() });
        });
      case "/msg":
        if (!rest.length) throw new Problem("To whom, and what? Type /msg name text.");
        this.open(first);
        return this.#speak(this.current, text.slice(text.indexOf(first, verb.length) + first.length));
      case "/stall":
        if (!this.#send(`/stall ${first ?? ""}`)) throw notConnected();
        return;
      default:
        throw new Problem(`There is no command ${verb}. The button ? lists them all.`);
    }
  }

  // #speak sends each line of text as a message, and shows it: the server repeats no message
  // to its sender.
  #speak(conversation, text) {
    const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
    if (lines.length > maxLines) throw new Problem(`These are more than ${maxLines} lines: send fewer at once.`);
    for (const line of lines) {
      if (!this.#send(`${conversation.name}: ${line}`)) throw notConnected();
      this.#add(conversation, { from: this.me, text: line, time: Date.now() });
    }
    this.#changed();
  }

  // #conversation returns one that may be new. Strangers can begin any number: the one that
  // was quiet for longest makes room.
  #conversation(name) {
    let conversation = this.conversations.get(name);
    if (conversation) return conversation;
    const directs = this.directs.filter((c) => c !== this.current);
    if (!isRoom(name) && directs.length >= keptDirects) {
      const oldest = directs.reduce((a, b) => (b.touched < a.touched ? b : a));
      this.conversations.delete(oldest.name);
    }
    conversation = new Conversation(name);
    this.conversations.set(name, conversation);
    return conversation;
  }

  #add(conversation, message) {
    conversation.touched = Date.now();
    if (message.from && message.from !== this.me && !(conversation === this.current && this.seen)) {
      if (!conversation.unread++) conversation.unreadFrom = conversation.total;
    }
    conversation.add(message);
  }
}

function check(room) {
  if (!isRoom(room)) throw new Problem("A room is # and 1 to 32 letters (a-z), digits, _, - or .");
}

const notConnected = () => new Problem("There is no connection at the moment. What you typed stays here until you send it again.");

const byName = (a, b) => (a.name < b.name ? -1 : 1);
