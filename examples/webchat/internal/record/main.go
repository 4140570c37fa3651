// Command record makes docs/stall.gif, the moving picture of the README:
//
//	go run ./examples/webchat/internal/record
//
// It runs webchat -demo, shows its pages side by side in Chromium, and plays the story of stage.html
// there. One of the users types /stall 30.
package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/png"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/chromedp/chromedp"
)

const (
	width, height = 840, 440
	pace          = 200 * time.Millisecond // between two frames
	longest       = time.Minute            // bounds the recording
)

//go:embed stage.html
var stage []byte

func main() {
	file := flag.String("o", "docs/stall.gif", "write the picture to this `file`")
	flag.Parse()
	if err := run(*file); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func run(file string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*longest)
	defer cancel()
	dir, err := os.MkdirTemp("", "record")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	chat, stop, err := startChat(ctx, dir)
	if err != nil {
		return err
	}
	defer stop()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	go http.Serve(l, handler(chat))

	frames, err := record(ctx, dir, "http://"+l.Addr().String()+"/stage")
	if err != nil {
		return err
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(encode(out, frames), out.Close())
}

// startChat starts webchat -demo, and returns the URL of its page and a function that stops it.
func startChat(ctx context.Context, dir string) (*url.URL, func(), error) {
	program := filepath.Join(dir, "webchat")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/sendq-go/sendq/examples/webchat")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("%w: %s", err, out)
	}
	cmd := exec.CommandContext(ctx, program, "-demo", "-addr", "127.0.0.1:0", "-http", "127.0.0.1:0")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	stop := func() {
		cmd.Process.Kill()
		cmd.Wait()
	}
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if page, found := strings.CutPrefix(lines.Text(), "page at "); found {
			at, err := url.Parse(page)
			return at, stop, err
		}
	}
	stop()
	return nil, nil, errors.New("webchat did not say where its page is")
}

// handler serves the stage, and the pages of the chat for its frames. The chat itself forbids frames.
func handler(chat *url.URL) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stage", func(w http.ResponseWriter, _ *http.Request) { w.Write(stage) })
	mux.Handle("/", &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(chat)
			r.Out.Host = r.In.Host // the chat compares it with the origin of a WebSocket
		},
		ModifyResponse: func(r *http.Response) error {
			r.Header.Del("Content-Security-Policy")
			return nil
		},
		FlushInterval: -1,
	})
	return mux
}

// A frame is a picture, and the time from it to the next.
type frame struct {
	image.Image
	lasts time.Duration
}

// record plays the story of the stage, and returns its pictures.
func record(ctx context.Context, dir, stage string) ([]frame, error) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		path, err = exec.LookPath("google-chrome")
	}
	if err != nil {
		return nil, err
	}
	ctx, cancel := chromedp.NewExecAllocator(ctx, append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path),
		chromedp.UserDataDir(filepath.Join(dir, "profile")), chromedp.NoSandbox, chromedp.DisableGPU)...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, height), chromedp.Navigate(stage)); err != nil {
		return nil, err
	}
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`prepare().then(() => true)`, chromedp.EvalAwaitPromise)); err != nil {
		return nil, err
	}
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`play(), true`)); err != nil {
		return nil, err
	}

	var frames []frame
	start, last := time.Now(), time.Now()
	for tick := time.NewTicker(pace); ; <-tick.C {
		shot, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
		if err != nil {
			return nil, err
		}
		now := time.Now()
		if len(frames) > 0 {
			frames[len(frames)-1].lasts = now.Sub(last)
		}
		last = now
		picture, err := png.Decode(bytes.NewReader(shot))
		if err != nil {
			return nil, err
		}
		frames = append(frames, frame{picture, pace})
		done, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`document.title === "done"`))
		switch {
		case err != nil:
			return nil, err
		case done:
			return frames, nil
		case time.Since(start) > longest:
			return nil, errors.New("the story does not end")
		}
	}
}
