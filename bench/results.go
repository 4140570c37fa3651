//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// results are the results of all sections.
type results struct {
	origin string
	text   strings.Builder   // of RESULTS.md, after title
	blocks map[string]string // for README.md, by the name of the table
	charts []chart
}

const title = "# sendq compared with its rivals\n\nMeasured by the program in this directory, all in one run.\n"

func newResults(o origin) *results {
	r := &results{blocks: make(map[string]string), origin: fmt.Sprintf("sendq %s; %s; %s; `%s`; medians of %s; in brackets, the ratio to sendq.",
		o.revision, o.machine, o.date, o.command, plural(o.rounds, "round"))}
	return r
}

// add stores and prints the findings of a section.
func (r *results) add(name string, found findings, w io.Writer) {
	fmt.Fprintf(&r.text, "\n## %s\n", name)
	for _, t := range found.tables {
		var full, short strings.Builder
		t.markdown(&full, r.origin)
		t.short(&short, r.origin)
		fmt.Fprintf(&r.text, "\n%s", full.String())
		fmt.Fprintf(w, "%s\n", full.String())
		r.blocks[t.name] = short.String()
	}
	for _, c := range found.charts {
		fmt.Fprintf(&r.text, "\n![%s](%s)\n", c.title, c.file)
	}
	r.charts = append(r.charts, found.charts...)
}

// addGoals is add for the goals. They are known last but come first in RESULTS.md.
func (r *results) addGoals(found findings, w io.Writer) {
	sections := r.text.String()
	r.text.Reset()
	r.add("goals", found, w)
	r.text.WriteString(sections)
}

// write writes RESULTS.md and the plots to dir, and the tables between the markers of readme.
func (r *results) write(dir, readme string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "RESULTS.md"), []byte(title+r.text.String()), 0o666); err != nil {
		return err
	}
	for _, c := range r.charts {
		if err := c.drawTo(dir); err != nil {
			return err
		}
	}
	old, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	text, err := replaceBlocks(string(old), r.blocks)
	if err != nil {
		return fmt.Errorf("%s: %w", readme, err)
	}
	if text == string(old) {
		return nil
	}
	return os.WriteFile(readme, []byte(text), 0o666)
}
