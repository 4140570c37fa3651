// The log shows the messages of one conversation, and follows the newest of them unless the
// user has scrolled back. Texts are only ever put in as text.

const shown = 1_000; // messages at most

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

export class Log {
  #element;
  #newest; // the button that leads back to the newest message
  #conversation = null;
  #drawn = 0; // the number of the first message that is not shown yet
  #last = null; // the message shown last
  #following = true; // the newest message is, or should be, in sight

  constructor(element, newest) {
    this.#element = element;
    this.#newest = newest;
    newest.onclick = () => this.#follow();
    element.onscroll = () => {
      const { scrollHeight, scrollTop, clientHeight } = element;
      this.#following = scrollHeight - scrollTop - clientHeight < 40;
      if (this.#following) newest.hidden = true;
    };
    // As when the keyboard of a phone comes up.
    new ResizeObserver(() => this.#following && this.#follow()).observe(element);
  }

  // show draws what is new in the conversation, or all if another one was shown before. What
  // the user, who is me, has not seen begins with a line that says so.
  show(conversation, me) {
    const fresh = conversation !== this.#conversation || conversation.unread > 0;
    if (fresh) {
      // A screen reader reads what is added, but should not read all that is here.
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
    if (!added.childElementCount) return;
    this.#element.append(added);
    while (this.#element.childElementCount > shown) this.#element.firstElementChild.remove();
    if (this.#following) this.#follow();
    else this.#newest.hidden = false;
    if (fresh) setTimeout(() => this.#element.setAttribute("aria-live", "polite"), 100);
  }

  #draw(message, me) {
    const { from, text, note, time, bad } = message;
    if (note) {
      const line = make("div", bad ? "note bad" : "note", note);
      line.append(" ", stamp(time));
      return line;
    }
    const entry = make("div", "message");
    entry.classList.toggle("own", from === me);
    entry.classList.toggle("goes-on", this.#goesOn(message));
    const head = make("div", "head");
    head.append(make("b", "from", from), " ", stamp(time));
    const body = make("p", "text", text);
    body.dir = "auto";
    entry.append(head, body);
    return entry;
  }

  // #goesOn tells whether a message continues the one before it.
  #goesOn({ from, time }) {
    return this.#last?.from === from && !(time - this.#last.time > 5 * 60_000);
  }

  #follow() {
    this.#newest.hidden = true;
    this.#element.scrollTop = this.#element.scrollHeight;
  }
}

// stamp shows a time; one that is not known was before the user came.
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
