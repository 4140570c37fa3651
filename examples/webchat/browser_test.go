package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/missing"
)

// TestPage uses the page and the status page as people do, in a Chromium without a window. Each step
// waits for the page to show something. A page fails if it writes an error to the console, for example
// for a violation of the Content-Security-Policy.
func TestPage(t *testing.T) {
	t.Parallel()
	c := startChromium(t)
	for name, test := range map[string]func(*testing.T){
		"Talk":         c.testTalk,
		"Markup":       c.testMarkup,
		"ManyMessages": c.testManyMessages,
		"Restart":      c.testRestart,
		"Keyboard":     c.testKeyboard,
		"Looks":        c.testLooks,
		"Stall":        c.testStall,
		"Away":         c.testAway,
		"Lines":        c.testLines,
		"Kills":        c.testKills,
		"Offline":      c.testOffline,
		"HalfOpen":     c.testHalfOpen,
		"Deaf":         c.testDeaf,
		"Quiet":        c.testQuiet,
		"Missing":      c.testMissing,
		"Reload":       c.testReload,
		"Forgotten":    c.testForgotten,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// testTalk: two browsers and a TCP user talk in two rooms and directly.
func (c *chromium) testTalk(t *testing.T) {
	p := start(t)
	carol, bob := c.open(t, p.page, desk), c.open(t, p.page, desk)
	carol.login("carol")
	carol.until(`list("#names") == "carol, you"`)
	bob.login("bob")
	dave := login(p.dial(), "dave")
	dave.say("/join #lobby")
	expect(t, dave, "* carol joined #lobby", "* bob joined #lobby", "* dave joined #lobby")
	for _, tab := range []*tab{carol, bob} {
		tab.until(`text("#log").includes("dave joined")`)
		tab.until(`text("#people-title") == "In #lobby · 3"`)
	}
	carol.until(`list("#names") == "bob, carol, you, dave"`)

	carol.say("hello all")
	expect(t, dave, "from carol in #lobby: hello all")
	bob.until(`messages() == "carol: hello all"`)
	dave.say("#lobby: hi carol")
	for _, tab := range []*tab{carol, bob} {
		tab.until(`messages() == "carol: hello all, dave: hi carol"`)
	}

	// In another room. Users elsewhere see a count of unread messages.
	carol.click("#room")
	carol.insert("go")
	carol.press(kb.Enter)
	carol.until(`text("#title") == "#go"`)
	bob.say("/join #go")
	bob.until(`text("#title") == "#go"`)
	carol.until(`text("#log").includes("bob joined")`)
	bob.say("gophers here?")
	carol.until(`messages() == "bob: gophers here?"`)
	dave.say("#lobby: where is everybody?")
	carol.until(`list("#rooms") == "#go, #lobby, 1" && document.title.startsWith("(1) #go")`)
	carol.click("#rooms li:last-child button")
	carol.until(`messages() == "carol: hello all, dave: hi carol, dave: where is everybody?" && text("#log").includes("New")`)
	carol.until(`list("#rooms") == "#go, #lobby" && document.title.startsWith("#lobby")`)

	// Directly.
	bob.click("#names [data-key=carol] button")
	bob.until(`text("#title") == "carol"`)
	bob.say("just for you")
	carol.until(`list("#directs") == "bob, 1"`)
	carol.click("#directs button")
	carol.until(`messages() == "bob: just for you"`)
	carol.say("/msg dave are you there?")
	expect(t, dave, "from carol: are you there?")
	dave.say("carol: yes")
	carol.until(`text("#title") == "dave" && messages() == "carol: are you there?, dave: yes"`)
	carol.say("/msg nobody hello")
	carol.until(`text("#problem") == "No such user: nobody" && text("#log").includes("not delivered")`)

	// A late user sees the last messages. Everyone sees when users leave.
	erin := c.open(t, p.page, desk)
	erin.login("erin")
	erin.until(`messages() == "carol: hello all, dave: hi carol, dave: where is everybody?"`)
	dave.say("/leave #lobby")
	erin.until(`text("#log").includes("dave left")`)
	bob.click("#quit")
	bob.until(`visible("#name") && !text("#login-problem")`)
	erin.until(`text("#log").includes("bob left") && list("#names") == "carol, erin, you"`)
	erin.click("#everyone")
	erin.until(`list("#names") == "carol, dave, erin, you"`)
}

// testMarkup: the page shows markup as text, and runs no part of it.
func (c *chromium) testMarkup(t *testing.T) {
	p := start(t)
	carol := c.open(t, p.page, desk)
	carol.login("carol")
	mallory := login(p.dial(), "mallory")
	mallory.say("/join #lobby", "/join #x")
	expect(t, mallory, "* carol joined #lobby", "* mallory joined #lobby", "* mallory joined #x")
	const markup = `<img src=x onerror="document.body.dataset.ran = 1"><b>bold</b><script>document.body.dataset.ran = 1</script>`
	shown, _ := json.Marshal("mallory: " + markup)

	mallory.say("#lobby: "+markup, "carol: "+markup)
	carol.until(`messages() == %s && list("#directs") == "mallory, 1"`, shown)
	carol.click("#directs button")
	carol.until(`text("#title") == "mallory" && messages() == %s`, shown)
	carol.say("/join #x")
	carol.until(`text("#title") == "#x"`)
	mallory.say("#x: " + markup)
	carol.until(`messages() == %s`, shown)
	carol.say(markup)
	carol.until(`messages().endsWith(%s)`, strings.Replace(string(shown), "mallory", "carol", 1))
	carol.until(`!document.body.dataset.ran && !document.querySelector("#log img, #log p b, #log script")`)
}

// testManyMessages: the page keeps the last messages of a conversation, and does not scroll while the
// user reads older ones.
func (c *chromium) testManyMessages(t *testing.T) {
	p := start(t, "-rate", "0")
	carol := c.open(t, p.page, desk)
	carol.login("carol")
	dave := login(p.dial(), "dave")
	dave.say("/join #lobby")
	for i := range 2500 {
		dave.say(fmt.Sprint("#lobby: message ", i))
	}
	carol.until(`messages().endsWith("dave: message 2499")`)
	carol.until(`document.querySelector("#log").childElementCount == 1000`)
	carol.until(`document.querySelector("#log").scrollTop > 1000 && !visible("#newest")`)

	carol.eval(`document.querySelector("#log").scrollTop = 500`)
	dave.say("#lobby: one more")
	carol.until(`messages().endsWith("dave: one more") && visible("#newest")`)
	carol.until(`document.querySelector("#log").scrollTop < 1000`)
	carol.click("#newest")
	carol.until(`document.querySelector("#log").scrollTop > 1000 && !visible("#newest")`)
}

// testRestart: the page reports the loss of its server, and comes back by itself.
func (c *chromium) testRestart(t *testing.T) {
	p := start(t)
	carol, bob := c.open(t, p.page, desk), c.open(t, p.page, desk)
	carol.login("carol")
	bob.login("bob")
	for _, tab := range []*tab{carol, bob} {
		tab.say("/join #go")
		tab.until(`text("#title") == "#go"`)
		tab.mayLose = true
	}
	carol.say("before")
	bob.until(`messages() == "carol: before"`)

	p.stop()
	carol.until(`text("#link").includes("Connection lost, trying again")`)
	carol.say("too early")
	carol.until(`waiting() == "too early" && messages() == "carol: before"`)
	again := start(t, "-http", strings.TrimPrefix(p.page, "http://"))
	for _, tab := range []*tab{carol, bob} {
		tab.until(`!text("#link") && text("#title") == "#go"`)
		tab.until(`list("#rooms") == "#go, #lobby" && list("#names").includes("bob") && list("#names").includes("carol")`)
	}
	for _, tab := range []*tab{carol, bob} {
		tab.until(`messages() == "carol: before, carol: too early" && text("#log").includes("messages may be missing here")`)
	}

	// After the loss of one connection, each message comes once, whether missed or not.
	dave := login(again.dial(), "dave")
	dave.say("/join #go")
	bob.until(`text("#log").includes("dave joined")`)
	bob.eval(`socket.close()`)
	bob.until(`text("#link").includes("Connection lost")`)
	dave.say("#go: missed")
	bob.until(`!text("#link") && messages() == "carol: before, carol: too early, dave: missed"`)
}

// testKeyboard: a mouse is not needed.
func (c *chromium) testKeyboard(t *testing.T) {
	p := start(t)
	dave := login(p.dial(), "dave")
	dave.say("/join #lobby")
	expect(t, dave, "* dave joined #lobby")

	tab := c.open(t, p.page, desk)
	tab.until(`focused("#name")`)
	tab.insert("dave")
	tab.press(kb.Enter)
	tab.until(`text("#login-problem").includes("The login dave is taken") && focused("#name")`)
	tab.eval(`document.activeElement.select()`)
	tab.insert("carol")
	tab.press(kb.Enter)
	tab.until(`text("#title") == "#lobby" && focused("#text")`)
	expect(t, dave, "* carol joined #lobby")
	tab.insert("/join #go")
	tab.press(kb.Enter)
	tab.until(`text("#title") == "#go"`)

	tab.insert("a draft")
	tab.press("2", kb.ModifierAlt)
	tab.until(`text("#title") == "#lobby" && focused("#text") && document.querySelector("#text").value == ""`)
	tab.insert("by key")
	tab.press(kb.Enter)
	expect(t, dave, "from carol in #lobby: by key")
	tab.press(kb.ArrowUp, kb.ModifierAlt)
	tab.until(`text("#title") == "#go" && document.querySelector("#text").value == "a draft"`)

	// To somebody in a list, by Tab and the arrow keys.
	tab.press("2", kb.ModifierAlt)
	tab.until(`list("#names") == "carol, you, dave"`)
	for !tab.eval(`focused("#names button")`) {
		tab.press(kb.Tab)
	}
	tab.press(kb.Enter)
	tab.until(`text("#title") == "dave" && focused("#text")`)
	tab.insert("psst")
	tab.press(kb.Enter)
	expect(t, dave, "from carol: psst")

	// Escape closes the help.
	tab.insert("/help")
	tab.press(kb.Enter)
	tab.until(`visible("#help")`)
	tab.press(kb.Escape)
	tab.until(`!visible("#help")`)
}

// testLooks: nothing is wider than the page, on a phone and on a desk.
func (c *chromium) testLooks(t *testing.T) {
	p := start(t)
	dave := login(p.dial(), "dave")
	const room, name = "#a-room-with-a-name-of-32-letters", "a-name-that-has-32-letters-in-it"
	dave.say("/join #lobby", "/join "+room)
	for _, look := range []look{phone, desk} {
		tab := c.open(t, p.page, look)
		tab.picture("login")
		tab.login(name)
		dave.say("#lobby: Did anybody see the new build? It is on the board behind the door.",
			"#lobby: "+strings.Repeat("longword", 30), name+": a word in your ear")
		tab.until(`text("#log").includes("longword") && $("#directs li")`)
		tab.say("Yes, it looks good.")
		tab.say("/frob")
		tab.until(`text("#problem").startsWith("There is no command /frob")`)
		tab.picture("chat")
		tab.say("/join " + room)
		tab.until(`text("#title") == %q`, room)
		if look == phone {
			for _, drawer := range []string{"conversations", "people"} {
				tab.click("#show-" + drawer)
				tab.until(`visible("#%s") && document.activeElement.id == %[1]q`, drawer)
				tab.picture(drawer)
				tab.click("#" + drawer + " .close")
				tab.until(`!visible("#%s") && focused("#show-%[1]s")`, drawer)
			}
		}
		tab.click("#show-help")
		tab.until(`visible("#help")`)
		tab.picture("help")
		tab.press(kb.Escape)
		tab.say("/quit")
		tab.until(`visible("#name")`)
	}
}

// testStall: the status page shows the backlog of a stalled user, and their end as a slow consumer.
// Others get their messages.
func (c *chromium) testStall(t *testing.T) {
	p := start(t, "-demo")
	status, bob, carol := c.open(t, p.page+"/status", phone), c.open(t, p.page, desk), c.open(t, p.page, desk)
	status.until(`text("#link") == "Live" && visible("#demo")`)
	bob.login("bob")
	carol.login("carol")
	bob.say("/stall 60")

	row := `document.querySelector("#backlogs [data-name=bob]")`
	status.until(`%s && text("#backlogs .stalled") == "stalled" && !visible("#backlogs .away") && text("#backlogs .size").endsWith("of 256 KiB")`, row)
	status.until(`parseFloat(%s.querySelector(".bar i").style.width) > 30`, row)
	status.picture("status")
	status.become(desk)
	status.picture("status")
	carol.until(`text("#log").includes("so much to say")`)

	dave := login(p.dial(), "dave")
	for range 9 { // the robot takes longer to fill the queue
		dave.say("bob: " + strings.Repeat("x", 30_000))
	}
	status.until(`text("#slow_consumer td") == "1" && !%s`, row)
	bob.until(`text("#log").split("you joined #lobby").length == 3 && !text("#link")`) // back again
	dave.say("carol: as ever")
	carol.until(`list("#directs") == "dave, 1"`)
}

// testAway: the status page shows users without a connection, and what waits for them.
func (c *chromium) testAway(t *testing.T) {
	p := start(t, "-resume")
	status, alice, bob := c.open(t, p.page+"/status", desk), login(p.dial(), "alice"), login(p.dial(), "bob")
	status.until(`text("#connections") == "2" && text("#away") == "0"`)
	bob.Close()
	status.until(`text("#connections") == "1" && text("#away") == "1" && text("#names") == "2"`)
	alice.say("bob: hi")
	row := `document.querySelector("#backlogs [data-name=bob]")`
	status.until(`%s && visible("#backlogs .away") && !visible("#backlogs .stalled")`, row)
	status.picture("away")
}

// testLines: the page understands each line of the server.
func (c *chromium) testLines(t *testing.T) {
	p := start(t)
	tab := c.open(t, p.page, desk)
	for line, want := range map[string]string{
		"from carol: hi\n":                    `{"kind":"direct","from":"carol","text":"hi"}`,
		"from carol: in #go: hi":              `{"kind":"direct","from":"carol","text":"in #go: hi"}`,
		"from carol in #go: from bob: hi":     `{"kind":"inRoom","from":"carol","room":"#go","text":"from bob: hi"}`,
		"from carol in #go: line\u2028of two": `{"kind":"inRoom","from":"carol","room":"#go","text":"line\u2028of two"}`,
		"* carol joined #go":                  `{"kind":"joined","who":"carol","room":"#go"}`,
		"* carol left #go":                    `{"kind":"left","who":"carol","room":"#go"}`,
		"names: a, b.c, d-e":                  `{"kind":"names","names":["a","b.c","d-e"]}`,
		"names: ":                             `{"kind":"names","names":[]}`,
		"* your key is SECRET":                `{"kind":"key","key":"SECRET"}`,
		"* back: 17 lines":                    `{"kind":"back","lines":"17"}`,
		"* back: lines are missing":           `{"kind":"back"}`,
		"* carol is away":                     `{"kind":"away","who":"carol"}`,
		"* carol is back":                     `{"kind":"returned","who":"carol"}`,
		"error: already in #go":               `{"kind":"alreadyIn","room":"#go"}`,
		"error: not in #go":                   `{"kind":"notIn","text":"not in #go","about":"#go"}`,
		"error: no such user: bob":            `{"kind":"unheard","text":"no such user: bob","about":"bob"}`,
		"error: bob has just left":            `{"kind":"unheard","text":"bob has just left","about":"bob"}`,
		"error: whatever: else":               `{"kind":"error","text":"whatever: else"}`,
		"from somebody else: hi":              `{"kind":"unknown","text":"from somebody else: hi"}`,
		"":                                    `{"kind":"unknown","text":""}`,
	} {
		quoted, _ := json.Marshal(line)
		got, err := chromedp.Run(tab.ctx, chromedp.Evaluate[string](
			fmt.Sprintf(`import("/lines.js").then(({parse}) => JSON.stringify(parse(%s)))`, quoted), chromedp.EvalAwaitPromise))
		require.NoError(t, err)
		require.JSONEq(t, want, got)
	}
}

// A chromium is a browser without a window.
type chromium struct{ ctx context.Context }

func startChromium(t *testing.T) *chromium {
	path, err := exec.LookPath("chromium")
	if err != nil {
		path, err = exec.LookPath("google-chrome")
	}
	if err != nil {
		missing.Skip(t, "chromium, from the package of that name, or Chrome")
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))...)
	t.Cleanup(cancel)
	ctx, _ = chromedp.NewContext(ctx)
	t.Cleanup(func() {
		require.NoError(t, chromedp.Cancel(ctx))
	})
	require.NoError(t, chromedp.Do(ctx))
	return &chromium{ctx}
}

// A look is a size and a colour scheme.
type look struct {
	name          string
	width, height int64
}

var (
	phone = look{"phone", 360, 740}
	desk  = look{"desk", 1280, 800}
)

// A tab shows a page to a user without other tabs.
type tab struct {
	t       *testing.T
	ctx     context.Context
	look    look
	console iter.Seq2[chromedp.ConsoleMessage, error]
	mayLose bool // its server
}

func (c *chromium) open(t *testing.T, url string, l look) *tab { return c.openWith(t, url, l, "") }

// openWith opens a page that runs a script first.
func (c *chromium) openWith(t *testing.T, url string, l look, script string) *tab {
	ctx, cancel := chromedp.NewContext(c.ctx, chromedp.WithNewBrowserContext())
	require.NoError(t, chromedp.Do(ctx))
	b := &tab{t: t, ctx: ctx, console: chromedp.Console(ctx)}
	t.Cleanup(func() {
		defer cancel()
		b.checkConsole()
	})
	b.become(l)
	_, err := chromedp.Call(ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: `
		window.links = 0;
		window.sent = [];
		window.WebSocket = class extends WebSocket {
			constructor(url) { super(url); window.socket = this; links++; } // so that a test can close it
			send(line) { super.send(line); sent.push(line); }
		};` + script})
	require.NoError(t, err)
	b.do(chromedp.Navigate(url))
	return b
}

// lostLink is what the console says of a connection that is lost, or given up.
var lostLink = regexp.MustCompile(`ERR_(CONNECTION_|INTERNET_DISCONNECTED|NETWORK_|SOCKET_NOT_CONNECTED|EMPTY_RESPONSE)|closed before the connection is established`)

// checkConsole fails if there was an error.
func (b *tab) checkConsole() {
	const end = "that is all"
	b.eval(`console.log("` + end + `")`)
	for m, err := range b.console {
		require.NoError(b.t, err)
		switch {
		case m.Text == end:
			return
		case b.mayLose && lostLink.MatchString(m.Text):
		case m.Type == chromedp.ConsoleError, m.Type == chromedp.ConsoleException, m.Type == chromedp.ConsoleWarning:
			b.t.Errorf("in the console: %v", m)
		}
	}
}

// become changes the look of the page.
func (b *tab) become(l look) {
	b.look = l
	b.prefer("light")
	b.do(chromedp.EmulateViewport(l.width, l.height))
}

func (b *tab) prefer(scheme string) {
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}})
	require.NoError(b.t, err)
}

func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	require.NoError(b.t, chromedp.Do(ctx, actions...))
}

// tools are functions for conditions.
const tools = `
	const $ = (selector) => document.querySelector(selector);
	const visible = (selector) => $(selector)?.checkVisibility({visibilityProperty: true}) ?? false;
	const text = (selector) => visible(selector) ? $(selector).innerText : "";
	const focused = (selector) => document.activeElement.matches(selector);
	const list = (selector) => [...$(selector).querySelectorAll("span")].filter((e) => !e.hidden).map((e) => e.innerText).join(", ");
	const messages = () => [...document.querySelectorAll("#log .message:not(.waiting)")]
		.map((m) => m.querySelector(".from").textContent + ": " + m.querySelector(".text").textContent).join(", ");
	const numbers = () => [...document.querySelectorAll("#log .message:not(.own) .text")].map((m) => m.textContent);
	const isComplete = (last, all = numbers()) => all.join() == Array.from({length: last}, (_, i) => i + 1).join();
	const waiting = () => [...document.querySelectorAll("#log .waiting .text")].map((m) => m.textContent).join(", ");
`

// eval returns whether an expression is true.
func (b *tab) eval(expression string) bool {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	is, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`(() => {`+tools+` return Boolean(`+expression+`)})()`))
	require.NoError(b.t, err, expression)
	return is
}

// until waits until a condition holds.
func (b *tab) until(format string, args ...any) {
	b.t.Helper()
	condition := fmt.Sprintf(format, args...)
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	_, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`new Promise((done) => {`+tools+`
		const look = () => (`+condition+`) ? done(true) : setTimeout(look, 10);
		look();
	})`, chromedp.EvalAwaitPromise))
	if err != nil {
		shown, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.body.innerText`))
		require.NoError(b.t, err, "%s\nThe page shows:\n%s", condition, shown)
	}
}

func (b *tab) click(selector string) {
	b.t.Helper()
	b.do(chromedp.Click(chromedp.CSS(selector)))
}

// insert types a text into the element with the focus.
func (b *tab) insert(text string) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, input.InsertText, input.InsertTextParams{Text: text})
	require.NoError(b.t, err)
}

// press presses one key.
func (b *tab) press(key string, modifiers ...chromedp.Modifier) {
	b.t.Helper()
	for _, event := range kb.Encode([]rune(key)[0]) {
		chromedp.KeyModifiers(modifiers...)(event)
		switch {
		case event.Type == kb.KeyChar:
			continue // insert types characters
		case event.Type == kb.KeyDown && key == kb.Enter:
			event.Text = key // otherwise forms do not take it as Enter
		}
		_, err := chromedp.Call(b.ctx, input.DispatchKeyEvent, *event)
		require.NoError(b.t, err)
	}
}

// login logs in, and returns when the user is in the lobby.
func (b *tab) login(name string) {
	b.t.Helper()
	b.until(`focused("#name")`)
	b.insert(name)
	b.click("#enter")
	b.until(`text("#title") == "#lobby" && text("#log").includes("you joined #lobby")`)
}

// say types a line.
func (b *tab) say(line string) {
	b.t.Helper()
	b.do(chromedp.Focus(chromedp.CSS("#text")))
	b.eval(`$("#text").select()`) // replaces the old text
	b.insert(line)
	b.press(kb.Enter)
}

// picture checks that nothing is outside of the page. It takes pictures, in light and dark, into the
// directory SCREENSHOTS, if that variable is set.
func (b *tab) picture(name string) {
	b.t.Helper()
	b.until(`document.scrollingElement.scrollWidth <= innerWidth && innerWidth == %d`, b.look.width)
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	for _, scheme := range []string{"dark", "light"} {
		b.prefer(scheme)
		png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
		require.NoError(b.t, err)
		file := fmt.Sprintf("%s-%s-%s.png", name, b.look.name, scheme)
		require.NoError(b.t, os.WriteFile(filepath.Join(dir, file), png, 0o644))
	}
}
