// A link is a connection to the server. When it is lost, it comes back by itself.

const firstPause = 500; // milliseconds
const longestPause = 10_000;

// A connection is good if it lasts this long, in milliseconds. After a good one, the pauses are short
// again. After mostBad bad ones in a row, the link gives up, because somebody else may be fighting for
// the name.
const goodAfter = 10_000;
const mostBad = 5;

// The time that the link tries again when its login is refused, in milliseconds. For a minute, the
// server may not notice the loss of the old connection, and the name is taken.
const patience = 90_000;

// connect logs in as name. It calls
//   on.up()          the user is logged in, for the first time or again
//   on.line(line)    the server has sent a line after the login
//   on.lost(why)     the connection is lost, and the link tries again; why may be ""
//   on.ended(why)    the link does not try again: the user has left (why is ""), or was refused
// and returns {send, close}.
export function connect(name, on) {
  const url = location.origin.replace(/^http/, "ws") + "/ws";
  let socket, timer;
  let pause = firstPause;
  let upSince; // the time of the login on this connection
  let lostSince; // undefined while there is a connection
  let known = false; // the user has been logged in before
  let bad = 0; // bad connections in a row
  let leaving = false;

  function dial() {
    clearTimeout(timer);
    removeEventListener("online", dial);
    upSince = undefined;
    let refusal = "";
    const mine = (socket = new WebSocket(url));
    // A login has no answer. The answer to /who shows that it is done.
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
      if (bad === mostBad) return on.ended("The connection breaks again and again. Are you logged in elsewhere?");
    }
    timer = setTimeout(dial, pause * (0.5 + Math.random() / 2)); // so that users do not come back all at once
    addEventListener("online", dial, { once: true });
    pause = Math.min(2 * pause, longestPause);
    on.lost(refusal || reason);
  }

  dial();
  return {
    // send sends a line. It returns false without a connection.
    send(line) {
      if (!upSince || socket.readyState !== WebSocket.OPEN) return false;
      socket.send(line);
      return true;
    },
    // close says goodbye, so that the server delivers the queue before it closes.
    close() {
      leaving = true;
      if (this.send("/quit")) {
        timer = setTimeout(() => socket.close(), 3_000); // in case the server is gone
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
