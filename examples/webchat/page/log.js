// The log shows the messages of one conversation. It follows the newest message unless the user has
// scrolled back. Texts are never markup.

const shown = 1_000; // messages at most

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

export class Log {
  #element;
  #newest; // the button back to the newest message
  #conversation = null;
  #drawn = 0; // the number of the next message to show
  #last = null; // the message shown last
  #waiting = []; // the elements of waiting messages
  #following = true; // the newest message stays in sight

  constructor(element, newest) {
    this.#element = element;
    this.#newest = newest;
    newest.onclick = () => this.#follow();
    element.onscroll = () => {
      const { scrollHeight, scrollTop, clientHeight } = element;
      this.#following = scrollHeight - scrollTop - clientHeight < 40;
      if (this.#following) newest.hidden = true;
    };
    // For example, the keyboard of a phone comes up.
    new ResizeObserver(() => this.#following && this.#follow()).observe(element);
  }

  // show draws the new messages of the conversation, or all if another one was shown before. A line
  // marks the first unread message. Messages that wait for a connection are last. The user is me.
  show(conversation, me) {
    for (const element of this.#waiting) element.remove();
    const fresh = conversation !== this.#conversation || conversation.unread > 0;
    if (fresh) {
      // A screen reader should read new messages only.
      this.#element.setAttribute("aria-live", "off");
      this.#element.replaceChildren();
      this.#conversation = conversation;
      this.#last = null;
      this.#drawn = 0;
      this.#following = true;
      this.#newest.hidden = true;
    }
    const { messages, total } = conversation;
    this.#drawn = Math.max(this.#drawn, total - shown, total - messages.length);
    const added = document.createDocumentFragment();
    for (; this.#drawn < total; this.#drawn++) {
      const message = messages[messages.length - (total - this.#drawn)];
      if (conversation.unread && this.#drawn === conversation.unreadFrom) {
        added.append(make("div", "new", "New"));
        this.#last = null;
      }
      added.append(this.#draw(message, me));
      this.#last = message;
    }
    conversation.unread = 0;
    this.#waiting = conversation.waiting.map((text) => this.#draw({ from: me, text, waits: true }, me));
    added.append(...this.#waiting);
    if (!added.childElementCount) return;
    this.#element.append(added);
    while (this.#element.childElementCount > shown) this.#element.firstElementChild.remove();
    if (this.#following) this.#follow();
    else this.#newest.hidden = false;
    if (fresh) setTimeout(() => this.#element.setAttribute("aria-live", "polite"), 100);
  }

  #draw(message, me) {
    const { from, text, note, time, bad, waits } = message;
    if (note) {
      const line = make("div", bad ? "note bad" : "note", note);
      line.append(" ", stamp(time));
      return line;
    }
    const entry = make("div", "message");
    entry.classList.toggle("own", from === me);
    entry.classList.toggle("waiting", Boolean(waits));
    entry.classList.toggle("goes-on", !waits && this.#goesOn(message));
    const head = make("div", "head");
    head.append(make("b", "from", from), " ", waits ? make("span", "time", "not sent yet") : stamp(time));
    const body = make("p", "text", text);
    body.dir = "auto";
    entry.append(head, body);
    return entry;
  }

  // #goesOn reports whether a message continues the one before it.
  #goesOn({ from, time }) {
    return this.#last?.from === from && !(time - this.#last.time > 5 * 60_000);
  }

  #follow() {
    this.#newest.hidden = true;
    this.#element.scrollTop = this.#element.scrollHeight;
  }
}

// stamp shows a time. A message without a time is from before the user came.
function stamp(time) {
  if (!time) return make("span", "time", "earlier");
  const element = make("time", "time", clock.format(time));
  element.dateTime = new Date(time).toISOString();
  element.title = calendar.format(time);
  return element;
}

// make makes an element with a class and a text.
export function make(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}
