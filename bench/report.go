//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// A table is what a section has found out.
type table struct {
	name  string // in the markers of README.md
	title string
	head  []string
	rows  [][]string
	notes []string // what a reader must know to understand it, a sentence each
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// markdown writes the table, and under it what it was measured on.
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

// replaceBlocks returns readme with what stands between the markers
//
//	<!-- bench:NAME -->
//	<!-- /bench -->
//
// replaced by the block of that name. Markers of other names keep what they have: their
// section was not measured this time.
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
