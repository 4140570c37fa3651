//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// A table is a result of a section.
type table struct {
	name  string // in the markers of README.md
	title string
	head  []string
	rows  [][]string
	notes []string // sentences needed to understand the table
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// markdown writes the table, its notes and the origin of its figures.
func (t *table) markdown(w io.Writer, origin string) {
	fmt.Fprintf(w, "**%s**\n\n", t.title)
	fmt.Fprintf(w, "| %s |\n|%s\n", strings.Join(t.head, " | "), " --- |"+strings.Repeat(" ---: |", len(t.head)-1))
	for _, row := range t.rows {
		fmt.Fprintf(w, "| %s |\n", strings.Join(row, " | "))
	}
	fmt.Fprintln(w)
	for _, note := range slices.Concat(t.notes, []string{origin}) {
		fmt.Fprintf(w, "%s\n", note)
	}
}

// short is markdown without the notes. They are in RESULTS.md.
func (t table) short(w io.Writer, origin string) {
	t.notes = nil
	t.markdown(w, origin)
}

// replaceBlocks returns readme with the text between the markers
//
//	<!-- bench:NAME -->
//	<!-- /bench -->
//
// replaced by the block of that name. Markers without a block keep their text, because their
// section was not measured in this run.
func replaceBlocks(readme string, blocks map[string]string) (string, error) {
	const begin, beginEnd, end = "<!-- bench:", " -->", "<!-- /bench -->"
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(readme, begin)
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		name, rest, found := strings.Cut(rest, beginEnd)
		if !found || strings.ContainsAny(name, "\n ") {
			return "", fmt.Errorf("a marker %q is not closed by %q", begin, beginEnd)
		}
		old, rest, found := strings.Cut(rest, end)
		if !found || strings.Contains(old, begin) {
			return "", fmt.Errorf("block %q does not end in %q", name, end)
		}
		if block, measured := blocks[name]; measured {
			old = "\n" + strings.TrimRight(block, "\n") + "\n"
		}
		b.WriteString(begin + name + beginEnd + old + end)
		readme = rest
	}
}
