package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/sendq-go/sendq/internal/missing"
)

// Two tabs of a real browser show what one posts. They lose their connections, come back, and show
// what they have missed.
func TestPage(t *testing.T) {
	browser := startChromium(t)
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			f, server := serve(t, version)
			alice, bob := open(t, browser, server.URL), open(t, browser, server.URL)
			protocol := map[string]string{"HTTP/1.1": "http/1.1", "HTTP/2.0": "h2"}[version]
			for _, p := range []*tab{alice, bob} {
				p.until(`document.querySelector("#state").innerText == "connected"`)
				p.until(`performance.getEntriesByType("navigation")[0].nextHopProtocol == %q`, protocol)
			}
			alice.do(chromedp.SendKeys(chromedp.CSS("input"), "hello <b>bob</b>"), chromedp.Click(chromedp.CSS("button")))
			want := []string{"hello <b>bob</b>"}
			alice.shows(want)
			bob.shows(want)

			for name := range f.broker.Names() {
				if w, ok := f.broker.Lookup(name); ok && name != "archive" {
					require.NoError(t, w.CloseNow())
				}
			}
			for i := range 3 {
				want = append(want, fmt.Sprint("missed ", i))
				f.publish(want[len(want)-1])
			}
			alice.shows(want)
			bob.shows(want)

			alice.close()
			require.Eventually(t, func() bool { return f.broker.Len() == 2 }, patience, patience/1000)
		})
	}
}

// startChromium starts a browser without a window.
func startChromium(t *testing.T) context.Context {
	path, err := exec.LookPath("chromium")
	if err != nil {
		path, err = exec.LookPath("google-chrome")
	}
	if err != nil {
		missing.Skip(t, "chromium, from the package of that name, or Chrome")
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("ignore-certificate-errors", true))...)
	t.Cleanup(cancel)
	ctx, _ = chromedp.NewContext(ctx)
	t.Cleanup(func() {
		require.NoError(t, chromedp.Cancel(ctx))
	})
	require.NoError(t, chromedp.Do(ctx))
	return ctx
}

// A tab shows the page.
type tab struct {
	t     *testing.T
	ctx   context.Context
	close func()
}

func open(t *testing.T, browser context.Context, url string) *tab {
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	t.Cleanup(cancel)
	require.NoError(t, chromedp.Do(ctx)) // opens it, until ctx ends
	p := &tab{t, ctx, cancel}
	p.do(chromedp.Navigate(url))
	return p
}

func (p *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	require.NoError(p.t, chromedp.Do(ctx, actions...))
}

// until waits until a condition holds.
func (p *tab) until(format string, args ...any) {
	p.t.Helper()
	condition := fmt.Sprintf(format, args...)
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	_, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`new Promise((done) => {
		const look = () => (`+condition+`) ? done(true) : setTimeout(look, 10);
		look();
	})`, chromedp.EvalAwaitPromise))
	if err != nil {
		shown, _ := chromedp.Run(p.ctx, chromedp.Evaluate[string](`document.body.innerText`))
		require.NoError(p.t, err, "%s\nThe page shows:\n%s", condition, shown)
	}
}

// shows waits until the page shows exactly these events.
func (p *tab) shows(want []string) {
	p.t.Helper()
	text, err := json.Marshal(strings.Join(want, "|"))
	require.NoError(p.t, err)
	p.until(`[...document.querySelectorAll("#events li")].map((item) => item.textContent).join("|") == %s`, text)
}
