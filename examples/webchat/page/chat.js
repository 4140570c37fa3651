// The model of a chat: conversations, their members, and the effects of the server's lines. It knows
// nothing of the page.

import { isRoom } from "./lines.js";

const keptMessages = 1_000; // in each conversation, the last ones
const keptDirects = 50; // conversations with users, the most recent ones
const answerWithin = 60_000; // milliseconds
const askAgainAfter = 1_500; // milliseconds after the server has refused a line
const knownFor = 2_000; // milliseconds before the server is asked again
const confirmAfter = 2_000; // milliseconds after a message that nothing has confirmed
const restWithin = 5_000; // milliseconds for the lines that follow a break of unknown length
const maxLines = 20; // sent at once
const nowhere = "#-"; // a room with few members, so that the answer to /who is short
const home = "#lobby"; // the first room of every user

// A Conversation is with the members of a room, or with one user.
class Conversation {
  messages = []; // {from, text, time} or {note, time, bad}; replayed ones have no time
  total = 0; // messages so far
  unread = 0; // messages that the user has not seen
  unreadFrom = 0; // the number of the first unread message
  touched = 0; // the time of the last message
  draft = ""; // unsent text
  waiting = []; // texts that are sent when there is a connection
  joined = false; // the server has confirmed that the user is in the room
  members = null; // a Set of names, if known; null for a user

  constructor(name) {
    this.name = name;
    this.isRoom = isRoom(name);
  }

  add(message) {
    this.messages.push(message);
    this.total++;
    // Not at each message, because it moves them all.
    if (this.messages.length > 1.1 * keptMessages) this.messages = this.messages.slice(-keptMessages);
  }

  // missed returns the messages that are not here yet. The server replays the last messages to users
  // who come back.
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

// A Problem tells the user why the text they typed could not be sent or obeyed.
export class Problem extends Error {}

// A Chat has the conversations of one user. It sends with send(line), which returns false without a
// connection, and calls changed() after each change.
export class Chat {
  conversations = new Map(); // by name
  current = null; // the Conversation that is open
  everyone = []; // all names at the last answer, sorted
  problem = ""; // the last Problem
  seen = true; // the user sees the current conversation

  #send;
  #changed;
  #joining = new Map(); // room to its lines since the user asked to join
  #leaving = new Set(); // rooms that may still send lines
  #asked = []; // {room, done, on, after}: each /who without an answer; room is "" for everyone
  #askedAt = new Map(); // room to the time of its last /who
  #giveUp; // the timer of the first /who
  #connection = 0; // the number of the last login
  #behind = 0; // lines of earlier connections that have yet to come
  #rest; // the timer for such lines of unknown number
  #unconfirmed = []; // {conversation, text}: sent, and perhaps lost
  #confirm; // the timer of the /who that confirms them
  #away = new Set(); // names

  constructor(me, send, changed) {
    this.me = me;
    this.#send = send;
    this.#changed = changed;
  }

  // rooms and directs are the conversations, in the order of the page.
  get rooms() {
    return [...this.conversations.values()].filter((c) => c.isRoom).sort(byName);
  }
  get directs() {
    return [...this.conversations.values()].filter((c) => !c.isRoom).sort(byName);
  }

  // save returns what the Chat in the next life of the page needs to go on.
  save() {
    return {
      me: this.me,
      current: this.current?.name,
      everyone: this.everyone,
      away: [...this.#away],
      conversations: [...this.conversations.values()].map((c) => ({ ...c, members: c.members && [...c.members] })),
      unconfirmed: this.#unconfirmed.map(({ conversation, text }) => ({ name: conversation.name, text })),
    };
  }

  // restore goes on with what save has returned.
  restore({ current, everyone, away, conversations, unconfirmed }) {
    for (const saved of conversations) {
      const members = saved.members && new Set(saved.members);
      this.conversations.set(saved.name, Object.assign(new Conversation(saved.name), saved, { members }));
    }
    this.current = this.conversations.get(current) ?? null;
    this.everyone = everyone;
    this.#away = new Set(away);
    this.#unconfirmed = unconfirmed.map(({ name, text }) => ({ conversation: this.#conversation(name), text }));
  }

  // up is called after a login, with the link's answer to how the user is back.
  up(back) {
    this.problem = "";
    this.#connection++;
    this.#behind = Number(back?.lines ?? 0);
    if (back?.lines) { // the user is still in the same rooms
      if (!this.#behind) this.#caughtUp();
      return this.#changed();
    }
    const rooms = this.rooms.map((room) => room.name);
    this.#note("messages may be missing here");
    this.#doubt();
    if (back) this.#rest = setTimeout(() => this.#askAgain(), restWithin);
    else this.#forget();
    if (!this.conversations.size) this.#join(home, true);
    for (const room of rooms) this.#join(room, false);
    this.#flush();
    this.#changed();
  }

  // #forget forgets what was true on the connection before. The user is in no room.
  #forget() {
    this.#joining.clear();
    this.#leaving.clear();
    for (const conversation of this.conversations.values()) {
      conversation.joined = false;
      conversation.members = null;
    }
    // The link has sent this /who, to see whether the login is done.
    this.#asked = [{ room: "", on: this.#connection, after: 0, done: (names) => (this.everyone = names ?? []) }];
  }

  // #caughtUp is called when all lines of earlier connections are here, and so are the answers.
  #caughtUp() {
    this.#askAgain();
    this.#doubt();
    this.#flush();
  }

  // #askAgain repeats a question that the server has not heard on an earlier connection.
  #askAgain() {
    if (!this.#asked.length || this.#asked[0].on === this.#connection) return;
    for (const room of this.#joining.keys()) this.#send(`/join ${room}`);
    this.#askNext();
  }

  // #doubt tells the user which messages the server may not have heard.
  #doubt() {
    for (const { conversation, text } of this.#unconfirmed.splice(0)) {
      conversation.add({ note: `perhaps not delivered: ${text}`, time: Date.now(), bad: true });
    }
  }

  // #note adds a note to all conversations.
  #note(note) {
    for (const conversation of this.conversations.values()) conversation.add({ note, time: Date.now(), bad: true });
  }

  // lost is called when the connection is lost.
  lost() {
    clearTimeout(this.#giveUp);
    clearTimeout(this.#rest);
    clearTimeout(this.#confirm);
    this.#confirm = undefined;
    this.#changed();
  }

  // quiet makes the server send names, unless it is about to.
  quiet() {
    if (!this.#asked.length) this.ask(nowhere);
  }

  // receive handles a line of the server.
  receive(said) {
    this.#handle(said);
    if (this.#behind && !--this.#behind) this.#caughtUp();
    this.#changed();
  }

  #handle(said) {
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
      case "away":
      case "returned":
        this.#move(said);
        break;
      case "names":
        this.#answer(said.names);
        break;
      case "alreadyIn": // after a takeover; the answer to /who comes next
        break;
      case "notIn":
      case "unheard":
        this.problem = said.text;
        this.conversations.get(said.about)?.add({ note: `not delivered: ${said.text}`, time: Date.now(), bad: true });
        break;
      case "tooFast": // the refused line may be the /who
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
  }

  // #hear handles a message, a join or a leave in a room.
  #hear(said) {
    const conversation = this.#conversation(said.room);
    if (!conversation.joined) { // an earlier login joined, and was taken over
      conversation.joined = true;
      this.refresh(said.room);
    }
    if (said.kind === "joined") conversation.members?.add(said.who);
    if (said.kind === "left") conversation.members?.delete(said.who);
    this.#add(conversation, { ...this.#shown(said), time: Date.now() });
  }

  // #move notes that a user has lost their connection, or is back.
  #move({ kind, who }) {
    if (this.#away.has(who) === (kind === "away")) return; // each room they are in says so
    if (kind === "away") this.#away.add(who);
    else this.#away.delete(who);
    const note = kind === "away" ? `${who} has lost the connection` : `${who} is back`;
    for (const conversation of this.conversations.values()) {
      if (conversation.members?.has(who) || conversation.name === who) conversation.add({ note, time: Date.now() });
    }
  }

  // #shown returns a line as a message.
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

  // #join joins a room. The server replays the room's last lines, perhaps with earlier joins of the
  // user. The replay ends before the answer to /who.
  #join(room, open) {
    if (!this.#send(`/join ${room}`)) throw notConnected();
    this.#joining.set(room, []);
    this.ask(room, (names) => {
      const lines = this.#joining.get(room);
      this.#joining.delete(room);
      if (!lines || (names && !names.includes(this.me))) return; // an error, and the page shows it
      const conversation = this.#conversation(room);
      conversation.joined = true;
      conversation.members = names && new Set(names);
      if (open || !this.current) this.open(room);
      const now = lines.findLastIndex(({ kind, who }) => kind === "joined" && who === this.me);
      const early = lines.slice(0, Math.max(0, now)).filter(({ who }) => who !== this.me);
      for (const message of conversation.missed(early.map((said) => this.#shown(said)))) this.#add(conversation, message);
      for (const said of lines.slice(Math.max(0, now))) this.#hear(said);
      this.#flush();
    });
  }

  // ask asks for the names in a room, or for all names if room is "". It asks one question at a time,
  // because answers do not name their question. Names are undefined if no answer comes.
  ask(room, done = (names) => this.#know(room, names)) {
    this.#askedAt.set(room, Date.now());
    if (this.#asked.push({ room, done }) === 1) this.#askNext();
  }

  // refresh asks, unless it asked a moment ago.
  refresh(room) {
    if (Date.now() - (this.#askedAt.get(room) ?? 0) > knownFor) this.ask(room);
  }

  #askNext() {
    clearTimeout(this.#giveUp);
    const [question] = this.#asked;
    if (!question || this.#behind) return; // the answer to an earlier question may have yet to come
    question.after = this.#unconfirmed.length;
    if (this.#send(`/who ${question.room}`.trim())) question.on = this.#connection;
    this.#giveUp = setTimeout(() => this.#answer(), answerWithin);
  }

  #answer(names) {
    if (names && !this.#asked[0]?.on) return; // the question was asked before a reload
    const question = this.#asked.shift();
    if (names) this.#unconfirmed.splice(0, question?.after); // the server has heard them before the question
    question?.done(names);
    this.#askNext();
  }

  #know(room, names) {
    if (!names) return;
    const conversation = this.conversations.get(room);
    if (conversation?.joined) conversation.members = new Set(names);
    if (!room) this.everyone = names;
  }

  // open shows a conversation, old or new.
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

  // say sends or obeys the typed text, or throws a Problem.
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
        if (!rest.length) throw new Problem("The name or the text is missing. Type /msg name text.");
        this.open(first);
        return this.#speak(this.current, text.slice(text.indexOf(first, verb.length) + first.length));
      case "/stall":
        if (!this.#send(`/stall ${first ?? ""}`)) throw notConnected();
        return;
      default:
        throw new Problem(`There is no command ${verb}. The button ? lists all commands.`);
    }
  }

  // #speak sends each line of text as a message, now or when there is a connection.
  #speak(conversation, text) {
    const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
    if (lines.length > maxLines) throw new Problem(`Send at most ${maxLines} lines at once.`);
    const waiting = [...this.conversations.values()].reduce((sum, c) => sum + c.waiting.length, 0);
    if (waiting + lines.length > maxLines) throw new Problem(`Without a connection, at most ${maxLines} lines can wait.`);
    conversation.waiting.push(...lines);
    this.#flush();
    this.#changed();
  }

  // #flush sends the waiting messages. It shows them, because the server does not send them back.
  #flush() {
    if (this.#behind) return;
    for (const conversation of this.conversations.values()) {
      const { name, waiting } = conversation;
      if (this.#joining.has(name)) continue;
      while (waiting.length && this.#send(`${name}: ${waiting[0]}`)) {
        const text = waiting.shift();
        this.#unconfirmed.push({ conversation, text });
        this.#add(conversation, { from: this.me, text, time: Date.now() });
        this.#confirm ??= setTimeout(() => {
          this.#confirm = undefined;
          this.ask(nowhere);
        }, confirmAfter);
      }
    }
  }

  // #conversation returns a conversation, old or new. Strangers can begin any number, so the one with
  // the longest silence makes room.
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

const notConnected = () => new Problem("There is no connection at the moment. Try again later.");

const byName = (a, b) => (a.name < b.name ? -1 : 1);
