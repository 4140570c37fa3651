// A link is a connection to the server that comes back by itself when it is lost.

const firstPause = 500; // milliseconds, before the first try to come back
const longestPause = 10_000;

// A connection that lasted so long was a good one: after it, the pauses are short again. After
// so many in a row that were not, it is given up: somebody else may be fighting for the name.
const goodAfter = 10_000;
const mostBad = 5;

// How long a login may be refused to a user who comes back. The server may believe for a
// minute that the lost connection is still there, and the name taken.
const patience = 90_000;

// connect logs in as name. It calls, as things happen,
//   on.up()          the user is logged in, for the first time or again
//   on.line(line)    what the server has said since
//   on.lost(why)     the connection is lost, and the link tries again; why may be ""
//   on.ended(why)    it does not try again: the user has left (why is ""), or was refused
// and returns {send, close}.
export function connect(name, on) {
  const url = location.origin.replace(/^http/, "ws") + "/ws";
  let socket, timer;
  let pause = firstPause;
  let upSince; // of this connection, when the user was logged in
  let lostSince; // undefined while nothing is lost
  let known = false; // the user has been logged in before
  let bad = 0; // connections in a row
  let leaving = false;

  function dial() {
    clearTimeout(timer);
    removeEventListener("online", dial);
    upSince = undefined;
    let refusal = "";
    const mine = (socket = new WebSocket(url));
    // A login has no answer of its own, but that of the next line shows that it is done.
    mine.onopen = () => {
      mine.send(name);
      mine.send("/who");
    };
    mine.onmessage = ({ data }) => {
      if (!upSince && data.startsWith("error: ")) {
        refusal = data.slice("error: ".length).trim();
        return;
      }
      if (!upSince) {
        upSince = Date.now();
        lostSince = undefined;
        known = true;
        on.up();
      }
      on.line(data);
    };
    mine.onclose = ({ reason }) => closed(refusal, reason);
  }

  function closed(refusal, reason) {
    if (leaving) return on.ended("");
    if (!known) return on.ended(refusal || reason || "The server cannot be reached.");
    lostSince ??= Date.now();
    if (refusal && Date.now() - lostSince > patience) return on.ended(refusal);
    if (upSince) {
      const good = Date.now() - upSince > goodAfter;
      if (good) pause = firstPause;
      bad = good ? 0 : bad + 1;
      if (bad === mostBad) return on.ended("The connection is lost again and again. Are you logged in elsewhere?");
    }
    timer = setTimeout(dial, pause * (0.5 + Math.random() / 2)); // not all at once
    addEventListener("online", dial, { once: true });
    pause = Math.min(2 * pause, longestPause);
    on.lost(refusal || reason);
  }

  dial();
  return {
    // send sends a line, or returns false if there is no connection.
    send(line) {
      if (!upSince || socket.readyState !== WebSocket.OPEN) return false;
      socket.send(line);
      return true;
    },
    // close says goodbye, so that the server delivers what is queued, and closes.
    close() {
      leaving = true;
      if (this.send("/quit")) {
        timer = setTimeout(() => socket.close(), 3_000); // a server that is there has closed by then
        return;
      }
      clearTimeout(timer);
      removeEventListener("online", dial);
      socket.onclose = null;
      socket.close();
      on.ended("");
    },
  };
}
