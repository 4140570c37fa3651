// A link is a connection to the server. When it is lost, it comes back by itself. If the server has
// given the user a key, the link counts lines, so that the server can send those that are missing.

import { parse } from "./lines.js";

// In milliseconds. A test may set others.
const times = {
  firstPause: 500, // between two attempts
  longestPause: 10_000,

  // A connection is good if it lasts this long. After a good one, the pauses are short again.
  goodAfter: 10_000,

  // The link tries again this long when its login is refused. For a minute, the server may not notice
  // the loss of the old connection, and the name is taken.
  patience: 90_000,

  quiet: 60_000, // without a line, until the link asks whether the server is there
  answer: 10_000, // for an answer to that, to a line of the user, and to a login
  ...globalThis.linkTimes,
};

// Without a key, the link gives up after this many bad connections in a row, because somebody else may
// be fighting for the name.
const mostBad = 5;

// connect logs in as name. It calls
//   on.up(back)      the user is logged in. back is undefined, unless the user goes on where the last
//                    connection broke. Then back.lines lines follow; it is undefined if some are gone
//   on.line(said)    the server has sent a line after the login
//   on.quiet()       nothing was heard for some time; this must make the server send names
//   on.lost(why)     the connection is lost, and the link tries again; why may be ""
//   on.ended(why)    the link does not try again: the user has left (why is ""), or was refused
// A session is what session() has returned in an earlier life of the page. It returns {send, close,
// session}.
export function connect(name, on, session) {
  const url = location.origin.replace(/^http/, "ws") + "/ws";
  const events = new AbortController();
  let socket; // undefined between two connections
  let timer; // of the next step: an attempt, a question, or the end of a connection without an answer
  let expecting, asking; // nothing has answered a line of the user, or a question of the link
  let pause = times.firstPause;
  let upSince; // the time of the login on this connection
  let lostSince; // undefined while there is a connection
  let known = Boolean(session); // the user has been logged in before
  let keyFits = true; // the server has not refused the key just now
  let bad = 0; // bad connections in a row
  let leaving = false;

  function dial() {
    const mine = (socket = new WebSocket(url));
    const resumes = session && keyFits;
    let lines = 0;
    let counts = false; // the lines are those of the session
    let refusal = "";
    upSince = undefined;
    deadline(times.answer, drop);
    mine.onopen = () => {
      if (resumes) return mine.send(`${name} ${session.key} ${session.lines} ${session.returns}`);
      // A login may have no answer. The answer to /who shows that it is done.
      mine.send(name);
      mine.send("/who");
    };
    mine.onmessage = ({ data }) => {
      lines++;
      if (!upSince && data.startsWith("error: ")) {
        refusal = data.slice("error: ".length).trim();
        return;
      }
      const said = parse(data);
      if (said.kind === "key") session = { key: said.key, returns: 0 };
      if (said.kind === "back") session.returns++;
      counts ||= said.kind === "key" || said.kind === "back";
      if (counts) session.lines = lines;
      // Another line may have been on its way when the connection died.
      if (said.kind === "names") expecting = asking = false;
      if (!leaving) listen();
      if (!upSince) {
        if (!resumes && !counts) session = undefined; // this server gives no keys
        upSince = Date.now();
        lostSince = undefined;
        known = keyFits = true;
        on.up(said.kind === "back" ? said : undefined);
      }
      if (said.kind !== "key" && said.kind !== "back") on.line(said);
    };
    mine.onclose = ({ reason }) => {
      if (refusal) keyFits = !resumes; // a refused key is followed by a login without, and the other way round
      closed(refusal, reason);
    };
  }

  function deadline(time, step) {
    clearTimeout(timer);
    timer = setTimeout(step, time);
  }

  // listen waits for the next line.
  function listen() {
    if (asking) deadline(times.answer, drop);
    else deadline(expecting ? times.answer : times.quiet, ask);
  }

  // ask asks the server for names. Without an answer the connection is dead, although nobody has closed it.
  function ask() {
    if (asking) return;
    asking = true;
    listen();
    on.quiet();
  }

  // drop gives up the connection. It does not wait for a dead one to close.
  function drop() {
    detach();
    closed("", "the server does not answer");
  }

  function detach() {
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close();
  }

  function closed(refusal, reason) {
    const wasUp = upSince;
    socket = upSince = undefined;
    expecting = asking = false;
    if (leaving) return end("");
    if (!known) return end(refusal || reason || "The server cannot be reached.");
    lostSince ??= Date.now();
    if (refusal && Date.now() - lostSince > times.patience) return end(refusal);
    if (wasUp) {
      const good = Date.now() - wasUp > times.goodAfter;
      if (good) pause = times.firstPause;
      bad = good ? 0 : bad + 1;
      if (bad >= mostBad && !session) return end("The connection breaks again and again. Are you logged in elsewhere?");
    }
    deadline(pause * (0.5 + Math.random() / 2), dial); // so that users do not come back all at once
    pause = Math.min(2 * pause, times.longestPause);
    on.lost(refusal || reason);
  }

  function end(why) {
    clearTimeout(timer);
    events.abort();
    on.ended(why);
  }

  // wake is called when the network has come or gone, and when the user looks at the page again,
  // perhaps after a sleep of the machine.
  function wake() {
    if (leaving) return;
    if (!socket) {
      clearTimeout(timer);
      dial();
    } else if (upSince) ask();
  }
  addEventListener("online", wake, events);
  addEventListener("offline", wake, events);
  document.addEventListener("visibilitychange", () => document.hidden || wake(), events);

  dial();
  return {
    // send sends a line. It returns false without a connection.
    send(line) {
      if (!upSince || socket.readyState !== WebSocket.OPEN) return false;
      socket.send(line);
      if (!expecting && !asking) {
        expecting = true;
        listen();
      }
      return true;
    },
    // close says goodbye, so that the server delivers the queue before it closes.
    close() {
      const told = this.send("/quit");
      leaving = true;
      if (told) return deadline(3_000, drop); // in case the server is gone
      if (socket) detach();
      end("");
    },
    // session returns what the next life of the page needs to go on, or undefined.
    session: () => session,
  };
}
